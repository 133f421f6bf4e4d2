"""Stage one, trained: images and labels into a backbone that knows what it has seen.

`finetune` shows it whole: load -> split -> a top on frozen embeddings -> epochs, of which the best
is kept -> a folder with the network and its seen rows.
"""

import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from scipy.special import log_softmax, softmax
from sklearn.utils.class_weight import compute_sample_weight

from twostage.backbones.devices import DEVICES, choose_device
from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.spec import BackboneSettings
from twostage.backbones.tuned import HISTORY, PLOT, LinearTop, check_destination, write_tuned
from twostage.errors import DataError, FinetuningError, UsageError, first_line
from twostage.fingerprint import hash_json
from twostage.labelled import LabelledImages, load_labelled
from twostage.metrics import main_score
from twostage.pixels import MAX_PIXELS
from twostage.seen import SeenRows, as_text
from twostage.splits import holdout as hold_out
from twostage.table.files import require_column
from twostage.targets import Target, prepare_target
from twostage.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from twostage.training.data import Examples, in_batches
from twostage.training.settings import TuningSettings
from twostage.training.top import linear_tops

if TYPE_CHECKING:
    from twostage.training.blocks import BlockedNetwork
    from twostage.training.placement import Placement
    from twostage.training.trainer import Told, Trainer

log = logging.getLogger("twostage")

PathLike = str | os.PathLike[str]
_WORKSPACE = "{name}.unfinished"
_LOCK = "_lock"
_KEPT_THERE = re.compile(r"pixels|plain|look_\d+|_?checkpoint\.npz|_lock")
_VALIDATION = 0.2
_COPIES = 4
_BYTES_OF_ACTIVATION = 2  # float16; of a pixel's colours one each


@dataclass(frozen=True)
class Progress:
    """Whom to tell how far it is; each may be None.

    Attributes
    ----------
    loaded : callable
        Called with the number of images decoded and to decode.
    step : callable
        Called with the epoch, from 1 on, the number of epochs, the step, the number of steps, and
        the mean loss of the epoch so far.
    epoch : callable
        Called with the record of each epoch, a row of the history.
    """

    loaded: Callable[[int, int], None] | None = None
    step: Callable[[int, int, int, int, float], None] | None = None
    epoch: Callable[[Mapping[str, Any]], None] | None = None


NOBODY = Progress()


@dataclass(frozen=True)
class FinetuningSummary:
    """What a tuning did.

    Attributes
    ----------
    backbone : str
        The folder.
    parent : str
        The backbone that it started from.
    task : str
        What the target is.
    metric : str
        What ``score`` is: "auc" or "r2".
    n_trained, n_validation, n_held_back : int
        Images that it learned from, that chose the epoch, and that it has not seen.
    n_rows_left_out : int
        Rows without a usable image.
    first_error : str or None
        Why, of the first of those.
    best_epoch : int
        The one whose weights were kept; 0 is the backbone as it was.
    frozen_score, score : float
        Of a linear top on validation images, before and after. They chose the epoch, and so are
        no estimate: score the model on images that the backbone has not seen.
    n_blocks, n_blocks_trained : int
        Of the network.
    images_per_s : float
        Of training.
    seconds : float
        Wall time, of this run.
    history : DataFrame
        ``epoch``, ``loss``, ``validation_loss``, ``score``, ``seconds``.
    stopped : str or None
        Why it ended before its last epoch.
    notes : list of str
        What was done to find files, and the like.
    """

    backbone: str
    parent: str
    task: str
    metric: str
    n_trained: int
    n_validation: int
    n_held_back: int
    n_rows_left_out: int
    first_error: str | None
    best_epoch: int
    frozen_score: float
    score: float
    n_blocks: int
    n_blocks_trained: int
    images_per_s: float
    seconds: float
    history: pd.DataFrame
    stopped: str | None = None
    notes: list[str] = field(default_factory=list)


