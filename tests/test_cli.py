"""The commands, with a backbone whose embeddings can be computed by hand."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from conftest import FakeBuilder

from twostage.cli.main import main
from twostage.cli.output import _lines
from twostage.store.store import EmbeddingStore

Run = Callable[..., Result]


@pytest.fixture
def run() -> Run:
    """Return a function that runs a command line in this process."""

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


@pytest.fixture
def lesions(tmp_path: Path, photo: Callable[..., Path]) -> Path:
    """Return a folder of 60 photos and a table; photo and age decide the target."""
    folder = tmp_path / "lesions"
    rng = np.random.default_rng(0)
    n = 60
    red, age = rng.integers(0, 256, n), rng.integers(20, 80, n)
    for i in range(n):
        photo(folder / "images" / f"{i:02d}.png", (int(red[i]), i, 99))
    table = pd.DataFrame(
        {
            "image": [f"images/{i:02d}.png" for i in range(n)],
            "image_back": [f"back/{i:02d}.png" for i in range(n)],
            "patient": [f"P{i // 2}" for i in range(n)],
            "record": range(1000, 1000 + n),
            "age": np.where(np.arange(n) % 7 == 0, np.nan, age),
            "site": rng.choice(["arm", "leg"], n),
            "size_mm": rng.normal(size=n).round(3),
            "malignant": (red / 256 + age / 80 > 1.1).astype(int),
        }
    )
    table.to_csv(folder / "table.csv", index=False)
    return folder


@pytest.fixture
def store(run: Run, lesions: Path, tmp_path: Path, fake_backbone: FakeBuilder) -> Path:
    """Return a store of the lesions."""
    assert run("extract", lesions, "-o", tmp_path / "store").exit_code == 0
    return tmp_path / "store"


def rewrite(folder: Path, change: Callable[[pd.DataFrame], pd.DataFrame]) -> Path:
    table = folder / "table.csv"
    change(pd.read_csv(table)).to_csv(table, index=False)
    return table


def fit_arguments(lesions: Path, store: Path, model: Path, *more: object) -> Sequence[object]:
    table = ("--table", lesions / "table.csv", "--image-col", "image", "--target", "malignant")
    return ("fit", store, *table, "-o", model, *more)


def all_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name, command in main.commands.items():
        found.append((name,))
        if isinstance(command, click.Group):
            found += [(name, below) for below in command.commands]
    return found


@pytest.mark.parametrize("command", all_commands(), ids=" ".join)
def test_every_command_has_help(run: Run, command: tuple[str, ...]) -> None:
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) > 4
    assert result.stderr == ""


def test_every_option_is_explained_or_plain() -> None:
    unexplained = [
        f"{name} {parameter.name}"
        for name, command in main.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.help and name != "fit"
    ]
    assert not unexplained


def test_the_version_is_the_packages(run: Run) -> None:
    from twostage import __version__

    assert run("--version").output.strip().endswith(__version__)


def test_extract_fit_predict_gives_a_row_per_row_in_order(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    model, output = tmp_path / "model", tmp_path / "predictions.parquet"
    fitted = run(*fit_arguments(lesions, store, model, "--group", "patient"))
    assert fitted.exit_code == 0, fitted.output
    shuffled = pd.read_csv(lesions / "table.csv").sample(frac=1, random_state=1)
    new = tmp_path / "new.csv"
    shuffled.drop(columns="malignant").to_csv(new, index=False)
    result = run("predict", model, "--table", new, "--images", lesions, "-o", output)
    assert result.exit_code == 0, result.output
    predictions = pd.read_parquet(output)
    assert list(predictions) == [
        "image",
        "patient",
        "prediction",
        "proba_0",
        "proba_1",
        "n_images",
        "error",
    ]
    assert predictions["image"].tolist() == shuffled["image"].tolist()
    np.testing.assert_allclose(predictions["proba_0"] + predictions["proba_1"], 1)
    assert (predictions["prediction"].to_numpy() == shuffled["malignant"]).mean() > 0.8
    assert predictions["error"].isna().all()

    from_store = tmp_path / "again.csv"
    assert run("predict", model, "--table", new, "--store", store, "-o", from_store).exit_code == 0
    again = pd.read_csv(from_store)
    np.testing.assert_allclose(again["proba_1"], predictions["proba_1"], rtol=1e-6)


def test_group_paths_and_ids_are_no_features(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    result = run(*fit_arguments(lesions, store, model, "--group", "patient", "--json"))
    summary = json.loads(result.stdout)
    roles = {column["name"]: column["role"] for column in summary["columns"]}
    assert roles == {
        "image_back": "ignored",
        "record": "ignored",
        "age": "numeric",
        "site": "categorical",
        "size_mm": "numeric",
    }
    assert summary["holdout"]["n_rows"] + summary["holdout"]["n_training_rows"] == 60
    auc = summary["holdout"]["scores"]["auc"]
    assert 0 <= auc["value"] <= 1
    assert auc["low"] is None  # of fewer than 20 groups there is no interval


def test_extract_reports_as_json(
    run: Run, lesions: Path, tmp_path: Path, fake_backbone: FakeBuilder
) -> None:
    result = run("extract", lesions, "-o", tmp_path / "S", "--json")
    summary = json.loads(result.stdout)
    assert summary["n_computed"] == summary["n_images"] == 60
    again = json.loads(run("extract", lesions, "-o", tmp_path / "S", "--json").stdout)
    assert again["n_computed"] == 0
    assert fake_backbone.n_embedded == 60


def test_an_extract_with_nothing_to_do_imports_no_keras(store: Path, lesions: Path) -> None:
    probe = (
        "import sys; from twostage.cli.main import main\n"
        f"main(['extract', {str(lesions)!r}, '-o', {str(store)!r}], standalone_mode=False)\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "60 unchanged" in run.stdout or "60 taken from" in run.stdout


def test_unreadable_images_are_counted_and_exit_3(
    run: Run, lesions: Path, tmp_path: Path, fake_backbone: FakeBuilder
) -> None:
    (lesions / "images" / "00.png").write_bytes(b"no image")
    (lesions / "images" / "01.png").unlink()
    arguments = ("--table", lesions / "table.csv", "--image-col", "image")
    result = run("extract", lesions, "-o", tmp_path / "S", *arguments)
    assert result.exit_code == 3
    assert "2 images could not be used: " in result.stdout
    assert "1 read: no such file" in result.stdout
    fitted = run(*fit_arguments(lesions, tmp_path / "S", tmp_path / "M"))
    assert fitted.exit_code == 3
    assert "2 rows with an unusable image" in fitted.stderr
    predicted = run(
        "predict", tmp_path / "M", *arguments[:2], "--images", lesions, "-o", tmp_path / "P.csv"
    )
    assert predicted.exit_code == 3
    errors = pd.read_csv(tmp_path / "P.csv")["error"]
    assert errors[0] == "'images/00.png': decode: not an image, or of an unknown format"
    assert errors[1] == "'images/01.png': read: no such file"
    assert errors[2:].isna().all()


def test_a_folder_per_class_needs_no_table(
    run: Run, tmp_path: Path, photo: Callable[..., Path], fake_backbone: FakeBuilder
) -> None:
    pets = tmp_path / "pets"
    for i in range(20):
        photo(pets / "cats" / f"{i}.png", (0, i, 200))
        photo(pets / "dogs" / f"{i}.png", (200, i, 0))
    store, model, output = tmp_path / "S", tmp_path / "M", tmp_path / "P.csv"
    assert run("extract", pets, "-o", store).exit_code == 0
    fitted = run("fit", store, "--target-from-folder", "-o", model)
    assert fitted.exit_code == 0, fitted.output
    assert run("predict", model, "--images", pets, "-o", output).exit_code == 0
    predictions = pd.read_csv(output)
    assert list(predictions["prediction"]) == ["cats"] * 20 + ["dogs"] * 20


def test_fit_from_a_folder_of_images_uses_the_cache(
    run: Run, lesions: Path, tmp_path: Path, fake_backbone: FakeBuilder
) -> None:
    arguments = (*fit_arguments(lesions, Path("-"), tmp_path / "M"), "--images", lesions)
    arguments = tuple(argument for argument in arguments if argument != Path("-"))
    assert run(*arguments).exit_code == 0
    assert run(*arguments).exit_code == 0
    assert fake_backbone.n_embedded == 60
    assert "60 images" in run("cache", "info").stdout
    assert run("cache", "clear").exit_code == 0
    assert "0 backbones" in run("cache", "info").stdout


@pytest.fixture
def here_in_float32_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this a machine without bfloat16."""
    monkeypatch.setattr("twostage.backbones.lazy._has_native_bfloat16", lambda: False)


