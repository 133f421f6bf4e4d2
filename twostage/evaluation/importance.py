"""What a model makes of the images as a block, and of each column: their rows permuted."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from twostage.evaluation.arms import BOTH, TABLE, Arm
from twostage.evaluation.scoring import all_metrics, score_fold
from twostage.metrics import METRICS
from twostage.rows import TrainingRows, take_blocks
from twostage.staged import JOINT, AnyModel

BLOCK, COLUMN = "block", "column"
IMAGE_BLOCK = "images"
N_PERMUTATIONS = 5
_ROWS_PER_TRAINING_ROW = 12  # predicted in a cell at most: a fraction of what a fit costs
_FEWEST_ROWS = 30_000
_VALUES_AT_ONCE = 8_000_000

Source = tuple[str, str]  # kind and name


@dataclass(frozen=True)
class Drop:
    """By how much the scores of a fold drop if rows get another row's block or value.

    Attributes
    ----------
    kind : {"block", "column"}
        The images of all image columns together, or a column of the table.
    name : str
        ``images``, or the column's name.
    by_metric : dict of str to float
        The mean over permutations; positive where the model scores worse without, whether the
        metric is an error or not. NaN where it is not defined.
    """

    kind: str
    name: str
    by_metric: dict[str, float]


@dataclass(frozen=True)
class CellImportance:
    """What was found in a cell.

    Attributes
    ----------
    n_asked, n_permutations : int
        Permutations that were asked for, and those made.
    share_left_out : float
        Of the test rows.
    seconds : float
        What it took.
    drops : list of Drop
        The block first, then columns in the table's order.
    """

    n_asked: int
    n_permutations: int
    share_left_out: float
    seconds: float
    drops: list[Drop]

    def record(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        return asdict(self)


def is_told_of(arm: Arm) -> bool:
    """Tell whether importance is computed.

    Of images alone it would be their score again, and of several backbones it is not known.
    """
    has_several = arm.staging is not None and arm.staging.mode != JOINT
    return arm.features in (BOTH, TABLE) and not has_several


def permutation_importance(
    model: AnyModel,
    test: TrainingRows,
    y: np.ndarray,
    n_permutations: int,
    n_train: int,
    seed: Sequence[int],
) -> CellImportance:
    """Permute images and columns among rows that a model has not seen, one after the other.

    Parameters
    ----------
    model : FittedModel or StagedModel
        Fitted on other rows; of one backbone at most.
    test : TrainingRows
        With groups, and embeddings by the model's backbone.
    y : array of shape (n_test,)
        Class numbers, or values in the target's unit.
    n_permutations : int
        Of which the mean is taken. Fewer are made, and then of fewer rows, where they would cost
        more than a fraction of the fit: by counts of rows, not by the clock, which would make
        results differ from run to run.
    n_train : int
        Rows that the model was fitted on.
    seed : sequence of int
        Equal ones give equal permutations: each block and column, and each arm, gets the same.

    References
    ----------
    Breiman (2001), Random Forests. Fisher, Rudin and Dominici (2019), All Models are Wrong, but
    Many are Useful: a row never keeps its own value, which makes the estimate unbiased.
    """
    started = time.perf_counter()
    rng = np.random.default_rng(list(seed))
    sources = sources_of(model)
    test = _what_is_looked_at(model, replace(test, y=y))
    n_test = len(test)
    n_made, n_rows = affordable(len(sources), n_test, n_train, n_permutations)
    if n_rows < n_test:
        test = test.take(np.sort(rng.choice(n_test, n_rows, replace=False)))
    groups = np.arange(n_rows) if test.groups is None else test.groups
    orders = np.stack([order_between_groups(groups, rng) for _ in range(n_made)])
    predict = _predictor(model)
    # Intact rows are predicted anew, in batches of the same shape: another shape is added up in
    # another order, and what a model does not use at all would seem to matter in the last digits.
    intact = _scores(predict, test, None, orders)
    drops = [
        Drop(kind, name, _mean_drop(intact, _scores(predict, test, (kind, name), orders)))
        for kind, name in sources
    ]
    seconds = time.perf_counter() - started
    return CellImportance(n_permutations, n_made, 1 - n_rows / n_test, seconds, drops)


def sources_of(model: AnyModel) -> list[Source]:
    """Return what a model looks at: the images as one block, and each column of the table."""
    block = [(BLOCK, IMAGE_BLOCK)] if model.dims else []
    return block + [(COLUMN, name) for name in model.table_columns]


def _predictor(model: AnyModel) -> Callable[..., np.ndarray]:
    predict = model.predict_proba if model.is_classification else model.predict
    return lambda frame, blocks: predict(frame, model.looking_at(blocks))


def _what_is_looked_at(model: AnyModel, test: TrainingRows) -> TrainingRows:
    blocks = {name: test.blocks[name] for name in model.dims}
    return replace(test, frame=test.frame[model.table_columns], blocks=blocks)


def affordable(n_sources: int, n_test: int, n_train: int, n_permutations: int) -> tuple[int, int]:
    """Return how many permutations of how many rows do not cost more than a fraction of a fit."""
    budget = max(_FEWEST_ROWS, _ROWS_PER_TRAINING_ROW * n_train)
    n_rows = min(n_test, max(budget // (n_sources + 1), min(n_test, 2)))
    return max(1, min(n_permutations, budget // ((n_sources + 1) * n_rows))), n_rows


def order_between_groups(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return from which row each row gets its values: always one of another group, if possible.

    Groups are laid in a ring, in random order, rows within them too, and all values are moved on by
    a random number of places that is not less than the largest group: so each row's values are used
    once, and none stays in its group. Where a group has more than half of the rows, as few as
    possible stay.

    Parameters
    ----------
    groups : int array of shape (n_rows,)
        Rows of one group are alike, and a swap between them would show nothing.
    """
    _, numbers, counts = np.unique(groups, return_inverse=True, return_counts=True)
    n, largest = len(groups), int(counts.max())
    place = rng.permutation(len(counts))[numbers]
    ring = np.lexsort((rng.permutation(n), place))
    shift = int(rng.integers(largest, n - largest + 1)) if 2 * largest <= n else n // 2
    order = np.empty(n, np.int64)
    order[ring] = np.roll(ring, shift)
    return order


