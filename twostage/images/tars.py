"""Images in tars: an index of what is where, then each by its offset, never the whole tar."""

import bz2
import gzip
import lzma
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from twostage.errors import ImageError, ImagesError, PlaceError, TwoStageError, first_line
from twostage.images.files import File, Unpacked
from twostage.remote import reason_of, retried

_OPENERS: dict[str, Callable[[BinaryIO], BinaryIO]] = {
    ".tar.gz": gzip.open,  # type: ignore[dict-item]
    ".tgz": gzip.open,  # type: ignore[dict-item]
    ".tar.bz2": bz2.open,  # type: ignore[dict-item]
    ".tar.xz": lzma.open,  # type: ignore[dict-item]
}
_MOST_LINKS = 8  # from one to the next


class Member(NamedTuple):
    """One file in a tar.

    Attributes
    ----------
    name : str
        As the tar has it, without ``./`` in front.
    offset, size_bytes : int or None
        Where its bytes are; None if it links to nothing that the tar holds.
    """

    name: str
    offset: int | None
    size_bytes: int | None


@dataclass(frozen=True)
class TarSource:
    """The bytes of a member."""

    file: File
    offset: int
    size_bytes: int

    def read(self) -> bytes:
        data = self.file.read_at(self.offset, self.size_bytes) if self.size_bytes else b""
        if len(data) != self.size_bytes:
            raise ImageError("read", "cut short")
        return data


@lru_cache(maxsize=4)
def uncompressed(file: File) -> File:
    """Return a tar to read from at any place; a compressed one is unpacked to the disk first."""
    ending = next((ending for ending in _OPENERS if file.where.lower().endswith(ending)), None)
    if ending is None:
        return file

    def unpack(packed: BinaryIO, copy: BinaryIO) -> None:
        try:
            with _OPENERS[ending](packed) as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise _damaged(file, first_line(error)) from error

    return Unpacked(file, unpack)


def read_members(file: File) -> list[Member]:
    """Read the index of a tar, from header to header; of two members of one name the last counts.

    It is read once for a tar of one size and time.

    Raises
    ------
    ImagesError
        If it is damaged, or cut short.
    """
    return _read_members(file) if file.mtime_ns else _read_members.__wrapped__(file)


@lru_cache(maxsize=16)
def _read_members(file: File) -> list[Member]:
    try:
        infos = retried(lambda: _infos(file))
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _damaged(file, first_line(error)) from error
    except TwoStageError:
        raise
    except Exception as error:  # each file system has its own
        raise PlaceError(f"The tar '{file.where}' can't be read: {reason_of(error)}.") from error
    files = {name: _target(info, infos) for name, info in infos.items() if not info.isdir()}
    return [
        Member(name, None, None) if info is None else Member(name, info.offset_data, info.size)
        for name, info in files.items()
    ]


def _infos(file: File) -> dict[str, tarfile.TarInfo]:
    infos: dict[str, tarfile.TarInfo] = {}
    with (
        file.open() as stream,
        tarfile.open(fileobj=stream, mode="r:", errors="surrogateescape") as tar,
    ):
        while (info := tar.next()) is not None:
            name = _name(info)
            infos.pop(name, None)
            infos[name] = info
        # tarfile takes whatever is no header for the end, and would pass over what follows.
        stream.seek(tar.offset)
        if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no end after {len(infos)} members, at byte {tar.offset}")
    return infos


def _name(info: tarfile.TarInfo) -> str:
    return posixpath.normpath(info.name).lstrip("/")


def _target(
    info: tarfile.TarInfo | None, infos: dict[str, tarfile.TarInfo]
) -> tarfile.TarInfo | None:
    """Return the plain file that a member is, or links to."""
    for _ in range(_MOST_LINKS):
        if info is None or info.isreg():
            break
        here = posixpath.dirname(info.name) if info.issym() else ""
        name = posixpath.normpath(posixpath.join(here, info.linkname)).lstrip("/")
        info = infos.get(name) if info.issym() or info.islnk() else None
    # A sparse file does not lie in one piece.
    return info if info is not None and info.isreg() and not info.issparse() else None


def _damaged(file: File, reason: str) -> ImagesError:
    return ImagesError(
        f"The tar '{file.where}' is damaged or cut short ({reason}). Copy or make it again."
    )