def finetune(
    images: PathLike,
    output: PathLike,
    *,
    table: pd.DataFrame,
    target: str,
    image_columns: Sequence[str] | str,
    group: str | None = None,
    holdout: float = 0.5,
    task: str = "auto",
    log_target: bool = False,
    backbone: BackboneSettings | PathLike | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    device: str = "auto",
    progress: Progress = NOBODY,
    **settings: Any,
) -> FinetuningSummary:
    """Train a backbone on labelled images, and write it with what it has seen.

    A backbone embeds the rows that it was trained on with too much confidence, and a second stage
    that is trained or scored on them learns and reports a lie. So a part of the rows is held back
    for stage two, and the others are remembered.

    Parameters
    ----------
    images : path-like
        Folder that image names start from.
    output : path-like
        Folder to make. A run that was killed goes on where it was if it is asked for the same.
    table : DataFrame of shape (n_rows, n_columns)
        With the target and the image columns.
    target : str
        Column to learn; the second stage may learn another.
    image_columns : str or sequence of str
        Columns that name images.
    group : str, optional
        Column whose equal values are not to be separated.
    holdout : float, default=0.5
        Share of the images, by whole groups, that the backbone does not see; 0 to train on all.
    task : {"auto", "classification", "regression"}
        What the target is.
    log_target : bool
        Whether to learn the logarithm of a positive target.
    backbone : BackboneSettings or path-like, optional
        What to start from; MobileNetV2 with ImageNet weights if None.
    workers : int, optional
        Threads that decode.
    max_pixels : int
        Larger images are not decoded, and count as unusable.
    device : {"auto", "cpu", "gpu"}
        Where it is trained; of several GPUs all, on TensorFlow and JAX.
    progress : Progress
        Whom to tell how far it is.
    **settings
        See `twostage.training.settings.TuningSettings`.

    Returns
    -------
    FinetuningSummary

    Raises
    ------
    UsageError
        If an option has no such value, or a path does not exist.
    DataError
        If the table does not hold what it must, or an image has two labels.
    ImagesError
        If no image can be used.
    FinetuningError
        If the disk is full, or an unfinished run is another.
    """
    started = time.perf_counter()
    how = TuningSettings(**settings)
    if not 0 <= holdout < 1:
        raise UsageError(f"holdout must be 0 or more, and less than 1; found {holdout}.")
    if device not in DEVICES:
        raise UsageError(f"device must be one of {', '.join(DEVICES)}; found {device!r}.")
    if not isinstance(backbone, BackboneSettings):
        backbone = BackboneSettings(backbone)
    columns = [image_columns] if isinstance(image_columns, str) else list(image_columns)
    truth = prepare_target(require_column(table, target, "target"), task, log_target=log_target)
    if how.class_weight is not None and truth.classes is None:
        raise UsageError("Class weights need classes; the target holds numbers to regress on.")
    groups = [] if group is None else list(require_column(table, group, "group"))
    folder = Path(output)
    check_destination(folder)
    placement, precision = _placed(device, how.precision)
    how = replace(how, precision=precision)
    with placement.scope():
        network, model = _blocked(backbone, how)
    how = replace(how, copies=_n_copies(network, how))
    parent = LazyBackbone(backbone, device)
    engine, seen_before = parent.get(), parent.seen()
    if engine.spec.weights.startswith("random"):
        log.warning(
            "%s has random weights: tuning leaves batch norm as it is, and can hardly "
            "teach such a network anything. Start from ImageNet weights.",
            engine.spec.name,
        )
    with _workspace(folder) as workspace:
        labelled = load_labelled(
            table,
            columns,
            images,
            truth,
            groups,
            workspace,
            size_px=engine.spec.input_size_px,
            resize=engine.spec.resize,
            workers=workers,
            max_pixels=max_pixels,
            progress=progress.loaded,
        )
        lesson = _lesson(labelled, truth, log_target, holdout, how)
        asked = {
            "settings": asdict(how),
            "backbone": engine.spec.identity,
            "images": hash_json([labelled.hashes, lesson.y.tolist(), lesson.train.tolist()]),
        }
        tuned = _tune(network, model, engine, lesson, how, workspace, asked, progress, placement)
        seen = _seen(labelled, lesson, group)
        if seen_before is not None:
            _warn_of_groups(seen_before, group)
            seen = seen.union(seen_before)
        origin = {
            "target": target,
            "task": truth.task,
            "classes": None if truth.classes is None else truth.classes.tolist(),
            "log_target": log_target,
            "group": group,
            "holdout": holdout,
            "n_trained": len(lesson.train),
            "n_validation": len(lesson.validation),
            "best_epoch": tuned.best_epoch,
            "settings": asdict(how),
        }
        top = tuned.top.rescaled(lesson.mean, lesson.scale)
        files = _history_files(tuned, "r2" if truth.classes is None else "auc")
        write_tuned(folder, tuned.model, engine.spec, origin, seen, top, files)
    return FinetuningSummary(
        backbone=str(output),
        parent=engine.spec.name,
        task=truth.task,
        metric="r2" if truth.classes is None else "auc",
        n_trained=len(lesson.train),
        n_validation=len(lesson.validation),
        n_held_back=len(lesson.held_back),
        n_rows_left_out=labelled.n_rows_left_out,
        first_error=labelled.first_error,
        best_epoch=tuned.best_epoch,
        frozen_score=float(tuned.history["score"].iloc[0]),
        score=float(tuned.history["score"].iloc[tuned.best_epoch]),
        n_blocks=tuned.n_blocks,
        n_blocks_trained=tuned.n_trained,
        images_per_s=tuned.images_per_s,
        seconds=time.perf_counter() - started,
        history=tuned.history,
        stopped=tuned.stopped,
        notes=[labelled.note] if labelled.note else [],
    )


