"""The cache: one store per backbone, shared by the estimators and ``predict --images``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from twostage.backbones.spec import BackboneSettings
from twostage.extraction import ExtractionOptions, embed_files
from twostage.store.store import EmbeddingStore

VARIABLE = "TWOSTAGE_CACHE"


@dataclass(frozen=True)
class CachedStore:
    """One store of the cache.

    Attributes
    ----------
    name : str
        Of its folder.
    n_images : int
        Rows in it.
    size_bytes : int
        Of its parts.
    """

    name: str
    n_images: int
    size_bytes: int


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return where the cache is: ``cache_dir``, ``TWOSTAGE_CACHE``, or the user's cache folder."""
    chosen = cache_dir or os.environ.get(VARIABLE) or platformdirs.user_cache_dir("twostage")
    return Path(chosen).expanduser()


def embed_through_cache(
    paths: Sequence[str],
    settings: BackboneSettings,
    options: ExtractionOptions,
    cache_dir: str | os.PathLike[str] | None = None,
) -> EmbeddingStore:
    """Embed the images that the cache does not hold yet.

    Parameters
    ----------
    paths : sequence of str
        Absolute paths, which are the images' names in the cache. Images are looked up by their
        content hash, so that a copy of one is not embedded again.
    settings : BackboneSettings
        The cache has one store for each backbone.
    options : ExtractionOptions
        Unreadable images are rows with an error, whatever ``on_error`` says.
    cache_dir : path-like, optional
        See `cache_folder`.

    Returns
    -------
    EmbeddingStore
        It holds every path given.
    """
    return embed_files(paths, cache_folder(cache_dir), settings, options)


def cached_stores(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedStore]:
    """List what the cache holds."""
    return [_describe(store) for store in _stores(cache_folder(cache_dir))]


def clear_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedStore]:
    """Empty the cache, and list what it held. Stores being written are refused."""
    cleared = []
    for store in _stores(cache_folder(cache_dir)):
        with store.lock():
            cleared.append(_describe(store))
            store.delete()
    return cleared


def _stores(folder: Path) -> list[EmbeddingStore]:
    if not folder.is_dir():
        return []
    return [
        EmbeddingStore(path) for path in sorted(folder.iterdir()) if EmbeddingStore.exists_at(path)
    ]


def _describe(store: EmbeddingStore) -> CachedStore:
    size_bytes = sum((store.path / part).stat().st_size for part in store.parts())
    return CachedStore(store.path.name, len(store), size_bytes)
