"""Find better settings of a head by trying some, in the training rows alone."""

import logging
from dataclasses import replace
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import HalvingGridSearchCV, ParameterSampler

from twostage.errors import UsageError
from twostage.heads import Head, name_of
from twostage.members import Member, MemberPlan
from twostage.rows import TrainingRows
from twostage.splits import inner_folds

log = logging.getLogger("twostage")
_N_FOLDS = 3
_MIN_ROWS = 500  # a round on fewer tells nothing
_FACTOR = 3
_SMALLEST_PROBABILITY = 1e-7


def tuned(plan: MemberPlan, rows: TrainingRows, n_settings: int) -> MemberPlan:
    """Return the plan with the best of some settings of its head.

    The defaults are one of them, the others are drawn from the head's ``search_space``. Of many
    rows, settings that do badly on a part of them are not tried on more (successive halving).

    Parameters
    ----------
    plan : MemberPlan
        With the settings that stand if nothing is better.
    rows : TrainingRows
        What settings are compared on, by grouped cross-validation, encoders and all.
    n_settings : int
        How many to try.

    Raises
    ------
    UsageError
        If the head has no settings to search over.

    References
    ----------
    Jamieson and Talwalkar (2016), as in ``sklearn.model_selection.HalvingGridSearchCV``.
    """
    check_tunable(plan.head)
    space = plan.head.search_space
    seed = plan.task.random_state
    drawn = list(ParameterSampler(space, n_settings, random_state=seed))
    drawn[0] = {name: getattr(plan.head, name) for name in space}
    folds = inner_folds(
        rows.y,
        is_classification=rows.is_classification,
        groups=rows.groups,
        n_folds=_N_FOLDS,
        random_state=seed,
    )
    if not folds:
        return plan
    candidates = [{f"head__{name}": [value] for name, value in one.items()} for one in drawn]
    search = HalvingGridSearchCV(
        _OnRows(plan.head, _Shared(plan, rows)),
        candidates,
        factor=_FACTOR,
        min_resources=min(_MIN_ROWS, len(rows)),
        cv=folds,
        scoring=_negative_loss,
        random_state=seed,
        refit=False,
        error_score="raise",
    )
    log.info("Trying %d settings of %s ...", len(drawn), name_of(plan.head))
    search.fit(np.arange(len(rows))[:, None], rows.y)
    best = {name.removeprefix("head__"): value for name, value in search.best_params_.items()}
    return replace(plan, head=clone(plan.head).set_params(**best))


def check_tunable(head: Head) -> None:
    """Raise UsageError if a head has no settings to search over."""
    if not head.search_space:
        raise UsageError(
            f"The head {name_of(head)} has no settings that can be tuned. Leave tuning out, or "
            "search over it with scikit-learn."
        )


class _Shared:
    """What all candidates learn from: scikit-learn clones parameters, and must not copy this."""

    def __init__(self, plan: MemberPlan, rows: TrainingRows):
        self.plan = plan
        self.rows = rows

    def __sklearn_clone__(self) -> Self:
        return self


class _OnRows(BaseEstimator):
    """A member as scikit-learn's search sees it: its ``X`` is row numbers."""

    member_: Member

    def __init__(self, head: Head, shared: _Shared):
        self.head = head
        self.shared = shared

    def fit(self, X: np.ndarray, y: Any) -> Self:
        rows = self.shared.rows.take(np.sort(X[:, 0]))
        self.member_ = replace(self.shared.plan, head=self.head).fit(rows)
        return self


def _negative_loss(estimator: _OnRows, X: np.ndarray, y: np.ndarray) -> float:
    """Return minus the log loss, or minus the squared error, on some rows."""
    rows = estimator.shared.rows.take(X[:, 0])
    predicted = estimator.member_.predict(rows.frame, rows.blocks)
    if rows.is_classification:
        of_truth = np.clip(predicted[np.arange(len(y)), y], _SMALLEST_PROBABILITY, None)
        losses = -np.log(of_truth)
    else:
        losses = (predicted - y) ** 2
    return -float(np.average(losses, weights=rows.sample_weight))
