"""A folder of Parquet parts with the embeddings of one backbone."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twostage.errors import StoreError
from twostage.store.files import PART, RECORD, check_folder, is_ours, replace_file
from twostage.store.locking import locked
from twostage.store.schema import INDEX_COLUMNS, SPEC_KEY, embedding_matrix, part_schema

FORMAT_VERSION = 1
_RECORDED_LIBRARIES = ("twostage", "keras", "numpy", "pillow", "pyarrow")


class EmbeddingStore:
    """The cached embeddings of one backbone.

    Parameters
    ----------
    path : path-like
        Folder of an existing store; `create` makes a new one.

    Attributes
    ----------
    path : pathlib.Path
        The folder.
    spec : dict
        The backbone's record, as ``BackboneSpec.to_dict`` gives it.
    schema : pyarrow.Schema
        Of a part.

    Raises
    ------
    StoreError
        If the folder is no store, or one of another format version.

    Notes
    -----
    The listing is the truth: a part under its final name is committed. Everything else in the
    folder begins with ``_`` or ``.``, so that ``pandas.read_parquet(folder)`` reads the parts.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        record = self._read_record()
        self.spec: dict[str, Any] = record["spec"]
        self.schema = part_schema(self.spec)

    @classmethod
    def create(cls, path: str | os.PathLike[str], spec: Mapping[str, Any]) -> "EmbeddingStore":
        """Make an empty store for a backbone.

        Raises
        ------
        StoreError
            If the folder holds something else already, or can't be written.
        """
        folder = Path(path)
        check_folder(folder)
        record = {
            "format_version": FORMAT_VERSION,
            "spec": dict(spec),
            "seen": None,
            "versions": {name: version(name) for name in _RECORDED_LIBRARIES},
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(folder / RECORD, json.dumps(record, indent=1).encode())
        except OSError as error:
            raise StoreError(f"Can't write the store '{path}': {error.strerror}.") from error
        return cls(folder)

    @staticmethod
    def exists_at(path: str | os.PathLike[str]) -> bool:
        """Whether the folder is a store."""
        return (Path(path) / RECORD).is_file()

    def __len__(self) -> int:
        return sum(len(self.read_part(part, ["image"])) for part in self.parts())

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r})"

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.spec["dim"])

    def parts(self) -> list[str]:
        """Return the names of the committed parts, sorted."""
        return sorted(name for name in os.listdir(self.path) if PART.fullmatch(name))

    def next_number(self) -> int:
        """Return the number of the next new part."""
        numbers = (PART.fullmatch(name) for name in self.parts())
        return max((int(match[1]) for match in numbers if match), default=-1) + 1

    def index(self) -> pa.Table:
        """Return all rows without their embeddings, and the part each stands in.

        Returns
        -------
        pyarrow.Table
            The columns of `twostage.store.schema.part_schema` but ``embedding``, and ``part``.
        """
        schema = pa.schema([self.schema.field(name) for name in INDEX_COLUMNS])
        empty = schema.append(pa.field("part", pa.string())).empty_table()
        return pa.concat_tables([empty, *(self._index_of(part) for part in self.parts())])

    def to_pandas(self) -> Any:
        """Return the whole store as a pandas DataFrame, one row per image."""
        return pa.concat_tables(
            [self.schema.empty_table(), *(self.read_part(part) for part in self.parts())]
        ).to_pandas()

    def read_part(self, part: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one part.

        Raises
        ------
        StoreError
            If the part is damaged.
        """
        try:
            with pq.ParquetFile(self.path / part) as file:
                metadata = file.schema_arrow.metadata or {}
                rows = file.read(columns=None if columns is None else list(columns))
        except (pa.ArrowException, OSError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise StoreError(
                f"Part '{self.path / part}' can't be read ({reason}). Delete it and run the same "
                "'twostage extract' again: only its images are embedded anew."
            ) from error
        if metadata.get(SPEC_KEY) != self.schema.metadata[SPEC_KEY]:
            raise StoreError(
                f"Part '{self.path / part}' was made by another backbone than the store it lies "
                "in. Move it out of the folder."
            )
        return rows

    def embeddings(self, images: Sequence[str]) -> np.ndarray:
        """Return the embeddings of images, in the order given.

        Parameters
        ----------
        images : sequence of str, length n
            Names as the store has them; a name may occur more than once.

        Returns
        -------
        float32 array of shape (n, dim)
            NaN where the store has no embedding for the name.
        """
        return self._gather("image", images)[0]

    def known(self, hashes: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the embeddings of content hashes, those that the store has."""
        unique = list(dict.fromkeys(hashes))
        matrix, is_found = self._gather("content_hash", unique)
        return {unique[i]: matrix[i] for i in np.flatnonzero(is_found)}

    def write_part(self, part: str, rows: pa.Table) -> None:
        """Commit a part, whole or not at all.

        Parameters
        ----------
        part : str
            Its name. If it exists, rows of the same images are replaced and the others kept.
        rows : pyarrow.Table
            In the store's schema.

        Raises
        ------
        StoreError
            If the disk does not take it; the store is as it was.
        """
        if (self.path / part).exists():
            old = self.read_part(part)
            is_kept = pc.invert(pc.is_in(old["image"], value_set=rows["image"].combine_chunks()))
            rows = pa.concat_tables([old.filter(is_kept), rows])
        sink = pa.BufferOutputStream()
        pq.write_table(rows.cast(self.schema), sink, compression="zstd", use_dictionary=["error"])
        try:
            replace_file(self.path / part, sink.getvalue())
        except OSError as error:
            raise StoreError(
                f"Can't write '{self.path / part}': {error.strerror}. The store holds all parts "
                "written before; run the same command again to continue."
            ) from error

    def lock(self, *, wait: bool = False) -> AbstractContextManager[None]:
        """Hold the store for one run that writes; see `twostage.store.locking.locked`."""
        return locked(self.path, wait=wait)

    def delete(self) -> None:
        """Delete the store: its own files, and the folder if nothing else is in it."""
        for name in filter(is_ours, os.listdir(self.path)):
            (self.path / name).unlink()
        if not os.listdir(self.path):
            self.path.rmdir()

    def _gather(self, column: str, wanted: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Collect the embeddings of the rows whose ``column`` holds the wanted values.

        Returns
        -------
        matrix : float32 array of shape (n, dim)
            NaN where there is none.
        is_found : bool array of shape (n,)
        """
        names = pa.array(wanted, pa.string())
        matrix = np.full((len(wanted), self.dim), np.nan, np.float32)
        is_found = np.zeros(len(wanted), dtype=bool)
        for part in self.parts():
            keys = self.read_part(part, [column, "error"])
            is_fine = pc.is_null(keys["error"])
            here = pc.index_in(
                names, value_set=pc.if_else(is_fine, keys[column], None).combine_chunks()
            )
            rows = here.to_numpy(zero_copy_only=False)
            found = np.flatnonzero(~np.isnan(rows))
            if len(found):
                embeddings = self.read_part(part, ["embedding"])["embedding"]
                taken = embeddings.take(pa.array(rows[found].astype(np.int64)))
                matrix[found] = embedding_matrix(taken, self.dim)
                is_found[found] = True
        return matrix, is_found

    def _index_of(self, part: str) -> pa.Table:
        rows = self.read_part(part, INDEX_COLUMNS).replace_schema_metadata(None)
        return rows.append_column("part", pa.array([part] * len(rows), pa.string()))

    def _read_record(self) -> dict[str, Any]:
        if not self.path.exists():
            raise StoreError(f"There is no store '{self.path}'. Make it with 'twostage extract'.")
        try:
            record = json.loads((self.path / RECORD).read_text())
            found = record["format_version"]
        except (OSError, ValueError, KeyError, TypeError):
            raise StoreError(
                f"'{self.path}' is not a store: it has no readable {RECORD}. Give a folder made "
                "by 'twostage extract'."
            ) from None
        if found != FORMAT_VERSION:
            raise StoreError(
                f"Store '{self.path}' is of format version {found}; this twostage reads version "
                f"{FORMAT_VERSION}. Use the twostage that wrote it, or extract again."
            )
        return dict(record)
