"""The training of networks of several members, each of which leaves other rows out."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from twostage.features import UNKNOWN, Features
from twostage.heads.base import Task
from twostage.networks.ends import arrays_of
from twostage.splits import inner_folds

_MIN_ROWS_TO_STOP_EARLY = 100
_LEAST_IMPROVEMENT = 0.001  # of the loss, relative: below it, more epochs only take time
_SHARE_MADE_UNSEEN = 0.05
_LEAST_LIKELIHOOD = 1e-7
_CHUNK = 4096


@dataclass
class Training:
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
            batch = _some_unseen(self.features.take(rows), self.rng)
            target = np.repeat(self.target[rows, None], self.sees.shape[1], axis=1)
            if target.dtype == np.float32:
                target = target[:, :, None]
            weight = (self.weight[rows, None] * self.sees[rows]).astype(np.float32)
            self.network.train_on_batch(arrays_of(batch), target, sample_weight=weight)

    def held_out_loss(self) -> float:
        """Return the mean loss of each row's prediction by the members that do not see it."""
        rows = np.flatnonzero(~self.sees.all(axis=1))
        outputs = outputs_of(self.network, self.features.take(rows))
        is_regression = self.target.dtype == np.float32
        members = outputs if is_regression else softmax(outputs, axis=2)
        is_blind = ~self.sees[rows, :, None]
        mean = (members * is_blind).sum(axis=1) / is_blind.sum(axis=1)
        target, weight = self.target[rows], self.weight[rows]
        if is_regression:
            return float(np.average((mean[:, 0] - target) ** 2, weights=weight))
        likelihood = np.maximum(mean[np.arange(len(rows)), target], _LEAST_LIKELIHOOD)
        return float(-np.average(np.log(likelihood), weights=weight))


def _some_unseen(batch: Features, rng: np.random.Generator) -> Features:
    """Make some categories and words unseen: what stands for those must learn too."""
    codes = np.where(rng.random(batch.codes.shape) < _SHARE_MADE_UNSEEN, 0, batch.codes)
    texts = []
    for text in batch.texts:
        is_hidden = (text.numbers > 0) & (rng.random(text.numbers.shape) < _SHARE_MADE_UNSEEN)
        texts.append(replace(text, numbers=np.where(is_hidden, UNKNOWN, text.numbers)))
    return replace(batch, codes=codes, texts=tuple(texts))


def rows_seen(y: np.ndarray, task: Task, groups: np.ndarray | None, n_members: int) -> np.ndarray:
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


def outputs_of(network: Any, features: Features) -> np.ndarray:
    """Return what a network says, piece by piece, without compiling anything."""
    from keras import ops

    inputs = arrays_of(features)
    starts = range(0, max(1, len(features)), _CHUNK)
    pieces = [[part[start : start + _CHUNK] for part in inputs] for start in starts]
    return np.concatenate(
        [ops.convert_to_numpy(network(piece, training=False)) for piece in pieces]
    )
