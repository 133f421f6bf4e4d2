"""Where a store is: a folder of this machine, or a URL."""

import os
from pathlib import Path

from twostage.errors import StoreError
from twostage.remote import is_url
from twostage.store.files import HOLDER, LOCK, PART, RECORD, StoreFiles, is_lease, is_ours
from twostage.store.remote_files import RemoteFiles

Files = StoreFiles | RemoteFiles
Where = str | os.PathLike[str] | Files
_ON_DISK = ("file://", "local://")


def open_files(where: Where) -> Files:
    """Return the files of the store at a path or URL; those that are given, as they are.

    Raises
    ------
    UsageError
        If no protocol of the URL's name is known.
    PlaceError
        If the package for it is not installed.
    """
    if isinstance(where, (StoreFiles, RemoteFiles)):
        return where
    path = os.fspath(where)
    if is_url(path) and not path.startswith(_ON_DISK):
        return RemoteFiles(path)
    return StoreFiles(Path(path.partition("://")[2] if is_url(path) else path))


def check_folder(where: Where) -> None:
    """Raise StoreError if a place holds anything but a store."""
    files = open_files(where)
    files.check_writable()
    if not files.exist():
        return
    if isinstance(files, StoreFiles) and not files.folder.is_dir():
        raise StoreError(f"'{files.where}' is a file. Give a folder for the store.")
    names = files.names()
    # Not before: another run may be making a store, whose record comes before its parts.
    if files.has(RECORD):
        return
    if not all(map(is_ours, names)):
        raise StoreError(f"'{files.where}' is a folder with other files in it. Give a new folder.")
    if any(map(PART.fullmatch, names)):
        raise StoreError(
            f"'{files.where}' holds parts of a store but no {RECORD}, which says what made them. "
            "Put it back, or give a new folder."
        )


def delete_files(where: Where) -> None:
    """Delete a store's files but its lock, which whoever holds it takes away.

    The record goes last: what a killed deletion leaves is a store of fewer parts.
    """
    files = open_files(where)
    names = [name for name in files.names() if is_ours(name) and not _is_of_lock(name)]
    files.delete(sorted(names, key=lambda name: name == RECORD))


def _is_of_lock(name: str) -> bool:
    return name in (LOCK, HOLDER) or is_lease(name)
