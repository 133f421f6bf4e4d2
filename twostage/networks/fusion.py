"""How what comes of several inputs becomes one vector."""

from collections.abc import Callable, Sequence
from typing import Any

from twostage.errors import DataError
from twostage.networks.sequences import (
    mask_of,
    sequence_branch,
    states_of,
    where_there_are_steps,
)

CONCAT, REPEAT, ATTENTION = "concat", "repeat", "attention"
FUSIONS = (CONCAT, REPEAT, ATTENTION)
Named = Callable[[Any, str], Any]  # gives a tensor a name by which it can be cut out
Seeds = Callable[[], int]


def joined(tensors: Sequence[Any]) -> Any:
    """Put vectors side by side."""
    from keras import layers

    return layers.Concatenate()(list(tensors)) if len(tensors) > 1 else tensors[0]


def fuse(
    fusion: str,
    steps: Sequence[tuple[Any, Any]],
    context: Sequence[Any],
    *,
    kind: str,
    units: int,
    seeds: Seeds,
    named: Named,
) -> Any:
    """Join sequences with the vectors of all other branches, their context.

    Those vectors stand beside what comes of the sequences in any case: a row may have no steps.

    Parameters
    ----------
    fusion : {"concat", "repeat", "attention"}
        "concat" joins the vectors of sequences and context, late. "repeat" puts the context beside
        each step, before what follows the steps. "attention" sums up the steps' states by weights
        that the context asks for.
    steps : sequence of (values, lengths) tensors
        Of each sequence.
    context : sequence of tensors of shape (n_rows, width)
        What came of the other inputs.
    kind : {"lstm", "gru", "cnn"}
        What follows a sequence.
    units : int
        Its width.
    seeds : callable
        Gives a seed.
    named : callable
        Names a tensor: ``named(tensor, "sequence_0")``.

    Returns
    -------
    tensor of shape (n_rows, width)

    Raises
    ------
    DataError
        If there is no context for "repeat" or "attention".
    """
    if steps and not context and fusion != CONCAT:
        raise DataError(
            f"The fusion '{fusion}' joins sequences with what is beside them, and there is nothing "
            "beside them: no number, category, text or image. Add columns, or take 'concat'."
        )
    vectors = []
    for number, (values, lengths) in enumerate(steps):
        if fusion == REPEAT:
            vector = _repeated(values, lengths, joined(context), kind, units, seeds)
        elif fusion == ATTENTION:
            vector = _attended(values, lengths, joined(context), kind, units, seeds)
        else:
            vector = sequence_branch(values, lengths, kind, units, seeds)
        vectors.append(named(vector, f"sequence_{number}"))
    return joined([*context, *vectors])


def _repeated(values: Any, lengths: Any, context: Any, kind: str, units: int, seeds: Seeds) -> Any:
    """Follow steps that each know the context."""
    from keras import layers, ops

    at_each = ops.expand_dims(context, 1) * ops.ones_like(ops.sum(values, axis=2, keepdims=True))
    return sequence_branch(layers.Concatenate()([values, at_each]), lengths, kind, units, seeds)


def _attended(values: Any, lengths: Any, context: Any, kind: str, units: int, seeds: Seeds) -> Any:
    """Sum up the states of steps by weights that the context asks for."""
    from keras import initializers, layers, ops

    mask = mask_of(values, lengths)
    states = states_of(values, mask, kind, units, seeds)
    start = initializers.GlorotUniform(seeds())
    query = layers.Dense(units, kernel_initializer=start)(context)
    scores = layers.Dot(axes=(2, 1))([states, query]) / units**0.5
    weights = layers.Softmax()(scores, mask=mask)
    attended = ops.sum(states * ops.expand_dims(weights, -1), axis=1)
    return where_there_are_steps(attended, lengths)
