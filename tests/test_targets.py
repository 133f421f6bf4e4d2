"""Targets: what is classes, what is values, and what is refused."""

import numpy as np
import pandas as pd
import pytest

from twostage.errors import DataError, UsageError
from twostage.targets import prepare_target


def _column(values, dtype=None):
    return pd.Series(values, name="price", dtype=dtype)


@pytest.mark.parametrize(
    ("values", "dtype", "task"),
    [
        (["cat", "dog", "cat"], None, "classification"),
        (["1", "2", "1"], None, "classification"),
        ([True, False, True], None, "classification"),
        ([True, False, True], "boolean", "classification"),
        (["a", "b", "a"], "category", "classification"),
        (list(range(20)) * 2, None, "classification"),
        (list(range(20)) * 2, "Int64", "classification"),
        ([0.0, 1.0, 0.0], None, "classification"),
        (list(range(21)) * 2, None, "regression"),
        ([1.0, 2.0, 2.5], None, "regression"),
        ([1.0, 2.0, 2.5], "Float64", "regression"),
    ],
)
def test_auto_takes_few_whole_numbers_for_classes_and_other_numbers_for_values(values, dtype, task):
    assert prepare_target(_column(values, dtype)).task == task


@pytest.mark.parametrize(
    ("values", "dtype", "classes"),
    [
        (["dog", "cat", "dog"], None, ["cat", "dog"]),
        (["dog", "cat", "dog"], "category", ["cat", "dog"]),
        ([10, 9, 10], None, [9, 10]),
        ([10, 9, 10], "Int64", [9, 10]),
        ([10.0, 9.0, 10.0], None, [9, 10]),
        ([True, False, True], None, [False, True]),
        (["b", 1, "b"], object, ["1", "b"]),
    ],
)
def test_classes_are_sorted_and_numbers_point_to_them(values, dtype, classes):
    target = prepare_target(_column(values, dtype), "classification")
    assert target.classes.tolist() == classes
    assert target.y.tolist() == [1, 0, 1]


def test_classes_written_as_whole_floats_are_integers():
    target = prepare_target(_column([0.0, 1.0, 1.0]))
    assert [repr(label) for label in target.classes.tolist()] == ["0", "1"]


def test_fractions_can_be_classes_if_asked_to():
    target = prepare_target(_column([0.5, 1.5, 0.5]), "classification")
    assert target.classes.tolist() == [0.5, 1.5]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [([1, 2, 4], None), (["1", "2", "4"], None), ([1, 2, 4], "Int64"), ([1.0, 2.0, 4.0], None)],
)
def test_regression_gives_floats_and_no_classes(values, dtype):
    target = prepare_target(_column(values, dtype), "regression")
    assert target.task == "regression"
    assert target.classes is None
    assert target.y.dtype == np.float64
    assert target.y.tolist() == [1.0, 2.0, 4.0]


def test_log_target_checks_but_does_not_transform():
    assert prepare_target(_column([0.5, 2.5, 4.0]), log_target=True).y.tolist() == [0.5, 2.5, 4.0]


def test_take_returns_rows_in_the_order_given_and_keeps_the_classes():
    target = prepare_target(_column(["a", "b", "c", "a"]))
    taken = target.take(np.array([2, 0, 2]))
    assert taken.classes[taken.y].tolist() == ["c", "a", "c"]
    assert taken.classes.tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("task", ["auto", "classification", "regression"])
@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_missing_values_are_refused_with_count_and_first_row(task, missing):
    column = _column([1, 2, missing, 1, missing], object)
    with pytest.raises(DataError, match=r"2 of 5 rows have no value in target 'price'; .*: row 3"):
        prepare_target(column, task)


@pytest.mark.parametrize(
    ("values", "task", "message"),
    [
        (["1", "two", "3"], "regression", "'price' can't be regressed on: it holds text .*two"),
        ([1.5, np.inf, 3.0], "regression", "'price' holds an infinite value in row 2"),
        ([1.5, 2.0, -np.inf], "auto", "'price' holds an infinite value in row 3"),
        ([2.5, 2.5, 2.5], "regression", "'price' is 2.5 in all rows"),
        (["a", "a", "a"], "auto", "'price' has one class only: a in all 3 rows"),
        ([7, 7, 7], "classification", "'price' has one class only: 7 in all 3 rows"),
        (
            [f"id {i}" for i in range(21)],
            "auto",
            "'price' has 21 different values in 21 rows: too many for classes",
        ),
        (
            np.linspace(0, 1, 30),
            "classification",
            "'price' has 30 different values in 30 rows.* --task regression",
        ),
    ],
)
def test_what_can_not_be_learned_is_refused(values, task, message):
    with pytest.raises(DataError, match=message):
        prepare_target(_column(values), task)


def test_many_classes_of_two_rows_each_are_accepted():
    assert len(prepare_target(_column([f"id {i}" for i in range(25)] * 2)).classes) == 25


def test_few_rows_of_different_classes_are_accepted():
    assert len(prepare_target(_column([f"id {i}" for i in range(20)])).classes) == 20


@pytest.mark.parametrize("least", [0.0, -1.5])
def test_log_target_needs_positive_values(least):
    with pytest.raises(DataError, match=f"'price' is {least:g} in row 2. Leave --log-target out"):
        prepare_target(_column([2.5, least, 1.0]), log_target=True)


def test_log_target_of_classes_is_a_wrong_call():
    with pytest.raises(UsageError, match="--log-target needs a regression; target 'price' holds"):
        prepare_target(_column(["a", "b"]), log_target=True)


@pytest.mark.parametrize(
    ("values", "task", "note"),
    [
        ([1, 2, 3] * 5, "classification", "holds 3 different whole numbers, taken as classes"),
        ([0, 1] * 5, "classification", None),
        ([1.5, 2.0, 3.0] * 5, "regression", None),
        (["a", "b", "c"] * 5, "classification", None),
        (list(range(30)), "regression", None),
    ],
)
def test_what_may_be_classes_or_numbers_is_said(values, task, note):
    target = prepare_target(pd.Series(values, name="rating"))
    assert target.task == task
    assert (target.note is None) == (note is None)
    if note:
        assert note in target.note
        assert target.other_task == "regression"


def test_the_logarithm_of_few_whole_numbers_makes_them_numbers():
    target = prepare_target(pd.Series([1, 2, 3] * 5, name="rating"), log_target=True)
    assert target.task == "regression"
    assert "taken as numbers to regress on" in target.note


def test_a_value_whose_square_is_infinite_is_refused():
    values = pd.Series([1.0, 2e300, 3.0], name="y")
    with pytest.raises(DataError, match="infinite or too large value in row 2: 2e\\+300"):
        prepare_target(values, "regression")
