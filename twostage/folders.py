"""Folders: where twostage keeps what it can make again, and how one takes another's place."""

import os
import shutil
from pathlib import Path

import platformdirs

VARIABLE = "TWOSTAGE_CACHE"


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return where the cache is: ``cache_dir``, ``TWOSTAGE_CACHE``, or the user's cache folder."""
    chosen = cache_dir or os.environ.get(VARIABLE) or platformdirs.user_cache_dir("twostage")
    return Path(chosen).expanduser()


def conversions_folder() -> Path:
    """Return where converted networks are."""
    return cache_folder() / "engines"


def conversions() -> list[Path]:
    """Return the folders of converted networks, half-made ones among them, sorted."""
    folder = conversions_folder()
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def backbones_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return where the backbones are that fits have tuned."""
    return cache_folder(cache_dir) / "backbones"


def put_in_place(temporary: Path, folder: Path) -> None:
    """Rename a folder, with an older one moved out of its way first and deleted last.

    Raises
    ------
    OSError
        If it can't be; the older one is back in its place.
    """
    old = folder.with_name(f"_old-{folder.name}-{os.getpid()}")
    if folder.exists():
        os.rename(folder, old)
    try:
        os.rename(temporary, folder)
    except OSError:
        if old.exists():
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
