"""What stands on the embedding while a backbone is trained: a dense layer, or a whole network."""

from collections.abc import Sequence
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


class NetworkTop:
    """A network of embeddings and other inputs, as a head has it.

    Parameters
    ----------
    network : keras.Model
        To probabilities, or to values of shape (n, 1). A copy of it is trained.
    places : sequence of int
        Which of its inputs are embeddings, in the order of an example's images.
    fills : sequence of float32 arrays of shape (dim,)
        What each of these is in a row that has no such image.

    Attributes
    ----------
    inputs : list of KerasTensor
        Whether each image is there, as float32 of shape (n, n_images); then the network's others.
    """

    gives_logits = False

    def __init__(self, network: Any, places: Sequence[int], fills: Sequence[np.ndarray]):
        self.n_images: int | None = len(places)
        self._network = keras.models.clone_model(network)  # in the scope of the devices
        self._network.set_weights(network.get_weights())
        self._places = list(places)
        self._fills = [np.asarray(fill, np.float32) for fill in fills]
        self._others = {
            number: keras.Input(given.shape[1:], dtype=given.dtype)
            for number, given in enumerate(network.inputs)
            if number not in self._places
        }
        self._is_there = keras.Input((self.n_images,))
        self.inputs: list[Any] = [self._is_there, *self._others.values()]

    def __call__(self, embeddings: Any) -> Any:
        """Return probabilities or values."""
        given = dict(self._others)
        for image, (place, fill) in enumerate(zip(self._places, self._fills, strict=True)):
            share = self._is_there[:, image : image + 1]
            given[place] = embeddings[:, image] * share + (1 - share) * fill
        return self._network([given[number] for number in range(len(self._network.inputs))])

    def weights(self) -> list[np.ndarray]:
        """Return the weights of the network as it is now."""
        return [np.array(value) for value in self._network.get_weights()]
