"""What a store holds at a time: read once, in columns, to look up names in again and again."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import pyarrow as pa

from twostage.lookup import RowsByName
from twostage.store.store import EmbeddingStore


class Holdings:
    """The images of a store, with content hash, error and part of each.

    Parameters
    ----------
    store : EmbeddingStore
        Whose listing is read now; what is added later is not seen.

    Attributes
    ----------
    store : EmbeddingStore
        The same.
    """

    def __init__(self, store: EmbeddingStore):
        self.store = store
        index = store.index()
        self._images, self._hashes, self._errors = (
            index[name].cast(pa.large_string()).combine_chunks()
            for name in ("image", "content_hash", "error")
        )
        part = index["part"].combine_chunks()
        self._part_numbers = part.indices.to_numpy()
        self._part_names = part.dictionary.to_pylist()
        self._by_name = RowsByName(self._images)

    def __len__(self) -> int:
        return len(self._images)

    @cached_property
    def names(self) -> dict[str, None]:
        """The names of all images, in the store's order: an object for each, if asked for."""
        return dict.fromkeys(self._images.to_pylist())

    def has_all(self, names: Sequence[str]) -> bool:
        """Whether all images of these names are there."""
        try:
            return bool((self._rows_of(names) >= 0).all())
        except UnicodeEncodeError:  # of a file name that is no text: the store has none such
            return False

    def facts_of(self, names: Sequence[str]) -> dict[str, tuple[str | None, str | None]]:
        """Return content hash and error of images, all of which are there, by name."""
        rows = pa.array(self._rows_of(names))
        facts = zip(
            self._hashes.take(rows).to_pylist(), self._errors.take(rows).to_pylist(), strict=True
        )
        return dict(zip(names, facts, strict=True))

    def embeddings(self, names: Sequence[str]) -> np.ndarray:
        """Return the embeddings of images, all of which are there.

        Returns
        -------
        float32 array of shape (n, dim)
            In the order given; NaN where there is none.
        """
        rows = self._rows_of(names)
        has_error = self._errors.take(pa.array(rows)).is_valid()
        fine = np.flatnonzero(~has_error.to_numpy(zero_copy_only=False))
        parts = [self._part_names[i] for i in np.unique(self._part_numbers[rows[fine]])]
        found = self.store.embeddings([names[i] for i in fine.tolist()], parts)
        if len(fine) == len(names):
            return found
        matrix = np.full((len(names), self.store.dim), np.nan, np.float32)
        matrix[fine] = found
        return matrix

    def _rows_of(self, names: Sequence[str]) -> np.ndarray:
        return self._by_name.rows_of(pa.array(names, pa.large_string()))


def holdings_of(store: EmbeddingStore | Holdings) -> Holdings:
    """Return what a store holds, read now unless it is that already."""
    return store if isinstance(store, Holdings) else Holdings(store)
