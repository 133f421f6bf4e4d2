"""Scores of cross-validation, and differences between them, with intervals that hold.

The folds of a cross-validation are not independent: each row tests one model and trains the
others. A bootstrap of the out-of-fold rows takes the models as given, and its intervals are too
narrow; `cross_validated_score` says what is done about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from twostage.bootstrap import Score, Statistic, bootstrap_counts
from twostage.errors import DataError, UsageError
from twostage.metrics import Metric, doubt_of_perfection


@dataclass(frozen=True, eq=False)
class FoldPrediction:
    """What a model predicted for the rows of a fold, of which it had seen none.

    Attributes
    ----------
    repeat, fold : int
        Which fold of which repeat.
    y : array of shape (n_rows,)
        Class numbers, or values.
    predicted : array of shape (n_rows, n_classes) or (n_rows,)
        Probabilities, or values.
    groups : int array of shape (n_rows,)
        Rows of one group are not independent. A group has the same number in all repeats; where
        rows are independent, each row's own number will do.
    n_train : int
        How many rows the model was trained on.
    """

    repeat: int
    fold: int
    y: np.ndarray
    predicted: np.ndarray
    groups: np.ndarray
    n_train: int

    def __str__(self) -> str:
        return f"fold {self.fold} of repeat {self.repeat}"


def cross_validated_score(
    metric: Metric, folds: Sequence[FoldPrediction], random_state: int = 0
) -> Score:
    """Score a cross-validation, with an interval corrected for the dependence of its folds.

    Parameters
    ----------
    metric : Metric
        One of `metrics.METRICS`.
    folds : sequence of FoldPrediction
        Of one arm: every fold of every repeat.
    random_state : int
        Of the bootstrap.

    Returns
    -------
    Score
        The value is the mean over repeats. Within a repeat, metrics that compare rows with each
        other or with the rate of a class (AUC, average precision, balanced accuracy, kappa,
        Spearman) are averaged over folds, weighted by rows, because the models of different folds
        need not agree on scale and threshold: pooled, they score below chance where there is
        nothing to learn. The others are taken of all rows together: F1 and R2 of small folds are
        biased, and of means of rows both are the same. NaN ends under 20 groups.

    Raises
    ------
    DataError
        If a prediction is NaN.

    Notes
    -----
    The interval is a percentile bootstrap over groups whose ends are moved away from the value by
    the factor ``sqrt(1 + n_rows / n_train)``, 1.5 for 5 folds. With repeats it is as wide as those
    of the single repeats are on average: repeats steady the value, but bring no new rows.

    The factor is the one that Nadeau and Bengio's correction puts on the variance which independent
    folds would have: ``(1/K + n_test/n_train) / (1/K)``. Why a bootstrap in place of their variance
    between folds: it knows groups, does not rest on the 4 degrees of freedom of 5 folds, and more
    repeats do not make it too short.

    Why not less: where there is nothing to learn, a model's expected score does not depend on its
    training rows, and a score varies by the interplay of test and training rows. Each pair of rows
    meets twice, in both roles, and where the learner is linear it adds the same both times, so that
    the variance is twice that of independent folds. Intervals which assume that the learner is
    stable (LeDell et al. 2015, Bayle et al. 2020) leave this case out, and are too short in it.
    Nested cross-validation (Bates et al. 2024) needs hundreds of further fits.
    ``benchmarks/coverage.py`` measures all but the last.

    A perfect score is perfect in every resample. Its interval goes down to what
    `metrics.doubt_of_perfection` leaves, stretched by the same factor.

    References
    ----------
    Nadeau and Bengio (2003), Inference for the Generalization Error, Machine Learning 52.
    Bouckaert and Frank (2004), Evaluating the Replicability of Significance Tests for Comparing
    Learning Algorithms: the same for repeats.
    Forman and Scholz (2010), Apples-to-Apples in Cross-Validation Studies, SIGKDD Explorations
    12(1): AUC by fold, F1 of pooled counts.
    LeDell, Petersen and van der Laan (2015), Computationally efficient confidence intervals for
    cross-validated area under the ROC curve estimates, Electronic Journal of Statistics 9.
    Bayle, Bayle, Janson and Mackey (2020), Cross-validation Confidence Intervals for Test Error.
    Bates, Hastie and Tibshirani (2024), Cross-Validation: What Does It Estimate and How Well Does
    It Do It?, Journal of the American Statistical Association 119.
    """
    groups = _all_groups(folds)
    _refuse_nan(folds)
    score = _bootstrap(_by_repeat(metric, folds, groups), folds, groups, random_state)
    low, high = np.clip([score.low, score.high], *metric.bounds)
    if score.value == metric.bounds[1]:
        low = max(score.value - _doubt(metric, folds), metric.bounds[0])
    return Score(score.value, float(low), float(high))


def cross_validated_difference(
    metric: Metric,
    folds_a: Sequence[FoldPrediction],
    folds_b: Sequence[FoldPrediction],
    random_state: int = 0,
) -> Score:
    """Say how much higher arm a scores than arm b on the same folds.

    Parameters
    ----------
    metric : Metric
        One of `metrics.METRICS`.
    folds_a, folds_b : sequences of FoldPrediction
        Paired: the same repeats, folds, rows and groups, in the same order.
    random_state : int
        Of the bootstrap, which draws the same groups for both.

    Returns
    -------
    Score
        a minus b; the interval as in `cross_validated_score`.

    Raises
    ------
    UsageError
        If the arms are not paired.
    DataError
        If a prediction is NaN.
    """
    _refuse_unpaired(folds_a, folds_b)
    groups = _all_groups(folds_a)
    _refuse_nan(folds_a)
    _refuse_nan(folds_b)
    of_a, of_b = (_by_repeat(metric, folds, groups) for folds in (folds_a, folds_b))
    pairs = [_minus(of_a[repeat], of_b[repeat]) for repeat in range(len(of_a))]
    score = _bootstrap(pairs, folds_a, groups, random_state)
    once = np.ones((1, len(groups)), np.int64)
    both_are_perfect = all(of(once)[0] == metric.bounds[1] for of in (*of_a, *of_b))
    if not both_are_perfect or _are_equal(folds_a, folds_b):
        return score
    doubt = _doubt(metric, folds_a)
    return Score(0.0, -doubt, doubt)


def _bootstrap(
    by_repeat: Sequence[Statistic],
    folds: Sequence[FoldPrediction],
    groups: np.ndarray,
    random_state: int,
) -> Score:
    """Average the repeats' values and the distances of their ends, which are stretched."""
    statistics = {str(repeat): of for repeat, of in enumerate(by_repeat)}
    scores = bootstrap_counts(statistics, len(groups), _n_distinct_rows(folds), random_state)
    found = np.array([(one.value, one.low, one.high) for one in scores.values()])
    found = found[np.isfinite(found[:, 0])]
    if len(found) == 0:
        return Score(float("nan"), float("nan"), float("nan"))
    value, low, high = found.mean(axis=0)
    stretch = _stretch(folds)
    return Score(
        float(value),
        float(value + stretch * (low - value)),
        float(value + stretch * (high - value)),
    )


