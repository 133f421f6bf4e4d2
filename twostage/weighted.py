"""Metrics as functions of row weights, so that a bootstrap is a few matrix operations.

Each function takes the truth and the predictions, does what needs to be done once, and returns the
function from weights of shape (n_resamples, n_rows) to values of shape (n_resamples,), NaN where
the metric is not defined. `metrics.METRICS` gives them names.
"""

from collections.abc import Callable, Sequence

import numpy as np

from twostage.bootstrap import Statistic


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.asarray(weights @ values / weights.sum(axis=1))


def _mean_of(values: np.ndarray) -> Statistic:
    values = values.astype(np.float64)
    return lambda weights: _mean(values, weights)


def _mean_over_classes(statistics: Sequence[Statistic]) -> Statistic:
    """Average over the classes that a resample has."""

    def average(weights: np.ndarray) -> np.ndarray:
        by_class = np.array([each(weights) for each in statistics])
        is_defined = np.isfinite(by_class)
        with np.errstate(invalid="ignore"):
            sums = np.where(is_defined, by_class, 0).sum(axis=0)
            return np.asarray(sums / is_defined.sum(axis=0))

    return average


def _cumulated(weights: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Sum weights in an order, from 0: of shape (n_resamples, len(order) + 1).

    Whole numbers stay whole: their sums are exact, and several times faster than those of floats.
    """
    sums = np.zeros((len(weights), len(order) + 1), weights.dtype)
    np.cumsum(np.take(weights, order, axis=1), axis=1, out=sums[:, 1:])
    return sums


def _twice_below(at: np.ndarray, among: np.ndarray) -> Statistic:
    """Return, for weights of ``among``, twice how much of it is below each of ``at``, ties half."""
    order = np.argsort(among, kind="stable")
    left = np.searchsorted(among[order], at, side="left")
    right = np.searchsorted(among[order], at, side="right")
    has_ties = bool((left < right).any())

    def twice_below(weights: np.ndarray) -> np.ndarray:
        sums = _cumulated(weights, order)
        below = np.take(sums, left, axis=1)
        below += np.take(sums, right, axis=1) if has_ties else below
        return below

    return twice_below


def binary_auc(is_positive: np.ndarray, scores: np.ndarray) -> Statistic:
    """Return the weighted share of pairs in order, ties counted half (Mann-Whitney)."""
    positive, negative = np.flatnonzero(is_positive), np.flatnonzero(~is_positive)
    positive = positive[np.argsort(scores[positive], kind="stable")]  # neighbours in memory
    negative = negative[np.argsort(scores[negative], kind="stable")]
    twice_below = _twice_below(scores[positive], scores[negative])

    def auc(weights: np.ndarray) -> np.ndarray:
        gains = np.take(weights, positive, axis=1)
        losses = np.take(weights, negative, axis=1)
        n_right = np.einsum("ij,ij->i", gains, twice_below(losses)) / 2
        with np.errstate(invalid="ignore"):
            return np.asarray(n_right / (1.0 * gains.sum(axis=1) * losses.sum(axis=1)))

    return auc


def binary_average_precision(is_positive: np.ndarray, scores: np.ndarray) -> Statistic:
    """Return the precision at each positive's score, averaged over the positives."""
    order = np.argsort(-scores, kind="stable")
    ordered, which = scores[order], is_positive[order]
    first = np.flatnonzero(which)
    last = np.searchsorted(-ordered, -ordered[first], side="right")  # equal scores come together
    n_positive = np.concatenate([[0], np.cumsum(which)])[last]

    def average_precision(weights: np.ndarray) -> np.ndarray:
        gains = np.take(weights, order[first], axis=1)
        n_true = np.take(_cumulated(gains, np.arange(len(first))), n_positive, axis=1)
        n_flagged = np.take(_cumulated(weights, order), last, axis=1)
        with np.errstate(invalid="ignore"):
            precision = np.where(gains > 0, n_true / n_flagged, 0)
            return np.asarray((gains * precision).sum(axis=1) / gains.sum(axis=1))

    return average_precision


def by_class(binary: Callable[[np.ndarray, np.ndarray], Statistic]) -> Callable[..., Statistic]:
    """Apply to the second of two classes, or to each of several against the rest."""

    def prepare(y: np.ndarray, proba: np.ndarray) -> Statistic:
        if proba.shape[1] == 2:
            return binary(y == 1, proba[:, 1])
        return _mean_over_classes([binary(y == k, proba[:, k]) for k in range(proba.shape[1])])

    return prepare


def log_loss(y: np.ndarray, proba: np.ndarray) -> Statistic:
    of_truth = proba[np.arange(len(y)), y]
    return _mean_of(-np.log(np.clip(of_truth, np.finfo(np.float64).eps, 1)))


def brier(y: np.ndarray, proba: np.ndarray) -> Statistic:
    """Return the squared distance to the truth: of one of two classes, or of all of several."""
    distance = ((proba - np.eye(proba.shape[1])[y]) ** 2).sum(axis=1)
    return _mean_of(distance / 2 if proba.shape[1] == 2 else distance)


def accuracy(y: np.ndarray, proba: np.ndarray) -> Statistic:
    return _mean_of(proba.argmax(axis=1) == y)


def balanced_accuracy(y: np.ndarray, proba: np.ndarray) -> Statistic:
    is_right = proba.argmax(axis=1) == y
    return _mean_over_classes([_share(is_right & (y == k), y == k) for k in np.unique(y)])


def f1(y: np.ndarray, proba: np.ndarray) -> Statistic:
    label = proba.argmax(axis=1)

    def of_class(k: int) -> Statistic:
        is_true, is_said = y == k, label == k
        return _share(2.0 * (is_true & is_said), 1.0 * is_true + is_said)

    if proba.shape[1] == 2:
        return of_class(1)
    return _mean_over_classes([of_class(k) for k in range(proba.shape[1])])


def _share(part: np.ndarray, whole: np.ndarray) -> Statistic:
    part, whole = part.astype(np.float64), whole.astype(np.float64)

    def share(weights: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray(weights @ part / (weights @ whole))

    return share


def kappa(y: np.ndarray, proba: np.ndarray) -> Statistic:
    """Return one minus the squared distance over the one that independent labels would have."""
    y, label = y.astype(np.float64), proba.argmax(axis=1).astype(np.float64)

    def of(weights: np.ndarray) -> np.ndarray:
        squares = _mean(y**2 + label**2, weights)
        by_chance = squares - 2 * _mean(y, weights) * _mean(label, weights)
        by_chance[by_chance <= 1e-12 * squares] = np.nan
        with np.errstate(invalid="ignore"):
            return np.asarray(1 - _mean((y - label) ** 2, weights) / by_chance)

    return of


def r2(y: np.ndarray, predicted: np.ndarray) -> Statistic:
    centred, errors = y - y.mean(), (y - predicted) ** 2

    def of(weights: np.ndarray) -> np.ndarray:
        square = _mean(centred**2, weights)
        variance = square - _mean(centred, weights) ** 2
        variance[variance <= 1e-12 * square] = np.nan  # one distinct value, but for rounding
        with np.errstate(invalid="ignore"):
            return np.asarray(1 - _mean(errors, weights) / variance)

    return of


def r2_of_logs(y: np.ndarray, predicted: np.ndarray) -> Statistic:
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(y), np.log(predicted)
    return r2(*(np.where(np.isfinite(values), values, np.nan) for values in logs))


def rmse(y: np.ndarray, predicted: np.ndarray) -> Statistic:
    errors = (y - predicted) ** 2
    return lambda weights: np.asarray(np.sqrt(_mean(errors, weights)))


def mae(y: np.ndarray, predicted: np.ndarray) -> Statistic:
    return _mean_of(np.abs(y - predicted))


def mape(y: np.ndarray, predicted: np.ndarray) -> Statistic:
    return _mean_of(np.abs(y - predicted) / y)


def spearman(y: np.ndarray, predicted: np.ndarray) -> Statistic:
    """Return the correlation of ranks, ties at their middle."""
    rank_y, rank_predicted = _twice_below(y, y), _twice_below(predicted, predicted)

    def of(weights: np.ndarray) -> np.ndarray:
        middle = weights.sum(axis=1, keepdims=True)
        first, second = rank_y(weights) - middle, rank_predicted(weights) - middle
        both, one, other = (
            np.einsum("ij,ij,ij->i", weights, a, b)
            for a, b in ((first, second), (first, first), (second, second))  # of doubled ranks
        )
        with np.errstate(invalid="ignore"):
            return np.asarray(both / np.sqrt(one * other))

    return of
