"""The network of the Keras head: several small ones side by side."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from twostage.errors import DataError
from twostage.features import Features
from twostage.heads.base import Task
from twostage.networks.branches import standardised, units_for
from twostage.networks.ends import compiled


def build(head: Any, features: Features, task: Task, rng: np.random.Generator) -> Any:
    """Return a compiled network of independent members side by side, on an axis of their own."""
    from keras import Model, layers

    parts = _Parts(head.n_members, rng)
    inputs, branches = [], []
    if features.table.shape[1]:
        inputs.append(layers.Input((features.table.shape[1],)))
        table = standardised(inputs[-1], features.table, features.table.var(axis=0))
        branches.append(layers.RepeatVector(head.n_members)(table))
    for cardinality in features.cardinalities:
        inputs.append(layers.Input((), dtype="int32"))
        branches.append(parts.embedding(inputs[-1], cardinality))
    for block in features.blocks:
        inputs.append(layers.Input((block.shape[1],)))
        # One scale for all: dimensions of little variance, mostly noise, are not blown up.
        spread = np.full(block.shape[1], block.var(axis=0).mean())
        x = parts.dropout(standardised(inputs[-1], block, spread), head.block_dropout)
        branches.append(parts.dense(x, head.block_units))
    if not branches:
        raise DataError("There are no features to learn from.")
    x = layers.Concatenate()(branches) if len(branches) > 1 else branches[0]
    x = parts.dropout(parts.batch_normalised(x), head.dropout)
    hidden = parts.dense(x, head.units, gain=2**0.5, activation="gelu")
    x = layers.Concatenate()([x, parts.dropout(hidden, head.dropout)])
    network = Model(inputs, parts.dense(x, task.n_classes or 1, gain=0.3))
    return compiled(
        network,
        head.learning_rate,
        head.weight_decay,
        is_classification=task.is_classification,
    )


@dataclass
class _Parts:
    """Layers of independent members, each seeded: Keras would draw from Python's random state."""

    n_members: int
    rng: np.random.Generator

    def dense(self, x: Any, units: int, gain: float = 1.0, activation: str | None = None) -> Any:
        """Connect each member's inputs, or those of all, to units of its own."""
        from keras import layers

        return layers.EinsumDense(
            "nmd,mdu->nmu" if len(x.shape) == 3 else "nd,dmu->nmu",
            (self.n_members, units),
            bias_axes="mu",
            activation=activation,
            kernel_initializer=self._normal(gain / x.shape[-1] ** 0.5),
        )(x)

    def embedding(self, x: Any, cardinality: int) -> Any:
        """Give each member vectors of its own for the numbers of a column's categories."""
        from keras import layers

        units = units_for(cardinality)
        start = self._normal(0.3 / units**0.5)
        table = layers.Embedding(cardinality, self.n_members * units, embeddings_initializer=start)
        return layers.Reshape((self.n_members, units))(table(x))

    def batch_normalised(self, x: Any) -> Any:
        """Normalise each unit of each member on its own."""
        from keras import layers

        width = x.shape[-1]
        x = layers.Reshape((self.n_members * width,))(x)
        return layers.Reshape((self.n_members, width))(layers.BatchNormalization(momentum=0.9)(x))

    def dropout(self, x: Any, rate: float) -> Any:
        from keras import layers

        return layers.Dropout(rate, seed=self._seed())(x)

    def _normal(self, deviation: float) -> Any:
        from keras import initializers

        return initializers.RandomNormal(0.0, deviation, seed=self._seed())

    def _seed(self) -> int:
        return int(self.rng.integers(2**31))