def _doubt(metric: Metric, folds: Sequence[FoldPrediction]) -> float:
    """Return how far below a perfect score the truth may be."""
    first = [fold for fold in folds if fold.repeat == folds[0].repeat]
    y, groups = (
        np.concatenate([getattr(fold, name) for fold in first]) for name in ("y", "groups")
    )
    return _stretch(folds) * doubt_of_perfection(metric, y, groups)


def _are_equal(a: Sequence[FoldPrediction], b: Sequence[FoldPrediction]) -> bool:
    return all(np.array_equal(x.predicted, y.predicted) for x, y in zip(a, b, strict=True))


def _stretch(folds: Sequence[FoldPrediction]) -> float:
    """Return how much wider the interval is than a bootstrap's that takes the models as given."""
    n_train = float(np.mean([fold.n_train for fold in folds]))
    return float(np.sqrt(1 + _n_distinct_rows(folds) / n_train))


def _n_distinct_rows(folds: Sequence[FoldPrediction]) -> int:
    """Count the rows tested in any repeat: of each group, the most that any repeat tested."""
    most: dict[int, int] = {}
    for repeat in {fold.repeat for fold in folds}:
        tested = np.concatenate([fold.groups for fold in folds if fold.repeat == repeat])
        for group, n in zip(*np.unique(tested, return_counts=True), strict=True):
            most[group] = max(most.get(group, 0), int(n))
    return sum(most.values())


