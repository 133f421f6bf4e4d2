"""What a benchmark left in its results folder, read and checked."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from twostage.errors import BenchmarkError, UsageError
from twostage.evaluation.results import OOF, RESULTS, ResultsFolder
from twostage.opening.records import checked
from twostage.report.words import lower_is_better

IMPORTANCE = "importance.parquet"
_NEEDED = ("identity", "arms", "metrics", "counts", "folds", "task", "stores")
_CELLS = "_cells"


@dataclass(frozen=True)
class Evidence:
    """A finished benchmark.

    Attributes
    ----------
    path : Path
        The folder.
    run : dict
        Its ``run.json``.
    results : DataFrame
        A row per arm, repeat, fold and metric.
    oof : DataFrame
        Out-of-fold predictions.
    importance : DataFrame or None
        What is lost when a block or a column is shuffled: ``arm``, ``kind``, ``name``, ``value``,
        ``low``, ``high``.
    """

    path: Path
    run: dict[str, Any]
    results: pd.DataFrame
    oof: pd.DataFrame
    importance: pd.DataFrame | None

    @property
    def settings(self) -> Mapping[str, Any]:
        """How the arms were fitted."""
        return dict(self.run["identity"]["settings"])

    @property
    def target(self) -> str:
        """The column that is predicted."""
        return str(self.settings["target"])

    @property
    def metric(self) -> str:
        """The main one."""
        return str(self.run["metrics"][0])

    @property
    def is_classification(self) -> bool:
        """Whether classes are predicted."""
        return bool(self.run["task"] == "classification")

    @property
    def scores(self) -> pd.DataFrame:
        """``arm``, ``metric``, ``value``, ``low``, ``high``; NaN where run.json has null."""
        frame = pd.DataFrame(self.run["scores"])
        numbers = ["value", "low", "high"]
        frame[numbers] = frame[numbers].apply(pd.to_numeric)
        return frame

    def ranked(self) -> pd.DataFrame:
        """Return the arms with their main scores and costs, the best first."""
        main = self.scores[self.scores["metric"] == self.metric].drop(columns="metric")
        arms = pd.DataFrame(self.run["arms"]).rename(columns={"name": "arm"})
        costs = ["fit_seconds", "predict_us_per_row", "model_bytes"]
        of_metric = self.results[self.results["metric"] == self.metric]
        means = of_metric.groupby("arm", sort=False)[costs].mean().reset_index()
        frame = arms.merge(main, on="arm").merge(means, on="arm", how="left")
        return frame.sort_values(
            "value",
            ascending=lower_is_better(self.metric),
            kind="stable",
            ignore_index=True,
            na_position="last",
        )


@dataclass(frozen=True)
class ArmPredictions:
    """What one arm predicted out of fold, in the first repeat.

    Attributes
    ----------
    arm : str
        Its name.
    rows : int array of shape (n,)
        Row numbers in the table, ascending.
    frame : DataFrame of length n
        The rows of ``oof.parquet``: image columns and group.
    labels : list of str
        Classes; empty in a regression.
    y : array of shape (n,)
        Class numbers, or values.
    proba : array of shape (n, n_classes) or None
        In the order of ``labels``.
    predicted : array of shape (n,)
        Class numbers, or values.
    """

    arm: str
    rows: np.ndarray
    frame: pd.DataFrame
    labels: list[str]
    y: np.ndarray
    proba: np.ndarray | None
    predicted: np.ndarray

    @property
    def error(self) -> np.ndarray:
        """How wrong each row is: 1 less the true class's probability, or the absolute residual."""
        if self.proba is None:
            return np.asarray(np.abs(self.y - self.predicted), float)
        return np.asarray(1 - self.proba[np.arange(len(self.y)), self.y])

    def groups(self, column: str | None) -> np.ndarray:
        """Number the groups of the rows; each its own without a column."""
        if column is None or column not in self.frame:
            return np.arange(len(self.rows))
        codes = pd.factorize(self.frame[column])[0]
        is_alone = codes < 0  # a missing group is nobody's
        codes[is_alone] = codes.max(initial=-1) + 1 + np.arange(is_alone.sum())
        return np.asarray(codes)


