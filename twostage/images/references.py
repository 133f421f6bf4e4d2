"""Where images are: list a folder, and match the names a table uses with the names a store has."""

import os
import posixpath
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import unquote_to_bytes

from twostage.errors import ImagesError, UsageError, listed
from twostage.remote import is_url

# HEIC too: a row says that it can't be read, where to pass it over would lose it silently.
EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif"),
)
TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PARQUET_ENDINGS = (".parquet", ".pq")
_SHARD = re.compile(
    rf".*?(?:{'|'.join(map(re.escape, (*TAR_ENDINGS, *PARQUET_ENDINGS)))})/", re.IGNORECASE
)
_PREFIX_TRIALS = 20


class Source(Protocol):
    """What gives the bytes of an image that is no local file of its own.

    Attributes
    ----------
    size_bytes : int or None
        How many they are; None where that is not known before they are read.
    """

    @property
    def size_bytes(self) -> int | None: ...

    def read(self) -> bytes:
        """Return the bytes, or raise `twostage.errors.ImageError` of kind ``read``."""
        ...


class Reference(NamedTuple):
    """One image to embed.

    Attributes
    ----------
    image : str
        Its name in the store: a POSIX path relative to the place, an absolute path, or a URL.
    path : str
        Where its bytes are.
    size_bytes, mtime_ns : int or None
        What the place says of it; ``size_bytes`` is None if there is no such image.
    source : Source or None
        What reads it; None for a local file.
    """

    image: str
    path: str
    size_bytes: int | None
    mtime_ns: int | None
    source: Source | None = None


class NameMatch(NamedTuple):
    """Names of a table, matched with names that are known.

    Attributes
    ----------
    keys : list of str or None
        The known name for each name given, None where there is none.
    note : str or None
        What was done to the names, if they did not match as they are.
    """

    keys: list[str | None]
    note: str | None


def find_images(folder: Path, names: Iterable[str]) -> tuple[dict[str, Reference], str | None]:
    """Find the images that a table names.

    Parameters
    ----------
    folder : Path
        What relative names start from.
    names : iterable of str
        As the table has them.

    Returns
    -------
    references : dict of str to Reference
        For each different name, in their order; without a file, ``size_bytes`` is None.
    note : str or None
        What was done to the names, if they did not match as they are.
    """
    check_folder(folder)
    names = list(dict.fromkeys(names))
    references = {name: reference_to(folder, canonical_name(name, folder)) for name in names}
    if any(reference.size_bytes is not None for reference in references.values()):
        return references, None
    match = match_names([ref.image for ref in references.values()], set(walk(folder)))
    for name, key in zip(names, match.keys, strict=True):
        if key is not None:
            references[name] = reference_to(folder, key)
    return references, match.note


def reference_to(folder: str | Path, name: str) -> Reference:
    """Make the reference to one name below a folder, or to an absolute path."""
    # A store writes the bytes of a name that are no text as %E9; the file itself has the byte.
    for spelt in (name, _decode(name)) if "%" in name else (name,):
        path = os.path.join(folder, spelt)
        try:
            stat = os.stat(path)
        except (OSError, ValueError):
            continue
        return Reference(encoded(name), path, stat.st_size, stat.st_mtime_ns)
    return Reference(encoded(name), os.path.join(folder, name), None, None)


def file_reference(path: str) -> Reference:
    """Make the reference to a file that is named by its absolute path."""
    return reference_to(Path(), os.path.abspath(path))


def canonical_name(name: str, folder: Path | None = None) -> str:
    """Bring a name to the form a store uses: POSIX, without ``./``, relative to ``folder``."""
    name = str(name).strip()
    if is_url(name):
        return name
    name = posixpath.normpath(name)
    if folder is not None and posixpath.isabs(name):
        root = os.path.abspath(folder)
        if name.startswith(root + "/"):
            return name[len(root) + 1 :]
    return name


def is_image_name(name: str) -> bool:
    """Whether a name is that of an image, and neither it nor a folder it is in is hidden."""
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".") and "/." not in name


