"""From scores to probabilities, by rows that were held out."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from twostage.heads.base import Task
from twostage.ridge import Folds
from twostage.splits import covering_folds, inner_folds

_MANY_ROWS = 2_000
_SHRINKAGE = 1.0


def folds_to_calibrate(y: np.ndarray, task: Task, groups: np.ndarray | None) -> Folds:
    """Return the inner splits: five, one of many rows, none where nothing can be held out.

    Groups stay together, but for classes of one group: see `twostage.splits.covering_folds`.
    """
    how: dict[str, Any] = {
        "is_classification": task.is_classification,
        "groups": groups,
        "random_state": task.random_state,
    }
    if len(y) > _MANY_ROWS:
        return inner_folds(y, many_rows=0, **how)
    return [
        (train, test)
        for train, test in covering_folds(y, **how)
        if not task.is_classification or np.isin(y, y[train]).all()
    ]


def no_calibration(n_classes: int) -> np.ndarray:
    """Return the calibration by which scores are log odds."""
    return np.concatenate([[1.0], np.zeros(n_classes)])


def fit_calibration(
    scores: Sequence[np.ndarray],
    folds: Folds,
    y: np.ndarray,
    sample_weight: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Learn what scores of rows that were held out say about the class.

    Parameters
    ----------
    scores : sequence of arrays of shape (n_test,) or (n_test, n_classes)
        Of the test rows of each fold, as ``decision_function`` gives them.
    folds : sequence of (train, test) row numbers
        Maybe none: scores are taken as log odds then.
    y : int array of shape (n_rows,)
        Classes, 0 to ``n_classes - 1``, all of them present.
    sample_weight : array of shape (n_rows,), optional
        Of the rows.

    Returns
    -------
    calibration : float array of shape (1 + n_classes,)
        A slope, not negative, and an intercept for each class.
    loss : float
        The mean log loss with it; NaN without folds.
    """
    n_classes = int(y.max()) + 1
    if not folds:
        return no_calibration(n_classes), np.nan
    test = np.concatenate([test for _, test in folds])
    weight = np.ones(len(test)) if sample_weight is None else sample_weight[test]
    margins = _margins(np.concatenate(scores))
    spread = float(margins.std()) or 1.0
    margins = margins / spread
    n = float(weight.sum())
    # As in Platt's method, nothing is certain: a perfect separation would ask for infinite slope.
    doubt = 1 / (n + 2)
    target = np.full(margins.shape, doubt / n_classes)
    target[np.arange(len(test)), y[test]] += 1 - doubt

    def loss(calibration: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(calibration[0] * margins + calibration[1:], axis=1)
        # A class that was never held out would get an intercept of minus infinity: shrink them.
        shrinkage = _SHRINKAGE / 2 * (calibration[1:] ** 2).sum()
        value = shrinkage - (weight[:, None] * target * logs).sum()
        residuals = weight[:, None] * (np.exp(logs) - target)
        of_intercepts = residuals.sum(axis=0) + _SHRINKAGE * calibration[1:]
        return value / n, np.concatenate([[(residuals * margins).sum()], of_intercepts]) / n

    bounds = [(0, None)] + [(None, None)] * n_classes
    found = minimize(loss, no_calibration(n_classes), jac=True, method="L-BFGS-B", bounds=bounds)
    return np.concatenate([found.x[:1] / spread, found.x[1:]]), float(found.fun)


def calibrated(scores: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    """Return probabilities of shape (n_rows, n_classes) from scores; see `fit_calibration`."""
    return np.asarray(softmax(calibration[0] * _margins(scores) + calibration[1:], axis=1))


def _margins(scores: np.ndarray) -> np.ndarray:
    """Return one column per class: the scores of two classes come as one."""
    scores = np.asarray(scores, np.float64)
    return np.column_stack([np.zeros(len(scores)), scores]) if scores.ndim == 1 else scores
