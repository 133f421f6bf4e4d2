"""Which backend Keras runs on, decided before Keras is imported, and how much it grabs."""

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from twostage.errors import BackboneError

BACKENDS = ("tensorflow", "jax", "torch")


def prepare_backend() -> None:
    """Set what Keras and its backend read from the environment at their start.

    Keras takes TensorFlow where nothing is said, whether it is installed or not: we take what is
    installed. JAX takes three quarters of a GPU's memory at once, unless it is told not to.

    Raises
    ------
    BackboneError
        If Keras has no backend to run on, or not the one that ``KERAS_BACKEND`` asks for.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if "keras" in sys.modules:
        return
    asked = os.environ.get("KERAS_BACKEND")
    if asked and asked in BACKENDS and find_spec(asked) is None:
        raise BackboneError(
            f"KERAS_BACKEND is '{asked}', which is not installed. Install it with pip install "
            f"{asked}, or set KERAS_BACKEND to another of {', '.join(BACKENDS)}."
        )
    if asked:
        return
    installed = [name for name in (_configured(), *BACKENDS) if find_spec(name) is not None]
    if not installed:
        raise BackboneError(
            "Keras has nothing to run on: none of TensorFlow, JAX and PyTorch is installed. "
            "Install one, with pip install tensorflow say."
        )
    os.environ["KERAS_BACKEND"] = installed[0]


def current_backend() -> str:
    """Return what Keras runs on, or will once it is imported.

    Raises
    ------
    BackboneError
        As `prepare_backend` does.
    """
    if "keras" in sys.modules:
        return str(sys.modules["keras"].backend.backend())
    prepare_backend()
    return os.environ["KERAS_BACKEND"]


def _configured() -> str:
    """Return the backend that Keras' configuration file names: its default, if there is none."""
    home = Path(os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser())
    try:
        return str(json.loads((home / "keras.json").read_text())["backend"])
    except (OSError, ValueError, KeyError, TypeError):
        return BACKENDS[0]
