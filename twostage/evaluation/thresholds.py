"""Where to cut a probability in two: what each threshold flags, finds and gets wrong."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from twostage.errors import DataError

TARGETS = (0.8, 0.9, 0.95)
COLUMNS = (
    "why",
    "threshold",
    "share_flagged",
    "sensitivity",
    "specificity",
    "precision",
    "npv",
    "f1",
    "accuracy",
)


def threshold_table(
    is_positive: np.ndarray,
    probability: np.ndarray,
    thresholds: Sequence[float] = (0.5,),
    targets: Sequence[float] = TARGETS,
) -> pd.DataFrame:
    """Tabulate what thresholds do on rows that the model has not learned from.

    Parameters
    ----------
    is_positive : bool array of shape (n_rows,)
        Which rows are of the class to be found.
    probability : array of shape (n_rows,)
        Predicted probability of that class. A row is flagged from the threshold on.
    thresholds : sequence of float
        Which to show in any case.
    targets : sequence of float
        For each, the highest threshold with at least this sensitivity, and the lowest one with at
        least this specificity.

    Returns
    -------
    DataFrame
        From the lowest threshold to the highest: ``why`` (``given``, ``best Youden``, ``best F1``,
        ``sensitivity 0.8``, ...), ``threshold`` (infinite where none may be flagged),
        ``share_flagged``, ``sensitivity``, ``specificity``, ``precision``, ``npv`` (the share of
        negatives in what is not flagged), ``f1``, ``accuracy``. NaN where there is nothing to take
        a share of.

    Raises
    ------
    DataError
        If a class is absent, or a probability NaN.

    Notes
    -----
    A threshold chosen by these rows does a little better on them than it will on new ones.

    References
    ----------
    Youden (1950), Index for rating diagnostic tests: sensitivity + specificity - 1.
    """
    is_positive = np.asarray(is_positive, dtype=bool)
    _refuse_useless(is_positive, probability)
    candidates = _outcomes(is_positive, probability, np.append(np.unique(probability), np.inf))
    chosen = [("given", threshold) for threshold in thresholds]
    youden = candidates["sensitivity"] + candidates["specificity"]
    for name, values in (("best Youden", youden), ("best F1", candidates["f1"])):
        chosen.append((name, candidates["threshold"][int(np.argmax(values))]))
    for target in targets:
        enough = candidates[candidates["sensitivity"] >= target - 1e-12]
        chosen.append((f"sensitivity {target:g}", enough["threshold"].max()))
        enough = candidates[candidates["specificity"] >= target - 1e-12]
        chosen.append((f"specificity {target:g}", enough["threshold"].min()))
    found = _outcomes(is_positive, probability, np.array([value for _, value in chosen]))
    found.insert(0, "why", [why for why, _ in chosen])
    return found[list(COLUMNS)].sort_values("threshold", kind="stable", ignore_index=True)


def _outcomes(
    is_positive: np.ndarray, probability: np.ndarray, thresholds: np.ndarray
) -> pd.DataFrame:
    """Count what each threshold does, in one pass over the sorted probabilities."""
    n_positive, n_negative = is_positive.sum(), (~is_positive).sum()
    n_true = n_positive - np.searchsorted(np.sort(probability[is_positive]), thresholds)
    n_false = n_negative - np.searchsorted(np.sort(probability[~is_positive]), thresholds)
    n_rows, n_flagged = len(probability), n_true + n_false
    with np.errstate(invalid="ignore"):
        return pd.DataFrame(
            {
                "threshold": thresholds,
                "share_flagged": n_flagged / n_rows,
                "sensitivity": n_true / n_positive,
                "specificity": 1 - n_false / n_negative,
                "precision": n_true / n_flagged,
                "npv": (n_negative - n_false) / (n_rows - n_flagged),
                "f1": 2 * n_true / (n_positive + n_flagged),
                "accuracy": (n_true + n_negative - n_false) / n_rows,
            }
        )


def _refuse_useless(is_positive: np.ndarray, probability: np.ndarray) -> None:
    n_positive = int(is_positive.sum())
    if n_positive in (0, len(is_positive)):
        raise DataError(
            f"Thresholds need rows of both classes, but {n_positive} of {len(is_positive)} are "
            "positive. Add rows of the other class."
        )
    is_nan = np.isnan(probability)
    if is_nan.any():
        raise DataError(
            f"The probabilities of {is_nan.sum()} of {len(is_nan)} rows are NaN; first: row "
            f"{int(np.argmax(is_nan))}. Leave those rows out, or find out why."
        )
