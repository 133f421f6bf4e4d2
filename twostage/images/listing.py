"""Kinds of places where images live: each lists its images, and finds those that a table names."""

import posixpath
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from twostage.errors import ImageError, ImagesError
from twostage.images.files import File, RemoteFile
from twostage.images.manifest import Manifest, list_images
from twostage.images.references import (
    EXTENSIONS,
    TAR_ENDINGS,
    Reference,
    Source,
    canonical_name,
    check_folder,
    encoded,
    file_reference,
    find_images,
    is_image_name,
    match_names,
    reference_to,
)
from twostage.images.tars import TarSource, read_members, uncompressed
from twostage.remote import Remote, RemoteFacts, ask_all, is_url

if TYPE_CHECKING:
    from twostage.images.parquet import RowWindow

_LINES_AT_ONCE = 1 << 14
_ASKED_SINGLY = 1_000  # more names than a listing gives at once: then the listing is quicker


class Place(ABC):
    """Where images live."""

    @abstractmethod
    def list_images(self) -> list[Reference]:
        """List all images, each name once.

        Raises
        ------
        ImagesError
            If there is none.
        """

    def manifest(self) -> Manifest:
        """List all images, as `list_images` does, in columns."""
        return Manifest.of(self.list_images())

    @abstractmethod
    def find_images(self, names: Iterable[str]) -> tuple[dict[str, Reference], str | None]:
        """Find the images that a table names.

        Returns
        -------
        references : dict of str to Reference
            For each different name; where there is no image, ``size_bytes`` is None.
        note : str or None
            What was done to the names, if they did not match as they are.
        """

    @abstractmethod
    def exactly(self, names: Iterable[str]) -> dict[str, Reference]:
        """Find the images of these very names: `find_images` that changes no name."""


class Folder(Place):
    """A folder of this machine, walked recursively.

    Parameters
    ----------
    path : Path
        Where it is.
    """

    def __init__(self, path: Path):
        check_folder(path)
        self.path = path

    def list_images(self) -> list[Reference]:
        return list(self.manifest())

    def manifest(self) -> Manifest:
        return list_images(self.path)

    def find_images(self, names: Iterable[str]) -> tuple[dict[str, Reference], str | None]:
        names = list(dict.fromkeys(names))
        by_url = references_by_url(filter(is_url, names))
        found: dict[str, Reference] = {}
        note = None
        if len(by_url) < len(names):
            found, note = find_images(self.path, (name for name in names if name not in by_url))
        return {name: by_url.get(name) or found[name] for name in names}, note

    def exactly(self, names: Iterable[str]) -> dict[str, Reference]:
        names = list(dict.fromkeys(names))
        by_url = references_by_url(filter(is_url, names))
        return {
            name: by_url.get(name) or reference_to(self.path, canonical_name(name, self.path))
            for name in names
        }


class Listed(Place):
    """A place whose images are all listed once.

    Parameters
    ----------
    where : str
        Its absolute path or URL.
    """

    def __init__(self, where: str):
        self.where = where

    @abstractmethod
    def _listing(self) -> Iterable[Reference]:
        """List all images."""

    def _nothing(self) -> ImagesError:
        return ImagesError(f"No images in '{self.where}': {self._why_empty()}.")

    def _why_empty(self) -> str:
        return f"none ends in {', '.join(EXTENSIONS)}"

    @cached_property
    def _known(self) -> dict[str, Reference]:
        return {reference.image: reference for reference in self._listing()}

    def list_images(self) -> list[Reference]:
        if not self._known:
            raise self._nothing()
        return list(self._known.values())

    def find_images(self, names: Iterable[str]) -> tuple[dict[str, Reference], str | None]:
        names = list(dict.fromkeys(names))
        match = match_names([self._inside(name) for name in names], self._known)
        keys = [key or self._inside(name) for name, key in zip(names, match.keys, strict=True)]
        return self._in_order(names, keys), match.note

    def exactly(self, names: Iterable[str]) -> dict[str, Reference]:
        names = list(dict.fromkeys(names))
        return self._in_order(names, [self._inside(name) for name in names])

    def _inside(self, name: str) -> str:
        """Return a name as this place would have it."""
        return canonical_name(name.removeprefix(self.where + "/"))

    def _in_order(self, names: Sequence[str], keys: Sequence[str]) -> dict[str, Reference]:
        """Return what is at each name, as it lies in the place: tars and Parquet are read on."""
        by_url = references_by_url(key for key in keys if is_url(key))
        found = {
            name: self._known.get(key) or by_url.get(key) or _nowhere(key, self.where)
            for name, key in zip(names, keys, strict=True)
        }
        position = {image: number for number, image in enumerate(self._known)}
        order = sorted(found, key=lambda name: position.get(found[name].image, len(position)))
        return {name: found[name] for name in order}


class Containers(Listed):
    """Tars, or Parquet files.

    Parameters
    ----------
    where : str
        What the user calls them together.
    files : sequence of (label, File)
        Each with what comes before the names of its images: its own name, relative to where they
        lie together; or nothing, for a file that is given alone.
    bytes_column : str or None
        Of Parquet files, the column of bytes.
    """

    def __init__(
        self, where: str, files: Sequence[tuple[str, File]], bytes_column: str | None = None
    ):
        super().__init__(where)
        self._files = files
        self._bytes_column = bytes_column

    def _listing(self) -> Iterator[Reference]:
        from twostage.images.parquet import RowWindow

        window = RowWindow()
        for label, file in self._files:
            before = label and f"{label}/"
            if file.where.lower().endswith(TAR_ENDINGS):
                yield from _in_tar(file, before)
            else:
                yield from _in_parquet(file, before, self._bytes_column, window)


