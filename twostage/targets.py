"""What is to be predicted: check a target column, and turn it into numbers."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twostage.errors import DataError, UsageError

TASKS = ("auto", "classification", "regression")
_MOST_NUMERIC_CLASSES = 20
_LARGEST = 1e30  # squares of deviations must stay finite
_N_FOLDS = 5


@dataclass(frozen=True)
class Target:
    """A target as the head learns it.

    Attributes
    ----------
    task : {"classification", "regression"}
        What it is.
    y : array of shape (n_rows,)
        Class numbers, or values.
    classes : array of shape (n_classes,) or None
        The labels that the numbers stand for, sorted.
    note : str or None
        What was chosen where the values leave it open.
    """

    task: str
    y: np.ndarray
    classes: np.ndarray | None
    note: str | None = None

    @property
    def rare_classes(self) -> dict[str, int]:
        """The classes of fewer rows than there are folds, and how many rows they have."""
        if self.classes is None:
            return {}
        counts = np.bincount(self.y, minlength=len(self.classes))
        pairs = zip(self.classes.tolist(), counts.tolist(), strict=True)
        return {str(label): n for label, n in pairs if n < _N_FOLDS}

    @property
    def other_task(self) -> str:
        """The task that it is not."""
        return "regression" if self.task == "classification" else "classification"

    def check_taught(self, y: np.ndarray, what: str) -> None:
        """Refuse classes of which nothing is left to learn from.

        Parameters
        ----------
        y : array
            Class numbers of what is learned from.
        what : str
            What those are of: "image", "row".

        Raises
        ------
        DataError
            Naming the first such class.
        """
        classes = np.array([]) if self.classes is None else self.classes
        missing = np.setdiff1d(np.arange(len(classes)), y)
        if len(missing):
            raise DataError(
                f"{len(missing)} of {len(classes)} classes have no {what} left to learn from once "
                f"some are held back; first: '{classes[missing[0]]}'. Add {what}s of it, or merge "
                "or remove the class."
            )

    def take(self, rows: np.ndarray) -> "Target":
        """Return the target of some rows, by number."""
        return replace(self, y=self.y[rows])


def prepare_target(values: pd.Series, task: str = "auto", *, log_target: bool = False) -> Target:
    """Check a target column and turn it into numbers.

    Parameters
    ----------
    values : Series of length n_rows
        The column.
    task : {"auto", "classification", "regression"}
        "auto" takes numbers for values to regress on if some are not whole, or if there are more
        than 20 different ones; everything else for classes.
    log_target : bool
        Whether the logarithm will be learned.

    Raises
    ------
    DataError
        If values are missing, there is only one class, or they do not suit the task.
    """
    name = values.name
    if task not in TASKS:
        raise UsageError(f"task must be one of {', '.join(TASKS)}; found {task!r}.")
    if values.empty:
        raise DataError(f"Target '{name}' has no rows.")
    if values.isna().any():
        rows = np.flatnonzero(values.isna())
        raise DataError(
            f"{len(rows)} of {len(values)} rows have no value in target '{name}'; first: row "
            f"{rows[0] + 1}. Remove these rows or fill them in."
        )
    _check_kind(values)
    note = None
    if task == "auto":
        # whoever asks for the logarithm has numbers in mind
        is_classes = _looks_like_classes(values) and not (log_target and _is_number(values))
        task = "classification" if is_classes else "regression"
        note = _note_if_open(values, task)
    if task == "regression":
        return Target(task, _regression_values(values, log_target), None, note)
    if log_target:
        raise UsageError(f"--log-target needs a regression; target '{name}' holds classes.")
    return replace(_classes_of(values), note=note)


def _check_kind(values: pd.Series) -> None:
    """Refuse what can be neither classes nor values."""
    if values.dtype.kind in "mM":
        raise DataError(
            f"Target '{values.name}' holds dates. Turn them into numbers, or choose another target."
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        row = int(np.flatnonzero(~np.isfinite(values))[0])
        raise DataError(
            f"Target '{values.name}' holds an infinite value in row {row + 1}. Correct it, or "
            "remove the row."
        )


def _is_number(values: pd.Series) -> bool:
    dtype = values.dtype
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _note_if_open(values: pd.Series, task: str) -> str | None:
    """Say what was chosen for whole numbers of which there are few: they may be either."""
    n_different = values.nunique()
    if not _is_number(values) or not 3 <= n_different <= _MOST_NUMERIC_CLASSES:
        return None
    if not _looks_like_classes(values):
        return None
    taken = "classes" if task == "classification" else "numbers to regress on"
    return f"Target '{values.name}' holds {n_different} different whole numbers, taken as {taken}."


def _looks_like_classes(values: pd.Series) -> bool:
    if not _is_number(values):
        return True
    numbers = values.to_numpy(np.float64)
    is_whole = bool((numbers == np.floor(numbers)).all())
    return is_whole and len(np.unique(numbers)) <= _MOST_NUMERIC_CLASSES


def _regression_values(values: pd.Series, log_target: bool) -> np.ndarray:
    try:
        y = pd.to_numeric(values).to_numpy(np.float64)
    except (ValueError, TypeError) as error:
        raise DataError(
            f"Target '{values.name}' can't be regressed on: it holds text ({error}). Use "
            "--task classification, or correct the values."
        ) from error
    is_too_large = ~(np.abs(y) <= _LARGEST)
    if is_too_large.any():
        row = int(np.argmax(is_too_large))
        raise DataError(
            f"Target '{values.name}' holds an infinite or too large value in row {row + 1}: "
            f"{y[row]:g}. Use another unit, or remove the row."
        )
    if len(np.unique(y)) == 1:
        raise DataError(f"Target '{values.name}' is {y[0]:g} in all rows: nothing to learn.")
    if log_target and (y <= 0).any():
        row = int(np.flatnonzero(y <= 0)[0])
        raise DataError(
            f"--log-target needs positive values; target '{values.name}' is {y[row]:g} in row "
            f"{row + 1}. Leave --log-target out."
        )
    return y


def _fits_int(labels: np.ndarray) -> bool:
    return bool((np.abs(labels) < 2**53).all())


def _classes_of(values: pd.Series) -> Target:
    labels = values.to_numpy()
    if labels.dtype.kind == "f" and (labels == np.floor(labels)).all() and _fits_int(labels):
        labels = labels.astype(np.int64)
    elif labels.dtype.kind not in "biuf":
        labels = labels.astype(str)
    classes, y = np.unique(labels, return_inverse=True)
    if len(classes) == 1:
        raise DataError(
            f"Target '{values.name}' has one class only: {classes[0]} in all {len(y)} rows. "
            "Add rows of another class, or choose another target."
        )
    if len(classes) > len(y) / 2 and len(classes) > _MOST_NUMERIC_CLASSES:
        raise DataError(
            f"Target '{values.name}' has {len(classes)} different values in {len(y)} rows: too "
            "many for classes. Use --task regression for numbers, or choose another target."
        )
    return Target("classification", y, classes)
