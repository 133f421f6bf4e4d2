"""Stage one: a manifest of images and a backbone into a store.

`extract` shows it whole: what is missing -> shards -> the executor runs the worker on each -> in
the worker: load, embed, write -> a summary.
"""

import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pyarrow as pa

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.errors import ImagesError, StoreError, UsageError
from twostage.executors.local import LocalExecutor
from twostage.images.loading import ImageLoader, LoadedImage
from twostage.images.references import Reference, find_images, list_images, reference_to
from twostage.store.planning import Shard, make_plan
from twostage.store.schema import embedding_array
from twostage.store.store import EmbeddingStore

if TYPE_CHECKING:
    from twostage.backbones.keras_backbone import KerasBackbone

log = logging.getLogger("twostage")

PathLike = str | os.PathLike[str]
Progress = Callable[[int, int], None]
_BATCHES_AHEAD = 4


@dataclass(frozen=True)
class ExtractionOptions:
    """How an extraction runs; nothing here changes an embedding's meaning.

    Attributes
    ----------
    batch_size : int
        Images that go through the backbone at once.
    workers : int or None
        Threads that read and decode; as many as there are cores if None.
    device : {"auto", "cpu", "gpu"}
        Where the backbone runs.
    on_error : {"null", "fail"}
        What an unreadable image becomes: a row with an error, or the end of the run.
    retry_errors : bool
        Whether to try again what could not be decoded.
    verify : bool
        Whether to compare all images by their bytes, trusting no size and time.
    progress : callable or None
        Called with the number of images done and the number to do.
    """

    batch_size: int = 32
    workers: int | None = None
    device: str = "auto"
    on_error: str = "null"
    retry_errors: bool = False
    verify: bool = False
    progress: Progress | None = None

    def __post_init__(self) -> None:
        for name, value in (("batch_size", self.batch_size), ("workers", self.workers)):
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1; found {value}.")
        if self.on_error not in ("null", "fail"):
            raise UsageError(f"on_error must be 'null' or 'fail'; found {self.on_error!r}.")


@dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction did.

    Attributes
    ----------
    store : str
        The store's folder.
    backbone : str
        The architecture.
    dim : int
        Length of an embedding.
    n_images : int
        Images asked for.
    n_computed, n_reused, n_unchanged : int
        Embedded now; taken from an image of equal bytes; as they were.
    n_errors : int
        Images asked for whose row has no embedding.
    errors : dict of str to int
        Those, by kind and reason.
    seconds : float
        Wall time.
    device : str or None
        Where the backbone ran; None if it was not needed.
    note : str or None
        What was done to a table's image names to find the files.
    """

    store: str
    backbone: str
    dim: int
    n_images: int
    n_computed: int
    n_reused: int
    n_unchanged: int
    n_errors: int
    errors: dict[str, int]
    seconds: float
    device: str | None = None
    note: str | None = None


def extract(
    images: PathLike,
    store: PathLike,
    *,
    names: Iterable[str] | None = None,
    backbone: str | None = None,
    weights: str | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    image_size: int | None = None,
    resize: str | None = None,
    dtype: str | None = None,
    random_state: int | None = None,
    **options: Any,
) -> ExtractionSummary:
    """Embed the images below a folder into a store, those that it does not hold yet.

    Parameters
    ----------
    images : path-like
        Folder, walked recursively.
    store : path-like
        Folder of the store; made if it does not exist.
    names : iterable of str, optional
        Only these images, as a table names them, relative to ``images``. Names without a file
        become rows with an error.
    backbone, weights, layer, pooling, image_size, resize, dtype, random_state
        See `twostage.backbones.spec.BackboneSettings`. What is not given is the store's own, or
        for a new store the default: MobileNetV2 with ImageNet weights.
    **options
        See `ExtractionOptions`.

    Returns
    -------
    ExtractionSummary

    Raises
    ------
    UsageError
        If a path does not exist or an option has no such value.
    ImagesError
        If there are no images, none can be read, or one can't under ``on_error="fail"``.
    BackboneError
        If the backbone can't be built.
    StoreError
        If the store was made by another backbone, is held by another run, or can't be written.
    """
    settings = BackboneSettings(
        backbone, weights, layer, pooling, image_size, resize, dtype, random_state
    )
    how = ExtractionOptions(**options)
    folder, note = Path(images), None
    if names is None:
        references = list_images(folder)
    else:
        found, note = find_images(folder, names)
        references = list({reference.image: reference for reference in found.values()}.values())
        if not references:
            raise ImagesError("The table names no image: its image column is empty.")
    summary = _embed_into(Path(store), references, _LazyBackbone(settings, how.device), how)
    return replace(summary, note=note)


def embed_files(
    paths: Sequence[str], folder: Path, settings: BackboneSettings, options: ExtractionOptions
) -> EmbeddingStore:
    """Embed files, named by their absolute paths, into the store that a folder has per backbone.

    Another run that writes that store is waited for. Errors are rows.
    """
    backbone = _LazyBackbone(settings, options.device)
    path = folder / f"{backbone.spec.architecture}-{backbone.spec.key}"
    references = [reference_to(Path(), name) for name in dict.fromkeys(paths)]
    if references:
        _embed_into(path, references, backbone, options, is_cache=True)
    elif not EmbeddingStore.exists_at(path):
        return EmbeddingStore.create(path, backbone.spec.to_dict())
    return EmbeddingStore(path)


class _LazyBackbone:
    """A backbone that is built when it is first needed.

    Parameters
    ----------
    settings : BackboneSettings
        What was asked for.
    device : {"auto", "cpu", "gpu"}
        Where it is to run.
    """

    def __init__(self, settings: BackboneSettings, device: str):
        self.settings = settings
        self.device: str | None = None
        self._requested_device = device
        self._expected: BackboneSpec | None = None
        self._loaded: KerasBackbone | None = None

    @property
    def spec(self) -> BackboneSpec:
        return self.get().spec

    def expect(self, spec: BackboneSpec) -> None:
        """Build the backbone of a store, and refuse any other."""
        self._expected = spec

    def get(self) -> "KerasBackbone":
        """Return the backbone, built at the first call."""
        if self._loaded is None:
            from twostage.backbones.devices import choose_device
            from twostage.backbones.keras_backbone import load_backbone

            device = choose_device(self._requested_device)
            self._loaded = load_backbone(self._settings_to_build(), device.name)
            self.device = device.description
            log.info("%s runs on %s.", self._loaded.spec.architecture, device.description)
            if self._expected is not None:
                _refuse(self._expected.differences(self._loaded.spec))
        return self._loaded

    def _settings_to_build(self) -> BackboneSettings:
        if self._expected is None:
            return self.settings
        file = self.settings.weights_file
        return self._expected.to_settings(str(file) if file else None)


def _embed_into(
    path: Path,
    references: Sequence[Reference],
    backbone: _LazyBackbone,
    options: ExtractionOptions,
    is_cache: bool = False,
) -> ExtractionSummary:
    """Embed what the store does not hold, part by part."""
    started = time.perf_counter()
    if options.on_error == "fail":
        _check_all_present(references)
    with _opened(path, backbone) as store, store.lock(wait=is_cache):
        plan = make_plan(
            references,
            store.index(),
            n_parts=store.next_number(),
            retry_errors=options.retry_errors,
            verify=options.verify,
        )
        n_planned = sum(len(shard.images) for shard in plan.shards)
        with _loader(store, options) as loader:
            worker = _ShardWorker(store, backbone, loader, options, n_planned)
            records = list(LocalExecutor().run(worker, plan.shards))
        errors = _errors_of(store, references)
        if len(errors) == len(references) and not is_cache:
            raise ImagesError(
                f"None of the {len(references)} images can be read; first: "
                f"'{references[0].image}' ({errors[0]}). Check the paths and the files."
            )
    return ExtractionSummary(
        store=str(path),
        backbone=store.spec["architecture"],
        dim=store.dim,
        n_images=len(references),
        n_computed=sum(record.n_computed for record in records),
        n_reused=sum(record.n_reused for record in records),
        n_unchanged=plan.n_unchanged,
        n_errors=len(errors),
        errors=dict(Counter(errors).most_common()),
        seconds=time.perf_counter() - started,
        device=backbone.device,
    )


@contextmanager
def _opened(path: Path, backbone: _LazyBackbone) -> Iterator[EmbeddingStore]:
    """Open the store or make it; a store made in vain is taken away again."""
    if EmbeddingStore.exists_at(path):
        store = EmbeddingStore(path)
        _continue_with(store, backbone)
        yield store
        return
    store = EmbeddingStore.create(path, backbone.spec.to_dict())
    try:
        yield store
    except BaseException as error:
        if not store.parts() or isinstance(error, ImagesError):
            store.delete()
        raise


def _continue_with(store: EmbeddingStore, backbone: _LazyBackbone) -> None:
    """Make the backbone the store's own, or refuse if another one was asked for."""
    spec = BackboneSpec.from_dict(store.spec, store.path)
    _refuse(spec.conflicts(backbone.settings))
    backbone.expect(spec)
    if not spec.knows_weights_file(backbone.settings):
        backbone.get()


def _refuse(differences: Sequence[str]) -> None:
    """Raise StoreError if the backbone differs from the store's."""
    if differences:
        raise StoreError(
            f"The store was made by another backbone: {'; '.join(differences)}. Give another "
            "folder for the store, or leave these options out to go on with the store's."
        )


def _check_all_present(references: Sequence[Reference]) -> None:
    missing = [reference for reference in references if reference.size_bytes is None]
    if missing:
        raise ImagesError(
            f"{len(missing)} of {len(references)} images have no file; first: "
            f"'{missing[0].path}'. Fix the paths, or drop --on-error fail to keep them as rows "
            "without an embedding."
        )


