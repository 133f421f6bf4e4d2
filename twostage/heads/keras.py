"""A neural network with a branch for each kind of input: several small ones, trained as one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.special import softmax

from twostage.errors import ModelError
from twostage.features import Features
from twostage.heads.base import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, Head, Task
from twostage.heads.keras_network import averaging, build
from twostage.opening.files import read_json
from twostage.opening.keras_file import ForeignCodeError, load_network
from twostage.opening.records import checked
from twostage.recipes import Recipe
from twostage.saving import to_json
from twostage.splits import inner_folds

_MIN_ROWS_TO_STOP_EARLY = 100
_N_STEPS_WITHOUT_STOPPING = 200
_LEAST_IMPROVEMENT = 0.001  # of the loss, relative: below it, more epochs only take time
_SHARE_MADE_UNSEEN = 0.05
_LEAST_LIKELIHOOD = 1e-7
_MAX_BATCH, _MIN_BATCH, _N_BATCHES = 1024, 64, 32
_CHUNK = 4096
_NETWORK, _RECORD = "head.keras", "head.json"


@dataclass(frozen=True)
class _Record:
    """What is saved of a head beside its network; see `KerasHead`."""

    n_epochs: int
    target_mean: float
    target_scale: float


class KerasHead(Head):
    """Several small neural networks, trained at once, whose predictions are averaged.

    Each has an embedding per column of category numbers, a narrow layer on each block, so that
    1,280 dimensions do not drown five columns, batch normalisation of it all, a hidden layer, and
    a way past it. Standardisation is the first layer.

    Of at least 100 rows, each network leaves out one of five inner folds (by whole groups,
    stratified), and training stops when the rows left out are predicted best; the networks of that
    moment are kept. Together they saw all rows, and did better than others refitted on all of them.
    Otherwise training takes a fixed number of steps.

    Any backend of Keras 3 will do. The same seed, data, backend and machine give the same network;
    random states outside are left alone. ``task.n_jobs`` is not used: threads are the backend's.

    Parameters
    ----------
    n_members : int
        Networks to average.
    units, block_units : int
        Width of the hidden layer, and of the layer on each block.
    dropout, block_dropout : float
        Share of units dropped in training: before and after the hidden layer, and of blocks.
    learning_rate, weight_decay : float
        Of AdamW.
    batch_size : int, optional
        Rows per step; a 32nd of the rows, but 64 to 1,024, if None.
    max_epochs, patience : int
        Most passes over the rows, and how many without improvement end training.

    Attributes
    ----------
    network_ : keras.Model
        From table, codes and blocks to mean probabilities, or mean standardised value.
    n_epochs_ : int
        Passes over the rows that it was trained for.
    target_mean_, target_scale_ : float
        Of the values of a regression.
    """

    recipe: ClassVar[Recipe] = Recipe(
        scaling="robust",
        fills_missing=True,
        categories="native",
        many_categories="native",
        blocks="pca",
        n_components=64,
    )
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "units": (32, 64, 128, 256),
        "block_units": (8, 16, 32, 64),
        "dropout": (0.1, 0.3, 0.5),
        "block_dropout": (0.0, 0.2, 0.3, 0.5),
        "learning_rate": (0.0005, 0.001, 0.002, 0.005),
        "weight_decay": (0.01, 0.1, 1.0),
    }

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_members": COUNT,
        "units": COUNT,
        "block_units": COUNT,
        "dropout": BELOW_ONE,
        "block_dropout": BELOW_ONE,
        "learning_rate": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
        "batch_size": [*COUNT, None],
        "max_epochs": COUNT,
        "patience": COUNT,
    }

    def __init__(
        self,
        *,
        n_members: int = 10,
        units: int = 64,
        block_units: int = 32,
        dropout: float = 0.3,
        block_dropout: float = 0.3,
        learning_rate: float = 0.002,
        weight_decay: float = 0.01,
        batch_size: int | None = None,
        max_epochs: int = 200,
        patience: int = 15,
    ):
        self.n_members = n_members
        self.units = units
        self.block_units = block_units
        self.dropout = dropout
        self.block_dropout = block_dropout
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience

    def fit(
        self,
        features: Features,
        y: np.ndarray,
        task: Task,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Train the networks, each without its fold; see `Head.fit`.

        Raises
        ------
        DataError
            If there are no features.
        """
        self.task_ = task
        self.target_mean_, self.target_scale_ = 0.0, 1.0
        weight = np.ones(len(y)) if sample_weight is None else sample_weight / sample_weight.mean()
        target = np.asarray(y, np.int32)
        if not task.is_classification:
            self.target_mean_ = float(np.average(y, weights=weight))
            centred = y - self.target_mean_
            self.target_scale_ = float(np.average(centred**2, weights=weight)) ** 0.5 or 1.0
            target = np.asarray(centred / self.target_scale_, np.float32)
        rng = np.random.default_rng(task.random_state)
        network = build(self, features, task, rng)
        sees = _rows_seen(y, task, groups, self.n_members)
        size = self.batch_size or int(np.clip(len(y) // _N_BATCHES, _MIN_BATCH, _MAX_BATCH))
        n_steps = max(1, round(len(y) / size))
        training = _Training(network, features, target, weight, sees, n_steps, rng)
        if sees.all():
            self.n_epochs_ = min(self.max_epochs, -(-_N_STEPS_WITHOUT_STOPPING // n_steps))
            for _ in range(self.n_epochs_):
                training.run_epoch()
        else:
            self.n_epochs_ = training.run(self.max_epochs, self.patience)
        self.network_ = averaging(network, task)
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        values = _outputs(self.network_, features)[:, 0].astype(np.float64)
        return np.asarray(values * self.target_scale_ + self.target_mean_)

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        proba = _outputs(self.network_, features).astype(np.float64)
        return np.asarray(proba / proba.sum(axis=1, keepdims=True))  # float32 is not exactly 1

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write the network as Keras' own file, and the target's scale."""
        self.network_.save(folder / _NETWORK)
        record = {
            "n_epochs": self.n_epochs_,
            "target_mean": self.target_mean_,
            "target_scale": self.target_scale_,
        }
        (folder / _RECORD).write_text(to_json(record))

    def load(self, folder: Path, task: Task, trusted: Sequence[str] = ()) -> Self:
        """Read what `save` wrote; no code of the file is run."""
        self.task_ = task
        try:
            self.network_ = load_network(folder / _NETWORK)
        except ForeignCodeError as error:
            raise ModelError(
                f"'{folder / _NETWORK}' holds code, which twostage does not run: {error}. No head "
                "of twostage needs that: do not trust the model."
            ) from error
        record = checked(_Record, read_json(folder / _RECORD), _RECORD)
        self.n_epochs_, self.target_mean_ = record.n_epochs, record.target_mean
        self.target_scale_ = record.target_scale
        return self

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "network_" in state:
            network = state["network_"]
            state["network_"] = (network.to_json(), network.get_weights())
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "network_" in state:
            from keras.models import model_from_json

            config, weights = state["network_"]
            network = model_from_json(config)
            network.set_weights(weights)
            state = {**state, "network_": network}
        super().__setstate__(state)


@dataclass
class _Training:
    """A network in training.

    Attributes
    ----------
    network : keras.Model
        Compiled; to logits or standardised values of shape (n, n_members, n_outputs).
    features : Features
        Of n_rows.
    target : int32 or float32 array of shape (n_rows,)
        Class numbers, or standardised values.
    weight : array of shape (n_rows,)
        1 on average.
    sees : bool array of shape (n_rows, n_members)
        Which member learns from which row.
    n_steps : int
        Per epoch, all of equally many rows, so that no shape is compiled twice.
    rng : numpy.random.Generator
        Of the order of rows.
    """

    network: Any
    features: Features
    target: np.ndarray
    weight: np.ndarray
    sees: np.ndarray
    n_steps: int
    rng: np.random.Generator

    def run(self, max_epochs: int, patience: int) -> int:
        """Train until the held-out loss stops falling; keep the best epoch, and return it."""
        best_loss, best_epoch, best_weights = np.inf, 0, self.network.get_weights()
        for epoch in range(1, max_epochs + 1):
            self.run_epoch()
            loss = self.held_out_loss()
            if loss < best_loss * (1 - _LEAST_IMPROVEMENT):
                best_loss, best_epoch, best_weights = loss, epoch, self.network.get_weights()
            elif epoch - best_epoch >= patience:
                break
        self.network.set_weights(best_weights)
        return best_epoch

    def run_epoch(self) -> None:
        """Pass over the rows once, but for fewer than ``n_steps`` of them, others each time."""
        order = self.rng.permutation(len(self.target))
        size = len(order) // self.n_steps
        for rows in order[: size * self.n_steps].reshape(self.n_steps, size):
            codes = self.features.codes[rows]
            # The embedding of unseen categories must learn too: of some of those seen.
            codes[self.rng.random(codes.shape) < _SHARE_MADE_UNSEEN] = 0
            batch = self.features.take(rows)
            batch = replace(batch, codes=codes)
            target = np.repeat(self.target[rows, None], self.sees.shape[1], axis=1)
            if target.dtype == np.float32:
                target = target[:, :, None]
            weight = (self.weight[rows, None] * self.sees[rows]).astype(np.float32)
            self.network.train_on_batch(_inputs(batch), target, sample_weight=weight)

    def held_out_loss(self) -> float:
        """Return the mean loss of each row's prediction by the members that do not see it."""
        rows = np.flatnonzero(~self.sees.all(axis=1))
        outputs = _outputs(self.network, self.features.take(rows))
        is_regression = self.target.dtype == np.float32
        members = outputs if is_regression else softmax(outputs, axis=2)
        is_blind = ~self.sees[rows, :, None]
        mean = (members * is_blind).sum(axis=1) / is_blind.sum(axis=1)
        target, weight = self.target[rows], self.weight[rows]
        if is_regression:
            return float(np.average((mean[:, 0] - target) ** 2, weights=weight))
        likelihood = np.maximum(mean[np.arange(len(rows)), target], _LEAST_LIKELIHOOD)
        return float(-np.average(np.log(likelihood), weights=weight))


def _rows_seen(y: np.ndarray, task: Task, groups: np.ndarray | None, n_members: int) -> np.ndarray:
    """Return which member learns from which row: all from all, if nothing can be held out."""
    sees = np.ones((len(y), n_members), bool)
    if len(y) < _MIN_ROWS_TO_STOP_EARLY:
        return sees
    folds = inner_folds(
        y,
        is_classification=task.is_classification,
        groups=groups,
        random_state=task.random_state,
    )
    for member in range(n_members if folds else 0):
        sees[folds[member % len(folds)][1], member] = False
    return sees


def _inputs(features: Features) -> list[np.ndarray]:
    table = [features.table] if features.table.shape[1] else []
    return [*table, *features.codes.T, *features.blocks]


def _outputs(network: Any, features: Features) -> np.ndarray:
    """Return what a network says, piece by piece, without compiling anything."""
    from keras import ops

    inputs = _inputs(features)
    starts = range(0, max(1, len(features)), _CHUNK)
    pieces = [[part[start : start + _CHUNK] for part in inputs] for start in starts]
    return np.concatenate(
        [ops.convert_to_numpy(network(piece, training=False)) for piece in pieces]
    )
