"""The page of a fitted model: what it scored, what it sees, where it comes from."""

import os
from pathlib import Path
from typing import Any

from twostage.errors import ModelError
from twostage.fitted import FittedModel
from twostage.heads import name_of
from twostage.model import RECORD, read_model
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.report import words
from twostage.report.page import Column, Value, backbone_lines, render
from twostage.staged import AnyModel, StagedModel
from twostage.table.roles import IGNORED


def is_model(path: str | os.PathLike[str]) -> bool:
    """Whether a folder says that it is a model."""
    return (Path(path) / RECORD).is_file()


def make_model_page(path: str | os.PathLike[str], title: str | None = None) -> bytes:
    """Render a model's page; the model is read, and its files compared with their digests."""
    model = read_model(path)
    versions = _versions(path)
    settings, held_out = model.settings, model.holdout
    kind = "classification" if model.is_classification else "regression"
    facts = [(f"{model.n_rows:,}", "rows it was trained on")]
    if held_out is not None:
        name, score = next(iter(held_out.scores.items()))
        facts.insert(0, (words.number(score.value), f"{words.metric_name(name)}, held out"))
        facts.append((f"{held_out.n_rows:,}", "rows held out for that score"))
    n_used = sum(column.role != IGNORED for column in model.columns)
    for n, what in ((n_used, "table column"), (len(model.dims), "image column")):
        facts.append((str(n), what if n == 1 else f"{what}s"))
    context = {
        "title": title or f"A model that predicts “{settings.target}”",
        "headline": _headline(model),
        "task": kind,
        "facts": facts,
        "scores": _scores(model),
        "columns": _columns(model),
        "seen": _seen(model),
        "provenance": _provenance(model, versions),
        "classes": [] if model.classes is None else [str(label) for label in model.classes],
    }
    return render("model.html.j2", context)


def _versions(path: str | os.PathLike[str]) -> dict[str, str]:
    try:
        return dict(checked(dict[str, str], read_json(Path(path) / RECORD)["versions"], "versions"))
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"Model '{path}' is damaged: its {RECORD} does not say what made it ({error}). Refit."
        ) from None


def _headline(model: AnyModel) -> str:
    held_out = model.holdout
    if held_out is None:
        return "It was fitted without a score on held-out rows."
    name, score = next(iter(held_out.scores.items()))
    ends = words.interval(score.low, score.high)
    return (
        f"The same recipe, fitted on {held_out.n_training_rows:,} rows, scored "
        f"{words.number(score.value)} {words.metric_name(name)} on {held_out.n_rows:,} rows that "
        "nothing in it had seen" + (f" (95% interval {ends})." if ends else ".")
    )


def _scores(model: AnyModel) -> tuple[list[Column], list[list[Value]]] | None:
    if model.holdout is None:
        return None
    rows = []
    for name, score in model.holdout.scores.items():
        ends = words.interval(score.low, score.high)
        hint = "lower is better" if words.lower_is_better(name) else ""
        shown = words.metric_name(name)
        cells = [Value(shown, hint, shown), Value(words.number(score.value), "", score.value)]
        rows.append([*cells, Value(ends or "–", "", score.low if ends else "")])
    return [Column("metric", False), Column("score"), Column("95% interval")], rows


def _columns(model: AnyModel) -> tuple[list[Column], list[list[Value]]]:
    heads = [Column(name, False) for name in ("column", "role", "dtype")]
    rows = []
    for column in model.columns:
        role = Value(column.role, column.reason or "", column.role)
        name, dtype = (Value(text, "", text) for text in (column.name, column.dtype))
        rows.append([name, role, dtype])
    return heads, rows


def _seen(model: AnyModel) -> list[str]:
    said = []
    if model.n_seen:
        treated = "trained on all the same" if model.settings.allow_seen else "left out"
        said.append(
            f"{words.plural(model.n_seen, 'row')} that a tuned backbone had seen before, {treated}"
        )
    if isinstance(model, StagedModel):
        counts = ", ".join(f"{n:,}" for n in model.n_tuned)
        said.append(f"Its backbones were tuned on {counts} of the rows ({model.staging.mode})")
        said.append(f"{words.plural(len(model.seen.content_hashes), 'image')} trained a backbone")
    return said


def _weights(part: FittedModel) -> str:
    return " + ".join(
        f"{weight:.2f} {name_of(member.head)}"
        for weight, member in zip(part.weights, part.members, strict=True)
    )


def _provenance(
    model: AnyModel, versions: dict[str, Any]
) -> list[tuple[str, list[tuple[str, str]]]]:
    settings = model.settings
    fit = [
        ("target", str(settings.target)),
        ("head", settings.head_name),
        *(("blend", _weights(part)) for part in model.parts if len(part.members) > 1),
        ("sees", words.features_name(settings.features)),
        ("images in", ", ".join(settings.image_columns) or "–"),
        ("group", str(settings.group or "–")),
        ("logarithm of the target", "yes" if settings.log_target else "no"),
        ("seed", str(settings.random_state)),
    ]
    groups = [("Fit", fit)]
    for number, spec in enumerate(model.backbones, start=1):
        name = f"Backbone {number}" if len(model.backbones) > 1 else "Backbone"
        groups.append((name, backbone_lines(spec)))
    groups.append(("Versions", [(name, str(value)) for name, value in versions.items()]))
    return groups
