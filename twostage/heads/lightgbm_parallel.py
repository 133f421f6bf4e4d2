"""LightGBM's trees, grown by several machines together, each with a part of the rows.

Machines exchange histograms, and so grow the same trees (LightGBM's data-parallel learner; Meng et
al., 2016, "A communication-efficient parallel algorithm for decision tree" has its relatives). What
LightGBM leaves to each machine is made the same on all of them: bins are found by the same rows,
and the number of trees by the same rows, for its metrics are those of a machine's own rows, and
machines that stop at different times wait for each other for ever.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import lightgbm
import numpy as np

from twostage.features import Features
from twostage.heads.base import Task
from twostage.heads.lightgbm import (
    CODES,
    N_TREES_WITHOUT_STOPPING,
    LightGBMHead,
    most_rounds,
    parts_of,
    stopping,
)

N_TRAININGS = 2  # each needs a port of its own: one to find the number of trees, one with all rows
_MINUTES_TO_MEET = 2
_BATCH = 8192
_OF_NETWORK = re.compile(  # among the parameters that LightGBM writes into its text
    r"^\[(machines|num_machines|local_listen_port|tree_learner|pre_partition|time_out): .*\]\n",
    re.MULTILINE,
)


@dataclass(frozen=True)
class LabelledRows:
    """Features of rows, and what is to be learned of them.

    Attributes
    ----------
    features : Features
        Of n_rows.
    y : array of shape (n_rows,)
        Class numbers, or values.
    weight : float array of shape (n_rows,) or None
        Of the rows.
    """

    features: Features
    y: np.ndarray
    weight: np.ndarray | None

    def take(self, rows: np.ndarray) -> "LabelledRows":
        """Return some rows, by number."""
        weight = None if self.weight is None else self.weight[rows]
        return LabelledRows(self.features.take(rows), self.y[rows], weight)


@dataclass(frozen=True)
class GrowingPlan:
    """What all machines have alike.

    Attributes
    ----------
    head : LightGBMHead
        Unfitted.
    task : Task
        What it learns; ``n_jobs`` threads on each machine.
    binned_by : Features
        Of the rows by which bins are found.
    watched : LabelledRows or None
        By which the number of trees is found: their machines leave them out meanwhile. If None,
        the number is the head's, or 100.
    n_rows : int
        That all machines have together.
    n_weighted : float
        What those weigh together.
    """

    head: LightGBMHead
    task: Task
    binned_by: Features
    watched: LabelledRows | None
    n_rows: int
    n_weighted: float


@dataclass(frozen=True)
class Piece:
    """Some rows of a machine.

    Attributes
    ----------
    load : callable
        Returns their features, each time anew: at no time are those of several pieces in memory.
    y, weight
        As for `LabelledRows`.
    is_watched : bool array of shape (n_rows,)
        Which are among those that the plan watches.
    """

    load: Callable[[], Features]
    y: np.ndarray
    weight: np.ndarray | None
    is_watched: np.ndarray


@dataclass(frozen=True)
class Machines:
    """Who grows trees together.

    Attributes
    ----------
    places : sequence of (str, list of int)
        The address of each, and free ports there, `N_TRAININGS`.
    rank : int
        Which of them this is.
    """

    places: Sequence[tuple[str, list[int]]]
    rank: int

    def network(self, training: int) -> dict[str, Any]:
        """Return LightGBM's parameters for one training."""
        if len(self.places) == 1:
            return {}
        return {
            "machines": ",".join(f"{host}:{ports[training]}" for host, ports in self.places),
            "num_machines": len(self.places),
            "local_listen_port": self.places[self.rank][1][training],
            "time_out": _MINUTES_TO_MEET,
        }


class _Rows(lightgbm.Sequence):
    """The rows of a piece, read batch by batch, once."""

    batch_size = _BATCH

    def __init__(self, piece: Piece, n_copies: int):
        self._piece, self._n_copies = piece, n_copies
        self._features: Features | None = None

    def __len__(self) -> int:
        return len(self._piece.y)

    def __getitem__(self, rows: Any) -> np.ndarray:
        if self._features is None:
            self._features = self._piece.load()
        found = _matrix(self._features.take(np.arange(len(self))[rows]), self._n_copies)
        if isinstance(rows, slice) and rows.stop >= len(self):
            self._features = None
        return found


