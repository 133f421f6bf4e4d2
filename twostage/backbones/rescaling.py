"""Whether a network scales its pixels itself, told by what becomes of black and of white."""

from typing import Any

import numpy as np

from twostage.backbones.quiet_keras import keras
from twostage.backbones.unrolling import UnrolledNetwork

PixelRange = tuple[float, float]
AS_THEY_ARE: PixelRange = (0.0, 255.0)
_LARGEST_SCALED = 10.0  # standardised pixels stay within 3 or so
_LESS_THE_MEAN = ((-140.0, -90.0), (115.0, 165.0))


def range_of_pixels(network: UnrolledNetwork) -> PixelRange:
    """Return what the first layer that learns gets to see of pixels from 0 to 255."""
    first = next((call for call in network.calls if _learns(call.layer)), None)
    if first is None or first.inputs[0] is network.input:
        return AS_THEY_ARE
    before = keras.Model(network.input, first.inputs[0])
    shape = (1, *network.input.shape[1:])
    black, white = (_values(before, np.full(shape, value, np.float32)) for value in AS_THEY_ARE)
    return float(min(black.min(), white.min())), float(max(black.max(), white.max()))


def is_scaled(pixels: PixelRange) -> bool:
    """Whether these are pixels as networks want them: scaled to a few units, or less the mean.

    Pixels that come out larger were to be scaled before: the network's own layers expect others.
    """
    low, high = pixels
    if max(abs(low), abs(high)) <= _LARGEST_SCALED:
        return True
    (lowest, low_enough), (high_enough, highest) = _LESS_THE_MEAN
    return lowest <= low <= low_enough and high_enough <= high <= highest


def _learns(layer: Any) -> bool:
    return bool(getattr(layer, "weights", ())) and type(layer).__name__ != "Normalization"


def _values(model: Any, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)), np.float32)
