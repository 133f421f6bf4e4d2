"""Several heads at once, weighted by how well they predict rows that they did not see."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from sklearn.base import BaseEstimator

_LEAST_WEIGHT = 0.01
_MANY_ROWS = 10_000
_MANY_CLASSES = 20
_SMALLEST_PROBABILITY = 1e-7


class Blend(BaseEstimator):
    """A weighted mean of heads.

    Lines, trees and kernels err differently: their mean predicts better than each. The weights
    are those that predict best out of fold, by grouped cross-validation in the training rows.

    Parameters
    ----------
    heads : sequence of str, Head or scikit-learn estimator, optional
        What to blend. If None: linear and lightgbm, and svm up to 10,000 rows, beyond which its
        time grows with their square; of more than 20 classes linear and keras, since trees are
        slow there and do badly.
    """

    def __init__(self, heads: Sequence[Any] | None = None):
        self.heads = heads

    def parts(self, n_rows: int | None = None, n_classes: int | None = None) -> Sequence[Any]:
        """Return what is blended for so many rows and classes, few if it is not known."""
        if self.heads is not None:
            return self.heads
        if (n_classes or 0) > _MANY_CLASSES:
            return ("linear", "keras")
        is_large = (n_rows or 0) > _MANY_ROWS
        return ("linear", "lightgbm") if is_large else ("linear", "lightgbm", "svm")


def best_weights(
    predictions: np.ndarray, y: np.ndarray, weight: np.ndarray, is_classification: bool
) -> np.ndarray:
    """Minimise the log loss, or the squared error, of a weighted mean of predictions.

    Both are convex in the weights, so that there is one minimum.

    Parameters
    ----------
    predictions : array of shape (n_members, n_rows) or (n_members, n_rows, n_classes)
        Values, or class probabilities.
    y : array of shape (n_rows,)
        Values, or class numbers.
    weight : array of shape (n_rows,)
        Of the rows.
    is_classification : bool
        What ``y`` is.

    Returns
    -------
    float array of shape (n_members,)
    """
    if is_classification:
        of_truth = predictions[:, np.arange(len(y)), y]

        def loss(weights: np.ndarray) -> float:
            likelihood = np.clip(weights @ of_truth, _SMALLEST_PROBABILITY, None)
            return float(-np.average(np.log(likelihood), weights=weight))

    else:
        spread = float(np.std(y)) or 1.0

        def loss(weights: np.ndarray) -> float:
            return float(np.average(((weights @ predictions - y) / spread) ** 2, weights=weight))

    n = len(predictions)
    found = minimize(
        loss,
        np.full(n, 1 / n),
        method="SLSQP",
        bounds=[(0, 1)] * n,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1},
    )
    weights = np.where(found.x < _LEAST_WEIGHT, 0.0, found.x)
    return np.asarray(weights / weights.sum())