def _loader(store: EmbeddingStore, options: ExtractionOptions) -> ImageLoader:
    return ImageLoader(
        size_px=store.spec["input_size_px"],
        resize=store.spec["resize"],
        n_threads=options.workers or joblib.cpu_count(),
        n_ahead=_BATCHES_AHEAD * options.batch_size,
    )


def _errors_of(store: EmbeddingStore, references: Sequence[Reference]) -> list[str]:
    """Return the errors of the images asked for, as the store has them now."""
    index = store.index()
    error_of = dict(zip(index["image"].to_pylist(), index["error"].to_pylist(), strict=True))
    errors = (error_of[reference.image] for reference in references)
    return [error for error in errors if error is not None]


@dataclass(frozen=True)
class _ShardRecord:
    n_computed: int
    n_reused: int


@dataclass
class _ShardWork:
    """What a shard has so far."""

    images: list[LoadedImage] = field(default_factory=list)
    computed: dict[str, np.ndarray] = field(default_factory=dict)
    batch: dict[str, np.ndarray] = field(default_factory=dict)


class _ShardWorker:
    """Loads the images of a shard, embeds those whose bytes are new, and commits the part."""

    def __init__(
        self,
        store: EmbeddingStore,
        backbone: _LazyBackbone,
        loader: ImageLoader,
        options: ExtractionOptions,
        n_planned: int,
    ):
        self._store = store
        self._backbone = backbone
        self._loader = loader
        self._options = options
        self._n_planned = n_planned
        self._n_done = 0
        self._sizes = _sizes_by_hash(store.index())

    def __call__(self, shard: Shard) -> _ShardRecord:
        work = _ShardWork()
        for image in self._loader.load(shard.images, known=self._sizes):
            self._take(image, work)
        self._embed_batch(work)
        reused = [i.content_hash for i in work.images if self._is_reused(i, work)]
        embeddings = self._store.known([h for h in reused if h]) | work.computed
        self._store.write_part(shard.part, _rows(work.images, embeddings, self._sizes, self._store))
        for image in work.images:
            if image.content_hash and image.width and image.height:
                self._sizes.setdefault(image.content_hash, (image.width, image.height))
        n_fine = sum(image.error is None for image in work.images)
        return _ShardRecord(len(work.computed), n_fine - len(work.computed))

    def _take(self, image: LoadedImage, work: _ShardWork) -> None:
        if image.error is not None and self._options.on_error == "fail":
            raise ImagesError(
                f"'{image.image}' can't be used ({image.error}). Fix the file, or drop "
                "--on-error fail to keep such images as rows without an embedding."
            )
        if image.pixels is not None and image.content_hash not in work.computed:
            work.batch[str(image.content_hash)] = image.pixels
        work.images.append(replace(image, pixels=None))
        if len(work.batch) == self._options.batch_size:
            self._embed_batch(work)
        self._n_done += 1
        if self._options.progress is not None and not work.batch:
            self._options.progress(self._n_done, self._n_planned)

    def _embed_batch(self, work: _ShardWork) -> None:
        if not work.batch:
            return
        pixels = np.stack(list(work.batch.values()))
        embeddings = self._backbone.get().embed(pixels, self._options.batch_size)
        work.computed.update(zip(work.batch, embeddings, strict=True))
        work.batch.clear()
        if self._options.progress is not None:
            self._options.progress(self._n_done, self._n_planned)

    @staticmethod
    def _is_reused(image: LoadedImage, work: _ShardWork) -> bool:
        return image.error is None and image.content_hash not in work.computed


def _sizes_by_hash(index: pa.Table) -> dict[str, tuple[int, int]]:
    """Return width and height of every content hash that has an embedding."""
    columns = ("content_hash", "width", "height", "error")
    rows = zip(*(index[name].to_pylist() for name in columns), strict=True)
    return {content_hash: (w, h) for content_hash, w, h, error in rows if error is None}


def _rows(
    images: Sequence[LoadedImage],
    embeddings: dict[str, np.ndarray],
    sizes: dict[str, tuple[int, int]],
    store: EmbeddingStore,
) -> pa.Table:
    """Put a shard's images and embeddings into the store's columns."""
    n = len(images)
    is_valid = np.array([image.error is None for image in images], dtype=bool)
    matrix = np.zeros((n, store.dim), np.float32)
    for i in np.flatnonzero(is_valid):
        matrix[i] = embeddings[str(images[i].content_hash)]
    unknown = (None, None)
    known = [sizes.get(image.content_hash or "", unknown) for image in images]
    schema = store.schema()
    columns = {
        "image": [image.image for image in images],
        "content_hash": [image.content_hash for image in images],
        "size_bytes": [image.size_bytes for image in images],
        "mtime_ns": [image.mtime_ns for image in images],
        "width": [i.width or size[0] for i, size in zip(images, known, strict=True)],
        "height": [i.height or size[1] for i, size in zip(images, known, strict=True)],
        "embedding": embedding_array(matrix, is_valid, schema),
        "error": [image.error for image in images],
    }
    return pa.table(columns, schema=schema)
