"""Where a network is trained and in which precision: several devices do what one does."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from tuning import arrays, small_network

from twostage.backbones.devices import Device
from twostage.errors import UsageError
from twostage.training.blocks import BlockedNetwork
from twostage.training.data import Examples
from twostage.training.placement import (
    Placement,
    in_precision,
    padded,
    shared_size,
    training_precision,
)
from twostage.training.settings import TuningSettings
from twostage.training.standing import DenseTop
from twostage.training.top import LinearTop
from twostage.training.trainer import Trainer

CPU = Device(("cpu:0",), "CPU, 2 cores")
N = 24


def gpu(*capability: int) -> Device:
    return Device(("gpu:0",), "GPU of a kind", (capability[0], capability[1]))


@pytest.mark.parametrize(
    ("device", "expected"),
    [(CPU, "float32"), (gpu(6, 1), "float32"), (gpu(7, 5), "float16"), (gpu(8, 0), "bfloat16")],
)
def test_auto_takes_what_the_device_is_faster_in(device: Device, expected: str) -> None:
    assert training_precision("auto", device) == expected
    assert training_precision("float32", device) == "float32"


def test_a_precision_that_the_device_has_not_is_refused() -> None:
    with pytest.raises(UsageError, match=r"bfloat16: .*8\.0 or above; it runs on CPU, 2 cores\. "):
        training_precision("bfloat16", CPU)
    with pytest.raises(UsageError, match=r"GPU of a kind\. Use --precision float16 or float32\."):
        training_precision("bfloat16", gpu(7, 0))
    assert training_precision("float16", gpu(9, 0)) == "float16"


def trained(precision: str) -> tuple[keras.Model, Trainer, float]:
    """Train a small network for an epoch; return it, what trained it, and the loss."""
    keras.utils.set_random_seed(0)
    model = small_network()
    how = TuningSettings(
        batch_size=8, learning_rate=1e-3, augment="none", dropout=0.0, precision=precision
    )
    rng = np.random.default_rng(0)
    top = LinearTop(rng.normal(size=(6, 2)).astype(np.float32), np.zeros(2, np.float32))
    trainer = Trainer(
        BlockedNetwork(model),
        0,
        "none",
        DenseTop(top),
        is_classification=True,
        settings=how,
        n_rows=N,
    )
    pixels = rng.integers(0, 256, (N, *model.input.shape[1:]), np.uint8)
    y = np.eye(2, dtype=np.float32)[np.arange(N) % 2]
    with in_precision(trainer.part, precision):
        record = trainer.run_epoch(0, Examples(pixels, np.arange(N), y, np.ones(N, np.float32)))
        trainer.restore(trainer.state())
    return model, trainer, record.loss


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_mixed_precision_trains_the_same_weights_in_float32(precision: str) -> None:
    model, trainer, loss = trained(precision)
    expected, _, expected_loss = trained("float32")
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    assert {layer.dtype_policy.name for layer in trainer.part.layers} == {"float32"}
    assert loss == pytest.approx(expected_loss, rel=0.05)
    assert loss != expected_loss
    before = arrays(small_weights())
    for start, one, other in zip(
        before, arrays(model.weights), arrays(expected.weights), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=5e-3)
        assert (one != start).any() == (other != start).any()
    is_scaled = isinstance(trainer.model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert is_scaled == (precision == "float16")


def small_weights() -> list[keras.Variable]:
    keras.utils.set_random_seed(0)
    weights: list[keras.Variable] = small_network().weights
    return weights


def test_the_layer_that_makes_the_embedding_stays_in_float32() -> None:
    model = small_network()
    with in_precision(model, "bfloat16"):
        names = [layer.compute_dtype for layer in model.layers]
    assert set(names[1:-1]) == {"bfloat16"}
    assert names[-1] == "float32"
    assert {layer.compute_dtype for layer in model.layers} == {"float32"}


def test_batches_are_what_devices_can_share() -> None:
    assert [shared_size(size, 4) for size in (1, 4, 10, 32)] == [4, 4, 8, 32]
    np.testing.assert_array_equal(padded(np.arange(5), 4), [0, 1, 2, 3, 4, 4, 4, 4])
    assert padded(np.arange(8), 4).shape == (8,)
    assert Placement(("cpu:0",)).n_devices == 1


TWO_DEVICES = """
import sys
import numpy as np
import keras
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
sys.path.insert(0, sys.argv[1])
from tuning import small_network
from twostage.backbones.tuned import LinearTop
from twostage.training.blocks import BlockedNetwork
from twostage.training.data import Examples
from twostage.training.placement import Placement
from twostage.training.settings import TuningSettings
from twostage.training.standing import DenseTop
from twostage.training.trainer import Trainer

def run(devices):
    placement = Placement(devices)
    rng = np.random.default_rng(0)
    with placement.scope():
        keras.utils.set_random_seed(0)
        model = small_network()
        how = TuningSettings(batch_size=9, learning_rate=1e-2, augment="none", dropout=0.0)
        top = LinearTop(rng.normal(size=(6, 2)).astype("float32"), np.zeros(2, "float32"))
        trainer = Trainer(BlockedNetwork(model), 0, "none", DenseTop(top), is_classification=True,
                          settings=how, n_rows=24, n_devices=2)
        pixels = rng.integers(0, 256, (24, 32, 32, 3), np.uint8)
        y = np.eye(2, dtype="float32")[np.arange(24) % 2]
        examples = Examples(pixels, np.arange(24), y, np.ones(24, "float32"))
        records = [trainer.run_epoch(number, examples) for number in range(2)]
        trainer.restore(trainer.state())
        outputs = trainer.outputs(pixels, np.arange(23))
    return placement.n_devices, [one.loss for one in records], outputs, model.get_weights()

_, loss, outputs, weights = run(("cpu:0",))
n, losses, others, shared = run(("cpu:0", "cpu:1"))
assert n == 2, n
assert outputs.shape == others.shape == (23, 2)
np.testing.assert_allclose(losses, loss, rtol=1e-4)
np.testing.assert_allclose(others, outputs, atol=1e-3)
for one, other in zip(weights, shared):
    np.testing.assert_allclose(one, other, atol=1e-3)
print("the same")
"""


@pytest.mark.slow
def test_two_devices_train_as_one_does(tmp_path: Path) -> None:
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    done = subprocess.run(
        [sys.executable, "-c", TWO_DEVICES, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=600,
    )
    assert done.stdout.strip().endswith("the same"), done.stderr[-3000:]
