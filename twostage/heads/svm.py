"""A support vector machine with a radial kernel, and probabilities that mean something."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.kernel_approximation import Nystroem
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC, SVR, LinearSVC, LinearSVR

from twostage.features import Features
from twostage.heads.base import POSITIVE, Head, Task, all_classes
from twostage.heads.calibration import (
    calibrated,
    fit_calibration,
    folds_to_calibrate,
    no_calibration,
)
from twostage.recipes import Recipe
from twostage.ridge import Folds
from twostage.saving import dump, load

_CS = (0.3, 1.0, 3.0, 10.0, 30.0)
_BLOCK_VARIANCES = (1.0, 4.0, 16.0, 64.0)
_DEFAULT_C = 3.0
_DEFAULT_BLOCK_VARIANCE = 4.0
_MAX_EXACT_ROWS = 10_000  # the time of an exact machine grows with their square, or worse
_MAX_ROWS_TO_CHOOSE_ON = 5_000
_N_LANDMARKS = 500
_EPSILON = 0.1
_CACHE_MB = 500
_MAX_ITERATIONS = 1000
_TOLERANCE = 0.01  # scikit-learn's 0.0001 takes twice as long and scores the same
_FILE = "head.skops"


@dataclass(frozen=True)
class _Settings:
    C: float
    block_variance: float


@dataclass(frozen=True)
class _Rows:
    """What a machine learns from.

    Attributes
    ----------
    X : float32 array of shape (n_rows, n_features)
        Features; each block has a total variance of 1.
    is_block : bool array of shape (n_features,)
        Which columns come from blocks.
    y : array of shape (n_rows,)
        Numbers of the classes present, or standardised values.
    weight : float array of shape (n_rows,)
    groups : int array of shape (n_rows,) or None
    """

    X: np.ndarray
    is_block: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    groups: np.ndarray | None

    def take(self, rows: np.ndarray) -> "_Rows":
        groups = None if self.groups is None else self.groups[rows]
        return _Rows(self.X[rows], self.is_block, self.y[rows], self.weight[rows], groups)


class SVMHead(Head):
    """A support vector machine with a radial (RBF) kernel, for classes or values.

    Two numbers are chosen by grouped cross-validation in the training rows: C, and how much the
    blocks weigh against the table, since in a distance a wide block would drown a few columns, or
    the other way round. They are chosen one after the other, on five folds of up to 2,000 rows,
    else on a held-out fifth, and on at most 5,000 rows.

    Probabilities come from scores of rows that the machine did not see: Platt's sigmoid, or for
    several classes a softmax with one slope and an intercept for each class, fitted on the scores
    of the same kind of grouped folds; a class that occurs in one group only is held out row by
    row. Where nothing can be held out (a single group, or classes of one row each), scores count
    as log odds.

    Above 10,000 rows an exact machine would take hours: there, 500 Nystroem features approximate
    the kernel, and a linear machine learns from them.

    Parameters
    ----------
    C : float, optional
        How much errors cost; chosen from 0.3, 1, 3, 10 and 30 if None.
    block_variance : float, optional
        Total variance that each block is scaled to, where a standardised column of the table has
        1; chosen from 1, 4, 16 and 64 if None.
    gamma : float
        Width of the kernel, as a multiple of one over the features' total variance (which is
        scikit-learn's "scale").

    Attributes
    ----------
    model_ : SVC, SVR or Pipeline of Nystroem and LinearSVC or LinearSVR; None for a single class
        The machine. Its classes are numbered 0 to the number of those present; its values are
        standardised.
    C_, block_variance_ : float
        Those used.
    scales_ : float32 array of shape (n_features,)
        By which features are multiplied.
    present_ : int array
        The classes that occurred.
    calibration_ : float array of shape (n_present + 1,)
        Slope and intercepts from scores to log probabilities; classification only.
    center_, spread_ : float
        Mean and standard deviation of the values; regression only.

    References
    ----------
    Platt (1999); Alexandari, Kundaje and Shrikumar (2020), bias-corrected temperature scaling;
    Williams and Seeger (2001), the Nystroem method.
    """

    recipe: ClassVar[Recipe] = Recipe(
        scaling="robust",
        fills_missing=True,
        categories="onehot",
        many_categories="target",
        blocks="pca",
        n_components=100,
    )
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "C": (None, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
        "block_variance": (None, *_BLOCK_VARIANCES),
        "gamma": (0.1, 0.3, 1.0),
    }

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [*POSITIVE, None],
        "block_variance": [*POSITIVE, None],
        "gamma": POSITIVE,
    }

    def __init__(
        self,
        *,
        C: float | None = None,
        block_variance: float | None = None,
        gamma: float = 0.3,
    ):
        self.C = C
        self.block_variance = block_variance
        self.gamma = gamma

    def fit(
        self,
        features: Features,
        y: np.ndarray,
        task: Task,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Choose settings, calibrate, and fit all rows; see `Head.fit`."""
        self.task_ = task
        weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
        is_block = features.is_block
        scales = block_scales(features, 1.0, weight)
        X = features.matrix()
        X *= scales
        rows = _Rows(X, is_block, self._target(y, weight), weight, groups)
        self.model_: Any = None
        settings = _Settings(
            _DEFAULT_C if self.C is None else self.C,
            _DEFAULT_BLOCK_VARIANCE if self.block_variance is None else self.block_variance,
        )
        if not task.is_classification or len(self.present_) > 1:
            settings = self._choose(rows, settings)
            if task.is_classification:
                folds = folds_to_calibrate(rows.y, task, groups)
                scores = self._scores(rows, settings, folds)
                self.calibration_, _ = fit_calibration(scores, folds, rows.y, weight)
            self.model_ = self._fitted(rows, settings)
        self.C_, self.block_variance_ = settings.C, settings.block_variance
        self.scales_ = scales * _factors(is_block, settings)
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        if len(features) == 0:
            return np.empty(0)
        standardised = self.model_.predict(features.matrix() * self.scales_)
        return np.asarray(self.center_ + self.spread_ * standardised, np.float64)

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        if len(features) == 0 or len(self.present_) == 1:
            proba = np.ones((len(features), len(self.present_)))
        else:
            scores = self.model_.decision_function(features.matrix() * self.scales_)
            proba = calibrated(scores, self.calibration_)
        return all_classes(proba, self.present_, self.task_.n_classes or 0)

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write the machine and its calibration in skops format."""
        learned = {name: getattr(self, name) for name in self._learned_names()}
        dump(learned, folder / _FILE, trusted)

    def load(self, folder: Path, task: Task, trusted: Sequence[str] = ()) -> Self:
        """Read what `save` wrote."""
        self.task_ = task
        learned = load(folder / _FILE, trusted)
        for name in self._learned_names():
            setattr(self, name, learned[name])
        return self

    def _learned_names(self) -> tuple[str, ...]:
        of_task = ("present_", "calibration_")
        if not self.task_.is_classification:
            of_task = ("center_", "spread_")
        return ("model_", "C_", "block_variance_", "scales_", *of_task)

    def _target(self, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Number the classes that are present, or standardise the values; remember how."""
        if self.task_.is_classification:
            self.present_, numbers = np.unique(y, return_inverse=True)
            self.calibration_ = no_calibration(len(self.present_))
            return np.asarray(numbers)
        self.center_ = float(np.average(y, weights=weight))
        deviations = y - self.center_
        self.spread_ = float(np.sqrt(np.average(deviations**2, weights=weight))) or 1.0
        return np.asarray(deviations / self.spread_)

    def _choose(self, rows: _Rows, settings: _Settings) -> _Settings:
        """Choose what the user left open: the weight of blocks first, then C."""
        if len(rows.y) > _MAX_ROWS_TO_CHOOSE_ON:
            random = np.random.default_rng(self.task_.random_state)
            rows = rows.take(np.sort(random.permutation(len(rows.y))[:_MAX_ROWS_TO_CHOOSE_ON]))
            if self.task_.is_classification:
                rows = replace(rows, y=np.unique(rows.y, return_inverse=True)[1])
        folds = folds_to_calibrate(rows.y, self.task_, rows.groups)
        if not folds or len(np.unique(rows.y)) == 1:
            return settings
        losses: dict[_Settings, float] = {}

        def loss(candidate: _Settings) -> float:
            if candidate not in losses:
                losses[candidate] = self._loss(rows, candidate, folds)
            return losses[candidate]

        if self.block_variance is None and rows.is_block.any() and not rows.is_block.all():
            settings = min(
                (replace(settings, block_variance=v) for v in _BLOCK_VARIANCES), key=loss
            )
        if self.C is None:
            settings = min((replace(settings, C=c) for c in _CS), key=loss)
        return settings

    def _loss(self, rows: _Rows, settings: _Settings, folds: Folds) -> float:
        """Return the log loss after calibration, or the squared error, of rows held out."""
        scores = self._scores(rows, settings, folds)
        if self.task_.is_classification:
            return fit_calibration(scores, folds, rows.y, rows.weight)[1]
        test = np.concatenate([test for _, test in folds])
        errors = np.concatenate(scores) - rows.y[test]
        return float(np.average(errors**2, weights=rows.weight[test]))

    def _scores(self, rows: _Rows, settings: _Settings, folds: Folds) -> list[np.ndarray]:
        """Return decision values, or predictions, of each fold's test rows."""
        factors = _factors(rows.is_block, settings)
        scores = []
        for train, test in folds:
            machine = self._fitted(rows.take(train), settings)
            is_classification = self.task_.is_classification
            score = machine.decision_function if is_classification else machine.predict
            scores.append(score(rows.X[test] * factors))
        return scores

    def _fitted(self, rows: _Rows, settings: _Settings) -> Any:
        """Return a machine fitted to rows: an exact one unless they are too many."""
        X = rows.X * _factors(rows.is_block, settings)
        gamma = self.gamma / max(float(_variances(X, rows.weight).sum()), 1e-12)
        if len(X) > _MAX_EXACT_ROWS:
            machine = self._approximate(settings.C, gamma)
            return machine.fit(X, rows.y, machine__sample_weight=rows.weight)
        how = {"C": settings.C, "gamma": gamma, "cache_size": _CACHE_MB}
        machine = SVC(**how) if self.task_.is_classification else SVR(epsilon=_EPSILON, **how)
        return machine.fit(X, rows.y, rows.weight)

    def _approximate(self, C: float, gamma: float) -> Pipeline:
        kernel = Nystroem(
            gamma=gamma, n_components=_N_LANDMARKS, random_state=self.task_.random_state
        )
        # The primal problem: it has as many unknowns as landmarks, however many the rows.
        how = {"C": C, "dual": False, "tol": _TOLERANCE, "max_iter": _MAX_ITERATIONS}
        if self.task_.is_classification:
            machine = LinearSVC(**how)
        else:
            machine = LinearSVR(loss="squared_epsilon_insensitive", epsilon=_EPSILON, **how)
        return Pipeline([("kernel", kernel), ("machine", machine)])


