"""The work on shards: load their images, embed those whose bytes are new, commit the parts.

It overlaps: threads decode ahead, the engine has several batches under way, and batches run across
the borders of shards.
"""

from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice, tee
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from twostage.errors import ImagesError
from twostage.images.loading import ImageLoader, LoadedImage
from twostage.store.planning import Shard
from twostage.store.schema import embedding_array
from twostage.store.store import EmbeddingStore
from twostage.store.whereabouts import Whereabouts
from twostage.throughput import StageClock

Progress = Callable[[int, int], None]
Shape = tuple[int | None, int | None]
_IMAGES_AHEAD = 128


class Runs(Protocol):
    """What an engine is to the worker; see `twostage.backbones.engines.Engine`."""

    batch_size: int

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the embeddings of batches, in order."""
        ...


class Embeds(Protocol):
    """A backbone or an encoder, opened when it is first needed."""

    def get(self) -> Runs:
        """Return what embeds, built at the first call."""
        ...


class Loads(Protocol):
    """What reads images, or hands over other values, ahead of what embeds them."""

    def load(self, references: Iterable[Any], known: Container[str]) -> Iterator[LoadedImage]:
        """Yield what is at each reference, in order."""
        ...


@dataclass(frozen=True)
class ShardRecord:
    """What was done for a shard.

    Attributes
    ----------
    n_computed : int
        Images that went through the backbone.
    n_reused : int
        Images whose embedding was taken from one of equal bytes.
    """

    n_computed: int
    n_reused: int


@dataclass
class _Work:
    """A shard under way.

    Attributes
    ----------
    shard : Shard
        What is to be done.
    images : list of LoadedImage
        What is loaded, without its pixels.
    own : set of str
        Content hashes that are embedded on its behalf.
    awaited : set of str
        Those that the engine has not given back yet.
    """

    shard: Shard
    images: list[LoadedImage] = field(default_factory=list)
    own: set[str] = field(default_factory=set)
    awaited: set[str] = field(default_factory=set)

    @property
    def is_complete(self) -> bool:
        return len(self.images) == len(self.shard.images) and not self.awaited


class ShardWorker:
    """Turns shards into committed parts.

    Parameters
    ----------
    store : EmbeddingStore
        Where the parts go.
    backbone : LazyBackbone or LazyEncoder
        Built when the first image needs it.
    loader : ImageLoader or ValueLoader
        Decodes ahead of the backbone.
    clock : StageClock
        What counts the time of the other steps.
    fails_on_error : bool
        Whether an unreadable image ends the run.
    n_images : int
        Of all shards, for the progress.
    progress : callable, optional
        Called with the number of images done and ``n_images``.
    """

    def __init__(
        self,
        store: EmbeddingStore,
        backbone: Embeds,
        loader: Loads,
        clock: StageClock,
        *,
        fails_on_error: bool = False,
        n_images: int = 0,
        progress: Progress | None = None,
    ):
        self._store = store
        self._backbone = backbone
        self._loader = loader
        self._clock = clock
        self._fails_on_error = fails_on_error
        self._n_images = n_images
        self._n_done = 0
        self._progress = progress
        self._known = store.whereabouts()
        self._seen = store.seen.content_hashes
        self._open: deque[_Work] = deque()
        self._embedded: dict[str, np.ndarray] = {}  # of open shards, by content hash
        self._built: Runs | None = None
        self._failure: LoadedImage | None = None  # what ends the run, once the rest is committed
        self._records: deque[ShardRecord] = deque()

    def run(self, shards: Iterable[Shard]) -> Iterator[ShardRecord]:
        """Look at the images of shards, and commit their parts, in order.

        Raises
        ------
        ImagesError
            If an image is unreadable and that is to end the run.
        StoreError
            If a part can't be written.
        """
        sent: deque[list[str]] = deque()
        batches = self._batches(shards, sent)
        for first in batches:  # without any, the backbone is not built
            for embeddings in self._engine().run(chain([first], batches)):
                self._receive(sent.popleft(), embeddings)
                yield from self._committed()
        yield from self._committed()
        if self._failure is not None:
            raise ImagesError(
                f"'{self._failure.image}' can't be used ({self._failure.error}). Fix the file, or "
                "drop --on-error fail to keep such images as rows without an embedding."
            )

    def _batches(self, shards: Iterable[Shard], sent: deque[list[str]]) -> Iterator[np.ndarray]:
        """Yield the pixels of new bytes, batch by batch, and note in ``sent`` whose they are."""
        batch: dict[str, np.ndarray] = {}

        def flush() -> np.ndarray:
            sent.append(list(batch))
            pixels = np.stack(list(batch.values()))
            batch.clear()
            return pixels

        shards, ahead = tee(shards)  # they may come one by one, while others are worked on
        everything = chain.from_iterable(shard.images for shard in ahead)
        loaded = self._loader.load(everything, known=self._known)
        for shard in shards:
            work = _Work(shard)
            self._open.append(work)
            for image in islice(self._waited_for(loaded), len(shard.images)):
                if image.error is not None and self._fails_on_error:
                    self._failure = image
                    break
                if self._note(image, work) and image.pixels is not None:
                    batch[str(image.content_hash)] = image.pixels
                    if len(batch) >= self._engine().batch_size:
                        yield flush()
            self._commit_complete()
            if self._failure is not None:
                break
        if batch:
            yield flush()

    def _engine(self) -> Runs:
        """Return what embeds, built at the first call: that is no part of the work."""
        if self._built is None:
            with self._clock.left_out():
                self._built = self._backbone.get()
        return self._built

    def _waited_for(self, loaded: Iterable[LoadedImage]) -> Iterator[LoadedImage]:
        """Yield what is loaded, and count how long it is waited for."""
        images = iter(loaded)
        while True:
            with self._clock.waiting():
                image = next(images, None)
            if image is None:
                return
            yield image

    def _note(self, image: LoadedImage, work: _Work) -> bool:
        """Note what was loaded; whether it is to be embedded, on behalf of its shard."""
        work.images.append(replace(image, pixels=None))
        self._n_done += 1
        content_hash = str(image.content_hash)
        is_known = content_hash in self._known or any(content_hash in w.own for w in self._open)
        if image.pixels is None or is_known:
            return False
        work.own.add(content_hash)
        work.awaited.add(content_hash)
        return True

    def _receive(self, hashes: Sequence[str], embeddings: np.ndarray) -> None:
        """Take what the engine gives back, and commit what that completes."""
        self._embedded.update(zip(hashes, embeddings, strict=True))
        for work in self._open:
            work.awaited.difference_update(hashes)
        self._commit_complete()
        if self._progress is not None:
            self._progress(
                self._n_done - sum(len(work.awaited) for work in self._open), self._n_images
            )

    def _committed(self) -> Iterator[ShardRecord]:
        while self._records:
            yield self._records.popleft()

    def _commit_complete(self) -> None:
        """Commit the shards that are complete, in order: later ones may need what earlier have."""
        while self._open and self._open[0].is_complete:
            work = self._open[0]
            embeddings = self._embeddings_of(work)
            fine = [image for image in work.images if image.error is None]
            rows = _rows(work.images, embeddings, self._known, self._seen, self._store.schema)
            if not self._is_committed(work.shard.part, rows):
                with self._clock.writing():
                    self._store.write_part(work.shard.part, rows)
            for content_hash in work.own:
                del self._embedded[content_hash]
            self._records.append(ShardRecord(len(work.own), len(fine) - len(work.own)))
            self._open.popleft()

    def _is_committed(self, part: str, rows: pa.Table) -> bool:
        """Whether the part holds these very rows, so that it need not be written again."""
        if not self._store.has_part(part):
            return False
        names = [name for name in rows.schema.names if name != "embedding"]
        old = {row["image"]: row for row in self._store.read_part(part, names).to_pylist()}
        return all(old.get(row["image"]) == row for row in rows.select(names).to_pylist())

    def _embeddings_of(self, work: _Work) -> dict[str, np.ndarray]:
        """Return a shard's embeddings: its own, and those of known bytes.

        Known bytes whose row is gone meanwhile, for it was written anew, are embedded again.
        """
        own = {content_hash: self._embedded[content_hash] for content_hash in work.own}
        known = {
            position: str(image.content_hash)
            for position, image in enumerate(work.images)
            if image.error is None and image.content_hash not in own
        }
        reused = self._store.known(list(known.values()))
        lost = [position for position, content_hash in known.items() if content_hash not in reused]
        again = self._loader.load([work.shard.images[position] for position in lost], known=())
        for position, image in zip(lost, again, strict=True):
            work.images[position] = replace(image, pixels=None)
            content_hash = str(image.content_hash)
            if image.pixels is not None and content_hash not in own | reused:
                (embedding,) = self._engine().run([image.pixels[None]])
                self._embedded[content_hash] = own[content_hash] = embedding[0]
                work.own.add(content_hash)
        return reused | own


def open_loader(
    store: EmbeddingStore, n_threads: int, clock: StageClock, max_pixels: int
) -> ImageLoader:
    """Return what loads images as a store's backbone takes them."""
    return ImageLoader(
        size_px=store.spec["input_size_px"],
        resize=store.spec["resize"],
        n_threads=n_threads,
        n_ahead=_IMAGES_AHEAD,
        clock=clock,
        max_pixels=max_pixels,
    )


