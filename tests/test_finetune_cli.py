"""``twostage finetune``: what it takes, what it says, what it exits with."""

import io
import json
import shutil
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from tuning import save_small_network, write_photos

from twostage.cli import output
from twostage.cli.finetune import describe
from twostage.cli.main import main
from twostage.errors import FinetuningError
from twostage.finetuning import FinetuningSummary
from twostage.training.settings import TuningSettings


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of photos, their table, and a network."""
    folder = tmp_path_factory.mktemp("data")
    table = write_photos(folder / "photos")
    for image, label in zip(table["image"], table["label"], strict=True):
        (folder / "sorted" / label).mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "photos" / image, folder / "sorted" / label / image)
    table.to_csv(folder / "table.csv", index=False)
    save_small_network(folder)
    return folder


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["finetune", *[str(argument) for argument in arguments]])


def tune(data: Path, output: Path, *more: object, table: Path | None = None) -> Result:
    """Run a tuning of no epochs; what is given last counts."""
    named = ("--table", table or data / "table.csv", "--image-col", "image", "--target", "label")
    how = ("--backbone", data / "small.keras", "--epochs", 0)
    return run(data / "photos", "-o", output, *named, *how, *more)


def test_the_help_tells_all_settings_with_their_defaults() -> None:
    result = run("--help")
    assert result.exit_code == 0
    for setting in fields(TuningSettings):
        option = {"learning_rate": "lr"}.get(setting.name, setting.name).replace("_", "-")
        assert f"--{option}" in result.stdout
    assert "Without labels there is nothing to tune by" in " ".join(result.stdout.split())


def test_the_defaults_are_those_of_the_settings() -> None:
    command = main.commands["finetune"]
    assert isinstance(command, click.Command)
    defaults = {parameter.name: parameter.default for parameter in command.params}
    for setting in fields(TuningSettings):
        given = defaults[str(setting.name)]
        is_set = given not in (None, False) and "UNSET" not in repr(given)
        assert given == setting.default if is_set else not setting.default, setting.name


def test_it_says_what_was_trained_on_what_and_what_comes_next(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned"
    result = tune(data, output, "--group", "patient", "--epochs", 1, "--batch-size", 8)
    assert result.exit_code == 0, result.output
    said = result.stdout
    assert f"{output}: small.keras, 5 of 5 blocks trained on 16 images (classification); " in said
    assert "4 more chose the epoch, 20 were held back" in said
    assert f"Next: twostage extract IMAGES -o STORE --backbone {output}" in said
    assert "epoch 1, loss" in result.stderr
    assert "Embedding 20 images with the frozen backbone" in result.stderr


def test_quietly_it_prints_the_result_alone(data: Path, tmp_path: Path) -> None:
    result = tune(data, tmp_path / "tuned", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert "Of no epochs: the backbone is as it was." in result.stdout
    assert "No epoch was better" not in result.stdout
    assert "Next:" in result.stdout


def test_the_summary_is_one_json_object(data: Path, tmp_path: Path) -> None:
    result = tune(data, tmp_path / "tuned", "--json", "--holdout", 0.25)
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert set(record) == {field.name for field in fields(FinetuningSummary)}
    assert record["n_held_back"] == 10
    assert record["history"][0]["loss"] is None
    assert record["history"][0]["epoch"] == 0


def test_classes_may_be_folders(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "tuned"
    result = run(data / "sorted", "-o", output, "--target-from-folder", "--epochs", 0,
                 "--backbone", data / "small.keras")  # fmt: skip
    assert result.exit_code == 0, result.output
    training = json.loads((output / "backbone.json").read_text())["training"]
    assert training["classes"] == ["class_0", "class_1"]
    assert training["target"] == "folder"


def test_unusable_images_are_told_and_give_exit_code_3(data: Path, tmp_path: Path) -> None:
    table = pd.read_csv(data / "table.csv")
    table.loc[[3, 5], "image"] = ["gone.png", None]
    table.to_csv(tmp_path / "table.csv", index=False)
    result = tune(data, tmp_path / "tuned", table=tmp_path / "table.csv")
    assert result.exit_code == 3
    assert "2 rows without a usable image; first: 'gone.png': read: " in result.stderr
    assert (tmp_path / "tuned" / "backbone.keras").is_file()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--target", "nosuch"], 1, "nosuch"),
        (["--group", "nosuch"], 1, "nosuch"),
        (["--image-col", "nosuch"], 1, "nosuch"),
        (["--unfreeze", "block_77"], 2, "has no block 'block_77'. Did you mean"),
        (["--unfreeze", "77"], 2, "The backbone has 5 blocks; asked to train 77"),
        (["--copies", "2"], 2, "unfreeze='all' has none"),
        (["--holdout", "1"], 2, "--holdout"),
        (["--lr", "7"], 2, "--lr"),
        (["--augment", "wild"], 2, "wild"),
        (["--backbone", "nosuch"], 2, "nosuch"),
        (["--backbone", "nosuch.keras"], 2, "There is no file 'nosuch.keras'"),
        (["--target-from-folder"], 2, "goes without --table, --target, --image-col"),
        (["--log-target"], 2, "--log-target needs a regression"),
        (["--target", "value", "--class-weight", "balanced"], 2, "Class weights need classes"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_is_wrong_is_told_in_one_line(
    data: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    result = tune(data, tmp_path / "tuned", *arguments)
    assert result.exit_code == code, result.output
    assert said in result.stderr
    assert "Traceback" not in result.output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Give --table and --target, or --target-from-folder"),
        (["--table", "table.csv"], "Give --table and --target"),
        (["--table", "table.csv", "--target", "label"], "Give --image-col"),
    ],
)
def test_without_labels_it_says_what_to_give(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(data)
    result = run("photos", "-o", tmp_path / "tuned", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_folder_that_is_not_there_is_told(data: Path, tmp_path: Path) -> None:
    result = run(data / "nosuch", "-o", tmp_path / "tuned", "--target-from-folder")
    assert result.exit_code == 2
    assert "nosuch" in result.stderr


def test_an_error_of_the_training_gives_exit_code_1(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise FinetuningError("The disk is full.")

    monkeypatch.setattr("twostage.finetuning.finetune", fails)
    result = tune(data, tmp_path / "tuned")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "Error: The disk is full." in result.stderr


def test_an_interrupted_run_says_that_it_goes_on(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("twostage.finetuning.finetune", interrupted)
    result = tune(data, tmp_path / "tuned")
    assert result.exit_code == 130
    assert "Run the same command again" in result.stderr


class Terminal(io.StringIO):
    """A screen."""

    def isatty(self) -> bool:
        return True


def test_the_bar_of_decoding_rests_while_steps_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    with output._bar() as progress:
        for _ in range(2):
            progress(1, 2)
            assert sys.stderr is not screen  # words would go above the bar
            progress(2, 2)
            assert sys.stderr is screen
        drawn = screen.getvalue()
        step = output._steps()
        step(1, 2, 1, 2, 0.5)
        step(1, 2, 2, 2, 0.25)
    told = screen.getvalue()[len(drawn) :]
    assert told.startswith("\repoch 1 of 2: step 1 of 2, loss 0.500\x1b[K\repoch 1 of 2: step 2")
    assert told.endswith(" left\x1b[K\n")


def test_away_from_a_terminal_steps_are_told_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = iter([0.0, 1.0, 9.0, 11.0, 12.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    step = output._steps()
    for number in range(1, 5):
        step(2, 3, number, 4, 0.5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "epoch 2 of 3: step 3 of 4, loss 0.500, about 25 s left"


# The words of a summary


def a_summary(**changes: Any) -> FinetuningSummary:
    said = {
        "backbone": "tuned",
        "parent": "mobilenet_v2",
        "task": "classification",
        "metric": "auc",
        "n_trained": 1600,
        "n_validation": 400,
        "n_held_back": 2000,
        "n_rows_left_out": 0,
        "first_error": None,
        "best_epoch": 3,
        "frozen_score": 0.81,
        "score": 0.92,
        "n_blocks": 19,
        "n_blocks_trained": 4,
        "images_per_s": 80.0,
        "seconds": 99.6,
        "history": pd.DataFrame({"epoch": np.arange(5)}),
    }
    return FinetuningSummary(**said | changes)


def test_a_better_epoch_is_told_with_what_its_score_is_worth() -> None:
    said = describe(a_summary(notes=["Image names matched."]))
    assert said.splitlines()[0] == "Image names matched."
    assert "tuned: mobilenet_v2, 4 of 19 blocks trained on 1,600 images" in said
    assert "400 more chose the epoch, 2,000 were held back; 100 s." in said
    assert "Kept epoch 3: AUC 0.920 on the images that chose it, 0.810 with the frozen" in said
    assert "the score of 'twostage fit' is the one to believe" in said


def test_it_is_told_if_no_epoch_was_better() -> None:
    said = describe(a_summary(best_epoch=0, metric="r2", frozen_score=0.5))
    assert "No epoch was better than the frozen backbone (R2 0.500 on the images that" in said
    assert "its weights were kept as they were" in said


def test_it_is_told_why_it_ended_early() -> None:
    assert "Ended early: 4 epochs without a better score." in describe(
        a_summary(stopped="4 epochs without a better score")
    )
