"""The metrics of a target, and one fold's predictions by each of them."""

from collections.abc import Sequence

import numpy as np

from twostage.metrics import (
    CLASSIFICATION,
    METRICS,
    OF_POSITIVE,
    REGRESSION,
    Metric,
    find_metrics,
)
from twostage.targets import Target


def choose_metrics(asked: Sequence[str], target: Target, log_target: bool) -> list[Metric]:
    """Return the metrics asked for, or all that fit; the main one is the first.

    Parameters
    ----------
    asked : sequence of str
        Names; may be empty.
    target : Target
        What is predicted.
    log_target : bool
        Whether its logarithm is learned, by which the score is then told first.

    Raises
    ------
    UsageError
        If there is no such metric, or it does not fit the target.
    """
    found = find_metrics(target.task, target.y, list(dict.fromkeys(asked)) or None)
    return [METRICS["r2_log"], *found] if log_target and not asked else found


def all_metrics(is_classification: bool, y: np.ndarray) -> list[Metric]:
    """Return every metric that can be asked for of these class numbers, or values."""
    task = CLASSIFICATION if is_classification else REGRESSION
    return [
        metric
        for name, metric in METRICS.items()
        if metric.task == task and (name not in OF_POSITIVE or (y > 0).all())
    ]


def score_fold(metrics: Sequence[Metric], y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Score one fold's predictions.

    Parameters
    ----------
    metrics : sequence of Metric
        Which scores.
    y : array of shape (n_test,)
        Class numbers, or values.
    predicted : array of shape (n_test, n_classes) or (n_test,)
        Probabilities, or values.

    Returns
    -------
    dict of str to float
        By name; NaN where a metric is not defined: the AUC of a fold with one class, say.
    """
    once = np.ones((1, len(y)))
    return {metric.name: float(metric(y, predicted, once)[0]) for metric in metrics}
