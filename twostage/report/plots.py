"""The pictures of a report as files, for papers and slides: SVG with real text, and PNG."""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from twostage.errors import UsageError
from twostage.report import charts
from twostage.report.analysis import Analysis
from twostage.report.scales import short_number
from twostage.report.words import features_name, lower_is_better, metric_name

# As in templates/report.css, on light paper: told apart by all eyes.
COLOURS = ("#6d7681", "#0b8f6b", "#0067a8", "#d55e00", "#a4508b", "#a27300", "#3690c9", "#4a3f8f")
STEPS = {
    "t": ("#cdc7bc", "#e0b27c", "#dd8438", "#bd4d10", "#7a2306"),
    "v": ("#c3cbd3", "#8fb3d1", "#4f8fc0", "#1b66a0", "#0a3259"),
    "k": COLOURS,
}
_INK, _SOFT, _GRID = "#1c2127", "#59616b", "#e7e3da"
_MARKERS = ("o", "s", "D", "^")
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "twostage",  # the same plot is the same file
    "font.size": 9,
    "font.family": "sans-serif",
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "text.usetex": False,
    "text.parse_math": False,  # a dollar in a name is a dollar
    "figure.constrained_layout.use": True,
}
_DPI = 200


def check_matplotlib() -> None:
    """Raise UsageError, with the line that installs it, where matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        raise UsageError(
            "Plots need the package matplotlib. Install it with: pip install 'twostage[report]'"
        )


def write_plots(analysis: Analysis, folder: Path) -> list[Path]:
    """Write each plot that there are numbers for, as SVG and PNG.

    Parameters
    ----------
    analysis : Analysis
        A benchmark's numbers.
    folder : Path
        Made if it is not there.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    UsageError
        If matplotlib is not installed.
    """
    check_matplotlib()
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with rc_context(_STYLE):
        for name, draw in _plots_of(analysis).items():
            figure = Figure()
            draw(analysis, figure)
            for ending in ("svg", "png"):
                path = folder / f"{name}.{ending}"
                facts: dict[str, Any] = {"Date": None} if ending == "svg" else {"Software": None}
                figure.savefig(path, dpi=_DPI, metadata=facts)
                written.append(path)
    return written


Draw = Callable[[Analysis, Any], None]


def _plots_of(analysis: Analysis) -> dict[str, Draw]:
    plots: dict[str, Draw] = {"arms": _draw_arms}
    if analysis.evidence.run.get("findings"):
        plots["differences"] = _draw_differences
    if analysis.best.calibration is not None:
        plots["calibration"] = _draw_calibration
    if analysis.best.confusion is not None:
        plots["confusion"] = _draw_confusion
    if analysis.best.predictions.proba is None:
        plots |= {"predictions": _draw_predictions, "residuals": _draw_residuals}
    if analysis.evidence.importance is not None:
        plots["importance"] = _draw_importance
    if analysis.map is not None:
        plots["map"] = _draw_map
    return plots


def _draw_arms(analysis: Analysis, figure: Any) -> None:
    ranked = analysis.ranked
    names = [
        f"{head}, {features_name(sees)}"
        for head, sees in zip(ranked["head"], ranked["features"], strict=True)
    ]
    if analysis.ranked["store"].nunique() > 2:
        names = [f"{n}, {s}" if s else n for n, s in zip(names, ranked["store"], strict=True)]
    looks = [charts.LOOK_OF.get(features, 2) for features in ranked["features"]]
    metric = analysis.evidence.metric
    label = metric_name(metric) + (" (lower is better)" if lower_is_better(metric) else "")
    _intervals(figure, names, ranked[["value", "low", "high"]].to_numpy(float), looks, label)


def _draw_differences(analysis: Analysis, figure: Any) -> None:
    findings = analysis.evidence.run["findings"]
    names = [f"{one['arm']}\nless {one['against']}" for one in findings]
    looks = [{"images": 1, "heads": 2}.get(one["kind"], 0) for one in findings]
    values = [[one["difference"][key] for key in ("value", "low", "high")] for one in findings]
    label = f"difference in {metric_name(analysis.evidence.metric)}"
    axes = _intervals(figure, names, np.array(values, float), looks, label, 0.5)
    axes.axvline(0, color=_SOFT, lw=1, zorder=1)


def _draw_importance(analysis: Analysis, figure: Any) -> None:
    found = analysis.evidence.importance
    assert found is not None
    arm = next((arm for arm in analysis.ranked["arm"] if (found["arm"] == arm).any()), None)
    mine = found[found["arm"] == arm].sort_values("value", ascending=False, kind="stable")
    looks = [1 if kind == "block" else 0 for kind in mine["kind"]]
    values = mine[["value", "low", "high"]].to_numpy(float)
    label = f"loss of {metric_name(analysis.evidence.metric)} when shuffled"
    axes = _intervals(figure, mine["name"].astype(str).tolist(), values, looks, label)
    axes.axvline(0, color=_SOFT, lw=1, zorder=1)
    axes.set_title(str(arm), loc="left", fontsize=9)


def _intervals(
    figure: Any,
    names: list[str],
    values: np.ndarray,
    looks: list[int],
    label: str,
    row: float = 0.34,
) -> Any:
    figure.set_size_inches(6.2, 0.8 + row * len(names))
    axes = figure.subplots()
    for place, ((value, low, high), look) in enumerate(zip(values, looks, strict=True)):
        if np.isfinite([low, high]).all():
            axes.plot([low, high], [place, place], color=COLOURS[look], lw=2.5, zorder=2)
        axes.plot(
            value, place, _MARKERS[look % 4], color=COLOURS[look], ms=7, mec="white", zorder=3
        )
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x", color=_GRID)
    axes.set_xlabel(label)
    return axes


def _draw_calibration(analysis: Analysis, figure: Any) -> None:
    found = analysis.best.calibration
    assert found is not None
    figure.set_size_inches(3.6, 3.6)
    axes, curve = figure.subplots(), found.curve
    axes.plot([0, 1], [0, 1], "--", color=_SOFT, lw=1)
    axes.vlines(curve["said"], curve["low"], curve["high"], color=COLOURS[2], alpha=0.4, lw=2.5)
    axes.plot(curve["said"], curve["came_true"], "o-", color=COLOURS[2], mec="white", ms=7, lw=1.5)
    labels = analysis.best.predictions.labels
    share = f"share that is {labels[1]}" if len(labels) == 2 else "share predicted right"
    axes.set(xlabel="predicted probability", ylabel=share, xlim=(0, 1), ylim=(0, 1), aspect=1)
    axes.grid(color=_GRID)


def _draw_confusion(analysis: Analysis, figure: Any) -> None:
    found = analysis.best.confusion
    assert found is not None
    n = len(found.labels)
    figure.set_size_inches(1.6 + 0.62 * n, 1.3 + 0.55 * n)
    axes = figure.subplots()
    from matplotlib.colors import LinearSegmentedColormap

    blues = LinearSegmentedColormap.from_list("paper", ["#ffffff", COLOURS[2]])
    axes.imshow(found.shares, cmap=blues, vmin=0, vmax=1.9, aspect="auto")
    for i in range(n):
        for k in range(n):
            text = f"{found.counts[i, k]:,}\n{found.shares[i, k]:.0%}"
            axes.text(k, i, text, ha="center", va="center", fontsize=8, color=_INK)
    is_wide = n > 4
    turned = {"rotation": 45, "ha": "right"} if is_wide else {}
    axes.set_xticks(range(n), found.labels, **turned)
    axes.set_yticks(range(n), found.labels)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0, labelcolor=_INK)
    axes.spines[:].set_visible(False)


def _draw_predictions(analysis: Analysis, figure: Any) -> None:
    best = analysis.best.predictions
    figure.set_size_inches(3.8, 3.8)
    axes = figure.subplots()
    axes.plot(
        best.y,
        best.predicted,
        ".",
        color=COLOURS[2],
        ms=4,
        alpha=0.6,
        mew=0,
        rasterized=len(best.y) > 5000,
    )
    both = np.concatenate([best.y, best.predicted]).astype(float)
    ends = [np.nanmin(both), np.nanmax(both)]
    axes.plot(ends, ends, "--", color=_SOFT, lw=1)
    if analysis.evidence.settings.get("log_target") and ends[0] > 0:
        axes.set(xscale="log", yscale="log")
    _label_shortly(axes.xaxis, axes.yaxis)
    target = analysis.evidence.target
    axes.set(xlabel=f"true {target}", ylabel=f"predicted {target}")
    axes.grid(color=_GRID)


def _draw_residuals(analysis: Analysis, figure: Any) -> None:
    best = analysis.best.predictions
    residuals = np.asarray(best.y - best.predicted, float)
    residuals = residuals[np.isfinite(residuals)]
    figure.set_size_inches(4.2, 2.6)
    axes = figure.subplots()
    axes.hist(residuals, bins=40, color=COLOURS[2])
    axes.axvline(0, color=_SOFT, lw=1)
    _label_shortly(axes.xaxis)
    axes.set(xlabel="true less predicted", ylabel="rows")


def _label_shortly(*axes: Any) -> None:
    """Label ticks as the page does: matplotlib writes powers of ten as formulas, which are off."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    for axis in axes:
        axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axis.set_minor_formatter(NullFormatter())


