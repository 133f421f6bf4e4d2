"""Activations of the frozen part of a network, computed once and kept on disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from twostage.backbones.forward import compile_forward
from twostage.backbones.network import preprocessed
from twostage.backbones.quiet_keras import keras
from twostage.training.augmentation import augmentation_layers
from twostage.training.data import array_on_disk, in_batches
from twostage.training.folding import with_norms_folded
from twostage.training.settings import TuningSettings

Progress = Callable[[int, int], None]
_LARGEST_HALF = 3e4  # of float16 65,504


def frozen_activations(
    frozen: Any,
    preprocessing: str,
    pixels: np.ndarray,
    train: np.ndarray,
    validation: np.ndarray,
    how: TuningSettings,
    workspace: Path,
    progress: Progress | None = None,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Compute what enters the trained part.

    Parameters
    ----------
    frozen : keras.Model
        From preprocessed pixels to activations.
    preprocessing : str
        What is done to pixels first.
    pixels : uint8 array of shape (n, size, size, 3)
        Of all images.
    train, validation : int arrays
        Which of them are trained on, and judged by.
    how : TuningSettings
        How many copies, and how they are changed.
    workspace : path
        Where the arrays are kept.
    progress : callable, optional
        Called with the number of images done and to do.

    Returns
    -------
    looks : list of arrays of shape (n_train, ...)
        Of each copy, augmented; of one, as they are, if nothing is to be changed.
    plain : array of shape (n_validation, ...)
        As they are.
    """
    shape = pixels.shape[1:]
    layers = augmentation_layers(how.augment, randaugment=how.randaugment, seed=how.random_state)
    plainly = compile_forward(_model(frozen, preprocessing, shape, []), None)
    changed = _model(with_norms_folded(frozen), preprocessing, shape, layers)
    n_looks = (how.copies or 1) if layers else 1
    total, done = n_looks * len(train) + len(validation), 0

    def computed(forward: Callable[[np.ndarray], np.ndarray], rows: np.ndarray) -> Iterator[Any]:
        nonlocal done
        for batch in in_batches(pixels, rows, how.batch_size):
            yield forward(batch)
            done += len(batch)
            if progress is not None:
                progress(done, total)

    plain = _kept(
        workspace / "plain", computed(lambda b: plainly(b)(), validation), len(validation)
    )
    looks = []
    for number in range(n_looks):
        forward = changed.predict_on_batch if layers else lambda b: plainly(b)()
        looks.append(_kept(workspace / f"look_{number}", computed(forward, train), len(train)))
    return looks, plain


class _Changing(keras.layers.Layer):
    """Augmentation that changes images whether its model is trained or not."""

    def __init__(self, layers: list[Any]):
        super().__init__()
        self.changes = layers

    def call(self, values: Any) -> Any:
        """Apply the layers in turn."""
        for layer in self.changes:
            values = layer(values, training=True)
        return values


def _model(frozen: Any, preprocessing: str, shape: tuple[int, ...], layers: list[Any]) -> Any:
    """Return the model from uint8 pixels to activations."""
    pixels = keras.Input(shape, dtype="uint8")
    values = keras.ops.cast(pixels, "float32")
    if layers:
        values = _Changing(layers)(values)
    return keras.Model(pixels, frozen(preprocessed(values, preprocessing)))


def _kept(file: Path, batches: Iterator[Any], n: int) -> np.ndarray:
    """Keep batches in an array on disk, in float16 where that does not overflow."""
    array, start = np.empty(0), 0
    for batch in batches:
        values = np.asarray(batch)
        if start == 0:
            is_small = np.abs(values).max(initial=0) < _LARGEST_HALF / 10
            dtype = np.float16 if is_small else np.float32
            array = array_on_disk(file, (n, *values.shape[1:]), dtype)
        if array.dtype == np.float16:
            values = values.clip(-_LARGEST_HALF, _LARGEST_HALF)
        array[start : start + len(values)] = values
        start += len(values)
    return array
