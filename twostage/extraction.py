"""Stage one: a manifest of images, texts or sequences and what embeds them into a store.

`extract` shows it whole: what is missing -> shards -> the executor runs the worker on each -> in
the worker: load, embed, write -> a summary.
"""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import pyarrow as pa

from twostage.backbones.devices import DEVICES
from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.contents import IMAGE, SEQUENCE, TEXT, kind_of
from twostage.encoders.lazy import LazyEncoder
from twostage.encoders.spec import EncoderSpec, read_spec
from twostage.encoders.values import ValueLoader, references_to
from twostage.errors import ImagesError, StoreError, UsageError
from twostage.executors.local import LocalExecutor
from twostage.executors.ray import (
    RayExecutor,
    RayOptions,
    check_ready,
    refuse_without_cluster,
)
from twostage.fingerprint import hash_json
from twostage.images.loading import ImageLoader
from twostage.images.manifest import Manifest
from twostage.images.places import open_place
from twostage.images.references import Reference
from twostage.lookup import as_mask
from twostage.pixels import MAX_PIXELS
from twostage.remote import is_url
from twostage.remote_worker import WorkerRecipe, condemn, samples_of, split
from twostage.store.agreement import settle
from twostage.store.locking import locked, mark_of
from twostage.store.places import Files, check_folder, delete_files, open_files
from twostage.store.planning import PLANNED_BY, Shard, make_plan
from twostage.store.store import EmbeddingStore
from twostage.throughput import StageClock, Throughput
from twostage.worker import Progress, ShardRecord, ShardWorker, open_loader

if TYPE_CHECKING:
    import pandas as pd

PathLike = str | os.PathLike[str]
Embeds = LazyBackbone | LazyEncoder
EXECUTORS = ("local", "ray")


@dataclass(frozen=True)
class ExtractionOptions:
    """How an extraction runs; nothing here changes an embedding's meaning.

    Attributes
    ----------
    batch_size : int or None
        Images that go through the backbone at once; what suits the engine if None.
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
    max_pixels : int
        Larger images are not decoded: rows with an error, which the next run tries again.
    executor : {"local", "ray"}
        Where shards run: in this process, or in a Ray cluster.
    address, ray_workers, cpus_per_worker, gpus_per_worker
        Of that cluster; see `twostage.executors.ray.RayOptions`.
    """

    batch_size: int | None = None
    workers: int | None = None
    device: str = "auto"
    on_error: str = "null"
    retry_errors: bool = False
    verify: bool = False
    progress: Progress | None = None
    max_pixels: int = MAX_PIXELS
    executor: str = "local"
    address: str | None = None
    ray_workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None

    def __post_init__(self) -> None:
        for name in ("batch_size", "workers", "max_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1; found {value}.")
        for name, choice, choices in (
            ("on_error", self.on_error, ("null", "fail")),
            ("device", self.device, DEVICES),
            ("executor", self.executor, EXECUTORS),
        ):
            if choice not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}; found {choice!r}.")
        if self.executor == "ray" and self.device == "gpu" and not self.gpus_per_worker:
            raise UsageError(
                "On a Ray cluster, workers have the GPUs that they are given: --gpus-per-worker "
                "1 instead of --device gpu."
            )
        _ = self.cluster

    @property
    def cluster(self) -> RayOptions:
        """Where shards run, if not here.

        Raises
        ------
        UsageError
            If it is said of a run here.
        """
        names = ("address", "ray_workers", "cpus_per_worker", "gpus_per_worker")
        given = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.executor != "ray":
            refuse_without_cluster(given)
        return RayOptions(**given)


@dataclass(frozen=True)
class ExtractionSummary:
    """What an extraction did.

    Attributes
    ----------
    store : str
        The store's folder or URL.
    backbone : str
        The architecture, or the name of a ``.keras`` file.
    dim : int
        Length of an embedding.
    n_images : int
        Images asked for.
    n_computed, n_reused, n_unchanged : int
        Embedded now; taken from an image of equal bytes; as they were.
    n_gone : int
        Of the unchanged ones, those whose file is not there any more.
    n_others : int
        Images in the store that were not asked for.
    n_errors : int
        Images asked for whose row has no embedding.
    errors : dict of str to int
        Those, by kind and reason.
    first_error : str or None
        The first of them.
    seconds : float
        Wall time.
    device : str or None
        Where the backbone ran; None if it was not needed.
    note : str or None
        What was done to a table's image names to find the files.
    throughput : Throughput or None
        Where the time went; None if no image was embedded, or elsewhere.
    seconds_to_start : float
        Of the seconds, those before the backbone (of the first worker of a cluster) was there.
    kind : {"image", "text", "sequence"}
        What "images" are here.
    """

    store: str
    backbone: str
    dim: int
    n_images: int
    n_computed: int
    n_reused: int
    n_unchanged: int
    n_gone: int
    n_others: int
    n_errors: int
    errors: dict[str, int]
    first_error: str | None
    seconds: float
    device: str | None = None
    note: str | None = None
    throughput: Throughput | None = None
    seconds_to_start: float = 0.0
    kind: str = IMAGE


