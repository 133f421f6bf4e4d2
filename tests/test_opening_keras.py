"""Opening Keras files that others made: no code of them runs, and none fills the memory."""

import json
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

from twostage.backbones.network import load_network as load_backbone
from twostage.backbones.spec import BackboneSettings
from twostage.cli.main import main
from twostage.errors import BackboneError, ModelError
from twostage.heads import KerasHead, Task
from twostage.opening.keras_file import check_weights, load_network

SIZE = 16


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Return a path that exists by the end if code of a file ran; that fails the test."""
    path = tmp_path / "code_ran"
    yield path
    assert not path.exists()


def network(*more: Any, dim: int = 3) -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 255, name="scale")(inputs)
    for layer in more:
        x = layer(x)
    return keras.Model(inputs, layers.Dense(dim)(layers.GlobalAveragePooling2D()(x)))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    network().save(tmp_path / "mine.keras")
    return tmp_path / "mine.keras"


def rewrite(file: Path, change: Callable[[dict[str, bytes]], Any]) -> None:
    """Change the parts of a Keras file."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    change(parts)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


def reconfigure(file: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change what a Keras file says a network is made of."""

    def write(parts: dict[str, bytes]) -> None:
        config = json.loads(parts["config.json"])
        change(config)
        parts["config.json"] = json.dumps(config).encode()

    rewrite(file, write)


def refused(file: Path, folder: Path, says: str) -> None:
    """Check that the command refuses a network by one message and exit code 1."""
    photos = folder / "photos"
    photos.mkdir()
    (photos / "a.png").write_bytes(b"no image is looked at")
    arguments = ["extract", photos, "-o", folder / "S", "--backbone", file, "--engine", "keras"]
    found = CliRunner().invoke(main, [*map(str, arguments)])
    assert found.exit_code == 1, found.output
    assert says in found.output
    assert isinstance(found.exception, SystemExit)


def with_lambda(mark: Path, file: Path) -> None:
    """Write a network whose layer makes a folder when it is called."""

    sly = eval(f"lambda x: __import__('os').makedirs({str(mark)!r}, exist_ok=True) or x")
    network(layers.Lambda(sly, output_shape=(SIZE, SIZE, 3))).save(file)
    trusting = keras.models.load_model(file, compile=False, safe_mode=False)
    trusting(np.zeros((1, SIZE, SIZE, 3)))
    mark.rmdir()  # so it runs where it is let


def test_a_lambda_does_not_run(file: Path, tmp_path: Path, mark: Path) -> None:
    with_lambda(mark, file)
    refused(file, tmp_path, "is a Lambda")


def test_a_lambda_in_a_models_head_does_not_run(tmp_path: Path, mark: Path) -> None:
    with_lambda(mark, tmp_path / "head.keras")
    with pytest.raises(ModelError, match=r"holds code, which twostage .*: .* a Lambda"):
        KerasHead().load(tmp_path, Task(2))


def test_a_module_that_a_file_names_is_not_imported(
    file: Path, tmp_path: Path, mark: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sly_module.py").write_text(
        f"import os\nos.mkdir({str(mark)!r})\nclass Sly:\n    from_config = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))

    def change(config: dict[str, Any]) -> None:
        config["config"]["layers"][1] |= {
            "module": "sly_module",
            "class_name": "Sly",
            "registered_name": "Sly",
        }

    reconfigure(file, change)
    refused(file, tmp_path, "is of a class that is not Keras' own, 'Sly'")
    assert "sly_module" not in sys.modules


@pytest.mark.parametrize("key", ["compile_config", "build_config", "anything"])
def test_foreign_code_is_found_wherever_it_stands(file: Path, key: str) -> None:
    sly = {"module": "os", "class_name": "mkdir", "config": {}, "registered_name": "mkdir"}
    reconfigure(file, lambda config: config["config"]["layers"][1].update({key: sly}))
    with pytest.raises(ValueError, match="not Keras' own, 'mkdir'"):
        load_network(file)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["config"]["layers"][3]["config"].update(units=10**12), "weights, and the"),
        (lambda c: c["config"]["layers"][3]["config"].update(units=-1), ""),
        (lambda c: c["config"].update(layers=5), ""),
        (lambda c: c.clear(), ""),
    ],
)
def test_a_network_that_is_not_what_its_file_holds_is_refused(
    file: Path, change: Callable[[dict[str, Any]], Any], says: str
) -> None:
    reconfigure(file, change)
    with pytest.raises(BackboneError, match=rf"mine\.keras' can't be loaded \(.*(?:{says})"):
        load_backbone(BackboneSettings(file))


def test_tensors_that_fill_the_memory_are_refused(tmp_path: Path) -> None:
    network(layers.UpSampling2D(4)).save(tmp_path / "large.keras")
    reconfigure(
        tmp_path / "large.keras",
        lambda config: config["config"]["layers"][2]["config"].update(size=[10_000, 10_000]),
    )
    with pytest.raises(ValueError, match="would make a tensor of shape"):
        load_network(tmp_path / "large.keras")


def test_a_file_with_more_in_it_is_refused(file: Path) -> None:
    rewrite(file, lambda parts: parts.update({"assets/words.txt": b"sly"}))
    with pytest.raises(ValueError, match=r"brings along 'assets/words\.txt'"):
        load_network(file)


def test_a_flipped_bit_of_the_weights_is_found(file: Path) -> None:
    data = bytearray(file.read_bytes())
    with zipfile.ZipFile(file) as archive:
        weights = archive.read("model.weights.h5")
    value = np.float32(keras.models.load_model(file).get_weights()[0].ravel()[0]).tobytes()
    place = bytes(data).index(value, bytes(data).index(weights[:8]))
    data[place] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged|CRC"):
        load_network(file)


def _external_link(group: h5py.Group) -> None:
    group["sly"] = h5py.ExternalLink("/etc/passwd", "/")


def _soft_link(group: h5py.Group) -> None:
    group["sly"] = h5py.SoftLink("/layers")


def _external_data(group: h5py.Group) -> None:
    group.create_dataset("sly", (8,), "u1", external=[("/etc/passwd", 0, 8)])


def _cycle(group: h5py.Group) -> None:
    group["layers/sly"] = group["layers"]


def _empty_claim(group: h5py.Group) -> None:
    group.create_dataset("sly", (10**12,), "f4", chunks=(10**6,))


@pytest.mark.parametrize(
    ("add", "says"),
    [
        (_external_link, "'sly' in it leads elsewhere"),
        (_soft_link, "'sly' in it leads elsewhere"),
        (_external_data, "'sly' in it is no array of its own"),
        (_cycle, "'sly' in it stands there twice"),
        (_empty_claim, "'sly' in it claims 4,000,000,000,000 bytes"),
    ],
)
def test_weights_that_lead_elsewhere_are_refused(
    tmp_path: Path, add: Callable[[h5py.Group], None], says: str
) -> None:
    file = tmp_path / "it.weights.h5"
    network().save_weights(file)
    assert check_weights(file) > 0
    with h5py.File(file, "a") as opened:
        add(opened)
    with pytest.raises(ValueError, match=says):
        check_weights(file)


def test_weights_for_a_backbone_of_the_catalogue_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "it.weights.h5"
    network().save_weights(file)
    with h5py.File(file, "a") as opened:
        _external_link(opened)
    with pytest.raises(BackboneError, match=r"does not fit .* .*'sly'"):
        load_backbone(BackboneSettings("mobilenet_v2_035", weights=str(file), image_size=32))


def test_plain_files_still_open(file: Path) -> None:
    assert load_network(file).output.shape == (None, 3)
    assert check_weights(file) == 3 * 3 + 3
