"""Cross-validated scores with intervals, and paired differences between arms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from twostage.evaluation.scoring import score_fold
from twostage.metrics import LEVEL, Score


@dataclass(frozen=True)
class FoldPrediction:
    """What was predicted of a fold's test rows.

    Attributes
    ----------
    repeat, fold : int
        Which fold.
    y : array of shape (n_test,)
        Class numbers, or values.
    predicted : array of shape (n_test, n_classes) or (n_test,)
        Probabilities, or values.
    groups : int array of shape (n_test,)
        Rows of one group are not independent.
    n_train : int
        Rows that it was learned from.
    """

    repeat: int
    fold: int
    y: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray
    n_train: int


Folds = Sequence[FoldPrediction]


def summarise(folds: Mapping[str, Folds], metrics: Sequence[str]) -> pd.DataFrame:
    """Score each arm.

    Parameters
    ----------
    folds : mapping of str to sequence of FoldPrediction
        By arm, each on the same folds.
    metrics : sequence of str
        Names.

    Returns
    -------
    DataFrame
        ``arm``, ``metric``, ``value``, ``low``, ``high``.
    """
    records = []
    for arm, of_arm in folds.items():
        for metric in metrics:
            score = cross_validated_score(metric, of_arm)
            records.append((arm, metric, score.value, score.low, score.high))
    return pd.DataFrame(records, columns=["arm", "metric", "value", "low", "high"])


def cross_validated_score(metric: str, folds: Folds) -> Score:
    """Return the mean of the folds' scores, with an interval that knows that folds share rows.

    Folds in which the metric is not defined are left out.

    References
    ----------
    Nadeau and Bengio (2003), Inference for the Generalization Error: the corrected resampled t.
    """
    return corrected_mean(_values(metric, folds), folds)


def cross_validated_difference(metric: str, folds_a: Folds, folds_b: Folds) -> Score:
    """Return by how much the first arm's score is above the second's, paired by fold.

    Raises
    ------
    ValueError
        If the folds are not the same.
    """
    for a, b in zip(folds_a, folds_b, strict=True):
        if (a.repeat, a.fold) != (b.repeat, b.fold) or not np.array_equal(a.y, b.y):
            raise ValueError("Arms are compared on the same folds alone.")
    return corrected_mean(_values(metric, folds_a) - _values(metric, folds_b), folds_a)


def _values(metric: str, folds: Folds) -> np.ndarray:
    return np.array([score_fold(f.y, f.predicted).get(metric, np.nan) for f in folds])


def corrected_mean(values: np.ndarray, folds: Folds) -> Score:
    """Return the mean of a value per fold, with an interval that knows that folds share rows.

    Values that are not finite are left out.
    """
    is_defined = np.isfinite(values)
    n = int(is_defined.sum())
    if n == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    mean = float(values[is_defined].mean())
    if n == 1:
        return Score(mean, float("nan"), float("nan"))
    ratios = [len(fold.y) / fold.n_train for fold in folds]
    variance = values[is_defined].var(ddof=1) * (1 / n + float(np.mean(ratios)))
    half = float(student.ppf((1 + LEVEL) / 2, n - 1) * np.sqrt(variance))
    return Score(mean, mean - half, mean + half)
