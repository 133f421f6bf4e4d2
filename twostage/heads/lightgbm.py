"""Gradient-boosted trees that see wide embeddings and a narrow table on equal terms."""

import json
import warnings
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, ClassVar, Self

import joblib
import lightgbm
import numpy as np
from scipy.sparse import csr_matrix
from sklearn.utils._param_validation import Interval

from twostage.errors import DataError
from twostage.features import Features
from twostage.heads.base import COUNT, NOT_NEGATIVE, POSITIVE, SHARE, Head, Task
from twostage.opening.files import read_json
from twostage.opening.lightgbm_text import check_text
from twostage.opening.records import checked
from twostage.recipes import Recipe
from twostage.splits import inner_folds

_MAX_ROUNDS = 2000
_MAX_ROUNDS_OF_FEW_ROWS = 500
_MAX_TREES = 50_000  # a round is a tree for each class
_PATIENCE = 50
_MIN_ROWS_TO_STOP_EARLY = 100
_MIN_GROUPS = 10
N_TREES_WITHOUT_STOPPING = 100
_FEW_ROWS = 1000
_N_SAMPLED_FEATURES = 256
_MANY_CLASSES = 20
_N_ROWS_TO_BIN_BY = 20_000
_MIN_CELLS_FOR_THREADS = 10_000_000
_CHUNK = 2048
CODES = "codes"
_TREES, _RECORD = "head.txt", "head.json"


