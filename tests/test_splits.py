"""Splits: whole groups, every class in train, about a fifth held out."""

import warnings

import numpy as np
import pytest

from twostage.errors import DataError
from twostage.splits import (
    MIN_ROWS,
    covering_folds,
    cross_folds,
    holdout,
    link_groups,
    partition,
)

N = 200


def _classes(seed=0, n=N, shares=(0.6, 0.3, 0.1)):
    return np.random.default_rng(seed).choice(len(shares), n, p=shares)


def _groups(seed=0, n=N, n_groups=40):
    return np.random.default_rng(seed + 1).integers(0, n_groups, n)


def _target(is_classification, seed=0, n=N):
    return _classes(seed, n) if is_classification else np.random.default_rng(seed).normal(size=n)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_classification", [True, False])
def test_no_group_is_in_both_parts(is_classification, seed):
    groups = _groups(seed)
    train, test = holdout(
        _target(is_classification, seed),
        is_classification=is_classification,
        groups=groups,
        random_state=seed,
    )
    assert len(test) > 0
    assert set(groups[train]).isdisjoint(groups[test])


@pytest.mark.parametrize("groups", [None, _groups()], ids=["rows", "groups"])
@pytest.mark.parametrize("is_classification", [True, False])
def test_every_row_is_in_one_part_and_rows_are_sorted(is_classification, groups):
    train, test = holdout(
        _target(is_classification), is_classification=is_classification, groups=groups
    )
    np.testing.assert_array_equal(np.sort(np.concatenate([train, test])), np.arange(N))
    assert (np.diff(train) > 0).all()
    assert (np.diff(test) > 0).all()


@pytest.mark.parametrize("fraction", [0.05, 0.2, 0.25, 0.3, 0.4, 0.45, 0.5])
@pytest.mark.parametrize("is_classification", [True, False])
def test_about_the_fraction_asked_for_is_held_out(is_classification, fraction):
    y = _target(is_classification)
    rows = holdout(y, is_classification=is_classification, fraction=fraction)[1]
    grouped = holdout(y, is_classification=is_classification, fraction=fraction, groups=_groups())
    assert len(rows) / N == pytest.approx(fraction, abs=0.02)
    assert len(grouped[1]) / N == pytest.approx(fraction, abs=0.06)


def test_a_part_of_few_groups_is_as_near_to_the_fraction_as_they_allow():
    groups = np.arange(N) % 5
    test = holdout(_target(False), is_classification=False, fraction=0.38, groups=groups)[1]
    assert len(np.unique(groups[test])) == 2


def test_parts_share_no_group_and_have_every_row():
    groups = _groups()
    for n_parts in (2, 3):
        parts = partition(_classes(), is_classification=True, groups=groups, n_parts=n_parts)
        assert len(parts) == n_parts
        np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(N))
        assert sum(len(np.unique(groups[part])) for part in parts) == 40
        assert min(map(len, parts)) > N / n_parts / 2
    assert len(partition(_classes(), is_classification=True, groups=groups % 2, n_parts=3)) == 2
    with pytest.raises(DataError, match="All 200 rows are one group"):
        partition(_classes(), is_classification=True, groups=np.zeros(N, int))


def test_classes_have_the_same_shares_in_both_parts():
    y = _classes()
    train, test = holdout(y, is_classification=True)
    shares = [np.bincount(y[part]) / len(part) for part in (train, test)]
    np.testing.assert_allclose(*shares, atol=0.02)


def test_values_have_the_same_distribution_in_both_parts():
    y = np.random.default_rng(0).lognormal(size=N)
    train, test = holdout(y, is_classification=False)
    deciles = np.quantile(y, np.linspace(0.1, 0.9, 9))
    below = [np.searchsorted(np.sort(y[part]), deciles) / len(part) for part in (train, test)]
    np.testing.assert_allclose(*below, atol=0.05)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("n_rare", [1, 2])
