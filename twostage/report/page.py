"""One HTML file of a benchmark, which needs nothing else."""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import PurePath
from typing import Any

import numpy as np
import pandas as pd

from twostage import __version__
from twostage.errors import UsageError
from twostage.report import charts, words
from twostage.report.analysis import Analysis, ArmAnalysis, verdict
from twostage.report.gallery import Album, Card, Cards

_TEMPLATES = "templates"
_THRESHOLD_COLUMNS = {
    "threshold": "threshold",
    "share_flagged": "flagged",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "precision": "precision",
    "npv": "NPV",
    "f1": "F1",
    "accuracy": "accuracy",
}

_OF_BACKBONE: dict[str, str] = {
    "architecture": "architecture",
    "weights": "weights",
    "weights_digest": "weights digest",
    "layer": "layer",
    "pooling": "pooling",
    "dim": "dimensions",
    "input_size_px": "input, px",
    "resize": "resize",
    "preprocessing": "preprocessing",
    "decoder": "decoder",
    "engine": "engine",
    "precision": "precision",
}


@dataclass(frozen=True)
class Column:
    """A column of a table that can be sorted."""

    name: str
    is_number: bool = True
    hint: str = ""


@dataclass(frozen=True)
class Value:
    """A cell: what it shows, what stands below it, and what it is sorted by."""

    text: str
    below: str = ""
    sort: float | str = ""


def make_page(analysis: Analysis, album: Album, title: str | None = None) -> bytes:
    """Render a benchmark's report.

    Parameters
    ----------
    analysis : Analysis
        Its numbers.
    album : Album
        Makes the cards of its rows, by the best arm.
    title : str, optional
        What stands above all; a question about the target if None.

    Returns
    -------
    bytes
        The page, in UTF-8.
    """
    return render("benchmark.html.j2", _context(analysis, album, title))


def render(template: str, context: Mapping[str, Any]) -> bytes:
    """Render a template; what users gave is escaped, and the page's policy forbids requests."""
    jinja2, markup = import_jinja()
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_printable,
    )
    environment.filters |= {"n": lambda n: f"{n:,}", "plural": words.plural}
    style, script = map(_source, _INLINED)
    page = environment.get_template(template).render(
        style=markup(style),  # files of ours: no user's text is in them
        script=markup(script),
        policy=_policy(style, script),
        version=__version__,
        **context,
    )
    return str(page).encode("utf-8", "replace")


_INLINED = ("report.css", "report.js")


def import_jinja() -> tuple[Any, Any]:
    """Return Jinja2, and the type of text that it does not escape.

    Raises
    ------
    UsageError
        With the line that installs it.
    """
    try:
        import jinja2
        from markupsafe import Markup
    except ImportError:
        raise UsageError(
            "A report needs the package jinja2. Install it with: pip install 'twostage[report]'"
        ) from None
    return jinja2, Markup


def _source(name: str) -> str:
    return resources.files(__package__).joinpath(_TEMPLATES, name).read_text("utf-8")


def _printable(value: Any) -> Any:
    """Replace control characters, which HTML does not allow, where a value is printed."""
    if not isinstance(value, str) or value.isprintable():
        return value
    if not any(_is_control(char) for char in value):
        return value
    return type(value)("".join("\ufffd" if _is_control(char) else char for char in value))


def _is_control(char: str) -> bool:
    code = ord(char)
    return (code < 32 and char not in "\t\n") or 127 <= code < 160 or 0xD800 <= code < 0xE000


