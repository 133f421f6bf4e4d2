"""Ridge regressions of all folds and penalties from sums over the rows, made in one pass."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

_CHUNK = 4096

Folds = Sequence[tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class RidgeSums:
    """Weighted sums over rows, from which ridge regressions follow.

    Sums of parts add up, and those over all folds but one are a difference: k regressions cost
    one pass over the rows.

    Attributes
    ----------
    n : float
        Sum of the weights.
    x, y : arrays of shape (n_features,) and (n_outputs,)
        Of features and outputs.
    xx, xy : arrays of shape (n_features, n_features) and (n_features, n_outputs)
        Of their products.
    """

    n: float
    x: np.ndarray
    y: np.ndarray
    xx: np.ndarray
    xy: np.ndarray

    @classmethod
    def over(cls, X: np.ndarray, Y: np.ndarray, weight: np.ndarray, rows: np.ndarray) -> Self:
        """Sum over some rows, by number."""
        k, m = X.shape[1], Y.shape[1]
        found = cls(0.0, np.zeros(k), np.zeros(m), np.zeros((k, k)), np.zeros((k, m)))
        for some in _pieces(rows):
            x, y, w = (part[some].astype(np.float64) for part in (X, Y, weight))
            weighted = x * w[:, None]
            sums = cls(float(w.sum()), weighted.sum(axis=0), w @ y, weighted.T @ x, weighted.T @ y)
            found = found + sums
        return found

    def __add__(self, other: Self) -> Self:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(mine + theirs for mine, theirs in pairs))

    def __sub__(self, other: Self) -> Self:
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return type(self)(*(mine - theirs for mine, theirs in pairs))

    def scaled(self, scale: np.ndarray) -> Self:
        """Return the sums of features multiplied by ``scale``, of shape (n_features,)."""
        return type(self)(
            self.n,
            self.x * scale,
            self.y,
            self.xx * np.outer(scale, scale),
            self.xy * scale[:, None],
        )

    def ridge(self, penalties: np.ndarray) -> np.ndarray:
        """Solve for each penalty.

        Returns
        -------
        array of shape (n_penalties, n_features + 1, n_outputs)
            Coefficients, the intercepts last; those are not penalised.
        """
        x_mean, y_mean = self.x / self.n, self.y / self.n
        values, vectors = np.linalg.eigh(self.xx - self.n * np.outer(x_mean, x_mean))
        projected = vectors.T @ (self.xy - self.n * np.outer(x_mean, y_mean))
        shrunk = projected / (np.maximum(values, 0)[:, None] + penalties[:, None, None])
        slopes = vectors @ shrunk
        return np.concatenate([slopes, (y_mean - x_mean @ slopes)[:, None, :]], axis=1)


def outputs_of(y: np.ndarray, n_classes: int | None) -> np.ndarray:
    """Return what a regression predicts: the values, or indicators of the classes (one of two).

    Returns
    -------
    float64 array of shape (n_rows, n_outputs)
    """
    if n_classes is None:
        return np.asarray(y, np.float64)[:, None]
    indicators = np.eye(n_classes)[y]
    return np.asarray(indicators[:, 1:] if n_classes == 2 else indicators)


def sums_by_fold(
    X: np.ndarray, Y: np.ndarray, weight: np.ndarray, folds: Folds
) -> tuple[RidgeSums, list[RidgeSums]]:
    """Sum over all rows, and over the training rows of each fold.

    Parameters
    ----------
    X : array of shape (n_rows, n_features)
    Y : array of shape (n_rows, n_outputs)
    weight : array of shape (n_rows,)
        0 for rows to leave out.
    folds : sequence of (train, test) row numbers
        The tests share no row; trains are what is not in the test.
    """
    tests = [test for _, test in folds]
    untested = np.setdiff1d(np.arange(len(X)), np.concatenate([np.empty(0, np.int64), *tests]))
    parts = [RidgeSums.over(X, Y, weight, rows) for rows in (*tests, untested)]
    everything = sum(parts[1:], parts[0])
    return everything, [everything - part for part in parts[: len(tests)]]


def is_untaught(outputs: np.ndarray, weight: np.ndarray, folds: Folds) -> np.ndarray:
    """Tell which outputs some fold can't teach: bool of shape (n_outputs,).

    Where all rows of a class are in one test, the regression that is to score them has never seen
    it, and gives all of them the same score. As a feature that would tell the class in training,
    and never again: such an output is to be no feature.

    Parameters
    ----------
    outputs : array of shape (n_rows, n_outputs)
        Values, or indicators of classes.
    weight : array of shape (n_rows,)
        0 for rows that do not count.
    folds : sequence of (train, test) row numbers
        Without any, nothing can be taught.
    """
    found = np.full(outputs.shape[1], len(folds) == 0)
    for train, test in folds:
        if weight[test].any():
            taught = outputs[train[weight[train] > 0]]
            found |= np.ptp(taught, axis=0) == 0 if len(taught) else True
    return found


def linear(X: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """Apply coefficients whose last row is the intercepts."""
    return np.asarray(X @ coefficients[:-1] + coefficients[-1])


def squared_errors(
    X: np.ndarray, Y: np.ndarray, weight: np.ndarray, path: np.ndarray, rows: np.ndarray
) -> np.ndarray:
    """Return the weighted sum of squared errors on some rows, for each penalty of a path."""
    errors = np.zeros(len(path))
    for some in _pieces(rows):
        x, y = X[some], Y[some]
        for number, coefficients in enumerate(path):
            errors[number] += weight[some] @ ((linear(x, coefficients) - y) ** 2).sum(axis=1)
    return errors


def _pieces(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield some rows at a time: whole matrices are never copied."""
    for start in range(0, len(rows), _CHUNK):
        yield rows[start : start + _CHUNK]
