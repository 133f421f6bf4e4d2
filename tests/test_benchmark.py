"""Benchmarks: paired arms, honest rows, cells that survive a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sklearn.linear_model import LogisticRegression
from stores import write_store

from twostage import benchmark
from twostage.benchmarking import Benchmark, CellDone
from twostage.cli.main import main
from twostage.errors import BenchmarkError, DataError, UsageError
from twostage.evaluation import cells
from twostage.evaluation.findings import find
from twostage.metrics import METRICS
from twostage.seen import SeenRows

N = 120
TIMINGS = ["fit_seconds", "predict_us_per_row", "model_bytes"]


@dataclass
class Case:
    """A table whose target is half in the images, half in the table."""

    folder: Path
    frame: pd.DataFrame
    matrix: np.ndarray

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def run(self, name: str = "results", **changes: Any) -> Benchmark:
        options: dict[str, Any] = {
            "table": self.frame,
            "target": "label",
            "image_columns": "image",
            "heads": ["lightgbm"],
            "n_folds": 3,
            "n_jobs": 1,
            "near_duplicates": None,  # in six dimensions, strangers look alike
        }
        stores = changes.pop("stores", self.store)
        return benchmark(stores, self.folder / name, **options | changes)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N, 6)).astype(np.float32)
    age = rng.normal(size=N)
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(N)],
            "patient": [f"P{i // 2}" for i in range(N)],
            "when": rng.permutation(N),
            "age": age,
            "label": np.where(matrix[:, 0] + age > 0, "bad", "good"),
            "price": np.exp(matrix[:, 0] + age).round(4),
        }
    )
    write_store(tmp_path / "store", frame["image"].tolist(), matrix)
    frame.to_csv(tmp_path / "table.csv", index=False)
    return Case(tmp_path, frame.drop(columns="price"), matrix)


def out_of_fold(found: Benchmark) -> pd.DataFrame:
    return pd.read_parquet(found.path / "oof.parquet")


def results(found: Benchmark) -> pd.DataFrame:
    return pd.read_parquet(found.path / "results.parquet")


def test_every_arm_predicts_every_row_on_the_same_folds(case: Case) -> None:
    found = case.run(heads=["lightgbm", "linear"], n_repeats=2, group="patient")
    oof = out_of_fold(found)
    names = [f"{h}, {f}" for h in ("lightgbm", "linear") for f in ("table", "images", "both")]
    assert found.summary["arm"].tolist() == names
    folds = []
    for _, of_arm in oof.groupby("arm"):
        assert len(of_arm) == 2 * N
        for _, of_repeat in of_arm.groupby("repeat"):
            assert np.sort(of_repeat["row"]).tolist() == list(range(N))
        folds.append(of_arm.set_index(["repeat", "row"])["fold"].sort_index())
    assert all(fold.equals(folds[0]) for fold in folds)
    by_patient = oof.groupby(["arm", "repeat", "patient"])["fold"].nunique()
    assert (by_patient == 1).all()


def test_the_tables_have_the_columns_that_are_promised(case: Case) -> None:
    found = case.run(group="patient")
    assert results(found).columns.tolist() == [
        *("arm", "head", "features", "store", "repeat", "fold", "metric", "value"),
        *("fit_seconds", "predict_us_per_row", "model_bytes", "n_train", "n_test"),
    ]
    assert (results(found)[TIMINGS] > 0).all(axis=None)
    oof = out_of_fold(found)
    assert oof.columns.tolist() == [
        *("row", "image", "patient", "y", "arm", "repeat", "fold"),
        *("prediction", "proba_bad", "proba_good"),
    ]
    given = case.frame.loc[oof["row"]].reset_index(drop=True)
    assert (oof["y"] == given["label"]).all()
    assert (oof["image"] == given["image"]).all()
    assert set(results(found)["metric"]) == {
        *("auc", "average_precision", "log_loss", "brier"),
        *("accuracy", "balanced_accuracy", "f1"),
    }


def test_a_score_is_of_all_rows_and_an_auc_the_mean_of_the_folds(case: Case) -> None:
    found = case.run(metrics=["accuracy", "auc"])
    oof = out_of_fold(found)
    is_right = oof["prediction"] == oof["y"]
    shares = is_right.groupby(oof["arm"]).mean()
    assert found.summary.set_index("arm")["value"].to_dict() == pytest.approx(shares.to_dict())
    cells = results(found).query("metric == 'auc'")
    by_arm = {
        arm: np.average(of_arm["value"], weights=of_arm["n_test"])
        for arm, of_arm in cells.groupby("arm")
    }
    scores = found.scores.query("metric == 'auc'").set_index("arm")["value"]
    assert scores.to_dict() == pytest.approx(by_arm)


def test_what_images_add_is_found_and_said(case: Case) -> None:
    found = case.run(heads=["lightgbm", "linear"])
    scores = found.summary.set_index("arm")["value"]
    assert (
        scores["lightgbm, both"] > max(scores["lightgbm, table"], scores["lightgbm, images"]) + 0.05
    )
    of_images = {one.arm: one for one in found.findings if one.kind == "images"}
    gain = of_images["lightgbm, both"].difference
    assert gain.value == pytest.approx(scores["lightgbm, both"] - scores["lightgbm, table"])
    assert gain.low < gain.value < gain.high
    said = of_images["lightgbm, both"].sentence
    assert said.startswith(f"With lightgbm, images add {gain.value:.3f} AUC to the table (95% int")
    (of_heads,) = [one for one in found.findings if one.kind == "heads"]
    assert (of_heads.arm, of_heads.against) == ("lightgbm, both", "linear, both")
    assert "linear does better than lightgbm on images and table by" in of_heads.sentence


def test_an_error_metric_is_better_where_it_is_lower(case: Case) -> None:
    frame = pd.read_csv(case.folder / "table.csv").drop(columns="label")
    found = case.run(table=frame, target="price", log_target=True, metrics=["rmse", "r2_log"])
    (said,) = [one.sentence for one in found.findings if one.kind == "images"]
    assert said.startswith("With lightgbm, images lower the table's RMSE by ")
    values = found.scores.set_index(["arm", "metric"])["value"]
    assert values["lightgbm, both", "r2_log"] > 0.6
    assert values["lightgbm, both", "rmse"] < values["lightgbm, table", "rmse"]


def test_several_stores_are_arms_and_the_table_is_one(case: Case) -> None:
    noise = np.random.default_rng(1).normal(size=(N, 4))
    write_store(case.folder / "noise", case.frame["image"].tolist(), noise)
    found = case.run(stores=[case.store, case.folder / "noise"])
    assert found.summary["arm"].tolist() == [
        "lightgbm, table",
        *("lightgbm, images, store", "lightgbm, images, noise"),
        *("lightgbm, both, store", "lightgbm, both, noise"),
    ]
    (of_stores,) = [one for one in found.findings if one.kind == "stores"]
    assert of_stores.sentence.startswith("store does better than noise with lightgbm by")


def test_a_planted_duplicate_is_kept_in_one_fold_and_counted(case: Case) -> None:
    case.matrix[100] = case.matrix[1]  # equal bytes
    case.matrix[101] = case.matrix[2] + 1e-4
    hashes = [f"h{i}" for i in range(N)]
    hashes[100] = "h1"
    write_store(case.folder / "twins", case.frame["image"].tolist(), case.matrix, hashes)
    for name, threshold in (("on", 0.999), ("off", None)):
        found = case.run(
            name,
            stores=case.folder / "twins",
            near_duplicates=threshold,
            n_repeats=4,
            features=["images"],
        )
        oof = out_of_fold(found).set_index(["row", "repeat"])["fold"].unstack()
        assert (oof.loc[1] == oof.loc[100]).all()
        assert (oof.loc[2] == oof.loc[101]).all() == (threshold is not None)
        counts = found.run["counts"]
        assert counts["n_rows_with_equal_images"] == 2
        assert counts["n_near_duplicate_pairs"] == (threshold is not None)


@pytest.mark.parametrize("allow_seen", [False, True])
def test_seen_rows_are_never_scored(case: Case, allow_seen: bool) -> None:
    seen = SeenRows(frozenset(f"h{i}" for i in range(30)), frozenset({"P20"}), "patient")
    write_store(case.folder / "tuned", case.frame["image"].tolist(), case.matrix, seen=seen)
    found = case.run(
        stores=[case.store, case.folder / "tuned"], group="patient", allow_seen=allow_seen
    )
    rows = set(out_of_fold(found)["row"])
    assert rows == set(range(30, N)) - {40, 41}
    counts = found.run["counts"]
    assert (counts["n_seen"], counts["n_scored"]) == (32, 88)
    n_train = results(found)["n_train"]
    assert (n_train > 88).any() == allow_seen


def test_if_all_rows_are_seen_there_is_nothing_to_score(case: Case) -> None:
    seen = SeenRows(is_known=False)
    write_store(case.folder / "tuned", case.frame["image"].tolist(), case.matrix, seen=seen)
    with pytest.raises(DataError, match=r"tuned on all 120 rows.*seen.parquet, .* is gone"):
        case.run(stores=case.folder / "tuned", allow_seen=True)


def test_nothing_is_learned_from_test_rows(case: Case) -> None:
    """A category that tells each row's label by target encoding would, if it were."""
    rng = np.random.default_rng(3)
    case.frame["label"] = rng.choice(["bad", "good"], N)
    case.frame["street"] = [f"S{i // 2}" for i in range(N)]
    found = case.run(features=["table"], n_repeats=3)
    assert found.summary["value"].iloc[0] < 0.65