def test_predict_makes_another_variant_where_the_models_own_can_not_run(
    run: Run,
    lesions: Path,
    tmp_path: Path,
    fake_backbone: FakeBuilder,
    here_in_float32_only: None,
) -> None:
    fake_backbone.engine, fake_backbone.precision = "openvino", "bfloat16"
    table = ("--table", lesions / "table.csv", "--image-col", "image", "--target", "malignant")
    fitted = run("fit", *table, "--images", lesions, "-o", tmp_path / "M")
    assert fitted.exit_code == 0, fitted.output
    predict = ("predict", tmp_path / "M", "--table", lesions / "table.csv", "--images", lesions)
    result = run(*predict, "-o", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    assert result.stderr.count("embeddings were made by openvino in bfloat16, which can't run") == 1
    assert "this processor does not compute in bfloat16" in result.stderr
    assert "openvino in float32 makes these" in result.stderr
    assert fake_backbone.built[-1].spec.precision == "float32"


def test_a_store_goes_on_with_its_own_variant_or_not_at_all(
    run: Run,
    lesions: Path,
    tmp_path: Path,
    photo: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    here_in_float32_only: None,
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("twostage.backbones.lazy.build", FakeBuilder([], "openvino", "bfloat16"))
        assert run("extract", lesions, "-o", tmp_path / "S").exit_code == 0
    photo(lesions / "images" / "new.png")
    result = run("extract", lesions, "-o", tmp_path / "S")
    assert result.exit_code == 1
    assert "made by openvino in bfloat16: this processor does not compute in" in result.stderr
    assert "Use --precision float32. Or give another folder for the store." in result.stderr
    assert len(EmbeddingStore(tmp_path / "S")) == 60


def test_a_store_of_another_variant_predicts_with_one_line_of_warning(
    run: Run, lesions: Path, tmp_path: Path, fake_backbone: FakeBuilder
) -> None:
    for precision in ("float32", "bfloat16"):
        made = ("--engine", "openvino", "--precision", precision)
        assert run("extract", lesions, "-o", tmp_path / precision, *made).exit_code == 0
    assert run(*fit_arguments(lesions, tmp_path / "float32", tmp_path / "M")).exit_code == 0
    predict = ("predict", tmp_path / "M", "--table", lesions / "table.csv")
    result = run(*predict, "--store", tmp_path / "bfloat16", "-o", tmp_path / "p.csv")
    assert result.exit_code == 0, result.output
    said = "made by openvino in bfloat16, kept as float32; the model was trained on openvino in"
    assert result.stderr.count(said) == 1


def test_converted_networks_are_listed_and_cleared(run: Run, own_cache: Path) -> None:
    (own_cache / "engines").unlink()  # what other tests converted
    folder = own_cache / "engines" / "mobilenet_v2-0123"
    folder.mkdir(parents=True)
    (folder / "network.bin").write_bytes(bytes(2_000_000))
    assert "mobilenet_v2-0123: converted, 2.0 MB" in run("cache", "info").stdout
    assert "0 embeddings and 1 converted network, 2.0 MB" in run("cache", "clear").stdout
    assert not folder.exists()


def drop_target(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(malignant=table["malignant"].where(table.index > 2))


BAD_TABLES = {
    "no such column": (lambda t: t.drop(columns="malignant"), "no target column 'malignant'"),
    "no image column": (lambda t: t.drop(columns="image"), "no image column 'image'.*'image_back'"),
    "one class": (lambda t: t.assign(malignant=1), "one class only: 1 in all 60 rows"),
    "missing targets": (
        drop_target,
        "3 of 60 rows have no value in target 'malignant'; first: row 1",
    ),
    "empty column": (lambda t: t.assign(site=np.nan), "'site' has no values .* --ignore site"),
    "repeated image": (
        lambda t: t.assign(image=t["image"].where(t.index != 5, t["image"][3])),
        "1 of 60 rows .* row 6 and row 4, 'images/03.png'.*--group",
    ),
    "unknown images": (
        lambda t: t.assign(image=t["image"].where(t.index > 1, "lost/" + t["record"].astype(str))),
        r"2 of 60 rows name an image .* 'lost/1000' \(row 1\).* like 'images/00.png'",
    ),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_table_is_one_error_and_leaves_nothing(
    run: Run, lesions: Path, store: Path, tmp_path: Path, case: str
) -> None:
    change, message = BAD_TABLES[case]
    rewrite(lesions, change)
    before = sorted(tmp_path.rglob("*"))
    result = run(*fit_arguments(lesions, store, tmp_path / "model"))
    assert result.exit_code == 1
    assert re.search(message, result.stderr), result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_repeated_images_are_fine_where_a_group_holds_them(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    rewrite(
        lesions, lambda t: t.assign(image=t["image"].where(t.index % 2 == 0, t["image"].shift()))
    )
    result = run(*fit_arguments(lesions, store, tmp_path / "model", "--group", "patient"))
    assert result.exit_code == 0, result.output


def test_a_store_of_another_backbone_is_refused(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    result = run("extract", lesions, "-o", store, "--backbone", "resnet50")
    assert result.exit_code == 1
    assert "backbone is mobilenet_v2, asked for resnet50" in result.stderr
    assert run(*fit_arguments(lesions, store, tmp_path / "M")).exit_code == 0
    other = tmp_path / "other"
    assert run("extract", lesions, "-o", other, "--backbone", "resnet50").exit_code == 0
    arguments = ("--table", lesions / "table.csv", "--store", other, "-o", tmp_path / "P.csv")
    refused = run("predict", tmp_path / "M", *arguments)
    assert refused.exit_code == 1
    assert "architecture is mobilenet_v2, not resnet50" in refused.stderr
    assert not (tmp_path / "P.csv").exists()


BAD_COMMANDS = {
    "missing folder": (("extract", "nowhere", "-o", "S"), 2, "does not exist"),
    "empty folder": (("extract", "empty", "-o", "S"), 1, "No images in 'empty'"),
    "unknown backbone": (("extract", ".", "-o", "S", "--backbone", "resnet5"), 2, "Did you mean"),
    "table alone": (("extract", ".", "-o", "S", "--table", "t.csv"), 2, "go together"),
    "no weights file": (("extract", ".", "-o", "S", "--weights", "w.h5"), 2, "no weights file"),
    "no store": (("fit", "--table", "t.csv", "--target", "y", "-o", "M"), 2, "Give a STORE"),
    "no target": (("fit", "empty", "--table", "t.csv", "-o", "M"), 2, "Give --table and --target"),
    "not a store": (
        ("fit", "empty", "--table", "t.csv", "--target", "y", "--image-col", "image", "-o", "M"),
        1,
        "'empty' is not a store",
    ),
    "not a model": (("predict", "empty", "--table", "t.csv", "-o", "P.csv"), 1, "is not a model"),
    "unknown option": (("extract", ".", "--sideways"), 2, "No such option"),
    "model in the way": (
        ("fit", "empty", "--table", "t.csv", "--target", "y", "-o", "."),
        2,
        "other files in it",
    ),
}


@pytest.mark.parametrize("case", BAD_COMMANDS)
def test_a_bad_command_says_what_is_wrong(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "t.csv").write_text("image,y\na.png,1\nb.png,0\n")
    arguments, exit_code, message = BAD_COMMANDS[case]
    result = run(*arguments)
    assert message in result.stderr
    assert result.exit_code == exit_code
    assert not (tmp_path / "S").exists()
    assert not (tmp_path / "M").exists()


def test_an_interrupt_exits_130_and_says_how_to_go_on(
    run: Run, lesions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("twostage.backbones.lazy.build", interrupt)
    result = run("extract", lesions, "-o", tmp_path / "S")
    assert result.exit_code == 130
    assert "Run the same command again" in result.stderr


def test_a_reader_that_has_enough_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    code = f"import os; os.dup2({writing}, 1); from twostage.cli.main import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, "backbones"],
        pass_fds=(writing,),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert result.stderr == ""


def test_backbones_lists_the_catalogue(run: Run) -> None:
    from twostage.backbones.catalogue import CATALOGUE

    lines = run("backbones").stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(CATALOGUE)
    vgg = next(line for line in lines if line.startswith("vgg16"))
    assert "4096" in vgg
    assert "with top" in vgg


def test_predictions_never_overwrite_the_table(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    run(*fit_arguments(lesions, store, tmp_path / "M"))
    table = lesions / "table.csv"
    before = table.read_bytes()
    result = run("predict", tmp_path / "M", "--table", table, "--store", store, "-o", table)
    assert result.exit_code == 2
    assert "is the table itself" in result.stderr
    assert table.read_bytes() == before


def test_what_is_gone_and_what_is_besides_is_said(run: Run, lesions: Path, store: Path) -> None:
    (lesions / "images" / "05.png").unlink()
    arguments = ("--table", lesions / "table.csv", "--image-col", "image")
    named = run("extract", lesions, "-o", store, *arguments)
    assert "1 file not there any more; embeddings kept" in named.stdout
    listed = run("extract", lesions, "-o", store)
    assert "The store holds 1 image besides these" in listed.stdout


def test_nothing_is_guessed_of_a_row_of_which_nothing_is_seen(
    run: Run, tmp_path: Path, photo: Callable[..., Path], fake_backbone: FakeBuilder
) -> None:
    pets = tmp_path / "pets"
    for i in range(20):
        photo(pets / "cats" / f"{i}.png", (0, i, 200))
        photo(pets / "dogs" / f"{i}.png", (200, i, 0))
    fitted = run("fit", "--images", pets, "--target-from-folder", "-o", tmp_path / "M")
    assert fitted.exit_code == 0, fitted.output
    (pets / "cats" / "broken.png").write_bytes(b"no image")
    output = tmp_path / "P.parquet"
    assert run("predict", tmp_path / "M", "--images", pets, "-o", output).exit_code == 3
    predictions = pd.read_parquet(output).set_index("image")
    assert predictions.loc["cats/broken.png", ["prediction", "proba_cats"]].isna().all()
    assert predictions.loc["cats/0.png", "prediction"] == "cats"


def test_names_that_match_no_file_are_an_error(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    run(*fit_arguments(lesions, store, tmp_path / "M"))
    table = rewrite(lesions, lambda t: t.assign(image="elsewhere/" + t["image"]))
    arguments = ("--table", table, "--images", lesions, "-o", tmp_path / "P.csv")
    result = run("predict", tmp_path / "M", *arguments)
    assert result.exit_code == 1
    assert "None of the table's images is usable" in result.stderr
    assert not (tmp_path / "P.csv").exists()


def test_a_replaced_model_is_said(run: Run, lesions: Path, store: Path, tmp_path: Path) -> None:
    first = run(*fit_arguments(lesions, store, tmp_path / "M"))
    assert "was replaced" not in first.stderr
    assert "was replaced" in run(*fit_arguments(lesions, store, tmp_path / "M")).stderr


def test_parts_without_their_record_are_left_alone(run: Run, lesions: Path, store: Path) -> None:
    (store / "_store.json").unlink()
    before = sorted(store.iterdir())
    result = run("extract", lesions, "-o", store)
    assert result.exit_code == 1
    assert "holds parts of a store but no _store.json" in result.stderr
    assert sorted(store.iterdir()) == before


def test_an_error_of_the_system_is_one_line(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        result = run("demo", "-o", output)
        assert result.exit_code in (1, 2)
        assert result.stderr.startswith("Error: ")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("head", ["linear", "linear+lightgbm"])
def test_other_heads_and_blends_fit_predict_and_say_what_they_are(
    run: Run, lesions: Path, store: Path, tmp_path: Path, head: str
) -> None:
    model = tmp_path / "model"
    fitted = run(*fit_arguments(lesions, store, model, "--head", head))
    assert fitted.exit_code == 0, fitted.output
    assert ("Blend: " in fitted.stdout) == ("+" in head)
    assert "Holding out 12 of 60 rows" in fitted.stderr
    assert ("Weighing lightgbm by" in fitted.stderr) == ("+" in head)
    assert re.search("Fitting (linear|lightgbm) to 60 rows", fitted.stderr)
    result = run(
        "predict",
        model,
        "--table",
        lesions / "table.csv",
        "--store",
        store,
        "-o",
        tmp_path / "p.csv",
    )
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv(tmp_path / "p.csv")) == 60


def test_tuning_says_what_it_found(run: Run, lesions: Path, store: Path, tmp_path: Path) -> None:
    more = ("--head", "linear", "--tune", 3)
    result = run(*fit_arguments(lesions, store, tmp_path / "model", *more))
    assert result.exit_code == 0, result.output
    assert "Tuned: LinearHead(" in result.stdout


def test_vectors_dates_and_texts_are_columns_like_others(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    table = pd.read_csv(lesions / "table.csv")
    rng = np.random.default_rng(0)
    table["spectrum"] = list(rng.normal(size=(60, 5)))
    table["seen"] = pd.date_range("2024-01-01", periods=60).astype(str)
    table["report"] = [f"a mole of {i} mm on the left arm" for i in range(60)]
    table.to_parquet(lesions / "table.parquet")
    fit = [*fit_arguments(lesions, store, tmp_path / "model", "--vector", "spectrum")]
    fit[fit.index("--table") + 1] = lesions / "table.parquet"
    result = run(*fit, "--json")
    assert result.exit_code == 0, result.output
    roles = {column["name"]: column["role"] for column in json.loads(result.stdout)["columns"]}
    assert roles["spectrum"] == "vector"
    assert roles["seen"] == "date"
    assert roles["report"] == "text"


def test_a_target_that_may_be_classes_or_numbers_is_said(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    table = rewrite(lesions, lambda t: t.assign(malignant=t["malignant"] + t.index % 3))
    assert table.is_file()
    result = run(*fit_arguments(lesions, store, tmp_path / "model"))
    assert "'malignant' holds 4 different whole numbers, taken as classes." in result.stderr
    assert "--task regression" in result.stderr


def test_classes_of_fewer_rows_than_folds_are_named(
    run: Run, lesions: Path, store: Path, tmp_path: Path
) -> None:
    rewrite(
        lesions, lambda t: t.assign(malignant=t["malignant"].astype(str).where(t.index > 2, "?"))
    )
    result = run(*fit_arguments(lesions, store, tmp_path / "model", "--head", "linear"))
    assert result.exit_code == 0, result.output
    assert "1 class of fewer rows than folds" in result.stderr
    assert "'?' (3)" in result.stderr


@pytest.mark.parametrize("seed", ["-1", "99999999999"])
def test_a_seed_out_of_range_is_a_wrong_command(
    run: Run, lesions: Path, store: Path, tmp_path: Path, seed: str
) -> None:
    result = run(*fit_arguments(lesions, store, tmp_path / "model", "--random-state", seed))
    assert result.exit_code == 2
    assert "0<=x<=4294967295" in result.stderr


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (("--head", "lightgmb"), 2, "Unknown head 'lightgmb'. Did you mean 'lightgbm'?"),
        (("--image-features", "umap"), 2, "found 'umap'"),
        (("--vector", "age"), 1, "'age'"),
        (("--date", "site"), 1, "'site'"),
        (("--task", "regression", "--class-weight", "balanced"), 2, "Class weights need classes"),
    ],
)
def test_what_stage_two_cannot_do_is_one_error(
    run: Run,
    lesions: Path,
    store: Path,
    tmp_path: Path,
    options: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    result = run(*fit_arguments(lesions, store, tmp_path / "model", *options))
    assert result.exit_code == code, result.output
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert not (tmp_path / "model").exists()


def test_the_rate_counts_from_the_first_image(monkeypatch, capsys):
    """To build and convert the CNN takes seconds, which tell nothing of what is left."""
    times = iter([100.0, 111.0])
    monkeypatch.setattr("twostage.cli.output.time.monotonic", lambda: next(times))
    progress = _lines()
    progress(32, 1000)
    progress(142, 1000)
    assert capsys.readouterr().err == "142 of 1,000 images, 10/s, 86 s left\n"
