"""The tables of a benchmark, made of its finished cells."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from twostage.evaluation.arms import Arm
from twostage.evaluation.cells import CellResult
from twostage.evaluation.gathering import Gathered
from twostage.evaluation.scoring import score_fold
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
