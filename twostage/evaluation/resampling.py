"""Cut rows into folds, once for all that is compared on them."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from twostage.errors import DataError, UsageError, listed
from twostage.splits import cross_folds
from twostage.table.dates import dates_in, format_of
from twostage.table.files import require_column
from twostage.targets import Target

_TRAIN, _TEST = "train", "test"


@dataclass(frozen=True)
class Resampling:
    """How rows are cut into training and test rows.

    Attributes
    ----------
    n_folds : int
        Folds of each repeat; of ``time`` the steps after the first part.
    n_repeats : int
        How often all rows are cut anew.
    time : str or None
        Column of numbers or dates: what came before trains, what follows is tested.
    split : str or None
        Column of fold names, or of ``train`` and ``test``.
    random_state : int
        Of the cuts; repeat number r uses ``random_state + r``.
    """

    n_folds: int = 5
    n_repeats: int = 1
    time: str | None = None
    split: str | None = None
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.n_folds < 2:
            raise UsageError(f"The number of folds is {self.n_folds}; give 2 or more.")
        if self.n_repeats < 1:
            raise UsageError(f"The number of repeats is {self.n_repeats}; give 1 or more.")
        if self.time and self.split:
            raise UsageError("Rows are cut by time or by a split column: give one of the two.")
        if self.n_repeats > 1 and (self.time or self.split):
            given = f"time column '{self.time}'" if self.time else f"split column '{self.split}'"
            raise UsageError(f"The {given} cuts the rows in one way only. Leave the repeats out.")


@dataclass(frozen=True)
class Fold:
    """Rows to train on, and rows to test on.

    Attributes
    ----------
    repeat, number : int
        Counted from 0.
    train, test : int arrays
        Row numbers, sorted. No group has rows in both.
    n_kin : int
        Rows that would train, but are left out: their group has rows in the test.
    n_unlearnable : int
        Rows that would be tested, but are not: training knows nothing of their class.
    """

    repeat: int
    number: int
    train: np.ndarray
    test: np.ndarray
    n_kin: int = 0
    n_unlearnable: int = 0


def make_folds(
    how: Resampling,
    frame: pd.DataFrame,
    target: Target,
    groups: np.ndarray,
    may_test: np.ndarray,
    may_train: np.ndarray,
) -> list[Fold]:
    """Cut rows into folds.

    Parameters
    ----------
    how : Resampling
        How.
    frame : DataFrame of shape (n_rows, n_columns)
        With the columns that ``how`` names.
    target : Target
        Of n_rows.
    groups : int array of shape (n_rows,)
        Rows of one group are never on both sides.
    may_test, may_train : bool arrays of shape (n_rows,)
        What a backbone has seen may not be tested. Groups that may not are whole groups.

    Returns
    -------
    list of Fold
        By repeat and number. Every class of a test occurs in its training rows: where one would
        not, its rows join the training or, of a time or split column, are not tested.

    Raises
    ------
    DataError
        If there are fewer groups or times than folds, a column does not hold what it must, or
        nothing is left to train or to test on.
    """
    if how.time or how.split:
        cuts = _cuts_by_time if how.time else _cuts_by_name
        given = enumerate(cuts(how, frame, may_test, may_train))
        return [_apart(number, *cut, target, groups) for number, cut in given]
    rows, always = np.flatnonzero(may_test), np.flatnonzero(may_train & ~may_test)
    _check_groups(len(np.unique(groups[rows])), how.n_folds)
    found = []
    for repeat in range(how.n_repeats):
        cut = cross_folds(
            target.y[rows],
            is_classification=target.classes is not None,
            groups=groups[rows],
            n_folds=how.n_folds,
            random_state=how.random_state + repeat,
        )
        for number, (train, test) in enumerate(cut):
            found.append(Fold(repeat, number, np.union1d(rows[train], always), rows[test]))
    return found


def _check_groups(n_groups: int, n_folds: int) -> None:
    if n_groups < n_folds:
        raise DataError(
            f"There are {n_groups} groups of rows to test on, fewer than the {n_folds} folds. Use "
            f"--folds {n_groups}, or another group column."
            if n_groups > 1
            else "All rows to test on are one group: nothing can be held out. Add rows of other "
            "groups, or choose another group column."
        )


def _cuts_by_time(
    how: Resampling, frame: pd.DataFrame, may_test: np.ndarray, may_train: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield a step's name, the rows before it and the rows in it."""
    times = _times(require_column(frame, str(how.time), "time"))
    ordered = np.sort(times[may_test])
    places = np.arange(1, how.n_folds + 1) * len(ordered) // (how.n_folds + 1)
    starts = ordered[places]
    n_steps = len(np.unique(starts[starts > ordered[0]]))
    if n_steps < how.n_folds:
        raise DataError(
            f"Column '{how.time}' has too few different times for {how.n_folds} folds with a past "
            f"each: they make {n_steps}. Use fewer --folds, or another column."
        )
    step = np.searchsorted(starts, times, side="right")
    for number in range(1, how.n_folds + 1):
        yield f"step {number}", may_train & (step < number), may_test & (step == number)


