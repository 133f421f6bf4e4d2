"""What tests of tuning share: a network of a few layers, and photos whose colour is their label."""

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
from keras import layers
from PIL import Image
from test_backbones import settle

SIZE = 32
N_PHOTOS = 40
QUICK: dict[str, Any] = {
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "augment": "none",
}  # settings of a tuning that takes a second


def n_graphs() -> int:
    """Return how many graphs of TensorFlow this process keeps."""
    from tensorflow.python.framework.func_graph import FuncGraph

    gc.collect()
    return sum(type(one) is FuncGraph for one in gc.get_objects())


def convolution(tensor: Any, name: str, n_filters: int, strides: int = 1) -> Any:
    """Add a convolution with batch norm, named as Keras names those of MobileNetV2."""
    tensor = layers.Conv2D(
        n_filters, 3, strides, padding="same", use_bias=False, name=f"{name}_conv"
    )(tensor)
    tensor = layers.BatchNormalization(name=f"{name}_BN")(tensor)
    return layers.ReLU(name=f"{name}_relu")(tensor)


def small_network(size_px: int = SIZE) -> keras.Model:
    """Build a network of five blocks, one of them residual, that scales pixels itself."""
    inputs = keras.Input((size_px, size_px, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1, name="scaling")(inputs)
    x = convolution(x, "block_1", 4, strides=2)
    x = convolution(x, "block_2", 8, strides=2)
    shortcut = x
    x = convolution(x, "block_3_a", 8)
    x = layers.Add(name="block_3_add")([shortcut, convolution(x, "block_3_b", 8)])
    x = convolution(x, "block_4", 8, strides=2)
    x = convolution(x, "block_5", 6)
    return settle(keras.Model(inputs, layers.GlobalAveragePooling2D(name="pool")(x)))


def save_small_network(folder: Path, name: str = "small.keras") -> Path:
    """Save the network of a few layers, to be given as a backbone."""
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    small_network().save(folder / name)
    return folder / name


def write_photos(
    folder: Path, n: int = N_PHOTOS, n_classes: int = 2, per_group: int = 2, seed: int = 0
) -> pd.DataFrame:
    """Write noisy photos whose colour tells their class, and return a table of them.

    Returns
    -------
    DataFrame of shape (n, 4)
        ``image``, ``patient`` (``per_group`` photos each), ``label`` and ``value``.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    names, labels, values = [], [], []
    for number in range(n):
        label = number // per_group % n_classes
        value = 60 + 120 * label / max(1, n_classes - 1) + rng.uniform(-50, 50)
        pixels = rng.integers(0, 60, (SIZE, SIZE, 3))
        pixels[..., 0] += int(value)
        names.append(f"{number:03d}.png")
        save_pixels(folder / names[-1], pixels)
        labels.append(f"class_{label}")
        values.append(value)
    patients = [f"P{number // per_group}" for number in range(n)]
    return pd.DataFrame({"image": names, "patient": patients, "label": labels, "value": values})


def save_pixels(file: Path, pixels: Any) -> None:
    """Write a photo whose bytes no other has."""
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)


def arrays(weights: Sequence[Any]) -> list[np.ndarray]:
    """Return variables as arrays."""
    return [np.asarray(keras.ops.convert_to_numpy(weight)) for weight in weights]
