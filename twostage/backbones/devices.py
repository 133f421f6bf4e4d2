"""Which device a backbone runs on, and why not the GPU where there is one it can't use."""

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib

from twostage.errors import BackboneError

DEVICES = ("auto", "cpu", "gpu")
_INSTALL = {
    "tensorflow": "pip install 'twostage[gpu]'",
    "jax": "pip install 'jax[cuda12]'",
    "torch": "install a CUDA build of PyTorch",
}


@dataclass(frozen=True)
class Device:
    """Where the backbone runs.

    Attributes
    ----------
    name : str
        As Keras names it: "cpu:0" or "gpu:0".
    description : str
        For people, with the reason why it is not the GPU if there is one.
    """

    name: str
    description: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name.startswith("gpu")


def choose_device(requested: str) -> Device:
    """Choose the device to run on.

    Parameters
    ----------
    requested : {"auto", "cpu", "gpu"}
        "auto" takes the GPU if the backend can use one.

    Raises
    ------
    BackboneError
        If a GPU is requested and the backend can't use one.
    """
    cpu = f"CPU, {joblib.cpu_count()} cores"
    if requested == "cpu" or (requested == "auto" and not _may_have_gpu()):
        return Device("cpu:0", cpu)  # without Keras, which takes seconds to start
    import keras

    backend = keras.backend.backend()
    gpus = _gpus_of(backend)
    if gpus:
        return Device("gpu:0", f"GPU {gpus[0]}")
    why_not = _why_no_gpu(backend)
    if requested == "gpu":
        raise BackboneError(
            f"--device gpu: {why_not or 'this machine has no NVIDIA GPU'}. Use --device cpu."
        )
    return Device("cpu:0", cpu if why_not is None else f"{cpu} ({why_not})")


def _gpus_of(backend: str) -> list[str]:
    if backend == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        return [_tensorflow_name(tf, gpu) for gpu in gpus]
    if backend == "jax":
        import jax  # type: ignore[import-not-found, unused-ignore]

        return [gpu.device_kind for gpu in jax.devices() if gpu.platform == "gpu"]
    if backend == "torch":
        import torch  # type: ignore[import-not-found, unused-ignore]

        return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return []


def _tensorflow_name(tf: Any, gpu: Any) -> str:
    return str(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name))


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
