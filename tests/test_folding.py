"""Batch norm inside the convolutions of a network that is trained."""

import keras
import numpy as np
import pytest
from keras import layers
from tuning import arrays

from twostage.training.folding import NormedConvolution, with_norms_folded
from twostage.training.trainer import InInference

NORMED = {
    "convolution": lambda: (layers.Conv2D(6, 3, 2), layers.BatchNormalization()),
    "no bias": lambda: (layers.Conv2D(6, 1, use_bias=False), layers.BatchNormalization()),
    "depthwise": lambda: (
        layers.DepthwiseConv2D(3, depth_multiplier=2, use_bias=False),
        layers.BatchNormalization(epsilon=0.1),
    ),
    "separable": lambda: (layers.SeparableConv2D(5, 3), layers.BatchNormalization(center=False)),
    "no scale": lambda: (layers.Conv2D(6, 3), layers.BatchNormalization(scale=False)),
}


def network(kind: str) -> keras.Model:
    given = keras.Input((9, 9, 4))
    convolution, norm = NORMED[kind]()
    values = layers.Conv2D(4, 3)(given)
    values = layers.ReLU()(norm(convolution(values)))
    model = keras.Model(given, layers.GlobalAveragePooling2D()(values))
    rng = np.random.default_rng(1)
    model.set_weights([rng.uniform(0.2, 1.5, weight.shape) for weight in model.get_weights()])
    norm.trainable = False
    return model


def trained(model: keras.Model, part: keras.Model) -> list[np.ndarray]:
    """Return the weights of a network after two steps of descent."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(8, 9, 9, 4)).astype(np.float32)
    y = rng.normal(size=(8, *model.output.shape[1:])).astype(np.float32)
    given = keras.Input(x.shape[1:])
    whole = keras.Model(given, InInference(part)(given))
    whole.compile(keras.optimizers.SGD(0.01), "mse")
    whole.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    return arrays(model.weights)


@pytest.mark.parametrize("kind", NORMED)
def test_a_network_folded_learns_what_it_would_learn_unfolded(kind: str) -> None:
    plain, model = network(kind), network(kind)
    folded = with_norms_folded(model)
    assert sum(isinstance(layer, NormedConvolution) for layer in folded.layers) == 1
    assert not any(isinstance(layer, layers.BatchNormalization) for layer in folded.layers)
    before = arrays(plain.weights)
    wanted, found = trained(plain, plain), trained(model, folded)
    assert any(not np.array_equal(a, b) for a, b in zip(before, wanted, strict=True))
    for a, b in zip(wanted, found, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-4, atol=1e-5)


def test_a_norm_that_others_use_too_stays() -> None:
    given = keras.Input((9, 9, 4))
    values = layers.Conv2D(4, 1)(given)
    model = keras.Model(given, layers.Add()([layers.BatchNormalization()(values), values]))
    folded = with_norms_folded(model)
    assert [type(layer).__name__ for layer in folded.layers][2] == "BatchNormalization"
