"""Where a backbone runs, and what Keras runs on."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from twostage.backbones import backend, devices
from twostage.backbones.devices import Device, Gpu, choose_device
from twostage.errors import BackboneError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> list[Gpu]:
    """Return a list of the GPUs that the machine seems to have."""
    found: list[Gpu] = []
    monkeypatch.setattr(devices, "_gpus_of", lambda backend: found)
    monkeypatch.setattr(devices, "_has_nvidia_gpu", lambda: bool(found))
    monkeypatch.setattr(devices, "_may_have_gpu", lambda: True)
    return found


def test_a_gpu_that_can_not_be_used_is_explained(
    gpus: list[Gpu], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_has_nvidia_gpu", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert "can't use it: pip install" in choose_device("auto").description
    with pytest.raises(BackboneError, match="pip install"):
        choose_device("gpu")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(BackboneError, match=r"CUDA_VISIBLE_DEVICES hides it. Use --device cpu"):
        choose_device("gpu")


def test_no_gpu_is_no_reason_for_words(gpus: list[Gpu]) -> None:
    assert "GPU" not in choose_device("auto").description
    with pytest.raises(BackboneError, match=r"--device gpu: .*no NVIDIA GPU\. Use --device cpu"):
        choose_device("gpu")


def test_a_gpu_that_can_be_used_is_used(gpus: list[Gpu]) -> None:
    gpus.append(Gpu("NVIDIA H200", (9, 0)))
    assert choose_device("auto") == Device(("gpu:0",), "GPU NVIDIA H200", (9, 0))
    assert choose_device("gpu").is_gpu
    assert choose_device("cpu").names == ("cpu:0",)
    assert not choose_device("cpu").is_gpu


def test_all_gpus_are_used_at_what_the_least_of_them_can(gpus: list[Gpu]) -> None:
    gpus += [Gpu("NVIDIA A100", (8, 0))] * 2
    assert choose_device("auto") == Device(("gpu:0", "gpu:1"), "2 GPUs NVIDIA A100", (8, 0))
    gpus.append(Gpu("Tesla T4", (7, 5)))
    chosen = choose_device("auto")
    assert chosen.description == "3 GPUs NVIDIA A100, Tesla T4"
    assert chosen.capability == (7, 5)
    gpus.append(Gpu("Other"))
    assert choose_device("auto").capability is None


def test_tensorflow_is_told_to_take_memory_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow as tf

    grown = []

    def grow(gpu: object, enable: bool) -> None:
        grown.append((gpu, enable))
        if len(grown) == 2:
            raise RuntimeError("Physical devices cannot be modified after being initialized")

    found = [SimpleNamespace(name="GPU:0"), SimpleNamespace(name="GPU:1")]
    details = {"device_name": "NVIDIA L4", "compute_capability": (8, 9)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: found)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", grow)
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details)
    assert devices._gpus_of("tensorflow") == [Gpu("NVIDIA L4", (8, 9))] * 2
    assert grown == [(gpu, True) for gpu in found]


@pytest.mark.parametrize(
    ("found", "expected"), [("8.6", (8, 6)), ("10.0", (10, 0)), ("gfx90a", None), (None, None)]
)
def test_a_capability_is_read_where_it_is_cudas(
    found: str | None, expected: tuple[int, int] | None
) -> None:
    assert devices._parsed(found) == expected


@pytest.fixture
def without_keras(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Return a list of the backends that seem to be installed, Keras not being imported yet."""
    installed: list[str] = []
    monkeypatch.delitem(sys.modules, "keras", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.setattr(backend, "find_spec", lambda name: name if name in installed else None)
    return installed


def test_keras_runs_on_what_is_installed(without_keras: list[str]) -> None:
    """Keras itself takes TensorFlow, and writes that into its configuration."""
    without_keras.append("torch")
    (Path(os.environ["KERAS_HOME"]) / "keras.json").write_text('{"backend": "tensorflow"}')
    backend.prepare_backend()
    assert os.environ["KERAS_BACKEND"] == "torch"


@pytest.mark.parametrize(("configured", "expected"), [("jax", "jax"), ("openvino", "tensorflow")])
def test_what_keras_is_configured_for_comes_first(
    without_keras: list[str], configured: str, expected: str
) -> None:
    without_keras += ["tensorflow", "jax", "torch"]
    (Path(os.environ["KERAS_HOME"]) / "keras.json").write_text(f'{{"backend": "{configured}"}}')
    backend.prepare_backend()
    assert os.environ["KERAS_BACKEND"] == expected


def test_nothing_to_run_on_is_an_error_with_a_way_out(
    without_keras: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackboneError, match="none of TensorFlow, JAX and PyTorch is installed"):
        backend.prepare_backend()
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    with pytest.raises(BackboneError, match=r"'jax', which is not installed. .*pip install jax"):
        backend.prepare_backend()


def test_jax_does_not_take_the_whole_gpu_unless_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    backend.prepare_backend()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    backend.prepare_backend()
    assert os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] == "true"


def test_a_backend_that_is_not_installed_is_told_before_keras_starts(
    tmp_path: Path, photos: Path
) -> None:
    code = (
        "import sys, importlib.util as util\n"
        "found = util.find_spec\n"
        "util.find_spec = lambda name, *rest: None if name == 'torch' else found(name, *rest)\n"
        "from twostage.cli.main import main\n"
        "main(['extract', sys.argv[1], '-o', sys.argv[2], '--engine', 'keras'])\n"
    )
    command = [sys.executable, "-c", code, str(photos), str(tmp_path / "store")]
    environment = os.environ | {"KERAS_BACKEND": "torch"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "KERAS_BACKEND is 'torch', which is not installed" in run.stderr
    assert "Traceback" not in run.stderr
