"""A neural network with a branch for each kind of input: several small ones, trained as one."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from twostage.features import Features
from twostage.heads.base import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, Task
from twostage.heads.keras_network import build
from twostage.heads.network_head import NetworkHead
from twostage.recipes import Recipe


class KerasHead(NetworkHead):
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

    def _build(self, features: Features, task: Task, rng: np.random.Generator) -> Any:
        return build(self, features, task, rng)
