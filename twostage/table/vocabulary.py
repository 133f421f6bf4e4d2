"""The categories of a column, by name and number."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api import types

from twostage.errors import DataError

OTHER = 0


class Vocabulary:
    """The categories that a column had at fit.

    Number 0 stands for all others: those unseen at fit, and those too rare to learn from. A
    missing value is a category of its own if it occurred at fit, and one of the others if not.

    Parameters
    ----------
    names : sequence of str
        Category i has number i + 1.
    has_missing : bool
        Whether missing values have a number, the last.
    has_rare : bool
        Whether rows of rare categories had number 0 at fit.
    """

    def __init__(self, names: Sequence[str], has_missing: bool, has_rare: bool):
        self.names = list(names)
        self.has_missing = has_missing
        self.has_rare = has_rare
        self._number_of = {name: number for number, name in enumerate(self.names, start=1)}

    @classmethod
    def fit_transform(
        cls, values: pd.Series, *, merges_rare: bool
    ) -> tuple["Vocabulary", np.ndarray]:
        """Learn the categories of a column.

        Parameters
        ----------
        values : Series of length n_rows
            1, 1.0 and "1" are one category.
        merges_rare : bool
            Whether categories that occur once are put together under number 0, so that a head
            learns what to make of those it has never seen.

        Returns
        -------
        vocabulary : Vocabulary
        numbers : int32 array of shape (n_rows,)
        """
        rows, names = named(values)
        counts = np.bincount(rows[rows >= 0], minlength=len(names))
        is_kept = counts > 1 if merges_rare else counts > 0
        kept = [name for name, keep in zip(names, is_kept, strict=True) if keep]
        vocabulary = cls(_in_order(kept), bool((rows < 0).any()), not is_kept.all())
        return vocabulary, vocabulary._numbers(rows, names)

    def transform(self, values: pd.Series) -> np.ndarray:
        """Return the number of each value's category; int32 of shape (n_rows,)."""
        return self._numbers(*named(values))

    @property
    def cardinality(self) -> int:
        """How many numbers there are, 0 included."""
        return 1 + len(self.names) + self.has_missing

    def record(self) -> dict[str, Any]:
        """Return what makes it again, as JSON."""
        return {
            "names": self.names,
            "has_missing": self.has_missing,
            "has_rare": self.has_rare,
        }

    def _numbers(self, rows: np.ndarray, names: Sequence[str]) -> np.ndarray:
        of_missing = self.cardinality - 1 if self.has_missing else OTHER
        numbers = [self._number_of.get(name, OTHER) for name in names]
        # A missing value is row number -1, which takes the last entry.
        return np.asarray(np.array([*numbers, of_missing], np.int32)[rows])


def count_categories(values: pd.Series) -> int:
    """Return how many categories a column has, missing values not counted."""
    return len(named(values)[1])


def named(values: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Return the place of each value in a list of category names, -1 if missing, and that list."""
    try:
        if types.is_object_dtype(values.dtype) and types.infer_dtype(values).startswith("mixed"):
            values.map(hash, na_action="ignore")
            # 1 and True are equal, and would become one category.
            values = values.map(_category_name, na_action="ignore")
        places, distinct = pd.factorize(values)
    except (TypeError, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"Column '{values.name}' is categorical, but holds lists or other structures, which "
            "are no categories. Ignore it, or give it another role."
        ) from error
    names = [_category_name(value) for value in distinct]
    first = {name: place for place, name in reversed(list(enumerate(dict.fromkeys(names))))}
    if len(first) == len(names):
        return places, names
    return np.array([*(first[name] for name in names), -1])[places], list(dict.fromkeys(names))


def _category_name(value: object) -> str:
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort names: by value if all are numbers, by letters otherwise."""
    by_letter = sorted(names)
    try:
        numbers = [float(name) for name in by_letter]
    except ValueError:
        return by_letter
    if not np.isfinite(numbers).all():
        return by_letter
    return [by_letter[place] for place in np.argsort(numbers, kind="stable")]
