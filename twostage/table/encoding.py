"""Turn table columns into numbers: scaled, one-hot, or encoded by the target."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder

from twostage.errors import DataError
from twostage.table.roles import CATEGORICAL, HIGH_CARDINALITY, NUMERIC, Column

LEAF_TYPES = {"scale": StandardScaler, "one_hot": OneHotEncoder, "target": TargetEncoder}
_N_FOLDS = 5
_LARGEST = 1e30  # squares of standardised values must stay finite in float64, values in float32


class TableEncoder:
    """Encoders of a table's columns, learned on training rows.

    Numeric columns are standardised and keep their missing values, which trees know how to use.
    Categories become one column each, missing values among them; those unseen at fit become
    zeros. A column of more than 30 categories is encoded by the target instead, cross-fitted so
    that no training row sees its own target, nor that of its group.

    Parameters
    ----------
    wiring : mapping of str to sequence of str
        Which columns go to which encoder: ``scale``, ``one_hot``, ``target``.
    leaves : mapping of str to fitted scikit-learn transformer
        The encoders, under the same keys.

    References
    ----------
    Micci-Barreca (2001), as in ``sklearn.preprocessing.TargetEncoder``.
    """

    def __init__(self, wiring: Mapping[str, Sequence[str]], leaves: Mapping[str, Any]):
        self.wiring = {key: list(columns) for key, columns in wiring.items()}
        self.leaves = dict(leaves)

    @classmethod
    def fit_transform(
        cls,
        frame: pd.DataFrame,
        columns: Sequence[Column],
        y: np.ndarray,
        *,
        is_classification: bool,
        random_state: int,
        groups: np.ndarray | None = None,
    ) -> tuple["TableEncoder", np.ndarray]:
        """Learn the encoders and encode the rows they are learned on.

        Parameters
        ----------
        frame : DataFrame of shape (n_rows, n_columns)
            The training rows.
        columns : sequence of Column
            Those whose role is numeric or categorical are encoded.
        y : array of shape (n_rows,)
            Class numbers or values.
        is_classification : bool
            What ``y`` is.
        random_state : int
            Of the folds in which categories are encoded by the target.
        groups : int array of shape (n_rows,), optional
            Rows of one group are in one fold: none is encoded with the target of its group.

        Returns
        -------
        encoder : TableEncoder
        features : float32 array of shape (n_rows, n_features)
        """
        wiring = _wire(columns)
        target_type = _target_type(y, is_classification)
        folds = _folds(len(frame), groups, random_state) if "target" in wiring else []
        leaves = {key: _make_leaf(key, target_type, folds) for key in wiring}
        features = [
            leaf.fit_transform(_input_of(key, frame, wiring[key]), y)
            for key, leaf in leaves.items()
        ]
        if "target" in leaves:
            leaves["target"].set_params(cv=_N_FOLDS)  # the folds have done their work
        return cls(wiring, leaves), _side_by_side(features, len(frame))

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Encode rows.

        Returns
        -------
        float32 array of shape (n_rows, n_features)

        Raises
        ------
        DataError
            If a numeric column holds something else.
        """
        features = [
            leaf.transform(_input_of(key, frame, self.wiring[key]))
            for key, leaf in self.leaves.items()
        ]
        return _side_by_side(features, len(frame))

    def feature_names(self) -> list[str]:
        """Return the name of each feature."""
        names: list[str] = []
        for key, leaf in self.leaves.items():
            names += [str(name) for name in leaf.get_feature_names_out(self.wiring[key])]
        return names


def _wire(columns: Sequence[Column]) -> dict[str, list[str]]:
    """Return which columns go to which encoder, by their roles alone."""
    encoder_of = {NUMERIC: "scale", CATEGORICAL: "one_hot", HIGH_CARDINALITY: "target"}
    wiring: dict[str, list[str]] = {key: [] for key in encoder_of.values()}
    for column in columns:
        if column.role in encoder_of:
            wiring[encoder_of[column.role]].append(column.name)
    return {key: names for key, names in wiring.items() if names}


def _target_type(y: np.ndarray, is_classification: bool) -> str:
    if not is_classification:
        return "continuous"
    return "binary" if len(np.unique(y)) == 2 else "multiclass"


def _folds(n_rows: int, groups: np.ndarray | None, random_state: int) -> list[Any]:
    rows = np.empty(n_rows)
    if groups is None or len(np.unique(groups)) < _N_FOLDS:
        splitter = KFold(_N_FOLDS, shuffle=True, random_state=random_state)
    else:
        splitter = GroupKFold(_N_FOLDS, shuffle=True, random_state=random_state)
    return list(splitter.split(rows, rows, groups))


def _make_leaf(key: str, target_type: str, folds: list[Any]) -> Any:
    options: dict[str, dict[str, Any]] = {
        "scale": {},
        "one_hot": {"handle_unknown": "ignore", "sparse_output": False},
        "target": {"target_type": target_type, "cv": folds},
    }
    return LEAF_TYPES[key](**options[key])


def _input_of(key: str, frame: pd.DataFrame, columns: Sequence[str]) -> np.ndarray:
    convert = numbers_in if key == "scale" else _categories
    return np.column_stack([convert(frame[name]) for name in columns])


def numbers_in(values: pd.Series) -> np.ndarray:
    """Return a numeric column as float64, NaN where it is missing.

    Raises
    ------
    DataError
        Naming the first row that holds no number, or one that is infinite or beyond 1e30.
    """
    if values.dtype.kind in "mM":
        raise DataError(
            f"Column '{values.name}' holds dates, not numbers. Make them numbers, or ignore it."
        )
    try:
        numbers = pd.to_numeric(values).to_numpy(dtype=np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        is_bad = pd.to_numeric(values, errors="coerce").isna() & values.notna()
        row = int(np.argmax(is_bad.to_numpy()))
        raise DataError(
            f"Column '{values.name}' is numeric, but row {row + 1} holds {values.iloc[row]!r}. "
            "Correct it, or make the column categorical when fitting."
        ) from error
    is_too_large = np.abs(numbers) > _LARGEST
    if is_too_large.any():
        row = int(np.argmax(is_too_large))
        raise DataError(
            f"Column '{values.name}' holds an infinite or too large value in row {row + 1}: "
            f"{numbers[row]:g}. Replace it by a number or leave it missing."
        )
    return np.asarray(numbers)


def _categories(values: pd.Series) -> np.ndarray:
    """Return a column as text, NaN where it is missing; 1, 1.0 and "1" are one category."""
    names = values.astype(object)
    text = [np.nan if pd.isna(value) else _category_name(value) for value in names]
    return np.array(text, dtype=object)


def _category_name(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _side_by_side(features: Sequence[np.ndarray], n_rows: int) -> np.ndarray:
    if not features:
        return np.empty((n_rows, 0), np.float32)
    side_by_side = np.clip(np.column_stack(features), -_LARGEST, _LARGEST)
    return np.asarray(side_by_side, np.float32)
