"""Folds: the same for all that is compared, no group on both sides, no future in training."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from twostage.errors import DataError, UsageError
from twostage.evaluation.resampling import Fold, Resampling, make_folds
from twostage.targets import Target, prepare_target

N = 60


def cut(
    how: Resampling,
    frame: pd.DataFrame | None = None,
    groups: np.ndarray | None = None,
    seen: np.ndarray | None = None,
    target: Target | None = None,
    allow_seen: bool = False,
) -> list[Fold]:
    frame = pd.DataFrame(index=range(N)) if frame is None else frame
    n = len(frame)
    target = target or prepare_target(pd.Series(np.arange(n) % 2, name="y"))
    seen = np.zeros(n, bool) if seen is None else seen
    groups = np.arange(n) if groups is None else groups
    return make_folds(how, frame, target, groups, ~seen, ~seen | allow_seen)


def overlap(fold: Fold, groups: np.ndarray) -> set[int]:
    return set(groups[fold.train]) & set(groups[fold.test])


def test_each_row_is_tested_once_a_repeat_and_classes_are_spread() -> None:
    folds = cut(Resampling(5, 3))
    assert [(fold.repeat, fold.number) for fold in folds] == [
        (r, f) for r in range(3) for f in range(5)
    ]
    for repeat in range(3):
        tests = [fold.test for fold in folds if fold.repeat == repeat]
        assert np.sort(np.concatenate(tests)).tolist() == list(range(N))
        assert all((test % 2).sum() == 6 for test in tests)
    assert not np.array_equal(folds[0].test, folds[5].test)


def test_the_same_seed_gives_the_same_folds_and_another_one_others() -> None:
    first, again, other = (cut(Resampling(5, 1, random_state=s))[0].test for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_groups_are_never_on_both_sides() -> None:
    groups = np.arange(N) // 4
    assert not any(overlap(fold, groups) for fold in cut(Resampling(5, 2), groups=groups))


def test_seen_rows_are_never_tested_and_train_only_if_allowed() -> None:
    seen = np.arange(N) < 20
    for allowed in (False, True):
        folds = cut(Resampling(4), seen=seen, allow_seen=allowed)
        assert np.sort(np.concatenate([f.test for f in folds])).tolist() == list(range(20, N))
        assert all(seen[f.train].sum() == (20 if allowed else 0) for f in folds)


def test_fewer_groups_than_folds_is_an_error_with_the_way_out() -> None:
    with pytest.raises(DataError, match=r"3 groups .* fewer than the 5 folds. Use --folds 3"):
        cut(Resampling(5), groups=np.arange(N) % 3)
    with pytest.raises(DataError, match="are one group: nothing can be held out"):
        cut(Resampling(5), groups=np.zeros(N, int))


def test_a_class_of_one_group_is_trained_on_and_not_tested() -> None:
    labels = pd.Series(np.where(np.arange(N) < 2, "rare", np.where(np.arange(N) % 2, "a", "b")))
    groups = np.maximum(np.arange(N), 1)
    folds = cut(Resampling(5), groups=groups, target=prepare_target(labels.rename("y")))
    assert not any(np.isin([0, 1], fold.test).any() for fold in folds)
    assert all(np.isin([0, 1], fold.train).all() for fold in folds)


@pytest.mark.parametrize(
    "times",
    [
        np.random.default_rng(0).permutation(N),
        np.random.default_rng(0).integers(0, 12, N) * 0.5,
        pd.Series(pd.date_range("2020-01-01", periods=N)).sample(frac=1, random_state=0).to_numpy(),
        [f"2021-{1 + i % 12:02d}-03" for i in range(N)],
    ],
    ids=["numbers", "ties", "dates", "text"],
)
def test_training_is_before_the_test_in_time(times: Any) -> None:
    frame = pd.DataFrame({"when": times})
    folds = cut(Resampling(4, time="when"), frame)
    when = frame["when"].astype(str) if isinstance(times, list) else frame["when"]
    assert len(folds) == 4
    for before, fold in zip([None, *folds], folds, strict=False):
        assert when.iloc[fold.train].max() < when.iloc[fold.test].min()
        if before is not None:
            assert set(before.train) | set(before.test) == set(fold.train)


def test_rows_that_train_and_are_of_a_tested_group_are_left_out_and_counted() -> None:
    frame = pd.DataFrame({"when": np.arange(N)})
    groups = np.where(np.isin(np.arange(N), [3, 55]), 999, np.arange(N))
    folds = cut(Resampling(4, time="when"), frame, groups)
    assert not any(overlap(fold, groups) for fold in folds)
    assert [fold.n_kin for fold in folds] == [0, 0, 0, 1]
    assert 3 in folds[2].train
    assert 3 not in folds[3].train


def test_groups_that_leave_no_past_are_refused_with_the_reason() -> None:
    frame = pd.DataFrame({"when": np.arange(N)})
    with pytest.raises(
        DataError, match="step 1 has no rows to train on, for 20 are of groups that it tests"
    ):
        cut(Resampling(2, time="when"), frame, np.arange(N) % 20)


def test_a_class_that_comes_up_later_is_not_tested_where_training_lacks_it() -> None:
    frame = pd.DataFrame({"when": np.arange(N)})
    labels = pd.Series(np.where(np.arange(N) >= 52, "new", np.where(np.arange(N) % 2, "a", "b")))
    folds = cut(Resampling(5, time="when"), frame, target=prepare_target(labels.rename("y")))
    assert [fold.n_unlearnable for fold in folds] == [0, 0, 0, 0, 8]


def test_a_fold_of_classes_that_training_lacks_is_refused_with_the_reason() -> None:
    labels = pd.Series(np.where(np.arange(N) >= 50, "new", np.where(np.arange(N) % 2, "a", "b")))
    known = prepare_target(labels.rename("y"))
    why = "step 5 can't be scored: its 10 rows are all of classes that the 50 rows to train on lack"
    with pytest.raises(DataError, match=why):
        cut(Resampling(5, time="when"), pd.DataFrame({"when": np.arange(N)}), target=known)


def test_too_few_times_and_missing_ones_are_errors() -> None:
    with pytest.raises(DataError, match=r"too few different times for 5 folds .* they make 1"):
        cut(Resampling(5, time="when"), pd.DataFrame({"when": [1, 2] * 30}))
    with pytest.raises(DataError, match=r"1 of 60 rows have no value in the time column"):
        cut(Resampling(5, time="when"), pd.DataFrame({"when": [np.nan, *range(59)]}))
    with pytest.raises(DataError, match=r"no time column 'wehn'. Did you mean 'when'"):
        cut(Resampling(5, time="wehn"), pd.DataFrame({"when": range(N)}))


def test_a_split_column_names_the_folds() -> None:
    names = np.array(["A", "B", "C"])[np.arange(N) % 3]
    folds = cut(Resampling(split="s"), pd.DataFrame({"s": names}))
    assert [set(names[fold.test]) for fold in folds] == [{"A"}, {"B"}, {"C"}]
    assert all(len(fold.train) + len(fold.test) == N for fold in folds)


def test_train_and_test_are_one_fold_without_what_is_linked_across() -> None:
    names = np.where(np.arange(N) < 40, "Train", "test")
    groups = np.where(np.isin(np.arange(N), [0, 59]), 999, np.arange(N))
    (fold,) = cut(Resampling(split="s"), pd.DataFrame({"s": names}), groups)
    assert fold.test.tolist() == list(range(40, N))
    assert fold.train.tolist() == list(range(1, 40))
    assert fold.n_kin == 1


def test_a_split_column_of_something_else_is_refused() -> None:
    names = np.array(["train", "test", "val"])[np.arange(N) % 3]
    with pytest.raises(DataError, match=r"holds 'test', 'train', 'val'. Give 'train' and 'test'"):
        cut(Resampling(split="s"), pd.DataFrame({"s": names}))
    with pytest.raises(DataError, match="has 1 different values"):
        cut(Resampling(split="s"), pd.DataFrame({"s": ["A"] * N}))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_folds": 1}, "number of folds is 1"),
        ({"n_repeats": 0}, "number of repeats is 0"),
        ({"time": "a", "split": "b"}, "give one of the two"),
        ({"time": "a", "n_repeats": 2}, "time column 'a' cuts the rows in one way"),
    ],
)
def test_what_can_not_be_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Resampling(**options)
