"""Files behind URLs, as fsspec opens them: list, read, write with retries; say what is wrong."""

import errno
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import Any, BinaryIO, NamedTuple, TypeVar

from twostage.errors import PlaceError, UsageError, did_you_mean, first_line

Result = TypeVar("Result")

N_READERS = 32  # requests under way at once: a network is waited for, not worked for
_WAITS_S = (0.5, 1.0, 2.0)  # before each new attempt
_TRANSIENT_ERRNOS = {
    *(errno.EBUSY, errno.EAGAIN, errno.EIO, errno.ETIMEDOUT, errno.ENETUNREACH),
    *(errno.EHOSTUNREACH, getattr(errno, "EREMOTEIO", errno.EIO)),
}
# Of aiohttp and botocore, whose errors are no OSErrors.
_TRANSIENT_TYPES = {
    *("HTTPClientError", "ConnectionError", "ClientConnectionError", "ClientPayloadError"),
}
_NO_CREDENTIALS = {"NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError"}
_OPTIONS = {"s3": {"max_concurrency": 1}}  # else each read of a file asks for its size first
_INSTALL = {"s3": "'twostage[s3]'", "gs": "'twostage[gcs]'", "gcs": "'twostage[gcs]'"}
_PRECONDITION_FAILED = 412
_ETAGS = ("ETag", "etag")
_TIMES = ("LastModified", "mtime", "updated", "last_modified", "modified", "created")


class RemoteFacts(NamedTuple):
    """What a listing says of a file.

    Attributes
    ----------
    path : str
        As its file system names it, without the protocol.
    size_bytes : int
        0 where the listing does not say it.
    mtime_ns : int or None
        None where the listing does not say it.
    """

    path: str
    size_bytes: int
    mtime_ns: int | None


class RemoteState(NamedTuple):
    """What changes when a file is written anew.

    Attributes
    ----------
    size_bytes, mtime_ns
        As for `RemoteFacts`.
    etag : str or None
        A digest, where the file system has such a thing.
    """

    size_bytes: int
    mtime_ns: int | None
    etag: str | None


def is_url(where: str) -> bool:
    """Whether it is a URL, not a path."""
    return "://" in where


class Remote:
    """What is behind a URL.

    Parameters
    ----------
    url : str
        Such as ``s3://bucket/photos``.

    Attributes
    ----------
    path : str
        What the file system calls it.

    Raises
    ------
    UsageError
        If no protocol of that name is known.
    PlaceError
        If the package for it is not installed.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self._system, self.path = _open_system(self.url)

    def __repr__(self) -> str:
        return f"Remote({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self.url == other.url

    def __hash__(self) -> int:
        return hash(self.url)

    def url_of(self, path: str) -> str:
        """Return the URL of a path of this file system."""
        return str(self._system.unstrip_protocol(path))

    def kind(self) -> str:
        """Return "file" or "directory".

        Raises
        ------
        UsageError
            If there is neither.
        PlaceError
            If it can't be reached.
        """
        with _explained(self.url):
            return str(retried(lambda: self._system.info(self.path))["type"])

    def files(self) -> list[RemoteFacts]:
        """List all files below, sorted by path."""
        with _explained(self.url):
            found = retried(lambda: self._system.find(self.path, detail=True))
        return [_facts(path, info) for path, info in sorted(found.items())]

    def glob(self) -> list[str]:
        """Return the paths that match the URL's ``*``, sorted."""
        with _explained(self.url):
            return sorted(retried(lambda: self._system.glob(self.path)))

    def read(self, path: str, start: int | None = None, end: int | None = None) -> bytes:
        """Read a file, or its bytes from ``start`` to before ``end``.

        Raises
        ------
        Exception
            Whatever the file system raises, once it has been tried again; `reason_of` says it
            in words.
        """
        return bytes(retried(lambda: self._system.cat_file(path, start=start, end=end)))

    def entries(self) -> list[RemoteFacts]:
        """List the files that lie right below, sorted by path; [] if there is nothing.

        Raises
        ------
        Exception
            Whatever the file system raises, as for `read`.
        """
        try:
            found = retried(lambda: self._system.ls(self.path, detail=True))
        except FileNotFoundError:
            return []
        below = self.path.rstrip("/") + "/"
        names = [
            (str(info["name"]), info)
            for info in found
            if info["type"] == "file" and str(info["name"]).startswith(below)
        ]
        return [_facts(path, info) for path, info in sorted(names, key=lambda item: item[0])]

    def state_of(self, path: str) -> RemoteState:
        """Ask for a file.

        Raises
        ------
        FileNotFoundError
            If there is none.
        Exception
            Whatever else the file system raises, as for `read`.
        """
        info = retried(lambda: self._system.info(path))
        if info["type"] != "file":
            raise FileNotFoundError(path)
        etag = next((str(info[key]) for key in _ETAGS if info.get(key)), None)
        return RemoteState(*_facts(path, info)[1:], etag)

    def write(self, path: str, data: bytes) -> None:
        """Write a file by one PUT, over one that is there.

        Raises
        ------
        Exception
            Whatever the file system raises, as for `read`.
        """
        retried(lambda: self._system.pipe_file(path, data))

    def create(self, path: str, data: bytes) -> None:
        """Write a file that must not be there yet, by a conditional PUT where there is such.

        Raises
        ------
        FileExistsError
            If it is there; it may be by an attempt of this very call whose answer got lost.
        Exception
            Whatever else the file system raises, as for `read`.
        """
        try:
            retried(lambda: self._system.pipe_file(path, data, mode="create"))
        except Exception as error:
            if _status(error) == _PRECONDITION_FAILED or "FileExpired" in _type_names(error):
                raise FileExistsError(path) from error  # as some servers say it
            raise

    def delete(self, path: str) -> None:
        """Delete a file, if it is there.

        Raises
        ------
        Exception
            Whatever the file system raises, as for `read`.
        """
        with suppress(FileNotFoundError):
            retried(lambda: self._system.rm_file(path))

    def open(self, path: str) -> BinaryIO:
        """Open a file, to read it from its beginning or to seek in it."""
        with _explained(self.url):
            file: BinaryIO = retried(lambda: self._system.open(path, "rb"))
            return file

    def facts_of(self, path: str) -> RemoteFacts | None:
        """Ask for a file; None if there is none."""
        try:
            with _explained(self.url_of(path)):
                info = retried(lambda: self._system.info(path))
        except UsageError:
            return None
        return _facts(path, info) if info["type"] == "file" else None


