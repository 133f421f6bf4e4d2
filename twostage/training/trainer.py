"""Train the last blocks of a network and its top, epoch by epoch, on any backend of Keras."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from twostage.backbones.network import preprocessed
from twostage.backbones.quiet_keras import keras
from twostage.gradients import summed_over_several
from twostage.training.augmentation import augmentation_layers
from twostage.training.blocks import BlockedNetwork
from twostage.training.data import Examples, TrainingBatches, fed, in_batches
from twostage.training.folding import with_norms_folded
from twostage.training.optimizer import BlockwiseAdamW, schedule
from twostage.training.placement import padded, shared_size
from twostage.training.settings import TuningSettings
from twostage.training.standing import Standing

N_PHASES = 3  # of gradual unfreezing
Told = Callable[[int, int, float], None]


@dataclass(frozen=True)
class EpochRecord:
    """What an epoch of training did.

    Attributes
    ----------
    loss : float
        Mean over its steps; NaN if one of them was.
    nan_step : int or None
        The first step whose loss was no number, from 1 on.
    """

    loss: float
    nan_step: int | None


class Trainer:
    """The last blocks of a network with a top, as they are trained.

    Parameters
    ----------
    network : BlockedNetwork
        Its weights are trained in place.
    first : int
        Number of the first block to train.
    preprocessing : str or None
        What is done to pixels first; None if activations that enter the first block come in.
    top : Standing
        What stands on the embedding, and is trained with it.
    is_classification : bool
        Whether the outputs are of classes.
    settings : TuningSettings
        How.
    n_rows : int
        Rows of an epoch.
    n_devices : int
        That share a batch; see `twostage.training.placement.Placement`, in whose scope it is made.

    Attributes
    ----------
    model : keras.Model
        From pixels or activations, and what else the top takes in, to outputs.
    part : keras.Model
        The network in it, from preprocessed pixels or activations to embeddings.
    embedder : keras.Model
        The part of the model before the top, of one image.
    """

    def __init__(
        self,
        network: BlockedNetwork,
        first: int,
        preprocessing: str | None,
        top: Standing,
        *,
        is_classification: bool,
        settings: TuningSettings,
        n_rows: int,
        n_devices: int = 1,
    ):
        self._network = network
        self._first = first
        self._settings = settings
        self._n_devices = n_devices
        self._batch_size = shared_size(min(settings.batch_size, n_rows), n_devices)
        self._steps_per_epoch = max(1, n_rows // self._batch_size)
        self.embedder = self._embedder(preprocessing)
        self.model = self._topped(top)
        self._loss = _loss(settings, is_classification=is_classification, top=top)
        self._phase: int | None = None

    def run_epoch(self, epoch: int, examples: Examples, told: Told | None = None) -> EpochRecord:
        """Train on every example once.

        Parameters
        ----------
        epoch : int
            Which one it is, from 0 on: it decides their order and the learning rates.
        examples : Examples
            What to train on.
        told : callable, optional
            Called after each step with its number, how many there are, and the mean loss so far.
        """
        self.prepare(epoch)
        rng = np.random.default_rng([self._settings.random_state, epoch])
        batches = TrainingBatches(examples, self._batch_size, self._settings.mixup, rng)
        watch = _Watch(len(batches), told)
        self.model.fit(fed(batches), epochs=1, verbose=0, shuffle=False, callbacks=[watch])
        batches.release()
        return EpochRecord(watch.loss, watch.nan_step)

    def outputs(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return logits or values of shape (n, n_outputs) of rows of x, without augmentation."""
        return self._predicted(self.model, x, rows)

    def embeddings(self, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return embeddings of shape (n, dim) of rows of x, without augmentation."""
        return self._predicted(self.embedder, x, rows)

    def prepare(self, epoch: int) -> None:
        """Compile for an epoch, if its phase has not begun: blocks join, and a new optimizer."""
        phase = self._phase_of(epoch)
        if phase == self._phase:
            return
        self._phase = phase
        n_trained = len(self._network.blocks) - self._first
        n_now = round(n_trained * (phase + 1) / N_PHASES) if self._settings.gradual else n_trained
        begin = len(self._network.blocks) - max(1, n_now)
        factor_of = {}
        for number, block in enumerate(self._network.blocks):
            for layer in block.layers:
                layer.trainable = number >= begin and not _is_batch_norm(layer)
                depth = len(self._network.blocks) - 1 - number
                for weight in layer.trainable_weights:
                    factor_of[id(weight)] = self._settings.lr_decay**depth
        settings = self._settings
        n_steps = settings.epochs * self._steps_per_epoch
        done = self._first_epoch_of(phase) * self._steps_per_epoch
        rates = schedule(settings.learning_rate, n_steps, settings.warmup, done)
        trained = self.model.trainable_variables
        factors = [factor_of.get(id(one), 1.0) for one in trained]  # paths may be equal
        optimizer = BlockwiseAdamW(factors, learning_rate=rates, weight_decay=settings.weight_decay)
        optimizer = summed_over_several(optimizer)
        if settings.precision == "float16":  # gradients of its range would vanish
            optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
        self.model.compile(optimizer, self._loss)
        optimizer.build(trained)

    def state(self) -> list[np.ndarray]:
        """Return all that an epoch changes: weights, seeds, and the optimizer's memory."""
        return [keras.ops.convert_to_numpy(variable) for variable in self._variables()]

    def restore(self, state: Sequence[np.ndarray]) -> None:
        """Take back what `state` gave; after `prepare`."""
        for variable, value in zip(self._variables(), state, strict=True):
            variable.assign(value)

    def weights(self) -> list[np.ndarray]:
        """Return the weights of network and top."""
        return [np.array(value) for value in self.model.get_weights()]

    def _variables(self) -> list[Any]:
        return [*self.model.variables, *self.model.optimizer.variables]

    def _phase_of(self, epoch: int) -> int:
        if not self._settings.gradual:
            return N_PHASES - 1
        return min(N_PHASES - 1, epoch * N_PHASES // max(1, self._settings.epochs))

    def _first_epoch_of(self, phase: int) -> int:
        """Return where a phase begins: its optimizer counts its steps from there."""
        epochs = range(self._settings.epochs)
        return next((epoch for epoch in epochs if self._phase_of(epoch) == phase), 0)

    def _predicted(self, model: Any, x: np.ndarray, rows: np.ndarray) -> np.ndarray:
        given = [
            model.predict_on_batch(padded(batch, self._n_devices))[: len(batch)]
            for batch in in_batches(x, rows, self._batch_size)
        ]  # TensorFlow's strategy gives the whole batch again for each device: the first will do
        return np.vstack(given).astype(np.float32)

    def _embedder(self, preprocessing: str | None) -> Any:
        """Return the model from an image's pixels or activations to its embedding."""
        settings = self._settings
        begin = 0 if preprocessing else self._first
        self.part = self._network.trained_part(begin)
        part = InInference(with_norms_folded(self.part))
        given = values = keras.Input(self.part.input.shape[1:])
        if preprocessing is None:
            embedding = part(given)
        else:
            for layer in augmentation_layers(
                settings.augment, randaugment=settings.randaugment, seed=settings.random_state
            ):
                values = layer(values)
            embedding = part(preprocessed(values, preprocessing))
        return keras.Model(given, embedding)

    def _topped(self, top: Standing) -> Any:
        """Return the model from what enters the embedder, once or several times, to outputs."""
        settings, shape = self._settings, tuple(self.embedder.input.shape[1:])
        dropout = keras.layers.Dropout(settings.dropout, seed=settings.random_state)
        if top.n_images is None:
            given = self.embedder.input
            return keras.Model(given, top(dropout(self.embedder.output)))
        ops = keras.ops
        given = keras.Input((top.n_images, *shape))
        each = self.embedder(ops.reshape(given, (-1, *shape)))
        together = ops.reshape(dropout(each), (-1, top.n_images, each.shape[-1]))
        return keras.Model([given, *top.inputs], top(together))


def _loss(settings: TuningSettings, *, is_classification: bool, top: Standing) -> Any:
    losses = keras.losses
    if not is_classification:
        return losses.MeanSquaredError()
    how = {"from_logits": top.gives_logits, "label_smoothing": settings.label_smoothing}
    if settings.loss == "focal":
        return losses.CategoricalFocalCrossentropy(**how)
    return losses.CategoricalCrossentropy(**how)


def _is_batch_norm(layer: Any) -> bool:
    """Whether a layer stays frozen in blocks that are trained: it costs time and adds nothing."""
    return isinstance(layer, keras.layers.BatchNormalization)


class InInference(keras.layers.Layer):
    """A network that stays in inference mode while it is trained: batch norm keeps its statistics.

    To call it with ``training=False`` within a model does not do: ``fit`` overrides that.
    """

    def __init__(self, network: Any):
        super().__init__()
        self.network = network

    def call(self, values: Any) -> Any:
        """Call the network."""
        return self.network(values, training=False)


class _Watch(keras.callbacks.Callback):
    """Tells of each step, and ends the training at a loss that is no number."""

    def __init__(self, n_steps: int, told: Told | None):
        super().__init__()
        self.loss = float("nan")
        self.nan_step: int | None = None
        self._n_steps = n_steps
        self._told = told

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.loss = float((logs or {})["loss"])
        if not isfinite(self.loss):
            self.nan_step = batch + 1
            self.model.stop_training = True
        elif self._told is not None:
            self._told(batch + 1, self._n_steps, self.loss)
