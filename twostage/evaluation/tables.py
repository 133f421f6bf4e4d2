"""The tables of a benchmark, made of its finished cells."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from twostage.evaluation.arms import Arm
from twostage.evaluation.cells import CellResult
from twostage.evaluation.gathering import Gathered
from twostage.evaluation.importance import Source
from twostage.evaluation.scoring import score_fold
from twostage.evaluation.summary import corrected_mean
from twostage.fitted import FitSettings
from twostage.intervals import FoldPrediction
from twostage.metrics import Metric


def predictions_by_arm(
    cells: Sequence[CellResult], data: Gathered
) -> dict[str, list[FoldPrediction]]:
    """Return what each arm predicted, fold by fold."""
    found: dict[str, list[FoldPrediction]] = {}
    for cell in cells:
        found.setdefault(cell.arm, []).append(
            FoldPrediction(
                cell.repeat,
                cell.fold,
                data.target.y[cell.rows],
                cell.predicted,
                data.duplicates.groups[cell.rows],
                cell.n_train,
            )
        )
    return found


def results_table(
    cells: Sequence[CellResult], arms: Sequence[Arm], data: Gathered, metrics: Sequence[Metric]
) -> pd.DataFrame:
    """Return the results table: a row per cell and metric."""
    by_name = {arm.name: arm for arm in arms}
    records = []
    for cell in cells:
        arm = by_name[cell.arm]
        values = score_fold(metrics, data.target.y[cell.rows], cell.predicted)
        records += [
            {
                "arm": arm.name,
                "head": arm.head,
                "features": arm.features,
                "store": arm.store,
                "repeat": cell.repeat,
                "fold": cell.fold,
                "metric": metric,
                "value": value,
                "fit_seconds": cell.fit_seconds,
                "predict_us_per_row": cell.predict_us_per_row,
                "model_bytes": cell.model_bytes,
                "n_train": cell.n_train,
                "n_test": len(cell.rows),
            }
            for metric, value in values.items()
        ]
    return pd.DataFrame(records)


def out_of_fold_table(
    cells: Sequence[CellResult], data: Gathered, base: FitSettings
) -> pd.DataFrame:
    """Return the out-of-fold predictions: a row per row, arm and repeat."""
    named = [*base.image_columns, *([base.group] if base.group else [])]
    classes = data.target.classes
    pieces = []
    for cell in cells:
        y = data.target.y[cell.rows]
        piece: dict[str, Any] = {"row": cell.rows}
        piece |= {name: data.frame[name].iloc[cell.rows].to_numpy() for name in named}
        piece["y"] = y if classes is None else classes[y]
        piece |= {"arm": cell.arm, "repeat": cell.repeat, "fold": cell.fold}
        if classes is None:
            piece["prediction"] = cell.predicted
        else:
            piece["prediction"] = classes[cell.predicted.argmax(axis=1)]
            piece |= {f"proba_{c}": cell.predicted[:, k] for k, c in enumerate(classes)}
        pieces.append(pd.DataFrame(piece))
    return pd.concat(pieces, ignore_index=True)


def arms_table(results: pd.DataFrame, scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    of_arm = ["arm", "head", "features", "store"]
    costs = ["fit_seconds", "predict_us_per_row", "model_bytes"]
    main = results[results["metric"] == metric]
    means = main.groupby(of_arm, sort=False)[costs].mean().reset_index()
    summary = means.merge(scores[scores["metric"] == metric], on="arm")
    return summary[[*of_arm, "metric", "value", "low", "high", *costs]]


def importance_table(cells: Sequence[CellResult], metric: str) -> pd.DataFrame:
    """Return by how much scores drop without a block or column: a row for each, and each cell.

    Parameters
    ----------
    cells : sequence of CellResult
        Arms that lack it in a cell, because it was not asked for, are left out.
    metric : str
        Of the scores. Another one needs no new cell.

    Returns
    -------
    DataFrame
        ``arm``, ``kind``, ``name``, ``repeat``, ``fold``, ``drop``. The drop is 0 in a fold whose
        model does not look at a column that others look at.
    """
    records = []
    for arm, of_arm in _told_by_arm(cells).items():
        for cell, found in of_arm:
            for kind, name in _sources(of_arm):
                drop = found.get((kind, name))
                value = 0.0 if drop is None else drop.get(metric, float("nan"))
                records.append((arm, kind, name, cell.repeat, cell.fold, value))
    columns = ["arm", "kind", "name", "repeat", "fold", "drop"]
    types = {"repeat": "int64", "fold": "int64", "drop": "float64"}
    return pd.DataFrame(records, columns=columns).astype(types)


def importance_by_arm(
    drops: pd.DataFrame, predictions: Mapping[str, Sequence[FoldPrediction]]
) -> pd.DataFrame:
    """Return what each block and column is worth, the most first, with the intervals of scores.

    Parameters
    ----------
    drops : DataFrame
        From `importance_table`.
    predictions : mapping of str to sequence of FoldPrediction
        By arm: how many rows folds test and train.

    Returns
    -------
    DataFrame
        ``arm``, ``kind``, ``name``, ``value``, ``low``, ``high``.
    """
    records = []
    for arm, of_arm in drops.groupby("arm", sort=False):
        found = []
        for (kind, name), of_source in of_arm.groupby(["kind", "name"], sort=False):
            score = corrected_mean(of_source["drop"].to_numpy(), predictions[str(arm)])
            found.append((arm, kind, name, score.value, score.low, score.high))
        records += sorted(found, key=lambda one: -np.nan_to_num(one[3], nan=-np.inf))
    return pd.DataFrame(records, columns=["arm", "kind", "name", "value", "low", "high"])


Told = list[tuple[CellResult, dict[Source, dict[str, float]]]]


def _told_by_arm(cells: Sequence[CellResult]) -> dict[str, Told]:
    found: dict[str, Told] = {}
    untold = {cell.arm for cell in cells if cell.importance is None}
    for cell in cells:
        if cell.importance is not None and cell.arm not in untold:
            by_source = {(one.kind, one.name): one.by_metric for one in cell.importance.drops}
            found.setdefault(cell.arm, []).append((cell, by_source))
    return found


def _sources(told: Told) -> list[Source]:
    return list(dict.fromkeys(source for _, found in told for source in found))
