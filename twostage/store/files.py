"""The files of a store's folder: their names, and how one is written whole or not at all."""

import os
import re
from pathlib import Path
from typing import Any

from twostage.errors import StoreError

RECORD = "_store.json"
SEEN = "_seen.parquet"
LOCK = "_lock"
HOLDER = "_run.json"
PART = re.compile(r"part-(\d{6,})\.parquet")
_TEMPORARY = "_tmp-"


def is_ours(name: str) -> bool:
    """Whether a file of that name belongs to a store."""
    known = (RECORD, SEEN, LOCK, HOLDER)
    return name in known or name.startswith(_TEMPORARY) or bool(PART.fullmatch(name))


def check_folder(folder: Path) -> None:
    """Raise StoreError if a folder holds anything but a store."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(f"'{folder}' is a file. Give a folder for the store.")
    if (folder / RECORD).exists():
        return
    names = os.listdir(folder)
    if not all(map(is_ours, names)):
        raise StoreError(f"'{folder}' is a folder with other files in it. Give a new folder.")
    if any(map(PART.fullmatch, names)):
        raise StoreError(
            f"'{folder}' holds parts of a store but no {RECORD}, which says what made them. Put it "
            "back, or give a new folder."
        )


def delete_files(folder: Path) -> None:
    """Delete a store's files, and the folder if nothing else is in it."""
    for name in filter(is_ours, os.listdir(folder)):
        (folder / name).unlink()
    if not os.listdir(folder):
        folder.rmdir()


def replace_file(path: Path, data: Any) -> None:
    """Write a file whole or not at all, and durably."""
    # The temporary name ends unlike a part's: whoever reads "*.parquet" must not meet it.
    temporary = path.with_name(f"{_TEMPORARY}{path.name}~")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left half-written."""
    for leftover in folder.glob(_TEMPORARY + "*"):
        leftover.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
