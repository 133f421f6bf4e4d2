"""The weights of a blend, from predictions of rows that their members did not see."""

import logging
from collections.abc import Sequence

import numpy as np

from twostage.heads import name_of
from twostage.heads.blend import best_weights
from twostage.members import MemberPlan
from twostage.rows import TrainingRows
from twostage.splits import inner_folds

log = logging.getLogger("twostage")
_MANY_ROWS = 10_000
_MANY_CLASSES = 20


def blend_weights(plans: Sequence[MemberPlan], rows: TrainingRows) -> np.ndarray:
    """Return the weights with which the members' mean predicts unseen rows best.

    Parameters
    ----------
    plans : sequence of MemberPlan
        The members.
    rows : TrainingRows
        What they will be fitted on. Each is fitted on folds of these first, encoders and all, to
        predict the rest; of 10,000 rows or more, or of more than 20 classes, on one fold only.

    Returns
    -------
    float array of shape (n_members,)
        Not negative, adding up to 1. Equal where nothing can be held out.
    """
    equal = np.full(len(plans), 1 / len(plans))
    if len(plans) == 1:
        return equal
    folds = inner_folds(
        rows.y,
        is_classification=rows.is_classification,
        groups=rows.groups,
        many_rows=0 if (rows.n_classes or 0) > _MANY_CLASSES else _MANY_ROWS,
        random_state=plans[0].task.random_state,
    )
    if not folds:
        return equal
    test = np.concatenate([held_out for _, held_out in folds])
    predictions = np.stack([out_of_fold(plan, rows, folds) for plan in plans])
    weight = np.ones(len(rows)) if rows.sample_weight is None else rows.sample_weight
    if not weight[test].any():
        return equal
    return best_weights(predictions, rows.y[test], weight[test], rows.is_classification)


def out_of_fold(
    plan: MemberPlan, rows: TrainingRows, folds: Sequence[tuple[np.ndarray, np.ndarray]]
) -> np.ndarray:
    """Predict the test rows of each fold by a member fitted on its training rows.

    Returns
    -------
    array of shape (n_test,) or (n_test, n_classes)
        In the order of the folds.
    """
    log.info("Weighing %s by what it predicts out of fold ...", name_of(plan.head))
    found = []
    for train, test in folds:
        held_out = rows.take(test)
        found.append(plan.fit(rows.take(train)).predict(held_out.frame, held_out.blocks))
    return np.concatenate(found)
