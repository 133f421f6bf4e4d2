"""The files of a store in a folder: their names, what lists, reads, writes and deletes them.

Nothing else of the store touches the disk but the lock. What is written is there whole or not at
all, and after a power loss too: a file is synced before it gets its name, and its folder after.
The files of a store behind a URL are in `remote_files.py`.
"""

import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from twostage.errors import StoreError
from twostage.opening.files import read_json

RECORD = "_store.json"
SEEN = "_seen.parquet"
LOCK = "_lock"
HOLDER = "_run.json"
PART = re.compile(r"part-(\d{6,})(?:-(\d{6,}))?\.parquet")
_LEASE = re.compile(r"_lock-\d{6,}")  # the lock, where it is no system's
_TEMPORARY = "_tmp-"
T = TypeVar("T")


def is_ours(name: str) -> bool:
    """Whether a file of that name belongs to a store."""
    known = (RECORD, SEEN, LOCK, HOLDER)
    return name in known or is_leftover(name) or is_lease(name) or PART.fullmatch(name) is not None


def is_lease(name: str) -> bool:
    """Whether a file of that name is the lock of a store behind a URL."""
    return _LEASE.fullmatch(name) is not None


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

    Attributes
    ----------
    where : Path
        The folder.
    is_local : bool
        Whether the system's lock and its folders are there.
    remedy : str
        What to check where they can't be read.
    """

    is_local = True
    remedy = "Check disk and rights."

    def __init__(self, folder: Path):
        self.folder = self.where = folder

    @property
    def address(self) -> str:
        """Where they are, from wherever one looks."""
        return str(self.folder.resolve())

    def path_of(self, name: str) -> str:
        """Return the path of a file, for messages."""
        return str(self.folder / name)

    def exist(self) -> bool:
        """Whether there is anything at the place."""
        return self.folder.exists()

    def check_writable(self) -> None:
        """Do nothing: the first write tells."""

    def confirm_held(self) -> None:
        """Do nothing: the system's lock is held as long as its process lives."""

    def make_room(self) -> None:
        """Make the folder, durably."""
        make_folder(self.folder)

    def map(self, work: Callable[[str], T], names: Iterable[str]) -> list[T]:
        """Apply a function that reads to the name of each file."""
        return [work(name) for name in names]

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

    def read_json(self, name: str) -> Any:
        """Read a record; see `twostage.opening.files.read_json`."""
        return read_json(self.folder / name)

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


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


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
