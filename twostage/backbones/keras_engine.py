"""Execute a network with Keras, whichever backend it runs on: one compiled forward."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from twostage.backbones.network import backend, on_device
from twostage.backbones.spec import BackboneSpec

_BATCH_SIZE = 32
_OUT_OF_MEMORY = ("resource_exhausted", "resource exhausted", "out of memory", "failed to allocate")

Forward = Callable[[np.ndarray], Any]


class KerasEngine:
    """A Keras network, compiled.

    Parameters
    ----------
    spec : BackboneSpec
        What it is.
    model : keras.Model
        From uint8 pixels of shape (n, size, size, 3) to float32 embeddings of shape (n, dim).
    device : str or None
        As Keras names it ("cpu:0", "gpu:0"); None leaves the choice to the backend.
    batch_size : int, optional
        32 if None. Halved where the device's memory does not suffice.
    """

    def __init__(
        self, spec: BackboneSpec, model: Any, device: str | None, batch_size: int | None = None
    ):
        self.spec = spec
        self.name = backend()
        self.is_on_cpu = device is None or device.startswith("cpu")
        self.batch_size = batch_size or _BATCH_SIZE
        self._device = device
        with on_device(device):
            self._forward = _compiled(model)

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Embed batches; see `Engine.run`."""
        for batch in batches:
            yield self._embed(batch)

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        size = self.batch_size
        try:
            parts = [self._embed_one(batch[i : i + size]) for i in range(0, len(batch), size)]
        except Exception as error:  # each backend has its own
            if size == 1 or not any(sign in str(error).lower() for sign in _OUT_OF_MEMORY):
                raise
            self.batch_size = size // 2
            return self._embed(batch)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _embed_one(self, batch: np.ndarray) -> np.ndarray:
        """Embed a batch, filled up: compiled for one shape, no image depends on the others."""
        n = len(batch)
        if n < self.batch_size:
            filler = np.zeros((self.batch_size - n, *batch.shape[1:]), np.uint8)
            batch = np.concatenate([batch, filler])
        with on_device(self._device):
            return np.asarray(self._forward(batch), dtype=np.float32)[:n]


def _compiled(model: Any) -> Forward:
    """Compile the forward; on TensorFlow as a graph whose weights are constants.

    Batch norm is folded into the convolutions then, which Keras' own ``predict`` can't do, for it
    keeps the weights variable.
    """
    if backend() != "tensorflow":
        forward: Forward = model.predict_on_batch
        return forward
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    function = tf.function(lambda pixels: model(pixels, training=False))
    shape = (None, *model.input.shape[1:])
    graph = function.get_concrete_function(tf.TensorSpec(shape, tf.uint8))
    frozen = convert_to_constants.convert_variables_to_constants_v2(graph)
    return lambda batch: frozen(tf.constant(batch))[0].numpy()