def match_names(names: Sequence[str], known: Collection[str]) -> NameMatch:
    """Match names with known names, exactly or after one change that serves all of them.

    The change drops one leading folder (``/data/photos/a/1.jpg`` is ``a/1.jpg``) or adds one
    (``1.jpg`` is ``images/1.jpg``). It is the same for all names, so that two images of equal
    file name are never mistaken for each other, and it is tried only where no name matches as it
    is, or for absolute names. An image that one of several tars or Parquet files holds, by a name
    that no other one does, may be named without that file.
    """
    known = known if isinstance(known, (set, frozenset, dict)) else set(known)
    wanted = [canonical_name(name) for name in names]
    in_shards = {} if all(name in known for name in wanted) else _names_in_shards(known)
    keys = [name if name in known else in_shards.get(name) for name in wanted]
    left = [i for i, key in enumerate(keys) if key is None]
    if len(left) < len(names):
        left = [i for i in left if posixpath.isabs(wanted[i])]
    change = _find_change([wanted[i] for i in left], known) if left else None
    if change is None:
        return NameMatch(keys, None)
    dropped, added = change
    for i in left:
        changed = _apply(wanted[i], dropped, added)
        keys[i] = changed if changed in known else None
    done = f"without '{dropped}'" if dropped else f"with '{added}' in front"
    return NameMatch(keys, f"Image names matched {done}.")


def _names_in_shards(known: Iterable[str]) -> dict[str, str]:
    """Return the known names of what is in a shard, by their names in it, where one has it."""
    found: dict[str, str] = {}
    repeated = set()
    for name in known:
        match = _SHARD.match(name)
        if match:
            inside = name[match.end() :]
            if inside in found:
                repeated.add(inside)
            found[inside] = name
    return {inside: name for inside, name in found.items() if inside not in repeated}


def _find_change(names: Sequence[str], known: Collection[str]) -> tuple[str, str] | None:
    """Find the (dropped, added) prefix under which most of the first names are known."""
    trials = names[:_PREFIX_TRIALS]
    changes: dict[tuple[str, str], int] = {}
    for name in trials:
        for change in _possible_changes(name, known):
            changes[change] = changes.get(change, 0) + 1
    if not changes:
        return None
    most = max(changes.values())
    best = [change for change, n in changes.items() if n == most]
    if len(best) > 1 and all(not dropped for dropped, _ in best):
        raise ImagesError(
            f"Image '{names[0]}' may be any of {listed([added + names[0] for _, added in best])}. "
            "Write the names in the table with their folders."
        )
    return best[0]


def _possible_changes(name: str, known: Collection[str]) -> Iterator[tuple[str, str]]:
    for start in range(1, len(name)):
        if name[start - 1] == "/" and name[start:] in known:
            yield name[:start], ""
    for other in known:
        if other.endswith("/" + name):
            yield "", other[: -len(name)]


def _apply(name: str, dropped: str, added: str) -> str | None:
    return added + name[len(dropped) :] if name.startswith(dropped) else None


def walk(folder: Path) -> Iterator[str]:
    """Yield the names of image files below a folder, relative to it, in no order.

    Hidden files and folders are passed over; linked folders are followed, each once.
    """
    seen: set[tuple[int, int]] = set()
    pending = [""]
    while pending:
        below = pending.pop()
        here = os.path.join(folder, below)
        try:
            stat = os.stat(here)
        except FileNotFoundError:
            continue  # gone meanwhile, and what was in it too
        if (stat.st_dev, stat.st_ino) in seen:
            continue
        seen.add((stat.st_dev, stat.st_ino))
        folders = []
        with _listing(here) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                name = f"{below}/{entry.name}" if below else entry.name
                if _is_folder(entry):
                    folders.append(name)
                elif is_image_name(entry.name):
                    yield name
        pending += sorted(folders)  # so that of several links to a folder always the same counts


def _listing(folder: str) -> "os._ScandirIterator[str]":
    try:
        return os.scandir(folder)
    except OSError as error:
        raise ImagesError(
            f"The folder '{folder}' can't be listed: {error.strerror}. Make it readable."
        ) from error


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def encoded(name: str) -> str:
    """Percent-encode the bytes of a file name that are no text, so that a store can hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        pieces = (f"%{ord(c) - 0xDC00:02X}" if 0xDC80 <= ord(c) <= 0xDCFF else c for c in name)
        return "".join(pieces)
    return name


def _decode(name: str) -> str:
    return os.fsdecode(unquote_to_bytes(name)) if "%" in name else name


def check_folder(folder: Path) -> None:
    """Raise UsageError unless the folder exists and is one."""
    if not folder.exists():
        raise UsageError(f"The image folder '{folder}' does not exist. Check the path.")
    if not folder.is_dir():
        raise UsageError(f"'{folder}' is not a folder. Give the folder that holds the images.")
