"""Cut rows into training and held-out parts that share no group."""

import math
from collections.abc import Hashable, Sequence
from fractions import Fraction

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from twostage.errors import DataError

MIN_ROWS = 10
_N_BINS = 10
_LEAST_SHARE = 0.05
_MAX_FOLDS = 20
_MANY_GROUPS = 5000  # StratifiedGroupKFold looks at them one by one


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
        About how much to hold out, up to a half; in twentieths, unless it is one over a whole
        number.
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
    if len(y) < MIN_ROWS:
        raise DataError(
            f"{len(y)} rows are too few to hold some out for a score; at least {MIN_ROWS} are "
            "needed. Add rows."
        )
    if groups is None:
        groups = np.arange(len(y))
    n_groups = len(np.unique(groups))
    n_held, n_folds = _ratio(fraction, n_groups)
    if n_groups < n_folds:
        raise DataError(
            f"{n_groups} groups are too few to hold one in {n_folds} out for a score. Add rows "
            "of other groups, or choose another group column."
        )
    strata = y if is_classification else _rank_bins(y)
    test = _folds_nearest(strata, groups, n_held, n_folds, random_state)
    train = np.setdiff1d(np.arange(len(y)), test)
    if is_classification:
        train, test = _keep_every_class(y, groups, train, test)
    if len(test) == 0:
        raise DataError("The classes have too few rows to hold some out for a score. Add rows.")
    if not fraction / 4 < len(test) / len(y) < (1 + fraction) / 2:
        raise DataError(
            f"Groups or classes are too uneven to hold about {n_held} in {n_folds} of the {len(y)} "
            f"rows out for a score: {len(test)} would be. Add rows, or choose another group column."
        )
    return train, test


def hold_back(
    y: np.ndarray, *, is_classification: bool, groups: np.ndarray, share: float, random_state: int
) -> tuple[np.ndarray, np.ndarray]:
    """Hold a share of the rows back from what is trained first, for what learns from it.

    Parameters
    ----------
    y, is_classification, groups, random_state
        As for `holdout`.
    share : float
        About how much, from 0 on, below 1.

    Returns
    -------
    taught, held_back : int arrays
        Row numbers, sorted.
    """
    everything = np.arange(len(y))
    if not share:
        return everything, everything[:0]
    large, small = holdout(
        y,
        is_classification=is_classification,
        groups=groups,
        fraction=max(min(share, 1 - share), _LEAST_SHARE),
        random_state=random_state,
    )
    return (large, small) if share <= 0.5 else (small, large)