def extract(
    images: PathLike,
    store: PathLike,
    *,
    names: Iterable[str] | None = None,
    backbone: PathLike | None = None,
    weights: str | None = None,
    layer: str | None = None,
    pooling: str | None = None,
    image_size: int | None = None,
    resize: str | None = None,
    dtype: str | None = None,
    random_state: int | None = None,
    engine: str | None = None,
    precision: str | None = None,
    preprocessing: str | None = None,
    bytes_column: str | None = None,
    **options: Any,
) -> ExtractionSummary:
    """Embed the images of a place into a store, those that it does not hold yet.

    Parameters
    ----------
    images : path-like
        Folder, walked recursively; or a list of files, a tar, a Parquet file with the bytes of
        images, or the URL of such: see `twostage.images.places.open_place`.
    store : path-like
        Folder of the store, or its URL (``s3://bucket/store``); made if it does not exist.
    names : iterable of str, optional
        Only these images, as a table names them, relative to ``images``. Names without a file
        become rows with an error.
    backbone, weights, layer, pooling, image_size, resize, dtype, random_state, engine, \
precision, preprocessing
        See `twostage.backbones.spec.BackboneSettings`. What is not given is the store's own, or
        for a new store the default: MobileNetV2 with ImageNet weights.
    bytes_column : str, optional
        Of a Parquet file, the column of bytes, if several could be it.
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
    ExecutorError
        If the cluster can't be reached, or its workers can't work.
    """
    settings = BackboneSettings(
        backbone,
        weights,
        layer,
        pooling,
        image_size,
        resize,
        dtype,
        random_state,
        engine,
        precision,
        preprocessing,
    )
    how = ExtractionOptions(**options)
    files = open_files(store)
    files.check_writable()
    if how.executor == "ray" and not is_url(os.fspath(images)):
        images = os.path.abspath(images)  # workers have other working folders
    place, note = open_place(images, bytes_column), None
    if names is None:
        references: Sequence[Reference] = place.manifest()
    else:
        found, note = place.find_images(names)
        references = list({reference.image: reference for reference in found.values()}.values())
        if not references:
            raise ImagesError("The table names no image: its image column is empty.")
    summary = _embed_into(
        files, references, LazyBackbone(settings, how.device, how.batch_size), how
    )
    return replace(summary, note=note)


def extract_values(
    values: "pd.Series",
    store: PathLike,
    *,
    kind: str = TEXT,
    backbone: PathLike | None = None,
    dtype: str | None = None,
    **options: Any,
) -> ExtractionSummary:
    """Embed the texts or sequences of a column into a store, those that it does not hold yet.

    Parameters
    ----------
    values : Series of str, or of sequences as `twostage.table.sequences.sequences_in` takes them
        The column. Equal values are embedded once; where there is none, nothing is.
    store : path-like
        Folder of the store, or its URL; made if it does not exist.
    kind : {"text", "sequence"}
        What the values are.
    backbone : path-like, optional
        Folder of the encoder, as `twostage.pretraining.train_encoder` makes it; for texts, also a
        model of the library sentence-transformers: ``sentence-transformers/NAME``, or
        ``sentence-transformers:`` and another name or a folder. The store's own if None.
    dtype : {"float32", "float16"}, optional
        Of the stored embeddings.
    **options
        See `ExtractionOptions`.

    Returns
    -------
    ExtractionSummary

    Raises
    ------
    UsageError
        If there is no such encoder, or an option has no such value.
    DataError
        If a value is of another kind.
    ImagesError
        If there is nothing to embed, or something can't be under ``on_error="fail"``.
    StoreError
        If the store was made by another encoder, is held by another run, or can't be written.
    """
    if kind not in (TEXT, SEQUENCE):
        raise UsageError(f"kind must be text or sequence; found {kind!r}.")
    how = ExtractionOptions(**options)
    if how.executor != "local":
        raise UsageError(f"{kind.capitalize()}s are embedded by this process: drop --executor.")
    files = open_files(store)
    files.check_writable()
    references = {ref.image: ref for ref in references_to(values, kind) if ref is not None}
    if not references:
        raise ImagesError(f"There is no {kind} to embed: the column is empty.")
    encoder = LazyEncoder(kind, backbone, how.device, dtype, how.batch_size)
    return _embed_into(files, list(references.values()), encoder, how)


