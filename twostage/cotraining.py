"""A head's network and the backbone under it, trained together on the rows of a table.

`cotrain` shows it whole: pixels -> what each row shows -> epochs, of which the best is kept -> a
folder with the backbone and what the network became.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.spec import BackboneSettings
from twostage.backbones.tuned import NetworkWeights, write_tuned
from twostage.blocks import LARGEST_DEVIATION, BlockEncoder
from twostage.errors import DataError
from twostage.features import Features
from twostage.finetuning import PathLike, blocked, history_files, placed, with_parents
from twostage.fingerprint import hash_json
from twostage.heads.network_head import NetworkHead
from twostage.joins import pool_by_row
from twostage.labelled import load_pixels
from twostage.members import Member
from twostage.metrics import main_score
from twostage.networks.ends import arrays_of
from twostage.rows import TrainingRows
from twostage.seen import SeenRows, as_text
from twostage.training.data import Examples
from twostage.training.epochs import Inputs, Progress, n_copies, record_of, train
from twostage.training.settings import TuningSettings
from twostage.training.standing import NetworkTop, Standard
from twostage.training.workspace import workspace_of

if TYPE_CHECKING:
    from twostage.training.trainer import Trainer

log = logging.getLogger("twostage")

_LEAST_LIKELIHOOD = 1e-7


@dataclass(frozen=True)
class Cotraining:
    """What is trained together, and on what.

    Attributes
    ----------
    images : path-like
        Where the images are: what their names start from.
    backbone : BackboneSettings
        What the CNN is at first.
    member : Member
        A network head, and the encoder of its features, fitted to the rows to train on by
        embeddings of that backbone.
    rows : TrainingRows
        To train on and to choose the epoch by, with those embeddings.
    weights : float array of shape (n_rows,)
        How much each counts.
    train, validation : int arrays
        Which rows are which; they share no group.
    pooling : {"mean", "max", "first"}
        What becomes of several images in a row.
    how : TuningSettings
        How the CNN is trained, and for how long both are.
    """

    images: PathLike
    backbone: BackboneSettings
    member: Member
    rows: TrainingRows
    weights: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    pooling: str
    how: TuningSettings


def cotrain(
    folder: Path,
    what: Cotraining,
    *,
    target: str,
    group: str | None,
    workers: int | None = None,
    max_pixels: int,
    device: str = "auto",
    progress: Progress,
) -> None:
    """Train a network and the backbone under it, and write the folder of the backbone.

    Rows without an image have 0 in its place, the mean of the embeddings, and an indicator, as in
    the head. Of several images of a column, a row shows one in each epoch, by turns; it is judged
    by all of them, as it is predicted.

    Parameters
    ----------
    folder : path
        To make. A run that was killed goes on where it was if it is asked for the same.
    what : Cotraining
        What is trained, and on what.
    target : str
        Name of what it learns.
    group : str or None
        Column of the rows' groups.
    workers, max_pixels, device, progress
        As for `twostage.finetuning.finetune`.

    Raises
    ------
    UsageError
        If the backbone has no such blocks.
    DataError
        If an image is not the one that was embedded before.
    FinetuningError
        If the disk is full, or an unfinished run is another.
    """
    placement, precision = placed(device, what.how.precision)
    how = replace(what.how, precision=precision)
    with placement.scope():
        network, model = blocked(what.backbone, how)
    how = replace(how, copies=n_copies(network, how))
    parent = LazyBackbone(what.backbone, device)
    engine = parent.get()
    with workspace_of(folder) as workspace:
        pixels, columns = _pixels(
            what, workspace, engine.spec, workers=workers, max_pixels=max_pixels, progress=progress
        )
        with placement.scope():
            lesson = _lesson(what, pixels, columns)
            course = train(
                network,
                engine.spec.preprocessing,
                lesson.top,
                lesson.frozen(),
                lesson,
                how,
                workspace,
                _asked(what, how, engine.spec.identity),
                progress,
                placement.n_devices,
            )
        origin = {
            "target": target,
            "task": "regression" if what.rows.n_classes is None else "classification",
            "group": group,
            "holdout": 0,
            "head": what.member.head.parameters(),
            "n_trained": len(what.train),
            "n_validation": len(what.validation),
            "best_epoch": course.best_epoch,
            "settings": asdict(how),
        }
        if course.stopped:
            log.info("Ended early: %s.", course.stopped)
        files = history_files(course, "r2" if what.rows.n_classes is None else "auc")
        seen = with_parents(_seen(what.rows, group), parent.seen(), group)
        weights = NetworkWeights(lesson.top.weights())
        write_tuned(folder, model, engine.spec, origin, seen, weights, files)


def _pixels(
    what: Cotraining,
    workspace: Path,
    spec: Any,
    *,
    workers: int | None,
    max_pixels: int,
    progress: Progress,
) -> tuple[np.ndarray, list[list[list[int]]]]:
    """Decode the images; return them, and by image column which of them each row shows."""
    rows = what.rows
    loaded = load_pixels(
        rows.frame.reset_index(drop=True),
        list(rows.blocks),
        what.images,
        workspace,
        size_px=spec.input_size_px,
        resize=spec.resize,
        workers=workers,
        max_pixels=max_pixels,
        progress=progress.loaded,
    )
    number_of = {content: number for number, content in enumerate(loaded.rows_of)}
    columns = []
    for block in rows.blocks.values():
        shown = [
            [number_of[h] for h in hashes if h in number_of] for hashes in block.content_hashes
        ]
        for row, images in enumerate(shown):
            if len(images) < block.n_images[row]:
                name = rows.frame[block.column].iloc[row]
                raise DataError(
                    f"'{name}' in '{what.images}' is not the image that was embedded before. "
                    "Extract the images again, or give the folder that they were in."
                )
        columns.append([one[:1] for one in shown] if what.pooling == "first" else shown)
    return loaded.pixels, columns


def _lesson(what: Cotraining, pixels: np.ndarray, columns: list[list[list[int]]]) -> "_Lesson":
    head, encoder = what.member.head, what.member.encoder
    assert isinstance(head, NetworkHead)
    features = encoder.transform(what.rows.frame, what.rows.blocks)
    y = np.asarray(what.rows.y)
    if what.rows.n_classes is None:
        y = (y - head.target_mean_) / head.target_scale_
    encoders = [encoder.blocks[name] for name in what.rows.blocks]
    arrays = arrays_of(features)
    standards = []
    for own, block in zip(encoders, features.blocks, strict=False):  # other blocks come after
        place = next(number for number, array in enumerate(arrays) if array is block)
        standards.append(
            Standard(place, own.arrays["mean"], own.arrays["scale"], LARGEST_DEVIATION)
        )
    return _Lesson(
        pixels,
        features,
        columns,
        head,
        NetworkTop(head.network_, standards),
        encoders,
        y,
        what.rows.n_classes,
        np.asarray(what.weights, np.float32),
        what.train,
        what.validation,
        what.pooling,
    )


@dataclass(frozen=True)
class _Lesson:
    """Rows that a backbone and a network learn from together.

    Attributes
    ----------
    pixels : uint8 array of shape (n_images, size, size, 3)
        Of all images.
    features : Features
        Of all rows, by the backbone as it came; the blocks of image columns come first.
    columns : list of lists of lists of int
        By image column and row, the images that it shows.
    head : NetworkHead
        To be judged with.
    top : NetworkTop
        Its network, as it is trained.
    encoders : list of BlockEncoder
        By image column, what makes features of embeddings.
    y : array of shape (n_rows,)
        Class numbers, or standardised values.
    n_classes : int or None
        None for values.
    weights : float32 array of shape (n_rows,)
        Of the rows.
    train, validation : int arrays
        Rows to learn from, and to choose the epoch by.
    pooling : str
        What becomes of several images in a row.
    """

    pixels: np.ndarray
    features: Features
    columns: list[list[list[int]]]
    head: NetworkHead
    top: NetworkTop
    encoders: list[BlockEncoder]
    y: np.ndarray
    n_classes: int | None
    weights: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    pooling: str

    @cached_property
    def train_images(self) -> np.ndarray:
        """Images of the rows to learn from."""
        return self._images_of(self.train)

    @cached_property
    def validation_images(self) -> np.ndarray:
        """Images of the rows to choose the epoch by."""
        return self._images_of(self.validation)

    @property
    def n_examples(self) -> int:
        """Of an epoch: each row is one."""
        return len(self.train)

    @property
    def is_classification(self) -> bool:
        """Whether there are classes."""
        return self.n_classes is not None

    def examples(self, inputs: Inputs, epoch: int) -> Examples:
        """Return what an epoch trains on: each row once, with an image of each column."""
        rows = self.train
        any_image = int(self.train_images[0])
        shown = [[column[row] for column in self.columns] for row in rows]
        chosen = [
            [some[(epoch + row) % len(some)] if some else any_image for some in one]
            for row, one in zip(rows, shown, strict=True)
        ]
        is_there = np.array([[bool(some) for some in one] for one in shown], np.float32)
        x, places = inputs.of_epoch(epoch, np.array(chosen))
        further = replace(self.features, blocks=self.features.blocks[len(self.columns) :])
        others = (is_there, *arrays_of(further.take(rows)))
        return Examples(x, places, self._wanted(rows), self.weights[rows], others)

    def judge(self, trainer: "Trainer", inputs: Inputs) -> tuple[float, float]:
        """Return loss and score of the validation rows; NaN if there are no numbers."""
        images, rows = self.validation_images, self.validation
        features = self.features.take(rows)
        if len(images):
            embeddings = trainer.embeddings(*inputs.of_validation(images))
            blocks = [
                self._block(column, encoder, embeddings, images)
                for column, encoder in zip(self.columns, self.encoders, strict=True)
            ]
            further = features.blocks[len(self.columns) :]
            features = replace(features, blocks=(*blocks, *further))
        self.head.network_.set_weights(self.top.weights())
        return self._judged(features)

    def frozen(self) -> dict[str, Any]:
        """Return the record of the head on the backbone as it came, as epoch 0."""
        loss, score = self._judged(self.features.take(self.validation))
        return record_of(0, float("nan"), loss, score, 0.0)

    def _judged(self, features: Features) -> tuple[float, float]:
        y = self.y[self.validation]
        if self.n_classes is None:
            values = self.head.predict(features)
            values = (values - self.head.target_mean_) / self.head.target_scale_
            if not np.isfinite(values).all():
                return np.nan, np.nan
            return float(np.mean((values - y) ** 2)), main_score(y, values)
        proba = self.head.predict_proba(features)
        if not np.isfinite(proba).all():
            return np.nan, np.nan
        of_truth = np.maximum(proba[np.arange(len(y)), y], _LEAST_LIKELIHOOD)
        return float(-np.log(of_truth).mean()), main_score(y, proba)

    def _wanted(self, rows: np.ndarray) -> np.ndarray:
        """Return one-hot classes, or values, as float32 of shape (n_rows, n_outputs)."""
        if self.n_classes is None:
            return np.asarray(self.y[rows, None], np.float32)
        one_hot: np.ndarray = np.eye(self.n_classes, dtype=np.float32)[self.y[rows]]
        return one_hot

    def _images_of(self, rows: np.ndarray) -> np.ndarray:
        found = {image for column in self.columns for row in rows for image in column[row]}
        return np.array(sorted(found), np.int64)

    def _block(
        self,
        column: Sequence[Sequence[int]],
        encoder: BlockEncoder,
        embeddings: np.ndarray,
        images: np.ndarray,
    ) -> np.ndarray:
        """Return the embeddings of the validation rows, as the head sees them."""
        shown = [(i, image) for i, row in enumerate(self.validation) for image in column[row]]
        of_row, of_image = zip(*shown, strict=True) if shown else ((), ())
        keys = np.searchsorted(images, np.array(of_image, np.int64))
        n_rows = len(self.validation)
        matrix, _ = pool_by_row(embeddings, of_row, keys.tolist(), n_rows, self.pooling)
        (block,) = encoder.transform(matrix)
        return block


def _asked(what: Cotraining, how: TuningSettings, identity: str) -> dict[str, Any]:
    """Return what a checkpoint is of."""
    hashes = [block.content_hashes for block in what.rows.blocks.values()]
    learned = [hashes, np.asarray(what.rows.y).tolist(), what.train.tolist()]
    network = [layer.name for layer in what.member.head.network_.layers]
    return {
        "settings": asdict(how),
        "backbone": identity,
        "images": hash_json([learned, what.weights.tolist(), network]),
    }


def _seen(rows: TrainingRows, group: str | None) -> SeenRows:
    """Return what the backbone has seen: all rows, for those of validation chose the epoch."""
    hashes = {
        h for block in rows.blocks.values() for in_row in block.content_hashes for h in in_row
    }
    values = () if rows.group_values is None else rows.group_values
    groups = {as_text(value) for value in values if value is not None and value == value}
    return SeenRows(frozenset(hashes), frozenset(groups), group)
