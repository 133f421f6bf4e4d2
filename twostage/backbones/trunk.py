"""A stripped network, wherever it comes from, and how its last tensor becomes an embedding."""

from dataclasses import dataclass
from typing import Any

from twostage.backbones.quiet_keras import keras
from twostage.errors import UsageError

# Of the layer that makes it: Keras would count its own names from the start in each process, and
# take one that a layer of the network may have.
EMBEDDING = "twostage_embedding"


@dataclass(frozen=True)
class Trunk:
    """A network without its top.

    Attributes
    ----------
    model : keras.Model
        From preprocessed pixels of shape (n, size, size, 3) to embeddings of shape (n, dim).
    architecture : str
        Name in the catalogue; of a Keras file "keras_" and a digest of the graph.
    weights_digest : str
        Digest of its variables.
    pooling : {"avg", "max"} or None
        What made a vector of a feature map, if there was one.
    preprocessing : {"caffe", "tf", "torch", "unit", "none"}
        What it wants done to pixels first.
    """

    model: Any
    architecture: str
    weights_digest: str
    pooling: str | None
    preprocessing: str


def as_vector(tensor: Any, pooling: str | None, what: str) -> tuple[Any, str | None]:
    """Turn a tensor into an embedding, of shape (n, dim).

    Parameters
    ----------
    tensor : KerasTensor
        A feature map or a vector.
    pooling : {"avg", "max"} or None
        How a feature map is to become a vector; by its average if None.
    what : str
        What the tensor is, for the message.

    Returns
    -------
    vector : KerasTensor
        The embedding.
    pooling : {"avg", "max"} or None
        What was done to it.

    Raises
    ------
    UsageError
        If it is neither, or a vector is to be pooled.
    """
    if len(tensor.shape) == 4 and pooling == "max":
        return keras.layers.GlobalMaxPooling2D(name=EMBEDDING)(tensor), "max"
    if len(tensor.shape) == 4:
        return keras.layers.GlobalAveragePooling2D(name=EMBEDDING)(tensor), "avg"
    if len(tensor.shape) == 2 and pooling is None:
        return tensor, None
    raise UsageError(
        f"{what}: a tensor of shape {tensor.shape[1:]} can't be "
        f"{'pooled' if pooling else 'an embedding'}. Name a feature map or a vector with --layer."
    )