def test_time_goes_forward(case: Case) -> None:
    found = case.run(time_column="when", n_folds=3)
    oof = out_of_fold(found)
    when = case.frame["when"].loc[oof["row"]].to_numpy()
    assert oof.assign(when=when).groupby("fold")["when"].min().is_monotonic_increasing
    assert found.run["counts"]["n_scored"] == 90


def test_a_split_column_is_no_feature(case: Case) -> None:
    case.frame["part"] = np.where(case.frame["label"] == "bad", "f1", "f2")
    case.frame.loc[::2, "part"] = np.where(np.arange(N // 2) % 2, "f1", "f2")
    found = case.run(split="part", features=["table"])
    assert len(found.run["folds"]) == 2
    assert found.summary["value"].iloc[0] < 0.95


def test_without_a_store_the_table_alone_is_compared(case: Case) -> None:
    found = case.run(stores=[], features=["table"], image_columns=())
    assert found.summary["arm"].tolist() == ["lightgbm, table"]
    with pytest.raises(UsageError, match="Without a store heads see the table alone"):
        case.run("other", stores=[], features=["both"])


def test_a_table_without_columns_leaves_images_alone(case: Case) -> None:
    found = case.run(table=case.frame[["image", "label"]])
    assert found.summary["arm"].tolist() == ["lightgbm, images"]


def test_an_estimator_of_ones_own_is_an_arm(case: Case) -> None:
    found = case.run(heads={"mine": LogisticRegression(C=0.1)}, features=["table"])
    assert found.summary["arm"].tolist() == ["mine, table"]
    assert found.summary["model_bytes"].iloc[0] > 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"metrics": ["rmse"]}, UsageError, "'rmse' is for regression, not classification"),
        ({"metrics": ["acuracy"]}, UsageError, "Unknown metric 'acuracy'. Did you mean 'accuracy'"),
        ({"heads": ["lightgmb"]}, UsageError, "Unknown head 'lightgmb'"),
        ({"heads": ["lightgbm", "lightgbm"]}, UsageError, "Two heads are called 'lightgbm'"),
        ({"features": ["pictures"]}, UsageError, "Unknown features 'pictures'"),
        ({"group": "patient", "n_folds": 61}, DataError, "60 groups .* fewer than the 61 folds"),
        ({"near_duplicates": 2.0}, UsageError, "threshold of near-duplicates is 2.0"),
        ({"n_jobs": 0}, UsageError, "number of jobs is 0"),
        ({"time_column": "when", "split": "when"}, UsageError, "give one of the two"),
        ({"target": "lable"}, DataError, "Did you mean 'label'"),
    ],
)
def test_what_is_wrong_is_said(
    case: Case, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        case.run(**changes)


def test_nan_predictions_name_the_arm_and_the_fold(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_predict = cells._predict

    def spoiled(model: Any, frame: pd.DataFrame, images: Any) -> Any:
        predicted, seconds = true_predict(model, frame, images)
        if 7 in frame.index:
            predicted[0] = np.nan
        return predicted, seconds

    monkeypatch.setattr(cells, "_predict", spoiled)
    with pytest.raises(
        BenchmarkError, match=r"Arm 'lightgbm, table', repeat 1, fold \d: 1 of 40 pr"
    ):
        case.run()
    monkeypatch.undo()
    n_there = len(list((case.folder / "results" / "_cells").glob("*.parquet")))
    assert case.run().n_computed == 9 - n_there


def test_another_error_in_a_cell_names_it_too(case: Case) -> None:
    matrix = np.full((N, 3), np.nan)
    matrix[:10] = 1.0
    write_store(case.folder / "few", case.frame["image"].tolist(), matrix)
    how = np.where(np.arange(N) < 20, "test", "train")
    with pytest.raises(
        BenchmarkError, match=r"Arm 'lightgbm, images', repeat 1, fold 1: .* no usab"
    ):
        case.run(
            table=case.frame.assign(part=how), stores=case.folder / "few", split="part",
            features=["images"],
        )  # fmt: skip


# Finished cells


def test_finished_cells_are_not_computed_again(case: Case) -> None:
    first = case.run()
    watched: list[CellDone] = []
    again = case.run(progress=watched.append)
    assert (first.n_computed, again.n_computed) == (9, 0)
    assert all(cell.was_there for cell in watched)
    pd.testing.assert_frame_equal(results(first), results(again))
    (case.folder / "results" / "_cells" / "arm-001-repeat-000-fold-002.parquet").write_bytes(b"x")
    assert case.run().n_computed == 1


def test_a_metric_more_needs_no_cell(case: Case) -> None:
    case.run(metrics=["auc"])
    again = case.run(metrics=["accuracy", "auc"])
    assert again.n_computed == 0
    assert set(results(again)["metric"]) == {"accuracy", "auc"}


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"n_folds": 4}, "resampling: n_folds was 3, is now 4"),
        ({"heads": ["linear"]}, "heads: lightgbm was"),
        ({"target": "patient"}, "settings: target was label, is now patient"),
        ({"random_state": 5}, "settings: random_state was 0, is now 5"),
        ({"group": "patient"}, "settings: group was absent, is now patient"),
    ],
)
def test_results_of_other_settings_are_refused_with_what_differs(
    case: Case, changes: dict[str, Any], difference: str
) -> None:
    case.run(features=["table"], image_columns="image")
    before = (case.folder / "results" / "results.parquet").read_bytes()
    if "target" in changes:
        changes |= {"table": case.frame.assign(patient=case.frame["label"])}
    with pytest.raises(BenchmarkError, match=f"another benchmark: .*{difference}"):
        case.run(features=["table"], **changes)
    assert (case.folder / "results" / "results.parquet").read_bytes() == before


