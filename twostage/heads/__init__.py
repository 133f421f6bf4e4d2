"""The stage-two learners. A head has scikit-learn's ``fit``, ``predict`` and ``predict_proba``.

A new head is one file and one row here: a class with ``fit(X, y, groups)``, ``predict_proba`` or
``predict``, ``save(folder)`` and ``load(folder, is_classification)``, and ``FILE``, the name of
what it saves.
"""

from typing import Any

from twostage.errors import UsageError, did_you_mean

HEADS = ("lightgbm",)


def make_head(
    name: str,
    *,
    is_classification: bool,
    n_table_features: int,
    random_state: int,
    n_jobs: int | None = None,
) -> Any:
    """Make an unfitted head.

    Parameters
    ----------
    name : str
        One of `HEADS`.
    is_classification : bool
        Whether ``y`` will be class numbers.
    n_table_features : int
        How many of the leading features come from the table; the others are embeddings.
    random_state : int
        Of everything random in it.
    n_jobs : int, optional
        Threads; as many as there are cores if None.
    """
    if name not in HEADS:
        raise UsageError(
            f"Unknown head '{name}'.{did_you_mean(name, HEADS)} Heads: {', '.join(HEADS)}."
        )
    return head_class(name)(
        is_classification,
        n_table_features=n_table_features,
        random_state=random_state,
        n_jobs=n_jobs,
    )


def head_class(name: str) -> Any:
    """Return the class of a head, imported when it is asked for."""
    from twostage.heads.lightgbm import LightGBMHead

    return {"lightgbm": LightGBMHead}[name]