def _draw_map(analysis: Analysis, figure: Any) -> None:
    found = analysis.map
    assert found is not None
    figure.set_size_inches(7.2, 4.0)
    both = figure.subplots(1, 2)
    parts = (
        (charts.target_map(found, analysis.best.predictions), analysis.evidence.target),
        (charts.error_map(found, analysis.best.predictions), "error of the best arm"),
    )
    for axes, (chart, title) in zip(both, parts, strict=True):
        for mark in chart.marks:
            if not mark.points:
                continue
            x, y = np.array(mark.points).T
            colour = STEPS[chart.scale][mark.look]
            shape = _MARKERS[mark.look % 4] if chart.scale == "k" else "o"
            axes.scatter(
                x, 100 - y, s=9, c=colour, marker=shape, alpha=0.75, linewidths=0,
                label=_unhidden(mark.name),
            )  # fmt: skip
        axes.set_title(str(title), loc="left", fontsize=9)
        axes.set(xticks=[], yticks=[])
        axes.legend(
            frameon=False, fontsize=7.5, markerscale=2, ncols=2, loc="upper left",
            bbox_to_anchor=(0, 0), borderaxespad=0.3,
        )  # fmt: skip
        axes.spines[:].set_visible(False)
        axes.set_facecolor("#f5f3ee")


def _unhidden(name: str) -> str:
    """Keep a legend from leaving out what begins with an underscore."""
    return "\u200b" + name if name.startswith("_") else name
