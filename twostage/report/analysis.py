"""What a report tells of a benchmark, as numbers: no words on a page yet, no places on a plot."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from twostage.evaluation.calibration import Calibration, calibrate
from twostage.evaluation.thresholds import threshold_table
from twostage.report.evidence import ArmPredictions, Evidence
from twostage.report.stored import Stored
from twostage.report.words import lower_is_better

MOST_CLASSES = 12  # of a confusion matrix; the rarest become one
MOST_POINTS = 1500  # of a map or scatter plot
_MOST_FOR_COMPONENTS = 10_000
OTHERS = "all others"


@dataclass(frozen=True)
class Confusion:
    """True classes against predicted ones.

    Attributes
    ----------
    labels : list of str
        Classes in the order of rows and columns.
    counts : int array of shape (n_classes, n_classes)
        Rows of each true class, by the class predicted.
    """

    labels: list[str]
    counts: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """Of each true class's rows."""
        totals = self.counts.sum(axis=1, keepdims=True)
        return np.asarray(self.counts / np.maximum(totals, 1))


@dataclass(frozen=True)
class EmbeddingMap:
    """Rows in the plane of the first two principal components of their embeddings.

    Attributes
    ----------
    chosen : int array of shape (n_points,)
        Which of the predictions' rows are on it.
    points : array of shape (n_points, 2)
        Where they are.
    explained : (float, float)
        Share of the variance along each axis.
    n_rows : int
        How many rows have an embedding.
    """

    chosen: np.ndarray
    points: np.ndarray
    explained: tuple[float, float]
    n_rows: int


@dataclass(frozen=True)
class Analysis:
    """A benchmark's numbers, ready to be shown.

    Attributes
    ----------
    evidence : Evidence
        What it is of.
    ranked : DataFrame
        The arms, the best first, with score, interval and costs.
    headline : dict or None
        The finding that answers whether images help, or the first one.
    best : ArmPredictions
        Out-of-fold predictions of the best arm.
    calibration, confusion, thresholds
        Of the best arm; None where the task has none.
    stored : Stored or None
        Embeddings of the rows of ``best``.
    map : EmbeddingMap or None
        Of them.
    """

    evidence: Evidence
    ranked: pd.DataFrame
    headline: Mapping[str, Any] | None
    best: ArmPredictions
    calibration: Calibration | None
    confusion: Confusion | None
    thresholds: pd.DataFrame | None
    stored: Stored | None
    map: EmbeddingMap | None


def analyse(
    evidence: Evidence, ranked: pd.DataFrame, best: ArmPredictions, stored: Stored | None
) -> Analysis:
    """Work out what a report shows of the best arm."""
    groups = best.groups(evidence.settings.get("group"))
    calibration = confusion = thresholds = None
    if best.proba is not None:
        confusion = _confusion(best)
        if np.isfinite(best.proba).all() and len(best.labels) > 1:
            calibration = calibrate(best.y, best.proba, groups)
            is_binary = len(best.labels) == 2
            if is_binary and 0 < best.y.sum() < len(best.y):
                thresholds = threshold_table(best.y == 1, best.proba[:, 1])
    return Analysis(
        evidence,
        ranked,
        choose_headline(evidence, ranked),
        best,
        calibration,
        confusion,
        thresholds,
        stored,
        None if stored is None else embedding_map(stored.matrix),
    )


def choose_headline(evidence: Evidence, ranked: pd.DataFrame) -> Mapping[str, Any] | None:
    """Return what the best arm that was compared for its images says; else the first finding."""
    findings = evidence.run.get("findings") or []
    rank = {arm: place for place, arm in enumerate(ranked["arm"])}
    of_images = [one for one in findings if one["kind"] == "images"]
    if of_images:
        return dict(min(of_images, key=lambda one: rank.get(one["arm"], len(rank))))
    return dict(findings[0]) if findings else None


def verdict(finding: Mapping[str, Any]) -> str:
    """Return whether a difference is a ``gain``, a ``loss``, or ``unclear``."""
    difference = finding["difference"]
    low, high = difference["low"], difference["high"]
    if low is None or high is None or not np.isfinite([low, high]).all() or low <= 0 <= high:
        return "unclear"
    return "gain" if (low > 0) != lower_is_better(finding["metric"]) else "loss"


def sample(n: int, most: int = MOST_POINTS) -> np.ndarray:
    """Return up to ``most`` of the numbers 0 to n - 1, ascending; the same ones each time."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(0).choice(n, most, replace=False))


def embedding_map(matrix: np.ndarray) -> EmbeddingMap | None:
    """Lay rows out by the first two principal components; None for fewer than three rows."""
    from sklearn.decomposition import PCA

    usable = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    if len(usable) < 3 or matrix.shape[1] < 2:
        return None
    learn = usable[sample(len(usable), _MOST_FOR_COMPONENTS)]
    with np.errstate(invalid="ignore"):  # of equal embeddings there is no variance to explain
        components = PCA(2, svd_solver="randomized", random_state=0).fit(matrix[learn])
    chosen = usable[sample(len(usable))]
    points = components.transform(matrix[chosen])
    first, second = np.nan_to_num(components.explained_variance_ratio_)
    return EmbeddingMap(chosen, points, (float(first), float(second)), len(usable))


def _confusion(best: ArmPredictions) -> Confusion:
    n = len(best.labels)
    counts = np.bincount(best.y * n + best.predicted, minlength=n * n).reshape(n, n)
    if n <= MOST_CLASSES:
        return Confusion(best.labels, counts)
    common = np.sort(np.argsort(-counts.sum(axis=1), kind="stable")[: MOST_CLASSES - 1])
    group = np.full(n, MOST_CLASSES - 1)
    group[common] = np.arange(len(common))
    small = np.zeros((MOST_CLASSES, MOST_CLASSES), np.int64)
    np.add.at(small, (group[:, None], group[None, :]), counts)
    return Confusion([*(best.labels[k] for k in common), OTHERS], small)