def ask_all(files: Iterable[tuple[Remote, str]]) -> list[RemoteFacts | None]:
    """Ask for each of some files, by their paths; None where there is none."""
    with ThreadPoolExecutor(N_READERS, thread_name_prefix="twostage-ask") as pool:
        return list(pool.map(lambda file: file[0].facts_of(file[1]), files))


def retried(work: Callable[[], Result]) -> Result:
    """Do something over a network, again after a while where it may then go well."""
    for wait_s in _WAITS_S:
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
            time.sleep(wait_s * random.uniform(0.5, 1.5))
    return work()


def is_transient(error: BaseException) -> bool:
    """Whether an error may be gone after a while: time-outs, lost connections, a server's 5xx."""
    if isinstance(error, (TimeoutError, ConnectionError)):
        return True
    if _status(error) >= 500 or _status(error) == 429:
        return True
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return True
    return bool(_type_names(error) & _TRANSIENT_TYPES)


def reason_of(error: BaseException) -> str:
    """Say in a few words, free of paths, why a file could not be read."""
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError) or _type_names(error) & _NO_CREDENTIALS:
        return "permission denied"
    if isinstance(error, TimeoutError):
        return "timed out"
    if _status(error):
        return f"the server answered {_status(error)}"
    if isinstance(error, ConnectionError) or _type_names(error) & _TRANSIENT_TYPES:
        return "connection lost"
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno).lower()
    return type(error).__name__


def as_of_a_disk(error: Exception, url: str) -> OSError:
    """Return an error over a network as what a disk would raise, with words for a user."""
    words = (getattr(error, "strerror", None) or first_line(error)).rstrip(".")
    if isinstance(error, FileNotFoundError):
        return FileNotFoundError(errno.ENOENT, words)
    if isinstance(error, PermissionError) or _type_names(error) & _NO_CREDENTIALS:
        return PermissionError(errno.EACCES, f"{words}. {_how_to_sign_in(url)}".rstrip("."))
    return OSError(errno.EIO, words)


def _open_system(url: str) -> tuple[Any, str]:
    import fsspec

    protocol = url.split("://")[0]
    # A listing that is kept would hide what has changed since.
    options = {"use_listings_cache": False, **_OPTIONS.get(protocol, {})}
    try:
        system, path = fsspec.core.url_to_fs(url, **options)
    except ImportError as error:
        package = _INSTALL.get(protocol)
        how = f"Install it with: pip install {package}" if package else f"{first_line(error)}."
        raise PlaceError(f"'{url}' needs a package that is not installed. {how}") from error
    except (ValueError, TypeError) as error:
        known = fsspec.available_protocols()
        if protocol in known:
            raise UsageError(f"'{url}' is no URL of its kind: {first_line(error)}.") from error
        raise UsageError(
            f"Unknown protocol '{protocol}://' in '{url}'.{did_you_mean(protocol, known)} Give a "
            "path, or a URL such as s3://bucket/photos, gs://bucket/photos."
        ) from error
    return system, str(path)


@contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn what a file system raises into an error that says what to do."""
    try:
        yield
    except FileNotFoundError as error:
        raise UsageError(f"There is nothing at '{url}'. Check the bucket and the path.") from error
    except Exception as error:
        names = _type_names(error)
        if names & _NO_CREDENTIALS:
            raise PlaceError(f"No credentials for '{url}'. {_how_to_sign_in(url)}") from error
        if isinstance(error, PermissionError):
            raise PlaceError(
                f"'{url}' may not be read with these credentials ({first_line(error)}). "
                f"{_how_to_sign_in(url)}"
            ) from error
        raise PlaceError(
            f"'{url}' can't be read: {first_line(error)}. Check the URL and the connection, and "
            "run the same command again."
        ) from error


def _how_to_sign_in(url: str) -> str:
    if url.startswith("s3://"):
        return (
            "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; for a public bucket "
            "FSSPEC_S3_ANON=true."
        )
    return "Sign in as fsspec's documentation says for that protocol."


def _facts(path: str, info: dict[str, Any]) -> RemoteFacts:
    return RemoteFacts(path, int(info.get("size") or 0), _mtime_ns(info))


def _mtime_ns(info: dict[str, Any]) -> int | None:
    value = next((info[key] for key in _TIMES if info.get(key)), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        value = value.timestamp()
    return int(value * 1e9) if isinstance(value, (int, float)) else None


def _status(error: BaseException) -> int:
    """Return the HTTP status that an error carries, 0 if none."""
    for name in ("status", "code"):
        value = getattr(error, name, None)
        if isinstance(value, int):
            return value
    return 0


def _type_names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
