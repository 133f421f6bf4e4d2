"""Stage one, trained: images and labels into a backbone that knows what it has seen.

`finetune` shows it whole: load -> split -> a top on frozen embeddings -> epochs, of which the best
is kept -> a folder with the network and its seen rows.
"""

import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax, softmax
from sklearn.utils.class_weight import compute_sample_weight

from twostage.backbones.devices import DEVICES, choose_device
from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.spec import BackboneSettings
from twostage.backbones.tuned import HISTORY, PLOT, LinearTop, check_destination, write_tuned
from twostage.errors import UsageError
from twostage.fingerprint import hash_json
from twostage.labelled import LabelledImages, load_labelled
from twostage.metrics import main_score
from twostage.pixels import MAX_PIXELS
from twostage.seen import SeenRows, as_text
from twostage.splits import hold_back
from twostage.splits import holdout as hold_out
from twostage.table.files import require_column
from twostage.targets import Target, prepare_target
from twostage.training.data import Examples, in_batches
from twostage.training.epochs import (
    NOBODY,
    Course,
    Inputs,
    Progress,
    n_copies,
    record_of,
    train,
)
from twostage.training.settings import TuningSettings
from twostage.training.top import linear_tops
from twostage.training.workspace import workspace_of

if TYPE_CHECKING:
    from twostage.training.blocks import BlockedNetwork
    from twostage.training.placement import Placement
    from twostage.training.trainer import Trainer

log = logging.getLogger("twostage")

PathLike = str | os.PathLike[str]
_VALIDATION = 0.2


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
    placement, precision = placed(device, how.precision)
    how = replace(how, precision=precision)
    with placement.scope():
        network, model = blocked(backbone, how)
    how = replace(how, copies=n_copies(network, how))
    parent = LazyBackbone(backbone, device)
    engine, seen_before = parent.get(), parent.seen()
    if engine.spec.weights.startswith("random"):
        log.warning(
            "%s has random weights: tuning leaves batch norm as it is, and can hardly "
            "teach such a network anything. Start from ImageNet weights.",
            engine.spec.name,
        )
    with workspace_of(folder) as workspace:
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
        course, linear = _tune(network, engine, lesson, how, workspace, asked, progress, placement)
        seen = with_parents(_seen(labelled, lesson, group), seen_before, group)
        origin = {
            "target": target,
            "task": truth.task,
            "classes": None if truth.classes is None else truth.classes.tolist(),
            "log_target": log_target,
            "group": group,
            "holdout": holdout,
            "n_trained": len(lesson.train),
            "n_validation": len(lesson.validation),
            "best_epoch": course.best_epoch,
            "settings": asdict(how),
        }
        top = linear.rescaled(lesson.mean, lesson.scale)
        files = history_files(course, "r2" if truth.classes is None else "auc")
        write_tuned(folder, model, engine.spec, origin, seen, top, files)
    history = pd.DataFrame(course.history)
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
        best_epoch=course.best_epoch,
        frozen_score=float(history["score"].iloc[0]),
        score=float(history["score"].iloc[course.best_epoch]),
        n_blocks=len(network.blocks),
        n_blocks_trained=len(network.blocks) - network.first_trained(how.unfreeze),
        images_per_s=course.images_per_s(len(lesson.train)),
        seconds=time.perf_counter() - started,
        history=history,
        stopped=course.stopped,
        notes=[labelled.note] if labelled.note else [],
    )


def blocked(backbone: BackboneSettings, how: TuningSettings) -> "tuple[BlockedNetwork, Any]":
    """Build the network that is to change, in blocks, and see that it has those to train."""
    from twostage.backbones.network import load_trunk
    from twostage.training.blocks import BlockedNetwork

    model = load_trunk(backbone).model
    network = BlockedNetwork(model)
    network.first_trained(how.unfreeze)
    return network, model


