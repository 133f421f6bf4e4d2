"""A random forest."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import joblib
import numpy as np
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from twostage.features import Features
from twostage.heads.base import COUNT, SHARE, Head, Task, all_classes
from twostage.recipes import Recipe
from twostage.saving import dump, load

_MAX_ROWS_OF_A_TREE = 20_000
_CHUNK = 4096
_FILE = "head.skops"


class ForestHead(Head):
    """A random forest, for classes or values. Missing values are not filled.

    A missing value goes down the branch that suits the target best; one of a feature that had
    none at fit, down the branch with more rows. Trees of many rows are grown on 20,000 drawn
    anew for each.

    Parameters
    ----------
    n_trees : int
        How many trees.
    min_samples_leaf : int, optional
        Fewest rows of a leaf; 3 for values and two classes, 1 for more classes, if None.
    max_features : float, optional
        Share of the features that each split chooses from; a third for values, the square root
        of their number for classes, if None.

    Attributes
    ----------
    model_ : RandomForestClassifier or RandomForestRegressor
        The trees.
    present_ : int array
        The classes that occurred.
    """

    recipe: ClassVar[Recipe] = Recipe(
        scaling="none",
        fills_missing=False,
        categories="ordinal",
        many_categories="target",
        blocks="pca+probe",
    )
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "min_samples_leaf": (None, 1, 2, 5, 10, 20),
        "max_features": (None, 0.05, 0.1, 0.2, 0.35, 0.6),
    }

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_trees": COUNT,
        "min_samples_leaf": [*COUNT, None],
        "max_features": [*SHARE, None],
    }

    def __init__(
        self,
        *,
        n_trees: int = 300,
        min_samples_leaf: int | None = None,
        max_features: float | None = None,
    ):
        self.n_trees = n_trees
        self.min_samples_leaf = min_samples_leaf
        self.max_features = max_features

    def fit(
        self,
        features: Features,
        y: np.ndarray,
        task: Task,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Grow the trees on all rows; see `Head.fit`. Groups make no difference to it."""
        self.task_ = task
        self.present_ = np.unique(y) if task.is_classification else np.empty(0, np.int64)
        kind = RandomForestClassifier if task.is_classification else RandomForestRegressor
        self.model_ = kind(
            self.n_trees,
            **self._sizes(task),
            max_samples=_MAX_ROWS_OF_A_TREE if len(y) > _MAX_ROWS_OF_A_TREE else None,
            random_state=task.random_state,
            n_jobs=_n_jobs(task),
        )
        self.model_.fit(features.matrix(), y, sample_weight)
        self.model_.n_jobs = 1  # see `_outputs`
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        if len(features) == 0:
            return np.empty(0)
        return self._outputs(self.model_.predict, features)

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        if len(features) == 0:
            return np.empty((0, self.task_.n_classes or 0))
        proba = self._outputs(self.model_.predict_proba, features)
        return all_classes(proba, self.present_, self.task_.n_classes or 0)

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write the trees in skops format."""
        dump(self.model_, folder / _FILE, trusted)

    def load(self, folder: Path, task: Task, trusted: Sequence[str] = ()) -> Self:
        """Read what `save` wrote."""
        self.task_ = task
        self.model_ = load(folder / _FILE, trusted)
        kind = RandomForestClassifier if task.is_classification else RandomForestRegressor
        if type(self.model_) is not kind:
            raise ValueError(f"{_FILE} holds a {type(self.model_).__name__}")
        is_classification = task.is_classification
        self.present_ = self.model_.classes_ if is_classification else np.empty(0, np.int64)
        return self

    def _sizes(self, task: Task) -> dict[str, Any]:
        """Return what bounds each tree."""
        leaf, share = self.min_samples_leaf, self.max_features
        if leaf is None:
            leaf = 1 if (task.n_classes or 0) > 2 else 3
        if share is None:
            return {
                "min_samples_leaf": leaf,
                "max_features": "sqrt" if task.is_classification else 1 / 3,
            }
        return {"min_samples_leaf": leaf, "max_features": float(share)}

    def _outputs(self, output: Any, features: Features) -> np.ndarray:
        """Predict some rows on each thread: trees on threads would add up in any order."""
        starts = range(0, len(features), _CHUNK)
        matrix = features.matrix()
        found = joblib.Parallel(_n_jobs(self.task_) if len(starts) > 1 else 1, prefer="threads")(
            joblib.delayed(output)(matrix[start : start + _CHUNK]) for start in starts
        )
        return np.asarray(np.concatenate(found), np.float64)


def _n_jobs(task: Task) -> int:
    return task.n_jobs if task.n_jobs else -1