def test_every_class_is_in_train(n_rare, seed):
    y = np.r_[np.zeros(30, int), np.ones(30, int), np.full(n_rare, 2)]
    groups = np.r_[np.arange(60) // 2, np.zeros(n_rare, int)]
    train, test = holdout(y, is_classification=True, groups=groups, random_state=seed)
    assert set(y[train]) == {0, 1, 2}
    assert set(y[test]) == {0, 1}
    assert set(groups[train]).isdisjoint(groups[test])
    assert (np.diff(train) > 0).all()


@pytest.mark.parametrize("seed", range(10))
def test_singleton_classes_stay_in_train_and_the_rest_is_held_out(seed):
    y = np.r_[np.zeros(20, int), np.arange(1, 9)]
    train, test = holdout(y, is_classification=True, random_state=seed)
    assert set(y[train]) == set(range(9))
    assert set(y[test]) == {0}


def test_classes_too_small_to_stratify_are_split_without_warnings():
    y = np.repeat(np.arange(10), 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = holdout(y, is_classification=True)
    assert set(y[train]) == set(range(10))
    assert len(test) == pytest.approx(8, abs=3)


def test_a_class_smaller_than_the_number_of_folds_gives_no_warning():
    y = np.r_[np.zeros(30, int), np.ones(3, int)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train, test = holdout(y, is_classification=True)
    assert set(y[train]) == {0, 1}
    assert len(test) > 0


def test_tied_values_can_be_split():
    train, test = holdout(np.r_[np.zeros(30), np.ones(10)], is_classification=False)
    assert (len(train), len(test)) == (32, 8)


@pytest.mark.parametrize("n", [40, N])
@pytest.mark.parametrize("is_classification", [True, False])
def test_same_seed_gives_the_same_part_and_another_seed_another(is_classification, n):
    y, groups = _target(is_classification, n=n), _groups(n=n)

    def held_out(seed):
        options = {"is_classification": is_classification, "groups": groups}
        return holdout(y, **options, random_state=seed)[1].tolist()

    assert held_out(3) == held_out(3)
    assert held_out(3) != held_out(4)


def test_too_few_rows_are_refused_with_the_number_needed():
    with pytest.raises(DataError, match=f"9 rows are too few .* at least {MIN_ROWS} are needed"):
        holdout(np.arange(9) % 2, is_classification=True)


def test_as_many_rows_as_needed_are_split():
    train, test = holdout(np.arange(MIN_ROWS) % 2, is_classification=True)
    assert (len(train), len(test)) == (8, 2)


def test_too_few_groups_are_refused_with_the_fix():
    with pytest.raises(DataError, match=r"4 groups are too few to hold one in 5 .* another group"):
        holdout(np.arange(20) % 2, is_classification=True, groups=np.arange(20) % 4)


def test_classes_of_one_group_each_are_refused():
    groups = np.repeat(np.arange(6), 5)
    with pytest.raises(DataError, match="classes have too few rows"):
        holdout(groups.copy(), is_classification=True, groups=groups)


@pytest.mark.parametrize(
    ("labels", "groups"),
    [
        ([["a"], ["b"], ["a"]], [0, 1, 0]),
        ([["a"], ["a", "b"], ["b", "c"], ["c"], ["d"]], [0, 0, 0, 0, 1]),
        ([["a"], ["c"], ["d"], ["a", "b", "c"]], [0, 0, 1, 0]),
        ([[], [], ["a"]], [0, 1, 2]),
        ([[("x", 1)], [("x", 2)], [("x", 1), ("x", 1)]], [0, 1, 0]),
    ],
    ids=["shared", "chain", "joined by a later row", "none", "any hashable"],
)
def test_rows_that_share_a_label_are_one_group(labels, groups):
    assert link_groups(len(labels), labels).tolist() == groups


def test_labels_of_different_sequences_link_rows_but_never_meet():
    hashes = [["a"], ["b"], ["c"], ["c"], ["d"]]
    values = [["p"], ["p"], ["q"], ["r"], ["a"]]
    assert link_groups(5, hashes, values).tolist() == [0, 0, 1, 1, 2]


def test_rows_without_any_labels_are_groups_of_their_own():
    assert link_groups(3).tolist() == [0, 1, 2]


def test_linked_groups_are_not_separated_by_a_split():
    labels = [[(row // 6, row % 6), (row // 6, row % 6 + 1)] for row in range(120)]
    groups = link_groups(120, labels)
    train, test = holdout(np.arange(120.0), is_classification=False, groups=groups)
    in_train, in_test = ({label for row in part for label in labels[row]} for part in (train, test))
    assert in_test
    assert in_train.isdisjoint(in_test)


def test_the_fold_nearest_to_the_fraction_is_held_out():
    groups = np.repeat(np.arange(6), [50, 20, 10, 10, 5, 5])
    for seed in range(5):
        _, test = holdout(
            np.arange(100.0), is_classification=False, groups=groups, random_state=seed
        )
        assert len(test) == 20


@pytest.mark.parametrize("is_classification", [True, False])
def test_one_group_that_holds_nearly_all_rows_is_refused(is_classification):
    groups = np.repeat(np.arange(5), [1000, 1, 1, 1, 1])
    with pytest.raises(DataError, match="too uneven"):
        holdout(np.arange(1004) % 2, is_classification=is_classification, groups=groups)


def test_covering_folds_test_every_row_once_and_keep_groups_where_classes_allow() -> None:
    y = np.array([0, 1] * 20 + [2] * 7 + [3])
    groups = np.r_[np.repeat(np.arange(10), 4), np.full(7, 10), 11]
    folds = covering_folds(y, is_classification=True, groups=groups)
    tests = np.concatenate([test for _, test in folds])
    np.testing.assert_array_equal(np.sort(tests), np.arange(48))
    for train, test in folds:
        np.testing.assert_array_equal(np.sort(np.r_[train, test]), np.arange(48))
        shared = np.intersect1d(groups[train], groups[test])
        assert set(shared) <= {10}  # the class of one group: its other rows teach it
        if 2 in y[test]:
            assert 2 in y[train]


def test_covering_folds_of_values_are_those_of_groups() -> None:
    y = np.arange(40.0)
    folds = covering_folds(y, is_classification=False, groups=np.arange(40) // 4)
    expected = cross_folds(y, is_classification=False, groups=np.arange(40) // 4)
    for (_, test), (_, other) in zip(folds, expected, strict=True):
        np.testing.assert_array_equal(test, other)
    assert covering_folds(y, is_classification=False, groups=np.zeros(40, int)) == []