def _blocked(backbone: BackboneSettings, how: TuningSettings) -> "tuple[BlockedNetwork, Any]":
    """Build the network that is to change, in blocks, and see that it has those to train."""
    from twostage.backbones.network import load_trunk
    from twostage.training.blocks import BlockedNetwork

    model = load_trunk(backbone).model
    network = BlockedNetwork(model)
    network.first_trained(how.unfreeze)
    return network, model


def _n_copies(network: "BlockedNetwork", how: TuningSettings) -> int:
    """Return of how many augmented copies the frozen part's activations are kept."""
    from twostage.training.blocks import size_of

    if how.copies is not None:
        return how.copies
    first = network.first_trained(how.unfreeze)
    entry, pixels = network.blocks[first].entry, network.blocks[0].entry
    is_small = _BYTES_OF_ACTIVATION * size_of(entry) <= size_of(pixels)
    return _COPIES if first > 0 and is_small else 0


def _placed(device: str, precision: str) -> "tuple[Placement, str]":
    """Choose where the network is trained, and in which precision."""
    from twostage.training.placement import Placement, training_precision

    where = choose_device(device)
    return Placement(where.names), training_precision(precision, where)


@dataclass(frozen=True)
class _Lesson:
    """What is learned from which images.

    Attributes
    ----------
    pixels : uint8 array of shape (n, size, size, 3)
        Of all images.
    y : array of shape (n,)
        Class numbers, or standardised values.
    n_classes : int or None
        None for values.
    train, validation, held_back : int arrays
        Images to learn from, to choose the epoch by, and not to look at.
    weights : float32 array of shape (n,)
        Of the images.
    mean, scale : float
        What was taken from values, and what they were then divided by.
    """

    pixels: np.ndarray
    y: np.ndarray
    n_classes: int | None
    train: np.ndarray
    validation: np.ndarray
    held_back: np.ndarray
    weights: np.ndarray
    mean: float = 0.0
    scale: float = 1.0

    @property
    def seen(self) -> np.ndarray:
        """Images whose labels are looked at."""
        return np.sort(np.concatenate([self.train, self.validation]))

    def outputs_wanted(self, rows: np.ndarray) -> np.ndarray:
        """Return one-hot classes, or values, as float32 of shape (n_rows, n_outputs)."""
        if self.n_classes is None:
            return self.y[rows, None].astype(np.float32)
        one_hot: np.ndarray = np.eye(self.n_classes, dtype=np.float32)[self.y[rows]]
        return one_hot

    def judge(self, outputs: np.ndarray) -> tuple[float, float]:
        """Return loss and score of what a network gives for the validation images."""
        y = self.y[self.validation]
        if self.n_classes is None:
            values = outputs[:, 0].astype(np.float64)
            return float(np.mean((values - y) ** 2)), main_score(y, values)
        logits = outputs.astype(np.float64)
        of_truth = log_softmax(logits, axis=1)[np.arange(len(y)), y]
        return float(-of_truth.mean()), main_score(y, softmax(logits, axis=1))


@dataclass(frozen=True)
class _Tuned:
    """A tuned network, and how it came about."""

    model: Any
    top: LinearTop
    history: pd.DataFrame
    best_epoch: int
    n_blocks: int
    n_trained: int
    images_per_s: float
    stopped: str | None


