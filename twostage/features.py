"""What a head learns from: the features of rows, in parts that are not copied together unasked."""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

NO_WORD, UNKNOWN, FIRST_WORD = 0, 1, 2  # among the numbers of words


@dataclass(frozen=True)
class Tokens:
    """The texts of a column as numbers of words, for networks that read them.

    Attributes
    ----------
    numbers : int32 array of shape (n_rows, length)
        In order, then 0 where there is no word; 1 is a word unseen or too rare at fit.
    n_words : int
        How many numbers there are, 0 and 1 included.
    vectors : float32 array of shape (n_words, dim) or None
        What words mean, from elsewhere, to start from.
    """

    numbers: np.ndarray
    n_words: int
    vectors: np.ndarray | None = None

    def take(self, rows: np.ndarray) -> "Tokens":
        """Return the texts of some rows, by number."""
        return replace(self, numbers=self.numbers[rows])


@dataclass(frozen=True)
class Steps:
    """The sequences of a column, padded to one length, for networks that follow them.

    Attributes
    ----------
    values : float32 array of shape (n_rows, length, n_channels)
        Scaled; 0 where a value is missing or padded. A channel with missing values is followed by
        one that says where.
    lengths : int32 array of shape (n_rows,)
        Steps of each row: the others, after them, are padding. 0 where a row has no sequence.
    """

    values: np.ndarray
    lengths: np.ndarray

    def take(self, rows: np.ndarray) -> "Steps":
        """Return the sequences of some rows, by number."""
        return Steps(self.values[rows], self.lengths[rows])


@dataclass(frozen=True)
class Features:
    """The features of some rows, part by part.

    Embeddings are wide: a head that can take the parts one by one spares a copy of them all.

    Attributes
    ----------
    table : float32 array of shape (n_rows, n_table)
        Encoded columns of the table; NaN where the recipe leaves missing values.
    codes : int32 array of shape (n_rows, n_coded)
        Category numbers of the columns that the head encodes itself: 0 is a category unseen or
        too rare at fit, a missing value is a category of its own.
    cardinalities : tuple of int
        Of each column of codes, how many numbers there are, 0 included.
    blocks : tuple of float32 arrays of shape (n_rows, width)
        What the recipe makes of each block, in one or several parts.
    texts : tuple of Tokens
        Of each text column, if the recipe wants words; `matrix` leaves them out.
    sequences : tuple of Steps
        Of each sequence column, if the recipe wants steps; `matrix` leaves them out.
    """

    table: np.ndarray
    codes: np.ndarray
    cardinalities: tuple[int, ...]
    blocks: tuple[np.ndarray, ...]
    texts: tuple[Tokens, ...] = ()
    sequences: tuple[Steps, ...] = ()

    def __len__(self) -> int:
        return len(self.table)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to learn from."""
        return self.n_features == 0 and not self.texts and not self.sequences

    @property
    def n_features(self) -> int:
        """Number of columns of `matrix`."""
        return sum(part.shape[1] for part in self._parts())

    @property
    def is_block(self) -> np.ndarray:
        """Which columns of `matrix` come from blocks; bool of shape (n_features,)."""
        width = sum(block.shape[1] for block in self.blocks)
        return np.asarray(np.arange(self.n_features) >= self.n_features - width)

    @property
    def block_columns(self) -> list[np.ndarray]:
        """Which columns of `matrix` are of each block; bool arrays of shape (n_features,)."""
        ends = self.n_features - np.cumsum([0, *(b.shape[1] for b in self.blocks[::-1])])[::-1]
        columns = np.arange(self.n_features)
        return [np.asarray((start <= columns) & (columns < stop)) for start, stop in pairwise(ends)]

    def take(self, rows: np.ndarray) -> "Features":
        """Return the features of some rows, by number."""
        return Features(
            self.table[rows],
            self.codes[rows],
            self.cardinalities,
            tuple(block[rows] for block in self.blocks),
            tuple(text.take(rows) for text in self.texts),
            tuple(sequence.take(rows) for sequence in self.sequences),
        )

    def matrix(self) -> np.ndarray:
        """Return all parts side by side, a float32 copy: table, codes, blocks."""
        return np.hstack([np.asarray(part, np.float32) for part in self._parts()])

    def _parts(self) -> tuple[np.ndarray, ...]:
        return (self.table, self.codes, *self.blocks)
