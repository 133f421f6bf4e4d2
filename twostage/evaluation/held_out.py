"""Score a fitted model on labelled rows that nothing in it has seen."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from twostage.errors import DataError, listed
from twostage.fitting import score_model, split_groups
from twostage.metrics import Score
from twostage.rows import take_blocks
from twostage.seen import SeenRows, as_text
from twostage.staged import AnyModel
from twostage.table.files import require_column
from twostage.targets import Target
from twostage.unseen import Exposure, tell_exposure


@dataclass(frozen=True)
class Evaluation:
    """A model's scores on rows that it has not seen.

    Attributes
    ----------
    n_rows : int
        Rows given.
    n_scored, n_groups : int
        Rows that were scored, and the groups they are of.
    exposure : Exposure
        Why the others were not.
    scores : dict of str to Score
        By metric, the main one first; intervals by a bootstrap over groups.
    """

    n_rows: int
    n_scored: int
    n_groups: int
    exposure: Exposure
    scores: dict[str, Score]


def score_unseen(model: AnyModel, frame: pd.DataFrame, images: Any, seen: SeenRows) -> Evaluation:
    """Score a model on the rows that nothing in it has seen.

    Parameters
    ----------
    model : FittedModel or StagedModel
        What is scored.
    frame : DataFrame of shape (n_rows, n_columns)
        Labelled rows: with the model's columns and its target.
    images : object
        Of all rows, as `twostage.fitted.Predictor.look` gives them.
    seen : SeenRows
        What the backbone of those was trained on.

    Raises
    ------
    DataError
        If no row is left, the table lacks a column, or a label is not one of the model's.
    """
    target = _target_of(model, frame)
    _check_columns(model, frame)
    blocks = model.blocks_in(images)
    exposure = tell_exposure(model, frame, blocks, seen)
    kept = np.flatnonzero(~exposure.is_known)
    if not len(kept):
        raise DataError(
            f"Nothing is left to score: the model has seen all {len(frame)} rows, their images or "
            f"their groups ({reasons(exposure)}). Give rows that it was not trained on."
        )
    group = model.settings.group
    given = frame[group] if group is not None and group in frame.columns else ()
    groups = split_groups(blocks, given, len(frame))[kept]
    scores = score_model(model, frame.iloc[kept], _take(images, kept), target.take(kept), groups)
    return Evaluation(len(frame), len(kept), len(np.unique(groups)), exposure, scores)


def reasons(exposure: Exposure) -> str:
    """Count the rows by why they are not scored."""
    named = {
        "with an image that it was trained on": exposure.n_by_image,
        "of a group that it was trained on": exposure.n_by_group,
        "equal to a row that it was trained on": exposure.n_by_row,
        "that its tuned backbone has seen": exposure.n_by_backbone,
        "linked with one of those": exposure.n_linked,
    }
    return ", ".join(f"{n:,} {why}" for why, n in named.items() if n)


def _take(images: Any, rows: np.ndarray) -> Any:
    """Return the images of some rows: blocks, or a list of them of several backbones."""
    if isinstance(images, list):
        return [take_blocks(blocks, rows) for blocks in images]
    return take_blocks(images, rows)


def _check_columns(model: AnyModel, frame: pd.DataFrame) -> None:
    for name in model.table_columns:
        require_column(frame, name, "trained-on")


def _target_of(model: AnyModel, frame: pd.DataFrame) -> Target:
    """Return the target column as the model learned it.

    Raises
    ------
    DataError
        If a value is missing, of a class that the model does not know, or no number.
    """
    settings = model.settings
    values = require_column(frame, settings.target, "target")
    missing = np.flatnonzero(values.isna())
    if len(missing):
        raise DataError(
            f"{len(missing)} of {len(values)} rows have no value in target '{settings.target}'; "
            f"first: row {missing[0] + 1}. Leave these rows out: they can't be scored."
        )
    if model.classes is None:
        return Target("regression", _numbers(values, settings.log_target), None)
    known = {as_text(label): number for number, label in enumerate(model.classes.tolist())}
    labels = [as_text(value) for value in values]
    unknown = sorted({label for label in labels if label not in known})
    if unknown:
        raise DataError(
            f"Target '{settings.target}' holds {listed(unknown)}, which the model was not taught; "
            f"its classes: {listed(list(known))}. Correct the labels, or leave these rows out."
        )
    return Target("classification", np.array([known[x] for x in labels], np.int64), model.classes)


def _numbers(values: pd.Series, log_target: bool) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
    is_bad = ~np.isfinite(numbers) | ((numbers <= 0) & log_target)
    if is_bad.any():
        row = int(np.argmax(is_bad))
        kind = "a positive number" if log_target else "a number"
        raise DataError(
            f"Target '{values.name}' is {values.iloc[row]!r} in row {row + 1}, which is not {kind}."
            " Correct it, or leave the row out."
        )
    return numbers