def _lesson(
    labelled: LabelledImages,
    truth: Target,
    log_target: bool,
    share_held_back: float,
    how: TuningSettings,
) -> _Lesson:
    """Decide which images are learned from, by whole groups, and standardise values."""
    everything = np.arange(len(labelled))

    def cut(images: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
        large, small = hold_out(
            labelled.y[images],
            is_classification=truth.classes is not None,
            groups=labelled.groups[images],
            fraction=fraction,
            random_state=how.random_state,
        )
        return images[large], images[small]

    tuning, held_back = everything, everything[:0]
    if share_held_back:
        large, small = cut(everything, max(min(share_held_back, 1 - share_held_back), 0.05))
        tuning, held_back = (large, small) if share_held_back <= 0.5 else (small, large)
    train, validation = cut(tuning, _VALIDATION)
    y, n_classes = labelled.y, None if truth.classes is None else len(truth.classes)
    mean, scale = 0.0, 1.0
    if n_classes is None:
        y = np.log(y) if log_target else y
        mean, scale = float(y[train].mean()), float(y[train].std() or 1.0)
        y = (y - mean) / scale
    else:
        _check_classes(y[train], truth)
    weights = np.ones(len(y), np.float32)
    if how.class_weight is not None:
        weights[train] = compute_sample_weight(how.class_weight, y[train])
    return _Lesson(
        labelled.pixels, y, n_classes, train, validation, held_back, weights, mean, scale
    )


def _check_classes(y: np.ndarray, truth: Target) -> None:
    """Refuse classes of which no image is left to learn from."""
    classes = np.asarray(truth.classes)
    missing = np.setdiff1d(np.arange(len(classes)), y)
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(classes)} classes have no image left to learn from once some "
            f"are held back; first: '{classes[missing[0]]}'. Add images of it, or merge or remove "
            "the class."
        )


def _tune(
    network: "BlockedNetwork",
    model: Any,
    engine: Any,
    lesson: _Lesson,
    how: TuningSettings,
    workspace: Path,
    asked: Mapping[str, Any],
    progress: Progress,
    placement: "Placement",
) -> _Tuned:
    """Train the last blocks, and keep what they are after the best epoch."""
    from twostage.training.placement import in_precision
    from twostage.training.trainer import Trainer

    first = network.first_trained(how.unfreeze)
    top, frozen = _best_top(engine, lesson)
    with placement.scope():
        preprocessing = engine.spec.preprocessing
        inputs = _inputs(network, first, preprocessing, lesson, how, workspace, progress)
        trainer = Trainer(
            network,
            first,
            inputs.preprocessing,
            top,
            is_classification=lesson.n_classes is not None,
            settings=how,
            n_rows=len(lesson.train),
            n_devices=placement.n_devices,
        )
        with in_precision(trainer.part, how.precision):
            history, best, stopped = _run_epochs(
                trainer, frozen, inputs, lesson, how, workspace, asked, progress
            )
        trainer.model.set_weights(best)
    seconds = sum(row["seconds"] for row in history[1:])
    return _Tuned(
        model,
        trainer.top(),
        pd.DataFrame(history),
        _best_epoch(history),
        len(network.blocks),
        len(network.blocks) - first,
        (len(history) - 1) * len(lesson.train) / seconds if seconds else float("nan"),
        stopped,
    )


def _run_epochs(
    trainer: "Trainer",
    frozen: dict[str, Any],
    inputs: "_Inputs",
    lesson: _Lesson,
    how: TuningSettings,
    workspace: Path,
    asked: Mapping[str, Any],
    progress: Progress,
) -> tuple[list[dict[str, Any]], list[np.ndarray], str | None]:
    """Train epoch by epoch, from the checkpoint if there is one; return history and best weights.

    The last of the three says why it ended before its last epoch.
    """
    history, best, stopped = [frozen], trainer.weights(), None
    kept = read_checkpoint(workspace)
    if kept is not None:
        _check_same(kept.asked, asked, workspace)
        history, best = [dict(row) for row in kept.history], list(kept.best)
        trainer.prepare(len(history) - 2)
        _restore(trainer, kept, workspace)
        log.info("Going on after epoch %d of %d ...", len(history) - 1, how.epochs)
    while len(history) <= how.epochs:
        n_worse = len(history) - 1 - _best_epoch(history)
        if n_worse >= how.patience:
            stopped = f"{n_worse} epochs without a better score"
            break
        record, stopped = _run_epoch(trainer, len(history), inputs, lesson, how, progress)
        history.append(record)
        if stopped is not None:
            break
        if _best_epoch(history) == len(history) - 1:
            best = trainer.weights()
        write_checkpoint(workspace, Checkpoint(asked, history, trainer.state(), best))
    return history, best, stopped