def _times(values: pd.Series) -> np.ndarray:
    """Return a column as numbers that grow with time."""
    missing = np.flatnonzero(values.isna())
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(values)} rows have no value in the time column "
            f"'{values.name}'; first: row {missing[0] + 1}. Remove these rows or fill them in."
        )
    if pd.api.types.is_numeric_dtype(values.dtype):
        return values.to_numpy(np.float64)
    return dates_in(values, format_of(values)).to_numpy().astype("datetime64[us]").astype(np.int64)


def _cuts_by_name(
    how: Resampling, frame: pd.DataFrame, may_test: np.ndarray, may_train: np.ndarray
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Yield a fold's name, the rows of the others and its rows."""
    values = require_column(frame, str(how.split), "split")
    missing = np.flatnonzero(values.isna())
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(values)} rows have no value in the split column "
            f"'{how.split}'; first: row {missing[0] + 1}. Remove these rows or fill them in."
        )
    names = values.astype(str).str.strip().str.lower().to_numpy(object)
    different = sorted(set(names))
    if {_TRAIN, _TEST} & set(different):
        if different != [_TEST, _TRAIN]:
            raise DataError(
                f"The split column '{how.split}' holds {listed(different)}. Give '{_TRAIN}' and "
                f"'{_TEST}' alone, or names of folds, each of which is tested once."
            )
        yield _TEST, may_train & (names == _TRAIN), may_test & (names == _TEST)
        return
    if not 2 <= len(different) <= 100:
        raise DataError(
            f"The split column '{how.split}' has {len(different)} different values; it takes 2 to "
            "100 names of folds, or 'train' and 'test'."
        )
    for name in different:
        yield f"fold '{name}'", may_train & (names != name), may_test & (names == name)


def _apart(
    number: int,
    name: str,
    is_train: np.ndarray,
    is_test: np.ndarray,
    target: Target,
    groups: np.ndarray,
) -> Fold:
    """Make a fold of a given cut: no group on both sides, no class in the test alone."""
    test, given = np.flatnonzero(is_test), np.flatnonzero(is_train)
    train = given[~np.isin(groups[given], groups[test])]
    is_learnable = np.ones(len(test), bool)
    if target.classes is not None:
        is_learnable = np.isin(target.y[test], target.y[train])
    kept = test[is_learnable]
    if not len(train) or not len(kept):
        raise DataError(_nothing_to_score(name, len(train), len(given) - len(train), len(test)))
    return Fold(0, number, train, kept, len(given) - len(train), len(test) - len(kept))


def _nothing_to_score(name: str, n_train: int, n_kin: int, n_test: int) -> str:
    kin = f", for {n_kin} are of groups that it tests" if n_kin else ""
    if n_train == 0:
        return (
            f"The {name} has no rows to train on{kin}. Cut the rows otherwise, or choose another "
            "group column."
        )
    if n_test == 0:
        return f"The {name} has no rows to test. Cut the rows otherwise."
    return (
        f"The {name} can't be scored: its {n_test} rows are all of classes that the {n_train} rows "
        f"to train on lack{kin}. Cut the rows otherwise, or use fewer folds."
    )
