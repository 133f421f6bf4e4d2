"""Cut rows into training and held-out parts that share no group."""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold

from twostage.errors import DataError

MIN_ROWS = 10
_N_BINS = 10


def link_groups(n_rows: int, *labelled: Sequence[Sequence[Hashable]]) -> np.ndarray:
    """Join rows that share any label into one group.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    *labelled : sequences of length n_rows
        Each gives every row some labels, maybe none: its group's value, say, or the content
        hashes of its images. Labels of different sequences never meet.

    Returns
    -------
    int array of shape (n_rows,)
        Rows with equal numbers must not be separated by a split.
    """
    rows: list[int] = []
    labels: list[int] = []
    number_of: dict[Hashable, int] = {}
    for source, sequence in enumerate(labelled):
        for row, row_labels in enumerate(sequence):
            for label in row_labels:
                rows.append(row)
                labels.append(number_of.setdefault((source, label), len(number_of)))
    n_nodes = n_rows + len(number_of)
    nodes = n_rows + np.array(labels, dtype=np.int64)
    edges = coo_array((np.ones(len(rows)), (rows, nodes)), shape=(n_nodes, n_nodes))
    _, component = connected_components(edges, directed=False)
    return np.unique(component[:n_rows], return_inverse=True)[1]


def holdout(
    y: np.ndarray,
    *,
    is_classification: bool,
    groups: np.ndarray | None = None,
    fraction: float = 0.2,
    random_state: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a part of the rows, stratified, and by whole groups.

    Parameters
    ----------
    y : array of shape (n_rows,)
        Class numbers, or values, which are stratified by their rank.
    is_classification : bool
        What ``y`` is.
    groups : int array of shape (n_rows,), optional
        Rows of one group stay together.
    fraction : float
        About how much to hold out: one over a whole number.
    random_state : int
        Which part that is.

    Returns
    -------
    train, test : int arrays
        Row numbers, sorted. Every class occurs in ``train``.

    Raises
    ------
    DataError
        If there are too few rows or groups.
    """
    n_folds = round(1 / fraction)
    if len(y) < MIN_ROWS:
        raise DataError(
            f"{len(y)} rows are too few to hold some out for a score; at least {MIN_ROWS} are "
            "needed. Add rows."
        )
    if groups is None:
        groups = np.arange(len(y))
    n_groups = len(np.unique(groups))
    if n_groups < n_folds:
        raise DataError(
            f"{n_groups} groups are too few to hold one in {n_folds} out for a score. Add rows "
            "of other groups, or choose another group column."
        )
    strata = y if is_classification else _rank_bins(y)
    test = _fold_nearest(strata, groups, n_folds, random_state)
    train = np.setdiff1d(np.arange(len(y)), test)
    if is_classification:
        train, test = _keep_every_class(y, groups, train, test)
    if len(test) == 0:
        raise DataError("The classes have too few rows to hold some out for a score. Add rows.")
    if not fraction / 4 < len(test) / len(y) < (1 + fraction) / 2:
        raise DataError(
            f"Groups or classes are too uneven to hold about 1 in {n_folds} of the {len(y)} rows "
            f"out for a score: {len(test)} would be. Add rows, or choose another group column."
        )
    return train, test


def _fold_nearest(
    strata: np.ndarray, groups: np.ndarray, n_folds: int, random_state: int
) -> np.ndarray:
    """Return the rows of the fold whose size is nearest to an even share."""
    # Small strata are put together: scikit-learn warns of those with fewer rows than folds.
    counts = np.bincount(strata)
    merged = np.where(counts[strata] < n_folds, len(counts), strata)
    if (merged == len(counts)).sum() < n_folds:
        merged = np.where(merged == len(counts), counts.argmax(), merged)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
    folds = [test for _, test in splitter.split(merged, merged, groups)]
    return min(folds, key=lambda test: abs(len(test) - len(strata) / n_folds))


def _keep_every_class(
    y: np.ndarray, groups: np.ndarray, train: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Move the groups of classes that only ``test`` has over to ``train``."""
    lost = np.setdiff1d(y[test], y[train])
    moves = np.isin(groups[test], groups[test][np.isin(y[test], lost)])
    return np.sort(np.concatenate([train, test[moves]])), test[~moves]


def _rank_bins(y: np.ndarray) -> np.ndarray:
    """Return the quantile bin of each value, 0 to 9."""
    ranks = np.argsort(np.argsort(y, kind="stable"), kind="stable")
    return ranks * min(_N_BINS, len(y)) // len(y)
