"""Branches of a network that follow sequences: recurrent layers and convolutions, masked.

Padding has no say in anything here: a longer padding gives the same vector.
"""

from collections.abc import Callable
from typing import Any

LSTM, GRU, CNN = "lstm", "gru", "cnn"
SEQUENCE_ENCODERS = (LSTM, GRU, CNN)
_KERNELS = (5, 3)  # steps that the convolutions see
_FAR_BELOW = -1e9


def sequence_branch(
    values: Any, lengths: Any, kind: str, units: int, seeds: Callable[[], int]
) -> Any:
    """Turn sequences into vectors.

    Parameters
    ----------
    values : tensor of shape (n_rows, length, n_channels)
        Steps; see `twostage.features.Steps`.
    lengths : int tensor of shape (n_rows,)
        How many of them are a row's own, 0 included.
    kind : {"lstm", "gru", "cnn"}
        What follows them.
    units : int
        Its width.
    seeds : callable
        Gives a seed.

    Returns
    -------
    tensor of shape (n_rows, width)
        Of the states at all steps the mean and the maximum and, of recurrent layers, the last; all
        0 where a row has no steps.
    """
    mask = mask_of(values, lengths)
    return pooled(states_of(values, mask, kind, units, seeds), mask, lengths, kind)


def mask_of(values: Any, lengths: Any) -> Any:
    """Return which steps are a row's own, bool of shape (n_rows, length): never none of them.

    The first step of a row that has none is padding too: fast recurrent layers want one step.
    """
    from keras import ops

    numbers = ops.cumsum(ops.ones_like(ops.sum(values, axis=2)), axis=1)
    least = ops.maximum(ops.cast(lengths, "float32"), 1.0)
    return ops.less_equal(numbers, ops.expand_dims(least, -1))


def states_of(values: Any, mask: Any, kind: str, units: int, seeds: Callable[[], int]) -> Any:
    """Return what a layer of the kind makes of each step; of shape (n_rows, length, units)."""
    from keras import initializers, layers, ops

    if kind != CNN:
        layer = layers.LSTM if kind == LSTM else layers.GRU
        return layer(
            units,
            return_sequences=True,
            kernel_initializer=initializers.GlorotUniform(seeds()),
            recurrent_initializer=initializers.Orthogonal(seed=seeds()),
            seed=seeds(),
        )(values, mask=mask)
    is_own = ops.expand_dims(ops.cast(mask, "float32"), -1)
    x = values * is_own
    for width in _KERNELS:
        start = initializers.HeNormal(seeds())
        x = layers.Conv1D(units, width, padding="same", kernel_initializer=start)(x)
        x = layers.Activation("gelu")(layers.LayerNormalization()(x)) * is_own
    return x


def pooled(states: Any, mask: Any, lengths: Any, kind: str) -> Any:
    """Return one vector of the states at all steps; see `sequence_branch`."""
    from keras import layers, ops

    own = ops.expand_dims(ops.cast(mask, "float32"), -1)
    n_steps = ops.sum(own, axis=1)
    parts = [
        ops.sum(states * own, axis=1) / n_steps,
        ops.max(states * own + (1.0 - own) * _FAR_BELOW, axis=1),
    ]
    if kind != CNN:
        is_last = ops.cast(
            ops.equal(ops.cumsum(own, axis=1), ops.expand_dims(n_steps, 1)), "float32"
        )
        parts.append(ops.sum(states * own * is_last, axis=1))
    return where_there_are_steps(layers.Concatenate()(parts), lengths)


def where_there_are_steps(vectors: Any, lengths: Any) -> Any:
    """Return vectors, all 0 in rows of no steps."""
    from keras import ops

    return vectors * ops.expand_dims(ops.minimum(ops.cast(lengths, "float32"), 1.0), -1)
