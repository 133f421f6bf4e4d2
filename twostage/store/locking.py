"""One run at a time: the lock on a store's folder, and who holds it."""

import json
import logging
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from twostage.errors import StoreError
from twostage.store.files import (
    HOLDER,
    LOCK,
    check_folder,
    delete_lock,
    make_folder,
    remove_leftovers,
    replace_file,
)

log = logging.getLogger("twostage")
_FOREVER = -1


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a store's folder for one run that writes; it is made if it does not exist.

    Parameters
    ----------
    folder : Path
        Of the store.
    wait : bool
        Whether to wait for another run to end, instead of refusing.

    Raises
    ------
    StoreError
        If another run holds the folder, which the message names, or it is no place for a store.

    Notes
    -----
    The lock is the operating system's (``flock``), which takes it from a process that ends, in
    whatever way: there are no stale locks to be deleted. Where a file system has none, it is a file
    that names process and machine, and is broken once that process is gone from the same machine.
    """
    check_folder(folder)
    lock = FileLock(folder / LOCK)
    try:
        _acquire(lock, folder, wait)
        remove_leftovers(folder)
        replace_file(folder / HOLDER, json.dumps(_myself()).encode())
    except OSError as error:
        lock.release()
        raise StoreError(f"Can't write the store '{folder}': {error.strerror}.") from error
    try:
        yield
    finally:
        delete_lock(folder)
        lock.release()


def holder_of(folder: Path) -> str | None:
    """Return which run says that it holds a store's folder, in words; None if none does.

    A run that was killed says so until the next one, unless it ran here: then it is known to be
    gone.
    """
    try:
        holder = json.loads((folder / HOLDER).read_text())
        is_gone = holder["host"] == platform.node() and not _is_alive(int(holder["pid"]))
        return None if is_gone else _in_words(holder)
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
            holder = holder_of(folder) or "another run"
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


def _myself() -> dict[str, str | int]:
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": since}


def _in_words(holder: dict[str, str | int]) -> str:
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