def _policy(*inlined: str) -> str:
    """Return a Content-Security-Policy that allows our style and script, and no request at all."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in inlined
    ]
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
    )


def _context(analysis: Analysis, album: Album, title: str | None) -> dict[str, Any]:
    evidence, best = analysis.evidence, analysis.best.predictions
    run, counts, metric = evidence.run, evidence.run["counts"], evidence.metric
    findings = run.get("findings") or []
    threshold = run["identity"].get("near_duplicates")
    alike, n_alike = album.alike(analysis.stored, threshold)
    context = {
        "title": title or _question(analysis),
        "headline": _headline(analysis),
        "verdict": verdict(analysis.headline) if analysis.headline else "",
        "target": evidence.target,
        "metric": metric,
        "metric_name": words.metric_name(metric),
        "lower_is_better": words.lower_is_better(metric),
        "made": words.day(run.get("started")),
        "task": run["task"],
        "is_classification": evidence.is_classification,
        "labels": best.labels,
        "facts": _facts(analysis),
        "shown": [_of_arm(analysis, one, album.of(one.predictions)) for one in analysis.arms],
        "n_arms": len(analysis.ranked),
        "n_repeats": len({fold["repeat"] for fold in run["folds"]}),
        "arms": charts.arms_chart(analysis.ranked, metric),
        "differences": charts.differences_chart(findings) if findings else None,
        "results": _results_table(analysis),
        "importance": _importance(analysis),
        "typical": album.typical(analysis.stored),
        "unreadable": album.unreadable(analysis.stored),
        "alike": alike,
        "n_alike": n_alike,
        "near_duplicates": threshold,
        "has_images": bool(album.columns),
        "n_image_columns": len(album.columns),
        "has_store": bool(run["stores"]),
        "stored": analysis.stored is not None,
        "map": analysis.map,
        "target_map": None if analysis.map is None else charts.target_map(analysis.map, best),
        "counts": counts,
        "left_out": _left_out(run),
        "provenance": _provenance(analysis),
        "command": run.get("command"),
        "number": words.number,
        "percent": words.percent,
    }
    context["has_pictures"] = any(card.picture for card in _cards(context))
    return context


def _of_arm(analysis: Analysis, arm: ArmAnalysis, album: Album) -> dict[str, Any]:
    """Return what is shown of one arm, as the reader chooses."""
    predictions, found = arm.predictions, analysis.map
    shown = {
        "name": predictions.arm,
        "calibration": arm.calibration,
        "calibration_chart": _or_none(charts.calibration_chart, arm.calibration),
        "confusion": arm.confusion,
        "confusion_cells": _or_none(charts.confusion_cells, arm.confusion),
        "accuracy": _accuracy(arm),
        "thresholds": _threshold_rows(arm.thresholds),
        "error_map": None if found is None else charts.error_map(found, predictions),
        "worst": album.worst(),
    }
    if predictions.proba is None:
        is_log = bool(analysis.evidence.settings.get("log_target"))
        shown["predictions"] = charts.prediction_chart(predictions, is_log)
        shown["residuals"] = charts.residual_chart(predictions)
    return shown


def _cards(context: Mapping[str, Any]) -> list[Card]:
    several: list[Cards] = [one["worst"] for one in context["shown"]]
    several += [*context["typical"], *context["alike"]]
    return [card for cards in several for card in cards.cards]


def _or_none(make: Any, value: Any) -> Any:
    return None if value is None else make(value)


def _question(analysis: Analysis) -> str:
    target = analysis.evidence.target
    if analysis.headline is not None and analysis.headline["kind"] == "images":
        return f"Do images help to predict “{target}”?"
    if analysis.headline is not None:
        return f"Which way predicts “{target}” best?"
    return f"How well can “{target}” be predicted?"


def _headline(analysis: Analysis) -> str:
    if analysis.headline is not None:
        return str(analysis.headline["sentence"])
    best = analysis.ranked.iloc[0]
    name = words.metric_name(analysis.evidence.metric)
    ends = words.interval(best["low"], best["high"])
    return f"{best['arm']} scores {words.number(best['value'])} {name}" + (
        f" (95% interval {ends})." if ends else "."
    )


def _facts(analysis: Analysis) -> list[tuple[str, str]]:
    """Return the figures at the top: a number and what it is of."""
    run, counts = analysis.evidence.run, analysis.evidence.run["counts"]
    best = analysis.ranked.iloc[0]
    repeats = len({fold["repeat"] for fold in run["folds"]})
    n_folds = len(run["folds"]) // repeats
    folds = f"folds, {repeats} times" if repeats > 1 else "folds" if n_folds > 1 else "fold"
    facts = [
        (
            words.number(best["value"]),
            f"{words.metric_name(analysis.evidence.metric)} of the best arm",
        ),
        (f"{counts['n_scored']:,}", "rows scored"),
    ]
    if counts.get("n_groups", counts["n_rows"]) < counts["n_rows"]:
        facts.append((f"{counts['n_groups']:,}", "groups, never split"))
    facts += [(str(n_folds), folds), (str(len(run["arms"])), "arms compared")]
    return facts


def _results_table(analysis: Analysis) -> tuple[list[Column], list[list[Value]]]:
    """Return the table of all arms: each metric with its interval, and what the arm costs."""
    evidence = analysis.evidence
    scores = evidence.scores.set_index(["arm", "metric"])
    columns = [Column("head", False), Column("sees", False)]
    several = len(evidence.run["stores"]) > 1
    columns += [Column("store", False)] if several else []
    for metric in evidence.run["metrics"]:
        hint = "lower is better" if words.lower_is_better(metric) else ""
        columns.append(Column(words.metric_name(metric), True, hint))
    columns += [
        Column("fit", True, "per fold"),
        Column("predict", True, "per row"),
        Column("model", True, "on disk"),
    ]
    rows = []
    for arm in analysis.ranked.to_dict("records"):
        sees = words.features_name(arm["features"])
        row = [Value(arm["head"], "", arm["head"]), Value(sees, "", sees)]
        row += [Value(arm["store"] or "–", "", arm["store"])] if several else []
        for metric in evidence.run["metrics"]:
            score = scores.loc[(arm["arm"], metric)]
            ends = words.interval(score["low"], score["high"])
            row.append(Value(words.number(score["value"]), ends, _sortable(score["value"])))
        cost = arm["predict_us_per_row"]
        predict = f"{words.number(cost, 0)} µs" if np.isfinite(cost) else "–"
        row += [
            Value(words.seconds(arm["fit_seconds"]), "", _sortable(arm["fit_seconds"])),
            Value(predict, "", _sortable(cost)),
            Value(words.size(arm["model_bytes"]), "", _sortable(arm["model_bytes"])),
        ]
        rows.append(row)
    return columns, rows


def _sortable(value: float) -> float | str:
    return float(value) if value is not None and np.isfinite(value) else ""


def _accuracy(arm: ArmAnalysis) -> str | None:
    if arm.confusion is None:
        return None
    counts = arm.confusion.counts
    n_right = int((arm.predictions.predicted == arm.predictions.y).sum())
    return f"{n_right:,} of {int(counts.sum()):,} rows"


def _threshold_rows(table: pd.DataFrame | None) -> tuple[list[Column], list[list[Value]]] | None:
    if table is None:
        return None
    columns = [Column("why", False), *map(Column, _THRESHOLD_COLUMNS.values())]
    rows = []
    for record in table.drop_duplicates().to_dict("records"):
        why = {"given": "the usual one"}.get(record["why"], str(record["why"]))
        row = [Value(why, "", why)]
        for name in _THRESHOLD_COLUMNS:
            value = float(record[name])
            text = words.percent(value) if name == "share_flagged" else words.number(value)
            row.append(Value("none" if value == float("inf") else text, "", _sortable(value)))
        rows.append(row)
    return columns, rows


def _importance(analysis: Analysis) -> list[tuple[str, charts.IntervalChart]]:
    """Return a chart per arm, in the order of their scores."""
    found = analysis.evidence.importance
    if found is None:
        return []
    arms = [arm for arm in analysis.ranked["arm"] if (found["arm"] == arm).any()]
    return [(arm, charts.importance_chart(found[found["arm"] == arm])) for arm in arms]


def _left_out(run: Mapping[str, Any]) -> list[str]:
    """Tell which rows are not scored, or kept together, and why."""
    counts = run["counts"]
    joined = "kept in one fold" if counts.get("near_duplicates_joined", True) else "not joined"
    told = {
        "n_seen": ("row", " that a tuned backbone has seen, or their group’s, not scored"),
        "n_rows_with_equal_images": (
            "row",
            " with images of equal bytes, kept in one fold with their twins",
        ),
        "n_near_duplicate_pairs": ("pair", f" of nearly equal images, {joined}"),
        "n_unreadable": ("row", " with an unusable image, whose embedding is missing"),
        "n_kin_left_out": (
            "training row",
            " left out, whose groups are tested in the same fold",
        ),
        "n_unlearnable": ("row", " not scored, of classes that training lacks"),
    }
    return [
        words.plural(counts[name], what) + why
        for name, (what, why) in told.items()
        if counts.get(name)
    ]


def backbone_lines(spec: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what there is to say of a backbone; of a file, its name without the folders."""
    given = {name: spec[name] for name in _OF_BACKBONE if spec.get(name) is not None}
    if "weights" in given:
        given["weights"] = PurePath(str(given["weights"])).name
    return [(_OF_BACKBONE[name], str(value)) for name, value in given.items()]


