"""Which rows a fitted model may be scored on: those that nothing in it has seen."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twostage.fitting import split_groups, tell_seen
from twostage.joins import ImageBlock
from twostage.rows import TrainingRows, row_digests
from twostage.seen import SeenRows, as_text
from twostage.staged import AnyModel, StagedModel
from twostage.table.roles import IGNORED

_WHOLE_NUMBER = re.compile(r"-?\d+\.0")


@dataclass(frozen=True)
class Exposure:
    """What a model has seen of rows, each row counted by the first of these that applies.

    Attributes
    ----------
    is_known : bool array of shape (n_rows,)
        Rows that must not be scored.
    n_by_image, n_by_group, n_by_row : int
        Rows with an image, of a group, or equal to a row that the model was trained on.
    n_by_backbone : int
        Rows that a tuned backbone was trained on, or their group.
    n_linked : int
        Rows that share a group or an image's bytes with one of those.
    """

    is_known: np.ndarray
    n_by_image: int
    n_by_group: int
    n_by_row: int
    n_by_backbone: int
    n_linked: int


def tell_exposure(
    model: AnyModel, frame: pd.DataFrame, blocks: Mapping[str, ImageBlock], seen: SeenRows
) -> Exposure:
    """Tell the rows that a model, its encoders or its backbones were trained on.

    Parameters
    ----------
    model : FittedModel or StagedModel
        With what it was trained on.
    frame : DataFrame of shape (n_rows, n_columns)
        The rows.
    blocks : mapping of str to ImageBlock
        Their images.
    seen : SeenRows
        What the backbone of those was trained on.
    """
    n = len(frame)
    trained_on, group = model.trained_on, model.settings.group
    hashes = {h for row in trained_on["content_hash"] for h in row}
    by_image = np.array(
        [any(h in hashes for b in blocks.values() for h in b.content_hashes[i]) for i in range(n)],
        bool,
    )
    by_group = np.zeros(n, bool)
    if group is not None and group in frame.columns:
        known = {_same_text(value) for value in trained_on["group"].dropna()}
        values = frame[group].map(as_text, na_action="ignore")
        by_group = values.isin(known).to_numpy(bool)
    by_row = np.isin(_digests(model, frame), trained_on["row_digest"].to_numpy(object))
    by_backbone = np.zeros(n, bool)
    if model.backbones:
        by_backbone = seen_by_backbones(model, frame, blocks, seen)
    is_known = by_image | by_group | by_row | by_backbone
    given = frame[group] if group is not None and group in frame.columns else ()
    groups = split_groups(blocks, given, n)
    linked = np.isin(groups, groups[is_known])
    counts = []
    told = np.zeros(n, bool)
    for one in (by_image, by_group, by_row, by_backbone, linked):
        counts.append(int((one & ~told).sum()))
        told |= one
    return Exposure(linked, *counts)


def seen_by_backbones(
    model: AnyModel, frame: pd.DataFrame, blocks: Mapping[str, ImageBlock], seen: SeenRows
) -> np.ndarray:
    """Tell the rows whose label, or whose group's label, a backbone of a model was trained on.

    Parameters
    ----------
    model, frame, blocks, seen
        As for `tell_exposure`.

    Returns
    -------
    bool array of shape (n_rows,)
    """
    groups = split_groups(blocks, (), len(frame))
    rows = TrainingRows(frame, blocks, np.zeros(len(frame)), None, groups)
    if isinstance(model, StagedModel):
        seen = model.seen
        if seen.group_column not in frame.columns:  # groups were given to fit beside X
            seen = replace(seen, groups=frozenset())
    return tell_seen(rows, model.settings, seen)


def _digests(model: AnyModel, frame: pd.DataFrame) -> np.ndarray:
    """Return the digests of rows as `twostage.fitting.record_of` makes them."""
    names = [column.name for column in model.columns if column.role != IGNORED]
    return np.array(row_digests(frame[[*names, *model.dims]]), object)


def _same_text(value: str) -> str:
    """Return a recorded group as `twostage.seen.as_text` writes it: 7.0 as 7."""
    return value[:-2] if _WHOLE_NUMBER.fullmatch(value) else value
