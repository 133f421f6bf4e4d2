"""One run at a time: the lock on a store, and who holds it."""

import json
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from twostage.errors import StoreError
from twostage.store.files import (
    HOLDER,
    LOCK,
    delete_lock,
    make_folder,
    remove_leftovers,
    replace_file,
)
from twostage.store.holders import in_words, is_alive, myself
from twostage.store.lease import holder_behind, leased, mark_behind
from twostage.store.places import Where, check_folder, open_files
from twostage.store.remote_files import RemoteFiles

log = logging.getLogger("twostage")
_FOREVER = -1


@contextmanager
def locked(where: Where, *, wait: bool = False) -> Iterator[None]:
    """Hold a store for one run that writes; its folder is made if it does not exist.

    Parameters
    ----------
    where : path-like or the store's files
        Of the store.
    wait : bool
        Whether to wait for another run to end, instead of refusing.

    Raises
    ------
    StoreError
        If another run holds the store, which the message names, or it is no place for one.

    Notes
    -----
    In a folder the lock is the operating system's (``flock``), which takes it from a process that
    ends, in whatever way: there are no stale locks to be deleted. Where a file system has none, it
    is a file that names process and machine, and is broken once that process is gone from the same
    machine.
    Behind a URL it is what `twostage.store.lease` has.
    """
    files = open_files(where)
    check_folder(files)
    if isinstance(files, RemoteFiles):
        with leased(files, wait):
            yield
    else:
        with _flocked(files.folder, wait):
            yield


def holder_of(where: Where) -> str | None:
    """Return which run says that it holds a store, in words; None if none does.

    A run that was killed says so until the next one, unless it ran here: then it is known to be
    gone.
    """
    files = open_files(where)
    return holder_behind(files) if isinstance(files, RemoteFiles) else _holder_in(files.folder)


def mark_of(where: Where) -> str:
    """Return what the lock says, which no other run's does; "" if no run holds the store.

    By it, workers elsewhere see that the store is the one that their run holds, and still does.
    """
    files = open_files(where)
    if isinstance(files, RemoteFiles):
        return mark_behind(files)
    try:
        return files.read(HOLDER).decode(errors="replace")
    except FileNotFoundError:
        return ""


@contextmanager
def _flocked(folder: Path, wait: bool) -> Iterator[None]:
    lock = FileLock(folder / LOCK)
    try:
        _acquire(lock, folder, wait)
        remove_leftovers(folder)
        holder = {**myself(), "token": uuid4().hex}
        replace_file(folder / HOLDER, json.dumps(holder).encode())
    except OSError as error:
        lock.release()
        raise StoreError(f"Can't write the store '{folder}': {error.strerror}.") from error
    try:
        yield
    finally:
        delete_lock(folder)
        lock.release()


def _holder_in(folder: Path) -> str | None:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        is_gone = holder["host"] == platform.node() and not is_alive(int(holder["pid"]))
        return None if is_gone else in_words(holder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _acquire(lock: FileLock, folder: Path, wait: bool) -> None:
    timeout = 0
    while True:
        try:
            make_folder(folder)
            lock.acquire(timeout=timeout)
            return
        except Timeout:
            holder = _holder_in(folder) or "another run"
            if not wait:
                raise StoreError(
                    f"Store '{folder}' is being written by {holder}. Wait for it to end, or stop "
                    "it: what it has committed stays."
                ) from None
            log.info("Waiting for %s, which writes '%s'.", holder, folder)
            timeout = _FOREVER
        except FileNotFoundError:  # the run that was waited for took the store away
            if timeout != _FOREVER:
                raise
