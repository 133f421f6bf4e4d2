"""Benchmark: heads on table, images and both, over the same folds, into one results folder."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pandas as pd

from twostage.errors import UsageError, listed
from twostage.evaluation.arms import Arm, Pictures, make_arms
from twostage.evaluation.cells import CellResult
from twostage.evaluation.duplicates import NEARLY_EQUAL
from twostage.evaluation.findings import Finding, find
from twostage.evaluation.gathering import Gathered, choose_features, gather, trainable_rows
from twostage.evaluation.importance import N_PERMUTATIONS
from twostage.evaluation.pool import run_cells
from twostage.evaluation.provenance import facts_of, identity_of
from twostage.evaluation.resampling import Fold, Resampling, make_folds
from twostage.evaluation.results import IMPORTANCE, OOF, RESULTS, ResultsFolder
from twostage.evaluation.scoring import choose_metrics, score_fold
from twostage.evaluation.summary import summarise
from twostage.evaluation.tables import (
    arms_table,
    importance_by_arm,
    importance_table,
    out_of_fold_table,
    predictions_by_arm,
    results_table,
)
from twostage.fitted import FitSettings
from twostage.metrics import Metric
from twostage.staged import JOINT, StagingSettings
from twostage.store.store import EmbeddingStore

PathLike = str | os.PathLike[str]
DEFAULT_HEADS = ("lightgbm", "keras")


@dataclass(frozen=True)
class CellDone:
    """A cell that is finished, for whoever watches.

    Attributes
    ----------
    arm : str
        Its name.
    repeat, fold : int
        Which fold.
    score : float
        By the main metric.
    fit_seconds : float
        What the fit took.
    n_done, n_cells : int
        Cells that are finished, and all of them.
    was_there : bool
        Whether an earlier run had finished it.
    """

    arm: str
    repeat: int
    fold: int
    score: float
    fit_seconds: float
    n_done: int
    n_cells: int
    was_there: bool


@dataclass(frozen=True)
class Benchmark:
    """What a benchmark found.

    Attributes
    ----------
    path : Path
        The results folder.
    run : dict
        What is in its ``run.json``: the command, data, settings, versions, counts.
    summary : DataFrame
        A row per arm: ``arm``, ``head``, ``features``, ``store``, ``metric`` (the main one),
        ``value``, ``low``, ``high``, and the means ``fit_seconds``, ``predict_us_per_row``,
        ``model_bytes``.
    scores : DataFrame
        ``arm``, ``metric``, ``value``, ``low``, ``high``, for all metrics.
    findings : list of Finding
        Paired differences, in words.
    importance : DataFrame
        A row per arm and what it looks at, the images as one block and each column: ``arm``,
        ``kind``, ``name``, ``value``, ``low``, ``high``. The value says by how much the main metric
        gets worse where rows get another row's images or value.
    n_computed : int
        Cells that this run computed; the others were there.
    """

    path: Path
    run: dict[str, Any]
    summary: pd.DataFrame
    scores: pd.DataFrame
    findings: list[Finding]
    importance: pd.DataFrame
    n_computed: int


def benchmark(
    stores: PathLike | Sequence[PathLike],
    output: PathLike,
    *,
    table: pd.DataFrame,
    target: str,
    heads: Sequence[Any] | Mapping[str, Any] = DEFAULT_HEADS,
    features: Sequence[str] | None = None,
    metrics: Sequence[str] = (),
    n_folds: int = 5,
    n_repeats: int = 1,
    time_column: str | None = None,
    split: str | None = None,
    near_duplicates: float | None = NEARLY_EQUAL,
    images: PathLike | None = None,
    finetuning: Mapping[str, Any] | None = None,
    importance: bool | int = True,
    n_jobs: int | None = None,
    command: str | None = None,
    progress: Callable[[CellDone], None] | None = None,
    told: Callable[[str], None] | None = None,
    **settings: Any,
) -> Benchmark:
    """Compare heads on table, images and both, each fitted and scored on the same folds.

    Everything is learned inside the fold, by the code of ``twostage fit``. Rows that a store's
    tuned backbone has seen are never scored. Each finished cell (arm, repeat, fold) is written at
    once: a benchmark that was killed goes on where it was if it is asked for the same.

    Parameters
    ----------
    stores : path-like or sequence of path-like
        Embeddings of the table's images; several are compared. May be empty where ``features`` is
        ``("table",)``.
    output : path-like
        Folder for the results: ``results.parquet``, ``oof.parquet``, ``importance.parquet``,
        ``run.json``.
    table : DataFrame of shape (n_rows, n_columns)
        With target and image columns.
    target : str
        Column to predict.
    heads : sequence of str, Head, Blend or scikit-learn estimator, or mapping by name
        What is compared.
    features : sequence of {"table", "images", "both"}, optional
        What the heads see; all that there is if None.
    metrics : sequence of str
        The first is the main one; all that fit the target if empty.
    n_folds, n_repeats : int
        Folds, and how often the rows are cut anew; stratified, by whole groups.
    time_column : str, optional
        Column of numbers or dates: train on the past, test on what follows, in ``n_folds`` steps.
    split : str, optional
        Column of fold names, or of "train" and "test"; it is no feature.
    near_duplicates : float or None
        Cosine of centred embeddings from which on two rows are kept in one fold; None for never.
        Rows with images of equal bytes are kept in one fold in any case.
    images : path-like, optional
        What the names of images start from, for heads that train the backbone on them, anew in
        each fold, from the store's backbone on: "joint"; "joint:block_13", from that block on
        ("joint:none" leaves the backbone as it is); and "linear:crossfit", in that mode of
        `twostage.staging`, any other head.
    finetuning : mapping, optional
        How, as for the estimators: fields of `twostage.training.settings.TuningSettings`.
    importance : bool or int
        Whether to tell what the images as a block and each column are worth to arms that see the
        table, by permuting test rows; a number says how often, in place of 5. Cells that lack it
        are computed again.
    n_jobs : int, optional
        Processes; one per core if None. Scores do not depend on it.
    command : str, optional
        To be written into ``run.json``.
    progress : callable, optional
        Is given a `CellDone` for each finished cell.
    told : callable, optional
        Is given notes about the data.
    **settings
        Fields of `twostage.fitted.FitSettings`: ``image_columns``, ``group``, ``task``,
        ``log_target``, ``roles``, ``recipe``, ``allow_seen``, ``random_state`` and others.

    Returns
    -------
    Benchmark

    Raises
    ------
    UsageError
        If an option has no such value, or a metric does not fit the target.
    DataError
        If the table does not hold what it must, or there are fewer groups than folds.
    BenchmarkError
        If a cell goes wrong, which is named, or the folder is another benchmark's.
    """
    started, begun = time.perf_counter(), datetime.now(UTC)
    n_permutations = _n_permutations(importance)
    folder = ResultsFolder(output)
    folder.check()
    base = _base_settings(target, split, settings)
    how = Resampling(n_folds, n_repeats, time_column, split, base.random_state)
    places = _named_stores([stores] if isinstance(stores, str | os.PathLike) else stores)
    seen_by_heads = choose_features(features, table, base, bool(places))
    joint = StagingSettings.chosen(JOINT, finetuning, {"random_state": base.random_state})
    pictures = {
        name: Pictures(os.path.abspath(images), store.spec)
        for name, store in places.items()
        if images is not None
    }
    arms = make_arms(base, _named_heads(heads), seen_by_heads, list(places), joint, pictures)
    if (images is not None or finetuning) and not any(arm.staging for arm in arms):
        raise UsageError(
            "Images and options of tuning are for heads that train a backbone, and none here "
            "does. Leave them out, or add joint, or linear:crossfit, say, to the heads."
        )
    base = base.for_head(base.head)
    data = gather(table, base, arms, places, near_duplicates, n_folds)
    used = choose_metrics(metrics, data.target, base.log_target)
    may_train = np.isin(np.arange(len(table)), trainable_rows(data, base))
    folds = make_folds(how, table, data.target, data.duplicates.groups, ~data.is_seen, may_train)
    if told is not None:
        for note in data.notes:
            told(note)
    identity = identity_of(data, arms, how, near_duplicates)
    facts = {
        "identity": identity,
        "command": command,
        "started": begun.isoformat(timespec="seconds"),
        "metrics": [metric.name for metric in used],
        **facts_of(data, arms, folds, n_jobs),
    }
    with folder.opened(identity):
        folder.write_run(facts)
        cells, n_computed = _all_cells(
            folder, arms, folds, data, used[0], n_permutations, n_jobs, progress
        )
        predictions = predictions_by_arm(cells, data)
        results = results_table(cells, arms, data, used)
        scores = summarise(predictions, used)
        findings = find(arms, predictions, used[0])
        drops = importance_table(cells, used[0].name)
        worth = importance_by_arm(drops, predictions)
        folder.write_table(RESULTS, results)
        folder.write_table(IMPORTANCE, drops)
        folder.write_table(OOF, out_of_fold_table(cells, data, base))
        outcome = {
            "seconds": time.perf_counter() - started,
            "n_cells_computed": n_computed,
            "scores": scores.to_dict("records"),
            "findings": [asdict(finding) for finding in findings],
            "importance": worth.to_dict("records"),
            "permutations": _permutations(cells),
        }
        folder.write_run(facts | outcome)
    summary = arms_table(results, scores, used[0].name)
    return Benchmark(folder.path, folder.read_run(), summary, scores, findings, worth, n_computed)


def _n_permutations(importance: bool | int) -> int:
    if isinstance(importance, bool):
        return N_PERMUTATIONS if importance else 0
    if importance < 0:
        raise UsageError(f"The number of permutations is {importance}; give 0 or more.")
    return importance


def _permutations(cells: Sequence[CellResult]) -> dict[str, Any] | None:
    """Return how the importance was computed: where it cost too much, with less than asked for."""
    told = [cell.importance for cell in cells if cell.importance is not None]
    if not told:
        return None
    return {
        "asked": max(one.n_asked for one in told),
        "made": min(one.n_permutations for one in told),
        "largest_share_of_rows_left_out": max(one.share_left_out for one in told),
        "seconds": sum(one.seconds for one in told),
    }


def _base_settings(target: str, split: str | None, settings: dict[str, Any]) -> FitSettings:
    given = dict(settings)
    columns = given.pop("image_columns", ())
    given["image_columns"] = (columns,) if isinstance(columns, str) else tuple(columns)
    base = FitSettings(target, **given)
    if split is None:
        return base
    return replace(base, roles=replace(base.roles, ignore=(*base.roles.ignore, split)))


def _named_heads(heads: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(heads, Mapping):
        return dict(heads)
    named: dict[str, Any] = {}
    for head in [heads] if isinstance(heads, str) else heads:
        name = FitSettings("", head=head).head_name
        if name in named:
            raise UsageError(f"Two heads are called '{name}'. Name each: give a mapping of them.")
        named[name] = head
    return named


def _named_stores(paths: Sequence[PathLike]) -> dict[str, EmbeddingStore]:
    """Open stores by the names of their folders, or by their paths where those are equal."""
    opened = [EmbeddingStore(path) for path in paths]
    names = [PurePath(store.files.address).name for store in opened]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError(f"A store is given twice: {listed(names)}. Give each once.")
    return dict(zip(names, opened, strict=True))


def _all_cells(
    folder: ResultsFolder,
    arms: Sequence[Arm],
    folds: Sequence[Fold],
    data: Gathered,
    metric: Metric,
    n_permutations: int,
    n_jobs: int | None,
    progress: Callable[[CellDone], None] | None,
) -> tuple[list[CellResult], int]:
    """Return all cells in order, those that were there and those computed and committed now."""
    number_of = {arm.name: number for number, arm in enumerate(arms)}
    order = [(arm, fold) for fold in folds for arm in arms]
    done: dict[tuple[str, int, int], CellResult] = {}

    def take(cell: CellResult, was_there: bool) -> None:
        done[cell.arm, cell.repeat, cell.fold] = cell
        if progress is not None:
            score = score_fold([metric], data.target.y[cell.rows], cell.predicted)[metric.name]
            counts = (len(done), len(order), was_there)
            progress(CellDone(cell.arm, cell.repeat, cell.fold, score, cell.fit_seconds, *counts))

    n_classes = None if data.target.classes is None else len(data.target.classes)
    left = []
    for arm, fold in order:
        cell = folder.read_cell(number_of[arm.name], fold.repeat, fold.number)
        if (
            cell is None
            or not cell.is_of(arm, fold, n_classes)
            or not cell.is_enough(arm, n_permutations)
        ):
            left.append((arm, fold))
        else:
            take(cell, True)
    for cell in run_cells(left, data.rows, data.target, n_permutations, n_jobs):
        folder.write_cell(number_of[cell.arm], cell)
        take(cell, False)
    cells = [done[arm.name, fold.repeat, fold.number] for arm in arms for fold in folds]
    return cells, len(left)