def test_results_of_another_table_or_store_are_refused(case: Case) -> None:
    case.run()
    with pytest.raises(BenchmarkError, match="table: other values"):
        case.run(table=case.frame.assign(age=case.frame["age"] + 1))
    hashes = [f"other{i}" for i in range(N)]
    write_store(case.folder / "b" / "store", case.frame["image"].tolist(), case.matrix, hashes)
    with pytest.raises(BenchmarkError, match="stores: store was"):
        case.run(stores=case.folder / "b" / "store")


def test_a_folder_of_something_else_is_left_alone(case: Case) -> None:
    (case.folder / "results").mkdir()
    (case.folder / "results" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files in it than a benchmark's"):
        case.run()
    assert os.listdir(case.folder / "results") == ["thesis.txt"]


def command(case: Case, output: Path, *more: object) -> list[str]:
    words = (
        *("benchmark", case.store, "--table", case.folder / "table.csv", "--target", "label"),
        *("--image-col", "image", "--ignore", "price", "--heads", "lightgbm,linear"),
        *("--near-duplicates", "off", "-o", output, *more),
    )
    return [str(word) for word in words]


def comparable(folder: Path) -> tuple[pd.DataFrame, ...]:
    table = pd.read_parquet(folder / "results.parquet").drop(columns=TIMINGS)
    others = (pd.read_parquet(folder / f"{name}.parquet") for name in ("oof", "importance"))
    return (table, *others)


@pytest.mark.slow
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_killed_benchmark_goes_on_and_ends_as_an_undisturbed_one(case: Case, n_jobs: int) -> None:
    killed, whole = case.folder / "killed", case.folder / "whole"
    asked = ("--heads", "lightgbm", "--repeats", 4, "--n-jobs", n_jobs, "--quiet")
    code = "from twostage.cli.main import main; main()"
    process = subprocess.Popen([sys.executable, "-c", code, *command(case, killed, *asked)])
    cells_of = (killed / "_cells").glob
    while process.poll() is None and len(list(cells_of("arm*"))) < 5:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    there = {path: path.stat().st_mtime_ns for path in cells_of("arm*")}
    assert 5 <= len(there) < 60
    assert not (killed / "results.parquet").exists()
    result = CliRunner().invoke(main, [*command(case, killed, *asked), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["n_cells_computed"] == 60 - len(there)
    assert {path: path.stat().st_mtime_ns for path in there} == there
    assert CliRunner().invoke(main, command(case, whole, *asked)).exit_code == 0
    for one, other in zip(comparable(killed), comparable(whole), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(case: Case) -> None:
    how = {"heads": ["linear", "keras"], "features": ["both"], "n_folds": 2}
    alone = case.run("alone", n_jobs=1, **how)
    together = case.run("together", n_jobs=2, **how)
    for one, other in zip(comparable(alone.path), comparable(together.path), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=True)


# The command


def invoke(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def test_the_command_prints_arms_and_what_follows(case: Case) -> None:
    result = invoke(*command(case, case.folder / "R", "--n-jobs", 1, "--group", "patient"))
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == (
        "Target 'label': classification, 120 rows in 60 groups; 120 scored in 5 folds."
    )
    assert lines[2].split() == ["arm", "auc", "95%", "interval", "fit", "predict/row", "model"]
    assert lines[3].startswith("lightgbm, table ")
    assert any(line.startswith("With linear, images add 0.") for line in lines)
    assert any("on images and table by" in line for line in lines)
    run = json.loads((case.folder / "R" / "run.json").read_text())
    assert run["counts"]["n_scored"] == 120
    assert run["identity"]["versions"]["lightgbm"]
    assert run["command"].startswith("twostage")


def test_the_command_reports_as_json(case: Case) -> None:
    how = ("--features", "table", "--json", "--quiet", "--metrics", "accuracy,auc", "--folds", 3)
    result = invoke(*command(case, case.folder / "R", "--n-jobs", 1, *how))
    assert result.stderr == ""
    record = json.loads(result.stdout)
    assert [arm["metric"] for arm in record["arms"]] == ["accuracy"] * 2
    assert record["n_cells_computed"] == 6


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--split", "when", "--folds", 3), "--split says which folds there are"),
        (("--near-duplicates", "some"), "--near-duplicates is a cosine such as 0.95, or off"),
        (("--time", "when", "--repeats", 2), "cuts the rows in one way only"),
        (("--metrics", "rmse"), "'rmse' is for regression, not classification"),
    ],
)
def test_a_wrong_command_exits_2(case: Case, more: tuple[object, ...], message: str) -> None:
    result = invoke(*command(case, case.folder / "R", *more))
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (case.folder / "R").exists()


def test_a_folder_per_class_needs_no_table(case: Case) -> None:
    names = [f"{label}/{i}.png" for i, label in enumerate(case.frame["label"])]
    write_store(case.folder / "sorted", names, case.matrix)
    more = ("--target-from-folder", "--heads", "lightgbm", "--n-jobs", 1, "-o", case.folder / "R")
    result = invoke("benchmark", case.folder / "sorted", *more)
    assert result.exit_code == 0, result.output
    assert "lightgbm, images" in result.stdout


@pytest.mark.slow
def test_unusable_images_are_counted_and_exit_3(case: Case) -> None:
    case.matrix[[3, 4]] = np.nan
    write_store(case.folder / "holes", case.frame["image"].tolist(), case.matrix)
    words = command(case, case.folder / "R", "--n-jobs", 1)
    words[1] = str(case.folder / "holes")
    result = invoke(*words)
    assert result.exit_code == 3, result.output
    assert "2 rows with an unusable image" in result.stderr


def test_findings_need_the_same_folds(case: Case) -> None:
    assert find([], {}, METRICS["auc"]) == []
