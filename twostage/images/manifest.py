"""The images to embed as columns: ten million of them are some hundred MB, and no objects."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twostage.errors import ImagesError
from twostage.images.references import (
    EXTENSIONS,
    Reference,
    Source,
    check_folder,
    reference_to,
    walk,
)
from twostage.lookup import RowsByName, as_mask, one_array

_AT_ONCE = 1 << 14
_SMALL_PIECES = 32
_SCHEMA = pa.schema(
    [
        ("image", pa.large_string()),
        ("path", pa.large_binary()),  # of the file system, which may have bytes that are no text
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
    ]
)


class Manifest(Sequence[Reference]):
    """The images to embed: a sequence of references that are made when one looks.

    Parameters
    ----------
    columns : pyarrow.Table
        What `Reference` has of each but its source, each in one piece; ``path`` is null where it
        is the name below ``root``.
    root : str
        A folder, or nothing.
    sources : mapping of int to Source, optional
        By row, what reads those that are no local files.

    Attributes
    ----------
    columns : pyarrow.Table
        As given.
    """

    def __init__(
        self, columns: pa.Table, root: str = "", sources: Mapping[int, Source] | None = None
    ):
        self.columns = columns
        self._start = os.path.join(root, "")
        self._sources = sources or {}

    @classmethod
    def of(
        cls, references: Iterable[Reference], root: str = "", *, in_order: bool = False
    ) -> "Manifest":
        """Make the manifest of references; those of an iterator are not kept.

        Parameters
        ----------
        references : iterable of Reference
            The images.
        root : str
            Where most of them lie.
        in_order : bool
            Whether to put them in the order of their names.
        """
        if isinstance(references, cls):
            return references
        growing = [_Growing(field.type) for field in _SCHEMA]
        sources: dict[int, Source] = {}
        left, start, n_before = iter(references), os.path.join(root, ""), 0
        while some := list(islice(left, _AT_ONCE)):
            for column, values in zip(growing, _columns_of(some, start), strict=True):
                column.add(values)
            sources.update(
                (row, reference.source)
                for row, reference in enumerate(some, n_before)
                if reference.source is not None
            )
            n_before += len(some)
        columns = [column.whole() for column in growing]
        if in_order:
            order = pc.sort_indices(columns[0])
            for number in range(len(columns)):  # one after the other: there are never two of all
                columns[number] = columns[number].take(order)
            if sources:
                sources = {
                    i: sources[row] for i, row in enumerate(order.to_numpy()) if row in sources
                }
        pa.default_memory_pool().release_unused()
        return cls(pa.table(columns, names=_SCHEMA.names), root, sources)

    def rows_of(self, images: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Find names, see `twostage.lookup.RowsByName.rows_of`."""
        return self._rows_by_name.rows_of(images)

    @cached_property
    def _rows_by_name(self) -> RowsByName:
        return RowsByName(one_array(self.columns["image"]))

    def distinct(self) -> "Manifest":
        """Return it with the first of the images of each name."""
        rows = np.arange(len(self))
        is_first = self.rows_of(self.columns["image"]) == rows
        return self if is_first.all() else self.take(rows[is_first])

    def take(self, rows: np.ndarray) -> "Manifest":
        """Return the manifest of some rows, which keeps nothing of the others."""
        sources = {}
        if self._sources:
            sources = {i: self._sources[row] for i, row in enumerate(rows) if row in self._sources}
        return Manifest(self.columns.take(pa.array(rows)), self._start, sources)

    def __len__(self) -> int:
        return len(self.columns)

    @overload
    def __getitem__(self, at: int) -> Reference: ...

    @overload
    def __getitem__(self, at: slice) -> "Manifest": ...

    def __getitem__(self, at: int | slice) -> "Reference | Manifest":
        rows = range(len(self))[at]
        if isinstance(rows, range):
            return self.take(np.arange(rows.start, rows.stop, rows.step))
        return next(self._references(rows, 1))

    def __iter__(self) -> Iterator[Reference]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self._references(start, _AT_ONCE)

    def _references(self, start: int, n_rows: int) -> Iterator[Reference]:
        columns = self.columns.slice(start, n_rows).to_pydict()
        values: Iterator[tuple[Any, ...]] = zip(*columns.values(), strict=True)
        for row, (image, path, size_bytes, mtime_ns) in enumerate(values, start):
            where = self._start + image if path is None else os.fsdecode(path)
            yield Reference(image, where, size_bytes, mtime_ns, self._sources.get(row))


class _Growing:
    """A column that grows by pieces; it has little more room at any time than it needs."""

    def __init__(self, kind: pa.DataType):
        self._kind = kind
        self._small: list[pa.Array] = []
        self._large: list[pa.Array] = []

    def add(self, piece: pa.Array) -> None:
        """Append some values; those that are all null may be of the type null."""
        self._small.append(piece)
        if len(self._small) >= _SMALL_PIECES:
            self._large.append(self._joined(self._small))

    def whole(self) -> pa.Array:
        """Return all of it, and let go of the pieces; of nulls only, it needs no room."""
        self._large.append(self._joined(self._small))
        return self._joined(self._large)

    def _joined(self, pieces: list[pa.Array]) -> pa.Array:
        if pieces and all(pa.types.is_null(piece.type) for piece in pieces):
            joined = pa.nulls(sum(map(len, pieces)))
        else:
            joined = pa.concat_arrays(
                [pa.nulls(0, self._kind), *(p.cast(self._kind) for p in pieces)]
            )
        pieces.clear()
        return joined


def _columns_of(references: Sequence[Reference], start: str) -> list[pa.Array]:
    images, paths, sizes, times, _ = zip(*references, strict=True)
    own = [
        None if path == start + image else os.fsencode(path)
        for image, path in zip(images, paths, strict=True)
    ]
    columns = (images, own, sizes, times)
    arrays = [pa.array(*column) for column in zip(columns, _SCHEMA.types, strict=True)]
    if not any(own):
        arrays[1] = pa.nulls(len(own))
    return arrays


def list_images(folder: Path) -> Manifest:
    """List the image files below a folder, sorted by name; see `twostage.images.references.walk`.

    Raises
    ------
    UsageError
        If the folder does not exist.
    ImagesError
        If it holds no image file.
    """
    check_folder(folder)
    root = str(folder)
    found = (reference_to(root, name) for name in walk(folder))
    manifest = Manifest.of(found, root, in_order=True)
    if not manifest:
        raise ImagesError(
            f"No images in '{folder}': no file below it ends in {', '.join(EXTENSIONS)}. "
            "Give the folder that holds them."
        )
    images = manifest.columns["image"]
    twice = np.flatnonzero(as_mask(pc.equal(images[1:], images[:-1])))
    if len(twice):
        raise ImagesError(
            f"Two files in '{folder}' would be '{images[twice[0]]}' in a store: one name has these "
            "letters, the other a byte that is no text. Rename one."
        )
    return manifest
