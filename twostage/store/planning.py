"""Decide what an extraction has to do: a pure function of the manifest and the store's index.

Both are columns, and so is what is decided: an image among millions costs no Python object.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twostage.errors import PASSING_KINDS
from twostage.lookup import as_mask

SHARD_SIZE = 1024
PLANNED_BY = ("image", "size_bytes", "mtime_ns", "error")  # of the index, beside the part
_AT_ONCE = 1 << 18  # rows of the index
_NEW, _AGAIN, _UNCHANGED, _GONE = range(4)


class Listing(Protocol):
    """Images to embed, and what the place says of them, as `twostage.images.manifest` has it."""

    @property
    def columns(self) -> pa.Table:
        """``size_bytes`` and ``mtime_ns``, each in one piece, null where there is no file."""
        ...

    def rows_of(self, images: pa.ChunkedArray) -> np.ndarray:
        """Find names: the row of each, or -1."""
        ...

    def take(self, rows: np.ndarray) -> Sequence[Any]:
        """Return the images of some rows."""
        ...


@dataclass(frozen=True)
class Shard:
    """The unit of work and of loss: what goes into one part.

    Attributes
    ----------
    part : str
        The part's file name. If it exists, rows of these images in it are to be replaced.
    images : sequence
        What to look at.
    """

    part: str
    images: Sequence[Any]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes
    ----------
    shards : list of Shard
        New parts first, then those to rewrite.
    n_unchanged : int
        Images whose row can stay as it is.
    n_gone : int
        Those of them whose file is not there any more; their embeddings stand.
    n_others : int
        Images that the store holds, and that are not wanted.
    """

    shards: list[Shard]
    n_unchanged: int
    n_gone: int = 0
    n_others: int = 0


def make_plan(
    manifest: Listing,
    index: pa.Table,
    *,
    n_parts: int,
    retry_errors: bool = False,
    verify: bool = False,
) -> Plan:
    """Compare what is wanted with what is there.

    Parameters
    ----------
    manifest : Listing
        The images wanted, each name once.
    index : pyarrow.Table
        What the store holds, as `EmbeddingStore.index` gives it: ``part`` and `PLANNED_BY`.
    n_parts : int
        The number that the first new part bears.
    retry_errors : bool
        Whether to try again what could not be decoded; what could not be read always is.
    verify : bool
        Whether to read every image again, and trust no size and time.

    Returns
    -------
    Plan
        An image that the store holds is looked at again, by its bytes, where size or time differ
        or are not to be trusted; it goes back into the part that holds it.
    """
    listed = manifest.columns.select(["size_bytes", "mtime_ns"])
    fate = np.full(len(listed), _NEW, np.int8)
    part = np.zeros(len(listed), np.int32)
    codes, names = _encoded(index["part"])
    n_others = 0
    for start in range(0, len(index), _AT_ONCE):
        stored = index.slice(start, _AT_ONCE)
        rows = manifest.rows_of(stored["image"])
        is_wanted = rows >= 0
        rows = rows[is_wanted]
        part[rows] = codes[start : start + _AT_ONCE][is_wanted]
        fate[rows] = _fates(
            listed.take(pa.array(rows)),
            stored.filter(pa.array(is_wanted)),
            retry_errors=retry_errors,
            verify=verify,
        )
        n_others += len(is_wanted) - len(rows)
    again = np.flatnonzero(fate == _AGAIN)
    # New parts first: a renamed image is found by its bytes as long as its old row stands.
    shards = [
        *_new_shards(manifest, np.flatnonzero(fate == _NEW), n_parts),
        *_shards_again(manifest, again, names.take(pa.array(part[again]))),
    ]
    n_gone = int(np.count_nonzero(fate == _GONE))
    n_unchanged = n_gone + int(np.count_nonzero(fate == _UNCHANGED))
    return Plan(shards, n_unchanged, n_gone, n_others)


def _fates(listed: pa.Table, stored: pa.Table, *, retry_errors: bool, verify: bool) -> np.ndarray:
    """Say what becomes of images that are listed and stored, row by row."""
    size_bytes, mtime_ns, error = stored["size_bytes"], stored["mtime_ns"], stored["error"]
    has_file = as_mask(pc.is_valid(listed["size_bytes"]))
    has_error = as_mask(pc.is_valid(error))
    is_same = (
        as_mask(pc.equal(listed["size_bytes"], size_bytes))
        & as_mask(pc.equal(listed["mtime_ns"], mtime_ns))
        & as_mask(pc.not_equal(mtime_ns, 0))
    )
    may_pass = np.zeros(len(stored), bool)
    for kind in PASSING_KINDS:
        may_pass |= as_mask(pc.starts_with(error, kind))
    looks = ~is_same | may_pass | (has_error & retry_errors) | verify
    # A file that is still, or by now, gone: what was computed from it stands.
    fate = np.where(has_error, _UNCHANGED, _GONE)
    fate[has_file] = np.where(looks, _AGAIN, _UNCHANGED)[has_file]
    return fate


def _encoded(parts: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return a number for each row's part, and the names of those."""
    if not pa.types.is_dictionary(parts.type):
        parts = parts.dictionary_encode()
    array = parts.unify_dictionaries().combine_chunks()
    return array.indices.to_numpy(zero_copy_only=False), array.dictionary


def _new_shards(manifest: Listing, rows: np.ndarray, first: int) -> Iterator[Shard]:
    for number, start in enumerate(range(0, len(rows), SHARD_SIZE), start=first):
        yield Shard(part_name(number), manifest.take(rows[start : start + SHARD_SIZE]))


def _shards_again(manifest: Listing, rows: np.ndarray, parts: pa.Array) -> Iterator[Shard]:
    order = pc.sort_indices(parts).to_numpy()  # stable: within a part, as the manifest has them
    numbers, _ = _encoded(pa.chunked_array([parts.take(pa.array(order))]))
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    for some in np.split(order, starts[1:]) if len(order) else ():
        yield Shard(parts[some[0]].as_py(), manifest.take(rows[some]))


def part_name(number: int) -> str:
    """Return the file name of a store's n-th part."""
    return f"part-{number:06d}.parquet"
