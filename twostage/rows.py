"""The rows that stage two learns from: table, image blocks, target, groups and weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import pandas as pd

from twostage.fingerprint import hash_bytes
from twostage.joins import ImageBlock
from twostage.table.sequences import plain


@dataclass(frozen=True)
class TrainingRows:
    """Rows to learn from.

    Attributes
    ----------
    frame : DataFrame of shape (n_rows, n_columns)
        The table.
    blocks : mapping of str to ImageBlock
        One per image column, aligned with ``frame``.
    y : array of shape (n_rows,)
        Class numbers, or values.
    n_classes : int or None
        How many classes there are; None for values.
    groups : int array of shape (n_rows,) or None
        Rows that must not be separated.
    sample_weight : float array of shape (n_rows,) or None
        Weights, not negative.
    group_values : object array of shape (n_rows,) or None
        What the user named the groups; images of equal bytes have joined some since.
    """

    frame: pd.DataFrame
    blocks: Mapping[str, ImageBlock]
    y: np.ndarray
    n_classes: int | None
    groups: np.ndarray | None = None
    sample_weight: np.ndarray | None = None
    group_values: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def is_classification(self) -> bool:
        """Whether the target is classes."""
        return self.n_classes is not None

    def take(self, rows: np.ndarray) -> "TrainingRows":
        """Return some rows, by number."""
        return TrainingRows(
            self.frame.iloc[rows],
            take_blocks(self.blocks, rows),
            self.y[rows],
            self.n_classes,
            None if self.groups is None else self.groups[rows],
            None if self.sample_weight is None else self.sample_weight[rows],
            None if self.group_values is None else self.group_values[rows],
        )


def take_blocks(blocks: Mapping[str, ImageBlock], rows: np.ndarray) -> dict[str, ImageBlock]:
    """Return the blocks of some rows, by number."""
    return {name: block.take(rows) for name, block in blocks.items()}


def row_digests(frame: pd.DataFrame) -> list[str]:
    """Return a digest of the values of each row; equal rows have equal ones, on any machine.

    Numbers are compared as float64, everything else by its text.
    """
    is_number = [pd.api.types.is_numeric_dtype(dtype) for dtype in frame.dtypes]
    numbers = frame.loc[:, is_number].to_numpy(dtype="<f8", na_value=np.nan) + 0.0  # no -0.0
    texts = [_texts(frame.iloc[:, i]) for i, number in enumerate(is_number) if not number]
    joined = map("\x1f".join, zip(*texts, strict=True)) if texts else repeat("", len(frame))
    rows = zip(np.ascontiguousarray(numbers), joined, strict=True)
    return [hash_bytes(values.tobytes() + text.encode()) for values, text in rows]


def _texts(values: pd.Series) -> np.ndarray:
    """Return a column as text, converting each different value once."""
    try:
        codes, unique = pd.factorize(values.to_numpy(dtype=object))
    except TypeError:  # lists can't be compared
        return np.array([_text_of(plain(value)) for value in values], dtype=object)
    texts = np.array([*(str(value) for value in unique), ""], dtype=object)
    return np.asarray(texts[codes])


def _text_of(value: object) -> str:
    if isinstance(value, np.ndarray) and value.dtype == np.float64:
        # Text of an array leaves out most of it.
        return f"{value.shape} {hash_bytes(np.ascontiguousarray(value, '<f8').tobytes())}"
    return str(value)
