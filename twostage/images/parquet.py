"""Images whose bytes stand in a column of Parquet files, read batch by batch."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from twostage.errors import ImageError, ImagesError, UsageError, did_you_mean, first_line, listed
from twostage.images.files import File
from twostage.images.references import canonical_name
from twostage.remote import is_transient, reason_of, retried

# Where names stand in what Spark, img2dataset and others write.
_NAME_COLUMNS = ("path", "key", "__key__", "file_name", "filename", "image_path", "image_id", "id")
_BATCH_ROWS = 16
_KEPT_BATCHES = 10  # more rows than a loader is ahead: what threads ask for is among them


@dataclass(frozen=True)
class ParquetRow:
    """The bytes in a row."""

    window: "RowWindow"
    group: "RowGroup"
    number: int
    size_bytes: None = None  # the reference's is the Parquet file's

    def read(self) -> bytes:
        data = self.window.read(self.group, self.number)
        if data is None:
            raise ImageError("read", "no bytes in the row")
        return data


@dataclass(frozen=True)
class RowGroup:
    """The image bytes of a row group.

    Attributes
    ----------
    file : File
        What it is in.
    number : int
        Which of the file's it is.
    leaf : str
        Its column of bytes, as Parquet has it.
    """

    file: File
    number: int
    leaf: str

    def batches(self) -> Iterator[pa.Array]:
        """Decode the column, a few rows at a time."""
        with _opened(self.file) as parquet:
            for batch in parquet.iter_batches(
                _BATCH_ROWS, [self.number], [self.leaf], use_threads=False
            ):
                column = batch.column(0)
                yield column.flatten()[0] if pa.types.is_struct(column.type) else column


class RowWindow:
    """Reads rows that are asked for in their order, or nearly, and decodes each once.

    Notes
    -----
    It keeps a few batches, and the stream that gives the next one; to go further back, a row group
    is begun anew.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._group: RowGroup | None = None
        self._stream: Iterator[pa.Array] = iter(())
        self._next = 0  # the row that the stream's next batch begins with
        self._kept: OrderedDict[tuple[RowGroup, int], pa.Array] = OrderedDict()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return type(self), ()  # on another machine, another begins anew

    def read(self, group: RowGroup, number: int) -> bytes | None:
        """Return the bytes in a row of a row group; None if it is null."""
        start = number - number % _BATCH_ROWS
        with self._lock:
            if (group, start) not in self._kept:
                try:
                    retried(lambda: self._advance(group, start))
                except Exception as error:  # each file system has its own
                    raise ImageError("read", f"parquet: {_in_short(error)}") from error
            value = self._kept[group, start][number - start].as_py()
        return None if value is None else bytes(value)

    def _advance(self, group: RowGroup, start: int) -> None:
        """Decode up to a batch, and keep it and those before it."""
        if self._group != group or self._next > start:
            self._group, self._stream, self._next = group, group.batches(), 0
        try:
            while self._next <= start:
                self._kept[group, self._next] = next(self._stream)
                self._next += _BATCH_ROWS
                if len(self._kept) > _KEPT_BATCHES:
                    self._kept.popitem(last=False)
        except BaseException:
            self._group = None
            raise


def read_rows(
    file: File, column: str | None, window: RowWindow
) -> Iterator[tuple[str, ParquetRow]]:
    """Yield a name for each row of a Parquet file, which no other row has, and its source.

    Parameters
    ----------
    file : File
        What to read.
    column : str or None
        That of the bytes; needed where several hold bytes, or structs with a field ``bytes``.
    window : RowWindow
        What reads the rows.

    Raises
    ------
    UsageError
        If there is no such column, or it must be said which.
    ImagesError
        If the file is damaged.
    """
    try:
        with _opened(file) as parquet:
            field, n_candidates = _choose_column(parquet.schema_arrow, column, file.where)
            names = _row_names(parquet, field)
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise ImagesError(
            f"The Parquet file '{file.where}' can't be read ({_in_short(error)}). Copy or make it "
            "again."
        ) from error
    if n_candidates > 1:
        names = [f"{field.name}/{name}" for name in names]
    leaf = f"{field.name}.bytes" if pa.types.is_struct(field.type) else field.name
    left = iter(names)
    for number, size in enumerate(sizes):
        group = RowGroup(file, number, leaf)
        for row, name in enumerate(islice(left, size)):
            yield name, ParquetRow(window, group, row)


@contextmanager
def _opened(file: File) -> Iterator[pq.ParquetFile]:
    # With a buffer, a column is read on as a stream, not whole.
    with (
        file.open() as stream,
        pq.ParquetFile(stream, buffer_size=1 << 20, pre_buffer=False) as parquet,
    ):
        yield parquet


def _in_short(error: BaseException) -> str:
    return reason_of(error) if is_transient(error) else first_line(error)[:80]


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type may hold image files."""
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and holds_bytes(field.type) for field in kind)
    return bool(
        pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    )


def _choose_column(schema: pa.Schema, wanted: str | None, where: str) -> tuple[pa.Field, int]:
    """Return the column of bytes, and how many there are that might be it."""
    candidates = [field.name for field in schema if holds_bytes(field.type)]
    columns = ", ".join(f"{field.name} ({_type_name(field.type)})" for field in schema)
    if wanted is not None and wanted not in candidates:
        what = "holds no bytes" if wanted in schema.names else "is not there"
        raise UsageError(
            f"Column '{wanted}' of '{where}' {what}.{did_you_mean(wanted, candidates)} Its columns "
            f"are: {columns}. Give one of type binary, or a struct with a field 'bytes'."
        )
    if not candidates:
        raise ImagesError(
            f"'{where}' has no column of image bytes, which --bytes-col would name. Its columns "
            f"are: {columns}. If it names images that are files, give it with --table, and the "
            "folder as IMAGES."
        )
    if wanted is None and len(candidates) > 1:
        raise UsageError(
            f"'{where}' has several columns of bytes: {listed(candidates)}. Choose one with "
            "--bytes-col of 'twostage extract'."
        )
    return schema.field(wanted or candidates[0]), len(candidates)


def _type_name(kind: pa.DataType) -> str:
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _row_names(parquet: pq.ParquetFile, field: pa.Field) -> list[str]:
    """Return a name per row: from the first column of names that differ, else the row's number."""
    schema = parquet.schema_arrow
    leaves = []
    if pa.types.is_struct(field.type) and field.type.get_field_index("path") >= 0:
        leaves.append(f"{field.name}.path")
    leaves += [name for name in _NAME_COLUMNS if name in schema.names and _is_text(schema, name)]
    for leaf in leaves:
        names = _normal(_values(parquet, leaf))
        if names is not None:
            return names
    return [f"{number:08d}" for number in range(parquet.metadata.num_rows)]


def _is_text(schema: pa.Schema, name: str) -> bool:
    kind = schema.field(name).type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _values(parquet: pq.ParquetFile, leaf: str) -> list[Any]:
    column = parquet.read(columns=[leaf]).column(0)
    values = column.to_pylist()
    return [v["path"] if isinstance(v, dict) else v for v in values] if "." in leaf else values


def _normal(values: Sequence[Any]) -> list[str] | None:
    """Return names in the form a store has, or None if any is missing or stands there twice."""
    if not all(isinstance(value, str) and value.strip() for value in values):
        return None
    names = [canonical_name(value) for value in values]
    return names if len(set(names)) == len(names) else None