def read_evidence(path: str | os.PathLike[str]) -> Evidence:
    """Read a results folder.

    Raises
    ------
    UsageError
        If there is no such folder.
    BenchmarkError
        If it is none of a benchmark's, or the benchmark is not finished, or it is damaged.
    """
    folder = ResultsFolder(path)
    if not folder.path.is_dir():
        raise UsageError(f"There is no results folder '{path}'. Make one: 'twostage benchmark'.")
    run = folder.read_run()
    if "scores" not in run:
        raise BenchmarkError(_unfinished(folder.path, run))
    lacking = [name for name in _NEEDED if name not in run]
    if lacking:
        raise BenchmarkError(
            f"The results in '{path}' are damaged: run.json has no '{lacking[0]}'. Run the "
            "benchmark again into a new folder."
        )
    try:
        _check_run(run)
        importance = _importance(run)
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(
            f"The results in '{path}' are damaged: run.json does not hold what it must ({error}). "
            "Run the benchmark again into a new folder."
        ) from None
    results, oof = (folder.read_table(name) for name in (RESULTS, OOF))
    return Evidence(folder.path, run, results, oof, importance)


def _check_run(run: Mapping[str, Any]) -> None:
    """Raise ValueError or KeyError if what a report is made of is of another type."""
    kinds: dict[str, Any] = {
        "metrics": list[str],
        "arms": list[dict[str, str]],
        "scores": list[dict[str, str | float | None]],
        "counts": dict[str, int | bool],
        "folds": list[dict[str, int]],
        "task": str,
        "stores": list[dict[str, Any]],
        "identity": dict[str, Any],
    }
    for name, kind in kinds.items():
        checked(kind, run[name], name)
    checked(str, run["identity"]["settings"]["target"], "the target")
    for store in run["stores"]:
        checked(dict[str, Any], store["spec"], "the spec of a store")
        for name in ("name", "path"):
            checked(str | None, store.get(name), f"the {name} of a store")
    if not run["metrics"] or not run["arms"]:
        raise ValueError("there are no metrics, or no arms")


def predictions_of(evidence: Evidence, arm: str) -> ArmPredictions:
    """Return the first repeat's predictions of an arm, in the order of the table's rows."""
    oof = evidence.oof
    mine = oof[(oof["arm"] == arm) & (oof["repeat"] == oof["repeat"].min())]
    mine = mine.sort_values("row", ignore_index=True)
    rows = mine["row"].to_numpy()
    if not evidence.is_classification:
        y, predicted = (mine[name].to_numpy(float) for name in ("y", "prediction"))
        return ArmPredictions(arm, rows, mine, [], y, None, predicted)
    names = list(mine.columns)
    # Behind the prediction: an image column may be called proba_something too.
    columns = names[names.index("prediction") + 1 :]
    labels = [name.removeprefix("proba_") for name in columns]
    number_of = {label: number for number, label in enumerate(labels)}
    try:
        y = np.array([number_of[str(label)] for label in mine["y"]], np.int64)
    except KeyError as error:
        raise BenchmarkError(
            f"The results in '{evidence.path}' are damaged: {OOF} holds the class {error}, but no "
            "probabilities of it. Run the benchmark again into a new folder."
        ) from None
    proba = mine[columns].to_numpy(float)
    return ArmPredictions(arm, rows, mine, labels, y, proba, proba.argmax(axis=1))


def _importance(run: Mapping[str, Any]) -> pd.DataFrame | None:
    found = run.get("importance")
    if not found:
        return None
    frame = pd.DataFrame(found)
    numbers = ["value", "low", "high"]
    frame[numbers] = frame[numbers].apply(pd.to_numeric)
    return frame


def _unfinished(folder: Path, run: Mapping[str, Any]) -> str:
    n_cells = len(run.get("arms", [])) * len(run.get("folds", []))
    cells = folder / _CELLS
    n_done = len(list(cells.glob("arm-*.parquet"))) if cells.is_dir() else 0
    done = f" ({n_done} of {n_cells} cells are there)" if n_cells else ""
    command = run.get("command")
    again = f": {command}" if command else ""
    return (
        f"The benchmark in '{folder}' is not finished{done}. Run its command again to finish "
        f"it{again}"
    )
