"""A shard worker on another machine: what it needs to know, and what it checks before it begins."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import joblib

from twostage.backbones.lazy import LazyBackbone
from twostage.errors import ImageError, ImagesError, StoreError
from twostage.executors.ray import ReadyWorker
from twostage.images.loading import Condemned, read
from twostage.images.references import Reference, Source
from twostage.pixels import MAX_PIXELS
from twostage.store.locking import mark_of
from twostage.store.planning import Shard
from twostage.store.store import EmbeddingStore
from twostage.throughput import StageClock
from twostage.worker import Progress, ShardRecord, ShardWorker, open_loader

_KILLS = "ends the process that {}s it"
_N_SAMPLES = 3


@dataclass(frozen=True)
class WorkerRecipe:
    """Makes the worker of `twostage.worker` wherever it is called.

    Attributes
    ----------
    store : str
        Where the store is, from wherever one looks.
    mark : str
        What its lock says: that of another folder of that path, on another machine, or of another
        run, says something else.
    backbone : LazyBackbone
        Not built yet. It is the store's, engine and precision too.
    samples : sequence of Reference
        Images of which one at least must be readable.
    n_threads : int or None
        That decode; as many as the worker has cores if None.
    max_pixels : int
        Larger images are not decoded.
    fails_on_error : bool
        Whether an unreadable image ends the run.
    """

    store: str
    mark: str
    backbone: LazyBackbone
    samples: Sequence[Reference] = ()
    n_threads: int | None = None
    max_pixels: int = MAX_PIXELS
    fails_on_error: bool = False

    def __call__(self, progress: Progress) -> ReadyWorker[Shard, ShardRecord]:
        """Make the worker, with its backbone built.

        Raises
        ------
        StoreError
            If the store is not the one that the run holds.
        ImagesError
            If its images are not there.
        BackboneError
            If the backbone can't be built.
        """
        store = self._opened()
        self._check_images()
        n_threads = self.n_threads or joblib.cpu_count()
        clock = StageClock(n_threads, joblib.cpu_count())
        loader = open_loader(store, n_threads, clock, self.max_pixels)  # ends with its process
        self.backbone.get()
        worker = ShardWorker(
            store,
            self.backbone,
            loader,
            clock,
            fails_on_error=self.fails_on_error,
            progress=progress,
        )
        return ReadyWorker(worker.run, str(self.backbone.device))

    def _opened(self) -> EmbeddingStore:
        is_there = EmbeddingStore.exists_at(self.store)
        if not is_there or mark_of(self.store) != self.mark:
            found = "another one is there" if is_there else "nothing is there"
            raise StoreError(
                f"the store '{self.store}' can't be seen from it ({found}). Give a folder that all "
                "nodes share, or a URL (s3://bucket/store)."
            )
        store = EmbeddingStore(self.store)
        store.before_write = self._check_held
        return store

    def _check_held(self) -> None:
        """Raise StoreError once the run is gone: another one may number its parts otherwise."""
        if mark_of(self.store) != self.mark:
            raise StoreError(f"The run that held the store '{self.store}' holds it no more.")

    def _check_images(self) -> None:
        if self.samples and not any(map(_is_readable, self.samples)):
            raise ImagesError(
                f"the images can't be read from it; for example '{self.samples[0].path}'. Give a "
                "folder that all nodes share under this path, or a URL (s3://bucket/photos)."
            )


@dataclass(frozen=True)
class _Untouchable:
    """Stands for an image that is not even read."""

    size_bytes: int | None

    def read(self) -> bytes:
        raise ImageError("read", _KILLS.format("read"))


def samples_of(shards: Sequence[Shard]) -> list[Reference]:
    """Choose images by which a worker sees whether the images are there for it."""
    images = (image for shard in shards for image in shard.images if image.size_bytes is not None)
    return [image for image, _ in zip(images, range(_N_SAMPLES), strict=False)]


def split(shard: Shard) -> tuple[Shard, Shard]:
    """Cut a shard in two that go into the same part, one after the other."""
    half = len(shard.images) // 2
    return (
        replace(shard, images=shard.images[:half]),
        replace(shard, images=shard.images[half:]),
    )


def condemn(shard: Shard, n_before: int) -> Shard:
    """Let the image of a shard of one be no more decoded; the second time, not even read."""
    (image,) = shard.images
    source: Source = Condemned(image, f"decode: {_KILLS.format('decode')}")
    if n_before:
        source = _Untouchable(image.size_bytes)
    return replace(shard, images=[image._replace(source=source)])


def _is_readable(reference: Reference) -> bool:
    try:
        read(reference)
    except ImageError:
        return False
    return True
