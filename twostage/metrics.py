"""Scores with intervals: arrays in, numbers out.

Every metric takes row weights of shape (n_resamples, n_rows), so that a bootstrap is a few matrix
products and not thousands of calls.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

N_RESAMPLES = 2000
MIN_GROUPS = 20  # a bootstrap of fewer draws claims a certainty that is not there
LEVEL = 0.95
_MAX_CELLS = 20_000_000  # of a weight matrix: 160 MB


@dataclass(frozen=True)
class Score:
    """A metric's value on held-out rows, with its interval.

    Attributes
    ----------
    value : float
        On the rows as they are.
    low, high : float
        Ends of the 95% interval: percentiles of a bootstrap over groups; NaN under 20 groups.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not np.isfinite([self.low, self.high]).all():
            return f"{_short(self.value)} (too few rows for an interval)"
        return f"{_short(self.value)} (95% interval {_short(self.low)} to {_short(self.high)})"


Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def score_classification(
    y: np.ndarray, proba: np.ndarray, groups: np.ndarray, random_state: int = 0
) -> dict[str, Score]:
    """Score class probabilities.

    Parameters
    ----------
    y : int array of shape (n_rows,)
        Class numbers, 0 to n_classes - 1.
    proba : array of shape (n_rows, n_classes)
        Predicted probabilities.
    groups : int array of shape (n_rows,)
        What the bootstrap draws: rows of one group are not independent.
    random_state : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Score
        ``auc`` (of more than two classes the mean of each against the rest), ``log_loss``,
        ``accuracy``, ``balanced_accuracy``. Where a resample lacks a class, the means over
        classes leave that class out.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13: percentile interval.
    """
    metrics: dict[str, Metric] = {
        "auc": _auc,
        "log_loss": _log_loss,
        "accuracy": _accuracy,
        "balanced_accuracy": _balanced_accuracy,
    }
    return _score(metrics, y, proba, groups, random_state)


def score_regression(
    y: np.ndarray, predicted: np.ndarray, groups: np.ndarray, random_state: int = 0
) -> dict[str, Score]:
    """Score predicted values.

    Parameters
    ----------
    y, predicted : arrays of shape (n_rows,)
        True and predicted values.
    groups, random_state
        As in `score_classification`.

    Returns
    -------
    dict of str to Score
        ``r2``, ``rmse``, ``mae`` and, if all true values are positive, ``mape``.
    """
    metrics: dict[str, Metric] = {"r2": _r2, "rmse": _rmse, "mae": _mae}
    if (y > 0).all():
        metrics["mape"] = _mape
    return _score(metrics, y, predicted, groups, random_state)


def main_score(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the AUC of class probabilities, or the R2 of values; NaN where it is not defined.

    Parameters
    ----------
    y : array of shape (n_rows,)
        Class numbers, or values.
    predicted : array of shape (n_rows, n_classes) or (n_rows,)
        Probabilities, or values.
    """
    metric = _auc if predicted.ndim == 2 else _r2
    return float(metric(y, predicted, np.ones((1, len(y))))[0])


def _score(
    metrics: dict[str, Metric],
    y: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    random_state: int,
) -> dict[str, Score]:
    once = np.ones((1, len(y)))
    values = {name: metric(y, predicted, once)[0] for name, metric in metrics.items()}
    if len(np.unique(groups)) < MIN_GROUPS:
        return {name: _with_interval(value, np.empty(0)) for name, value in values.items()}
    resampled = {name: np.empty(N_RESAMPLES) for name in metrics}
    rng = np.random.default_rng(random_state)
    step = max(1, min(N_RESAMPLES, _MAX_CELLS // len(y)))
    for start in range(0, N_RESAMPLES, step):
        stop = min(start + step, N_RESAMPLES)
        weights = _draw_weights(groups, stop - start, rng)
        for name, metric in metrics.items():
            resampled[name][start:stop] = metric(y, predicted, weights)
    return {name: _with_interval(values[name], resampled[name]) for name in metrics}


def _draw_weights(groups: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draw how often each row occurs in n resamples of the groups, of shape (n, n_rows)."""
    _, number = np.unique(groups, return_inverse=True)
    n_groups = int(number.max()) + 1
    counts = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n)
    return counts[:, number].astype(np.float64)


def _with_interval(value: float, resampled: np.ndarray) -> Score:
    """Attach percentiles; resamples in which a metric is not defined are left out."""
    defined = resampled[np.isfinite(resampled)]
    if len(defined) == 0 or not np.isfinite(value):
        return Score(float(value), float("nan"), float("nan"))
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Score(float(value), float(low), float(high))


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ values / weights.sum(axis=1))


def _auc(y: np.ndarray, proba: np.ndarray, weights: np.ndarray) -> np.ndarray:
    if proba.shape[1] == 2:
        return _binary_auc(y == 1, proba[:, 1], weights)
    each = [_binary_auc(y == k, proba[:, k], weights) for k in range(proba.shape[1])]
    return _mean_of_defined(np.array(each))


def _mean_of_defined(by_class: np.ndarray) -> np.ndarray:
    """Average over the classes that a resample has; shape (n_classes, n_resamples)."""
    is_defined = np.isfinite(by_class)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(is_defined, by_class, 0).sum(axis=0) / is_defined.sum(axis=0))


def _binary_auc(is_positive: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the weighted share of pairs in order, ties counted half (Mann-Whitney)."""
    order = np.argsort(scores, kind="stable")
    ordered, positive = scores[order], is_positive[order]
    starts = np.flatnonzero(np.r_[True, np.diff(ordered) > 0])
    weights = weights[:, order]
    gains = np.add.reduceat(weights * positive, starts, axis=1)
    losses = np.add.reduceat(weights * ~positive, starts, axis=1)
    below = np.cumsum(losses, axis=1) - losses / 2
    with np.errstate(invalid="ignore"):
        return np.asarray((gains * below).sum(1) / (gains.sum(1) * losses.sum(1)))


def _log_loss(y: np.ndarray, proba: np.ndarray, weights: np.ndarray) -> np.ndarray:
    of_truth = proba[np.arange(len(y)), y]
    return _mean(-np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1)), weights)


def _accuracy(y: np.ndarray, proba: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _mean(proba.argmax(axis=1) == y, weights)


def _balanced_accuracy(y: np.ndarray, proba: np.ndarray, weights: np.ndarray) -> np.ndarray:
    is_right = proba.argmax(axis=1) == y
    classes = np.unique(y)
    with np.errstate(invalid="ignore"):
        recalls = [_mean(is_right[y == k], weights[:, y == k]) for k in classes]
    return _mean_of_defined(np.array(recalls))


def _r2(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    centred = y - y.mean()
    square = _mean(centred**2, weights)
    variance = square - _mean(centred, weights) ** 2
    variance[variance <= 1e-12 * square] = np.nan  # one distinct value, but for rounding
    with np.errstate(invalid="ignore"):
        return np.asarray(1 - _mean((y - predicted) ** 2, weights) / variance)


def _rmse(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt(_mean((y - predicted) ** 2, weights)))


def _mae(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _mean(np.abs(y - predicted), weights)


def _mape(y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return _mean(np.abs(y - predicted) / y, weights)


def _short(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 100 else f"{value:,.0f}"