def _all_groups(folds: Sequence[FoldPrediction]) -> np.ndarray:
    if not folds or not all(len(fold.y) for fold in folds):
        raise DataError("There are no rows to score in some fold. Cut fewer folds, or add rows.")
    return np.unique(np.concatenate([fold.groups for fold in folds]))


def _minus(a: Statistic, b: Statistic) -> Statistic:
    return lambda counts: a(counts) - b(counts)


def _by_repeat(
    metric: Metric, folds: Sequence[FoldPrediction], groups: np.ndarray
) -> list[Statistic]:
    """Return each repeat's score as a function of counts of groups."""
    repeats = sorted({fold.repeat for fold in folds})
    by_repeat = []
    for repeat in repeats:
        parts = [fold for fold in folds if fold.repeat == repeat]
        cells = [_pooled(parts)] if metric.is_pooled else parts
        by_repeat.append(_mean_over_folds([_of_fold(metric, cell, groups) for cell in cells]))
    return by_repeat


def _pooled(folds: Sequence[FoldPrediction]) -> FoldPrediction:
    y, predicted, groups = (
        np.concatenate([getattr(fold, name) for fold in folds])
        for name in ("y", "predicted", "groups")
    )
    return FoldPrediction(folds[0].repeat, -1, y, predicted, groups, folds[0].n_train)


def _of_fold(metric: Metric, fold: FoldPrediction, groups: np.ndarray) -> Statistic:
    """Return a fold's scores and how many rows of it were drawn, of shape (2, n_resamples)."""
    number = np.searchsorted(groups, fold.groups)
    statistic = metric.prepare(fold.y, fold.predicted)

    def scores(counts: np.ndarray) -> np.ndarray:
        weights = np.take(counts, number, axis=1)
        n_drawn = weights.sum(axis=1)
        found = np.full(len(counts), np.nan)
        is_drawn = n_drawn > 0
        found[is_drawn] = statistic(weights if is_drawn.all() else weights[is_drawn])
        return np.stack([found, n_drawn])

    return scores


def _mean_over_folds(folds: Sequence[Statistic]) -> Statistic:
    """Average over the folds in which a resample defines the metric, weighted by rows."""

    def average(counts: np.ndarray) -> np.ndarray:
        scores, n_drawn = np.stack([fold(counts) for fold in folds], axis=1)
        n_drawn = np.where(np.isfinite(scores), n_drawn, 0)
        with np.errstate(invalid="ignore"):
            return np.asarray((np.nan_to_num(scores) * n_drawn).sum(axis=0) / n_drawn.sum(axis=0))

    return average


def _refuse_nan(folds: Sequence[FoldPrediction]) -> None:
    for fold in folds:
        is_nan = np.isnan(fold.predicted).reshape(len(fold.y), -1).any(axis=1)
        if is_nan.any():
            raise DataError(
                f"{is_nan.sum()} of {len(fold.y)} predictions of {fold} are NaN; first: its row "
                f"{int(np.argmax(is_nan))}. Find out why the model predicts none there."
            )


def _refuse_unpaired(a: Sequence[FoldPrediction], b: Sequence[FoldPrediction]) -> None:
    if len(a) != len(b):
        raise UsageError(
            f"A difference needs two arms on the same folds, but one has {len(a)} and the other "
            f"{len(b)}. Run both on the same folds."
        )
    for one, other in zip(a, b, strict=True):
        is_same = (one.repeat, one.fold) == (other.repeat, other.fold) and all(
            np.array_equal(getattr(one, name), getattr(other, name)) for name in ("y", "groups")
        )
        if not is_same:
            raise UsageError(
                f"A difference needs two arms on the same rows, but {one} and {other} differ in "
                "their true values or groups. Run both on the same folds, in the same order."
            )
