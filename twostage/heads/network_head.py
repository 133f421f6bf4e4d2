"""What heads that are neural networks have in common: training, early stopping, files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from twostage.errors import ModelError
from twostage.features import Features
from twostage.heads.base import Head, Task
from twostage.heads.network_training import Training, outputs_of, rows_seen
from twostage.networks.ends import averaging
from twostage.opening.files import read_json
from twostage.opening.keras_file import ForeignCodeError, load_network
from twostage.opening.records import checked
from twostage.saving import to_json

_N_STEPS_WITHOUT_STOPPING = 200
_MAX_BATCH, _MIN_BATCH, _N_BATCHES = 1024, 64, 32
_NETWORK, _RECORD = "head.keras", "head.json"


@dataclass(frozen=True)
class _Record:
    """What is saved of a head beside its network; see `NetworkHead`."""

    n_epochs: int
    target_mean: float
    target_scale: float


class NetworkHead(Head):
    """A head that is one network of several members, whose predictions are averaged.

    Of at least 100 rows, each member leaves out one of five inner folds (by whole groups,
    stratified), and training stops when the rows left out are predicted best; the networks of that
    moment are kept. Otherwise training takes a fixed number of steps.

    Attributes
    ----------
    n_members, batch_size, max_epochs, patience
        Parameters of each such head; see `twostage.heads.keras.KerasHead`.
    network_ : keras.Model
        From `twostage.networks.ends.arrays_of` features to mean probabilities, or mean
        standardised value.
    n_epochs_ : int
        Passes over the rows that it was trained for.
    target_mean_, target_scale_ : float
        Of the values of a regression.
    """

    n_members: int
    batch_size: int | None
    max_epochs: int
    patience: int

    def _build(self, features: Features, task: Task, rng: np.random.Generator) -> Any:
        """Return a compiled network to logits or values of (n_rows, n_members, n_outputs)."""
        raise NotImplementedError

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
        network = self._build(features, task, rng)
        sees = rows_seen(y, task, groups, self.n_members)
        size = self.batch_size or int(np.clip(len(y) // _N_BATCHES, _MIN_BATCH, _MAX_BATCH))
        n_steps = max(1, round(len(y) / size))
        training = Training(network, features, target, weight, sees, n_steps, rng)
        if sees.all():
            self.n_epochs_ = min(self.max_epochs, -(-_N_STEPS_WITHOUT_STOPPING // n_steps))
            for _ in range(self.n_epochs_):
                training.run_epoch()
        else:
            self.n_epochs_ = training.run(self.max_epochs, self.patience)
        self.network_ = averaging(network, is_classification=task.is_classification)
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        values = outputs_of(self.network_, features)[:, 0].astype(np.float64)
        return np.asarray(values * self.target_scale_ + self.target_mean_)

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        proba = outputs_of(self.network_, features).astype(np.float64)
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
