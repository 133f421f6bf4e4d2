"""What every head has in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils._param_validation import (
    Interval,
    InvalidParameterError,
    validate_parameter_constraints,
)

from twostage.errors import UsageError
from twostage.features import Features
from twostage.recipes import Recipe

# What parameters may be, in scikit-learn's terms.
COUNT = [Interval(Integral, 1, None, closed="left")]
POSITIVE = [Interval(Real, 0, None, closed="neither")]
NOT_NEGATIVE = [Interval(Real, 0, None, closed="left")]
SHARE = [Interval(Real, 0, 1, closed="right")]
BELOW_ONE = [Interval(Real, 0, 1, closed="left")]


@dataclass(frozen=True)
class Task:
    """What a head is fitted for.

    Attributes
    ----------
    n_classes : int or None
        Number of classes, of which ``y`` holds the numbers; None for a regression.
    random_state : int
        Of everything random in the head.
    n_jobs : int or None
        Threads; as many as there are cores if None.
    """

    n_classes: int | None
    random_state: int = 0
    n_jobs: int | None = None

    @property
    def is_classification(self) -> bool:
        """Whether ``y`` holds class numbers."""
        return self.n_classes is not None


class Head(BaseEstimator):
    """A learner of the second stage.

    Its parameters are what may be searched over, stored and cloned as scikit-learn's are. It has
    ``predict_proba`` for classification and ``predict`` for regression.

    Attributes
    ----------
    recipe : Recipe
        The features it wants.
    can_classify, can_regress : bool
        What it can do.
    search_space : dict of str to sequence
        Values of its parameters worth trying, for tuning.
    task_ : Task
        What it was fitted for.
    """

    recipe: ClassVar[Recipe] = Recipe()
    can_classify: ClassVar[bool] = True
    can_regress: ClassVar[bool] = True
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {}
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {}

    task_: Task

    def fit(
        self,
        features: Features,
        y: np.ndarray,
        task: Task,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Learn.

        Parameters
        ----------
        features : Features
            Of n_rows, made by the head's recipe.
        y : array of shape (n_rows,)
            Class numbers, 0 to ``task.n_classes - 1``, of which some may be absent; or values.
        task : Task
            What to learn.
        groups : int array of shape (n_rows,), optional
            Rows of one group stay together in every inner split.
        sample_weight : float array of shape (n_rows,), optional
            Positive weights.
        """
        raise NotImplementedError

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        raise NotImplementedError

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        raise NotImplementedError

    def check_parameters(self) -> None:
        """Raise UsageError if a parameter is not what ``_parameter_constraints`` allows."""
        constraints = self._parameter_constraints
        given = {
            name: value
            for name, value in self.get_params(deep=False).items()
            if name in constraints
        }
        try:
            validate_parameter_constraints(constraints, given, type(self).__name__)
        except InvalidParameterError as error:
            raise UsageError(str(error)) from None

    def parameters(self) -> dict[str, Any]:
        """Return what it was made with, as JSON can hold it."""
        return dict(self.get_params(deep=False))

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write what was learned into a folder of the head's own; no pickles.

        Parameters
        ----------
        folder : Path
            Where other files of the model are too.
        trusted : sequence of str
            Full names of types that the user lets be saved and loaded, though they are unknown.
        """
        raise NotImplementedError

    def load(self, folder: Path, task: Task, trusted: Sequence[str] = ()) -> Self:
        """Take up what `save` wrote, in a head of the same parameters."""
        raise NotImplementedError


def all_classes(proba: np.ndarray, present: np.ndarray, n_classes: int) -> np.ndarray:
    """Widen the probabilities of the classes that were present at fit to all classes.

    Parameters
    ----------
    proba : array of shape (n_rows, n_present)
        Of the classes present.
    present : int array of shape (n_present,)
        Their numbers.
    n_classes : int
        How many there are in all; the others get 0.
    """
    if len(present) == n_classes:
        return proba
    wide = np.zeros((len(proba), n_classes))
    wide[:, present] = proba
    return wide