def _restore(trainer: "Trainer", kept: Checkpoint, workspace: Path) -> None:
    """Take a checkpoint up, or raise FinetuningError if it does not fit."""
    try:
        trainer.restore(kept.state)
        _best_epoch(kept.history)
        shapes, own = ([array.shape for array in some] for some in (kept.best, trainer.weights()))
        if shapes != own:
            raise ValueError("other arrays than the network has")
    except Exception as error:  # each backend has its own for arrays that do not fit
        raise FinetuningError(
            f"The checkpoint in '{workspace}' does not fit the network ({first_line(error)}). "
            "Delete that folder to begin anew."
        ) from error


def _run_epoch(
    trainer: "Trainer",
    epoch: int,
    inputs: "_Inputs",
    lesson: _Lesson,
    how: TuningSettings,
    progress: Progress,
) -> tuple[dict[str, Any], str | None]:
    """Train for an epoch, counted from 1, and judge it; also say why it has to be the last."""
    started = time.perf_counter()
    x, rows = inputs.of_epoch(epoch - 1)
    examples = Examples(x, rows, lesson.outputs_wanted(lesson.train), lesson.weights[lesson.train])
    told: Told | None = None
    if progress.step is not None:
        step = progress.step
        told = lambda number, n, loss: step(epoch, how.epochs, number, n, loss)  # noqa: E731
    with _memory_told(how):
        done = trainer.run_epoch(epoch - 1, examples, told)
    seconds = time.perf_counter() - started
    loss, score = float("nan"), float("nan")
    stopped = None
    if done.nan_step is not None:
        stopped = f"the loss was no number at step {done.nan_step} of epoch {epoch}"
    else:
        outputs = trainer.outputs(*inputs.of_validation())
        if np.isfinite(outputs).all():
            loss, score = lesson.judge(outputs)
        else:  # the last step did it, and its loss was that from before
            stopped = f"the network gave no numbers after epoch {epoch}"
    record = _record_of(epoch, done.loss, loss, score, seconds)
    if progress.epoch is not None:
        progress.epoch(record)
    return record, stopped


@contextmanager
def _memory_told(how: TuningSettings) -> Iterator[None]:
    """Say what to do where a device's memory does not hold a batch."""
    from twostage.backbones.forward import is_out_of_memory

    try:
        yield
    except Exception as error:  # each backend has its own
        if not is_out_of_memory(error):
            raise
        raise FinetuningError(
            f"The device's memory does not hold a batch of {how.batch_size} images with what "
            "training keeps of them. Give a smaller batch size or image size, or unfreeze fewer "
            "blocks."
        ) from error


def _record_of(
    epoch: int, loss: float, validation_loss: float, score: float, seconds: float
) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": loss,
        "validation_loss": validation_loss,
        "score": score,
        "seconds": round(seconds, 3),
    }


def _best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """Return the epoch of the best score; of equal ones, or of none, the one of least loss."""
    scores = np.array([row["score"] for row in history], np.float64)
    losses = np.array([row["validation_loss"] for row in history], np.float64)
    is_best = scores == np.nanmax(scores) if np.isfinite(scores).any() else np.isfinite(losses)
    return int(np.nanargmin(np.where(is_best, losses, np.nan)))


def _best_top(engine: Any, lesson: _Lesson) -> tuple[LinearTop, dict[str, Any]]:
    """Return the linear top that does best on frozen embeddings, and its record as epoch 0."""
    rows = np.concatenate([lesson.train, lesson.validation])
    log.info("Embedding %s images with the frozen backbone ...", f"{len(rows):,}")
    batches = in_batches(lesson.pixels, rows, engine.batch_size)
    embeddings = np.vstack(list(engine.run(batches)))
    n = len(lesson.train)
    tops = linear_tops(
        embeddings[:n], lesson.y[lesson.train], lesson.n_classes, lesson.weights[lesson.train]
    )
    judged = [lesson.judge(top.outputs(embeddings[n:])) for top in tops]
    best = int(np.argmin([loss for loss, _ in judged]))
    loss, score = judged[best]
    return tops[best], _record_of(0, float("nan"), loss, score, 0.0)


