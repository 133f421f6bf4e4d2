"""One cell of a benchmark: fit an arm on the training rows of a fold, predict its test rows."""

import logging
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from twostage.errors import BenchmarkError, TwoStageError
from twostage.evaluation.arms import Arm
from twostage.evaluation.importance import CellImportance, is_told_of, permutation_importance
from twostage.evaluation.resampling import Fold
from twostage.fitted import FitSettings
from twostage.fitting import Learner, StageTwo, tell_roles
from twostage.rows import TrainingRows
from twostage.staged import AnyModel
from twostage.table.roles import Column
from twostage.targets import Target

_N_TIMINGS = 2  # the first prediction warms caches


@dataclass(frozen=True)
class CellResult:
    """What an arm predicts of a fold's test rows.

    Attributes
    ----------
    arm : str
        Its name.
    repeat, fold : int
        Which fold.
    rows : int array of shape (n_test,)
        Numbers of the test rows.
    predicted : array of shape (n_test, n_classes) or (n_test,)
        Probabilities, or values in the target's unit.
    fit_seconds : float
        Of encoders, tuning, early stopping and head.
    predict_us_per_row : float
        Microseconds, from the table's columns and embeddings on.
    model_bytes : float
        Of encoders and head on disk; NaN of what can't be saved.
    n_train : int
        Rows that it learned from.
    importance : CellImportance or None
        What images and columns are worth to it; None where that was not asked for.
    """

    arm: str
    repeat: int
    fold: int
    rows: np.ndarray
    predicted: np.ndarray
    fit_seconds: float
    predict_us_per_row: float
    model_bytes: float
    n_train: int
    importance: CellImportance | None = None

    def is_of(self, arm: Arm, fold: Fold, n_classes: int | None) -> bool:
        """Tell whether it holds what an arm predicts of a fold's rows, and numbers alone."""
        wanted = (len(fold.test),) if n_classes is None else (len(fold.test), n_classes)
        return (
            self.arm == arm.name
            and np.array_equal(self.rows, fold.test)
            and self.predicted.shape == wanted
            and bool(np.isfinite(self.predicted).all())
        )

    def is_enough(self, arm: Arm, n_permutations: int) -> bool:
        """Tell whether it holds the importance that is asked for, if it is."""
        if n_permutations == 0 or not is_told_of(arm):
            return True
        return self.importance is not None and self.importance.n_asked == n_permutations


def run_cell(
    arm: Arm,
    fold: Fold,
    rows: TrainingRows,
    target: Target,
    n_permutations: int = 0,
    n_threads: int | None = None,
) -> CellResult:
    """Fit an arm on a fold's training rows, and predict its test rows.

    Nothing is learned from other rows: encoders, tuning and weights of a blend are in the fold.

    Parameters
    ----------
    arm : Arm
        What is fitted.
    fold : Fold
        On which rows.
    rows : TrainingRows
        All of them.
    target : Target
        Of all of them.
    n_permutations : int
        Of each block and column, for their importance; none if 0.
    n_threads : int, optional
        For this cell, where others run beside it in processes of their own.

    Raises
    ------
    BenchmarkError
        Naming the arm and the fold.
    """
    where = f"Arm '{arm.name}', repeat {fold.repeat + 1}, fold {fold.number + 1}"
    try:
        with _alone(n_threads):
            return _run(arm, fold, rows, target, n_permutations, n_threads, where)
    except BenchmarkError:
        raise
    except TwoStageError as error:
        raise BenchmarkError(f"{where}: {error}") from error


def roles_of(arm: Arm, rows: TrainingRows, used: np.ndarray) -> list[Column]:
    """Tell the roles of the table's columns from the values in all rows used, as `fit` does."""
    return tell_roles(rows.frame.iloc[used], arm.settings)


def _run(
    arm: Arm,
    fold: Fold,
    rows: TrainingRows,
    target: Target,
    n_permutations: int,
    n_threads: int | None,
    where: str,
) -> CellResult:
    settings = replace(arm.settings, n_jobs=n_threads)
    columns = roles_of(arm, rows, np.union1d(fold.train, fold.test))
    started = time.perf_counter()
    learner = _learner(arm, settings)
    model = learner.fit(rows.take(fold.train), target.take(fold.train), columns)
    fit_seconds = time.perf_counter() - started
    test = rows.take(fold.test)
    images = learner.images_of(test, model)
    predicted, seconds = _predict(model, test.frame, images)
    n_bad = int((~np.isfinite(predicted)).reshape(len(predicted), -1).any(axis=1).sum())
    if n_bad:
        raise BenchmarkError(
            f"{where}: {n_bad} of {len(predicted)} predictions are NaN or infinite. Leave the head "
            "out, change its settings, or look at the rows' columns for values out of all range."
        )
    importance = None
    if n_permutations and is_told_of(arm):
        seed = (settings.random_state, fold.repeat, fold.number)
        test = replace(test, blocks=model.blocks_in(images))
        importance = permutation_importance(
            model, test, target.y[fold.test], n_permutations, len(fold.train), seed
        )
    return CellResult(
        arm.name,
        fold.repeat,
        fold.number,
        fold.test,
        predicted,
        fit_seconds,
        seconds / len(fold.test) * 1e6,
        _model_bytes(model),
        len(fold.train),
        importance,
    )


def _learner(arm: Arm, settings: FitSettings) -> Learner[Any]:
    """Return what learns from the rows of a fold."""
    if arm.staging is None or arm.pictures is None:
        return StageTwo(settings)
    from twostage.backbones.lazy import runnable  # what trains needs Keras
    from twostage.backbones.spec import BackboneSpec
    from twostage.extraction import ExtractionOptions
    from twostage.staging import ImageSource, Staging

    options = ExtractionOptions(workers=settings.n_jobs)
    parent = BackboneSpec.from_dict(arm.pictures.spec, "the store")
    backbone = runnable(parent, options.device).to_settings()
    images = ImageSource(arm.pictures.folder, backbone, options)
    return Staging(arm.staging, settings, images, arm.pictures.spec)


def _predict(model: AnyModel, frame: pd.DataFrame, images: Any) -> tuple[np.ndarray, float]:
    """Return predictions, and the seconds of the fastest of a few."""
    predict = model.predict_proba if model.is_classification else model.predict
    seconds = []
    for _ in range(_N_TIMINGS):
        started = time.perf_counter()
        predicted = predict(frame, images)
        seconds.append(time.perf_counter() - started)
    return predicted, min(seconds)


def _model_bytes(model: AnyModel) -> float:
    """Return what encoders and heads take on disk, without backbone and record of the rows."""
    try:
        with TemporaryDirectory() as folder:
            members = [member for part in model.parts for member in part.members]
            for number, member in enumerate(members):
                place = Path(folder) / str(number)
                place.mkdir()
                member.save(place)
            files = [path for path in Path(folder).rglob("*") if path.is_file()]
            return float(sum(path.stat().st_size for path in files))
    except TwoStageError:  # an estimator of the user's, of a type that is not saved unasked
        return float("nan")


@contextmanager
def _alone(n_threads: int | None) -> Iterator[None]:
    """Work without a word, and in a process of a pool with its share of the threads.

    TensorFlow reads how many it may have when it starts: in a fresh process, that is after this.
    """
    log = logging.getLogger("twostage")
    level = log.level
    if n_threads is not None:
        for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"):
            os.environ[name] = str(n_threads)
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")  # several share the device
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        log.setLevel(logging.ERROR)
        with warnings.catch_warnings(), threadpool_limits(n_threads):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
