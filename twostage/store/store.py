"""Parquet parts with the embeddings of one backbone, in a folder or behind a URL."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from twostage.errors import StoreError, first_line
from twostage.fingerprint import hash_bytes
from twostage.opening.records import checked
from twostage.seen import SeenRows
from twostage.store.files import (
    PART,
    RECORD,
    SEEN,
    span,
)
from twostage.store.inspection import Fault, StoreInfo, describe, find_faults
from twostage.store.locking import locked
from twostage.store.maintenance import ROWS_OF_A_LARGE_PART, Compaction, compact, drop_rows
from twostage.store.places import Files, Where, check_folder, delete_files, open_files
from twostage.store.remote_files import ChangedError
from twostage.store.schema import (
    INDEX_COLUMNS,
    REPLACES_KEY,
    SPEC_KEY,
    embedding_matrix,
    part_schema,
)
from twostage.store.whereabouts import NEEDED, Contents, Whereabouts, contents_of

FORMAT_VERSION = 2
_LARGEST_DIM = 1 << 20
_STORAGE_DTYPES = ("float32", "float16")
_RECORDED_LIBRARIES = ("twostage", "keras", "numpy", "pillow", "pyarrow")
T = TypeVar("T")


class _GoneError(StoreError):
    """A part that was listed is not there: another run has put its rows elsewhere meanwhile."""


class _ChangedError(_GoneError):
    """A part was written anew while it was read."""


class EmbeddingStore:
    """The cached embeddings of one backbone.

    Parameters
    ----------
    path : path-like
        Folder or URL (``s3://bucket/store``) of an existing store; `create` makes a new one.

    Attributes
    ----------
    path : pathlib.Path or str
        The folder, or the URL.
    spec : dict
        The backbone's record, as ``BackboneSpec.to_dict`` gives it.
    record : dict
        What its `_store.json` says.
    schema : pyarrow.Schema
        Of a part.
    files : StoreFiles or RemoteFiles
        What lies there.
    before_write : callable or None
        Called before each part is written: raises if it must not be.

    Raises
    ------
    StoreError
        If the folder is no store, or one of another format version.

    Notes
    -----
    The listing is the truth: a part under its final name is committed, but for those that another
    part says it replaces. Everything else in the folder begins with ``_`` or ``.``, so that
    ``pandas.read_parquet(folder)`` reads the parts. A store can be read while a run writes it.
    """

    def __init__(self, path: Where):
        self.files: Files = open_files(path)
        self.path: Path | str = self.files.where
        self.record = self._read_record()
        self.spec: dict[str, Any] = self.record["spec"]
        self.schema = part_schema(self.spec)
        self.before_write: Callable[[], None] | None = None
        self._whereabouts: Whereabouts | None = None

    @classmethod
    def create(
        cls,
        path: Where,
        spec: Mapping[str, Any],
        identity: str | None = None,
        seen: SeenRows | None = None,
    ) -> "EmbeddingStore":
        """Make an empty store for a backbone.

        Parameters
        ----------
        path : path-like
            The folder or URL.
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
        files = open_files(path)
        check_folder(files)
        record = {
            "format_version": FORMAT_VERSION,
            "spec": dict(spec),
            "identity": identity,
            "seen": None,
            "versions": {name: version(name) for name in _RECORDED_LIBRARIES},
        }
        try:
            files.make_room()
            _write_record(files, record, seen)
        except OSError as error:
            raise StoreError(f"Can't write the store '{files.where}': {error.strerror}.") from error
        return cls(files)

    @staticmethod
    def exists_at(path: Where) -> bool:
        """Whether the folder or URL is a store.

        Raises
        ------
        StoreError
            If it can't be looked at.
        """
        files = open_files(path)
        try:
            return files.has(RECORD)
        except OSError as error:
            raise _unreadable(files, error) from error

    def __len__(self) -> int:
        return sum(self.scan(lambda part: len(self.read_part(part, ["image"]))))

    def __repr__(self) -> str:
        return f"EmbeddingStore({str(self.path)!r})"

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        return int(self.spec["dim"])

    @property
    def seen(self) -> SeenRows:
        """What its backbone was trained on; unknown where a record of it is lost or damaged."""
        digest = self.record["seen"]
        if digest is None:
            return SeenRows()
        try:
            data = self.files.read(SEEN) if self.files.has(SEEN) else None
        except OSError as error:
            raise _unreadable(self.files, error) from error
        if data is None or hash_bytes(data) != digest:
            return SeenRows(is_known=False)
        return SeenRows.from_bytes(data, self.files.path_of(SEEN))

    def remember(self, seen: SeenRows) -> None:
        """Note what its backbone was trained on, where that was not known."""
        if not seen.is_known or self.seen.is_known:
            return
        try:
            _write_record(self.files, self.record, seen)
        except OSError as error:
            raise StoreError(f"Can't write the store '{self.path}': {error.strerror}.") from error
        self.record = self._read_record()

    def parts(self) -> list[str]:
        """Return the names of the committed parts, in the order of their numbers."""
        return self._of_one_state(self._without_replaced)

    def replaced_parts(self) -> list[str]:
        """Return the names of parts whose rows another part has; only a killed run leaves any."""
        return self._of_one_state(lambda listed: sorted(self._replaced(listed)))

    def has_part(self, part: str) -> bool:
        """Whether there is a part of that name."""
        return self.files.has(part)

    def next_number(self) -> int:
        """Return the number of the next new part."""
        return max((span(part)[1] for part in self._listed_parts()), default=-1) + 1

    def scan(self, read: Callable[[str], T]) -> list[T]:
        """Apply a function to every part, all of one state of the store.

        Parameters
        ----------
        read : callable
            Takes the name of a part. Called again for all of them if parts were put together or
            dropped meanwhile.
        """
        return self._of_one_state(
            lambda listed: self.files.map(read, self._without_replaced(listed))
        )

    def index(self, columns: Sequence[str] = INDEX_COLUMNS) -> pa.Table:
        """Return all rows without their embeddings, and the part each stands in.

        Parameters
        ----------
        columns : sequence of str
            Which of the columns of `twostage.store.schema.part_schema`.

        Returns
        -------
        pyarrow.Table
            Those columns, and ``part``, as a dictionary.
        """
        empty = pa.schema([self.schema.field(name) for name in columns]).empty_table()
        parts = self.scan(lambda part: (part, self.read_part(part, columns)))
        rows = pa.concat_tables([empty, *(table.replace_schema_metadata() for _, table in parts)])
        numbers = np.repeat(
            np.arange(len(parts), dtype=np.int32), [len(table) for _, table in parts]
        )
        names = pa.array([part for part, _ in parts], pa.string())
        return rows.append_column("part", pa.DictionaryArray.from_arrays(numbers, names))

    def failed(self) -> pa.Table:
        """Return ``image`` and ``error`` of the rows without an embedding."""
        columns = ["image", "error"]
        empty = pa.schema([self.schema.field(name) for name in columns]).empty_table()

        def failed_in(part: str) -> pa.Table:
            rows = self.read_part(part, columns).replace_schema_metadata()
            return rows.filter(pc.is_valid(rows["error"]))

        return pa.concat_tables([empty, *self.scan(failed_in)])

    def to_pandas(self) -> Any:
        """Return the whole store as a pandas DataFrame, one row per image."""
        parts = self.scan(self.read_part)
        return pa.concat_tables([self.schema.empty_table(), *parts]).to_pandas()

    def read_part(self, part: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows of one part.

        Raises
        ------
        StoreError
            If the part is damaged, or made by another backbone.
        """
        while True:
            try:
                with self._opened(part) as file:
                    return file.read(columns=None if columns is None else list(columns))
            except _ChangedError:
                continue

    @contextmanager
    def _opened(self, part: str) -> Iterator[pq.ParquetFile]:
        """Open one part; what is read from it is of one state, also if it is replaced meanwhile."""
        where = f"Part '{self.files.path_of(part)}'"
        try:
            with self._parquet(part) as file:
                self._check_schema(where, file.schema_arrow)
                yield file
        except StoreError:
            raise
        except ChangedError as error:
            raise _ChangedError(f"{where} is written anew all the time.") from error
        except FileNotFoundError as error:
            raise _GoneError(f"{where} is gone. Check that nothing deletes parts.") from error
        except Exception as error:  # of damaged parts, pyarrow raises almost anything
            reason = first_line(error)
            if isinstance(error, OSError) and error.errno is not None:  # the system's, not Arrow's
                raise StoreError(f"{where} can't be read: {reason}. {self.files.remedy}") from error
            raise StoreError(
                f"{where} can't be read ({reason}). Delete it and run the same "
                "'twostage extract' again: only its images are embedded anew."
            ) from error

    @contextmanager
    def _parquet(self, part: str) -> Iterator[pq.ParquetFile]:
        with (
            self.files.open(part) as source,
            pq.ParquetFile(
                source, page_checksum_verification=True, pre_buffer=not self.files.is_local
            ) as file,
        ):
            yield file

    def _check_schema(self, where: str, found: pa.Schema) -> None:
        spec = (found.metadata or {}).get(SPEC_KEY)
        if spec != self.schema.metadata[SPEC_KEY]:
            raise StoreError(
                f"{where} was made by another backbone than the store it lies in"
                f"{self._difference(spec)}. Move it out of the folder."
            )
        if not found.equals(self.schema):
            raise StoreError(
                f"{where} has not the columns of a store's part. Delete it and run the same "
                "'twostage extract' again: only its images are embedded anew."
            )

    def _difference(self, found: bytes | None) -> str:
        try:
            theirs = json.loads(found or b"")
            names = [name for name, mine in self.spec.items() if theirs.get(name) != mine]
            return ": " + "; ".join(f"{n} is {theirs.get(n)}, not {self.spec[n]}" for n in names)
        except (ValueError, AttributeError):
            return ": it does not say which"

    def embeddings(self, images: Sequence[str], parts: Sequence[str] | None = None) -> np.ndarray:
        """Return the embeddings of images, in the order given.

        Parameters
        ----------
        images : sequence of str, length n
            Names as the store has them; a name may occur more than once.
        parts : sequence of str, optional
            Where they were seen last: no other part is read if they all are still there.

        Returns
        -------
        float32 array of shape (n, dim)
            NaN where the store has no embedding for the name.
        """
        if parts is not None:
            with suppress(_GoneError):
                matrix, is_found = self._gather("image", images, parts)
                if is_found.all():
                    return matrix
        return self._gather("image", images)[0]

    def known(self, hashes: Sequence[str]) -> dict[str, np.ndarray]:
        """Return the embeddings of content hashes, those that the store has."""
        unique = list(dict.fromkeys(hashes))
        if not unique:
            return {}
        with suppress(_GoneError):
            matrix, is_found = self._gather(
                "content_hash", unique, self.whereabouts().parts_of(unique)
            )
            if is_found.all():
                return dict(zip(unique, matrix, strict=True))
        # What is not where it was seen last may stand elsewhere by now: others write too.
        matrix, is_found = self._gather("content_hash", unique)
        return {unique[i]: matrix[i] for i in np.flatnonzero(is_found)}

    def whereabouts(self) -> Whereabouts:
        """Return where the embedding of each content hash stands, as far as this object knows."""
        if self._whereabouts is None:
            self._whereabouts = Whereabouts(self.scan(self._contents_of))
        return self._whereabouts

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
        if self.has_part(part):
            old = self.read_part(part)
            is_kept = pc.invert(pc.is_in(old["image"], value_set=rows["image"].combine_chunks()))
            rows = pa.concat_tables([old.filter(is_kept), rows])
        self.put_part(part, rows)

    def put_part(self, part: str, rows: pa.Table, replaces: Sequence[str] = ()) -> None:
        """Commit a part with these rows and no others, whole or not at all.

        Parameters
        ----------
        part : str
            Its name.
        rows : pyarrow.Table
            In the store's schema.
        replaces : sequence of str
            Parts that don't count from then on, though they may still be there.

        Raises
        ------
        StoreError
            If the disk does not take it; the store is as it was.
        """
        noted = {REPLACES_KEY: json.dumps(list(replaces)).encode()} if replaces else {}
        table = rows.cast(self.schema).replace_schema_metadata({**self.schema.metadata, **noted})
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            compression="zstd",
            use_dictionary=["error"],
            write_page_checksum=True,  # a flipped bit would be another embedding
        )
        try:
            if not self.files.has(RECORD):
                raise StoreError(
                    f"The store '{self.path}' is gone: its folder was moved, deleted or unmounted "
                    "while a run wrote it. Put it back to go on, or extract again."
                )
            if self.before_write is not None:
                self.before_write()
            self.files.replace(part, sink.getvalue())
        except OSError as error:
            raise StoreError(
                f"Can't write '{self.files.path_of(part)}': {error.strerror}. The store holds all "
                "parts written before; run the same command again to continue."
            ) from error
        if self._whereabouts is not None:
            self._whereabouts.add(part, contents_of(rows))

    def delete_parts(self, parts: Iterable[str]) -> None:
        """Delete parts.

        Raises
        ------
        StoreError
            If they can't be.
        """
        try:
            self.files.delete(parts)
        except OSError as error:
            raise StoreError(
                f"Can't delete parts of the store '{self.path}': {error.strerror}."
            ) from error

    def finish(self) -> None:
        """Finish what a killed `compact` has left: delete the parts that others replace.

        To be called while the lock is held.
        """
        replaced = self.replaced_parts()
        if replaced:
            self.delete_parts(replaced)

    def info(self) -> StoreInfo:
        """Say what it holds."""
        return describe(self)

    def verify(self) -> list[Fault]:
        """Read all of it, and say what is wrong: schema, sums, rows, numbers, files.

        Returns
        -------
        list of Fault
            Empty if it holds what it says.
        """
        return find_faults(self)

    def prune(self, images: Iterable[str]) -> int:
        """Drop the rows of images, under its lock.

        Parameters
        ----------
        images : iterable of str
            Names as the store has them. `twostage.pruning.gone_images` tells which are gone.

        Returns
        -------
        int
            How many rows were dropped.
        """
        return drop_rows(self, images)

    def compact(self, n_rows: int = ROWS_OF_A_LARGE_PART) -> Compaction:
        """Put small parts together, under its lock; it can be read meanwhile.

        Parameters
        ----------
        n_rows : int
            Of a part, at most. A part is written anew where one of its images changes.

        Returns
        -------
        Compaction
            How many parts there were, and are.
        """
        return compact(self, n_rows)

    @contextmanager
    def lock(self, *, wait: bool = False) -> Iterator[None]:
        """Hold the store for one run that writes; see `twostage.store.locking.locked`."""
        with locked(self.files, wait=wait):
            self.finish()
            yield

    def delete(self) -> None:
        """Delete the store: its own files, and the folder if nothing else is in it."""
        with locked(self.files):
            delete_files(self.files)

    def _contents_of(self, part: str) -> tuple[str, Contents]:
        return part, contents_of(self.read_part(part, NEEDED))

    def _gather(
        self, column: str, wanted: Sequence[str], parts: Sequence[str] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Collect the embeddings of the rows whose ``column`` holds the wanted values.

        They are looked for in the given parts, in all of them if None.

        Returns
        -------
        matrix : float32 array of shape (n, dim)
            NaN where there is none.
        is_found : bool array of shape (n,)
        """
        names = pa.array(wanted, pa.string())
        matrix = np.full((len(wanted), self.dim), np.nan, np.float32)
        is_found = np.zeros(len(wanted), dtype=bool)

        def gather(part: str) -> None:
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

        if parts is not None:
            self.files.map(gather, parts)
        elif wanted:
            self.scan(gather)
        return matrix, is_found

    def _of_one_state(self, look: Callable[[list[str]], T]) -> T:
        """Look at the listed parts; once more if one of them is gone by then."""
        while True:
            listed = self._listed_parts()
            try:
                return look(listed)
            except _ChangedError:
                continue
            except _GoneError:
                if self._listed_parts() == listed:
                    raise

    def _listed_parts(self) -> list[str]:
        """List the parts, until two listings agree.

        A listing during which files come and go may have missed both what was put together and
        what it was made of; the next one has the first.
        """
        listed = None
        while listed != (again := sorted(filter(PART.fullmatch, self.files.names()), key=span)):
            listed = again
        return again

    def _without_replaced(self, listed: Sequence[str]) -> list[str]:
        replaced = self._replaced(listed)
        return [part for part in listed if part not in replaced]

    def _replaced(self, listed: Sequence[str]) -> set[str]:
        """Return which of the listed parts another one replaces.

        A part's name says between which numbers those lie, so that few parts are asked, if any.
        """
        replaced: set[str] = set()
        wide, last = "", -1
        for part in sorted(listed, key=lambda part: (span(part)[0], -span(part)[1])):
            if span(part)[1] > last:
                wide, last = part, span(part)[1]
            elif part in self._replaced_by(wide):
                replaced.add(part)
        return replaced

    def _replaced_by(self, part: str) -> list[str]:
        with self._opened(part) as file:
            noted = json.loads(file.schema_arrow.metadata.get(REPLACES_KEY, b"[]"))
            return noted if isinstance(noted, list) else []

    def _read_record(self) -> dict[str, Any]:
        if not self.files.exist():
            raise StoreError(f"There is no store '{self.path}'. Make it with 'twostage extract'.")
        try:
            record = self.files.read_json(RECORD)
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


def _unreadable(files: Files, error: OSError) -> StoreError:
    return StoreError(f"The store '{files.where}' can't be read: {error.strerror}. {files.remedy}")


def _write_record(files: Files, record: Mapping[str, Any], seen: SeenRows | None) -> None:
    """Write a store's record, after the list of what its backbone has seen."""
    digest = None
    if seen is not None:
        data = seen.to_bytes() if seen.is_known else b""
        if seen.is_known:
            files.replace(SEEN, data)
        digest = hash_bytes(data)
    files.replace(RECORD, json.dumps({**record, "seen": digest}, indent=1).encode())
