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
        pieces: list[list[pa.Array]] = [[] for _ in _SCHEMA]
        sources: dict[int, Source] = {}
        left, start, n_before = iter(references), os.path.join(root, ""), 0
        while some := list(islice(left, _AT_ONCE)):
            for piece, values in zip(pieces, _columns_of(some, start), strict=True):
                piece.append(values)
            sources.update(
                (row, reference.source)
                for row, reference in enumerate(some, n_before)
                if reference.source is not None
            )
            n_before += len(some)
        columns = [_in_one(piece, kind) for piece, kind in zip(pieces, _SCHEMA.types, strict=True)]
        if in_order:
            order = pc.sort_indices(columns[0])
            for number in range(len(columns)):  # one after the other: there are never two of all
                columns[number] = columns[number].take(order)
            if sources:
                sources = {
                    i: sources[row] for i, row in enumerate(order.to_numpy()) if row in sources
                }
        return cls(pa.Table.from_arrays(columns, schema=_SCHEMA), root, sources)

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


def _columns_of(references: Sequence[Reference], start: str) -> list[pa.Array]:
    images, paths, sizes, times, _ = zip(*references, strict=True)
    own = [
        None if path == start + image else os.fsencode(path)
        for image, path in zip(images, paths, strict=True)
    ]
    columns = (images, own, sizes, times)
    return [pa.array(*column) for column in zip(columns, _SCHEMA.types, strict=True)]


def _in_one(pieces: list[pa.Array], kind: pa.DataType) -> pa.Array:
    """Put the pieces of a column together, and let go of them."""
    whole = pa.concat_arrays([pa.nulls(0, kind), *pieces])
    pieces.clear()
    return whole


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
