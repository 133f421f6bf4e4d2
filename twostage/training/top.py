"""The top to start from: a linear model on the embeddings of the frozen backbone."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from twostage.backbones.tuned import LinearTop

_PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # C of LogisticRegression, on standardised embeddings
_ALPHAS = (1e4, 1e3, 1e2, 1e1)
_MAX_ITERATIONS = 300
_LEAST_SPREAD = 0.1  # of a dimension, by the usual spread and by its mean


def linear_tops(
    embeddings: np.ndarray, y: np.ndarray, n_classes: int | None, weights: np.ndarray
) -> list[LinearTop]:
    """Fit tops on embeddings, one for each strength of the penalty.

    Parameters
    ----------
    embeddings : float32 array of shape (n, dim)
        Of the frozen backbone.
    y : array of shape (n,)
        Class numbers, all of which occur, or standardised values.
    n_classes : int or None
        None for values.
    weights : array of shape (n,)
        Of the rows.
    """
    scaler = _careful_scaler(embeddings)
    scaled = scaler.transform(embeddings)
    tops = []
    with threadpool_limits(1, user_api="blas"):
        for penalty, alpha in zip(_PENALTIES, _ALPHAS, strict=True):
            if n_classes is None:
                model = Ridge(alpha).fit(scaled, y, weights)
            else:
                model = LogisticRegression(C=penalty, max_iter=_MAX_ITERATIONS)
                with warnings.catch_warnings():  # a start need not be the optimum
                    warnings.simplefilter("ignore", ConvergenceWarning)
                    model.fit(scaled, y, weights)
            tops.append(_unscaled(model, scaler, n_classes))
    return tops


def _careful_scaler(embeddings: np.ndarray) -> StandardScaler:
    """Return a scaler that does not blow up what varies little.

    Weights on such dimensions would be huge, and blow up the first change of the network too.
    """
    scaler = StandardScaler().fit(embeddings)
    usual = np.sqrt(np.mean(scaler.var_))
    least = _LEAST_SPREAD * np.maximum(usual, np.abs(scaler.mean_))
    scaler.scale_ = np.maximum(scaler.scale_, least)
    return scaler


def _unscaled(
    model: LogisticRegression | Ridge, scaler: StandardScaler, n_classes: int | None
) -> LinearTop:
    """Return a linear model of standardised embeddings as one of embeddings."""
    coefficients, intercept = np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
    if n_classes == 2:  # one row of coefficients, the difference of two logits
        coefficients = np.vstack([-coefficients, coefficients]) / 2
        intercept = np.concatenate([-intercept, intercept]) / 2
    kernel = (coefficients / scaler.scale_).T
    bias = intercept - scaler.mean_ @ kernel
    return LinearTop(kernel.astype(np.float32), bias.astype(np.float32))
