"""Benchmark: heads on table, images and both, over the same folds, into one results folder."""

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from twostage.errors import DataError, UsageError, listed
from twostage.evaluation.arms import BOTH, IMAGES, TABLE, Arm, make_arms
from twostage.evaluation.cells import CellResult
from twostage.evaluation.duplicates import NEARLY_EQUAL, Duplicates, join_duplicates
from twostage.evaluation.findings import Finding, find
from twostage.evaluation.pool import run_cells
from twostage.evaluation.resampling import Fold, Resampling, make_folds
from twostage.evaluation.results import OOF, RESULTS, ResultsFolder
from twostage.evaluation.scoring import choose_metrics, score_fold
from twostage.evaluation.summary import FoldPrediction, summarise
from twostage.fingerprint import hash_json
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
from twostage.heads import heads_of
from twostage.joins import ImageBlock
from twostage.rows import TrainingRows, row_digests
from twostage.sources import blocks_from_store, check_usable
from twostage.store.store import EmbeddingStore
from twostage.table.roles import IGNORED
from twostage.targets import Target, prepare_target

PathLike = str | os.PathLike[str]
DEFAULT_HEADS = ("lightgbm", "keras")
_VERSIONS = ("twostage", "scikit-learn", "lightgbm", "keras", "skrub", "numpy", "pandas")
_OF_OOF = ("row", "y", "arm", "repeat", "fold", "prediction")


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
    n_computed : int
        Cells that this run computed; the others were there.
    """

    path: Path
    run: dict[str, Any]
    summary: pd.DataFrame
    scores: pd.DataFrame
    findings: list[Finding]
    n_computed: int


@dataclass(frozen=True)
class _Data:
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
        Folder for the results: ``results.parquet``, ``oof.parquet``, ``run.json``.
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
    folder = ResultsFolder(output)
    folder.check()
    base = _base_settings(target, split, settings)
    how = Resampling(n_folds, n_repeats, time_column, split, base.random_state)
    learners = _named_heads(heads)
    places = _named_stores([stores] if isinstance(stores, str | os.PathLike) else stores)
    chosen = _choose_features(features, table, base, bool(places))
    arms = make_arms(base, learners, chosen, list(places))
    data = _gather(table, base, arms, places, near_duplicates, n_folds)
    used = choose_metrics(metrics, data.target.classes is not None, data.target.y, base.log_target)
    may_train = np.isin(np.arange(len(table)), _kept(data, base))
    folds = make_folds(
        how, table, data.target, data.duplicates.groups, ~data.is_seen, may_train
    )
    for note in data.notes:
        (told or _nobody)(note)
    identity = _identity(data, arms, how, near_duplicates)
    with folder.opened(identity):
        facts = {
            "identity": identity,
            "command": command,
            "started": begun.isoformat(timespec="seconds"),
            "machine": _machine(n_jobs),
            "stores": [_store_record(name, store) for name, store in data.stores.items()],
            "arms": [_arm_record(arm) for arm in arms],
            "metrics": list(used),
            "counts": _counts(data, folds),
            "folds": [_fold_record(fold) for fold in folds],
        }
        folder.write_run(facts)
        cells, n_computed = _all_cells(folder, arms, folds, data, used[0], n_jobs, progress)
        predictions = _predictions(cells, data)
        results = _results(cells, arms, data, used)
        scores = summarise(predictions, used)
        findings = find(arms, predictions, used[0])
        folder.write_table(RESULTS, results)
        folder.write_table(OOF, _out_of_fold(cells, data, base))
        outcome = {
            "seconds": time.perf_counter() - started,
            "n_cells_computed": n_computed,
            "scores": scores.to_dict("records"),
            "findings": [asdict(finding) for finding in findings],
        }
        folder.write_run(facts | outcome)
    summary = _summary(results, scores, used[0])
    return Benchmark(folder.path, folder.read_run(), summary, scores, findings, n_computed)


def _nobody(note: str) -> None:
    """Tell nobody."""


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
    names = [Path(path).resolve().name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    if len(set(names)) < len(names):
        raise UsageError(f"A store is given twice: {listed(names)}. Give each once.")
    return {name: EmbeddingStore(path) for name, path in zip(names, paths, strict=True)}


def _choose_features(
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


def _gather(
    frame: pd.DataFrame,
    base: FitSettings,
    arms: Sequence[Arm],
    stores: Mapping[str, EmbeddingStore],
    near_duplicates: float | None,
    n_folds: int,
) -> _Data:
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
    return _Data(frame, target, rows, dict(stores), is_seen, duplicates, n_unusable, notes)


def _check_names(frame: pd.DataFrame, base: FitSettings) -> None:
    """Refuse columns that out-of-fold predictions would have twice."""
    named = [*base.image_columns, *([base.group] if base.group else [])]
    taken = [name for name in named if name in _OF_OOF]
    if taken:
        raise DataError(
            f"Column {listed(taken)} bears the name of a column that the results have. Rename it."
        )


def _kept(data: _Data, base: FitSettings) -> np.ndarray:
    """Return the numbers of the rows that may be trained on."""
    unknown = next((s.seen for s in data.stores.values() if not s.seen.is_known), None)
    seen = unknown or next((store.seen for store in data.stores.values()), None)
    if seen is None:
        return np.arange(len(data.frame))
    kept = without_seen(data.is_seen, base, seen)
    if data.is_seen.all():
        raise DataError(
            f"The backbone was tuned on all {len(data.frame)} rows, or on their groups: none is "
            "left to be scored. Tune it with --holdout, or give other rows."
        )
    warn_of_lost_classes(data.target, kept)
    return kept


def _all_cells(
    folder: ResultsFolder,
    arms: Sequence[Arm],
    folds: Sequence[Fold],
    data: _Data,
    metric: str,
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
            score = score_fold(data.target.y[cell.rows], cell.predicted).get(metric, float("nan"))
            counts = (len(done), len(order), was_there)
            progress(CellDone(cell.arm, cell.repeat, cell.fold, score, cell.fit_seconds, *counts))

    left = []
    for arm, fold in order:
        cell = folder.read_cell(number_of[arm.name], fold.repeat, fold.number)
        if cell is None:
            left.append((arm, fold))
        else:
            take(cell, True)
    for cell in run_cells(left, data.rows, data.target, n_jobs):
        folder.write_cell(number_of[cell.arm], cell)
        take(cell, False)
    cells = [done[arm.name, fold.repeat, fold.number] for arm in arms for fold in folds]
    return cells, len(left)


def _predictions(cells: Sequence[CellResult], data: _Data) -> dict[str, list[FoldPrediction]]:
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


def _results(
    cells: Sequence[CellResult], arms: Sequence[Arm], data: _Data, metrics: Sequence[str]
) -> pd.DataFrame:
    """Return the results table: a row per cell and metric."""
    by_name = {arm.name: arm for arm in arms}
    records = []
    for cell in cells:
        arm = by_name[cell.arm]
        values = score_fold(data.target.y[cell.rows], cell.predicted)
        records += [
            {
                "arm": arm.name,
                "head": arm.head,
                "features": arm.features,
                "store": arm.store,
                "repeat": cell.repeat,
                "fold": cell.fold,
                "metric": metric,
                "value": values.get(metric, float("nan")),
                "fit_seconds": cell.fit_seconds,
                "predict_us_per_row": cell.predict_us_per_row,
                "model_bytes": cell.model_bytes,
                "n_train": cell.n_train,
                "n_test": len(cell.rows),
            }
            for metric in metrics
        ]
    return pd.DataFrame(records)


def _out_of_fold(cells: Sequence[CellResult], data: _Data, base: FitSettings) -> pd.DataFrame:
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


def _summary(results: pd.DataFrame, scores: pd.DataFrame, metric: str) -> pd.DataFrame:
    of_arm = ["arm", "head", "features", "store"]
    costs = ["fit_seconds", "predict_us_per_row", "model_bytes"]
    main = results[results["metric"] == metric]
    means = main.groupby(of_arm, sort=False)[costs].mean().reset_index()
    summary = means.merge(scores[scores["metric"] == metric], on="arm")
    return summary[[*of_arm, "metric", "value", "low", "high", *costs]]


def _identity(
    data: _Data, arms: Sequence[Arm], how: Resampling, near_duplicates: float | None
) -> dict[str, Any]:
    """Return what a benchmark is of: of another one no cell is taken over."""
    digests = row_digests(data.frame)
    common = {
        name: value
        for name, value in arms[0].settings.record().items()
        if name not in ("head", "heads", "features", "n_jobs")
    }
    return {
        "table": {
            "rows": len(data.frame),
            "columns": [str(name) for name in data.frame.columns],
            "digest": hash_json(digests),
        },
        "stores": {
            name: hash_json(
                [store.spec, store.seen.digest]
                + [block.content_hashes for block in data.rows[name].blocks.values()]
            )
            for name, store in data.stores.items()
        },
        "heads": {
            arm.head: [[str(type(head).__name__), str(head)] for head in heads_of(arm.settings.head)]
            for arm in arms
        },
        "features": list(dict.fromkeys(arm.features for arm in arms)),
        "settings": common,
        "resampling": asdict(how),
        "near_duplicates": near_duplicates,
        "versions": {name: version(name) for name in _VERSIONS},
    }


def _machine(n_jobs: int | None) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": int(joblib.cpu_count()),
        "n_jobs": n_jobs,
    }


def _store_record(name: str, store: EmbeddingStore) -> dict[str, Any]:
    seen = store.seen
    return {
        "name": name,
        "spec": store.spec,
        "tuned": bool(seen.content_hashes or seen.groups or not seen.is_known),
        "n_images_seen": len(seen.content_hashes),
        "n_groups_seen": len(seen.groups),
        "seen_is_known": seen.is_known,
    }


def _arm_record(arm: Arm) -> dict[str, Any]:
    return {name: getattr(arm, name) for name in ("name", "head", "features", "store")}


def _counts(data: _Data, folds: Sequence[Fold]) -> dict[str, int]:
    """Count rows by what becomes of them."""
    tested = np.unique(np.concatenate([fold.test for fold in folds]))
    duplicates = data.duplicates
    return {
        "n_rows": len(data.frame),
        "n_groups": len(np.unique(duplicates.groups)),
        "n_scored": len(tested),
        "n_seen": int(data.is_seen.sum()),
        "n_unreadable": data.n_unusable,
        "n_rows_with_equal_images": duplicates.n_equal_rows,
        "n_near_duplicate_pairs": duplicates.n_near_pairs,
        "n_near_duplicate_rows": duplicates.n_near_rows,
        "n_kin_left_out": sum(fold.n_kin for fold in folds),
        "n_unlearnable": sum(fold.n_unlearnable for fold in folds),
    }


def _fold_record(fold: Fold) -> dict[str, int]:
    return {
        "repeat": fold.repeat,
        "fold": fold.number,
        "n_train": len(fold.train),
        "n_test": len(fold.test),
        "n_kin_left_out": fold.n_kin,
        "n_unlearnable": fold.n_unlearnable,
    }