def cross_folds(
    y: np.ndarray,
    *,
    is_classification: bool,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    random_state: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut rows into folds to predict each row by what did not see it, stratified, by whole groups.

    Parameters
    ----------
    y, is_classification, groups, random_state
        As for `holdout`.
    n_folds : int
        How many; fewer where there are fewer groups.

    Returns
    -------
    list of (train, test) int arrays
        Row numbers, sorted. Tests share no row. Every class occurs in every train: rows of a class
        that would be missing are in no test.

    Raises
    ------
    DataError
        If there is one group only.
    """
    if groups is None:
        groups = np.arange(len(y))
    folds = []
    for test in partition(
        y,
        is_classification=is_classification,
        groups=groups,
        n_parts=n_folds,
        random_state=random_state,
    ):
        train = np.setdiff1d(np.arange(len(y)), test)
        if is_classification:
            is_lost = np.isin(groups[test], groups[test][~np.isin(y[test], y[train])])
            train = np.sort(np.concatenate([train, test[is_lost]]))
            test = test[~is_lost]
        if len(test):
            folds.append((train, test))
    if not folds:
        raise DataError(
            "The classes have too few rows or groups to hold any of them out. Add rows."
        )
    return folds


def inner_folds(
    y: np.ndarray,
    *,
    is_classification: bool,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    many_rows: int | None = None,
    random_state: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut training rows to choose something by: a penalty, a number of trees, weights.

    Parameters
    ----------
    y, is_classification, groups, n_folds, random_state
        As for `cross_folds`.
    many_rows : int, optional
        From so many rows on, one fifth is held out instead: it tells enough.

    Returns
    -------
    list of (train, test) int arrays
        Empty where nothing can be held out fairly.
    """
    try:
        if many_rows is not None and len(y) >= many_rows:
            return [
                holdout(
                    y,
                    is_classification=is_classification,
                    groups=groups,
                    random_state=random_state,
                )
            ]
        return cross_folds(
            y,
            is_classification=is_classification,
            groups=groups,
            n_folds=n_folds,
            random_state=random_state,
        )
    except DataError:
        return []


def partition(
    y: np.ndarray,
    *,
    is_classification: bool,
    groups: np.ndarray | None = None,
    n_parts: int = 2,
    random_state: int = 0,
) -> list[np.ndarray]:
    """Cut rows into parts of about equal size, stratified, and by whole groups.

    Parameters
    ----------
    y, is_classification, groups, random_state
        As for `cross_folds`.
    n_parts : int
        How many; fewer where there are fewer groups.

    Returns
    -------
    list of int arrays
        Row numbers, sorted. Every row is in one of them; a class may be missing in some.

    Raises
    ------
    DataError
        If there is one group only.
    """
    if groups is None:
        groups = np.arange(len(y))
    n_parts = min(n_parts, len(np.unique(groups)))
    if n_parts < 2:
        raise DataError(
            f"All {len(y)} rows are one group: nothing can be held out. Add rows of other groups."
        )
    strata = y if is_classification else _rank_bins(y)
    parts = _stratified_tests(strata, groups, n_parts, random_state)
    return [np.sort(part) for part in parts if len(part)]


def covering_folds(
    y: np.ndarray,
    *,
    is_classification: bool,
    groups: np.ndarray | None = None,
    n_folds: int = 5,
    random_state: int = 0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cut training rows to score every one by what did not see it, by whole groups if possible.

    A class that lies in one group can't be held out with it: what scores its rows would not know
    the class, and give them scores like no others, which would tell them apart in training and
    never again. Rows of such classes are held out one by one.

    Parameters
    ----------
    y, is_classification, groups, n_folds, random_state
        As for `cross_folds`.

    Returns
    -------
    list of (train, test) int arrays
        Every row is in one test. Empty where nothing can be held out fairly.
    """
    folds = inner_folds(
        y,
        is_classification=is_classification,
        groups=groups,
        n_folds=n_folds,
        random_state=random_state,
    )
    if not folds:
        return []
    tests = [test for _, test in folds]
    rest = np.setdiff1d(np.arange(len(y)), np.concatenate(tests))
    if len(rest):
        tests += [np.empty(0, np.int64)] * (2 - len(tests))
        by_class = rest[np.argsort(y[rest], kind="stable")]
        tests = [
            np.sort(np.concatenate([test, by_class[number :: len(tests)]]))
            for number, test in enumerate(tests)
        ]
    everything = np.arange(len(y))
    return [(np.setdiff1d(everything, test), test) for test in tests if len(test)]


def _ratio(fraction: float, n_groups: int) -> tuple[int, int]:
    """Return how many folds to hold out, and of how many."""
    n_folds = max(2, round(1 / fraction))
    if math.isclose(fraction * n_folds, 1, rel_tol=0.01):
        return 1, n_folds
    ratio = Fraction(fraction).limit_denominator(min(_MAX_FOLDS, max(n_groups, 2)))
    return (ratio.numerator, ratio.denominator) if ratio else (1, n_folds)


def _folds_nearest(
    strata: np.ndarray, groups: np.ndarray, n_held: int, n_folds: int, random_state: int
) -> np.ndarray:
    """Return the rows of some folds whose size is nearest to an even share."""
    folds = _stratified_tests(strata, groups, n_folds, random_state)
    share = len(strata) * n_held / n_folds
    some = [[*folds, *folds][start : start + n_held] for start in range(n_folds)]
    tests = [np.sort(np.concatenate(held)) for held in some]
    return min(tests, key=lambda test: abs(len(test) - share))


def _stratified_tests(
    strata: np.ndarray, groups: np.ndarray, n_folds: int, random_state: int
) -> list[np.ndarray]:
    """Return the rows of each fold."""
    strata = _without_small(strata, n_folds)
    names, first, number = np.unique(groups, return_index=True, return_inverse=True)
    if len(names) == len(groups) or len(names) > _MANY_GROUPS:
        # One row for each group: of many groups, sizes even out.
        splitter = StratifiedKFold(n_folds, shuffle=True, random_state=random_state)
        of_groups = _without_small(strata[first], n_folds)
        tests = [test for _, test in splitter.split(of_groups, of_groups)]
        fold_of = np.empty(len(names), np.int64)
        for fold, test in enumerate(tests):
            fold_of[test] = fold
        return [np.flatnonzero(fold_of[number] == fold) for fold in range(n_folds)]
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=random_state)
    return [test for _, test in splitter.split(strata, strata, groups)]


def _without_small(strata: np.ndarray, n_folds: int) -> np.ndarray:
    """Put small strata together: scikit-learn warns of those with fewer rows than folds."""
    counts = np.bincount(strata)
    merged = np.where(counts[strata] < n_folds, len(counts), strata)
    if 0 < (merged == len(counts)).sum() < n_folds:
        merged = np.where(merged == len(counts), counts.argmax(), merged)
    return np.asarray(merged)


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
