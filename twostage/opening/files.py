"""Read JSON, arrays and archives that others may have made: within limits, and no code.

What these functions find is told by `ValueError`s and `OSError`s: who asked knows which file it is,
and what to do about it.
"""

import json
import stat
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

_MOST_BYTES_OF_JSON = 1 << 27
_MOST_BYTES_OF_ZIP = 1 << 26  # of what may be packed as tightly as it likes
_TIGHTEST = 100  # zeros are packed a thousand times tighter than numbers that were learned


def read_json(file: Path) -> Any:
    """Read a JSON file.

    Raises
    ------
    OSError
        If it can't be read.
    ValueError
        If it is no JSON, no file (a device or a pipe would never end), beyond 128 MB, or nested
        so deeply that whoever walks through it would run out of stack.
    """
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("it is no file")
    check_size_of_json(status.st_size)
    return parse_json(file.read_bytes())


def check_size_of_json(n_bytes: int) -> None:
    """Raise ValueError for more bytes than a record has."""
    if n_bytes > _MOST_BYTES_OF_JSON:
        raise ValueError(f"it has {n_bytes / 1e6:,.0f} MB, too many for a record")


def parse_json(data: bytes) -> Any:
    """Parse JSON; see `read_json`."""
    try:
        return json.loads(data.decode())
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read a file of NumPy arrays of numbers, as ``np.savez`` writes it.

    Raises
    ------
    OSError
        If it can't be read.
    ValueError
        If it is damaged, or holds anything but arrays of numbers, or arrays that claim more numbers
        than there are bytes.
    """
    with open(file, "rb") as opened:
        archive = check_zip(opened)
        packed = [
            info.filename for info in archive.infolist() if info.file_size != info.compress_size
        ]
        if packed:
            raise ValueError(f"its array '{packed[0]}' is packed")
        try:
            with np.load(opened, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
        except Exception as error:  # damaged headers and sizes make it raise almost anything
            raise ValueError(f"{type(error).__name__}: {error}") from error
    for name, array in found.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "biuf":
            raise ValueError(f"its array '{name}' does not hold numbers")
    return found


def check_zip(opened: BinaryIO) -> zipfile.ZipFile:
    """Open a ZIP archive whose parts may be read without filling the memory.

    Raises
    ------
    ValueError
        If it is none, names a part twice or outside of itself, or would unpack to more than a
        hundred times its size.
    """
    try:
        archive = zipfile.ZipFile(opened)
    except Exception as error:  # of damaged archives, zipfile raises almost anything
        raise ValueError(f"{type(error).__name__}: {error}") from error
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ValueError("it has two parts of one name")
    outside = [name for name in names if name.startswith("/") or ".." in name.split("/")]
    if outside:
        raise ValueError(f"it names a file outside itself, '{outside[0]}'")
    infos = archive.infolist()
    unpacked = sum(info.file_size for info in infos)
    # Sizes of parts are what the archive says; together they can't be more than there is.
    packed = min(sum(info.compress_size for info in infos), opened.seek(0, 2))
    if unpacked > max(_MOST_BYTES_OF_ZIP, _TIGHTEST * packed):
        raise ValueError(f"its {packed:,} bytes would unpack to {unpacked:,}")
    opened.seek(0)
    return archive
