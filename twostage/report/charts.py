"""Where the marks of each picture stand, in percent of its plot: templates draw them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from twostage.evaluation.calibration import Calibration
from twostage.report.analysis import Confusion, EmbeddingMap, sample, verdict
from twostage.report.evidence import ArmPredictions
from twostage.report.scales import Axis, linear_axis, log_axis
from twostage.report.words import features_name, interval, number, percent, signed

LOOK_OF = {"table": 0, "images": 1, "both": 2}  # colour and marker by what an arm sees
N_COLOURS = 8
N_STEPS = 5  # of a colour scale
_BOUNDED = {"auc", "average_precision", "accuracy", "balanced_accuracy", "f1", "brier"}
_N_BARS = 24


@dataclass(frozen=True)
class IntervalRow:
    """A value with its interval, on an axis that others share.

    ``at``, ``low`` and ``high`` are places; without an interval the ends are None.
    """

    name: str
    detail: str
    value: str
    ends: str
    at: float
    low: float | None
    high: float | None
    look: int
    tone: str = ""


@dataclass(frozen=True)
class IntervalChart:
    """Values with intervals, one below the other; ``zero`` is where the axis has 0, if it does."""

    rows: list[IntervalRow]
    axis: Axis
    zero: float | None = None


@dataclass(frozen=True)
class Marks:
    """Points of one look."""

    look: int
    name: str
    points: list[tuple[float, float]]
    n: int


@dataclass(frozen=True)
class PointChart:
    """Points between two axes.

    ``scale`` is the first letter of the looks' names: ``k`` of kinds, ``v`` of steps of a value,
    ``t`` of steps of an error.
    """

    x: Axis
    y: Axis
    marks: list[Marks]
    scale: str = "k"
    n_shown: int = 0
    n_in_all: int = 0


@dataclass(frozen=True)
class CurvePoint:
    """A bin of a calibration curve, placed, and in words."""

    x: float
    y: float
    low: float
    high: float
    said: str
    came_true: str
    ends: str
    n: int


@dataclass(frozen=True)
class CalibrationChart:
    """A calibration curve."""

    axis: Axis
    points: list[CurvePoint]


@dataclass(frozen=True)
class Cell:
    """A cell of a confusion matrix; ``heat`` is its share of the true class, in tenths."""

    count: int
    share: str
    heat: int
    is_right: bool


@dataclass(frozen=True)
class Histogram:
    """Bars as (left, width, top, height), in percent."""

    x: Axis
    bars: list[tuple[float, float, float, float]]
    zero: float
    most: int = field(default=0)


def arms_chart(ranked: pd.DataFrame, metric: str) -> IntervalChart:
    """Place each arm's score and interval."""
    ends = [*ranked["value"], *ranked["low"], *ranked["high"]]
    axis = linear_axis(ends, bounds=(0, 1) if metric in _BOUNDED else None)
    several = ranked.loc[ranked["store"] != "", "store"].nunique() > 1
    rows = [
        _interval_row(
            arm["head"],
            features_name(arm["features"])
            + (f", {arm['store']}" if several and arm["store"] else ""),
            arm,
            axis,
            LOOK_OF.get(arm["features"], 2),
        )
        for arm in ranked.to_dict("records")
    ]
    return IntervalChart(rows, axis)


def differences_chart(findings: Sequence[Mapping[str, Any]]) -> IntervalChart:
    """Place the differences between arms around zero; what their sentences say is the name."""
    numbers = [one["difference"] for one in findings]
    axis = linear_axis([0, *(d[name] for d in numbers for name in ("value", "low", "high"))])
    looks = {"images": 1, "heads": 2, "stores": 0}
    rows = []
    for one, difference in zip(findings, numbers, strict=True):
        detail = f"{one['arm']} less {one['against']}"
        look, tone = looks.get(one["kind"], 0), verdict(one)
        rows.append(_interval_row(one["sentence"], detail, difference, axis, look, tone, signed))
    return IntervalChart(rows, axis, axis.at(0))


def importance_chart(found: pd.DataFrame) -> IntervalChart:
    """Place what is lost when a block or a column is shuffled, the largest loss first."""
    found = found.sort_values("value", ascending=False, kind="stable")
    axis = linear_axis([0, *found["value"], *found["low"], *found["high"]])
    rows = [
        _interval_row(
            one["name"],
            "the whole block" if one["kind"] == "block" else "column",
            one,
            axis,
            1 if one["kind"] == "block" else 0,
        )
        for one in found.to_dict("records")
    ]
    return IntervalChart(rows, axis, axis.at(0))


def calibration_chart(found: Calibration) -> CalibrationChart:
    """Place the bins of a calibration curve."""
    axis = linear_axis([0, 1], bounds=(0, 1))
    points = [
        CurvePoint(
            axis.at(row["said"]),
            100 - axis.at(row["came_true"]),
            100 - axis.at(row["low"]),
            100 - axis.at(row["high"]),
            number(row["said"], 2),
            number(row["came_true"], 2),
            f"{number(row['low'], 2)} to {number(row['high'], 2)}",
            int(row["n_rows"]),
        )
        for row in found.curve.to_dict("records")
    ]
    return CalibrationChart(axis, points)