def placed(device: str, precision: str) -> "tuple[Placement, str]":
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
    def train_images(self) -> np.ndarray:
        """Images to learn from."""
        return self.train

    @property
    def validation_images(self) -> np.ndarray:
        """Images to choose the epoch by."""
        return self.validation

    @property
    def n_examples(self) -> int:
        """Of an epoch: each image is one."""
        return len(self.train)

    @property
    def is_classification(self) -> bool:
        """Whether there are classes."""
        return self.n_classes is not None

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

    def examples(self, inputs: Inputs, epoch: int) -> Examples:
        """Return what an epoch trains on: each image once."""
        x, rows = inputs.of_epoch(epoch, self.train)
        return Examples(x, rows, self.outputs_wanted(self.train), self.weights[self.train])

    def judge(self, trainer: "Trainer", inputs: Inputs) -> tuple[float, float]:
        """Return loss and score of the validation images; NaN if there are no numbers."""
        outputs = trainer.outputs(*inputs.of_validation(self.validation))
        return self.judged(outputs) if np.isfinite(outputs).all() else (np.nan, np.nan)

    def judged(self, outputs: np.ndarray) -> tuple[float, float]:
        """Return loss and score of what a network gives for the validation images."""
        y = self.y[self.validation]
        if self.n_classes is None:
            values = outputs[:, 0].astype(np.float64)
            return float(np.mean((values - y) ** 2)), main_score(y, values)
        logits = outputs.astype(np.float64)
        of_truth = log_softmax(logits, axis=1)[np.arange(len(y)), y]
        return float(-of_truth.mean()), main_score(y, softmax(logits, axis=1))


def _lesson(
    labelled: LabelledImages,
    truth: Target,
    log_target: bool,
    share_held_back: float,
    how: TuningSettings,
) -> _Lesson:
    """Decide which images are learned from, by whole groups, and standardise values."""
    rows: dict[str, Any] = {
        "is_classification": truth.classes is not None,
        "random_state": how.random_state,
    }
    tuning, held_back = hold_back(labelled.y, groups=labelled.groups, share=share_held_back, **rows)
    train, validation = (
        tuning[part]
        for part in hold_out(
            labelled.y[tuning], groups=labelled.groups[tuning], fraction=_VALIDATION, **rows
        )
    )
    y, n_classes = labelled.y, None if truth.classes is None else len(truth.classes)
    mean, scale = 0.0, 1.0
    if n_classes is None:
        y = np.log(y) if log_target else y
        mean, scale = float(y[train].mean()), float(y[train].std() or 1.0)
        y = (y - mean) / scale
    else:
        truth.check_taught(y[train], "image")
    weights = np.ones(len(y), np.float32)
    if how.class_weight is not None:
        weights[train] = compute_sample_weight(how.class_weight, y[train])
    return _Lesson(
        labelled.pixels, y, n_classes, train, validation, held_back, weights, mean, scale
    )


def _tune(
    network: "BlockedNetwork",
    engine: Any,
    lesson: _Lesson,
    how: TuningSettings,
    workspace: Path,
    asked: Mapping[str, Any],
    progress: Progress,
    placement: "Placement",
) -> tuple[Course, LinearTop]:
    """Train the last blocks, and leave them as they are after the best epoch; return the top."""
    from twostage.training.standing import DenseTop

    start, frozen = _best_top(engine, lesson)
    with placement.scope():
        top = DenseTop(start)
        course = train(
            network,
            engine.spec.preprocessing,
            top,
            frozen,
            lesson,
            how,
            workspace,
            asked,
            progress,
            placement.n_devices,
        )
    return course, top.linear()


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
    judged = [lesson.judged(top.outputs(embeddings[n:])) for top in tops]
    best = int(np.argmin([loss for loss, _ in judged]))
    loss, score = judged[best]
    return tops[best], record_of(0, float("nan"), loss, score, 0.0)


def _seen(labelled: LabelledImages, lesson: _Lesson, group: str | None) -> SeenRows:
    """Return what the backbone has seen: images that it learned from or that chose the epoch."""
    groups = {as_text(value) for row in lesson.seen for value in labelled.group_values[row]}
    hashes = frozenset(labelled.hashes[row] for row in lesson.seen)
    return SeenRows(hashes, frozenset(groups), group)


def with_parents(seen: SeenRows, before: SeenRows | None, group: str | None) -> SeenRows:
    """Return what a backbone and the one that it started from have seen.

    A parent's groups are not found again where they are of another column: that is told.
    """
    if before is None:
        return seen
    if before.groups and group not in (None, before.group_column):
        log.warning(
            "The backbone was tuned before with groups of '%s', now with those of '%s': rows of "
            "the groups that it had seen then are told by their images alone.",
            before.group_column,
            group,
        )
    return seen.union(before)


def history_files(course: Course, metric: str) -> dict[str, bytes]:
    """Return the history as a table and, where it can be drawn, as a picture."""
    from twostage.training.plot import plot_history

    history = pd.DataFrame(course.history)
    files = {HISTORY: history.to_csv(index=False).encode()}
    picture = plot_history(history, metric, course.best_epoch)
    return files if picture is None else {**files, PLOT: picture}
