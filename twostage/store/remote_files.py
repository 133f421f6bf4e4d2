"""The files of a store behind a URL: on object stores, where one PUT is whole or not at all."""

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from twostage.errors import StoreError, UsageError
from twostage.opening.files import check_size_of_json, parse_json
from twostage.remote import N_READERS, Remote, RemoteFacts, RemoteState, as_of_a_disk

T = TypeVar("T")
# Of these, a PUT is atomic, and what is written can be read and listed at once.
_WRITABLE = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory")
_TAIL_BYTES = 1 << 16  # in most parts, all behind the embeddings: a request less


class ChangedError(OSError):
    """A file was written anew while it was read, so that what was read is of no one state."""


class RemoteFiles:
    """The files of a store behind a URL.

    Its methods do what those of `twostage.store.files.StoreFiles` do, and raise what those raise:
    an `OSError` with words for a user, once it has been tried again.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/store``.

    Attributes
    ----------
    where : str
        The URL.
    confirm : callable or None
        Called before each change: raises StoreError if the run that holds the store may not hold
        it any more.
    """

    is_local = False
    remedy = "Check the connection and the rights."

    def __init__(self, url: str):
        self._remote = Remote(url)
        self.where = self._remote.url
        self.confirm: Callable[[], None] | None = None

    @property
    def address(self) -> str:
        """Where they are, from wherever one looks."""
        return self.where

    def path_of(self, name: str) -> str:
        """Return the URL of a file, for messages."""
        return f"{self.where}/{name}"

    def exist(self) -> bool:
        """Whether there is anything at the place."""
        return bool(self.entries())

    def make_room(self) -> None:
        """Do nothing: keys need no folder."""

    def check_writable(self) -> None:
        """Check that a store can be written there, whole or not at all.

        Raises
        ------
        UsageError
            If a file that is written there could be half there.
        """
        protocol = self.where.split("://")[0]
        if protocol not in _WRITABLE:
            raise UsageError(
                f"A store can't be written to '{self.where}': a run that is killed could leave "
                f"half a file there. Give a folder, or a URL of {', '.join(_WRITABLE)}."
            )

    def map(self, work: Callable[[str], T], names: Iterable[str]) -> list[T]:
        """Apply a function that reads to the name of each file, to several at once."""
        with ThreadPoolExecutor(N_READERS, thread_name_prefix="twostage-parts") as pool:
            return list(pool.map(work, names))

    def entries(self) -> dict[str, RemoteFacts]:
        """Return by name what a listing says of each file.

        Raises
        ------
        StoreError
            If it can't be had.
        """
        try:
            with self._told():
                return {_name(facts.path): facts for facts in self._remote.entries()}
        except OSError as error:
            raise StoreError(
                f"The store '{self.where}' can't be listed: {error.strerror}. {self.remedy}"
            ) from error

    def names(self) -> list[str]:
        """Return the names of all files.

        Raises
        ------
        StoreError
            If there are none, or they can't be listed.
        """
        names = list(self.entries())
        if not names:
            raise StoreError(
                f"The store '{self.where}' can't be listed: nothing is there. Check bucket "
                "and path."
            )
        return names

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        try:
            self._state_of(name)
        except FileNotFoundError:
            return False
        return True

    def size_bytes(self, name: str) -> int:
        """Return the size of a file."""
        return self._state_of(name).size_bytes

    def read(self, name: str) -> bytes:
        """Return the bytes of a file."""
        with self._told():
            return self._remote.read(self._key(name))

    def read_json(self, name: str) -> Any:
        """Read a record; see `twostage.opening.files.read_json`."""
        check_size_of_json(self.size_bytes(name))
        return parse_json(self.read(name))

    @contextmanager
    def open(self, name: str) -> Iterator["_Ranges"]:
        """Open a file to read from anywhere in it.

        Raises
        ------
        ChangedError
            In the end, if it was written anew meanwhile.
        """
        state = self._state_of(name)
        file = _Ranges(lambda start, end: self._read_range(name, start, end), state.size_bytes)
        try:
            yield file
        except Exception as error:
            if not isinstance(error, FileNotFoundError) and self._state_of(name) != state:
                raise ChangedError(f"{name} was written anew meanwhile") from error
            raise
        if file.n_reads > 1 and self._state_of(name) != state:
            raise ChangedError(f"{name} was written anew meanwhile")

    def replace(self, name: str, data: Any) -> None:
        """Write a file whole or not at all."""
        self.confirm_held()
        with self._told():
            self._remote.write(self._key(name), bytes(data))

    def create(self, name: str, data: bytes) -> None:
        """Write a file that must not be there; FileExistsError if it is."""
        with self._told():
            self._remote.create(self._key(name), data)

    def renew(self, name: str, data: bytes) -> None:
        """Write a file that says who writes the others."""
        with self._told():
            self._remote.write(self._key(name), data)

    def delete(self, names: Iterable[str]) -> None:
        """Delete files."""
        self.confirm_held()
        with self._told():
            for name in names:
                self._remote.delete(self._key(name))

    def confirm_held(self) -> None:
        """Raise StoreError if the run that holds the store may not hold it any more."""
        if self.confirm is not None:
            self.confirm()

    def _state_of(self, name: str) -> RemoteState:
        with self._told():
            return self._remote.state_of(self._key(name))

    def _read_range(self, name: str, start: int, end: int) -> bytes:
        with self._told():
            return self._remote.read(self._key(name), start, end)

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except FileExistsError:
            raise
        except Exception as error:
            raise as_of_a_disk(error, self.where) from error

    def _key(self, name: str) -> str:
        return f"{self._remote.path.rstrip('/')}/{name}"


class _Ranges(io.RawIOBase):
    """A file of which ranges are read when they are asked for, and its end once.

    Parameters
    ----------
    fetch : callable
        Takes where a range starts and ends.
    size_bytes : int
        Of the file.

    Attributes
    ----------
    n_reads : int
        Ranges that were fetched.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: int):
        self._fetch = fetch
        self._size_bytes = size_bytes
        self._position = 0
        self._tail = b""
        self.n_reads = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size_bytes}
        self._position = max(origin[whence] + offset, 0)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return what is there of so many bytes."""
        start = self._position
        end = self._size_bytes if size is None or size < 0 else start + size
        data = self._range(start, min(end, self._size_bytes))
        self._position += len(data)
        return data

    def _range(self, start: int, end: int) -> bytes:
        tail_start = max(self._size_bytes - _TAIL_BYTES, 0)
        if start >= end:
            return b""
        if start < tail_start:
            return self._fetched(start, end)
        if not self._tail:
            self._tail = self._fetched(tail_start, self._size_bytes)
        return self._tail[start - tail_start : end - tail_start]

    def _fetched(self, start: int, end: int) -> bytes:
        self.n_reads += 1
        data = self._fetch(start, end)
        if len(data) != end - start:
            raise ChangedError("it ends earlier than it did")
        return data


def _name(path: str) -> str:
    return path.rpartition("/")[2]