def confusion_cells(found: Confusion) -> list[list[Cell]]:
    """Return the cells of a confusion matrix, row by row."""
    n = len(found.labels)
    return [
        [
            Cell(
                int(found.counts[i, k]),
                percent(float(found.shares[i, k])),
                round(10 * float(found.shares[i, k])),
                i == k,
            )
            for k in range(n)
        ]
        for i in range(n)
    ]


def prediction_chart(arm: ArmPredictions, is_log: bool) -> PointChart:
    """Place predicted values against true ones, on equal axes."""
    shown = sample(len(arm.y))
    values = np.concatenate([arm.y, arm.predicted]).astype(float)
    use_log = is_log and bool((values[np.isfinite(values)] > 0).all())
    axis = log_axis(values) if use_log else linear_axis(values)
    points = _points(axis, axis, arm.y[shown], arm.predicted[shown])
    marks = [Marks(2, "", points, len(points))]
    return PointChart(axis, axis, marks, "k", len(points), len(arm.y))


def residual_chart(arm: ArmPredictions) -> Histogram:
    """Count residuals, true less predicted; the outermost hundredth at either end is one bar."""
    residuals = np.asarray(arm.y - arm.predicted, float)
    residuals = residuals[np.isfinite(residuals)]
    reach = float(np.quantile(np.abs(residuals), 0.99)) if len(residuals) else 1.0
    axis = linear_axis([-reach, 0, reach])
    edges = np.linspace(axis.low, axis.high, _N_BARS + 1)
    counts, _ = np.histogram(np.clip(residuals, axis.low, axis.high), edges)
    most = int(counts.max(initial=1))
    places = axis.places(edges)
    bars = [
        (
            float(places[k]),
            round(float(places[k + 1] - places[k]), 2),
            round(100 - 100 * int(n) / most, 2),
            round(100 * int(n) / most, 2),
        )
        for k, n in enumerate(counts)
    ]
    return Histogram(axis, bars, axis.at(0), most)


def target_map(found: EmbeddingMap, arm: ArmPredictions) -> PointChart:
    """Colour the map by class, or by fifths of the value."""
    if arm.proba is None:
        return _by_fifths(found, np.asarray(arm.y, float), "v")
    y = arm.y[found.chosen]
    sizes = np.bincount(arm.y, minlength=len(arm.labels))
    own = np.argsort(-sizes, kind="stable")
    own = own[:N_COLOURS] if len(own) <= N_COLOURS else own[: N_COLOURS - 1]
    parts = [(arm.labels[k], y == k) for k in sorted(own)]
    rest = ~np.isin(y, own)
    if rest.any():
        parts.append(("all others", rest))
    return _map_of(found, parts, "k")


def error_map(found: EmbeddingMap, arm: ArmPredictions) -> PointChart:
    """Colour the map by fifths of the error."""
    return _by_fifths(found, arm.error, "t")


def _by_fifths(found: EmbeddingMap, values: np.ndarray, scale: str) -> PointChart:
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, N_STEPS + 1)))
    mine = values[found.chosen]
    number_of = np.clip(np.searchsorted(edges, mine, side="left") - 1, 0, max(len(edges) - 2, 0))
    parts = [
        (f"{number(float(edges[k]))} to {number(float(edges[k + 1]))}", number_of == k)
        for k in range(max(len(edges) - 1, 1))
        if len(edges) > 1
    ] or [(number(float(edges[0])), np.ones(len(mine), bool))]
    return _map_of(found, parts, scale)


def _map_of(found: EmbeddingMap, parts: Sequence[tuple[str, np.ndarray]], scale: str) -> PointChart:
    x, y = (_tight_axis(found.points[:, k]) for k in range(2))
    marks = []
    for look, (name, is_in) in enumerate(parts):
        points = _points(x, y, *found.points[is_in].T)
        marks.append(Marks(look, name, points, len(points)))
    return PointChart(x, y, marks, scale, len(found.chosen), found.n_rows)


def _tight_axis(values: np.ndarray) -> Axis:
    """Return an axis without ticks: components have no unit."""
    low, high = float(values.min()), float(values.max())
    pad = (high - low) * 0.03 or 0.5
    return Axis(low - pad, high + pad, ())


def _points(x: Axis, y: Axis, xs: np.ndarray, ys: np.ndarray) -> list[tuple[float, float]]:
    is_there = np.isfinite(np.asarray(xs, float)) & np.isfinite(np.asarray(ys, float))
    left = x.places(xs[is_there]).tolist()
    top = np.round(100 - y.places(ys[is_there]), 2).tolist()
    return list(zip(left, top, strict=True))


def _interval_row(
    name: str,
    detail: str,
    score: Mapping[Any, Any],
    axis: Axis,
    look: int,
    tone: str = "",
    write: Any = number,
) -> IntervalRow:
    value, low, high = (_float(score[key]) for key in ("value", "low", "high"))
    ends = interval(low, high)
    return IntervalRow(
        str(name),
        detail,
        write(value),
        ends,
        axis.at(value) if np.isfinite(value) else 0.0,
        axis.at(low) if ends else None,
        axis.at(high) if ends else None,
        look,
        tone,
    )


def _float(value: Any) -> float:
    return float("nan") if value is None else float(value)
