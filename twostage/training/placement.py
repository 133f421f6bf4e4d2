"""Where a network is trained, and in which precision: on all GPUs there are, or on one device."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from twostage.backbones.devices import Device
from twostage.backbones.network import backend, on_device
from twostage.backbones.quiet_keras import keras
from twostage.backbones.spec import AUTO
from twostage.errors import UsageError

# CUDA compute capability from which a GPU is faster in it than in float32.
_LEAST_CAPABILITY = {"bfloat16": (8, 0), "float16": (7, 0)}


class Placement:
    """The devices that share the images of each step.

    Parameters
    ----------
    devices : sequence of str
        As Keras names them ("cpu:0", "gpu:1"). Several hold the same weights, and each computes a
        part of a batch: by a mirrored strategy on TensorFlow, by Keras' own distribution on JAX.
        On PyTorch, for which Keras has none, the first one does all.
    """

    def __init__(self, devices: tuple[str, ...]):
        names = devices if backend() in ("tensorflow", "jax") else devices[:1]
        self.n_devices = len(names)
        self._first = names[0]
        self._shared = _shared_by(names) if len(names) > 1 else None

    def scope(self) -> AbstractContextManager[Any]:
        """Return the scope to build a network in, and to train it."""
        if self._shared is not None:
            shared: AbstractContextManager[Any] = self._shared.scope()
            return shared
        return on_device(self._first) if self._first.startswith("cpu") else nullcontext()


def _shared_by(names: tuple[str, ...]) -> Any:
    if backend() == "jax":
        return keras.distribution.DataParallel(devices=list(names))
    import tensorflow as tf

    return tf.distribute.MirroredStrategy([name.upper() for name in names])


def training_precision(asked: str, device: Device) -> str:
    """Return what a network is trained in.

    Parameters
    ----------
    asked : {"auto", "float32", "bfloat16", "float16"}
        "auto" takes bfloat16, or else float16, on GPUs that are faster in it.
    device : Device
        Where.

    Raises
    ------
    UsageError
        If the device does not have it.
    """
    if asked == "float32":
        return asked
    has = [
        name for name, least in _LEAST_CAPABILITY.items() if (device.capability or (0, 0)) >= least
    ]
    if asked == AUTO:
        return has[0] if has else "float32"
    if asked not in has:
        others = " or ".join([*has, "float32"])
        raise UsageError(
            f"--precision {asked}: training in it takes a GPU of CUDA compute capability "
            f"{_LEAST_CAPABILITY[asked][0]}.{_LEAST_CAPABILITY[asked][1]} or above; it runs on "
            f"{device.description}. Use --precision {others}."
        )
    return asked


@contextmanager
def in_precision(network: Any, precision: str) -> Iterator[None]:
    """Let the layers of a network compute in a precision; their weights stay in float32.

    Parameters
    ----------
    network : keras.Model
        Its last layer, which makes the embedding, stays in float32.
    precision : {"float32", "bfloat16", "float16"}
        What.

    References
    ----------
    Micikevicius et al. (2018), Mixed Precision Training.
    """
    before = [(layer, layer.dtype_policy) for layer in network.layers[:-1]]
    if precision != "float32":
        for layer, _ in before:
            layer.dtype_policy = f"mixed_{precision}"
    try:
        yield
    finally:
        for layer, policy in before:
            layer.dtype_policy = policy


def padded(batch: np.ndarray, multiple: int) -> np.ndarray:
    """Return a batch whose last row is repeated until devices can share it.

    Parameters
    ----------
    batch : array of shape (n, ...)
        At least one row.
    multiple : int
        What the rows are to be a multiple of.
    """
    rest = -len(batch) % multiple
    return np.concatenate([batch, np.repeat(batch[-1:], rest, axis=0)]) if rest else batch


def shared_size(size: int, n_devices: int) -> int:
    """Return the size of a batch that devices share equally: that, or a little less."""
    return max(size // n_devices, 1) * n_devices
