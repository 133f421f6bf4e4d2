"""What a report tells of a benchmark, as numbers: no words on a page yet, no places on a plot."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from twostage.evaluation.calibration import Calibration, calibrate
from twostage.evaluation.thresholds import threshold_table
from twostage.report.evidence import ArmPredictions, Evidence
from twostage.report.stored import Stored
from twostage.report.words import lower_is_better

MOST_ARMS = 8  # that the reader can choose from
MOST_CLASSES = 12  # of a confusion matrix; the rarest become one
MOST_POINTS = 1500  # of a map or scatter plot
_MOST_FOR_COMPONENTS = 10_000
_FEWEST_FOR_UMAP = 50
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
    """Rows in a plane, by their embeddings.

    Attributes
    ----------
    column : str
        The image column.
    chosen : int array of shape (n_points,)
        Which of the predictions' rows are on it.
    points : array of shape (n_points, 2)
        Where they are.
    explained : (float, float) or None
        Share of the variance along each axis, of principal components; None of UMAP.
    n_rows : int
        How many rows have an embedding.
    """

    column: str
    chosen: np.ndarray
    points: np.ndarray
    explained: tuple[float, float] | None
    n_rows: int


@dataclass(frozen=True)
class ArmAnalysis:
    """What one arm predicts, ready to be shown.

    Attributes
    ----------
    predictions : ArmPredictions
        Out of fold.
    calibration, confusion, thresholds
        None where the task has none.
    """

    predictions: ArmPredictions
    calibration: Calibration | None = None
    confusion: Confusion | None = None
    thresholds: pd.DataFrame | None = None


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
    arms : list of ArmAnalysis
        The best ones, in order; all on the same rows.
    stored : Stored or None
        Embeddings of those rows.
    map : EmbeddingMap or None
        Of them.
    """

    evidence: Evidence
    ranked: pd.DataFrame
    headline: Mapping[str, Any] | None
    arms: list[ArmAnalysis]
    stored: Stored | None
    map: EmbeddingMap | None

    @property
    def best(self) -> ArmAnalysis:
        """The arm with the best score."""
        return self.arms[0]


def analyse(
    evidence: Evidence,
    ranked: pd.DataFrame,
    arms: Sequence[ArmPredictions],
    stored: Stored | None,
) -> Analysis:
    """Work out what a report shows of the best arms."""
    group = evidence.settings.get("group")
    placed = None
    if stored is not None:
        placed = embedding_map(stored.matrix, next(iter(stored.blocks)))
    return Analysis(
        evidence,
        ranked,
        choose_headline(evidence, ranked),
        [_analyse_arm(arm, arm.groups(group)) for arm in arms],
        stored,
        placed,
    )


def _analyse_arm(arm: ArmPredictions, groups: np.ndarray) -> ArmAnalysis:
    if arm.proba is None:
        return ArmAnalysis(arm)
    calibration = thresholds = None
    if np.isfinite(arm.proba).all() and len(arm.labels) > 1:
        calibration = calibrate(arm.y, arm.proba, groups)
        if len(arm.labels) == 2 and 0 < arm.y.sum() < len(arm.y):
            thresholds = threshold_table(arm.y == 1, arm.proba[:, 1])
    return ArmAnalysis(arm, calibration, _confusion(arm), thresholds)


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


def embedding_map(matrix: np.ndarray, column: str) -> EmbeddingMap | None:
    """Lay rows out in a plane; None for fewer than three rows.

    By UMAP where umap-learn is installed and there are rows enough, else by the first two principal
    components.

    References
    ----------
    McInnes, Healy and Melville (2018), UMAP: Uniform Manifold Approximation and Projection for
    Dimension Reduction.
    """
    usable = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    if len(usable) < 3 or matrix.shape[1] < 2:
        return None
    chosen = usable[sample(len(usable))]
    make_umap = _umap() if len(usable) > _FEWEST_FOR_UMAP else None
    if make_umap is not None:
        points = np.asarray(make_umap(n_jobs=1, random_state=0).fit_transform(matrix[chosen]))
        return EmbeddingMap(column, chosen, points, None, len(usable))
    learn = usable[sample(len(usable), _MOST_FOR_COMPONENTS)]
    from sklearn.decomposition import PCA

    with np.errstate(invalid="ignore"):  # of equal embeddings there is no variance to explain
        components = PCA(2, svd_solver="randomized", random_state=0).fit(matrix[learn])
    points = components.transform(matrix[chosen])
    first, second = np.nan_to_num(components.explained_variance_ratio_)
    return EmbeddingMap(column, chosen, points, (float(first), float(second)), len(usable))


def _umap() -> Any:
    """Return the class; None where umap-learn is not installed."""
    try:
        from umap import UMAP
    except ImportError:
        return None
    return UMAP


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
