"""Networks of several inputs: numbers, categories, texts, sequences, embeddings, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
from sklearn.utils._param_validation import StrOptions

from twostage.features import Features
from twostage.heads.base import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, Task
from twostage.heads.network_head import NetworkHead
from twostage.networks.branches import AVERAGE, TEXT_ENCODERS
from twostage.networks.builder import NetworkSettings, build
from twostage.networks.ends import compiled
from twostage.networks.fusion import CONCAT, FUSIONS, SEQUENCE_ENCODERS
from twostage.recipes import WORDS, Recipe


class JointHead(NetworkHead):
    """A network with a branch for each kind of input, trained end to end.

    Each column of categories has an embedding, each text the vectors of its words, which are
    averaged or read, each sequence an encoder of its steps, each block a narrow layer; numbers
    are scaled. What comes of them is fused, batch-normalised and goes through a hidden layer.

    It is trained, and stopped, as `twostage.heads.keras.KerasHead` is.

    Parameters
    ----------
    fusion : {"concat", "repeat", "attention"}
        How sequences meet the rest: side by side; the rest repeated at each step; or by attention
        on the steps, with the rest as its query.
    text_encoder : {"average", "lstm"}
        Whether vectors of words are averaged, with their maximum, or read by a bidirectional LSTM.
    sequence_encoder : {"lstm", "gru", "cnn"}
        What reads sequences.
    n_members : int
        Networks to average.
    embedding_units : int, optional
        Length of a category's vector; by the number of categories if None.
    word_units, sequence_units, block_units, units : int
        Length of a word's vector and of what reads words; of what reads sequences; of the layer on
        each block; of the hidden layer.
    dropout, block_dropout, word_dropout : float
        Share of units dropped in training: before and after the hidden layer, of blocks, and of
        the vectors of words.
    trains_word_vectors : bool
        Whether word vectors from a file are trained further.
    learning_rate, weight_decay : float
        Of AdamW.
    batch_size : int, optional
        Rows per step; a 32nd of the rows, but 64 to 1,024, if None.
    max_epochs, patience : int
        Most passes over the rows, and how many without improvement end training.

    Attributes
    ----------
    network_, n_epochs_, target_mean_, target_scale_
        See `twostage.heads.network_head.NetworkHead`.
    """

    recipe: ClassVar[Recipe] = Recipe(
        scaling="robust",
        fills_missing=True,
        categories="native",
        many_categories="native",
        blocks="raw",
        texts=WORDS,
        sequences="steps",
    )
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "embedding_units": (None, 2, 4, 8, 16, 32),
        "word_units": (16, 32, 64, 128),
        "sequence_units": (32, 64, 128),
        "block_units": (16, 32, 64),
        "units": (32, 64, 128, 256),
        "dropout": (0.1, 0.3, 0.5),
        "learning_rate": (0.0005, 0.001, 0.002, 0.005),
        "weight_decay": (0.01, 0.1, 1.0),
    }

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "fusion": [StrOptions(set(FUSIONS))],
        "text_encoder": [StrOptions(set(TEXT_ENCODERS))],
        "sequence_encoder": [StrOptions(set(SEQUENCE_ENCODERS))],
        "n_members": COUNT,
        "embedding_units": [*COUNT, None],
        "word_units": COUNT,
        "sequence_units": COUNT,
        "block_units": COUNT,
        "units": COUNT,
        "dropout": BELOW_ONE,
        "block_dropout": BELOW_ONE,
        "word_dropout": BELOW_ONE,
        "trains_word_vectors": ["boolean"],
        "learning_rate": POSITIVE,
        "weight_decay": NOT_NEGATIVE,
        "batch_size": [*COUNT, None],
        "max_epochs": COUNT,
        "patience": COUNT,
    }

    def __init__(
        self,
        *,
        fusion: str = CONCAT,
        text_encoder: str = AVERAGE,
        sequence_encoder: str = "lstm",
        n_members: int = 3,
        embedding_units: int | None = None,
        word_units: int = 32,
        sequence_units: int = 64,
        block_units: int = 32,
        units: int = 64,
        dropout: float = 0.3,
        block_dropout: float = 0.3,
        word_dropout: float = 0.6,
        trains_word_vectors: bool = True,
        learning_rate: float = 0.002,
        weight_decay: float = 0.01,
        batch_size: int | None = None,
        max_epochs: int = 100,
        patience: int = 8,
    ):
        self.fusion = fusion
        self.text_encoder = text_encoder
        self.sequence_encoder = sequence_encoder
        self.n_members = n_members
        self.embedding_units = embedding_units
        self.word_units = word_units
        self.sequence_units = sequence_units
        self.block_units = block_units
        self.units = units
        self.dropout = dropout
        self.block_dropout = block_dropout
        self.word_dropout = word_dropout
        self.trains_word_vectors = trains_word_vectors
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.patience = patience

    def _build(self, features: Features, task: Task, rng: np.random.Generator) -> Any:
        settings = NetworkSettings(
            **{field.name: getattr(self, field.name) for field in fields(NetworkSettings)}
        )
        network = build(features, task.n_classes or 1, settings, rng, self.n_members)
        return compiled(
            network,
            self.learning_rate,
            self.weight_decay,
            is_classification=task.is_classification,
        )