class RemoteFolder(Listed):
    """What is below a URL.

    Parameters
    ----------
    remote : Remote
        Where.
    """

    def __init__(self, remote: Remote):
        super().__init__(remote.url)
        self._remote = remote

    def _listing(self) -> Iterable[Reference]:
        root = self._remote.path.rstrip("/") + "/"
        containers = []
        images = []
        for facts in self._remote.files():
            name = facts.path.removeprefix(root)
            if is_image_name(name):
                images.append(self._reference(name, facts))
            elif name.lower().endswith(TAR_ENDINGS):
                containers.append((name, RemoteFile(self._remote, *facts)))
        if images or not containers:
            return images
        return Containers(self.where, containers).list_images()

    def exactly(self, names: Iterable[str]) -> dict[str, Reference]:
        names = list(dict.fromkeys(names))
        if len(names) > _ASKED_SINGLY:
            return super().exactly(names)
        keys = {name: self._inside(name) for name in names}
        by_url = references_by_url(key for key in keys.values() if is_url(key))
        inside = [key for key in keys.values() if key not in by_url]
        asked = ((self._remote, posixpath.join(self._remote.path, key)) for key in inside)
        found = {
            key: _nowhere(key, self.where) if fact is None else self._reference(key, fact)
            for key, fact in zip(inside, ask_all(asked), strict=True)
        }
        return {name: by_url.get(key) or found[key] for name, key in keys.items()}

    def find_images(self, names: Iterable[str]) -> tuple[dict[str, Reference], str | None]:
        names = list(dict.fromkeys(names))
        if len(names) <= _ASKED_SINGLY:
            found = self.exactly(names)
            if any(reference.size_bytes is not None for reference in found.values()):
                return found, None
        return super().find_images(names)

    def _reference(self, name: str, facts: RemoteFacts) -> Reference:
        file = RemoteFile(self._remote, *facts)
        return Reference(name, file.where, file.size_bytes, file.mtime_ns, file)


class FileList(Listed):
    """A text file that names images, one on each line.

    Parameters
    ----------
    where : str
        Path or URL of the text file.
    lines : iterable of str
        What it says; it can be gone through again.
    folder : Place
        What relative names start from.
    """

    def __init__(self, where: str, lines: Iterable[str], folder: Place):
        super().__init__(where)
        self._lines = lines
        self._folder = folder

    def _listing(self) -> Iterable[Reference]:
        return self._folder.exactly(self._lines).values()

    def manifest(self) -> Manifest:
        if not isinstance(self._folder, Folder):  # what others have, they find best all at once
            return super().manifest()
        found = Manifest.of(self._some_by_some(), str(self._folder.path)).distinct()
        if not found:
            raise self._nothing()
        return found

    def _some_by_some(self) -> Iterator[Reference]:
        lines = iter(self._lines)
        while some := list(islice(lines, _LINES_AT_ONCE)):
            yield from self._folder.exactly(some).values()

    def _why_empty(self) -> str:
        return "it is empty"

    def _inside(self, name: str) -> str:
        return canonical_name(name, getattr(self._folder, "path", None))


class _Nowhere:
    """Stands where there is no image."""

    size_bytes = None

    def read(self) -> bytes:
        raise ImageError("read", "no such file")


_NOWHERE: Source = _Nowhere()


def absolute(reference: Reference) -> Reference:
    """Name a reference by where its bytes are, as the cache does."""
    if reference.source is None:
        return file_reference(reference.path)
    return reference._replace(image=reference.path)


def references_by_url(urls: Iterable[str]) -> dict[str, Reference]:
    """Return what is at each of some URLs."""
    urls = list(dict.fromkeys(urls))
    remotes = [Remote(url) for url in urls]
    found = {}
    for url, remote, facts in zip(
        urls, remotes, ask_all((remote, remote.path) for remote in remotes), strict=True
    ):
        if facts is None:
            found[url] = Reference(url, url, None, None, _NOWHERE)
        else:
            file = RemoteFile(remote, *facts)
            found[url] = Reference(url, url, file.size_bytes, file.mtime_ns, file)
    return found


def _in_tar(file: File, before: str) -> Iterator[Reference]:
    file = uncompressed(file)
    for member in read_members(file):
        if is_image_name(member.name):
            name = before + encoded(member.name)
            path = f"{file.where}/{encoded(member.name)}"
            if member.offset is None or member.size_bytes is None:
                yield Reference(name, path, None, None, _NOWHERE)
            else:
                source = TarSource(file, member.offset, member.size_bytes)
                # Written anew, a tar has a new time; its members' may stay what they are.
                yield Reference(name, path, member.size_bytes, file.mtime_ns, source)


def _in_parquet(
    file: File, before: str, bytes_column: str | None, window: "RowWindow"
) -> Iterator[Reference]:
    from twostage.images.parquet import read_rows

    for name, row in read_rows(file, bytes_column, window):
        path = f"{file.where}/{row.group.leaf}/{name}"
        yield Reference(before + name, path, file.size_bytes, file.mtime_ns, row)


def _nowhere(name: str, where: str) -> Reference:
    return Reference(encoded(name), f"{where}/{encoded(name)}", None, None, _NOWHERE)