def _provenance(analysis: Analysis) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return where it all comes from: groups of names and values."""
    run = analysis.evidence.run
    identity, settings = run["identity"], analysis.evidence.settings
    how = identity["resampling"]
    cut = f"by column “{how['split']}”" if how.get("split") else "stratified, by whole groups"
    if how.get("time"):
        cut = f"in time, by “{how['time']}”"
    data = [
        (
            "table",
            f"{identity['table']['rows']:,} rows, {len(identity['table']['columns'])} columns",
        ),
        ("table digest", str(identity["table"]["digest"])),
        ("target", f"{analysis.evidence.target} ({run['task']})"),
        ("images in", ", ".join(settings.get("image_columns") or []) or "–"),
        ("group", str(settings.get("group") or "–")),
        ("folds", f"{len(run['folds'])}, {cut}"),
        ("seed", str(settings.get("random_state"))),
    ]
    groups = [("Data", data)]
    for store in run["stores"]:
        spec = store["spec"]
        lines = backbone_lines(spec)
        lines.append(("digest with table", str(identity["stores"].get(store["name"], "–"))))
        if store.get("tuned"):
            lines.append(("tuned on", f"{words.plural(store.get('n_images_seen', 0), 'image')}"))
        groups.append((f"Backbone of “{store['name']}”", lines))
    machine = run.get("machine", {})
    ran = [("made", str(run.get("started", "–"))), ("took", words.seconds(run.get("seconds", 0)))]
    ran += [(name, str(value)) for name, value in machine.items() if value is not None]
    groups.append(("Run", ran))
    groups.append(("Versions", [(k, str(v)) for k, v in identity.get("versions", {}).items()]))
    return groups
