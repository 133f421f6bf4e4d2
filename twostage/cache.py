"""The cache: one store per backbone, shared by the estimators and ``predict --images``."""

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.errors import StoreError
from twostage.extraction import ExtractionOptions, embed_files
from twostage.folders import cache_folder, conversions
from twostage.images.references import Reference
from twostage.store.files import delete_files
from twostage.store.locking import locked
from twostage.store.store import EmbeddingStore

_NAME = re.compile(r"[a-z0-9_]+-[0-9a-f]{32}")


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
    """One converted network of the cache.

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
