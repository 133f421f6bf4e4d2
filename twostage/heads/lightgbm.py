"""Gradient-boosted trees that see wide embeddings and a narrow table on equal terms."""

from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np

from twostage.errors import DataError
from twostage.splits import holdout

_MAX_TREES = 2000
_PATIENCE = 50
_MIN_ROWS_TO_STOP_EARLY = 100
_MIN_GROUPS = 10
_N_TREES_WITHOUT_STOPPING = 100
_N_SAMPLED_FEATURES = 256
_MANY_CLASSES = 20
_MIN_CELLS_FOR_THREADS = 10_000_000


class LightGBMHead:
    """LightGBM with early stopping, refitted on all rows it is given.

    The number of trees is the one that does best on an inner fifth, held out by whole groups;
    under 100 rows or 10 groups, or where no
    fair fifth can be held out, it is 100.

    Embeddings are wide and redundant: each tree sees a sample of some 256 features, which is
    faster and generalises better. So that a table of a few columns is not sampled away, its
    columns enter several times.

    Parameters
    ----------
    is_classification : bool
        Whether ``y`` is class numbers.
    n_table_features : int
        How many of the leading features come from the table.
    random_state : int
        Of the inner split and of LightGBM's sampling.
    n_jobs : int, optional
        Threads; as many as there are cores if None. Small data is trained on one, faster so.

    Attributes
    ----------
    booster_ : lightgbm.Booster
        The trees.
    """

    FILE = "head.txt"

    def __init__(
        self,
        is_classification: bool,
        *,
        n_table_features: int = 0,
        random_state: int = 0,
        n_jobs: int | None = None,
    ):
        self.is_classification = is_classification
        self.n_table_features = n_table_features
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "LightGBMHead":
        """Train on all rows, with as many trees as an inner split asks for.

        Parameters
        ----------
        X : float32 array of shape (n_rows, n_features)
            NaN where a value is missing.
        y : array of shape (n_rows,)
            Class numbers, 0 to n_classes - 1, each present; or values.
        groups : int array of shape (n_rows,), optional
            Rows of one group stay together in the inner split.
        """
        columns = self._columns(X.shape[1])
        X = X[:, columns]
        parameters = self._parameters(X, y)
        n_trees = self._find_n_trees(parameters, X, y, groups)
        data = lightgbm.Dataset(X, y, feature_name=_names_of(columns), params=parameters)
        self.booster_ = lightgbm.train(parameters, data, n_trees)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return values, or class numbers, of shape (n_rows,)."""
        if self.is_classification:
            return np.asarray(self.predict_proba(X).argmax(axis=1))
        return self._predict(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        proba = self._predict(X)
        return np.column_stack([1 - proba, proba]) if proba.ndim == 1 else proba

    def save(self, folder: Path) -> None:
        """Write the trees as LightGBM's own text."""
        self.booster_.save_model(folder / self.FILE)

    @classmethod
    def load(cls, folder: Path, is_classification: bool) -> "LightGBMHead":
        """Read what `save` wrote."""
        head = cls(is_classification)
        head.booster_ = lightgbm.Booster(model_file=folder / cls.FILE)
        return head

    def _predict(self, X: np.ndarray) -> np.ndarray:
        X = X[:, _columns_in(self.booster_.feature_name())]
        return np.asarray(self.booster_.predict(X, num_threads=self._n_threads(X)))

    def _columns(self, n_features: int) -> np.ndarray:
        """Return which feature each column of the trees' input is: the table's occur repeatedly."""
        n_copies = 1
        if n_features > _N_SAMPLED_FEATURES and self.n_table_features:
            n_copies = max(1, round(_N_SAMPLED_FEATURES / 2 / self.n_table_features))
        table = np.tile(np.arange(self.n_table_features), n_copies)
        return np.concatenate([table, np.arange(self.n_table_features, n_features)])

    def _parameters(self, X: np.ndarray, y: np.ndarray) -> dict[str, Any]:
        n_features = X.shape[1]
        is_slow = self.is_classification and y.max() >= _MANY_CLASSES  # a tree per class and round
        n_sampled = _N_SAMPLED_FEATURES // 4 if is_slow else _N_SAMPLED_FEATURES
        n_classes = int(y.max()) + 1 if self.is_classification else 0
        objective = {0: "regression", 2: "binary"}.get(n_classes, "multiclass")
        return {
            "objective": objective,
            "num_class": n_classes if objective == "multiclass" else 1,
            "learning_rate": 0.05 if n_classes <= _MANY_CLASSES else 0.1,
            "num_leaves": 15,
            "min_data_in_leaf": min(20, max(1, len(y) // 20)),
            "lambda_l2": 10.0 if n_features > _N_SAMPLED_FEATURES else 0.0,
            "max_bin": 63 if n_features > _N_SAMPLED_FEATURES else 255,
            "feature_fraction": min(1.0, n_sampled / n_features),
            "seed": self.random_state,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": self._n_threads(X, n_trees_a_round=max(1, n_classes)),
            "verbose": -1,
        }

    def _find_n_trees(
        self,
        parameters: dict[str, Any],
        X: np.ndarray,
        y: np.ndarray,
        groups: np.ndarray | None,
    ) -> int:
        has_few_groups = groups is not None and len(np.unique(groups)) < _MIN_GROUPS
        if len(y) < _MIN_ROWS_TO_STOP_EARLY or has_few_groups:
            return _N_TREES_WITHOUT_STOPPING
        try:
            train, inner = holdout(
                y,
                is_classification=self.is_classification,
                groups=groups,
                random_state=self.random_state,
            )
        except DataError:
            return _N_TREES_WITHOUT_STOPPING
        data = lightgbm.Dataset(X[train], y[train], params=parameters)
        watched = lightgbm.Dataset(X[inner], y[inner], reference=data)
        stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
        booster = lightgbm.train(
            parameters, data, _MAX_TREES, valid_sets=[watched], callbacks=[stop]
        )
        return max(1, int(booster.best_iteration))

    def _n_threads(self, X: np.ndarray, n_trees_a_round: int = 1) -> int:
        if X.size * n_trees_a_round < _MIN_CELLS_FOR_THREADS:
            return 1  # threads that wait for each other at every leaf would take longer
        return self.n_jobs if self.n_jobs and self.n_jobs > 0 else int(joblib.cpu_count())


def _names_of(columns: np.ndarray) -> list[str]:
    """Name the trees' inputs so that the file says which feature each one is."""
    return [f"{position}_is_{column}" for position, column in enumerate(columns)]


def _columns_in(names: list[str]) -> list[int]:
    return [int(name.split("_is_")[1]) for name in names]