class LightGBMHead(Head):
    """LightGBM with early stopping, refitted on all rows it is given.

    The number of trees is the one that does best on an inner fifth, held out by whole groups, or,
    of fewer than 1,000 rows, on five of them; under 100 rows or 10 groups, or where no fair fifth
    can be held out, it is 100.

    Embeddings are wide and redundant: each tree sees a sample of some 256 features, which is
    faster and generalises better. So that a table of a few columns is not sampled away, its
    columns enter several times.

    Parameters
    ----------
    n_trees : int, optional
        Fixed number of trees, for each class if there are several; found by early stopping if
        None, up to 2,000, and 50,000 of all classes together.
    learning_rate : float, optional
        0.05, or 0.1 for more than 20 classes, if None.
    num_leaves : int, optional
        7 under 1,000 rows, else 15, if None.
    min_data_in_leaf : int, optional
        5 under 1,000 rows, else 20, if None; fewer under 100 rows.
    lambda_l2 : float, optional
        If None, 1 for more than 20 classes, without which leaves of their few rows diverge; else
        10 for more than 256 features, else 0.
    feature_fraction : float, optional
        What gives each tree some 256 features if None; a quarter of those for more than 20
        classes.

    Attributes
    ----------
    booster_ : lightgbm.Booster
        The trees.
    n_copies_ : int
        How often the table's columns enter.
    """

    recipe: ClassVar[Recipe] = Recipe()
    search_space: ClassVar[Mapping[str, Sequence[Any]]] = {
        "learning_rate": (0.02, 0.05, 0.1),
        "num_leaves": (4, 7, 15, 31, 63),
        "min_data_in_leaf": (3, 5, 10, 20, 50),
        "lambda_l2": (0.0, 1.0, 10.0, 100.0),
        "feature_fraction": (0.1, 0.2, 0.5, 1.0),
    }

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_trees": [*COUNT, None],
        "learning_rate": [*POSITIVE, None],
        "num_leaves": [Interval(Integral, 2, 131072, closed="both"), None],
        "min_data_in_leaf": [*COUNT, None],
        "lambda_l2": [*NOT_NEGATIVE, None],
        "feature_fraction": [*SHARE, None],
    }

    def __init__(
        self,
        *,
        n_trees: int | None = None,
        learning_rate: float | None = None,
        num_leaves: int | None = None,
        min_data_in_leaf: int | None = None,
        lambda_l2: float | None = None,
        feature_fraction: float | None = None,
    ):
        self.n_trees = n_trees
        self.learning_rate = learning_rate
        self.num_leaves = num_leaves
        self.min_data_in_leaf = min_data_in_leaf
        self.lambda_l2 = lambda_l2
        self.feature_fraction = feature_fraction

    def fit(
        self,
        features: Features,
        y: np.ndarray,
        task: Task,
        groups: np.ndarray | None = None,
        sample_weight: np.ndarray | None = None,
    ) -> Self:
        """Train on all rows, with as many trees as an inner split asks for; see `Head.fit`."""
        self.prepare(features, task)
        n_weighted = len(y) if sample_weight is None else float(sample_weight.sum())
        parameters = self.parameters_for(features, len(y), n_weighted)
        data = _dataset(features, self.n_copies_, y, sample_weight, parameters)
        n_trees = self.n_trees
        if n_trees is None:
            n_trees = _find_n_trees(parameters, data, y, task, groups)
        self.booster_ = lightgbm.train(parameters, data, n_trees)
        self.booster_.free_dataset()
        return self

    def prepare(self, features: Features, task: Task) -> Self:
        """Note what is learned, and how often the table enters."""
        self.task_ = task
        self.n_copies_ = _n_copies(features)
        return self

    def predict(self, features: Features) -> np.ndarray:
        """Return values of shape (n_rows,)."""
        return self._predict(features)

    def predict_proba(self, features: Features) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes)."""
        proba = self._predict(features)
        return np.column_stack([1 - proba, proba]) if proba.ndim == 1 else proba

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write the trees as LightGBM's own text."""
        self.booster_.save_model(folder / _TREES)
        (folder / _RECORD).write_text(json.dumps({"n_copies": self.n_copies_}))

    def load(self, folder: Path, task: Task, trusted: Sequence[str] = ()) -> Self:
        """Read what `save` wrote."""
        self.task_ = task
        text = (folder / _TREES).read_text()
        check_text(text)
        self.booster_ = lightgbm.Booster(model_str=text)
        self.n_copies_ = checked(int, read_json(folder / _RECORD)["n_copies"], "n_copies")
        if not 1 <= self.n_copies_ <= _N_SAMPLED_FEATURES:
            raise ValueError(f"the table enters {self.n_copies_} times")
        return self

    def _predict(self, features: Features) -> np.ndarray:
        """Show the trees just the features that they split on: of wide embeddings, a few."""
        used = np.flatnonzero(self.booster_.feature_importance()).astype(np.int32)
        parts = [features.table] * self.n_copies_ + [features.codes, *features.blocks]
        ends = np.cumsum([0, *(part.shape[1] for part in parts)])
        columns = [
            used[(start <= used) & (used < stop)] - start for start, stop in pairwise(ends.tolist())
        ]
        n_each = max(len(used), self.booster_.num_trees())
        threads = _n_threads(len(features) * n_each, self.task_)
        n_most = min(_CHUNK, len(features))
        # One buffer that stays in the processor's cache: a matrix of all rows would be a copy.
        buffer = np.empty((n_most, len(used)), np.float32)
        indices = np.tile(used, n_most)
        starts = np.arange(n_most + 1, dtype=np.int32) * len(used)
        outputs = []
        for start in range(0, len(features), _CHUNK):
            n = min(_CHUNK, len(features) - start)
            picked = [
                part[start : start + n, those] for part, those in zip(parts, columns, strict=True)
            ]
            np.concatenate(picked, axis=1, out=buffer[:n])
            stored = (buffer[:n].ravel(), indices[: n * len(used)], starts[: n + 1])
            rows = csr_matrix(stored, shape=(n, ends[-1]))
            outputs.append(self.booster_.predict(rows, num_threads=threads))
        return np.concatenate(outputs) if outputs else np.empty(0)

    def parameters_for(self, features: Features, n_rows: int, n_weighted: float) -> dict[str, Any]:
        """Return LightGBM's parameters.

        Parameters
        ----------
        features : Features
            Of rows, any of them: what counts is how many features there are.
        n_rows : int
            How many are learned from.
        n_weighted : float
            What they weigh together.
        """
        n_features = features.n_features + (self.n_copies_ - 1) * features.table.shape[1]
        n_classes = self.task_.n_classes or 0
        is_wide, has_many_classes = n_features > _N_SAMPLED_FEATURES, n_classes > _MANY_CLASSES
        n_sampled = _N_SAMPLED_FEATURES // 4 if has_many_classes else _N_SAMPLED_FEATURES
        objective = {0: "regression", 2: "binary"}.get(n_classes, "multiclass")
        defaults = {
            "learning_rate": 0.1 if has_many_classes else 0.05,
            "num_leaves": 7 if n_weighted < _FEW_ROWS else 15,
            "lambda_l2": 1.0 if has_many_classes else 10.0 * is_wide,
            "feature_fraction": min(1.0, n_sampled / max(1, n_features)),
        }
        chosen = {name: getattr(self, name) for name in defaults}
        leaf_sizes = self._leaf_sizes(n_weighted)
        return {
            **defaults,
            **{name: value for name, value in chosen.items() if value is not None},
            **leaf_sizes,
            "objective": objective,
            "num_class": n_classes if objective == "multiclass" else 1,
            "max_bin": 63 if is_wide else 255,
            # LightGBM keeps what it finds bins by in float64: of all rows, thrice the matrix.
            "bin_construct_sample_cnt": most_rows_to_bin_by(n_features),
            "seed": self.task_.random_state,
            "deterministic": True,
            "force_col_wise": True,
            "num_threads": _n_threads(n_rows * n_features * max(1, n_classes), self.task_),
            "verbose": -1,
        }

    def _leaf_sizes(self, n_rows: float) -> dict[str, float]:
        """Return the least size of a leaf: in rows, or of very few rows in weight.

        A weight then counts as that many equal rows do, as scikit-learn asks for.
        """
        if self.min_data_in_leaf is not None:
            return {"min_data_in_leaf": self.min_data_in_leaf}
        if n_rows < _MIN_ROWS_TO_STOP_EARLY:
            least = max(1.0, n_rows // 20)
            per_row = 0.2 if self.task_.is_classification else 1.0  # a hessian is p (1 - p)
            return {
                "min_data_in_leaf": 1,
                "min_data_in_bin": 1,
                "min_sum_hessian_in_leaf": per_row * least,
            }
        return {"min_data_in_leaf": 5 if n_rows < _FEW_ROWS else 20}


def _n_copies(features: Features) -> int:
    """Return how often the table's columns enter, so that samples of features hold them."""
    n_table = int(features.table.shape[1])
    if features.n_features <= _N_SAMPLED_FEATURES or n_table == 0:
        return 1
    return max(1, round(_N_SAMPLED_FEATURES / 2 / n_table))


def parts_of(features: Features, n_copies: int) -> dict[str, np.ndarray]:
    """Return what trees see, part by part, by name: the table so often, codes, blocks."""
    names = [f"table_{copy}" for copy in range(n_copies)]
    parts = dict.fromkeys(names, features.table) | {CODES: np.asarray(features.codes, np.float32)}
    parts |= {f"block_{number}": block for number, block in enumerate(features.blocks)}
    return {name: part for name, part in parts.items() if part.shape[1]}


def _dataset(
    features: Features,
    n_copies: int,
    y: np.ndarray,
    sample_weight: np.ndarray | None,
    parameters: dict[str, Any],
) -> lightgbm.Dataset:
    """Bin the features part by part: a matrix of all would be a copy."""
    data = None
    for name, part in parts_of(features, n_copies).items():
        binned = lightgbm.Dataset(
            part,
            label=y,
            weight=sample_weight,
            feature_name=[f"{name}_{column}" for column in range(part.shape[1])],
            categorical_feature=list(range(part.shape[1])) if name == CODES else "auto",
            params=parameters,
        ).construct()
        with warnings.catch_warnings():  # LightGBM warns that it can't put the raw parts together
            warnings.simplefilter("ignore")
            data = binned if data is None else data.add_features_from(binned)
    if data is None:
        raise DataError("There are no features to learn from.")
    return data


def _find_n_trees(
    parameters: dict[str, Any],
    data: lightgbm.Dataset,
    y: np.ndarray,
    task: Task,
    groups: np.ndarray | None,
) -> int:
    folds = folds_to_stop_by(y, task, groups)
    if not folds:
        return N_TREES_WITHOUT_STOPPING
    most = most_rounds(task, len(folds))
    found = lightgbm.cv(parameters, data, most, folds=folds, callbacks=[stopping()])
    return max(1, len(next(iter(found.values()))))


def most_rows_to_bin_by(n_features: int) -> int:
    """Return by how many rows the bins of so many features are found."""
    return _N_ROWS_TO_BIN_BY if n_features > _N_SAMPLED_FEATURES else 200_000


def stopping() -> Any:
    """Return what ends a training that gets no better."""
    return lightgbm.early_stopping(_PATIENCE, verbose=False)


def most_rounds(task: Task, n_folds: int = 1) -> int:
    """Return how many rounds may be tried, whose best is found by so many folds."""
    most = _MAX_ROUNDS if n_folds == 1 else _MAX_ROUNDS_OF_FEW_ROWS
    return min(most, max(N_TREES_WITHOUT_STOPPING, _MAX_TREES // (task.n_classes or 1)))


def folds_to_stop_by(
    y: np.ndarray, task: Task, groups: np.ndarray | None, *, is_one: bool = False
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the inner splits: five of few rows, one of many or many classes, none of too few.

    Parameters
    ----------
    y, task, groups
        As for `LightGBMHead.fit`.
    is_one : bool
        Whether there may be one only.
    """
    has_few_groups = groups is not None and len(np.unique(groups)) < _MIN_GROUPS
    if len(y) < _MIN_ROWS_TO_STOP_EARLY or has_few_groups:
        return []
    is_one = is_one or (task.n_classes or 0) > _MANY_CLASSES
    return inner_folds(
        y,
        is_classification=task.is_classification,
        groups=groups,
        many_rows=0 if is_one else _FEW_ROWS,
        random_state=task.random_state,
    )


def _n_threads(n_cells: int, task: Task) -> int:
    if n_cells < _MIN_CELLS_FOR_THREADS:
        return 1  # threads that wait for each other at every leaf would take longer
    return task.n_jobs if task.n_jobs and task.n_jobs > 0 else int(joblib.cpu_count())
