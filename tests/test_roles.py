"""Roles of columns, told from types and values, or by the user."""

from dataclasses import asdict
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import SHARED

from twostage.errors import DataError, UsageError
from twostage.table.files import read_table
from twostage.table.roles import (
    BOOLEAN,
    CATEGORICAL,
    DATE,
    IGNORED,
    NUMERIC,
    TEXT,
    VECTOR,
    RoleOverrides,
    infer_roles,
)
from twostage.table.vectors import vectors_in

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
        ([3, 3, 3, None] * 5, None),
        ([1, 2, None, None] * 5, object),
        ([Decimal("1.5"), Decimal("2")] * 10, object),
        ([Decimal("1.5"), Decimal("2")] * 10, pd.ArrowDtype(pa.decimal128(5, 2))),
        ([1, 2, None, None] * 5, pd.ArrowDtype(pa.int32())),
    ],
    ids=str,
)
def test_numbers_are_numeric(values, dtype):
    assert _role(values, dtype=dtype) == (NUMERIC, None)


@pytest.mark.parametrize("dtype", [None, object, "boolean", pd.ArrowDtype(pa.bool_())], ids=str)
def test_true_and_false_are_boolean_even_where_some_are_missing(dtype):
    missing = [] if dtype is None else [None, None]
    assert _role([True, False, *missing] * 5, dtype=dtype) == (BOOLEAN, None)


