"""Where a network's inputs come from, and what is made of its outputs."""

from typing import Any

import numpy as np

from twostage.features import Features
from twostage.gradients import summed_over_several


def arrays_of(features: Features) -> list[np.ndarray]:
    """Return what the inputs of a network are given: the order of all networks here.

    The table if it has columns, each column of codes, each block, the numbers of each text's
    words, the values and the lengths of each sequence.
    """
    table = [features.table] if features.table.shape[1] else []
    texts = [text.numbers for text in features.texts]
    steps = [array for one in features.sequences for array in (one.values, one.lengths)]
    return [*table, *features.codes.T, *features.blocks, *texts, *steps]


def compiled(
    network: Any, learning_rate: float, weight_decay: float, *, is_classification: bool
) -> Any:
    """Return a network ready for training, on one device or several.

    Parameters
    ----------
    network : keras.Model
        To logits, or to standardised values.
    learning_rate, weight_decay : float
        Of AdamW.
    is_classification : bool
        Whether its outputs are logits.
    """
    from keras import backend, losses, optimizers

    loss = losses.MeanSquaredError()
    if is_classification:
        loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    optimizer = optimizers.AdamW(learning_rate, weight_decay=weight_decay)
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    # Compiled by XLA where nothing else is fast; elsewhere that takes longer than it saves.
    is_jax = backend.backend() == "jax"
    network.compile(optimizer=summed_over_several(optimizer), loss=loss, jit_compile=is_jax)
    return network


def averaging(network: Any, *, is_classification: bool) -> Any:
    """Return a network of the same layers that averages its members' predictions.

    Parameters
    ----------
    network : keras.Model
        To logits or values of shape (n_rows, n_members, n_outputs).
    is_classification : bool
        Whether they are logits: probabilities are averaged.
    """
    from keras import Model, layers

    x = network.output
    if is_classification:
        x = layers.Softmax()(x)
    return Model(network.inputs, layers.GlobalAveragePooling1D()(x))
