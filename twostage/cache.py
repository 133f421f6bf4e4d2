"""The cache: one store per backbone, shared by the estimators and ``predict --images``."""

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.encoders.spec import EncoderSpec
from twostage.errors import StoreError
from twostage.extraction import ExtractionOptions, embed_files, embed_values
from twostage.folders import backbones_folder, cache_folder, conversions
from twostage.images.references import Reference
from twostage.store.locking import locked
from twostage.store.places import delete_files
from twostage.store.store import EmbeddingStore

_NAME = re.compile(r"[a-z0-9_]+-[0-9a-f]{32}")
_TUNED = "tuned-{key}"
_OF_TUNED = re.compile(r"(?:_tmp-|_old-)?(tuned-[0-9a-f]{32})(?:[.-].*)?")  # with what is beside it


@dataclass(frozen=True)
class CachedStore:
    """One store of the cache.

    Attributes
    ----------
    name : str
        Of its folder.
    n_images : int or None
        Rows in it; None if it is damaged.
    size_bytes : int
        Of its parts.
    """

    name: str
    n_images: int | None
    size_bytes: int


@dataclass(frozen=True)
class CachedNetwork:
    """One network of the cache, converted or tuned.

    Attributes
    ----------
    name : str
        Of its folder.
    size_bytes : int
        Of its files.
    """

    name: str
    size_bytes: int


def embed_through_cache(
    files: Sequence[Reference],
    wanted: BackboneSettings | BackboneSpec,
    options: ExtractionOptions,
    cache_dir: str | os.PathLike[str] | None = None,
) -> EmbeddingStore:
    """Embed the images that the cache does not hold yet.

    Parameters
    ----------
    files : sequence of Reference
        Named by their absolute paths. Images are looked up by their content hash, so that a copy
        of one is not embedded again.
    wanted : BackboneSettings or BackboneSpec
        The cache has one store for each backbone.
    options : ExtractionOptions
        Unreadable images are rows with an error, whatever ``on_error`` says.
    cache_dir : path-like, optional
        See `twostage.folders.cache_folder`.

    Returns
    -------
    EmbeddingStore
        It holds every file given.
    """
    unique = list({file.image: file for file in files}.values())
    return embed_files(unique, cache_folder(cache_dir), wanted, options)


def embed_values_through_cache(
    values: Sequence[Reference],
    encoder: EncoderSpec,
    options: ExtractionOptions,
    cache_dir: str | os.PathLike[str] | None = None,
) -> EmbeddingStore:
    """Embed the texts or sequences that the cache does not hold yet; see `embed_through_cache`."""
    unique = list({value.image: value for value in values}.values())
    return embed_values(unique, cache_folder(cache_dir), encoder, options)


def cached_stores(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedStore]:
    """List what the cache holds."""
    return [_describe(folder) for folder in _folders(cache_folder(cache_dir))]


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedStore]:
    """Empty the cache, and list what it held. Stores being written are refused."""
    cleared = []
    for folder in _folders(cache_folder(cache_dir)):
        with locked(folder):
            cleared.append(_describe(folder))
            delete_files(folder)
    return cleared


def cached_networks() -> list[CachedNetwork]:
    """List the converted networks that the cache holds."""
    return [
        CachedNetwork(folder.name, sum(file.stat().st_size for file in folder.iterdir()))
        for folder in conversions()
    ]


def clear_networks() -> list[CachedNetwork]:
    """Delete the converted networks, and list what they were."""
    cleared = cached_networks()
    for folder in conversions():
        shutil.rmtree(folder, ignore_errors=True)
    return cleared


@contextmanager
def place_for_backbone(key: str, cache_dir: str | os.PathLike[str] | None = None) -> Iterator[Path]:
    """Yield the folder of a tuned backbone, which may not exist; others that want it wait.

    Parameters
    ----------
    key : str
        Digest of what makes it what it is.
    cache_dir : path-like, optional
        See `twostage.folders.cache_folder`.

    Raises
    ------
    StoreError
        If the cache can't be written.
    """
    folder = backbones_folder(cache_dir).absolute() / _TUNED.format(key=key)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(_lock_of(folder))
        lock.acquire()
    except OSError as error:
        raise StoreError(f"Can't write the cache '{folder.parent}': {error.strerror}.") from error
    try:
        yield folder
    finally:
        lock.release()


def cached_backbones(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedNetwork]:
    """List the tuned backbones that the cache holds, each with what is unfinished of it."""
    parts = _parts_of_tuned(cache_dir).items()
    return [CachedNetwork(name, sum(map(_size_of, paths))) for name, paths in parts]


def clear_backbones(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedNetwork]:
    """Delete the tuned backbones, and list what they were.

    Raises
    ------
    StoreError
        If one is being tuned.
    """
    cleared = cached_backbones(cache_dir)
    for name, paths in _parts_of_tuned(cache_dir).items():
        lock = FileLock(_lock_of(backbones_folder(cache_dir) / name), timeout=0)
        try:
            with lock:
                for path in paths:
                    shutil.rmtree(path, ignore_errors=True)
        except Timeout:
            raise StoreError(
                f"Backbone '{name}' of the cache is being tuned. Wait for that to end, or stop it."
            ) from None
    return cleared


def _lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def _parts_of_tuned(cache_dir: str | os.PathLike[str] | None) -> dict[str, list[Path]]:
    """Return by the name of each tuned backbone the folders that belong to it."""
    folder = backbones_folder(cache_dir)
    parts: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _OF_TUNED.fullmatch(path.name)
        if match and path.is_dir():
            parts.setdefault(match[1], []).append(path)
    return parts


def _size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _folders(cache: Path) -> list[Path]:
    """Return the folders that the cache made, by their names: others are none of its business."""
    if not cache.is_dir():
        return []
    return [path for path in sorted(cache.iterdir()) if _NAME.fullmatch(path.name)]


def _describe(folder: Path) -> CachedStore:
    """Describe a store; a damaged one too, so that it can be deleted."""
    size_bytes = sum(part.stat().st_size for part in folder.glob("part-*.parquet"))
    try:
        n_images = len(EmbeddingStore(folder))
    except StoreError:
        n_images = None
    return CachedStore(folder.name, n_images, size_bytes)
