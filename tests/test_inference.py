"""A network as one forward needs it computes what it did before."""

from typing import Any

import keras
import numpy as np
import pytest

from twostage.backbones.inference import _calls_of, for_inference
from twostage.backbones.network import load_network
from twostage.backbones.spec import BackboneSettings
from twostage.errors import VariantError

layers = keras.layers


def pixels(n: int = 3, size_px: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), np.uint8)


def network_of(*stack: Any) -> keras.Model:
    """Return a network as backbones are: a nested trunk, weights that leave nothing without effect.

    A tuple among the layers stands for two branches that are added.
    """
    inputs = keras.Input((32, 32, 3))
    x = inputs
    for layer in stack:
        x = layer[1](layer[0](x)) + x if isinstance(layer, tuple) else layer(x)
    trunk = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    rng = np.random.default_rng(0)
    trunk.set_weights([rng.uniform(0.3, 1.2, w.shape) for w in trunk.get_weights()])
    image = keras.Input((32, 32, 3), dtype="uint8")
    values = keras.ops.cast(image, "float32") / 127.5 - 1.0
    return keras.Model(image, trunk(values, training=False))


def embed(network: keras.Model) -> np.ndarray:
    return np.asarray(network(pixels(), training=False))


def norms_in(network: keras.Model) -> int:
    used = [call.layer for call in _calls_of(network)]
    return sum(isinstance(layer, layers.BatchNormalization) for layer in used)


CASES = {
    "plain": ([layers.Conv2D(4, 3, use_bias=False), layers.BatchNormalization()], 0),
    "bias": ([layers.Conv2D(4, 3), layers.BatchNormalization(scale=False), layers.ReLU()], 0),
    "no_shift": ([layers.Conv2D(4, 3), layers.BatchNormalization(center=False)], 0),
    "depthwise": (
        [layers.DepthwiseConv2D(3, depth_multiplier=2), layers.BatchNormalization(epsilon=0.1)],
        0,
    ),
    "separable": (
        [layers.SeparableConv2D(5, 3, depth_multiplier=2), layers.BatchNormalization()],
        0,
    ),
    "activated": ([layers.Conv2D(4, 3, activation="relu"), layers.BatchNormalization()], 1),
    "first": ([layers.BatchNormalization(), layers.ReLU(), layers.Conv2D(4, 3)], 1),
    "padded": ([layers.Conv2D(4, 3), layers.ZeroPadding2D(), layers.BatchNormalization()], 1),
    "other_axis": ([layers.Conv2D(4, 3), layers.BatchNormalization(axis=1)], 1),
    "branch": ([layers.Conv2D(4, 3), (layers.BatchNormalization(), layers.ReLU())], 1),
    "twice": (
        [norm := layers.BatchNormalization(), layers.Conv2D(3, 1), norm],
        2,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_batch_norm_becomes_a_part_of_the_convolution_before_it_where_it_can(case: str) -> None:
    stack, n_left = CASES[case]
    network = network_of(*stack)
    before = embed(network)
    folded = for_inference(network, "float32")
    np.testing.assert_allclose(embed(folded), before, rtol=1e-5, atol=1e-6)
    assert norms_in(folded) == n_left
    np.testing.assert_array_equal(embed(network), before)  # the network itself stays as it was
    again = for_inference(network, "float32")  # and can be taken again
    assert norms_in(again) == n_left


@pytest.mark.parametrize(
    ("name", "n_left"), [("mobilenet_v2_035", 0), ("resnet50", 0), ("efficientnet_b0", 0)]
)
def test_no_batch_norm_is_left_of_a_real_network(name: str, n_left: int) -> None:
    network = load_network(BackboneSettings(name, weights="random", image_size=32))
    assert norms_in(for_inference(network.model, "float32")) == n_left


def policies(network: keras.Model) -> list[tuple[Any, str]]:
    used = [call.layer for call in _calls_of(network)]
    return [(layer, layer.compute_dtype) for layer in used if isinstance(layer, layers.Layer)]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_what_loses_the_most_stays_in_float32(precision: str) -> None:
    network = load_network(
        BackboneSettings("mobilenet_v2_035", weights="random", image_size=32)
    ).model
    used = policies(for_inference(network, precision))
    dense = [dtype for layer, dtype in used if type(layer) is layers.Conv2D]
    depthwise = [dtype for layer, dtype in used if isinstance(layer, layers.DepthwiseConv2D)]
    if precision == "bfloat16":
        for kind in (dense, depthwise):
            assert kind[:3] == ["float32"] * 3
            assert set(kind[3:]) == {"bfloat16"}
    else:
        assert set(dense) | set(depthwise) == {"float16"}
    assert used[-1][1] == "float32"
    assert for_inference(network, precision).output.dtype == "float32"
    assert {dtype for _, dtype in policies(network)} == {"float32"}


def test_pixels_are_scaled_in_float32() -> None:
    network = load_network(BackboneSettings("efficientnet_b0", weights="random", image_size=32))
    used = policies(for_inference(network.model, "float16"))
    scaling = (layers.Rescaling, layers.Normalization)
    assert {dtype for layer, dtype in used if isinstance(layer, scaling)} == {"float32"}


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_reduced_precision_is_that_and_close(precision: str) -> None:
    network = network_of(
        layers.Normalization(),
        layers.Conv2D(8, 3),
        layers.BatchNormalization(),
        layers.ReLU(),
        layers.Conv2D(8, 3),
    )
    full, reduced = embed(network), embed(for_inference(network, precision))
    assert reduced.dtype == np.float32
    difference = np.linalg.norm(reduced - full, axis=1) / np.linalg.norm(full, axis=1)
    assert (difference < 0.02).all()
    assert (difference > 1e-6).all()


def test_a_layer_that_can_not_be_made_anew_is_named() -> None:
    class Special(layers.Layer):
        def __init__(self, secret: int):
            super().__init__(name="special")
            self.secret = secret

        def call(self, inputs: Any) -> Any:
            return inputs * self.secret

    network = network_of(layers.Conv2D(4, 3), Special(2), layers.ReLU())
    assert for_inference(network, "float32").output.shape == (None, 4)
    with pytest.raises(VariantError, match=r"--precision bfloat16: the layer 'special' can't be"):
        for_inference(network, "bfloat16")