def block_scales(
    features: Features, variance: float, sample_weight: np.ndarray | None = None
) -> np.ndarray:
    """Return factors that give each block, all its columns together, a certain variance.

    Parameters
    ----------
    features : Features
        Of n_rows, none missing.
    variance : float
        What each block gets; the table's columns keep theirs.
    sample_weight : array of shape (n_rows,), optional
        Of the rows.

    Returns
    -------
    float32 array of shape (n_features,)
    """
    n_others = features.n_features - sum(block.shape[1] for block in features.blocks)
    scales = [np.ones(n_others, np.float32)]
    for block in features.blocks:
        total = float(_variances(block, sample_weight).sum())
        factor = np.sqrt(variance / total) if total > 0 else 1.0
        scales.append(np.full(block.shape[1], factor, np.float32))
    return np.concatenate(scales)


def _variances(X: np.ndarray, sample_weight: np.ndarray | None) -> np.ndarray:
    mean = np.average(X, axis=0, weights=sample_weight)
    return np.asarray(np.average((X - mean) ** 2, axis=0, weights=sample_weight))


def _factors(is_block: np.ndarray, settings: _Settings) -> np.ndarray:
    weights = np.where(is_block, np.sqrt(settings.block_variance), 1.0)
    return np.asarray(weights, np.float32)
