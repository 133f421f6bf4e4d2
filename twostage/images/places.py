"""Where images live: a folder, a list, tars, Parquet files, on a disk or behind a URL."""

import glob
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from twostage.errors import PlaceError, UsageError, listed
from twostage.images.files import File, LocalFile, RemoteFile
from twostage.images.listing import Containers, FileList, Folder, Place, RemoteFolder
from twostage.images.patterns import expand_braces, fixed_part, has_wildcard, is_pattern
from twostage.images.references import EXTENSIONS, PARQUET_ENDINGS, TAR_ENDINGS
from twostage.remote import Remote, ask_all, is_url, reason_of

PathLike = str | os.PathLike[str]
_CONTAINER_ENDINGS = (*TAR_ENDINGS, *PARQUET_ENDINGS)
_WHAT_IMAGES_ARE = (
    "Give a folder, a list of files (text, one on each line), a .tar, a .parquet with their bytes, "
    "or a URL of one."
)


def open_place(where: PathLike, bytes_column: str | None = None) -> Place:
    """Open the place where images live.

    Parameters
    ----------
    where : path-like
        A folder; a text file with a file name or URL on each line, relative to its folder; a tar;
        a Parquet file with a column of image bytes; several tars or Parquet files, as a folder
        that holds nothing else, a pattern with ``*``, or with braces as in
        ``shards-{000..012}.tar``; or the URL of such, as fsspec knows them.
    bytes_column : str, optional
        Of a Parquet file, the column of bytes, if several could be it.

    Returns
    -------
    Place

    Raises
    ------
    UsageError
        If there is no such place.
    PlaceError
        If what is behind a URL can't be reached.
    ImagesError
        If it is damaged.
    """
    text = os.fspath(where)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    place = _open_remote(text, bytes_column) if is_url(text) else _open_local(text, bytes_column)
    if bytes_column is not None and not isinstance(place, Containers):
        raise UsageError(
            f"--bytes-col names a column of a Parquet file, and '{text}' is none. Leave it out."
        )
    return place


def _open_local(text: str, bytes_column: str | None) -> Place:
    path = Path(text)
    if path.is_dir():
        files = _containers_alone(text)
        if files:
            return Containers(os.path.abspath(text), files, bytes_column)
        return Folder(path)
    if not path.exists() and is_pattern(text):
        return _local_containers(text, bytes_column)
    if not path.exists():
        raise UsageError(f"The image folder '{text}' does not exist. Check the path.")
    if text.lower().endswith(_CONTAINER_ENDINGS):
        return Containers(str(path.absolute()), [("", LocalFile.at(text))], bytes_column)
    _refuse_others(text)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"'{text}' can't be read: {error.strerror}.") from error
    lines = _Lines(text, data)
    return FileList(str(path.absolute()), lines, Folder(path.absolute().parent))


def _open_remote(url: str, bytes_column: str | None) -> Place:
    if is_pattern(url) and not url.startswith("http"):  # there, a ? begins a query
        return _remote_containers(url, bytes_column)
    remote = Remote(url)
    if remote.kind() == "directory":
        return RemoteFolder(remote)
    if url.lower().endswith(_CONTAINER_ENDINGS):
        return Containers(url, [("", _remote_file(remote))], bytes_column)
    _refuse_others(url)
    try:
        data = remote.read(remote.path)
    except Exception as error:  # each file system has its own
        raise PlaceError(f"'{url}' can't be read: {reason_of(error)}.") from error
    return FileList(url, _Lines(url, data), RemoteFolder(Remote(_parent(url))))


def _remote_file(remote: Remote) -> RemoteFile:
    facts = remote.facts_of(remote.path)
    if facts is None:
        raise UsageError(f"There is nothing at '{remote.url}'. Check the bucket and the path.")
    return RemoteFile(remote, *facts)


def _containers_alone(folder: str) -> list[tuple[str, File]]:
    """Return the tars, or else Parquet files, of a folder without images and other folders."""
    names = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith((".", "_")):
                    continue
                if entry.name.lower().endswith(EXTENSIONS) or entry.is_dir():
                    return []
                names.append(entry.name)
    except OSError:
        return []  # to list it says why
    tars = sorted(name for name in names if name.lower().endswith(TAR_ENDINGS))
    parquets = sorted(name for name in names if name.lower().endswith(PARQUET_ENDINGS))
    return [(name, LocalFile.at(os.path.join(folder, name))) for name in tars or parquets]


def _local_containers(pattern: str, bytes_column: str | None) -> Place:
    paths = []
    for one in expand_braces(pattern):
        if has_wildcard(one):
            paths += sorted(glob.glob(one, recursive=True))
        else:
            paths.append(one)
    _check_containers(pattern, paths, [path for path in paths if not Path(path).is_file()])
    start = fixed_part(pattern)
    files = [(path.removeprefix(start), LocalFile.at(path)) for path in dict.fromkeys(paths)]
    return Containers(os.path.abspath(pattern), files, bytes_column)


def _remote_containers(pattern: str, bytes_column: str | None) -> Place:
    found: list[tuple[Remote, str]] = []
    for one in expand_braces(pattern):
        remote = Remote(one)
        paths = remote.glob() if has_wildcard(one) else [remote.path]
        found += [(remote, path) for path in paths]
    facts = ask_all(found)
    urls = [remote.url_of(path) for remote, path in found]
    missing = [url for url, fact in zip(urls, facts, strict=True) if fact is None]
    _check_containers(pattern, urls, missing)
    root = Remote(fixed_part(pattern)).path.rstrip("/") + "/"
    files = {
        path.removeprefix(root): RemoteFile(remote, *fact)
        for (remote, path), fact in zip(found, facts, strict=True)
        if fact is not None
    }
    return Containers(pattern, list(files.items()), bytes_column)


def _check_containers(pattern: str, found: Sequence[str], missing: Sequence[str]) -> None:
    if not found:
        raise UsageError(f"No file matches '{pattern}'. Check the pattern.")
    if missing:
        raise UsageError(
            f"{len(missing)} of the {len(found)} files of '{pattern}' do not exist: "
            f"{listed(missing)}. Correct the pattern, or bring them there."
        )
    others = [name for name in found if not name.lower().endswith(_CONTAINER_ENDINGS)]
    if others:
        raise UsageError(
            f"'{pattern}' matches '{others[0]}', which is no tar and no Parquet file. A pattern "
            "stands for those; for images give their folder, or a list."
        )


def _refuse_others(where: str) -> None:
    """Raise UsageError for files that a user might take for a place of images."""
    name = where.lower()
    if name.endswith(EXTENSIONS):
        raise UsageError(f"'{where}' is one image. {_WHAT_IMAGES_ARE}")
    if name.endswith((".csv", ".tsv")):
        raise UsageError(
            f"'{where}' is a table. Give it with --table, and as IMAGES the folder of its images."
        )


class _Lines:
    """The lines of a list of files that are not empty, read from its bytes each time.

    Raises
    ------
    UsageError
        If it is no text.
    """

    def __init__(self, where: str, data: bytes):
        if b"\0" in data:
            raise UsageError(f"'{where}' is no text, and so no list of files. {_WHAT_IMAGES_ARE}")
        self._data = data.removeprefix(b"\xef\xbb\xbf")

    def __iter__(self) -> Iterator[str]:
        lines = (os.fsdecode(line).strip() for line in io.BytesIO(self._data))
        return filter(None, lines)


def _parent(url: str) -> str:
    return url.rsplit("/", 1)[0]
