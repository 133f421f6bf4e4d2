"""The files of a store: their names, and all that lists, reads, writes and deletes them.

Nothing else of the store touches the disk but the lock. What is written is there whole or not at
all, and after a power loss too: a file is synced before it gets its name, and its folder after.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa

from twostage.errors import StoreError

RECORD = "_store.json"
SEEN = "_seen.parquet"
LOCK = "_lock"
HOLDER = "_run.json"
PART = re.compile(r"part-(\d{6,})(?:-(\d{6,}))?\.parquet")
_TEMPORARY = "_tmp-"


def is_ours(name: str) -> bool:
    """Whether a file of that name belongs to a store."""
    known = (RECORD, SEEN, LOCK, HOLDER)
    return name in known or is_leftover(name) or bool(PART.fullmatch(name))


def is_leftover(name: str) -> bool:
    """Whether a file of that name is half-written, by a run that is under way or was killed."""
    return name.startswith(_TEMPORARY)


def span(part: str) -> tuple[int, int]:
    """Return the first and the last number that a part's name bears; most bear one."""
    match = PART.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} is no name of a part.")
    first, last = match.groups()
    return int(first), int(last or first)


def name_of_span(first: int, last: int) -> str:
    """Return the name of the part that takes the place of those from one number to another."""
    return f"part-{first:06d}-{last:06d}.parquet"


class StoreFiles:
    """The files in a store's folder, on a local disk.

    Parameters
    ----------
    folder : Path
        Where they are.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names of all files.

        Raises
        ------
        StoreError
            If the folder can't be listed, since it is gone for example.
        """
        try:
            return os.listdir(self.folder)
        except OSError as error:
            raise StoreError(
                f"The store '{self.folder}' can't be listed: {error.strerror}. Check that its "
                "folder and its disk are there."
            ) from error

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return (self.folder / name).is_file()

    def size_bytes(self, name: str) -> int:
        """Return the size of a file."""
        return (self.folder / name).stat().st_size

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        return (self.folder / name).read_bytes()

    def open(self, name: str) -> pa.NativeFile:
        """Open a file to read from anywhere in it; it stays what it was if it is replaced."""
        return pa.OSFile(os.fspath(self.folder / name))

    def replace(self, name: str, data: Any) -> None:
        """Write a file whole or not at all, and durably."""
        replace_file(self.folder / name, data)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files, and durably."""
        for name in names:
            (self.folder / name).unlink(missing_ok=True)
        _sync_folder(self.folder)


def check_folder(folder: Path) -> None:
    """Raise StoreError if a folder holds anything but a store."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"'{folder}' is a file. Give a folder for the store.")
    names = StoreFiles(folder).names()
    # Not before: another run may be making a store, whose record comes before its parts.
    if (folder / RECORD).exists():
        return
    if not all(map(is_ours, names)):
        raise StoreError(f"'{folder}' is a folder with other files in it. Give a new folder.")
    if any(map(PART.fullmatch, names)):
        raise StoreError(
            f"'{folder}' holds parts of a store but no {RECORD}, which says what made them. Put it "
            "back, or give a new folder."
        )


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def delete_files(folder: Path) -> None:
    """Delete a store's files but its lock, which whoever holds it takes away.

    The record goes last: what a killed deletion leaves is a store of fewer parts.
    """
    kept = (LOCK, HOLDER)
    names = [name for name in os.listdir(folder) if is_ours(name) and name not in kept]
    for name in sorted(names, key=lambda name: name == RECORD):
        (folder / name).unlink(missing_ok=True)


def delete_lock(folder: Path) -> None:
    """Delete what a run that ends leaves of its lock, and a folder that it leaves empty.

    To be called while the lock is held: who waits for it notices that its file is gone.
    """
    with suppress(OSError):  # a disk that takes no more must not hide what went wrong before
        (folder / HOLDER).unlink(missing_ok=True)
        if not (folder / RECORD).exists():
            (folder / LOCK).unlink()
            folder.rmdir()


def replace_file(path: Path, data: Any) -> None:
    """Write a file whole or not at all, and durably."""
    # The temporary name ends unlike a part's: whoever reads "*.parquet" must not meet it.
    temporary = path.with_name(f"{_TEMPORARY}{path.name}~")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for leftover in folder.glob(_TEMPORARY + "*"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