def embed_values(
    references: Sequence[Reference],
    folder: Path,
    wanted: EncoderSpec,
    options: ExtractionOptions,
) -> EmbeddingStore:
    """Embed values into the store that a folder has for each encoder; see `embed_files`."""
    encoder = LazyEncoder(wanted.kind, wanted, options.device, batch_size=options.batch_size)
    return _embed_into_one_of(folder, references, encoder, options)


def embed_files(
    references: Sequence[Reference],
    folder: Path,
    wanted: BackboneSettings | BackboneSpec,
    options: ExtractionOptions,
) -> EmbeddingStore:
    """Embed files into the store that a folder has for each backbone.

    Another run that writes that store is waited for. Errors are rows. Backbones of equal weights
    that have seen other rows, since no epoch of a tuning made one better, have a store each.
    """
    backbone = LazyBackbone(wanted, options.device, options.batch_size)
    return _embed_into_one_of(folder, references, backbone, options)


def _embed_into_one_of(
    folder: Path, references: Sequence[Reference], backbone: Embeds, options: ExtractionOptions
) -> EmbeddingStore:
    """Embed into the store that a folder has for what embeds and what that has seen."""
    seen = backbone.seen()
    key = backbone.spec.key if seen is None else hash_json([backbone.spec.key, seen.digest])
    path = folder / f"{backbone.spec.architecture}-{key}"
    if references or not EmbeddingStore.exists_at(path):
        _embed_into(open_files(path), references, backbone, options, is_cache=True)
    return EmbeddingStore(path)


def _embed_into(
    files: Files,
    references: Sequence[Reference],
    backbone: Embeds,
    options: ExtractionOptions,
    is_cache: bool = False,
) -> ExtractionSummary:
    """Embed what the store does not hold, part by part."""
    started = time.perf_counter()
    manifest = Manifest.of(references)
    if options.on_error == "fail":
        _check_all_present(manifest)
    if options.executor == "ray" and not EmbeddingStore.exists_at(files):
        check_ready(options.address)  # before a backbone is built in vain
    with _opened(files, backbone, wait=is_cache) as store:
        plan = make_plan(
            manifest,
            store.index(PLANNED_BY),
            n_parts=store.next_number(),
            retry_errors=options.retry_errors,
            verify=options.verify,
        )
        if options.executor == "ray" and isinstance(backbone, LazyBackbone):
            done = _run_on_ray(store, plan.shards, backbone, options)
        else:
            done = _run_here(store, plan.shards, backbone, options)
        n_computed = sum(record.n_computed for record in done.records)
        errors = _errors_of(store, manifest)
        if errors and not is_cache:
            _judge(errors, len(references), options.on_error, backbone.kind)
    return ExtractionSummary(
        store=str(files.where),
        backbone=backbone.spec.name,
        dim=store.dim,
        n_images=len(references),
        n_computed=n_computed,
        n_reused=sum(record.n_reused for record in done.records),
        n_unchanged=plan.n_unchanged,
        n_gone=plan.n_gone,
        n_others=plan.n_others,
        n_errors=len(errors),
        errors=dict(Counter(errors.values()).most_common()),
        first_error=next(iter(errors), None),
        seconds=time.perf_counter() - started,
        device=done.device,
        throughput=done.throughput,
        seconds_to_start=done.seconds_to_start,
        kind=backbone.kind,
    )


@dataclass(frozen=True)
class _Done:
    """What an executor did, and where.

    Attributes
    ----------
    records : list of ShardRecord
        Of each shard, or piece of one.
    device : str or None
        Where the backbone ran.
    seconds_to_start : float
        What went by before it was there.
    throughput : Throughput or None
        Where the time went, as far as that is known.
    """

    records: list[ShardRecord]
    device: str | None
    seconds_to_start: float
    throughput: Throughput | None = None


def _run_here(
    store: EmbeddingStore,
    shards: Sequence[Shard],
    backbone: Embeds,
    options: ExtractionOptions,
) -> _Done:
    """Run the shards in this process."""
    n_threads = options.workers or joblib.cpu_count()
    clock = StageClock(n_threads, joblib.cpu_count())
    with _loader(store, n_threads, clock, options.max_pixels) as loader:
        worker = ShardWorker(
            store,
            backbone,
            loader,
            clock,
            fails_on_error=options.on_error == "fail",
            n_images=sum(len(shard.images) for shard in shards),
            progress=options.progress,
        )
        records = list(LocalExecutor().run(worker.run, shards))
    n_computed = sum(record.n_computed for record in records)
    throughput = None
    if n_computed and backbone.kind == IMAGE:
        throughput = clock.throughput(n_computed, shares_cores=backbone.get().is_on_cpu)
    return _Done(records, backbone.device, backbone.seconds_to_build, throughput)


