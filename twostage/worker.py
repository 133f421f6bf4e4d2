"""The work on one shard: load its images, embed those whose bytes are new, commit the part."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from twostage.backbones.lazy import LazyBackbone
from twostage.errors import ImagesError
from twostage.images.loading import ImageLoader, LoadedImage
from twostage.store.planning import Shard
from twostage.store.schema import embedding_array
from twostage.store.store import EmbeddingStore

Progress = Callable[[int, int], None]


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
    """What a shard has so far, by content hash where it is about pixels."""

    images: list[LoadedImage] = field(default_factory=list)
    batch: dict[str, np.ndarray] = field(default_factory=dict)
    computed: dict[str, np.ndarray] = field(default_factory=dict)


class ShardWorker:
    """Turns shards into committed parts, one call each.

    Parameters
    ----------
    store : EmbeddingStore
        Where the parts go.
    backbone : LazyBackbone
        Built when the first image needs it.
    loader : ImageLoader
        Decodes ahead of the backbone.
    batch_size : int
        Images that go through the backbone at once.
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
        backbone: LazyBackbone,
        loader: ImageLoader,
        *,
        batch_size: int,
        fails_on_error: bool = False,
        n_images: int = 0,
        progress: Progress | None = None,
    ):
        self._store = store
        self._backbone = backbone
        self._loader = loader
        self._batch_size = batch_size
        self._fails_on_error = fails_on_error
        self._n_images = n_images
        self._n_done = 0
        self._progress = progress
        self._sizes = _sizes_by_hash(store.index())

    def __call__(self, shard: Shard) -> ShardRecord:
        """Look at a shard's images, and commit its part.

        Raises
        ------
        ImagesError
            If an image is unreadable and that is to end the run.
        StoreError
            If the part can't be written.
        """
        work = _Work()
        for image in self._loader.load(shard.images, known=self._sizes):
            self._take(image, work)
        self._embed(work)
        reused = self._reuse(work, shard)
        fine = [image for image in work.images if image.error is None]
        embeddings = reused | work.computed
        self._remember_sizes(fine)
        rows = _rows(work.images, embeddings, self._sizes, self._store.schema)
        if not self._is_committed(shard.part, rows):
            self._store.write_part(shard.part, rows)
        return ShardRecord(len(work.computed), len(fine) - len(work.computed))

    def _is_committed(self, part: str, rows: pa.Table) -> bool:
        """Whether the part holds these very rows, so that it need not be written again."""
        if part not in self._store.parts():
            return False
        names = [name for name in rows.schema.names if name != "embedding"]
        old = {row["image"]: row for row in self._store.read_part(part, names).to_pylist()}
        return all(old.get(row["image"]) == row for row in rows.select(names).to_pylist())

    def _reuse(self, work: _Work, shard: Shard) -> dict[str, np.ndarray]:
        """Take over the embeddings of known bytes; embed those whose row is gone meanwhile."""
        known = {
            position: str(image.content_hash)
            for position, image in enumerate(work.images)
            if image.error is None and image.content_hash not in work.computed
        }
        reused = self._store.known(list(known.values()))
        lost = [position for position, content_hash in known.items() if content_hash not in reused]
        again = self._loader.load([shard.images[position] for position in lost], known=())
        for position, image in zip(lost, again, strict=True):
            work.images[position] = replace(image, pixels=None)
            self._queue(image, work)
        self._embed(work)
        return reused

    def _take(self, image: LoadedImage, work: _Work) -> None:
        if image.error is not None and self._fails_on_error:
            raise ImagesError(
                f"'{image.image}' can't be used ({image.error}). Fix the file, or drop "
                "--on-error fail to keep such images as rows without an embedding."
            )
        work.images.append(replace(image, pixels=None))
        self._n_done += 1
        self._queue(image, work)

    def _queue(self, image: LoadedImage, work: _Work) -> None:
        """Put an image of new bytes into the batch, and embed the batch when it is full."""
        if image.pixels is not None and image.content_hash not in work.computed:
            work.batch[str(image.content_hash)] = image.pixels
        if len(work.batch) == self._batch_size:
            self._embed(work)

    def _embed(self, work: _Work) -> None:
        if work.batch:
            pixels = np.stack(list(work.batch.values()))
            embeddings = self._backbone.get().embed(pixels, self._batch_size)
            work.computed.update(zip(work.batch, embeddings, strict=True))
            work.batch.clear()
        if self._progress is not None:
            self._progress(self._n_done, self._n_images)

    def _remember_sizes(self, images: Sequence[LoadedImage]) -> None:
        for image in images:
            if image.width is not None and image.height is not None:
                self._sizes[str(image.content_hash)] = (image.width, image.height)


def _sizes_by_hash(index: pa.Table) -> dict[str, tuple[int, int]]:
    """Return width and height of every content hash that has an embedding."""
    columns = ("content_hash", "width", "height", "error")
    rows = zip(*(index[name].to_pylist() for name in columns), strict=True)
    return {content_hash: (w, h) for content_hash, w, h, error in rows if error is None}


def _rows(
    images: Sequence[LoadedImage],
    embeddings: Mapping[str, np.ndarray],
    sizes: Mapping[str, tuple[int, int]],
    schema: pa.Schema,
) -> pa.Table:
    """Put a shard's images and embeddings into the store's columns."""
    is_valid = np.array([image.error is None for image in images], dtype=bool)
    dim = schema.field("embedding").type.list_size
    matrix = np.zeros((len(images), dim), np.float32)
    for row, image in enumerate(images):
        if image.error is None:
            matrix[row] = embeddings[str(image.content_hash)]
    nothing = (None, None)
    shapes = [
        sizes[str(image.content_hash)] if image.error is None else nothing for image in images
    ]
    columns = {
        "image": [image.image for image in images],
        "content_hash": [image.content_hash for image in images],
        "size_bytes": [image.size_bytes for image in images],
        "mtime_ns": [image.mtime_ns for image in images],
        "width": [width for width, _ in shapes],
        "height": [height for _, height in shapes],
        "embedding": embedding_array(matrix, is_valid, schema),
        "error": [image.error for image in images],
    }
    return pa.table(columns, schema=schema)
