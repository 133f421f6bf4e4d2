"""A model is scored on rows that nothing in it has seen, and on no others."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from stores import write_store

from twostage.cli.main import main
from twostage.seen import SeenRows

N = 80


@dataclass
class Case:
    """A model that was trained on the first half of a table."""

    folder: Path
    frame: pd.DataFrame

    def table(self, frame: pd.DataFrame) -> Path:
        frame.to_csv(self.folder / "given.csv", index=False)
        return self.folder / "given.csv"

    def evaluate(self, frame: pd.DataFrame, *more: object, model: str = "model") -> Result:
        store = () if "--store" in more or model == "of-table" else ("--store", self.folder / "S")
        return run("evaluate", self.folder / model, "--table", self.table(frame), *store, *more)

    def scored(self, frame: pd.DataFrame, *more: object, model: str = "model") -> dict[str, Any]:
        result = self.evaluate(frame, "--json", *more, model=model)
        assert result.exit_code == 0, result.output
        return dict(json.loads(result.stdout))


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def fit(case: Case, model: str, *more: object, group: bool = True) -> None:
    table = case.table(case.frame[: N // 2])
    named = ("--image-col", "image", "--target", "label", "--head", "linear")
    groups = ("--group", "patient") if group else ("--ignore", "patient")
    store = () if model == "of-table" else (case.folder / "S",)
    result = run("fit", *store, "--table", table, *named, *groups, "-o", case.folder / model, *more)
    assert result.exit_code == 0, result.output


@pytest.fixture
def case(tmp_path: Path) -> Case:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N, 4))
    age = rng.normal(size=N).round(3)
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(N)],
            "patient": np.arange(N) // 2,
            "age": age,
            "label": (matrix[:, 0] + age > 0).astype(int),
        }
    )
    write_store(tmp_path / "S", frame["image"].tolist(), matrix)
    made = Case(tmp_path, frame)
    fit(made, "model")
    return made


def test_rows_of_the_training_are_left_out_and_counted(case: Case) -> None:
    found = case.scored(case.frame)
    assert (found["n_rows"], found["n_scored"], found["n_groups"]) == (80, 40, 20)
    assert found["left_out"]["n_by_image"] == 40
    assert found["scores"]["auc"]["value"] > 0.7
    assert found["scores"] == case.scored(case.frame[40:])["scores"]


def test_copies_and_groups_of_the_training_are_left_out_too(case: Case) -> None:
    new = case.frame[40:].reset_index(drop=True)
    new.loc[0, "image"] = "0.png"  # its patient's other row is linked with it
    new["patient"] = new["patient"].astype(float)
    new.loc[4, "patient"] = 3.0
    counts = case.scored(new)["left_out"]
    assert counts == {
        "n_by_image": 1, "n_by_group": 1, "n_by_row": 0, "n_by_backbone": 0, "n_linked": 1,
    }  # fmt: skip


def test_equal_rows_are_left_out_where_there_are_no_images(case: Case) -> None:
    fit(case, "of-table", "--features", "table", group=False)
    found = case.scored(case.frame, model="of-table")
    assert found["n_scored"] <= 40
    assert found["left_out"]["n_by_row"] >= 40


def test_what_a_tuned_backbone_has_seen_is_left_out(case: Case) -> None:
    seen = SeenRows(frozenset({"h60", "h61"}), frozenset({"35"}), "patient")
    store = write_store(
        case.folder / "T", case.frame["image"].tolist(), np.random.rand(N, 4), seen=seen
    )
    record = json.loads((case.folder / "S" / "_store.json").read_text())
    assert record["spec"] == store.spec
    found = case.scored(case.frame, "--store", store.path)
    assert found["n_scored"] == 36
    assert found["left_out"]["n_by_backbone"] == 4


def test_if_nothing_is_left_that_is_an_error(case: Case) -> None:
    result = case.evaluate(case.frame[:40])
    assert result.exit_code == 1
    assert "Nothing is left to score: the model has seen all 40 rows" in result.stderr
    assert "40 with an image that it was trained on" in result.stderr


def test_it_says_what_it_left_out_and_what_it_scored(case: Case) -> None:
    result = case.evaluate(case.frame)
    assert "Left out: 40 of 80 rows, which the model has seen: 40 with an image" in result.stdout
    assert "on 40 rows (20 groups) that nothing in it has seen:" in result.stdout
    assert "  auc  " in result.stdout


def test_predictions_are_written_with_what_is_scored(case: Case) -> None:
    case.scored(case.frame, "-o", case.folder / "P.csv")
    predictions = pd.read_csv(case.folder / "P.csv")
    assert predictions["is_scored"].sum() == 40
    assert (predictions["truth"] == case.frame["label"]).all()
    assert predictions.columns.tolist()[:3] == ["image", "patient", "prediction"]


def test_without_its_groups_that_is_said(case: Case) -> None:
    result = case.evaluate(case.frame.drop(columns="patient"))
    assert result.exit_code == 0
    assert "The table has no column 'patient', the groups of the training" in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="label"), "no target column 'label'"),
        (lambda t: t.drop(columns="age"), "The table has no trained-on column 'age'"),
        (lambda t: t.assign(label=[7, *t["label"][1:]]), "holds '7', which the model was not tau"),
        (lambda t: t.assign(label=[None, *t["label"][1:]]), "1 of 80 rows have no value in target"),
    ],
)
def test_a_table_that_does_not_fit_is_one_error(case: Case, change: Any, message: str) -> None:
    result = case.evaluate(change(case.frame))
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_wrong_command_exits_2(case: Case) -> None:
    both = case.evaluate(case.frame, "--store", case.folder / "S", "--images", case.folder)
    assert (both.exit_code, "not both" in both.stderr) == (2, True)
    without = run("evaluate", case.folder / "model", "--store", case.folder / "S")
    assert (without.exit_code, "give --table" in without.stderr) == (2, True)
