"""One run at a time: the lock on a store's folder, and who holds it."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from twostage.errors import StoreError
from twostage.store.files import HOLDER, LOCK, check_folder, remove_leftovers, replace_file


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
    """
    check_folder(folder)
    lock = FileLock(folder / LOCK, timeout=-1 if wait else 0)
    holder = {"pid": os.getpid(), "host": platform.node()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        remove_leftovers(folder)
        replace_file(folder / HOLDER, json.dumps(holder).encode())
    except Timeout:
        raise StoreError(
            f"Store '{folder}' is being written by {_holder(folder)}. Wait for it to end, or stop "
            "it: what it has committed stays."
        ) from None
    except OSError as error:
        lock.release()
        raise StoreError(f"Can't write the store '{folder}': {error.strerror}.") from error
    try:
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(folder: Path) -> str:
    try:
        holder = json.loads((folder / HOLDER).read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "another run"
