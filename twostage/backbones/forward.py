"""One compiled forward of a network on one device: a small function for each backend of Keras.

Each takes a network and a device and returns what starts a batch. Starting returns at once where
the backend computes asynchronously; what it returns waits for the embeddings and fetches them.
"""

import logging
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from twostage.backbones.network import backend, on_device
from twostage.errors import BackboneError

log = logging.getLogger("twostage")

Fetch = Callable[[], np.ndarray]
Start = Callable[[np.ndarray], Fetch]


def compile_forward(model: Any, device: str | None) -> Start:
    """Compile the forward of a network for a device.

    Parameters
    ----------
    model : keras.Model
        From uint8 pixels of shape (n, size, size, 3) to float32 embeddings of shape (n, dim).
    device : str or None
        As Keras names it ("cpu:0", "gpu:1"); None leaves the choice to the backend.

    Returns
    -------
    callable
        Takes uint8 pixels, which must stay as they are until their embeddings are fetched, and
        starts the computation. Compiled anew for each number of images. What it returns gives
        float32 embeddings of shape (n, dim).

    Raises
    ------
    BackboneError
        If Keras runs on something else.
    """
    compilers = {"tensorflow": _on_tensorflow, "jax": _on_jax, "torch": _on_torch}
    if backend() not in compilers:
        raise BackboneError(
            f"Keras runs on '{backend()}', which can't embed images here. Set KERAS_BACKEND to one "
            f"of {', '.join(compilers)}."
        )
    return compilers[backend()](model, device)


def _on_tensorflow(model: Any, device: str | None) -> Start:
    """Trace a graph. Batch norm is folded already: constant weights would only take memory."""
    import tensorflow as tf

    function = tf.function(lambda pixels: model(pixels, training=False))
    shape = (None, *model.input.shape[1:])
    with on_device(device):
        graph = function.get_concrete_function(tf.TensorSpec(shape, tf.uint8))

    def start(batch: np.ndarray) -> Fetch:
        with on_device(device):
            embeddings = graph(tf.constant(batch))
        fetch: Fetch = embeddings.numpy
        return fetch

    return start


def _on_jax(model: Any, device: str | None) -> Start:
    """Compile with XLA; the weights lie on the device, and are arguments."""
    import jax

    platform, _, number = (device or "").partition(":")
    where = jax.devices(platform)[int(number)] if device else jax.devices()[0]
    weights = jax.device_put(_values_of(model), where)

    def embed(weights: tuple[list[Any], list[Any]], pixels: Any) -> Any:
        return model.stateless_call(*weights, pixels, training=False)[0]

    forward = jax.jit(embed)

    def start(batch: np.ndarray) -> Fetch:
        embeddings = forward(weights, jax.device_put(batch, where))
        embeddings.copy_to_host_async()
        return lambda: np.asarray(embeddings)

    return start


def _on_torch(model: Any, device: str | None) -> Start:
    """Export the network to a plain graph, without Keras' work for each layer at each batch."""
    import torch

    where = torch.device(_torch_name(device))
    weights = [[value.detach().to(where) for value in group] for group in _values_of(model)]

    class Forward(torch.nn.Module):  # type: ignore[misc, unused-ignore]
        def forward(self, pixels: Any) -> Any:
            return model.stateless_call(*weights, pixels, training=False)[0]

    compiled: dict[int, Any] = {}  # by the number of images

    def start(batch: np.ndarray) -> Fetch:
        with torch.inference_mode(), on_device(device):
            pixels = torch.from_numpy(batch)
            if where.type == "cuda":
                pixels = pixels.pin_memory().to(where, non_blocking=True)
            if len(batch) not in compiled:
                compiled[len(batch)] = _exported(Forward().eval(), pixels)
            return _fetching(torch, compiled[len(batch)](pixels))

    return start


def _torch_name(device: str | None) -> str:
    if device is not None:
        return device.replace("gpu", "cuda")
    from keras.src.backend.torch.core import get_device

    return str(get_device())


def _exported(forward: Any, pixels: Any) -> Any:
    """Return the graph of a forward, or the forward itself where PyTorch can't export it."""
    import torch

    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            return torch.export.export(forward, (pixels.clone(),), strict=False).module()
    except Exception as error:  # it raises whatever its tracers do
        if is_out_of_memory(error):
            raise
        log.info("PyTorch can't export the network, and runs it layer by layer: %s", error)
        return forward


def _fetching(torch: Any, embeddings: Any) -> Fetch:
    """Start to copy embeddings to the host, and return what waits for them."""
    if embeddings.device.type != "cuda":
        return lambda: np.asarray(embeddings.numpy(force=True))
    host = torch.empty(embeddings.shape, dtype=embeddings.dtype, pin_memory=True)
    host.copy_(embeddings, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(embeddings.device))

    def fetch() -> np.ndarray:
        copied.synchronize()
        return np.array(host)  # a copy: pinned memory is scarce

    return fetch


def _values_of(model: Any) -> tuple[list[Any], list[Any]]:
    """Return the values of a network's variables, as `stateless_call` takes them."""
    trainable = [variable.value for variable in model.trainable_variables]
    return trainable, [variable.value for variable in model.non_trainable_variables]


_OUT_OF_MEMORY = ("resource_exhausted", "resource exhausted", "out of memory", "failed to allocate")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a backend's error says that memory does not suffice: each has its own."""
    return any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)
