"""A network in blocks: all weights are in one, and it may be frozen before each."""

from collections import Counter
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from test_backbones import settle
from tuning import SIZE, arrays, convolution, small_network

from twostage.backbones.network import load_trunk
from twostage.backbones.spec import BackboneSettings
from twostage.errors import UsageError
from twostage.training.blocks import BlockedNetwork


def mobilenet() -> keras.Model:
    settings = BackboneSettings("mobilenet_v2_035", "random", image_size=SIZE)
    return settle(load_trunk(settings).model)


def like_resnet() -> keras.Model:
    """Build two stages of residual blocks, named as Keras names those of ResNet50."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", name="conv1_conv")(inputs)
    x = layers.BatchNormalization(name="conv1_bn")(x)
    for stage in (2, 3):
        for block in (1, 2):
            name = f"conv{stage}_block{block}"
            shortcut = x
            for step in (1, 2):
                x = layers.Conv2D(4, 3, padding="same", name=f"{name}_{step}_conv")(x)
                x = layers.BatchNormalization(name=f"{name}_{step}_bn")(x)
            x = layers.Add(name=f"{name}_add")([shortcut, x])
    return settle(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))


def nested() -> keras.Model:
    """Build a network within a network, with a layer outside that is named as one inside."""
    inputs = keras.Input((SIZE, SIZE, 3))
    base_input = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, name="convolve")(base_input)
    base = keras.Model(base_input, layers.BatchNormalization(name="norm")(x), name="base")
    x = layers.Conv2D(6, 3, name="convolve")(base(inputs))
    x = layers.BatchNormalization(name="norm")(x)
    return settle(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))


def one_layer_twice() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    shared = layers.Conv2D(3, 3, padding="same", name="shared")
    x = shared(layers.Conv2D(3, 3, name="first")(inputs))
    x = layers.Conv2D(3, 3, name="between")(shared(x))
    return settle(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))


def without_names() -> keras.Model:
    """Build a network whose layers Keras named, by counting."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3)(inputs)))
    x = layers.Flatten()(layers.PReLU()(layers.Conv2D(5, 3)(x)))
    return settle(keras.Model(inputs, layers.Dense(7)(x)))


NETWORKS = [small_network, like_resnet, nested, one_layer_twice, without_names, mobilenet]


def pixels() -> Any:
    return np.random.default_rng(0).uniform(-1, 1, (2, SIZE, SIZE, 3)).astype(np.float32)


def computed(model: keras.Model, values: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(values, training=False)))


def layer_names(network: BlockedNetwork) -> list[list[str]]:
    return [[layer.name for layer in block.layers] for block in network.blocks]


@pytest.mark.parametrize("build", NETWORKS)
def test_every_weight_is_in_one_block(build: Any) -> None:
    model = build()
    network = BlockedNetwork(model)
    found = Counter(
        id(weight) for block in network.blocks for layer in block.layers for weight in layer.weights
    )
    assert set(found.values()) == {1}
    assert set(found) == {id(weight) for weight in model.weights}