def grow(plan: GrowingPlan, pieces: Sequence[Piece], machines: Machines) -> LightGBMHead:
    """Grow trees together with the other machines, which call this with the same plan.

    Parameters
    ----------
    plan : GrowingPlan
        The same on all machines.
    pieces : sequence of Piece
        This machine's rows; some of them are not watched.
    machines : Machines
        All of them.

    Returns
    -------
    LightGBMHead
        Fitted; the same on all machines.

    Raises
    ------
    lightgbm.basic.LightGBMError
        If another machine is lost.
    """
    return _Growth(plan, machines).run(pieces)


class _Growth:
    def __init__(self, plan: GrowingPlan, machines: Machines):
        self._plan, self._machines = plan, machines
        self._head = LightGBMHead(**plan.head.get_params()).prepare(plan.binned_by, plan.task)

    @cached_property
    def _parameters(self) -> dict[str, Any]:
        plan = self._plan
        parameters = self._head.parameters_for(plan.binned_by, plan.n_rows, plan.n_weighted)
        if len(self._machines.places) > 1:
            parameters |= {"tree_learner": "data", "pre_partition": True}
        return parameters

    @cached_property
    def _bins(self) -> lightgbm.Dataset:
        """The rows that bins are found by: of those, the data of all machines take them."""
        parts = parts_of(self._plan.binned_by, self._head.n_copies_)
        names = [f"{name}_{i}" for name, part in parts.items() for i in range(part.shape[1])]
        coded = [i for i, name in enumerate(names) if name.startswith(CODES)]
        return lightgbm.Dataset(
            _matrix(self._plan.binned_by, self._head.n_copies_),
            label=np.zeros(len(self._plan.binned_by)),
            feature_name=names,
            categorical_feature=coded or "auto",
            params=self._parameters,
        ).construct()

    def run(self, pieces: Sequence[Piece]) -> LightGBMHead:
        data = lightgbm.Dataset(
            [_Rows(piece, self._head.n_copies_) for piece in pieces],
            label=np.concatenate([piece.y for piece in pieces]),
            weight=_joined([piece.weight for piece in pieces]),
            reference=self._bins,
            params=self._parameters,
        ).construct()
        n_trees = self._head.n_trees or N_TREES_WITHOUT_STOPPING
        if self._plan.watched is not None and self._head.n_trees is None:
            kept = np.flatnonzero(~np.concatenate([piece.is_watched for piece in pieces]))
            n_trees = self._find_n_trees(data.subset(kept.tolist()), self._plan.watched)
        booster = self._train(1, data, n_trees)
        text = _OF_NETWORK.sub("", booster.model_to_string())
        self._head.booster_ = lightgbm.Booster(model_str=text)
        return self._head

    def _find_n_trees(self, data: lightgbm.Dataset, watched: LabelledRows) -> int:
        rows = lightgbm.Dataset(
            _matrix(watched.features, self._head.n_copies_),
            label=watched.y,
            weight=watched.weight,
            reference=self._bins,
            params=self._parameters,
        )
        most = most_rounds(self._plan.task)
        booster = self._train(0, data, most, valid_sets=[rows], callbacks=[stopping()])
        return max(1, int(booster.best_iteration))

    def _train(
        self, training: int, data: lightgbm.Dataset, n_trees: int, **options: Any
    ) -> lightgbm.Booster:
        parameters = self._parameters | self._machines.network(training)
        booster = lightgbm.train(parameters, data, n_trees, **options)
        booster.free_network()
        return booster


def _matrix(features: Features, n_copies: int) -> np.ndarray:
    return np.hstack([np.asarray(p, np.float32) for p in parts_of(features, n_copies).values()])


def _joined(weights: Sequence[np.ndarray | None]) -> np.ndarray | None:
    present = [weight for weight in weights if weight is not None]
    return np.concatenate(present) if present else None
