"""Roles of columns, told from types and values, or by the user."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from twostage.errors import UsageError
from twostage.table.roles import CATEGORICAL, IGNORED, NUMERIC, RoleOverrides, infer_roles

ENDINGS = (".jpg", ".png")
N = 20


def _role(values, overrides=None, dtype=None):
    frame = pd.DataFrame({"a": pd.Series(values, dtype=dtype)})
    (column,) = infer_roles(frame, overrides or RoleOverrides(), {}, ENDINGS)
    return column.role, column.reason


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2] * 10, None),
        ([1, 2, None, None] * 5, "Int64"),
        ([1, 2, None, None] * 5, None),
        (np.arange(N) * 1.5, None),
        (np.arange(N) * 1.5, "Float64"),
        (np.arange(N) * 1.5, "float32"),
        ([True, False] * 10, None),
        ([True, False, None, None] * 5, "boolean"),
        ([3, 3, 3, None] * 5, None),
    ],
    ids=str,
)
def test_numbers_and_booleans_are_numeric(values, dtype):
    assert _role(values, dtype=dtype) == (NUMERIC, None)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (["red", "blue"] * 10, None),
        (["red", "blue"] * 10, object),
        (["red", "blue"] * 10, "string"),
        (["red", "blue"] * 10, "category"),
        ([1, 2] * 10, "category"),
        (["red", "red", "red", None] * 5, None),
        ([1, "one"] * 10, object),
        ([f"k{i % 18}" for i in range(N)], None),
    ],
    ids=str,
)
def test_other_values_that_repeat_are_categorical(values, dtype):
    assert _role(values, dtype=dtype) == (CATEGORICAL, None)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([5] * N, "constant"),
        (["x"] * N, "constant"),
        ([1.5] * N, "constant"),
        ([True] * N, "constant"),
        (pd.Categorical(["x"] * N), "constant"),
        ([None] * N, "no values"),
        ([np.nan] * N, "no values"),
        (range(N), "all values differ, like an id"),
        (pd.array([None, *range(N - 1)], dtype="Int64"), "all values differ, like an id"),
        ([f"id {i}" for i in range(N)], "all values differ, like an id"),
        (pd.Categorical([f"id {i}" for i in range(N)]), "all values differ, like an id"),
        ([f"name {max(i, 1)}" for i in range(N)], "nearly all values differ"),
        (pd.date_range("2020-01-01", periods=N), "a date"),
        (pd.date_range("2020-01-01", periods=N, tz="UTC"), "a date"),
        (pd.to_timedelta(range(N), unit="h"), "a date"),
        ([1j, 2j] * 10, "complex numbers"),
    ],
)
def test_useless_columns_are_ignored_with_the_reason(values, reason):
    assert _role(values) == (IGNORED, reason)


@pytest.mark.parametrize(
    "values",
    [
        ["a/1.jpg"] * N,
        ["1.JPG", "2.Png"] * 10,
        ["1.jpg", None] * 10,
        ["1.jpg;2.jpg"] * 10,
        ["1.jpg"] * 19 + ["?"],
        pd.Categorical(["1.jpg", "2.jpg"] * 10),
        ["1.jpg", "2.png"],
    ],
)
def test_columns_that_name_images_are_ignored(values):
    assert _role(values) == (IGNORED, "names images")


def test_a_column_with_some_image_names_is_a_category():
    assert _role(["1.jpg"] * 18 + ["?"] * 2) == (CATEGORICAL, None)


def test_without_image_endings_no_column_names_images():
    frame = pd.DataFrame({"a": ["1.jpg", "2.jpg"] * 10})
    assert infer_roles(frame, RoleOverrides(), {})[0].role == CATEGORICAL


@pytest.mark.parametrize(
    ("values", "role"), [(range(9), NUMERIC), ([f"id {i}" for i in range(9)], CATEGORICAL)]
)
def test_few_rows_are_no_evidence_of_an_id(values, role):
    assert _role(values) == (role, None)


@pytest.mark.parametrize("values", [range(N), ["x"] * N, ["1.jpg", "2.jpg"] * 10, [1.5, 2] * 10])
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ({"numeric": ("a",)}, (NUMERIC, None)),
        ({"categorical": ("a",)}, (CATEGORICAL, None)),
        ({"ignore": ("a",)}, (IGNORED, "on request")),
    ],
)
def test_what_the_user_says_wins_over_what_the_values_say(values, override, expected):
    assert _role(values, RoleOverrides(**override)) == expected


def test_a_date_can_be_made_a_category():
    values = [date(2020, 1, 1 + i % 2) for i in range(N)]
    assert _role(values, RoleOverrides(categorical=("a",))) == (CATEGORICAL, None)


def test_reserved_columns_are_left_out_even_if_given_a_role():
    frame = pd.DataFrame({"z": [1.5, 2.5], "target": [0, 1], "a": ["u", "v"]})
    overrides = RoleOverrides(numeric=("target",))
    columns = infer_roles(frame, overrides, {"target": "the target"})
    assert [column.name for column in columns] == ["z", "a"]


def test_columns_keep_the_tables_order_and_dtypes():
    frame = pd.DataFrame({"z": [1.5, 2.5], "b": [1, 2], "a": pd.array([1, None], dtype="Int64")})
    columns = infer_roles(frame, RoleOverrides(), {})
    assert [(column.name, column.dtype) for column in columns] == [
        ("z", "float64"),
        ("b", "int64"),
        ("a", "Int64"),
    ]


def test_the_table_is_not_modified():
    frame = pd.DataFrame({"a": ["1.jpg", None], "b": pd.Categorical(["u", "v"])})
    before = frame.copy()
    infer_roles(frame, RoleOverrides(), {}, ENDINGS)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("role", ["numeric", "categorical", "ignore"])
def test_a_role_for_an_unknown_column_is_refused_with_a_suggestion(role):
    with pytest.raises(UsageError, match=r"no column 'aeg' to give a role to.* Did you mean 'age'"):
        RoleOverrides(**{role: ("aeg",)}).check(["age", "site"])


def test_two_roles_for_one_column_are_refused():
    overrides = RoleOverrides(numeric=("age", "site"), ignore=("age",))
    with pytest.raises(UsageError, match="More than one role is given to 'age'"):
        overrides.check(["age", "site"])


def test_roles_of_known_columns_pass_the_check():
    assert RoleOverrides(("age",), ("site",), ("id",)).check(["id", "age", "site"]) is None
