"""Single files to read from at any place: on a disk, or behind a URL."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO, NoReturn, Protocol

from twostage.errors import ImageError, ImagesError, TwoStageError, UsageError
from twostage.remote import Remote, reason_of


class File(Protocol):
    """A file whose bytes can be had from anywhere in it, by several threads at once.

    Attributes
    ----------
    where : str
        Its absolute path, or its URL.
    size_bytes, mtime_ns : int and int or None
        As of the moment it was found.
    """

    @property
    def where(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def mtime_ns(self) -> int | None: ...

    def __hash__(self) -> int: ...

    def open(self) -> BinaryIO:
        """Open it, to read on or to seek."""
        ...

    def read_at(self, start: int, n_bytes: int) -> bytes:
        """Return bytes from its middle; raise ImageError if they can't be had."""
        ...


@dataclass(frozen=True)
class LocalFile:
    """A file of this machine."""

    where: str
    size_bytes: int
    mtime_ns: int | None

    @classmethod
    def at(cls, path: str) -> "LocalFile":
        """Find the file at a path."""
        stat = os.stat(path)
        return cls(os.path.abspath(path), stat.st_size, stat.st_mtime_ns)

    def open(self) -> BinaryIO:
        return open(self.where, "rb")

    def read_at(self, start: int, n_bytes: int) -> bytes:
        try:
            with open(self.where, "rb") as file:
                stat = os.fstat(file.fileno())
                if (stat.st_size, stat.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
                    raise ImageError("read", "its file has changed since it was listed")
                return os.pread(file.fileno(), n_bytes, start)
        except OSError as error:
            raise ImageError("read", reason_of(error)) from None


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL.

    Attributes
    ----------
    remote : Remote
        Its file system.
    path, size_bytes, mtime_ns
        See `twostage.remote.RemoteFacts`.
    """

    remote: Remote
    path: str
    size_bytes: int
    mtime_ns: int | None

    @property
    def where(self) -> str:
        return self.remote.url_of(self.path)

    def open(self) -> BinaryIO:
        return self.remote.open(self.path)

    def read(self) -> bytes:
        """Return all of it; raise ImageError if it can't be had."""
        return _as_image_error(lambda: self.remote.read(self.path))

    def read_at(self, start: int, n_bytes: int) -> bytes:
        return _as_image_error(lambda: self.remote.read(self.path, start, start + n_bytes))


class Unpacked:
    """What a compressed file holds, on the disk as long as this object lives.

    Parameters
    ----------
    file : File
        The compressed file.
    unpack : callable
        Copies from the one, open, to the other.
    """

    def __init__(self, file: File, unpack: Callable[[BinaryIO, BinaryIO], None]):
        self.where = file.where
        self.mtime_ns = file.mtime_ns
        try:
            # It has no name, and so is gone with the process, however that ends.
            self._copy = tempfile.TemporaryFile(prefix="twostage-")  # noqa: SIM115
            with file.open() as packed:
                unpack(packed, self._copy)
            self._copy.flush()
        except TwoStageError:
            raise
        except OSError as error:
            raise ImagesError(
                f"'{file.where}' can't be unpacked into '{tempfile.gettempdir()}' "
                f"({error.strerror or error}). Make room there, set TMPDIR to another folder, or "
                "give a .tar that is not compressed: it is read as it lies."
            ) from error
        self.size_bytes = os.fstat(self._copy.fileno()).st_size

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            f"'{self.where}' is compressed, and was unpacked for this machine alone. Give other "
            "machines a .tar that is not compressed: it is read as it lies."
        )

    def open(self) -> BinaryIO:
        file = os.fdopen(os.dup(self._copy.fileno()), "rb")
        file.seek(0)
        return file

    def read_at(self, start: int, n_bytes: int) -> bytes:
        return os.pread(self._copy.fileno(), n_bytes, start)


def _as_image_error(read: Callable[[], bytes]) -> bytes:
    try:
        return read()
    except Exception as error:  # each file system has its own
        raise ImageError("read", reason_of(error)) from error
