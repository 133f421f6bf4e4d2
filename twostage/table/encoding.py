"""Turn table columns into numbers, as the recipe of a head wants them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from twostage.errors import ModelError
from twostage.opening.files import read_json
from twostage.recipes import Recipe
from twostage.saving import to_json
from twostage.table.categories import ByTarget, CategoryNumbers, OneHot, Ordinal
from twostage.table.date_parts import DateParts
from twostage.table.numbers import LARGEST, numbers_in
from twostage.table.part import Part, Training
from twostage.table.plain import BooleanColumns, NumericColumns
from twostage.table.roles import BOOLEAN, CATEGORICAL, DATE, NUMERIC, Column
from twostage.table.vocabulary import count_categories

__all__ = ["TableEncoder", "numbers_in"]
RECORD = "encoder.json"
MAX_ONE_HOT = 255
_NATIVE = "native"
# In the order of the features; category numbers come last.
_PARTS: dict[str, type[Part]] = {
    NUMERIC: NumericColumns,
    BOOLEAN: BooleanColumns,
    DATE: DateParts,
    "onehot": OneHot,
    "ordinal": Ordinal,
    "target": ByTarget,
    _NATIVE: CategoryNumbers,
}


class TableEncoder:
    """Encoders of a table's columns, learned on training rows.

    Numbers, booleans and the parts of dates are scaled and filled in as the recipe says.
    Categories get a column each ("onehot"), one column of their numbers ("ordinal"), what the
    target was like in them ("target"), or are left to the head as numbers ("native"). A column
    of more than 255 categories is encoded by the target where the recipe asks for "onehot".

    Parameters
    ----------
    parts : dict of str to Part
        By role, and categorical columns by their encoding.
    """

    def __init__(self, parts: dict[str, Part]):
        self.parts = {key: parts[key] for key in _PARTS if key in parts}

    @classmethod
    def fit_transform(
        cls,
        frame: pd.DataFrame,
        columns: Sequence[Column],
        recipe: Recipe,
        y: np.ndarray,
        *,
        is_classification: bool,
        random_state: int,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> tuple["TableEncoder", np.ndarray, np.ndarray]:
        """Learn the encoders and encode the rows they are learned on.

        Parameters
        ----------
        frame : DataFrame of shape (n_rows, n_columns)
            The training rows. Not modified.
        columns : sequence of Column
            Those whose role is numeric, boolean, categorical or date are encoded.
        recipe : Recipe
            How.
        y : array of shape (n_rows,)
            Class numbers or values.
        is_classification : bool
            What ``y`` is.
        random_state : int
            Of the folds in which categories are encoded by the target.
        groups : int array of shape (n_rows,), optional
            Rows of one group are in one fold: none is encoded with the target of its group.
        sample_weight : array of shape (n_rows,), optional
            Of the rows, where numbers are scaled and filled in.

        Returns
        -------
        encoder : TableEncoder
        table : float32 array of shape (n_rows, n_table)
            Finite, or NaN where the recipe leaves missing values.
        codes : int32 array of shape (n_rows, n_coded)
            Numbers of the categories left to the head.

        Raises
        ------
        DataError
            If a column does not hold what its role says.
        """
        n_values = _n_values(frame, columns)
        training = Training(
            frame,
            recipe,
            y,
            is_classification,
            random_state,
            groups,
            sample_weight,
            many={name for name, n in n_values.items() if n > recipe.few},
        )
        parts, features = {}, {}
        for key, names in _wire(columns, recipe, n_values).items():
            parts[key], features[key] = _PARTS[key].fit_transform(training, names)
        return cls(parts), *_table_and_codes(features, len(frame))

    def transform(self, frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Encode rows.

        Parameters
        ----------
        frame : DataFrame of shape (n_rows, n_columns)
            With the columns that were learned from, in any order. Not modified.

        Returns
        -------
        table : float32 array of shape (n_rows, n_table)
        codes : int32 array of shape (n_rows, n_coded)

        Raises
        ------
        DataError
            If a column does not hold what its role says: which row, what, and what to do.
        """
        features = {key: part.transform(frame) for key, part in self.parts.items()}
        return _table_and_codes(features, len(frame))

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """Of each column of the codes, how many numbers there are, 0 included."""
        native = self.parts.get(_NATIVE)
        if not isinstance(native, CategoryNumbers):
            return ()
        return tuple(vocabulary.cardinality for vocabulary in native.vocabularies)

    def feature_names(self) -> list[str]:
        """Return the name of each column of the table, then of the codes."""
        return [name for part in self.parts.values() for name in part.feature_names()]

    def save(self, folder: Path) -> None:
        """Write the wiring as ``encoder.json`` and each fitted encoder as a skops file.

        Raises
        ------
        ModelError
            If an encoder holds a type that would not be loaded again.
        """
        record = {key: part.save(folder) for key, part in self.parts.items()}
        (folder / RECORD).write_text(to_json(record), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "TableEncoder":
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If a file is missing or damaged, or holds another type than the wiring says.
        """
        try:
            record = read_json(folder / RECORD)
            return cls({key: _PARTS[key].load(folder, saved) for key, saved in record.items()})
        except ModelError:
            raise
        except Exception as error:  # a record of any content
            reason = f"{type(error).__name__}: {error}"
            raise ModelError(
                f"The encoders in '{folder}' can't be read ({reason}). Copy the model again, or "
                "refit."
            ) from error


def _n_values(frame: pd.DataFrame, columns: Sequence[Column]) -> dict[str, int]:
    """Return how many values each categorical column has: in the whole table, if that was told."""
    return {
        column.name: count_categories(frame[column.name])
        if column.n_values is None
        else column.n_values
        for column in columns
        if column.role == CATEGORICAL
    }


def _wire(
    columns: Sequence[Column], recipe: Recipe, n_values: dict[str, int]
) -> dict[str, list[str]]:
    """Return which columns go to which part."""
    wiring: dict[str, list[str]] = {key: [] for key in _PARTS}
    for column in columns:
        key = column.role
        if key == CATEGORICAL:
            key = _category_encoding(recipe, n_values[column.name])
        if key in wiring:
            wiring[key].append(column.name)
    return {key: names for key, names in wiring.items() if names}


def _category_encoding(recipe: Recipe, n_values: int) -> str:
    encoding = recipe.categories if n_values <= recipe.few else recipe.many_categories
    return "target" if encoding == "onehot" and n_values > MAX_ONE_HOT else encoding


def _table_and_codes(features: dict[str, np.ndarray], n_rows: int) -> tuple[np.ndarray, np.ndarray]:
    codes = features.pop(_NATIVE, np.empty((n_rows, 0), np.int32))
    table = np.empty((n_rows, sum(part.shape[1] for part in features.values())), np.float32)
    start = 0
    for key in _PARTS:
        if key in features:
            stop = start + features[key].shape[1]
            np.clip(features[key], -LARGEST, LARGEST, out=table[:, start:stop], casting="same_kind")
            start = stop
    return table, codes