DAYS = pd.date_range("2020-01-25", periods=N)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (DAYS, None),
        (DAYS.tz_localize("Europe/Paris"), None),
        (list(DAYS.date), object),
        ([datetime(2020, 1, 1 + i) for i in range(N)], object),
        (DAYS.date, pd.ArrowDtype(pa.date32())),
        (DAYS, pd.ArrowDtype(pa.timestamp("us"))),
        (DAYS.astype(str), None),
        ([*DAYS.astype(str)[2:], None, None], None),
        (DAYS.strftime("%d/%m/%Y"), None),
        (DAYS.strftime("%m/%d/%Y %H:%M:%S"), None),
        (DAYS.strftime("%d %B %Y"), None),
        (["2020-01-01 10:00:00", "2020-01-02 10:00:00.5"] * 10, None),
        (["2020-01-01T10:00:00Z", "2020-01-02T10:00:00+02:00"] * 10, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_dates_are_dates_by_type_or_as_they_are_written(values, dtype):
    assert _role(values, dtype=dtype) == (DATE, None)


@pytest.mark.parametrize(
    "values",
    [
        ["2020", "2021"] * 10,
        ["a b", "c d"] * 10,
        ["10-12", "12-14"] * 10,
        ["12345-6789", "12345-6780"] * 10,
        ["1.2.3", "1.2.4"] * 10,
        ["192.168.0.1", "192.168.0.2"] * 10,
        ["2020-01-01", "soon"] * 10,
        pd.Categorical(["2020-01-01", "2020-01-02"] * 10),
    ],
    ids=str,
)
def test_what_only_resembles_dates_is_categorical(values):
    assert _role(values) == (CATEGORICAL, None)


def test_a_little_junk_does_not_hide_that_a_column_holds_dates():
    assert _role([*DAYS[1:].astype(str), "?"]) == (DATE, None)


@pytest.mark.parametrize(
    ("values", "role"),
    [
        ([f"The dress number {i} fits" for i in range(N)], TEXT),
        ([f"The dress number {i % 15} fits" for i in range(N)], TEXT),
        ([f"The dress number {i % 9} fits" for i in range(N)], CATEGORICAL),
        ([f"Very long sentences, many of them: {i % 150}" for i in range(1000)], TEXT),
        ([f"Very long sentences, few of them: {i % 50}" for i in range(1000)], CATEGORICAL),
        ([f"The dress number {i} fits" for i in range(9)], CATEGORICAL),
    ],
)
def test_several_words_that_mostly_differ_are_text(values, role):
    assert _role(values) == (role, None)


@pytest.mark.realdata
def test_reviews_are_text_and_departments_categories():
    frame = read_table(SHARED / "data" / "clothing_reviews" / "table.csv")
    roles = {c.name: (c.role, c.n_values) for c in infer_roles(frame, RoleOverrides(), {})}
    assert roles["review_text"] == roles["title"] == (TEXT, None)
    assert roles["department_name"] == (CATEGORICAL, 6)
    assert roles["age"] == (NUMERIC, None)


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
        ([date(2020, 1, 1)] * N, "constant"),
        (["2020-01-01"] * N, "constant"),
        (pd.to_timedelta(range(N), unit="h"), "a duration"),
        ([[1, 2], None] * 10, "holds lists; name it with --vector or --sequence to use it"),
        ([np.zeros(3)] * N, "holds lists; name it with --vector or --sequence to use it"),
        (["x", [1]] * 10, "holds lists; name it with --vector or --sequence to use it"),
        ([{"x": 1}] * N, "holds structures"),
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
        ({"date": ("a",)}, (DATE, None)),
        ({"text": ("a",)}, (TEXT, None)),
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


@pytest.mark.parametrize("role", ["numeric", "categorical", "date", "text", "vector", "ignore"])
def test_a_role_for_an_unknown_column_is_refused_with_a_suggestion(role):
    with pytest.raises(UsageError, match=r"no column 'aeg' to give a role to.* Did you mean 'age'"):
        RoleOverrides(**{role: ("aeg",)}).check(["age", "site"])


def test_two_roles_for_one_column_are_refused():
    overrides = RoleOverrides(numeric=("age", "site"), ignore=("age",))
    with pytest.raises(UsageError, match="More than one role is given to 'age'"):
        overrides.check(["age", "site"])


def test_roles_of_known_columns_pass_the_check():
    overrides = RoleOverrides(("age",), ("site",), ignore=("id",))
    assert overrides.check(["id", "age", "site"]) is None


def test_a_categorical_column_knows_how_many_categories_it_has():
    frame = pd.DataFrame({"a": pd.Series([1, 1.0, "1", "b", None] * 4, dtype=object)})
    (column,) = infer_roles(frame, RoleOverrides(), {})
    assert (column.role, column.n_values) == (CATEGORICAL, 2)
    assert asdict(column)["n_values"] == 2


def test_lists_can_be_no_categories():
    frame = pd.DataFrame({"a": [[1], [2]]})
    with pytest.raises(DataError, match="'a' is categorical, but holds lists"):
        infer_roles(frame, RoleOverrides(categorical=("a",)), {})


ARROW_LISTS = pd.ArrowDtype(pa.list_(pa.float32()))
ARROW_VECTORS = pd.ArrowDtype(pa.list_(pa.float32(), 2))
VECTORS = [[1.0, 2.0], None, [3.0, 4.0]]


@pytest.mark.parametrize("dtype", [object, ARROW_LISTS, ARROW_VECTORS], ids=str)
def test_vectors_on_request_are_taken_as_they_are(dtype):
    frame = pd.DataFrame({"a": pd.Series(VECTORS, dtype=dtype)})
    (column,) = infer_roles(frame, RoleOverrides(vector=("a",)), {})
    assert (column.role, column.n_values) == (VECTOR, 2)
    found = vectors_in(frame["a"], 2)
    np.testing.assert_array_equal(found, [[1, 2], [np.nan, np.nan], [3, 4]])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(vectors_in(frame["a"].iloc[2:], 2), [[3, 4]])


@pytest.mark.parametrize("dtype", [pl.List(pl.Float64), pl.Array(pl.Float32, 2)], ids=str)
@pytest.mark.parametrize("is_arrow", [True, False])
def test_vectors_of_polars_are_vectors(dtype, is_arrow):
    frame = pl.DataFrame({"a": pl.Series(VECTORS, dtype=dtype)})
    values = frame.to_pandas(use_pyarrow_extension_array=is_arrow)["a"]
    np.testing.assert_array_equal(vectors_in(values, 2), [[1, 2], [np.nan, np.nan], [3, 4]])


@pytest.mark.parametrize(
    ("values", "dtype", "message"),
    [
        ([[1, 2], None, [1]], object, "vectors of 2 numbers, but row 3 has one of 1"),
        ([[1, 2], None, [1]], ARROW_LISTS, "vectors of 2 numbers, but row 3 has one of 1"),
        ([None, [1, "b"]], object, "row 2 is not made of numbers: .1, 'b'.. Correct it"),
        ([[[1]], [[2]]], object, "row 1 is not made of numbers"),
        ([["b"]], pd.ArrowDtype(pa.list_(pa.string())), "row 1 is not made of numbers"),
        ([[1], [np.inf]], object, "too large number in row 2: inf. Replace the number"),
        ([[1], [None]], ARROW_LISTS, "missing, infinite or too large number in row 2: nan"),
        ([[1], 3], object, "'a' holds vectors, but row 2 holds 3. Make it a list of 1 numbers"),
        ([3, 4], None, "'a' holds no vectors: row 1 holds 3. Give it another role"),
        ([None], object, "'a' holds no vector in any row"),
    ],
    ids=str,
)
def test_what_is_no_vector_of_numbers_is_refused_with_its_row(values, dtype, message):
    frame = pd.DataFrame({"a": pd.Series(values, dtype=dtype)})
    with pytest.raises(DataError, match=message):
        infer_roles(frame, RoleOverrides(vector=("a",)), {})
