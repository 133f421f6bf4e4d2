"""Where names stand among millions of others: in arrays, without a Python object per name."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_AT_ONCE = 1 << 18  # names looked up together: what that needs is some tens of MB
_HASHED_AT_ONCE = 1 << 14


class RowsByName:
    """Finds the rows of names.

    Parameters
    ----------
    names : pyarrow array of large_string, length n
        What is to be found. Of equal names, the first counts; null is never found.

    Notes
    -----
    It keeps 16 bytes per name beside the names: their hashes in order, and the row of each. That
    two names share a hash does no harm, for the names themselves are compared.
    """

    def __init__(self, names: pa.LargeStringArray):
        self._names = names
        keys = keys_of(names)
        self._rows = np.argsort(keys, kind="stable")
        self._keys = keys[self._rows]

    def rows_of(self, names: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Find names.

        Parameters
        ----------
        names : pyarrow array of strings, length m
            What to look for.

        Returns
        -------
        int64 array of shape (m,)
            The row of each; -1 where it is not there.
        """
        parts = [np.zeros(0, np.int64), *map(self._rows_of, pieces(names))]
        return np.concatenate(parts)

    def _rows_of(self, names: pa.LargeStringArray) -> np.ndarray:
        keys = keys_of(names)
        by_key = np.argsort(keys)  # looked for in this order, memory is walked, not jumped about in
        place = np.empty(len(keys), np.int64)
        place[by_key] = np.searchsorted(self._keys, keys[by_key])
        found = np.full(len(keys), -1)
        left = np.arange(len(keys))
        while len(left):
            left = left[place[left] < len(self._keys)]
            left = left[self._keys[place[left]] == keys[left]]
            rows = self._rows[place[left]]
            is_it = as_mask(pc.equal(self._names.take(pa.array(rows)), names.take(pa.array(left))))
            found[left[is_it]] = rows[is_it]
            left = left[~is_it]
            place[left] += 1
        return found


def pieces(names: pa.Array | pa.ChunkedArray) -> Iterator[pa.LargeStringArray]:
    """Yield strings, some at a time, each time as one array of large_string."""
    for start in range(0, len(names), _AT_ONCE):
        yield one_array(names.slice(start, _AT_ONCE))


def one_array(names: pa.Array | pa.ChunkedArray) -> pa.LargeStringArray:
    """Return strings as one array, however many bytes they have together."""
    names = names.cast(pa.large_string())
    return names.combine_chunks() if isinstance(names, pa.ChunkedArray) else names


def as_mask(condition: Any) -> np.ndarray:
    """Return a boolean Arrow array as NumPy's, false where it is null."""
    return np.asarray(pc.fill_null(condition, False).to_numpy(zero_copy_only=False), dtype=bool)


def keys_of(names: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Hash names, with Python's own hash: it is seeded, so that nobody can make names collide."""
    keys = np.empty(len(names), np.int64)
    for start in range(0, len(names), _HASHED_AT_ONCE):
        some = names.slice(start, _HASHED_AT_ONCE).to_numpy(zero_copy_only=False)
        keys[start : start + len(some)] = np.fromiter(map(hash, some), np.int64, len(some))
    return keys
