"""What stands on the embedding while a backbone is trained: a dense layer, or a whole network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from twostage.backbones.quiet_keras import keras
from twostage.backbones.tuned import LinearTop


class Standing(Protocol):
    """What is trained on top of a backbone.

    Attributes
    ----------
    n_images : int or None
        Images to an example: embeddings of shape (n, n_images, dim) come in. None for one, of
        which an embedding of shape (n, dim) comes in.
    inputs : list of KerasTensor
        What else comes in.
    gives_logits : bool
        Whether what it says of classes are logits, and not probabilities.
    """

    n_images: int | None
    inputs: list[Any]
    gives_logits: bool

    def __call__(self, embeddings: Any) -> Any:
        """Return outputs of shape (n, n_outputs)."""
        ...


class DenseTop:
    """A dense layer on an embedding.

    Parameters
    ----------
    start : LinearTop
        What it is at first.
    """

    n_images: int | None = None
    gives_logits = True

    def __init__(self, start: LinearTop):
        self.inputs: list[Any] = []
        self._start = start
        self._layer = keras.layers.Dense(len(start.bias), name="twostage_top", dtype="float32")

    def __call__(self, embeddings: Any) -> Any:
        """Return logits or values."""
        outputs = self._layer(embeddings)
        self._layer.set_weights([self._start.kernel, self._start.bias])
        return outputs

    def linear(self) -> LinearTop:
        """Return what it is now."""
        kernel, bias = (np.array(value) for value in self._layer.get_weights())
        return LinearTop(kernel, bias)


@dataclass(frozen=True)
class Standard:
    """How a network sees an embedding: in deviations from the usual, 0 where there is no image.

    Attributes
    ----------
    place : int
        Which of the network's inputs it is.
    mean, scale : float32 arrays of shape (dim,)
        What is taken from it, and what it is then divided by.
    limit : float
        No deviation counts for more.
    """

    place: int
    mean: np.ndarray
    scale: np.ndarray
    limit: float


class NetworkTop:
    """A network of embeddings and other inputs, as a head has it.

    Parameters
    ----------
    network : keras.Model
        To probabilities, or to values of shape (n, 1). A copy of it is trained.
    standards : sequence of Standard
        How it sees each of an example's images.

    Attributes
    ----------
    inputs : list of KerasTensor
        Whether each image is there, as float32 of shape (n, n_images); then the network's others.
    """

    gives_logits = False

    def __init__(self, network: Any, standards: Sequence[Standard]):
        self.n_images: int | None = len(standards)
        self._network = keras.models.clone_model(network)  # in the scope of the devices
        self._network.set_weights(network.get_weights())
        self._standards = standards
        of_images = {standard.place for standard in standards}
        self._others = {
            number: keras.Input(given.shape[1:], dtype=given.dtype)
            for number, given in enumerate(network.inputs)
            if number not in of_images
        }
        self._is_there = keras.Input((self.n_images,))
        self.inputs: list[Any] = [self._is_there, *self._others.values()]

    def __call__(self, embeddings: Any) -> Any:
        """Return probabilities or values."""
        ops, given = keras.ops, dict(self._others)
        for image, standard in enumerate(self._standards):
            found = (embeddings[:, image] - standard.mean) / standard.scale
            found = ops.clip(found, -standard.limit, standard.limit)
            given[standard.place] = found * self._is_there[:, image : image + 1]
        return self._network([given[number] for number in range(len(self._network.inputs))])

    def weights(self) -> list[np.ndarray]:
        """Return the weights of the network as it is now."""
        return [np.array(value) for value in self._network.get_weights()]
