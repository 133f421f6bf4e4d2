"""The metrics of a task, by name, of one fold's predictions."""

from collections.abc import Sequence

import numpy as np

from twostage.errors import DataError, UsageError, did_you_mean
from twostage.metrics import score_classification, score_regression

CLASSIFICATION = ("auc", "log_loss", "accuracy", "balanced_accuracy")
REGRESSION = ("r2", "rmse", "mae", "mape")
OF_LOGS = "r2_log"
LOWER_IS_BETTER = frozenset({"log_loss", "rmse", "mae", "mape"})


def choose_metrics(
    asked: Sequence[str], is_classification: bool, y: np.ndarray, log_target: bool
) -> tuple[str, ...]:
    """Return the metrics asked for, or all that fit; the main one is the first.

    Raises
    ------
    UsageError
        If there is no such metric, or it is of the other task.
    DataError
        If the values don't let it be computed.
    """
    all_positive = bool((y > 0).all())
    fitting: tuple[str, ...] = CLASSIFICATION if is_classification else REGRESSION
    if log_target:
        fitting = (OF_LOGS, *fitting)
    if not asked:
        return tuple(name for name in fitting if name != "mape" or all_positive)
    known = (*CLASSIFICATION, *REGRESSION, OF_LOGS)
    for name in asked:
        if name not in known:
            raise UsageError(
                f"Unknown metric '{name}'.{did_you_mean(name, known)} Metrics of this target: "
                f"{', '.join(fitting)}."
            )
        if name not in fitting:
            holds = "classes" if is_classification else "numbers to regress on"
            why = " as they are, not their logarithm" if name == OF_LOGS else ""
            raise UsageError(
                f"Metric '{name}' doesn't fit the target, which holds {holds}{why}. Metrics of "
                f"this target: {', '.join(fitting)}."
            )
        if name == "mape" and not all_positive:
            raise DataError("Metric 'mape' needs positive values in the target; take 'mae'.")
    return tuple(dict.fromkeys(asked))


def score_fold(y: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """Score one fold's predictions, by all metrics of the task.

    Parameters
    ----------
    y : array of shape (n_test,)
        Class numbers, or values.
    predicted : array of shape (n_test, n_classes) or (n_test,)
        Probabilities, or values.

    Returns
    -------
    dict of str to float
        NaN where a metric is not defined: the AUC of a fold with one class, say.
    """
    together = np.zeros(len(y), np.int64)  # of one group no interval is drawn
    score = score_classification if predicted.ndim == 2 else score_regression
    values = {name: one.value for name, one in score(y, predicted, together).items()}
    if predicted.ndim == 1 and (y > 0).all() and (predicted > 0).all():
        values[OF_LOGS] = score_regression(np.log(y), np.log(predicted), together)["r2"].value
    return values
