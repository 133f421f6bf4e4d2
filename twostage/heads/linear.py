"""Logistic or ridge regression that weighs wide blocks against the table by itself."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from twostage.features import Features
from twostage.heads.base import POSITIVE, Head, Task, all_classes
from twostage.opening.files import read_arrays
from twostage.recipes import Recipe
from twostage.ridge import Folds, linear, squared_errors, sums_by_fold
from twostage.splits import inner_folds

_BLOCK_SCALES = (1.0, 0.3, 0.1, 0.03, 0.01)
_BLOCK_SHARES = (0.0, 0.3, 3.0)
_RIDGE_PENALTIES = np.logspace(-2, 5, 15)
_INVERSE_PENALTIES = np.logspace(-3, 3, 7)
_MANY_ROWS = 20_000
_MANY_ROWS_TO_CHOOSE_SCALE = 5_000
_MANY_CLASSES = 20
_MANY_ROWS_OF_MANY_CLASSES = 5_000
_MANY_FEATURES = 500
_DEFAULT_INVERSE_PENALTY = 1.0
_DEFAULT_PENALTY = 10.0
_MAX_ITERATIONS = 1000
_PATIENCE = 2
_LARGEST_SHARPNESS = np.log(4.0)
_SHARE = 0.5
_LEAST_LIKELIHOOD = 1e-15
_FILE = "head.npz"


class LinearHead(Head):
    """Logistic regression for classes, ridge regression for values.

    Penalty and scales of the blocks are chosen by grouped cross-validation in the training rows,
    since one penalty for five columns of a table and a hundred components
    of an image would let either drown the other. Ridge regressions choose the scale (for classes,
    on indicators), all folds and penalties from one pass over the rows.

    Parameters
    ----------
    penalty : float, optional
        Ridge: what is added to the diagonal; logistic: 1 / C. Chosen if None.
    block_scale : float, optional
        Blocks, whose dimensions were standardised, are multiplied by it. Chosen if None.

    Attributes
    ----------
    penalty_ : float
        The one used.
    block_scales_ : float array of shape (n_blocks,)
        What each block is multiplied by; 0 where it does not help.
    coefficients_ : float array of shape (n_features + 1, n_outputs)
        The intercepts last; one output for values or two classes, else one per class.
    present_ : int array
        The classes that occurred.
    sharpness_ : float
        Of classes: what the scores were multiplied by, so that probabilities are true out of fold;
        1 if a penalty is given.
    """

    recipe: ClassVar[Recipe] = Recipe(
        scaling="robust",
        fills_missing=True,
        has_splines=True,
        many_categories="onehot",
        blocks="pca",
        n_components=128,
    )

    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "penalty": tuple(np.logspace(-2, 4, 13)),
        "block_scale": _BLOCK_SCALES,
    }

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "penalty": [*POSITIVE, None],
        "block_scale": [*POSITIVE, None],
    }

    def __init__(self, *, penalty: float | None = None, block_scale: float | None = None):
        self.penalty = penalty
        self.block_scale = block_scale

    def fit(
        self,
        features: Features,
        y: np.ndarray,
        task: Task,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Choose scale and penalty, and fit all rows; see `Head.fit`."""
        self.task_ = task
        self.sharpness_ = 1.0
        self.present_ = np.unique(y) if task.is_classification else np.empty(0, np.int64)
        X = np.asarray(features.matrix(), np.float64)
        weight = np.ones(len(y)) if sample_weight is None else sample_weight
        cut = partial(
            inner_folds,
            y,
            is_classification=task.is_classification,
            groups=groups,
            random_state=task.random_state,
        )
        folds = folds_to_sharpen = cut(many_rows=_MANY_ROWS)
        if (task.n_classes or 0) > _MANY_CLASSES:
            folds, folds_to_sharpen = cut(many_rows=0), cut(many_rows=_MANY_ROWS_OF_MANY_CLASSES)
        outputs = self._outputs(y)
        blocks = features.block_columns
        by_feature, self.penalty_, coefficients = self._ridge(X, outputs, weight, folds, blocks)
        if task.is_classification:
            by_feature, self.penalty_, coefficients = self._logistic(
                X, y, weight, folds, folds_to_sharpen, features.is_block, by_feature
            )
        self.block_scales_ = np.array([by_feature[columns].max(initial=0) for columns in blocks])
        self.coefficients_ = coefficients
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        return linear(features.matrix(), self.coefficients_)[:, 0]

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        scores = linear(features.matrix(), self.coefficients_)
        if len(self.present_) == 1:
            proba = np.ones((len(scores), 1))
        elif len(self.present_) == 2:
            proba = np.column_stack([expit(-scores[:, 0]), expit(scores[:, 0])])
        else:
            proba = softmax(scores, axis=1)
        return all_classes(proba, self.present_, self.task_.n_classes or 0)

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write the coefficients."""
        np.savez(
            folder / _FILE,
            allow_pickle=False,
            coefficients=self.coefficients_,
            present=self.present_,
            sharpness=self.sharpness_,
            penalty=self.penalty_,
            block_scales=self.block_scales_,
        )

    def load(self, folder: Path, task: Task, trusted: Sequence[str] = ()) -> Self:
        """Read what `save` wrote."""
        self.task_ = task
        arrays = read_arrays(folder / _FILE)
        self.coefficients_, self.present_ = arrays["coefficients"], arrays["present"]
        self.sharpness_, self.penalty_ = float(arrays["sharpness"]), float(arrays["penalty"])
        self.block_scales_ = arrays["block_scales"]
        return self

    def _outputs(self, y: np.ndarray) -> np.ndarray:
        """Return what the ridge regressions predict: values, or an indicator per class."""
        if not self.task_.is_classification:
            return np.asarray(y, np.float64)[:, None]
        shown = self.present_[-1:] if len(self.present_) <= 2 else self.present_
        return np.asarray(y[:, None] == shown, np.float64)

    def _ridge(
        self,
        X: np.ndarray,
        outputs: np.ndarray,
        weight: np.ndarray,
        folds: Folds,
        blocks: Sequence[np.ndarray],
    ) -> tuple[np.ndarray, float, np.ndarray]:
        """Choose scales and penalty; return them and the coefficients for ``X`` itself.

        One scale for all blocks first; then each of several may get less, or nothing, or more.
        """
        is_block = np.any(blocks, axis=0) if blocks else np.zeros(X.shape[1], bool)
        is_fixed = self.penalty is not None and not self.task_.is_classification
        penalties = np.array([self.penalty]) if is_fixed else _RIDGE_PENALTIES
        scales = [self.block_scale] if self.block_scale is not None else list(_BLOCK_SCALES)
        if X.shape[1] > _MANY_FEATURES and self.block_scale is None:
            scales = scales[::2]
        if not is_block.any():
            scales = scales[:1]
        everything, of_trains = sums_by_fold(X, outputs, weight, folds)
        fallback = _DEFAULT_PENALTY if not is_fixed else float(penalties[0])
        best = (np.inf, fallback, np.where(is_block, scales[0], 1.0))

        def compare(by_feature: np.ndarray) -> None:
            """Keep a scale of each feature if it predicts rows held out better."""
            nonlocal best
            errors = np.zeros(len(penalties))
            for sums, (_, test) in zip(of_trains, folds, strict=True):
                path = sums.scaled(by_feature).ridge(penalties)
                path[:, :-1] *= by_feature[:, None]
                errors += squared_errors(X, outputs, weight, path, test)
            number = int(errors.argmin())
            if errors[number] < best[0]:
                best = (float(errors[number]), float(penalties[number]), by_feature)

        if folds:
            for scale in scales:
                compare(np.where(is_block, scale, 1.0))
            for columns in blocks if len(blocks) > 1 and self.block_scale is None else ():
                for share in _BLOCK_SHARES:
                    compare(np.where(columns, share * best[2], best[2]))
        _, penalty, by_feature = best
        coefficients = everything.scaled(by_feature).ridge(np.array([penalty]))[0]
        coefficients[:-1] *= by_feature[:, None]
        return by_feature, penalty, coefficients

    def _logistic(
        self,
        X: np.ndarray,
        y: np.ndarray,
        weight: np.ndarray,
        folds: Folds,
        folds_to_sharpen: Folds,
        is_block: np.ndarray,
        by_feature: np.ndarray,
    ) -> tuple[np.ndarray, float, np.ndarray]:
        """Choose scale and penalty by log loss; return them and the coefficients for ``X``.

        Of many rows the scales stay those that ridge regressions chose.
        """
        if len(self.present_) == 1:
            return by_feature, 1.0, np.zeros((X.shape[1] + 1, 1))
        scales = [1.0]
        if self.block_scale is None and is_block.any() and len(X) < _MANY_ROWS_TO_CHOOSE_SCALE:
            largest = by_feature[is_block].max() or 1.0
            step = 2 if X.shape[1] > _MANY_FEATURES else 1
            scales = [scale / largest for scale in _BLOCK_SCALES[::step]]
        candidates = [by_feature * np.where(is_block, scale, 1.0) for scale in scales]
        chosen = (0.0, 1 / self.penalty if self.penalty else _DEFAULT_INVERSE_PENALTY, 0)
        if folds and self.penalty is None:
            chosen = min(
                (*_best_inverse_penalty(X * candidate, y, weight, folds), number)
                for number, candidate in enumerate(candidates)
            )
        _, c, number = chosen
        by_feature = candidates[number]
        scaled = X * by_feature
        model = LogisticRegression(C=c, max_iter=_MAX_ITERATIONS)
        model.fit(scaled, y, sample_weight=weight)
        coefficients = np.vstack([model.coef_.T * by_feature[:, None], model.intercept_])
        if self.penalty is None:
            self.sharpness_ = _sharpness(scaled, y, weight, folds_to_sharpen, c)
        return by_feature, 1 / c, coefficients * self.sharpness_


def _best_inverse_penalty(
    X: np.ndarray, y: np.ndarray, weight: np.ndarray, folds: Folds
) -> tuple[float, float]:
    """Return the least weighted log loss on the rows held out, and the C that has it.

    Each C starts from the solutions of the one before, and the path ends when the loss has risen
    twice. (``LogisticRegressionCV`` does not weigh the rows that it scores.)
    """
    models = [LogisticRegression(max_iter=_MAX_ITERATIONS, warm_start=True) for _ in folds]
    losses: list[float] = []
    for c in _INVERSE_PENALTIES:
        loss = 0.0
        for model, (train, test) in zip(models, folds, strict=True):
            model.set_params(C=c).fit(X[train], y[train], sample_weight=weight[train])
            columns = np.searchsorted(model.classes_, y[test])
            of_truth = model.predict_proba(X[test])[np.arange(len(test)), columns]
            loss -= float(weight[test] @ np.log(np.maximum(of_truth, _LEAST_LIKELIHOOD)))
        losses.append(loss)
        if len(losses) - 1 - int(np.argmin(losses)) >= _PATIENCE:
            break
    best = int(np.argmin(losses))
    return losses[best], float(_INVERSE_PENALTIES[best])


def _sharpness(X: np.ndarray, y: np.ndarray, weight: np.ndarray, folds: Folds, c: float) -> float:
    """Return the factor of the scores that makes the rows held out likeliest.

    The penalty that finds the best direction leaves probabilities too close to each other, most
    of all where classes are many and their rows few: this is temperature scaling [1]_, out of
    fold. A share of each label goes to the other classes, as Platt has it, so that a few rows
    that are all told apart do not ask for certainty.

    References
    ----------
    .. [1] Guo et al., On Calibration of Modern Neural Networks, ICML 2017.
    """
    if not folds:
        return 1.0
    scores, labels, weights = [], [], []
    for train, test in folds:
        model = LogisticRegression(C=c, max_iter=_MAX_ITERATIONS)
        model.fit(X[train], y[train], sample_weight=weight[train])
        found = model.decision_function(X[test])
        scores.append(np.column_stack([0 * found, found]) if found.ndim == 1 else found)
        labels.append(np.searchsorted(model.classes_, y[test]))
        weights.append(weight[test])
    held_out, truth, of_row = np.vstack(scores), np.concatenate(labels), np.concatenate(weights)
    if not of_row.any():
        return 1.0
    n_classes = held_out.shape[1]
    share = _SHARE / (of_row.sum() + 2)
    expected = np.full(held_out.shape, share / n_classes)
    expected[np.arange(len(truth)), truth] += 1 - share

    def loss(log_sharpness: float) -> float:
        likelihood = log_softmax(held_out * np.exp(log_sharpness), axis=1)
        return -float(np.average((expected * likelihood).sum(axis=1), weights=of_row))

    found = minimize_scalar(
        loss, bounds=(-_LARGEST_SHARPNESS, _LARGEST_SHARPNESS), method="bounded"
    )
    return float(np.exp(found.x))
