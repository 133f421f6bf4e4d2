"""Epoch by epoch: train, judge, keep the best, and go on from a checkpoint."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from twostage.errors import FinetuningError, first_line
from twostage.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from twostage.training.settings import TuningSettings

if TYPE_CHECKING:
    from twostage.training.blocks import BlockedNetwork
    from twostage.training.data import Examples
    from twostage.training.standing import Standing
    from twostage.training.trainer import Told, Trainer

log = logging.getLogger("twostage")

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
class Inputs:
    """What enters the part that is trained: pixels, or activations of the frozen part.

    Attributes
    ----------
    looks : sequence of arrays of shape (n_all, ...)
        What the epochs see, one after the other, over and over.
    plain : array of shape (n_all, ...)
        What validation sees: nothing augmented.
    preprocessing : str or None
        What is still to be done to pixels; None for activations.
    place : int array of shape (n_images,) or None
        Where an image is in a look, or in ``plain``; None where all arrays hold all images.
    """

    looks: Sequence[np.ndarray]
    plain: np.ndarray
    preprocessing: str | None
    place: np.ndarray | None = None

    def of_epoch(self, epoch: int, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the array that an epoch trains on, and where in it images are."""
        return self.looks[epoch % len(self.looks)], self._placed(images)

    def of_validation(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the array to judge by, and where in it images are."""
        return self.plain, self._placed(images)

    def _placed(self, images: np.ndarray) -> np.ndarray:
        return images if self.place is None else np.asarray(self.place[images])


class Lesson(Protocol):
    """What is learned, and how well it was.

    Attributes
    ----------
    pixels : uint8 array of shape (n_images, size, size, 3)
        Of all images.
    train_images, validation_images : int arrays
        Which of them are trained on, and judged by; they share none.
    n_examples : int
        Of an epoch.
    is_classification : bool
        Whether outputs are of classes.
    """

    @property
    def pixels(self) -> np.ndarray: ...
    @property
    def train_images(self) -> np.ndarray: ...
    @property
    def validation_images(self) -> np.ndarray: ...
    @property
    def n_examples(self) -> int: ...
    @property
    def is_classification(self) -> bool: ...

    def examples(self, inputs: Inputs, epoch: int) -> "Examples":
        """Return what an epoch, counted from 0, trains on."""
        ...

    def judge(self, trainer: "Trainer", inputs: Inputs) -> tuple[float, float]:
        """Return loss and score of validation; NaN where the network gives no numbers."""
        ...


@dataclass(frozen=True)
class Course:
    """What became of a training.

    Attributes
    ----------
    history : list of dict
        A record of each epoch, the first one of what was there before.
    best_epoch : int
        Its number.
    best : list of arrays
        The weights after it, as `twostage.training.trainer.Trainer.weights` gives them.
    stopped : str or None
        Why it ended before its last epoch.
    """

    history: list[dict[str, Any]]
    best_epoch: int
    best: list[np.ndarray]
    stopped: str | None

    def images_per_s(self, n_images: int) -> float:
        """Return the rate of training on so many images in each epoch."""
        seconds = sum(row["seconds"] for row in self.history[1:])
        return (len(self.history) - 1) * n_images / seconds if seconds else float("nan")


def n_copies(network: "BlockedNetwork", how: TuningSettings) -> int:
    """Return of how many augmented copies the frozen part's activations are kept."""
    from twostage.training.blocks import size_of

    if how.copies is not None:
        return how.copies
    first = network.first_trained(how.unfreeze)
    entry, pixels = network.blocks[first].entry, network.blocks[0].entry
    is_small = _BYTES_OF_ACTIVATION * size_of(entry) <= size_of(pixels)
    return _COPIES if first > 0 and is_small else 0


def train(
    network: "BlockedNetwork",
    preprocessing: str,
    top: "Standing",
    frozen: dict[str, Any],
    lesson: Lesson,
    how: TuningSettings,
    workspace: Path,
    asked: Mapping[str, Any],
    progress: Progress,
    n_devices: int = 1,
) -> Course:
    """Train the last blocks with what stands on them; leave all as it is after the best epoch.

    Parameters
    ----------
    network : BlockedNetwork
        To be trained from the block on that ``how`` names.
    preprocessing : str
        What is done to pixels first.
    top : Standing
        What stands on it.
    frozen : dict
        The record of what was there before, as epoch 0.
    lesson : Lesson
        What it learns, and by what it is judged.
    how : TuningSettings
        Its ``copies`` are a number.
    workspace : path
        Where activations and the checkpoint are kept.
    asked : mapping
        What was asked for, as JSON: it goes on from no checkpoint of something else.
    progress : Progress
        Whom to tell how far it is.
    n_devices : int
        That share a batch; see `twostage.training.placement.Placement`, whose scope it is in.
    """
    from twostage.training.placement import in_precision
    from twostage.training.trainer import Trainer

    first = network.first_trained(how.unfreeze)
    inputs = _inputs(network, first, preprocessing, lesson, how, workspace, progress)
    trainer = Trainer(
        network,
        first,
        inputs.preprocessing,
        top,
        is_classification=lesson.is_classification,
        settings=how,
        n_rows=lesson.n_examples,
        n_devices=n_devices,
    )
    with in_precision(trainer.part, how.precision):
        course = _run_epochs(trainer, frozen, inputs, lesson, how, workspace, asked, progress)
    trainer.model.set_weights(course.best)
    return course


def _inputs(
    network: "BlockedNetwork",
    first: int,
    preprocessing: str,
    lesson: Lesson,
    how: TuningSettings,
    workspace: Path,
    progress: Progress,
) -> Inputs:
    """Return what is trained on: pixels, or the frozen part's activations of augmented copies."""
    pixels = lesson.pixels
    if not how.copies or first == 0:
        return Inputs([pixels], pixels, preprocessing)
    from twostage.training.activations import frozen_activations

    looks, plain = frozen_activations(
        network.frozen_part(first),
        preprocessing,
        pixels,
        lesson.train_images,
        lesson.validation_images,
        how,
        workspace,
        progress.loaded,
    )
    place = np.zeros(len(pixels), np.int64)
    for images in (lesson.train_images, lesson.validation_images):
        place[images] = np.arange(len(images))
    return Inputs(looks, plain, None, place)


def _run_epochs(
    trainer: "Trainer",
    frozen: dict[str, Any],
    inputs: Inputs,
    lesson: Lesson,
    how: TuningSettings,
    workspace: Path,
    asked: Mapping[str, Any],
    progress: Progress,
) -> Course:
    """Train epoch by epoch, from the checkpoint if there is one."""
    history, best, stopped = [frozen], trainer.weights(), None
    kept = read_checkpoint(workspace)
    if kept is not None:
        _check_same(kept.asked, asked, workspace)
        history, best = [dict(row) for row in kept.history], list(kept.best)
        trainer.prepare(len(history) - 2)
        _restore(trainer, kept, workspace)
        log.info("Going on after epoch %d of %d ...", len(history) - 1, how.epochs)
    while len(history) <= how.epochs:
        n_worse = len(history) - 1 - best_epoch(history)
        if n_worse >= how.patience:
            stopped = f"{n_worse} epochs without a better score"
            break
        record, stopped = _run_epoch(trainer, len(history), inputs, lesson, how, progress)
        history.append(record)
        if stopped is not None:
            break
        if best_epoch(history) == len(history) - 1:
            best = trainer.weights()
        write_checkpoint(workspace, Checkpoint(asked, history, trainer.state(), best))
    return Course(history, best_epoch(history), best, stopped)


def _restore(trainer: "Trainer", kept: Checkpoint, workspace: Path) -> None:
    """Take a checkpoint up, or raise FinetuningError if it does not fit."""
    try:
        trainer.restore(kept.state)
        best_epoch(kept.history)
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
    inputs: Inputs,
    lesson: Lesson,
    how: TuningSettings,
    progress: Progress,
) -> tuple[dict[str, Any], str | None]:
    """Train for an epoch, counted from 1, and judge it; also say why it has to be the last."""
    started = time.perf_counter()
    examples = lesson.examples(inputs, epoch - 1)
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
        loss, score = lesson.judge(trainer, inputs)
        if np.isnan(loss):  # the last step did it, and its loss was that from before
            stopped = f"the network gave no numbers after epoch {epoch}"
    record = record_of(epoch, done.loss, loss, score, seconds)
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


def record_of(
    epoch: int, loss: float, validation_loss: float, score: float, seconds: float
) -> dict[str, Any]:
    """Return what is told of an epoch, a row of the history."""
    return {
        "epoch": epoch,
        "loss": loss,
        "validation_loss": validation_loss,
        "score": score,
        "seconds": round(seconds, 3),
    }


def best_epoch(history: Sequence[Mapping[str, Any]]) -> int:
    """Return the epoch of the best score; of equal ones, or of none, the one of least loss."""
    scores = np.array([row["score"] for row in history], np.float64)
    losses = np.array([row["validation_loss"] for row in history], np.float64)
    is_best = scores == np.nanmax(scores) if np.isfinite(scores).any() else np.isfinite(losses)
    return int(np.nanargmin(np.where(is_best, losses, np.nan)))


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
