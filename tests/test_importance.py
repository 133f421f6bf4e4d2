"""Importance: images as a block and columns, permuted among rows that the model has not seen."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression, Ridge
from stores import write_store

from twostage import benchmark
from twostage.benchmarking import Benchmark, CellDone
from twostage.cli.main import main
from twostage.errors import UsageError
from twostage.evaluation import cells
from twostage.evaluation.importance import (
    affordable,
    order_between_groups,
    permutation_importance,
)
from twostage.joins import ImageBlock
from twostage.rows import TrainingRows
from twostage.seen import SeenRows

N = 200
COLUMNS = ["arm", "kind", "name", "repeat", "fold", "drop"]


@dataclass
class Case:
    """Images and columns of which a test says what they tell."""

    folder: Path
    matrix: np.ndarray = field(init=False)
    frame: pd.DataFrame = field(init=False)
    noise: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        self.matrix = rng.normal(size=(N, 4)).astype(np.float32)
        self.noise = rng.normal(size=N)
        self.frame = pd.DataFrame(
            {
                "image": [f"{i}.png" for i in range(N)],
                "age": rng.normal(size=N),
                "site": rng.choice(["arm", "leg", "back"], N),
            }
        )

    def run(self, target: Any, name: str = "results", **changes: Any) -> Benchmark:
        """Benchmark a quick head on both, in 5 folds, by a target of these values."""
        store = self.folder / "store"
        if not store.exists():
            write_store(store, self.frame["image"].tolist(), self.matrix)
        is_number = pd.api.types.is_numeric_dtype(np.asarray(target).dtype)
        options: dict[str, Any] = {
            "table": self.frame.assign(target=target),
            "target": "target",
            "image_columns": "image",
            "heads": {"quick": Ridge() if is_number else LogisticRegression()},
            "features": ["both"],
            "near_duplicates": None,  # there are some by chance where embeddings are this short
            "n_jobs": 1,
        }
        stores = changes.pop("stores", store)
        return benchmark(stores, self.folder / name, **options | changes)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def worth(found: Benchmark) -> dict[str, Any]:
    return {one["name"]: one for one in found.run["importance"]}


def drops(found: Benchmark) -> pd.DataFrame:
    return pd.read_parquet(found.path / "importance.parquet")


def is_nothing(one: dict[str, Any]) -> bool:
    """Tell whether an interval holds 0, or all but: 1 in 20 may miss it."""
    return bool(one["low"] <= 0.005 and one["high"] >= -0.005 and abs(one["value"]) < 0.05)


# What it says of data that are known


@pytest.mark.parametrize("head", ["lightgbm", "linear"])
def test_useless_images_are_worth_nothing_and_a_column_that_tells_is_worth_much(
    case: Case, head: str
) -> None:
    label = np.where(case.frame["age"] + 0.5 * case.noise > 0, "bad", "good")
    found = worth(case.run(label, heads=[head]))
    assert is_nothing(found["images"])
    assert is_nothing(found["site"])
    assert 0.2 < found["age"]["low"] < found["age"]["value"] < found["age"]["high"] < 0.7


@pytest.mark.parametrize("head", ["lightgbm", "linear"])
def test_where_images_are_everything_columns_are_worth_nothing(case: Case, head: str) -> None:
    target = case.matrix[:, 0] + 0.3 * case.noise
    found = worth(case.run(target, metrics=["r2"], heads=[head]))
    assert is_nothing(found["age"])
    assert is_nothing(found["site"])
    assert found["images"]["low"] > 0.5


@pytest.mark.parametrize("metric", ["log_loss", "balanced_accuracy"])
def test_of_several_classes_and_of_errors_it_is_positive_where_it_helps(
    case: Case, metric: str
) -> None:
    signal = case.matrix[:, 0] + case.frame["age"]
    found = case.run(pd.cut(signal, 3, labels=["a", "b", "c"]).astype(str), metrics=[metric])
    assert worth(found)["images"]["low"] > 0
    assert worth(found)["age"]["low"] > 0
    assert found.importance["name"].iloc[-1] == "site"


def test_a_target_that_is_learned_as_logarithm_is_scored_in_its_own_unit(case: Case) -> None:
    price = np.exp(10 + 0.5 * case.matrix[:, 0] + 0.3 * case.frame["age"])
    found = case.run(price, log_target=True, metrics=["mae", "r2_log"])
    assert worth(found)["images"]["low"] > 1000
    again = case.run(price, log_target=True, metrics=["r2_log"])
    assert again.n_computed == 0
    assert 0.5 < worth(again)["images"]["low"] < worth(again)["images"]["high"] < 3


def test_each_store_has_an_importance_of_its_own(case: Case) -> None:
    write_store(case.folder / "noise", case.frame["image"].tolist(), case.matrix[::-1])
    case.run(case.matrix[:, 0], "first", metrics=["r2"])
    stores = [case.folder / "store", case.folder / "noise"]
    found = case.run(
        case.matrix[:, 0] + case.frame["age"], stores=stores, metrics=["r2"],
        features=["table", "images", "both"],
    )  # fmt: skip
    told = found.importance.set_index(["arm", "name"])
    assert told["low"]["quick, both, store", "images"] > 0.3
    assert is_nothing(told.loc[("quick, both, noise", "images")].to_dict())
    assert set(found.importance["arm"]) == {
        *("quick, table", "quick, both, store", "quick, both, noise"),
    }
    assert set(told.loc["quick, table"].index) == {"age", "site"}


# How it is computed


class Product:
    """A model of two image columns and a table column, of which it ignores another."""

    def __init__(self) -> None:
        self.dims = {"front": 1, "back": 1}
        self.table_columns = ["x", "ignored"]
        self.is_classification = False

    def looking_at(self, blocks: dict[str, ImageBlock]) -> dict[str, ImageBlock]:
        return blocks

    def predict(self, frame: pd.DataFrame, images: dict[str, ImageBlock]) -> np.ndarray:
        front, back = images["front"], images["back"]
        assert (front.matrix == back.matrix).all(), "image columns are permuted together"
        assert (front.n_images == front.matrix[:, 0] % 3).all(), "with their number of images"
        return np.asarray(front.matrix[:, 0] + 100.0 * frame["x"].to_numpy())


def rows_of_product(groups: np.ndarray) -> TrainingRows:
    n = len(groups)
    numbers = np.arange(n, dtype=np.float32)
    blocks = {
        name: ImageBlock(name, numbers[:, None], numbers % 3, [None] * n, [[]] * n)
        for name in ("front", "back", "unused")
    }
    frame = pd.DataFrame(
        {"x": numbers[::-1], "ignored": numbers, "other": "text"}, index=range(7, 7 + n)
    )
    return TrainingRows(frame, blocks, np.zeros(n), None, groups)


def test_a_drop_is_the_mean_difference_of_scores_and_permutes_rows_as_a_whole() -> None:
    n = 30
    rows = rows_of_product(np.arange(n) // 2)
    y = np.arange(n) + 100.0 * np.arange(n)[::-1]
    model: Any = Product()
    found = permutation_importance(model, rows, y, 3, 100, (0, 1, 2))
    rng = np.random.default_rng([0, 1, 2])
    orders = [order_between_groups(rows.groups, rng) for _ in range(3)]
    moves = [np.arange(n)[order] - np.arange(n) for order in orders]
    rmse = np.mean([np.sqrt(np.mean(move**2.0)) for move in moves])
    by_name = {(one.kind, one.name): one.by_metric["rmse"] for one in found.drops}
    assert list(by_name) == [("block", "images"), ("column", "x"), ("column", "ignored")]
    assert by_name["block", "images"] == pytest.approx(rmse)
    assert by_name["column", "x"] == pytest.approx(100 * rmse)
    assert by_name["column", "ignored"] == 0
    assert (found.n_asked, found.n_permutations, found.share_left_out) == (3, 3, 0)


def test_the_rows_given_are_left_as_they_are() -> None:
    rows = rows_of_product(np.arange(30))
    before = rows.frame.copy()
    model: Any = Product()
    permutation_importance(model, rows, np.zeros(30), 2, 100, (0,))
    pd.testing.assert_frame_equal(rows.frame, before)
    assert (rows.blocks["front"].matrix[:, 0] == np.arange(30)).all()


def test_values_that_are_not_finite_make_no_number() -> None:
    class Bursts(Product):
        def predict(self, frame: pd.DataFrame, images: dict[str, ImageBlock]) -> np.ndarray:
            is_own = frame["x"].to_numpy() + images["front"].matrix[:, 0] == 29
            return np.where(is_own, 1.0, np.inf)

    model: Any = Bursts()
    found = permutation_importance(model, rows_of_product(np.arange(30)), np.zeros(30), 2, 9, (0,))
    assert np.isnan([found.drops[0].by_metric["rmse"], found.drops[1].by_metric["rmse"]]).all()
    assert found.drops[2].by_metric["rmse"] == 0


@pytest.mark.parametrize(
    "sizes", [[1] * 50, [2] * 25, [25, 25], [20, 7, 1, 1, 1], [3, 3, 3], [1, 2, 3, 4, 5, 6, 7]]
)
def test_no_row_gets_values_of_its_own_group(sizes: list[int]) -> None:
    groups = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)) * 3, sizes))
    if 2 * max(sizes) > len(groups):
        groups = np.r_[groups, np.arange(100, 100 + 2 * max(sizes) - len(groups))]
    seen = set()
    for seed in range(20):
        order = order_between_groups(groups, np.random.default_rng(seed))
        assert sorted(order) == list(range(len(groups)))
        assert (groups[order] != groups).all()
        seen.add(tuple(order))
    assert len(seen) > 10


@pytest.mark.parametrize(("sizes", "n_staying"), [([8, 2], 6), ([9], 9), ([7, 1, 1], 5), ([1], 1)])
def test_of_a_group_of_most_rows_as_few_as_possible_stay(sizes: list[int], n_staying: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = order_between_groups(groups, np.random.default_rng(0))
    assert sorted(order) == list(range(len(groups)))
    assert (groups[order] == groups).sum() == n_staying


def test_what_it_costs_is_bounded_by_rows() -> None:
    assert affordable(10, 500, 2000, 5) == (5, 500)
    assert affordable(300, 500, 2000, 5) == (1, 99)
    assert affordable(20, 500, 2000, 5) == (2, 500)
    assert affordable(10**6, 500, 2000, 5) == (1, 2)
    assert affordable(3, 1, 2000, 5) == (5, 1)


def test_it_is_told_if_less_was_computed_than_asked_for(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twostage.evaluation.importance._FEWEST_ROWS", 60)
    monkeypatch.setattr("twostage.evaluation.importance._ROWS_PER_TRAINING_ROW", 0)
    found = case.run(case.frame["age"], n_folds=2)
    made = found.run["permutations"]
    assert (made["asked"], made["made"]) == (5, 1)
    assert made["largest_share_of_rows_left_out"] == pytest.approx(0.85)
    words = command(case, "--folds", 2)
    result = CliRunner().invoke(main, words)
    assert "Of 1 permutation in place of 5, of 15% of the rows, which keeps it" in result.stdout


# Folds, cells and folders


def test_the_table_has_a_row_for_each_fold_block_and_column(case: Case) -> None:
    found = case.run(case.frame["age"], n_repeats=2, n_folds=3, features=["both", "table"])
    table = drops(found)
    assert table.columns.tolist() == COLUMNS
    assert len(table) == 6 * (3 + 2)
    kinds = table[["kind", "name"]].drop_duplicates().apply(tuple, axis=1).tolist()
    assert kinds == [("block", "images"), ("column", "age"), ("column", "site")]
    means = table.groupby(["arm", "name"])["drop"].mean()
    told = found.importance.set_index(["arm", "name"])["value"]
    assert told.to_dict() == pytest.approx(means.to_dict())
    of_both = found.importance[found.importance["arm"] == "quick, both"]
    assert of_both["value"].is_monotonic_decreasing
    assert found.run["importance"] == found.importance.to_dict("records")


def test_a_column_that_varies_in_later_folds_alone_counts_nothing_before(case: Case) -> None:
    when = np.arange(N)
    late = np.where(when < 120, 0.0, case.frame["age"])
    case.frame = case.frame.assign(when=when, late=late)
    found = case.run(late + 0.1 * case.noise, time_column="when", n_folds=3, metrics=["r2"])
    of_late = drops(found).query("name == 'late'").sort_values("fold")["drop"].tolist()
    assert len(of_late) == 3
    assert of_late[0] == 0


@pytest.mark.slow
def test_the_number_of_processes_changes_nothing(case: Case) -> None:
    alone = case.run(case.frame["age"], "alone", n_jobs=1, n_folds=2)
    together = case.run(case.frame["age"], "together", n_jobs=2, n_folds=2)
    pd.testing.assert_frame_equal(drops(alone), drops(together), check_exact=True)
    other = case.run(case.frame["age"], "other", random_state=1, n_folds=2)
    assert not drops(alone)["drop"].equals(drops(other)["drop"])


def test_a_benchmark_that_was_stopped_ends_with_the_importance_of_an_undisturbed_one(
    case: Case,
) -> None:
    def stop(cell: CellDone) -> None:
        if cell.n_done == 3:
            raise KeyboardInterrupt

    whole = case.run(case.frame["age"], "whole")
    with pytest.raises(KeyboardInterrupt):
        case.run(case.frame["age"], "stopped", progress=stop)
    resumed = case.run(case.frame["age"], "stopped")
    assert resumed.n_computed == 2
    pd.testing.assert_frame_equal(drops(whole), drops(resumed), check_exact=True)


def test_cells_without_importance_are_computed_again_if_it_is_asked_for(case: Case) -> None:
    how: dict[str, Any] = {"features": ["table", "images", "both"], "n_folds": 2}
    without = case.run(case.frame["age"], importance=False, **how)
    assert without.run["importance"] == []
    assert without.run["permutations"] is None
    assert drops(without).columns.tolist() == COLUMNS
    assert len(drops(without)) == 0
    oof = pd.read_parquet(without.path / "oof.parquet")
    asked = case.run(case.frame["age"], **how)
    assert asked.n_computed == 4  # the images alone have none
    pd.testing.assert_frame_equal(oof, pd.read_parquet(asked.path / "oof.parquet"))
    assert case.run(case.frame["age"], **how).n_computed == 0
    kept = case.run(case.frame["age"], importance=False, **how)
    assert kept.n_computed == 0
    pd.testing.assert_frame_equal(drops(asked), drops(kept))
    more = case.run(case.frame["age"], importance=7, **how)
    assert (more.n_computed, more.run["permutations"]["made"]) == (4, 7)


def test_less_than_no_permutation_is_refused(case: Case) -> None:
    with pytest.raises(UsageError, match="number of permutations is -1; give 0 or more"):
        case.run(case.frame["age"], importance=-1)


@pytest.mark.parametrize("allow_seen", [False, True])
def test_no_seen_row_is_permuted(
    case: Case, allow_seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    permuted: list[int] = []

    def watched(model: Any, test: TrainingRows, *more: Any) -> Any:
        permuted.extend(test.frame.index)
        return permutation_importance(model, test, *more)

    monkeypatch.setattr(cells, "permutation_importance", watched)
    seen = SeenRows(frozenset(f"h{i}" for i in range(30)))
    write_store(case.folder / "tuned", case.frame["image"].tolist(), case.matrix, seen=seen)
    case.run(case.frame["age"], stores=case.folder / "tuned", allow_seen=allow_seen, n_folds=2)
    assert sorted(permuted) == list(range(30, N))


# The command


def command(case: Case, *more: object) -> list[str]:
    path = case.folder / "table.csv"
    case.frame.assign(target=case.frame["age"]).to_csv(path, index=False)
    words = (
        *("benchmark", case.folder / "store", "--table", path, "--target", "target"),
        *("--image-col", "image", "--heads", "lightgbm", "--features", "table,both"),
        *("--n-jobs", 1, "--near-duplicates", "off", "--quiet", "-o", case.folder / "R", *more),
    )
    return [str(word) for word in words]


def test_the_command_tells_what_is_worth_the_most(case: Case) -> None:
    write_store(case.folder / "store", case.frame["image"].tolist(), case.matrix)
    asked = command(case, "--folds", 2)
    result = CliRunner().invoke(main, [*asked, "--no-importance"])
    assert result.exit_code == 0, result.output
    assert "Worth" not in result.stdout
    result = CliRunner().invoke(main, asked)
    (line,) = [one for one in result.stdout.splitlines() if one.startswith("Worth")]
    assert re.match(r"Worth to 'lightgbm, both', in r2: age \d\.\d{3} \(", line)
    assert line.count(" to ") == 1 + 3
    record = json.loads(CliRunner().invoke(main, [*asked, "--json"]).stdout)
    assert record["n_cells_computed"] == 0
    assert [list(one) for one in record["importance"][:1]] == [
        ["arm", "kind", "name", "value", "low", "high"]
    ]
