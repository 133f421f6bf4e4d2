"""How what comes of several inputs becomes one vector."""

from collections.abc import Callable, Sequence
from typing import Any

from twostage.errors import UsageError

CONCAT = "concat"
FUSIONS = (CONCAT, "repeat", "attention")
SEQUENCE_ENCODERS = ("lstm", "gru", "cnn")
Named = Callable[[Any, str], Any]  # gives a tensor a name by which it can be cut out


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
    seeds: Callable[[], int],
    named: Named,
) -> Any:
    """Join sequences with the vectors of all other branches.

    Parameters
    ----------
    fusion : {"concat", "repeat", "attention"}
        How.
    steps : sequence of (values, lengths) tensors
        Of each sequence.
    context : sequence of tensors of shape (n_rows, width)
        What came of the other inputs.
    kind : {"lstm", "gru", "cnn"}
        What reads a sequence.
    units : int
        Its width.
    seeds : callable
        Gives a seed.
    named : callable
        Names a tensor: ``named(tensor, "sequence_0")``.

    Returns
    -------
    tensor of shape (n_rows, width)
    """
    if steps:
        raise UsageError("Sequences can't be read yet.")
    return joined(context)
