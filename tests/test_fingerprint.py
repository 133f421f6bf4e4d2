"""Digests: of bytes, files, JSON and weights."""

import json

import numpy as np
import pytest

from twostage.fingerprint import hash_bytes, hash_file, hash_json, hash_weights

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_hash_bytes_is_blake2b_of_16_bytes():
    assert hash_bytes(b"") == "cae66941d9efbd404e4d88758ea67670"


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_hash_of_a_file_is_that_of_its_bytes_whatever_its_size(tmp_path, size):
    data = bytes(range(256)) * (size // 256) + b"\xff" * (size % 256)
    file = tmp_path / "data"
    file.write_bytes(data)
    assert hash_file(file) == hash_bytes(data)


def test_hash_json_ignores_the_order_of_keys_at_every_depth():
    text = '{"a": {"x": 1, "y": [1, 2]}, "b": null}'
    turned = '{"b": null, "a": {"y": [1, 2], "x": 1}}'
    assert hash_json(json.loads(text)) == hash_json(json.loads(turned))


@pytest.mark.parametrize("other", [{"a": [2, 1]}, {"a": ["1", 2]}, {"b": [1, 2]}, {"a": [1, 2, 3]}])
def test_hash_json_tells_values_apart(other):
    assert hash_json({"a": [1, 2]}) != hash_json(other)


@pytest.mark.parametrize(
    "other",
    [
        [("stem/bias", KERNEL)],
        [("stem/kernel", KERNEL.reshape(3, 2))],
        [("stem/kernel", KERNEL.astype(np.float64))],
        [("stem/kernel", KERNEL.view(np.int32))],
        [("stem/kernel", KERNEL + 1e-3)],
        [("stem/kernel", KERNEL), ("stem/kernel", KERNEL)],
        [],
    ],
    ids=["path", "shape", "dtype", "type of equal bytes", "values", "number", "none"],
)
def test_hash_weights_tells_apart(other):
    assert hash_weights([("stem/kernel", KERNEL)]) != hash_weights(other)


def test_hash_weights_tells_orders_apart():
    first, second = ("a/kernel", KERNEL), ("b/kernel", KERNEL + 1)
    assert hash_weights([first, second]) != hash_weights([second, first])


@pytest.mark.parametrize("path", ["normalization_1/mean", "normalization_12/mean_3"])
def test_hash_weights_leaves_automatic_counters_out(path):
    assert hash_weights([(path, KERNEL)]) == hash_weights([("normalization/mean", KERNEL)])


def test_hash_weights_keeps_numbers_inside_a_name():
    assert hash_weights([("conv_1_bn/beta", KERNEL)]) != hash_weights([("conv_bn/beta", KERNEL)])


def test_hash_weights_ignores_the_layout_in_memory():
    assert hash_weights([("k", np.asfortranarray(KERNEL))]) == hash_weights([("k", KERNEL)])