@dataclass(frozen=True)
class _Inputs:
    """What enters the part that is trained: pixels, or activations of the frozen part.

    Attributes
    ----------
    looks : sequence of arrays of shape (n_all, ...)
        What the epochs see, one after the other, over and over.
    plain : array of shape (n_all, ...)
        What validation sees: nothing augmented.
    train, validation : int arrays
        Their rows in each.
    preprocessing : str or None
        What is still to be done to pixels; None for activations.
    """

    looks: Sequence[np.ndarray]
    plain: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    preprocessing: str | None

    def of_epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the array and the rows that an epoch trains on."""
        return self.looks[epoch % len(self.looks)], self.train

    def of_validation(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the array and the rows to judge by."""
        return self.plain, self.validation


def _inputs(
    network: "BlockedNetwork",
    first: int,
    preprocessing: str,
    lesson: _Lesson,
    how: TuningSettings,
    workspace: Path,
    progress: Progress,
) -> _Inputs:
    """Return what is trained on: pixels, or the frozen part's activations of augmented copies."""
    if not how.copies or first == 0:
        pixels = lesson.pixels
        return _Inputs([pixels], pixels, lesson.train, lesson.validation, preprocessing)
    from twostage.training.activations import frozen_activations

    looks, plain = frozen_activations(
        network.frozen_part(first),
        preprocessing,
        lesson.pixels,
        lesson.train,
        lesson.validation,
        how,
        workspace,
        progress.loaded,
    )
    train, validation = np.arange(len(lesson.train)), np.arange(len(lesson.validation))
    return _Inputs(looks, plain, train, validation, None)


def _check_same(before: Mapping[str, Any], asked: Mapping[str, Any], workspace: Path) -> None:
    """Refuse to go on with an unfinished run of something else."""
    if dict(before) == dict(asked):
        return
    old, new = before["settings"], asked["settings"]
    differs = [f"{name} was {old[name]}, now {new[name]}" for name in new if old[name] != new[name]]
    if before["backbone"] != asked["backbone"]:
        differs.append("the backbone is another")
    if before["images"] != asked["images"]:
        differs.append("the images, their labels or what is held back are others")
    raise FinetuningError(
        f"'{workspace}' holds an unfinished run of something else: {'; '.join(differs)}. Ask for "
        f"the same to go on with it, or delete it to begin anew."
    )


@contextmanager
def _workspace(output: Path) -> Iterator[Path]:
    """Make the folder where an unfinished run keeps what it needs; it goes when the run is done."""
    workspace = output.absolute().with_name(_WORKSPACE.format(name=output.absolute().name))
    if workspace.is_dir() and not all(map(_KEPT_THERE.fullmatch, os.listdir(workspace))):
        raise UsageError(
            f"'{workspace}', where the run would keep what it needs and delete it when it is done, "
            "has other files in it. Give another -o."
        )
    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FinetuningError(f"Can't write '{workspace}': {error.strerror}.") from error
    with _held(workspace):
        had_checkpoint = read_checkpoint(workspace) is not None
        try:
            yield workspace
        except BaseException:
            if not had_checkpoint and read_checkpoint(workspace) is None:
                shutil.rmtree(workspace, ignore_errors=True)  # there is nothing to go on from
            raise
        shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def _held(workspace: Path) -> Iterator[None]:
    """Hold the folder for one run."""
    lock = FileLock(workspace / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FinetuningError(
            f"'{workspace}' is being written by another run. Wait for it to end, or give another "
            "-o."
        ) from None
    try:
        yield
    finally:
        (workspace / _LOCK).unlink(missing_ok=True)
        lock.release()


def _warn_of_groups(before: SeenRows, group: str | None) -> None:
    """Tell that a parent's groups are not found again, where they are of another column."""
    if before.groups and group not in (None, before.group_column):
        log.warning(
            "The backbone was tuned before with groups of '%s', now with those of '%s': rows of "
            "the groups that it had seen then are told by their images alone.",
            before.group_column,
            group,
        )


def _history_files(tuned: _Tuned, metric: str) -> dict[str, bytes]:
    """Return the history as a table and, where it can be drawn, as a picture."""
    from twostage.training.plot import plot_history

    files = {HISTORY: tuned.history.to_csv(index=False).encode()}
    picture = plot_history(tuned.history, metric, tuned.best_epoch)
    return files if picture is None else {**files, PLOT: picture}


def _seen(labelled: LabelledImages, lesson: _Lesson, group: str | None) -> SeenRows:
    """Return what the backbone has seen: images that it learned from or that chose the epoch."""
    groups = {as_text(value) for row in lesson.seen for value in labelled.group_values[row]}
    hashes = frozenset(labelled.hashes[row] for row in lesson.seen)
    return SeenRows(hashes, frozenset(groups), group)