@pytest.mark.parametrize("build", NETWORKS)
def test_a_frozen_and_a_trained_part_make_the_network_at_every_block(build: Any) -> None:
    model = build()
    network = BlockedNetwork(model)
    whole = computed(model, pixels())
    assert np.ptp(whole) > 1e-3
    steps = range(len(network.blocks)) if build is not mobilenet else (0, 1, 9, 17)
    for first in steps:
        entering = computed(network.frozen_part(first), pixels())
        composed = computed(network.trained_part(first), entering)
        np.testing.assert_allclose(composed, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("build", NETWORKS)
def test_the_trained_part_holds_the_weights_of_its_blocks_alone(build: Any) -> None:
    network = BlockedNetwork(build())
    for first in range(len(network.blocks)):
        wanted = {
            id(w)
            for block in network.blocks[first:]
            for layer in block.layers
            for w in layer.weights
        }
        found = {id(weight) for weight in network.trained_part(first).weights}
        assert wanted <= found
        if build is not one_layer_twice:
            assert wanted == found


def test_the_blocks_of_mobilenet_bear_the_names_of_its_layers() -> None:
    names = [block.name for block in BlockedNetwork(mobilenet()).blocks]
    assert names[:3] == ["Conv1", "expanded_conv", "block_1"]
    assert [name for name in names if name.startswith("block_")] == [
        f"block_{number}" for number in range(1, 17)
    ]
    assert len(set(names)) == len(names)


def test_a_block_of_mobilenet_is_one_inverted_residual() -> None:
    network = BlockedNetwork(mobilenet())
    for block in network.blocks:
        if block.name.startswith("block_"):
            assert all(layer.name.startswith(f"{block.name}_") for layer in block.layers)
            assert len(block.layers) == 6  # three convolutions with their norms


def test_the_blocks_of_a_resnet_bear_the_names_of_its_layers() -> None:
    network = BlockedNetwork(like_resnet())
    assert [block.name for block in network.blocks] == [
        "conv1",
        "conv2_block1",
        "conv2_block2",
        "conv3_block1",
        "conv3_block2",
    ]


def test_a_residual_block_is_not_cut() -> None:
    network = BlockedNetwork(small_network())
    assert [block.name for block in network.blocks] == [f"block_{i}" for i in range(1, 6)]
    assert layer_names(network)[2] == [
        "block_3_a_conv",
        "block_3_a_BN",
        "block_3_b_conv",
        "block_3_b_BN",
    ]


def test_branches_without_names_that_meet_are_one_block() -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    left = layers.Conv2D(4, 3, padding="same", name="left")(x)
    right = layers.Conv2D(4, 1, padding="same", name="right")(x)
    x = layers.Conv2D(5, 3, name="last")(layers.Concatenate()([left, right]))
    network = BlockedNetwork(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    assert layer_names(network) == [["stem"], ["left", "right"], ["last"]]


def test_a_layer_that_is_used_twice_is_in_a_block_with_what_is_between() -> None:
    network = BlockedNetwork(one_layer_twice())
    assert ["shared" in names for names in layer_names(network)].count(True) == 1


def test_the_cut_is_where_the_least_has_to_be_kept() -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = convolution(inputs, "block_1", 8)
    x = layers.MaxPooling2D(4)(x)
    x = convolution(x, "block_2", 4)
    network = BlockedNetwork(keras.Model(inputs, layers.GlobalAveragePooling2D()(x)))
    assert tuple(network.blocks[1].entry.shape[1:]) == (8, 8, 8)


@pytest.mark.parametrize(
    ("unfreeze", "first"),
    [
        ("all", 0),
        (1, 4),
        ("2", 3),
        (5, 0),
        ("block_3", 2),
        ("block_3_b_conv", 2),
        ("block_5_BN", 4),
    ],
)
def test_what_is_trained_is_given_by_number_or_by_name(unfreeze: Any, first: int) -> None:
    assert BlockedNetwork(small_network()).first_trained(unfreeze) == first


@pytest.mark.parametrize("unfreeze", [0, 6, "60"])
def test_a_number_of_blocks_that_are_not_there_is_refused(unfreeze: Any) -> None:
    with pytest.raises(UsageError, match=f"has 5 blocks; asked to train {unfreeze}.*'block_5'"):
        BlockedNetwork(small_network()).first_trained(unfreeze)


@pytest.mark.parametrize(
    ("unfreeze", "said"),
    [
        ("blok_4", "no block 'blok_4'. Did you mean 'block_4'.*last ones are 'block_1'"),
        ("-1", "no block '-1'"),
        ("", "no block ''"),
    ],
)
def test_an_unknown_block_is_refused_with_the_nearest_name(unfreeze: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BlockedNetwork(small_network()).first_trained(unfreeze)


def test_the_weights_of_the_blocks_are_those_of_the_network() -> None:
    model = small_network()
    network = BlockedNetwork(model)
    network.blocks[0].layers[0].set_weights([np.zeros((3, 3, 3, 4), np.float32)])
    assert any(not array.any() for array in arrays(model.weights) if array.ndim == 4)
