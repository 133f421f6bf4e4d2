"""Keras, imported here and nowhere else, with what native code says at its start muted."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from twostage.backbones.backend import prepare_backend

__all__ = ["keras", "muted_stderr"]


@contextmanager
def muted_stderr() -> Iterator[None]:
    """Drop what native code writes to standard error, if ``TF_CPP_MIN_LOG_LEVEL`` asks for it.

    Some of TensorFlow's start-up lines come before it heeds that variable.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "0") < "3":
        yield
        return
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


prepare_backend()
with muted_stderr():
    import keras

    if keras.backend.backend() == "tensorflow":
        import tensorflow  # noqa: F401  (it starts up here, inside the mute)

        # To trace each of several networks that are tuned is no mistake.
        log = logging.getLogger("tensorflow")
        log.addFilter(lambda record: "function retracing" not in record.getMessage())
