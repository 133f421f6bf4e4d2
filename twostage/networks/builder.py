"""The one builder: branches for whatever features there are, a fusion, dense layers."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from twostage.errors import DataError
from twostage.features import Features
from twostage.networks.branches import (
    AVERAGE,
    block_branch,
    category_branch,
    standardised,
    text_branch,
)
from twostage.networks.fusion import CONCAT, fuse

FUSED, PENULTIMATE = "fused", "penultimate"


@dataclass(frozen=True)
class NetworkSettings:
    """What a network of several inputs is made of.

    Attributes
    ----------
    fusion : {"concat", "repeat", "attention"}
        How sequences meet the rest.
    text_encoder : {"average", "lstm"}
        What reads words; see `twostage.networks.branches.text_branch`.
    sequence_encoder : {"lstm", "gru", "cnn"}
        What reads steps.
    embedding_units : int or None
        Length of a category's vector; by cardinality if None.
    word_units, sequence_units, block_units, units : int
        Length of a word's vector, and of the state of what reads words; width of what reads steps;
        of the layer on each block; of the hidden layer.
    dropout, block_dropout, word_dropout : float
        Share of units dropped in training: before and after the hidden layer, of blocks, and of
        the vectors of words.
    trains_word_vectors : bool
        Whether word vectors that are given are trained further.
    """

    fusion: str = CONCAT
    text_encoder: str = AVERAGE
    sequence_encoder: str = "lstm"
    embedding_units: int | None = None
    word_units: int = 32
    sequence_units: int = 64
    block_units: int = 32
    units: int = 64
    dropout: float = 0.3
    block_dropout: float = 0.3
    word_dropout: float = 0.6
    trains_word_vectors: bool = True


def build(
    features: Features,
    n_outputs: int,
    settings: NetworkSettings,
    rng: np.random.Generator,
    n_members: int = 1,
) -> Any:
    """Assemble a network of several inputs.

    Each input has a branch of its own (`twostage.networks.branches`); what comes of them is fused
    (`twostage.networks.fusion`), batch-normalised, and goes through a hidden layer, and past it,
    to the outputs. Layers and ops are Keras' own, so that the network can be saved and loaded
    without code, and runs on every backend.

    Parameters
    ----------
    features : Features
        Of the training rows: their parts are the inputs, in the order of
        `twostage.networks.ends.arrays_of`; scales come from them.
    n_outputs : int
        Logits, or values.
    settings : NetworkSettings
        What it is made of.
    rng : numpy.random.Generator
        Of the seeds of all layers.
    n_members : int
        Networks side by side that share nothing but their inputs.

    Returns
    -------
    keras.Model
        To outputs of shape (n_rows, n_members, n_outputs), not compiled. What comes of a branch is
        a layer's output: see `outputs_of_branch` for their names.

    Raises
    ------
    DataError
        If there are no features.
    """
    from keras import Model, layers

    if features.is_empty:
        raise DataError("There are no features to learn from.")
    inputs = _Inputs.of(features)
    members = []
    for number in range(n_members):
        member = _Member(settings, rng, number)
        outputs = member.outputs(inputs, features, n_outputs)
        members.append(layers.Reshape((1, n_outputs))(outputs))
    x = layers.Concatenate(axis=1)(members) if n_members > 1 else members[0]
    return Model(inputs.tensors, x)


def outputs_of_branch(network: Any, branch: str) -> list[Any]:
    """Return what comes of a branch, in each member of a network.

    Parameters
    ----------
    network : keras.Model
        That `build` made, or one around its layers.
    branch : str
        "table", or "category_0", "block_0", "text_0", "sequence_0" and so on, by the number of the
        column among those of its kind; "fused", all of them together; "penultimate", what the
        outputs are made of.

    Returns
    -------
    list of tensors of shape (n_rows, width)
        One of each member.
    """
    names = {layer.name for layer in network.layers}
    found: list[Any] = []
    while _name(branch, len(found)) in names:
        found.append(network.get_layer(_name(branch, len(found))).output)
    return found


def _name(branch: str, member: int) -> str:
    return f"{branch}_of_{member}" if member else branch


@dataclass(frozen=True)
class _Inputs:
    """The inputs of a network, part by part; None or empty where there are none."""

    table: Any
    codes: list[Any]
    blocks: list[Any]
    texts: list[Any]
    sequences: list[tuple[Any, Any]]

    @classmethod
    def of(cls, features: Features) -> "_Inputs":
        from keras import Input

        width = features.table.shape[1]
        return cls(
            Input((width,), name="table_input") if width else None,
            [Input((), dtype="int32") for _ in features.cardinalities],
            [Input((block.shape[1],)) for block in features.blocks],
            [Input((text.numbers.shape[1],), dtype="int32") for text in features.texts],
            [(Input(one.values.shape[1:]), Input((), dtype="int32")) for one in features.sequences],
        )

    @property
    def tensors(self) -> list[Any]:
        """All of them, in the order of `twostage.networks.ends.arrays_of`."""
        table = [] if self.table is None else [self.table]
        steps = [tensor for pair in self.sequences for tensor in pair]
        return [*table, *self.codes, *self.blocks, *self.texts, *steps]


@dataclass(frozen=True)
class _Member:
    """One of the networks side by side, in the making."""

    settings: NetworkSettings
    rng: np.random.Generator
    number: int

    def outputs(self, inputs: _Inputs, features: Features, n_outputs: int) -> Any:
        """Go from the inputs to the outputs."""
        from keras import layers

        how = self.settings
        x = fuse(
            how.fusion,
            inputs.sequences,
            self._branches(inputs, features),
            kind=how.sequence_encoder,
            units=how.sequence_units,
            seeds=self._seed,
            named=self._named,
        )
        x = layers.BatchNormalization(momentum=0.9)(self._named(x, FUSED))
        x = self._dropped(x, how.dropout)
        hidden = self._dense(x, how.units, gain=2**0.5, activation="gelu")
        x = layers.Concatenate()([x, self._dropped(hidden, how.dropout)])
        return self._dense(self._named(x, PENULTIMATE), n_outputs, gain=0.3)

    def _branches(self, inputs: _Inputs, features: Features) -> list[Any]:
        """Return what comes of all inputs but sequences."""
        how, seeds = self.settings, self._seed
        vectors = []
        if inputs.table is not None:
            table = standardised(inputs.table, features.table, features.table.var(axis=0))
            vectors.append(self._named(table, "table"))
        for i, (x, cardinality) in enumerate(
            zip(inputs.codes, features.cardinalities, strict=True)
        ):
            vector = category_branch(x, cardinality, how.embedding_units, seeds)
            vectors.append(self._named(vector, f"category_{i}"))
        for i, (x, block) in enumerate(zip(inputs.blocks, features.blocks, strict=True)):
            vector = block_branch(x, block, how.block_units, how.block_dropout, seeds)
            vectors.append(self._named(vector, f"block_{i}"))
        for i, (x, text) in enumerate(zip(inputs.texts, features.texts, strict=True)):
            vector = text_branch(
                x,
                text,
                how.text_encoder,
                how.word_units,
                is_trained=how.trains_word_vectors,
                dropout=how.word_dropout,
                seeds=seeds,
            )
            vectors.append(self._named(vector, f"text_{i}"))
        return vectors

    def _named(self, x: Any, branch: str) -> Any:
        from keras import layers

        return layers.Identity(name=_name(branch, self.number))(x)

    def _dense(self, x: Any, units: int, gain: float, activation: str | None = None) -> Any:
        from keras import initializers, layers

        start = initializers.RandomNormal(0.0, gain / x.shape[-1] ** 0.5, seed=self._seed())
        return layers.Dense(units, activation=activation, kernel_initializer=start)(x)

    def _dropped(self, x: Any, rate: float) -> Any:
        from keras import layers

        return layers.Dropout(rate, seed=self._seed())(x)

    def _seed(self) -> int:
        return int(self.rng.integers(2**31))
