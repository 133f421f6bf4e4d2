"""The Keras engine on each backend that is installed, each in a process of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

BACKENDS = [
    pytest.param(
        name, marks=pytest.mark.skipif(find_spec(name) is None, reason=f"{name} is not installed")
    )
    for name in ("tensorflow", "jax", "torch")
]
START = """
import os, sys
class Without:
    # Finds what a finder finds, but what is blocked: that is as if it was not installed.
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        is_blocked = name.split(".")[0] in blocked
        return None if is_blocked else self.finder.find_spec(name, path, target)
backend = os.environ["KERAS_BACKEND"]
blocked = {"tensorflow", "jax", "torch", "openvino"} - {backend}
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import numpy as np
from twostage.backbones.keras_engine import KerasEngine
from twostage.backbones.network import load_network
from twostage.backbones.spec import BackboneSettings
settings = BackboneSettings("mobilenet_v2_035", weights="random", image_size=64, engine="keras")
rng = np.random.default_rng(0)
batches = [rng.integers(0, 256, (n, 64, 64, 3), np.uint8) for n in (4, 4, 4, 3, 4, 4, 1)]
kept = [batch.copy() for batch in batches]
def differ(ours, theirs):
    return max(
        (np.linalg.norm(o - t, axis=1) / np.linalg.norm(t, axis=1)).max()
        for o, t in zip(ours, theirs, strict=True)
    )
"""
ON_TWO_DEVICES = """
if backend == "tensorflow":
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
devices = ("cpu:0", "cpu:0" if backend == "torch" else "cpu:1")
network = load_network(settings, "cpu:0")
expected = [network.embed(batch) for batch in batches]
engine = KerasEngine(network.spec, network.model, devices, 4)
n_started = [0, 0]
for number, replica in enumerate(engine._replicas):
    def start(batch, number=number, start=replica._start):
        n_started[number] += 1
        return start(batch)
    replica._start = start
found = list(engine.run(batches))
assert [len(batch) for batch in found] == [len(batch) for batch in batches]
assert all(batch.dtype == np.float32 for batch in found)
assert differ(found, expected) < 1e-5, differ(found, expected)
assert min(n_started) >= 1 and sum(n_started) == len(batches), n_started
assert all((batch == before).all() for batch, before in zip(batches, kept))
if backend == "tensorflow":
    fetch = engine._replicas[1]._start(batches[0])
    assert fetch.__self__.device.endswith("CPU:1"), fetch.__self__.device
if backend == "jax":
    import jax
    assert {d.id for array in jax.live_arrays() for d in array.devices()} == {0, 1}
"""
FROM_FILES_TO_STORE = """
import tempfile
from pathlib import Path
from PIL import Image
from twostage import EmbeddingStore, extract
folder = Path(tempfile.mkdtemp())
for i in range(9):
    Image.new("RGB", (80, 70), (20 * i, 90, 200)).save(folder / f"{i}.png")
how = {"backbone": settings.backbone, "weights": "random", "image_size": 64, "batch_size": 4}
summary = extract(folder, folder / "store", **how, device="cpu")
assert summary.n_computed == 9 and summary.n_errors == 0, summary
assert summary.device.startswith(f"{backend} in float32 on CPU"), summary.device
network = load_network(settings)
pixels = np.stack([np.asarray(Image.new("RGB", (64, 64), (20 * i, 90, 200))) for i in range(9)])
stored = EmbeddingStore(folder / "store").embeddings([f"{i}.png" for i in range(9)])
assert differ([stored], [network.embed(pixels)]) < 1e-5
assert not {name.split(".")[0] for name in sys.modules} & blocked
"""


def run(code: str, backend: str) -> None:
    """Run code with a Keras backend; other backends and OpenVINO can't be imported there."""
    environment = os.environ | {
        "KERAS_BACKEND": backend,
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    command = [sys.executable, "-c", START + code]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_several_devices_share_the_batches_and_their_embeddings_come_in_order(backend: str) -> None:
    run(ON_TWO_DEVICES, backend)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_needs_none_of_the_others(backend: str) -> None:
    run(FROM_FILES_TO_STORE, backend)
