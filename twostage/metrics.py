"""Metrics by name, and scores with intervals: arrays in, numbers out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from twostage.bootstrap import LEVEL, MIN_GROUPS, Score, Statistic, bootstrap
from twostage.errors import UsageError, did_you_mean
from twostage.weighted import (
    accuracy,
    balanced_accuracy,
    binary_auc,
    binary_average_precision,
    brier,
    by_class,
    f1,
    kappa,
    log_loss,
    mae,
    mape,
    r2,
    r2_of_logs,
    rmse,
    spearman,
)

__all__ = [
    "METRICS",
    "Metric",
    "Score",
    "doubt_of_perfection",
    "find_metrics",
    "main_score",
    "score",
    "score_classification",
    "score_regression",
]

CLASSIFICATION, REGRESSION = "classification", "regression"
OF_POSITIVE = ("mape", "r2_log")  # true values


@dataclass(frozen=True)
class Metric:
    """A measure of predictions against the truth.

    Attributes
    ----------
    name : str
        As users write it.
    label : str
        As sentences write it.
    task : {"classification", "regression"}
        Classification takes class numbers, 0 to n_classes - 1, and probabilities of shape (n_rows,
        n_classes); regression takes values and values of shape (n_rows,).
    higher_is_better : bool
        Whether more is better.
    prepare : function of (y, predicted)
        Does what needs to be done once, and returns the function of the weights.
    bounds : (float, float)
        What it can't pass.
    is_pooled : bool
        Whether the rows of all folds of a cross-validation are scored together; else the folds are
        scored one by one and their scores averaged.
    on_request : bool
        Whether it is left out unless named.
    """

    name: str
    label: str
    task: str
    higher_is_better: bool
    prepare: Callable[[np.ndarray, np.ndarray], Statistic]
    bounds: tuple[float, float]
    is_pooled: bool = True
    on_request: bool = False

    def __call__(self, y: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
        """Score predictions under several weightings of the rows.

        Parameters
        ----------
        y : array of shape (n_rows,)
            Class numbers, or values.
        predicted : array of shape (n_rows, n_classes) or (n_rows,)
            Probabilities, or values.
        weights : array of shape (n_resamples, n_rows)
            Weight of each row in each resample.

        Returns
        -------
        array of shape (n_resamples,)
            NaN where the metric is not defined.
        """
        return self.prepare(y, predicted)(weights)


def score(
    metrics: Sequence[Metric],
    y: np.ndarray,
    predicted: np.ndarray,
    groups: np.ndarray,
    random_state: int = 0,
) -> dict[str, Score]:
    """Score predictions of rows that none of them was learned from.

    Parameters
    ----------
    metrics : sequence of Metric
        From `find_metrics`.
    y : array of shape (n_rows,)
        Class numbers, or values.
    predicted : array of shape (n_rows, n_classes) or (n_rows,)
        Probabilities, or values.
    groups : int array of shape (n_rows,)
        What the bootstrap draws: rows of one group are not independent.
    random_state : int
        Of the bootstrap.

    Returns
    -------
    dict of str to Score
        By the metrics' names.
    """
    found = bootstrap(
        {each.name: each.prepare(y, predicted) for each in metrics}, groups, random_state
    )
    for metric in metrics:
        value = found[metric.name].value
        if value == metric.bounds[1]:
            low = value - doubt_of_perfection(metric, y, groups)
            found[metric.name] = Score(value, low, found[metric.name].high)
    return found


def doubt_of_perfection(metric: Metric, y: np.ndarray, groups: np.ndarray) -> float:
    """Return how far below a perfect score the truth may be, which no bootstrap sees.

    Parameters
    ----------
    metric : Metric
        Of classes. Values that are all predicted exactly leave no doubt: 0.
    y : int array of shape (n_rows,)
        Class numbers.
    groups : int array of shape (n_rows,)
        Rows of one group are not independent.

    Returns
    -------
    float
        Of the 95% interval; NaN under 20 groups.

    Notes
    -----
    Of n independent tries that all succeed, the true rate is at least ``0.025 ** (1 / n)`` (Clopper
    and Pearson). For accuracy a group is a try. For the AUC it is a pair of a row of the class and
    one that is not, each in one pair only: n is the number of groups with the rarer of the two, and
    the bound holds whatever the scores look like. The rarest class decides in means over classes,
    for one class is as low as their mean or lower; other metrics are close to one of these.

    References
    ----------
    Clopper and Pearson (1934), The Use of Confidence or Fiducial Limits Illustrated in the Case of
    the Binomial, Biometrika 26.
    Hanley and Lippman-Hand (1983), If Nothing Goes Wrong, Is Everything All Right?, JAMA 249.
    """
    n_groups = len(np.unique(groups))
    if n_groups < MIN_GROUPS:
        return float("nan")
    if metric.task == REGRESSION:
        return 0.0
    n_tries = n_groups
    if metric.name != "accuracy":
        by_class = [len(np.unique(groups[y == k])) for k in np.unique(y)]
        n_tries = min(*by_class, n_groups // 2) if len(by_class) > 1 else n_groups
    return float(1 - ((1 - LEVEL) / 2) ** (1 / max(n_tries, 1)))


def score_classification(
    y: np.ndarray, proba: np.ndarray, groups: np.ndarray, random_state: int = 0
) -> dict[str, Score]:
    """Score class probabilities.

    Parameters
    ----------
    y : int array of shape (n_rows,)
        Class numbers, 0 to n_classes - 1.
    proba : array of shape (n_rows, n_classes)
        Predicted probabilities.
    groups, random_state
        As for `score`.

    Returns
    -------
    dict of str to Score
        ``auc`` (of more than two classes the mean of each against the rest), ``log_loss``,
        ``accuracy``, ``balanced_accuracy``. Where a resample lacks a class, the means over
        classes leave that class out.
    """
    names = ("auc", "log_loss", "accuracy", "balanced_accuracy")
    return score([METRICS[name] for name in names], y, proba, groups, random_state)


def score_regression(
    y: np.ndarray, predicted: np.ndarray, groups: np.ndarray, random_state: int = 0
) -> dict[str, Score]:
    """Score predicted values.

    Parameters
    ----------
    y, predicted : arrays of shape (n_rows,)
        True and predicted values.
    groups, random_state
        As for `score`.

    Returns
    -------
    dict of str to Score
        ``r2``, ``rmse``, ``mae`` and, if all true values are positive, ``mape``.
    """
    names = ["r2", "rmse", "mae"] + ["mape"] * bool((y > 0).all())
    return score([METRICS[name] for name in names], y, predicted, groups, random_state)


def main_score(y: np.ndarray, predicted: np.ndarray) -> float:
    """Return the AUC of class probabilities, or the R2 of values; NaN where it is not defined.

    Parameters
    ----------
    y : array of shape (n_rows,)
        Class numbers, or values.
    predicted : array of shape (n_rows, n_classes) or (n_rows,)
        Probabilities, or values.
    """
    metric = METRICS["auc" if predicted.ndim == 2 else "r2"]
    return float(metric(y, predicted, np.ones((1, len(y))))[0])


def find_metrics(task: str, y: np.ndarray, names: Sequence[str] | None = None) -> list[Metric]:
    """Find the metrics that were asked for, or all that fit.

    Parameters
    ----------
    task : {"classification", "regression"}
        What is predicted.
    y : array of shape (n_rows,)
        True class numbers or values: percentages and logarithms of values need positive ones.
    names : sequence of str, optional
        Which; by default all that fit, but quadratic kappa, which is for ordered classes, and R2
        of the logarithm.

    Returns
    -------
    list of Metric

    Raises
    ------
    UsageError
        If a name is unknown, or the metric doesn't fit the task or the values.
    """
    fitting = {name: each for name, each in METRICS.items() if each.task == task}
    if names is None:
        is_usual = {
            n: not m.on_request and (n != "mape" or _is_positive(y)) for n, m in fitting.items()
        }
        return [metric for name, metric in fitting.items() if is_usual[name]]
    for name in names:
        _refuse_misfit(name, task, fitting)
        if name in OF_POSITIVE and not _is_positive(y):
            row = int(np.flatnonzero(~(y > 0))[0])
            raise UsageError(
                f"The metric '{name}' needs positive true values, but {np.sum(~(y > 0))} of "
                f"{len(y)} are not; first: row {row}, {y[row]:g}. Ask for 'mae' instead."
            )
    return [fitting[name] for name in names]


def _refuse_misfit(name: str, task: str, fitting: dict[str, Metric]) -> None:
    if name in fitting:
        return
    those = f"Those that fit {task}: {', '.join(fitting)}."
    if name in METRICS:
        raise UsageError(f"The metric '{name}' is for {METRICS[name].task}, not {task}. {those}")
    raise UsageError(f"Unknown metric '{name}'.{did_you_mean(name, fitting)} {those}")


def _is_positive(y: np.ndarray) -> bool:
    return bool((y > 0).all())


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("auc", "AUC", CLASSIFICATION, True, by_class(binary_auc), (0.0, 1.0), False),
        Metric(
            "average_precision",
            "average precision",
            CLASSIFICATION,
            True,
            by_class(binary_average_precision),
            (0.0, 1.0),
            is_pooled=False,
        ),
        Metric("log_loss", "log loss", CLASSIFICATION, False, log_loss, (0.0, np.inf)),
        Metric("brier", "Brier score", CLASSIFICATION, False, brier, (0.0, 2.0)),
        Metric("accuracy", "accuracy", CLASSIFICATION, True, accuracy, (0.0, 1.0)),
        Metric(
            "balanced_accuracy",
            "balanced accuracy",
            CLASSIFICATION,
            True,
            balanced_accuracy,
            (0.0, 1.0),
            is_pooled=False,
        ),
        Metric("f1", "F1", CLASSIFICATION, True, f1, (0.0, 1.0)),
        Metric(
            "kappa",
            "quadratic kappa",
            CLASSIFICATION,
            True,
            kappa,
            (-1.0, 1.0),
            is_pooled=False,
            on_request=True,
        ),
        Metric("r2", "R2", REGRESSION, True, r2, (-np.inf, 1.0)),
        Metric(
            "r2_log",
            "R2 of the logarithm",
            REGRESSION,
            True,
            r2_of_logs,
            (-np.inf, 1.0),
            on_request=True,
        ),
        Metric("rmse", "RMSE", REGRESSION, False, rmse, (0.0, np.inf)),
        Metric("mae", "MAE", REGRESSION, False, mae, (0.0, np.inf)),
        Metric("mape", "MAPE", REGRESSION, False, mape, (0.0, np.inf)),
        Metric("spearman", "Spearman", REGRESSION, True, spearman, (-1.0, 1.0), is_pooled=False),
    )
}
