"""Read and write tables as CSV or Parquet."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twostage.errors import DataError, UsageError, did_you_mean

PathLike = str | os.PathLike[str]
IMAGE_COLUMN, FOLDER_COLUMN = "image", "folder"
_PARQUET = (".parquet", ".pq")
_NULL = "nothing"
_SHARDS = (*_PARQUET, ".tar", ".tar.gz", ".tgz")  # hold images, but name no class


def table_files(path: PathLike) -> list[Path]:
    """Return the files of a table, sorted: itself, or the Parquet files in a folder and below.

    Names that begin with "." or "_" are left out.

    Raises
    ------
    DataError
        If a folder has none.
    """
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.suffix.lower() in _PARQUET and not is_hidden(file.relative_to(folder))
    ]
    if not files:
        raise DataError(f"'{path}' has no Parquet files. Give the folder of a table's files.")
    return files


def is_hidden(name: Path) -> bool:
    """Whether a file is none of a table's, by its name in the folder."""
    return any(part.startswith((".", "_")) for part in name.parts)


def read_table(path: PathLike, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a CSV or Parquet file, told apart by its ending, or a folder of Parquet files.

    Parameters
    ----------
    path : path-like
        Of the file, or the folder.
    columns : sequence of str, optional
        Read these alone.

    Raises
    ------
    UsageError
        If there is no such file.
    DataError
        If it can't be read as a table, or has no rows.
    """
    if Path(path).is_dir():
        files = table_files(path)
        check_alike(files)
        return pd.concat([read_table(file, columns) for file in files], ignore_index=True)
    file = Path(path)
    if not file.is_file():
        raise UsageError(f"There is no table '{path}'. Give a CSV or Parquet file.")
    is_parquet = file.suffix.lower() in _PARQUET
    try:
        repeated = _repeated_names(file)
        if repeated:
            raise DataError(f"Table '{path}' has two columns '{repeated[0]}'. Rename one.")
        if is_parquet:
            frame = pd.read_parquet(file, columns=None if columns is None else [*columns])
        else:
            frame = pd.read_csv(file, sep=_separator(file), low_memory=False)
            frame = frame if columns is None else frame[[*columns]]
    except DataError:
        raise
    except UnicodeDecodeError as error:
        what = "can't be read as a table" if is_parquet else "is no UTF-8 text"
        raise DataError(f"'{path}' {what} ({error}). Save it as UTF-8.") from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"Table '{path}' is empty.") from error
    except Exception as error:  # what pandas wrote into a Parquet file may be anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(f"'{path}' can't be read as a table: {reason}") from error
    if frame.empty:
        raise DataError(f"Table '{path}' has no rows.")
    return frame


def column_names(path: PathLike) -> list[str]:
    """Return the columns of a table, from its first file."""
    return [str(name) for name in _names_in(table_files(path)[0])]


def check_alike(files: Sequence[Path]) -> None:
    """Check that the files of a table have the same columns, as far as they are Parquet.

    Raises
    ------
    DataError
        Naming the first file and column that differ.
    """
    if len(files) < 2:
        return
    first = _kinds(files[0])
    for file in files[1:]:
        kinds = _kinds(file)
        for name in {**first, **kinds}:
            here, there = kinds.get(name), first.get(name)
            if here != there and _NULL not in (here, there):
                raise DataError(
                    f"'{file}' has {_told(name, here)}, '{files[0]}' has {_told(name, there)}. "
                    "Write all files of the table alike."
                )


def _kinds(file: Path) -> dict[str, str]:
    """Return the columns of a Parquet file, and what kind of values they hold."""
    try:
        schema = pq.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"'{file}' can't be read as a table: {error}") from error
    return {field.name: _kind_of(field.type) for field in schema}


def _kind_of(kind: pa.DataType) -> str:
    """Return a type's kind: numbers of any size are one, texts, categories of texts too."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "numbers"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "texts"
    if pa.types.is_temporal(kind):
        return "times"
    if pa.types.is_null(kind):
        return _NULL
    return "lists" if pa.types.is_nested(kind) else str(kind)


def _told(name: str, kind: str | None) -> str:
    return f"no column '{name}'" if kind is None else f"{kind} in column '{name}'"


def table_from_folders(names: Sequence[str]) -> pd.DataFrame:
    """Make the table of images that are sorted into a folder per class.

    Parameters
    ----------
    names : sequence of str
        Image names such as ``train/cats/1.jpg``.

    Returns
    -------
    DataFrame
        ``image``, the name, and ``folder``, the name of the folder it is in.

    Raises
    ------
    DataError
        If images are in no folder.
    """
    folders = [PurePosixPath(name).parent.name for name in names]
    folders = ["" if folder.endswith(_SHARDS) else folder for folder in folders]
    bare = [name for name, folder in zip(names, folders, strict=True) if not folder]
    if bare:
        raise DataError(
            f"{len(bare)} of {len(names)} images are in no folder that could name their class; "
            f"first: '{bare[0]}'. Put each class into a folder, or give a --table."
        )
    return pd.DataFrame({IMAGE_COLUMN: list(names), FOLDER_COLUMN: folders})


def check_parent(path: PathLike) -> None:
    """Raise UsageError if a file can't be written there for want of a folder."""
    file = Path(path)
    if file.is_dir():
        raise UsageError(f"'{path}' is a folder. Give the name of a file to write.")
    if file.suffix.lower() not in (*_PARQUET, ".csv"):
        raise UsageError(f"'{path}' must end in .csv or .parquet, which says what to write.")
    if not file.parent.is_dir():
        raise UsageError(f"There is no folder '{file.parent}' to write '{file.name}' to. Make it.")


def write_table(frame: pd.DataFrame, path: PathLike) -> None:
    """Write a table whole or not at all, as Parquet or else CSV, by the path's ending."""
    file = Path(path)
    temporary = file.with_name(f"_tmp-{file.name}")
    try:
        if file.suffix.lower() in _PARQUET:
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)
        os.replace(temporary, file)
    except (OSError, pa.ArrowException) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"Can't write '{path}': {reason}.") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def _separator(file: Path) -> str:
    """Return what separates the columns of a CSV file: ``;`` or a tab if its head has no comma."""
    with open(file, encoding="utf-8-sig") as text:
        head = text.readline()
    return next((mark for mark in (",", ";", "\t") if mark in head), ",")


def _repeated_names(file: Path) -> list[str]:
    """Return the column names that a file has twice, which pandas would rename or choke on."""
    names = _names_in(file)
    return [name for name in dict.fromkeys(names) if names.count(name) > 1]


def _names_in(file: Path) -> list[str]:
    if file.suffix.lower() in _PARQUET:
        names: list[str] = pq.read_schema(file).names
        return names
    head = pd.read_csv(file, sep=_separator(file), header=None, nrows=1, dtype=str)
    return list(head.iloc[0].dropna())


def require_column(frame: pd.DataFrame, column: str, purpose: str) -> pd.Series:
    """Return a column of a table.

    Raises
    ------
    DataError
        If the table has no such column; it lists those it has.
    """
    if column not in frame.columns:
        names = [str(name) for name in frame.columns]
        shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
        raise DataError(
            f"The table has no {purpose} column '{column}'.{did_you_mean(column, names)} "
            f"Its columns are: {shown}."
        )
    return frame[column]
