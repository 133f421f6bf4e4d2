"""Branches of a network: what becomes of each kind of input before they meet."""

from collections.abc import Callable
from typing import Any

import numpy as np

from twostage.features import NO_WORD, Tokens

AVERAGE, LSTM = "average", "lstm"
TEXT_ENCODERS = (AVERAGE, LSTM)
Seeds = Callable[[], int]  # gives another one each time: Keras would draw from Python's state
_LEAST_VARIANCE = 1e-8
_MOST_EMBEDDING_UNITS = 32


def standardised(x: Any, part: np.ndarray, variance: np.ndarray) -> Any:
    """Subtract the mean of the rows given, and divide by a deviation; by 1 where there is none."""
    from keras import layers

    variance = np.where(variance > _LEAST_VARIANCE, variance, 1.0)
    return layers.Normalization(mean=part.mean(axis=0), variance=variance)(x)


def units_for(cardinality: int) -> int:
    """Return how wide an embedding of so many categories is, if nobody says."""
    width: int = round(1.6 * float(cardinality) ** 0.56)
    return min(_MOST_EMBEDDING_UNITS, width)


def category_branch(x: Any, cardinality: int, units: int | None, seeds: Seeds) -> Any:
    """Give each category a vector that is learned.

    Parameters
    ----------
    x : tensor of shape (n_rows,)
        Numbers of categories.
    cardinality : int
        How many there are, 0 included.
    units : int or None
        Length of a vector; by cardinality if None.
    seeds : callable
        Gives a seed.

    Returns
    -------
    tensor of shape (n_rows, units)
    """
    from keras import layers

    width = units or units_for(cardinality)
    start = _normal(0.3 / width**0.5, seeds)
    return layers.Embedding(cardinality, width, embeddings_initializer=start)(x)


def block_branch(x: Any, block: np.ndarray, units: int, dropout: float, seeds: Seeds) -> Any:
    """Reduce a wide block, so that 1,280 numbers of an image do not drown five columns.

    Parameters
    ----------
    x : tensor of shape (n_rows, width)
        The block.
    block : array of shape (n_rows, width)
        That of the training rows, whose scale is learned.
    units : int
        What it is reduced to.
    dropout : float
        Share of its numbers dropped in training.
    seeds : callable
        Gives a seed.

    Returns
    -------
    tensor of shape (n_rows, units)
    """
    from keras import layers

    # One scale for all: dimensions of little variance, mostly noise, are not blown up.
    spread = np.full(block.shape[1], block.var(axis=0).mean())
    x = layers.Dropout(dropout, seed=seeds())(standardised(x, block, spread))
    return layers.Dense(units, kernel_initializer=_normal(x.shape[-1] ** -0.5, seeds))(x)


def text_branch(
    x: Any, text: Tokens, kind: str, units: int, *, is_trained: bool, dropout: float, seeds: Seeds
) -> Any:
    """Turn the words of a text into a vector.

    Parameters
    ----------
    x : tensor of shape (n_rows, length)
        Numbers of words.
    text : Tokens
        How many numbers there are, and what words mean, if that is known.
    kind : {"average", "lstm"}
        "average" takes the mean and the maximum over the words of a text, "lstm" reads them forward
        and backward.
    units : int
        Length of a word's vector, where it is not given; and of the state of each direction.
    is_trained : bool
        Whether given vectors are trained further.
    dropout : float
        Share of the vectors' numbers dropped in training.
    seeds : callable
        Gives a seed.

    Returns
    -------
    tensor of shape (n_rows, width)
        All 0 where a text has no words.
    """
    from keras import layers, ops

    vectors = _word_vectors(x, text, units, is_trained, seeds)
    vectors = layers.SpatialDropout1D(dropout, seed=seeds())(vectors)
    if kind == LSTM:
        return _read_both_ways(x, vectors, units, seeds)
    weight = ops.expand_dims(ops.cast(ops.not_equal(x, NO_WORD), vectors.dtype), -1)
    n_words = ops.maximum(ops.sum(weight, axis=1), 1.0)
    mean = ops.sum(vectors * weight, axis=1) / n_words
    # Padding is as low as the lowest word; a text without words is 0 throughout.
    low = ops.min(vectors * weight, axis=1, keepdims=True)
    highest = ops.max(vectors * weight + low * (1.0 - weight), axis=1)
    return layers.Concatenate()([mean, highest])


def _word_vectors(x: Any, text: Tokens, units: int, is_trained: bool, seeds: Seeds) -> Any:
    from keras import layers

    if text.vectors is None:
        start = _normal(0.05, seeds)
        return layers.Embedding(text.n_words, units, embeddings_initializer=start)(x)
    table = np.array(text.vectors, np.float32)
    if is_trained:
        is_missing = ~table.any(axis=1)
        drawn = np.random.default_rng(seeds()).normal(size=(is_missing.sum(), table.shape[1]))
        table[is_missing] = drawn * table.std()
    layer = layers.Embedding(*table.shape, trainable=is_trained)
    found = layer(x)
    layer.set_weights([table])
    return found


def _read_both_ways(x: Any, vectors: Any, units: int, seeds: Seeds) -> Any:
    """Return the states after reading texts forward and backward; all 0 where there is no word."""
    from keras import initializers, layers, ops

    is_word = ops.not_equal(x, NO_WORD)
    # Fast recurrent layers want a step of every row, also of one without words.
    is_first = ops.less_equal(ops.cumsum(ops.ones_like(x), axis=1), 1)
    is_read = ops.logical_or(is_word, is_first)

    def one_way(goes_backwards: bool) -> Any:
        return layers.LSTM(
            units,
            go_backwards=goes_backwards,
            kernel_initializer=initializers.GlorotUniform(seeds()),
            recurrent_initializer=initializers.Orthogonal(seed=seeds()),
            seed=seeds(),
        )(vectors, mask=is_read)

    has_words = ops.any(is_word, axis=1, keepdims=True)
    states = layers.Concatenate()([one_way(False), one_way(True)])
    return states * ops.cast(has_words, states.dtype)


def _normal(deviation: float, seeds: Seeds) -> Any:
    from keras import initializers

    return initializers.RandomNormal(0.0, deviation, seed=seeds())
