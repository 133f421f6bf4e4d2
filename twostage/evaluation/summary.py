"""The scores of all arms, with intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy.stats import t as student

from twostage.bootstrap import LEVEL, Score
from twostage.intervals import FoldPrediction, cross_validated_score
from twostage.metrics import Metric

COLUMNS = ("arm", "metric", "value", "low", "high")


def summarise(
    folds: Mapping[str, Sequence[FoldPrediction]], metrics: Sequence[Metric]
) -> pd.DataFrame:
    """Score each arm.

    Parameters
    ----------
    folds : mapping of str to sequence of FoldPrediction
        By arm, each on the same folds.
    metrics : sequence of Metric
        Which scores.

    Returns
    -------
    DataFrame
        ``arm``, ``metric``, ``value``, ``low``, ``high``.
    """
    scores = [
        (arm, metric.name, cross_validated_score(metric, of_arm))
        for arm, of_arm in folds.items()
        for metric in metrics
    ]
    records = [(arm, name, score.value, score.low, score.high) for arm, name, score in scores]
    return pd.DataFrame(records, columns=list(COLUMNS))


def corrected_mean(values: np.ndarray, folds: Sequence[FoldPrediction]) -> Score:
    """Return the mean of a value per fold, with an interval that knows that folds share rows.

    Values that are not finite are left out.

    References
    ----------
    Nadeau and Bengio (2003), Inference for the Generalization Error: the corrected resampled t.
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
