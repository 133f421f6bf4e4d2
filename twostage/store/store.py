"""A folder of Parquet parts with the embeddings of one backbone."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twostage.errors import StoreError, first_line
from twostage.fingerprint import hash_bytes, hash_file
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.seen import SeenRows
from twostage.store.files import PART, RECORD, SEEN, check_folder, delete_files, replace_file
from twostage.store.locking import locked
from twostage.store.schema import INDEX_COLUMNS, SPEC_KEY, embedding_matrix, part_schema

FORMAT_VERSION = 2
_LARGEST_DIM = 1 << 20
_STORAGE_DTYPES = ("float32", "float16")
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
        self._record = self._read_record()
        self.spec: dict[str, Any] = self._record["spec"]
        self.schema = part_schema(self.spec)

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        spec: Mapping[str, Any],
        identity: str | None = None,
        seen: SeenRows | None = None,
    ) -> "EmbeddingStore":
        """Make an empty store for a backbone.

        Parameters
        ----------
        path : path-like
            The folder.
        spec : mapping
            The backbone's record, as ``BackboneSpec.to_dict`` gives it.
        identity : str, optional
            Digest of what gives its embeddings their meaning.
        seen : SeenRows, optional
            What the backbone was trained on; None if it is as it was published.

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
            "identity": identity,
            "seen": None,
            "versions": {name: version(name) for name in _RECORDED_LIBRARIES},
        }
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write_record(folder, record, seen)
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

    @property
    def seen(self) -> SeenRows:
        """What its backbone was trained on; unknown where a record of it is lost or damaged."""
        digest = self._record["seen"]
        if digest is None:
            return SeenRows()
        file = self.path / SEEN
        if not file.is_file() or hash_file(file) != digest:
            return SeenRows(is_known=False)
        return SeenRows.read(file)

    def remember(self, seen: SeenRows) -> None:
        """Note what its backbone was trained on, where that was not known."""
        if seen.is_known and not self.seen.is_known:
            _write_record(self.path, self._record, seen)
            self._record = self._read_record()

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
            If the part is damaged, or made by another backbone.
        """
        with self._opened(part) as file:
            return file.read(columns=None if columns is None else list(columns))

    @contextmanager
    def _opened(self, part: str) -> Iterator[pq.ParquetFile]:
        """Open one part; what is read from it is of one state, also if it is replaced meanwhile."""
        try:
            with pq.ParquetFile(self.path / part, page_checksum_verification=True) as file:
                if (file.schema_arrow.metadata or {}).get(SPEC_KEY) != self.schema.metadata[
                    SPEC_KEY
                ]:
                    raise StoreError(
                        f"Part '{self.path / part}' was made by another backbone than the store "
                        "it lies in. Move it out of the folder."
                    )
                if not file.schema_arrow.equals(self.schema):
                    raise ValueError("its columns are not those of a store's part")
                yield file
        except StoreError:
            raise
        except Exception as error:  # of damaged parts, pyarrow raises almost anything
            reason = first_line(error)
            raise StoreError(
                f"Part '{self.path / part}' can't be read ({reason}). Delete it and run the same "
                "'twostage extract' again: only its images are embedded anew."
            ) from error

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
        pq.write_table(
            rows.cast(self.schema),
            sink,
            compression="zstd",
            use_dictionary=["error"],
            write_page_checksum=True,  # a flipped bit would be another embedding
        )
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
        delete_files(self.path)

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
        for part in self.parts() if wanted else ():
            with self._opened(part) as file:
                keys = file.read(columns=[column, "error"])
                fine = pc.if_else(pc.is_null(keys["error"]), keys[column], None)
                rows = pc.index_in(names, value_set=fine.combine_chunks())
                found = np.flatnonzero(rows.is_valid().to_numpy(zero_copy_only=False))
                if len(found):
                    embeddings = file.read(columns=["embedding"])["embedding"]
                    taken = embeddings.take(rows.take(pa.array(found)))
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
            record = read_json(self.path / RECORD)
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
        try:
            _check_record(record)
        except (ValueError, KeyError) as error:
            raise StoreError(
                f"Store '{self.path}' is damaged: its {RECORD} does not say which backbone made "
                f"it ({error}). Extract again into another folder."
            ) from None
        return dict(record)


def _check_record(record: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError if what is used of a store's record is not what it must be."""
    spec = checked(dict[str, Any], record["spec"], "spec")
    dim = checked(int, spec["dim"], "dim")
    if not 1 <= dim <= _LARGEST_DIM or spec["storage_dtype"] not in _STORAGE_DTYPES:
        raise ValueError(f"embeddings of {dim} numbers of {spec['storage_dtype']!r:.60}")
    checked(str | None, record["seen"], "seen")  # without it, nothing would count as seen


def _write_record(folder: Path, record: Mapping[str, Any], seen: SeenRows | None) -> None:
    """Write a store's record, after the list of what its backbone has seen."""
    digest = None
    if seen is not None:
        data = seen.to_bytes() if seen.is_known else b""
        if seen.is_known:
            replace_file(folder / SEEN, data)
        digest = hash_bytes(data)
    replace_file(folder / RECORD, json.dumps({**record, "seen": digest}, indent=1).encode())