def _scores(
    predict: Callable[..., np.ndarray],
    test: TrainingRows,
    source: Source | None,
    orders: np.ndarray,
) -> list[dict[str, float]]:
    """Return the scores of each permutation; of the rows as they are if no source is given."""
    found = []
    for some in _batches(orders, test):
        predicted = predict(*_permuted(test, source, some))
        found += [_score(test.y, part) for part in np.split(predicted, len(some))]
    return found


def _batches(orders: np.ndarray, test: TrainingRows) -> Iterator[np.ndarray]:
    """Put permutations into one prediction, as far as memory goes: each call has its own cost."""
    widths = [block.matrix.shape[1] for block in test.blocks.values()]
    n_values = len(test) * (len(test.frame.columns) + sum(widths))
    n_at_once = max(1, _VALUES_AT_ONCE // n_values)
    for start in range(0, len(orders), n_at_once):
        yield orders[start : start + n_at_once]


def _permuted(test: TrainingRows, source: Source | None, orders: np.ndarray) -> tuple[Any, Any]:
    """Return the rows once for each permutation, with images or a column of other rows."""
    as_they_are = np.tile(np.arange(len(test)), len(orders))
    moved = orders.ravel()
    kind, name = source or ("", "")
    frame = test.frame if len(orders) == 1 else test.frame.iloc[as_they_are]
    if kind == COLUMN:
        frame = frame.copy(deep=False)
        frame[name] = test.frame[name].iloc[moved].array
    if kind == BLOCK:
        return frame, take_blocks(test.blocks, moved)
    if len(orders) == 1:  # nothing to copy
        return frame, test.blocks
    return frame, take_blocks(test.blocks, as_they_are)


def _score(y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    if not np.isfinite(predicted).all():
        return {}
    return score_fold(all_metrics(predicted.ndim == 2, y), y, predicted)


def _mean_drop(
    intact: Sequence[dict[str, float]], permuted: Sequence[dict[str, float]]
) -> dict[str, float]:
    found = {}
    for metric in intact[0]:
        sign = 1 if METRICS[metric].higher_is_better else -1
        pairs = zip(intact, permuted, strict=True)
        drops = [a.get(metric, np.nan) - b.get(metric, np.nan) for a, b in pairs]
        found[metric] = sign * float(np.mean(drops))
    return found
