"""Any scikit-learn estimator as a head."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.model_selection._search import BaseSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from twostage.errors import UsageError
from twostage.features import Features
from twostage.heads.base import Head, Task, all_classes
from twostage.heads.calibration import calibrated, fit_calibration, folds_to_calibrate
from twostage.heads.svm import block_scales
from twostage.recipes import Recipe
from twostage.saving import dump, load

_GENERAL = Recipe(scaling="robust", fills_missing=True, blocks="pca", n_components=100)
_WITH_MISSING = Recipe()
_BLOCK_VARIANCE = 4.0
_FILE = "head.skops"


class ScikitHead(Head):
    """A scikit-learn classifier or regressor, or anything that follows its rules.

    The estimator gets what it can work with. If its tags say that it takes missing values
    (``HistGradientBoosting*``, ``RandomForest*``, ``LGBM*``: trees), numbers stay as they are,
    missing ones missing, and it sees of images what serves trees best. Any other one, and every
    ``Pipeline``, gets numbers on a common scale, with missing ones filled, and of each image
    column the first 100 principal components, scaled together so that they weigh about as much as
    a few columns of the table. Recipe settings given to the model change that.

    The estimator is cloned, and used as it is but for this: where it, or a part of it, has a
    ``random_state`` of None, that becomes the task's. Classes reach it as numbers, 0 to the number
    of those present. Row weights go to it, or to the last step of a pipeline, and are refused if
    it does not take any; groups go to a ``fit`` that takes them, and to a search such as
    ``GridSearchCV`` whose ``cv`` splits by groups.

    A classifier without ``predict_proba`` is calibrated: its ``decision_function`` on up to five
    grouped folds of the training rows, each predicted by a clone fitted without it, tells what a
    score is worth (Platt's sigmoid; for several classes a softmax with one slope and an intercept
    for each class). The estimator itself is fitted on all rows. Where nothing can be held out,
    scores count as log odds.

    Parameters
    ----------
    estimator : scikit-learn classifier or regressor
        Not changed. Its parameters are this head's too, as ``estimator__<name>``.

    Attributes
    ----------
    model_ : estimator or None
        The fitted clone; None if there was one class only.
    present_ : int array
        The classes that occurred.
    scales_ : float32 array of shape (n_features,)
        By which features were multiplied.
    calibration_ : float array of shape (n_present + 1,) or None
        Slope and intercepts, if the estimator gave no probabilities.
    """

    def __init__(self, estimator: Any = None):
        self.estimator = estimator

    @property
    def recipe(self) -> Recipe:  # type: ignore[override]
        """The features that the estimator can work with."""
        return _WITH_MISSING if _takes_missing(self.estimator) else _GENERAL

    @property
    def can_classify(self) -> bool:  # type: ignore[override]
        """Whether the estimator is a classifier."""
        return _kind(self.estimator) == "classifier"

    @property
    def can_regress(self) -> bool:  # type: ignore[override]
        """Whether the estimator is a regressor."""
        return _kind(self.estimator) == "regressor"

    def parameters(self) -> dict[str, Any]:
        """Return nothing: the estimator is no JSON, and is saved with what it learned."""
        return {}

    def fit(
        self,
        features: Features,
        y: np.ndarray,
        task: Task,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Fit a clone of the estimator; see `Head.fit`.

        Raises
        ------
        UsageError
            If the estimator can't do the task, gives neither probabilities nor scores, or can't
            take the weights.
        """
        _check_kind(self.estimator, task)
        arguments = _fit_arguments(self.estimator, groups, sample_weight)
        self.task_ = task
        self.model_: Any = None
        self.present_ = np.empty(0, np.int64)
        self.calibration_: np.ndarray | None = None
        self.scales_ = self._scales(features, sample_weight)
        X = self._matrix(features)
        if task.is_classification:
            self.present_, y = np.unique(y, return_inverse=True)
            if len(self.present_) == 1:
                return self  # many classifiers refuse a single class
        self.model_ = _seeded(self.estimator, task.random_state).fit(X, y, **arguments)
        if task.is_classification and not hasattr(self.model_, "predict_proba"):
            self.calibration_ = self._calibrate(X, y, groups, sample_weight)
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        if len(features) == 0:
            return np.empty(0)
        return np.asarray(self.model_.predict(self._matrix(features)), np.float64).ravel()

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        if len(features) == 0 or len(self.present_) == 1:
            proba = np.ones((len(features), len(self.present_)))
        elif self.calibration_ is None:
            proba = self.model_.predict_proba(self._matrix(features))
        else:
            scores = self.model_.decision_function(self._matrix(features))
            proba = calibrated(scores, self.calibration_)
        proba = np.asarray(proba, np.float64)
        return all_classes(proba, self.present_, self.task_.n_classes or 0)

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write the estimator, unfitted and fitted, in skops format; of a search, the best one.

        Parameters
        ----------
        folder : Path
            Where to.
        trusted : sequence of str
            Full names of types of the estimator, beyond those known.

        Raises
        ------
        ModelError
            If the estimator holds other types.
        """
        learned = {
            "estimator": self.estimator,
            "model": getattr(self.model_, "best_estimator_", self.model_),
            "present": self.present_,
            "scales": self.scales_,
            "calibration": self.calibration_,
        }
        dump(learned, folder / _FILE, trusted)

    def load(self, folder: Path, task: Task, trusted: Sequence[str] = ()) -> Self:
        """Read what `save` wrote, the estimator too; see `save`."""
        learned = load(folder / _FILE, trusted)
        self.task_ = task
        self.estimator, self.model_ = learned["estimator"], learned["model"]
        self.present_, self.scales_ = learned["present"], learned["scales"]
        self.calibration_ = learned["calibration"]
        return self

    def _scales(self, features: Features, sample_weight: np.ndarray | None) -> np.ndarray:
        if _takes_missing(self.estimator):
            return np.ones(features.n_features, np.float32)
        return block_scales(features, _BLOCK_VARIANCE, sample_weight)

    def _matrix(self, features: Features) -> np.ndarray:
        matrix = features.matrix()
        matrix *= self.scales_
        return matrix

    def _calibrate(
        self,
        X: np.ndarray,
        y: np.ndarray,
        groups: np.ndarray | None,
        sample_weight: np.ndarray | None,
    ) -> np.ndarray:
        if not hasattr(self.model_, "decision_function"):
            raise UsageError(
                f"A classifier needs predict_proba or decision_function; {_named(self.estimator)} "
                "has neither. Choose another one, or wrap it in CalibratedClassifierCV."
            )
        scores = []
        folds = folds_to_calibrate(y, self.task_, groups)
        for train, test in folds:
            parts = (None if part is None else part[train] for part in (groups, sample_weight))
            model = _seeded(self.estimator, self.task_.random_state)
            model.fit(X[train], y[train], **_fit_arguments(model, *parts))
            scores.append(model.decision_function(X[test]))
        return fit_calibration(scores, folds, y, sample_weight)[0]


def _named(estimator: Any) -> str:
    return type(estimator).__name__


def _takes_missing(estimator: Any) -> bool:
    if isinstance(estimator, BaseSearchCV):  # its tags don't tell
        return _takes_missing(estimator.estimator)
    return estimator is not None and bool(get_tags(estimator).input_tags.allow_nan)


def _kind(estimator: Any) -> str:
    if estimator is not None and is_classifier(estimator):
        return "classifier"
    return (
        "regressor"
        if estimator is not None and is_regressor(estimator)
        else "thing of another kind"
    )


def _check_kind(estimator: Any, task: Task) -> None:
    asked, wanted = ("classes", "classifier") if task.is_classification else ("values", "regressor")
    found = _kind(estimator)
    if found != wanted:
        raise UsageError(
            f"The target is {asked}, which needs a {wanted}; found {_named(estimator)}, "
            f"a {found}. Give a {wanted} as the head, or set the "
            "task."
        )


def _fit_arguments(
    estimator: Any, groups: np.ndarray | None, sample_weight: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return what ``fit`` gets beside X and y.

    Raises
    ------
    UsageError
        If there are weights, and the estimator would not heed them.
    """
    arguments = {}
    if sample_weight is not None:
        name = _parameter_for_weights(estimator)
        if name is None:
            what = "the last step of the Pipeline" if isinstance(estimator, Pipeline) else "fit"
            raise UsageError(
                f"Sample or class weights were given, but {_named(estimator)} can't use them: "
                f"{what} takes no sample_weight. Leave the weights out, or choose another head."
            )
        arguments[name] = sample_weight
    if groups is not None and _takes_groups(estimator):
        arguments["groups"] = groups
    return arguments


def _parameter_for_weights(estimator: Any) -> str | None:
    """Return the name under which ``fit`` takes weights, None if it takes none."""
    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    if isinstance(estimator, BaseSearchCV):
        return _parameter_for_weights(estimator.estimator)
    if isinstance(estimator, Pipeline):
        step, last = estimator.steps[-1]
        name = _parameter_for_weights(last)
        return None if name is None else f"{step}__{name}"
    return None


def _takes_groups(estimator: Any) -> bool:
    if isinstance(estimator, BaseSearchCV):  # a cv that does not split by groups warns of them
        return "Group" in type(estimator.cv).__name__
    return bool(has_fit_parameter(estimator, "groups"))


def _seeded(estimator: Any, random_state: int) -> Any:
    """Return a clone with the seed wherever it has none."""
    copy = clone(estimator)
    unset = {
        name: random_state
        for name, value in copy.get_params().items()
        if name.rpartition("__")[2] == "random_state" and value is None
    }
    return copy.set_params(**unset)