def _run_on_ray(
    store: EmbeddingStore,
    shards: Sequence[Shard],
    backbone: LazyBackbone,
    options: ExtractionOptions,
) -> _Done:
    """Run the shards in a Ray cluster, and let images of equal bytes have one embedding."""
    if not shards:
        return _Done([], None, 0.0)
    recipe = WorkerRecipe(
        store=store.files.address,
        mark=mark_of(store.files),
        backbone=backbone.elsewhere("gpu" if options.cluster.gpus_per_worker else "cpu"),
        samples=samples_of(shards),
        n_threads=options.workers,
        max_pixels=options.max_pixels,
        fails_on_error=options.on_error == "fail",
    )

    def progress(n_done: int, n_images: int) -> None:
        store.files.confirm_held()  # workers can't know whether this run holds the store still
        if options.progress is not None:
            options.progress(n_done, n_images)

    executor: RayExecutor[Shard, ShardRecord] = RayExecutor(
        options.cluster, split, condemn, progress
    )
    records = list(executor.run(recipe, shards))
    settle(store)
    seconds_to_start = backbone.seconds_to_build + executor.seconds_to_start
    return _Done(records, executor.device, seconds_to_start)


class _NothingReadableError(ImagesError):
    """No image could be read: a store of errors alone is worth nothing."""


@contextmanager
def _opened(files: Files, backbone: Embeds, wait: bool) -> Iterator[EmbeddingStore]:
    """Open the store or make it, and hold its lock; a store made in vain is taken away again."""
    if not EmbeddingStore.exists_at(files):
        check_folder(files)
        backbone.get()  # takes seconds: not under the lock
    with locked(files, wait=wait):
        is_new = not EmbeddingStore.exists_at(files)
        if is_new:
            spec = backbone.spec
            store = EmbeddingStore.create(files, spec.to_dict(), spec.identity, backbone.seen())
        else:
            store = EmbeddingStore(files)
            store.finish()
            backbone.expect(_spec_of(store, backbone.kind))
            if not store.seen.is_known:
                store.remember(backbone.seen() or store.seen)
        try:
            yield store
        except BaseException as error:
            if is_new and (not store.parts() or isinstance(error, _NothingReadableError)):
                delete_files(files)
            raise


def _spec_of(store: EmbeddingStore, kind: str) -> Any:
    """Return the spec of a store that is to be of a kind."""
    held = kind_of(store.spec)
    if held != kind:
        raise StoreError(
            f"The store '{store.path}' holds embeddings of {held}s, and {kind}s are to be "
            "embedded. Give another folder for the store."
        )
    return read_spec(store.spec, store.path)


def _judge(errors: Mapping[str, str], n_images: int, on_error: str, kind: str) -> None:
    """Raise ImagesError if no image can be read, or if that was to end the run."""
    image, error = next(iter(errors.items()))
    if len(errors) == n_images:
        raise _NothingReadableError(
            f"None of the {n_images} {kind}s can be read; first: '{image}' ({error}). Check the "
            f"{'paths and the files' if kind == IMAGE else 'column'}."
        )
    if on_error == "fail":
        raise ImagesError(
            f"{len(errors)} of {n_images} {kind}s can't be used; first: '{image}' ({error}). Fix "
            "them, or drop --on-error fail."
        )


def _check_all_present(manifest: Manifest) -> None:
    missing = np.flatnonzero(as_mask(manifest.columns["size_bytes"].is_null()))
    if len(missing):
        first = manifest[int(missing[0])]
        raise ImagesError(
            f"{len(missing)} of {len(manifest)} images have no file; first: '{first.path}'. Fix "
            "the paths, or drop --on-error fail to keep them as rows without an embedding."
        )


def _loader(
    store: EmbeddingStore, n_threads: int, clock: StageClock, max_pixels: int
) -> ImageLoader | ValueLoader:
    """Return what reads the images, or hands over the values, that a store is of."""
    kind = kind_of(store.spec)
    if kind != IMAGE:
        return ValueLoader(kind)
    return open_loader(store, n_threads, clock, max_pixels)


def _errors_of(store: EmbeddingStore, manifest: Manifest) -> dict[str, str]:
    """Return the error of each image asked for that has one, as the store has them now."""
    failed = store.failed()
    rows = manifest.rows_of(failed["image"])
    order = np.argsort(rows, kind="stable")
    wanted = failed.take(pa.array(order[rows[order] >= 0]))
    return dict(zip(wanted["image"].to_pylist(), wanted["error"].to_pylist(), strict=True))
