"""A ``.keras`` file through stores, caches and models: it is found again, or asked for."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from keras import layers

from twostage import EmbeddingStore, TwoStageClassifier, load_model
from twostage.backbones import lazy, network
from twostage.cli.main import main

pytestmark = pytest.mark.slow  # each builds, converts and saves networks

Run = Callable[..., Result]
SIZE = 32


def save_network(file: Path, seed: int = 0, size_px: int = SIZE) -> Path:
    inputs = keras.Input((size_px, size_px, 3))
    x = layers.Conv2D(4, 3, strides=4, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    model.save(file)
    return file


@pytest.fixture
def run() -> Run:
    """Return a function that runs a command line, as a new process would."""

    def run(*arguments: object) -> Result:
        network._load.cache_clear()
        lazy._engine.cache_clear()
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def folder(tmp_path: Path, photo: Callable[..., Path]) -> Path:
    """Return a folder with ``mine.keras``, 40 photos and a table; the photo decides the target."""
    red = np.random.default_rng(0).integers(0, 256, 40)
    for i in range(40):
        photo(tmp_path / "photos" / f"{i}.png", (int(red[i]), i, 9))
    table = pd.DataFrame({"photo": [f"{i}.png" for i in range(40)], "bright": red > 128})
    table.to_csv(tmp_path / "table.csv", index=False)
    save_network(tmp_path / "mine.keras")
    return tmp_path


@pytest.fixture
def store(run: Run, folder: Path) -> Path:
    """Return a store of the photos, by that network."""
    extracted = run(
        "extract", folder / "photos", "-o", folder / "S", "--backbone", folder / "mine.keras"
    )
    assert extracted.exit_code == 0, extracted.output
    assert "what enters its classifier" in extracted.stderr
    assert "40 embedded now, 0 unchanged; mine.keras, 4 numbers each" in extracted.stdout
    return folder / "S"


def add_photo(folder: Path, photo: Callable[..., Path]) -> None:
    photo(folder / "photos" / "new.png", (1, 2, 3))


def test_a_store_goes_on_with_the_file_that_it_remembers(
    run: Run, folder: Path, store: Path, photo: Callable[..., Path]
) -> None:
    add_photo(folder, photo)
    result = run("extract", folder / "photos", "-o", store)
    assert "1 embedded now" in result.stdout, result.output
    assert "mine.keras, 4 numbers each" in result.stdout


@pytest.mark.parametrize("more", [(), ("--backbone", "mine.keras")])
def test_an_extract_with_nothing_to_do_imports_no_keras(
    folder: Path, store: Path, more: tuple[str, ...]
) -> None:
    arguments = ["extract", "photos", "-o", "S", *more]
    probe = (
        "import sys; from twostage.cli.main import main\n"
        f"main({arguments}, standalone_mode=False)\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    assert "0 embedded now" in done.stdout


def test_a_file_that_is_gone_or_another_is_asked_for(
    run: Run, folder: Path, store: Path, photo: Callable[..., Path]
) -> None:
    file = folder / "mine.keras"
    file.rename(folder / "moved.keras")
    assert run("extract", folder / "photos", "-o", store).exit_code == 0  # nothing to do
    add_photo(folder, photo)
    gone = run("extract", folder / "photos", "-o", store)
    assert gone.exit_code == 1
    assert "mine.keras', which is gone. Put it back" in gone.stderr
    assert "--backbone FILE" in gone.stderr
    save_network(file, seed=1, size_px=48)
    changed = run("extract", folder / "photos", "-o", store)
    assert changed.exit_code == 1
    assert "mine.keras', which holds other bytes by now" in changed.stderr
    again = run("extract", folder / "photos", "-o", store, "--backbone", folder / "moved.keras")
    assert "1 embedded now" in again.stdout, again.output


def test_a_file_written_anew_is_another_backbone(run: Run, folder: Path, store: Path) -> None:
    """Nor is the network that was converted from the older one taken for it."""
    save_network(folder / "mine.keras", seed=1)
    asked = ("--backbone", folder / "mine.keras")
    assert run("extract", folder / "photos", "-o", folder / "T", *asked).exit_code == 0
    specs = [EmbeddingStore(path).spec for path in (store, folder / "T")]
    assert specs[0]["weights_digest"] != specs[1]["weights_digest"]
    assert run("extract", folder / "photos", "-o", store, *asked).exit_code == 1


def test_the_same_network_saved_again_goes_on_with_the_store(
    run: Run, folder: Path, store: Path, photo: Callable[..., Path]
) -> None:
    keras.saving.load_model(folder / "mine.keras").save(folder / "again.keras")
    add_photo(folder, photo)
    result = run("extract", folder / "photos", "-o", store, "--backbone", folder / "again.keras")
    assert "1 embedded now" in result.stdout, result.output


def test_another_backbone_is_refused_with_what_differs(run: Run, folder: Path, store: Path) -> None:
    other = save_network(folder / "other.keras", seed=1)
    for asked, message in (
        (("--backbone", other), "weights_digest is"),
        (("--backbone", "resnet50"), "backbone is mine.keras, asked for resnet50"),
        (("--weights", "imagenet"), "mine.keras, asked for imagenet"),
        (("--preprocessing", "tf"), "preprocessing is none, asked for tf"),
        (("--image-size", "48"), "image_size is 32, asked for 48"),
    ):
        result = run("extract", folder / "photos", "-o", store, *asked)
        assert result.exit_code == 1, asked
        assert message in result.stderr
    fresh = folder / "C"
    options = ("--backbone", "mobilenet_v2_035", "--weights", "random", "--image-size", "32")
    assert run("extract", folder / "photos", "-o", fresh, *options).exit_code == 0
    result = run("extract", folder / "photos", "-o", fresh, "--backbone", other)
    assert result.exit_code == 1
    assert f"backbone is mobilenet_v2_035, asked for {other}" in result.stderr


def fit(run: Run, folder: Path, *more: object) -> Result:
    table = ("--table", folder / "table.csv", "--image-col", "photo", "--target", "bright")
    return run("fit", *more, *table, "-o", folder / "M")


def predict(run: Run, folder: Path, *more: object) -> pd.DataFrame:
    output = folder / "P.csv"
    result = run("predict", folder / "M", "--table", folder / "table.csv", *more, "-o", output)
    assert result.exit_code == 0, result.output
    return pd.read_csv(output)


@pytest.mark.parametrize("source", ["images", "store"])
def test_a_model_brings_the_file_along(
    run: Run,
    folder: Path,
    store: Path,
    own_cache: Path,
    source: str,
) -> None:
    file = folder / "mine.keras"
    given = ("--images", folder / "photos", "--backbone", file) if source == "images" else (store,)
    fitted = fit(run, folder, *given)
    assert fitted.exit_code == 0, fitted.output
    assert "Image column 'photo': 4 numbers from mine.keras." in fitted.stdout
    before = predict(run, folder, "--store", store)
    original = file.read_bytes()
    file.unlink()
    assert (folder / "M" / "backbone" / "mine.keras").read_bytes() == original
    for cache in ("kept", "emptied"):
        if cache == "emptied":
            shutil.rmtree(own_cache)
        pd.testing.assert_frame_equal(
            predict(run, folder, "--images", folder / "photos"), before, rtol=1e-5
        )
    loaded = load_model(folder / "M", image_root=folder / "photos")
    table = pd.read_csv(folder / "table.csv")
    np.testing.assert_array_equal(loaded.predict(table), before["prediction"])


def test_a_cache_made_from_a_file_that_is_gone_goes_on_with_the_models(
    run: Run, folder: Path, photo: Callable[..., Path]
) -> None:
    file = folder / "mine.keras"
    assert fit(run, folder, "--images", folder / "photos", "--backbone", file).exit_code == 0
    file.unlink()
    add_photo(folder, photo)
    table = pd.DataFrame({"photo": ["new.png", "1.png"]})
    table.to_csv(folder / "table.csv", index=False)
    assert predict(run, folder, "--images", folder / "photos")["error"].isna().all()


def test_the_models_copy_is_checked(run: Run, folder: Path) -> None:
    file = folder / "mine.keras"
    assert fit(run, folder, "--images", folder / "photos", "--backbone", file).exit_code == 0
    save_network(folder / "M" / "backbone" / "mine.keras", seed=1)
    arguments = ("--table", folder / "table.csv", "--images", folder / "photos")
    result = run("predict", folder / "M", *arguments, "-o", folder / "P.csv")
    assert result.exit_code == 1
    assert "'backbone/mine.keras'" in result.stderr
    assert "digest differs" in result.stderr


def test_a_model_of_a_store_whose_file_is_gone_predicts_from_stores(
    run: Run, folder: Path, store: Path, photo: Callable[..., Path]
) -> None:
    (folder / "mine.keras").unlink()
    fitted = fit(run, folder, store)
    assert fitted.exit_code == 0, fitted.output
    assert "mine.keras' is gone, so the model does not bring it along" in fitted.stderr
    assert not (folder / "M" / "backbone").exists()
    assert len(predict(run, folder, "--store", store)) == 40
    assert load_model(folder / "M").backbone == str(folder / "mine.keras")
    arguments = ("--table", folder / "table.csv", "--images", folder / "photos")
    result = run("predict", folder / "M", *arguments, "-o", folder / "P.csv")
    assert result.exit_code == 1
    assert "mine.keras', which is gone. Put it back" in result.stderr


def test_the_estimator_takes_a_file_and_saves_it(folder: Path) -> None:
    table = pd.read_csv(folder / "table.csv")
    X, y = table[["photo"]], table["bright"]
    root = folder / "photos"
    model = TwoStageClassifier(
        "photo", "linear", backbone=folder / "mine.keras", image_root=root
    ).fit(X, y)
    assert model.score(X, y) > 0.8
    model.save(folder / "M")
    (folder / "mine.keras").unlink()
    loaded = load_model(folder / "M", image_root=root)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    refitted = loaded.fit(X, y)
    np.testing.assert_array_equal(refitted.predict(X), model.predict(X))


def test_a_file_that_does_not_say_enough_is_one_message_and_leaves_nothing(
    run: Run, folder: Path
) -> None:
    inputs = keras.Input((None, None, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(2, 3)(inputs))
    keras.Model(inputs, layers.Dense(2)(x)).save(folder / "bare.keras")
    arguments = ("extract", folder / "photos", "-o", folder / "S")
    asked = ("--backbone", folder / "bare.keras")
    for more, message in (
        ((), "Say with --image-size N"),
        (("--image-size", 32), "Say it with --preprocessing: tf (-1 to 1)"),
    ):
        result = run(*arguments, *asked, *more)
        assert result.exit_code == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert not (folder / "S").exists()
    enough = ("--image-size", 32, "--preprocessing", "unit", "--json")
    result = run(*arguments, *asked, *enough)
    assert json.loads(result.stdout)["backbone"] == "bare.keras"
    assert EmbeddingStore(folder / "S").spec["preprocessing"] == "unit"
