"""The scores of all arms, with intervals."""

from collections.abc import Mapping, Sequence

import pandas as pd

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