def _rows(
    images: Sequence[LoadedImage],
    embeddings: Mapping[str, np.ndarray],
    known: Whereabouts,
    seen: Container[str],
    schema: pa.Schema,
) -> pa.Table:
    """Put a shard's images and embeddings into the store's columns."""
    is_valid = np.array([image.error is None for image in images], dtype=bool)
    dim = schema.field("embedding").type.list_size
    matrix = np.zeros((len(images), dim), np.float32)
    for row, image in enumerate(images):
        if image.error is None:
            matrix[row] = embeddings[str(image.content_hash)]
    decoded = {i.content_hash: (i.width, i.height) for i in images if i.width is not None}
    shapes = [_shape(image, decoded, known) for image in images]
    columns = {
        "image": [image.image for image in images],
        "content_hash": [image.content_hash for image in images],
        "size_bytes": [image.size_bytes for image in images],
        "mtime_ns": [image.mtime_ns for image in images],
        "width": [width for width, _ in shapes],
        "height": [height for _, height in shapes],
        "embedding": embedding_array(matrix, is_valid, schema),
        "error": [image.error for image in images],
        "seen": [image.content_hash in seen for image in images],
    }
    return pa.table(columns, schema=schema)


def _shape(image: LoadedImage, decoded: Mapping[str | None, Shape], known: Whereabouts) -> Shape:
    """Return width and height: as decoded in this shard, or as the store has them."""
    if image.error is not None:
        return (None, None)
    return decoded.get(image.content_hash) or known[str(image.content_hash)]
