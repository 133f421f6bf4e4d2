"""The rows of a benchmark: table and stores joined, what was seen, what belongs together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twostage.contents import IMAGE
from twostage.errors import DataError, UsageError, listed
from twostage.evaluation.arms import BOTH, IMAGES, TABLE, Arm
from twostage.evaluation.duplicates import Duplicates, join_duplicates
from twostage.fitted import FitSettings
from twostage.fitting import (
    check_heads,
    check_table,
    split_groups,
    tell_roles,
    tell_seen,
    training_rows,
    warn_of_lost_classes,
    without_seen,
)
from twostage.joins import ImageBlock
from twostage.rows import TrainingRows
from twostage.sources import blocks_from_store, check_usable
from twostage.store.store import EmbeddingStore
from twostage.table.roles import IGNORED
from twostage.targets import Target, prepare_target

_OF_OOF = ("row", "y", "arm", "repeat", "fold")  # columns of out-of-fold predictions


@dataclass(frozen=True)
class Gathered:
    """The rows of a benchmark, and what is known of them.

    Attributes
    ----------
    frame : DataFrame
        The table.
    target : Target
        Of its rows.
    rows : dict of str to TrainingRows
        By the name of the store, and "" for those without images; groups are joined.
    stores : dict of str to EmbeddingStore
        By name.
    is_seen : bool array of shape (n_rows,)
        What any of the stores' backbones was trained on.
    duplicates : Duplicates
        Rows that show the same.
    n_unusable : int
        Rows with an unusable image.
    notes : list of str
        What the user should know.
    """

    frame: pd.DataFrame
    target: Target
    rows: dict[str, TrainingRows]
    stores: dict[str, EmbeddingStore]
    is_seen: np.ndarray
    duplicates: Duplicates
    n_unusable: int
    notes: list[str]


def choose_features(
    asked: Sequence[str] | None, table: pd.DataFrame, base: FitSettings, has_stores: bool
) -> tuple[str, ...]:
    """Return what heads see: what was asked for, or all that there is."""
    if asked is not None:
        chosen = (asked,) if isinstance(asked, str) else tuple(asked)
        if not has_stores and set(chosen) != {TABLE}:
            raise UsageError("Without a store heads see the table alone: give a store.")
        return chosen
    check_table(table, base if has_stores else replace(base, features=TABLE))
    has_table = any(column.role != IGNORED for column in tell_roles(table, base))
    if not has_stores:
        return (TABLE,)
    return (TABLE, IMAGES, BOTH) if has_table else (IMAGES,)


def gather(
    frame: pd.DataFrame,
    base: FitSettings,
    arms: Sequence[Arm],
    stores: Mapping[str, EmbeddingStore],
    near_duplicates: float | None,
    n_folds: int,
) -> Gathered:
    """Check the table, join it with the stores, and tell which rows belong together."""
    if near_duplicates is not None and not 0 < near_duplicates <= 1:
        raise UsageError(
            f"The threshold of near-duplicates is {near_duplicates}; give more than 0, up to 1."
        )
    if stores and not base.image_columns:
        raise UsageError("Give the image columns: the table's columns of image paths.")
    for features in dict.fromkeys(arm.features for arm in arms):
        check_table(frame, replace(base, features=features))
    target = prepare_target(frame[base.target], base.task, log_target=base.log_target)
    for arm in arms:
        check_heads(arm.settings, target)
    notes = [target.note] if target.note else []
    blocks: dict[str, dict[str, ImageBlock]] = {"": {}}
    for name, store in stores.items():
        blocks[name], said = blocks_from_store(
            frame, base.image_columns, store, pooling=base.image_pooling
        )
        notes += said
    _check_names(frame, base)
    given = frame[base.group] if base.group else ()
    first = blocks[next(iter(stores), "")]
    groups = split_groups(first, given, len(frame))
    if base.embeds != IMAGE:  # an encoder is taught to find alike what has the same label
        near_duplicates = None
    duplicates = join_duplicates(first, groups, near_duplicates, n_folds)
    notes += [duplicates.note] if duplicates.note else []
    rows, is_seen = {}, np.zeros(len(frame), bool)
    for name, of_store in blocks.items():
        made = training_rows(frame, of_store, target, replace(base, features=BOTH), given)
        rows[name] = replace(made, groups=duplicates.groups)
        if name:
            is_seen |= tell_seen(rows[name], base, stores[name].seen)
    is_seen = np.isin(duplicates.groups, duplicates.groups[is_seen])
    n_unusable = check_usable(first)
    return Gathered(frame, target, rows, dict(stores), is_seen, duplicates, n_unusable, notes)


def _check_names(frame: pd.DataFrame, base: FitSettings) -> None:
    """Refuse columns that out-of-fold predictions would have twice."""
    named = [*base.image_columns, *([base.group] if base.group else [])]
    taken = [name for name in named if name in _OF_OOF]
    if taken:
        raise DataError(
            f"Column {listed(taken)} bears the name of a column that the results have. Rename it."
        )


def trainable_rows(data: Gathered, base: FitSettings) -> np.ndarray:
    """Return the numbers of the rows that may be trained on."""
    unknown = next((s.seen for s in data.stores.values() if not s.seen.is_known), None)
    seen = unknown or next((store.seen for store in data.stores.values()), None)
    if seen is None:
        return np.arange(len(data.frame))
    if data.is_seen.all():
        lost = "" if seen.is_known else " (its seen.parquet, which says on which, is gone)"
        raise DataError(
            f"The backbone was tuned on all {len(data.frame)} rows, or on their groups{lost}: none "
            "is left to be scored. Tune it with --holdout, or give other rows."
        )
    kept = without_seen(data.is_seen, base, seen)
    warn_of_lost_classes(data.target, kept)
    return kept
