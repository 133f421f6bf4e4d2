"""Which devices a backbone runs on, and why not the GPU where there is one it can't use."""

import os
import re
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import joblib

from twostage.backbones.backend import prepare_backend
from twostage.errors import BackboneError

DEVICES = ("auto", "cpu", "gpu")
_INSTALL = {
    "tensorflow": "pip install 'twostage[gpu]'",
    "jax": "pip install 'jax[cuda12]'",
    "torch": "install a CUDA build of PyTorch",
}


@dataclass(frozen=True)
class Gpu:
    """A GPU that the backend can use.

    Attributes
    ----------
    name : str
        As its maker names it.
    capability : tuple of int or None
        CUDA's compute capability, major and minor; None if it has none or does not tell.
    """

    name: str
    capability: tuple[int, int] | None = None


@dataclass(frozen=True)
class Device:
    """Where the backbone runs.

    Attributes
    ----------
    names : tuple of str
        As Keras names them: "cpu:0", or "gpu:0", "gpu:1" and so on.
    description : str
        For people, with the reason why it is not the GPU if there is one.
    capability : tuple of int or None
        The least CUDA compute capability of the GPUs, major and minor; None where one has none.
    """

    names: tuple[str, ...]
    description: str
    capability: tuple[int, int] | None = None

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, or several."""
        return self.names[0].startswith("gpu")


def choose_device(requested: str) -> Device:
    """Choose the device to run on.

    Parameters
    ----------
    requested : {"auto", "cpu", "gpu"}
        "auto" takes the GPUs if the backend can use any: all of them.

    Raises
    ------
    BackboneError
        If a GPU is requested and the backend can't use one.
    """
    cpu = f"CPU, {joblib.cpu_count()} cores"
    if requested == "cpu" or (requested == "auto" and not _may_have_gpu()):
        return Device(("cpu:0",), cpu)  # without Keras, which takes seconds to start
    prepare_backend()
    import keras

    backend = keras.backend.backend()
    gpus = _gpus_of(backend)
    if gpus:
        names = tuple(f"gpu:{i}" for i in range(len(gpus)))
        return Device(names, _described(gpus), _least_capability(gpus))
    why_not = _why_no_gpu(backend)
    if requested == "gpu":
        raise BackboneError(
            f"--device gpu: {why_not or 'this machine has no NVIDIA GPU'}. Use --device cpu."
        )
    return Device(("cpu:0",), cpu if why_not is None else f"{cpu} ({why_not})")


def _described(gpus: Sequence[Gpu]) -> str:
    names = ", ".join(dict.fromkeys(gpu.name for gpu in gpus))
    return f"GPU {names}" if len(gpus) == 1 else f"{len(gpus)} GPUs {names}"


def _least_capability(gpus: Sequence[Gpu]) -> tuple[int, int] | None:
    """Return what all of them have: they compute in the same precision."""
    found = [gpu.capability for gpu in gpus]
    known = [capability for capability in found if capability is not None]
    return min(known) if len(known) == len(found) else None


def _gpus_of(backend: str) -> list[Gpu]:
    found = {"tensorflow": _tensorflow_gpus, "jax": _jax_gpus, "torch": _torch_gpus}
    return found[backend]() if backend in found else []


def _tensorflow_gpus() -> list[Gpu]:
    """Return TensorFlow's GPUs, told to take memory as it is needed, not all of it at once."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        with suppress(RuntimeError, ValueError):  # it is in use already, or divided
            tf.config.experimental.set_memory_growth(gpu, True)
    found = [(gpu.name, tf.config.experimental.get_device_details(gpu)) for gpu in gpus]
    return [
        Gpu(str(details.get("device_name", name)), details.get("compute_capability"))
        for name, details in found
    ]


def _jax_gpus() -> list[Gpu]:
    import jax

    gpus = [device for device in jax.local_devices() if device.platform == "gpu"]
    return [Gpu(gpu.device_kind, _parsed(getattr(gpu, "compute_capability", None))) for gpu in gpus]


def _torch_gpus() -> list[Gpu]:
    import torch

    is_cuda = torch.version.cuda is not None  # the numbers of AMD's mean something else
    return [
        Gpu(
            torch.cuda.get_device_name(i),
            torch.cuda.get_device_capability(i) if is_cuda else None,
        )
        for i in range(torch.cuda.device_count())
    ]


def _parsed(capability: object) -> tuple[int, int] | None:
    """Return "8.6" as numbers; None for what is none of CUDA's."""
    found = re.fullmatch(r"(\d+)\.(\d+)", str(capability))
    return (int(found[1]), int(found[2])) if found else None


def _why_no_gpu(backend: str) -> str | None:
    """Say why an NVIDIA GPU of this machine is not used; None if there is none."""
    if not _has_nvidia_gpu():
        return None
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return "an NVIDIA GPU is here, but CUDA_VISIBLE_DEVICES hides it"
    install = _INSTALL.get(backend, "use another Keras backend")
    return f"an NVIDIA GPU is here, but {backend} can't use it: {install}"


def _may_have_gpu() -> bool:
    """Whether the machine has something that a backend may know how to use."""
    return _has_nvidia_gpu() or Path("/dev/kfd").exists() or sys.platform == "darwin"


def _has_nvidia_gpu() -> bool:
    return Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
