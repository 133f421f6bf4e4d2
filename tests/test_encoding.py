"""Table columns as numbers."""

import json
import time
from datetime import date

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from twostage.errors import DataError, ModelError
from twostage.recipes import CATEGORY_ENCODINGS, SCALINGS, Recipe
from twostage.table.encoding import TableEncoder, numbers_in
from twostage.table.roles import (
    BOOLEAN,
    CATEGORICAL,
    DATE,
    IGNORED,
    NUMERIC,
    TEXT,
    VECTOR,
    Column,
    RoleOverrides,
    infer_roles,
)

N = 200
STANDARD = Recipe(scaling="standard")
FILLED = Recipe(scaling="standard", fills_missing=True)


def _column(name, role):
    return Column(name, role, "any")


def _fit_both(values, role, recipe=STANDARD, y=None, *, dtype=None, **options):
    """Fit on one column, ``a``; its encoder, and the table and codes of its own rows."""
    frame = pd.DataFrame({"a": pd.Series(values, dtype=dtype)})
    y = np.arange(len(frame)) % 2 if y is None else y
    options = {"is_classification": True, "random_state": 0} | options
    return TableEncoder.fit_transform(frame, [_column("a", role)], recipe, y, **options)


def _fit(*args, **kwargs):
    return _fit_both(*args, **kwargs)[:2]


def _new(values, dtype=None):
    return pd.DataFrame({"a": pd.Series(values, dtype=dtype)})


def _table(encoder, frame):
    return encoder.transform(frame)[0]


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1.0, None, 3.0], None),
        ([1, None, 3], "Int64"),
        ([1.0, None, 3.0], "Float64"),
        (["1", None, "3"], None),
        ([False, None, True], "boolean"),
        ([False, None, True], object),
    ],
)
def test_numbers_are_standardised_and_keep_their_missing_values(values, dtype):
    encoder, features = _fit(values, NUMERIC, dtype=dtype)
    np.testing.assert_allclose(features[:, 0], [-1, np.nan, 1])
    np.testing.assert_array_equal(_table(encoder, _new(values, dtype)), features)


def test_new_numbers_are_scaled_as_the_training_rows_were():
    encoder, _ = _fit([1.0, 3.0], NUMERIC)
    np.testing.assert_allclose(_table(encoder, _new([2.0, 5.0, None]))[:, 0], [0, 3, np.nan])


def test_each_category_and_missing_is_a_column_and_unseen_is_zeros():
    encoder, features = _fit(["red", None, "blue", "red"], CATEGORICAL)
    assert encoder.feature_names() == ["a_blue", "a_red", "a_is_missing"]
    np.testing.assert_array_equal(features, [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(
        _table(encoder, _new(["green", "blue", None])), [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    )


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_where_none_was_at_fit_is_zeros(missing):
    encoder, _ = _fit(["red", "blue"], CATEGORICAL)
    np.testing.assert_array_equal(_table(encoder, _new([missing], object)), [[0, 0]])


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], None),
        ([1.0, 2.0], None),
        (["1", "2"], None),
        ([1, 2], "Int64"),
        (np.array([1, 2], np.float32), None),
        (["1", "2"], "category"),
    ],
)
def test_1_as_integer_float_or_text_is_one_category(values, dtype):
    encoder, features = _fit(values, CATEGORICAL, dtype=dtype)
    assert encoder.feature_names() == ["a_1", "a_2"]
    np.testing.assert_array_equal(_table(encoder, _new([1, 1.0, "1"], object)), [[1, 0]] * 3)
    np.testing.assert_array_equal(features, np.eye(2))


@pytest.mark.parametrize(("n_categories", "n_features"), [(30, 30), (31, 1)])
def test_more_than_30_categories_are_encoded_by_the_target(n_categories, n_features):
    encoder, features = _fit([f"c{i % n_categories}" for i in range(N)], CATEGORICAL)
    assert features.shape == (N, n_features)
    assert len(encoder.feature_names()) == n_features


@pytest.mark.parametrize("is_classification", [True, False])
@pytest.mark.parametrize("row", [0, 57, 199])
def test_a_training_row_does_not_see_its_own_target(is_classification, row):
    names = np.array([f"c{i % 40}" for i in range(N)])
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, N) if is_classification else rng.normal(size=N)
    changed = y.copy()
    changed[row] = 1 - y[row] if is_classification else 100.0
    before, after = (
        _fit(names, CATEGORICAL, Recipe(), target, is_classification=is_classification)[1][:, 0]
        for target in (y, changed)
    )
    siblings = (names == names[row]) & (np.arange(N) != row)
    assert after[row] == before[row]
    assert (after[siblings] != before[siblings]).any()


def test_new_rows_get_their_categorys_mean_and_unseen_ones_the_overall_mean():
    names = [f"c{i % 40}" for i in range(N)]
    y = np.arange(N) % 40 + 0.5 * (np.arange(N) % 2)
    encoder, _ = _fit(names, CATEGORICAL, Recipe(), y, is_classification=False)
    encoded = _table(encoder, _new(["c0", "c39", "never seen", None]))[:, 0]
    np.testing.assert_allclose(encoded[:2], [y[::40].mean(), y[39::40].mean()], atol=0.1)
    np.testing.assert_allclose(encoded[2:], y.mean(), rtol=1e-6)


def test_a_wide_category_gives_one_feature_per_class_of_many():
    encoder, features = _fit([f"c{i % 40}" for i in range(N)], CATEGORICAL, y=np.arange(N) % 3)
    assert encoder.feature_names() == ["a_0", "a_1", "a_2"]
    assert features.shape == (N, 3)


def test_the_same_seed_encodes_by_the_same_folds():
    names, y = [f"c{i % 40}" for i in range(N)], np.random.default_rng(0).integers(0, 2, N)
    first, again = (_fit(names, CATEGORICAL, y=y)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1.0, "12 cm"], "Column 'a' is numeric, but row 2 holds '12 cm'. Correct it, or make"),
        ([None, 1.0, "?"], r"Column 'a' is numeric, but row 3 holds '\?'"),
        ([1.0, {"x": 1}], "Column 'a' is numeric, but row 2 holds {'x': 1}"),
        ([1.0, 2.0, np.inf], "Column 'a' holds an infinite or too large value in row 3"),
        ([-np.inf, 2.0], "Column 'a' holds an infinite or too large value in row 1"),
    ],
)
def test_what_is_no_number_is_refused_with_its_row(values, message):
    encoder, _ = _fit([1.0, 3.0], NUMERIC)
    with pytest.raises(DataError, match=message):
        _table(encoder, _new(values, object))
    with pytest.raises(DataError, match=message):
        _fit(values, NUMERIC, dtype=object)


def test_the_row_named_is_counted_from_the_top_whatever_the_index():
    frame = pd.DataFrame({"a": ["1", "bad"]}, index=[70, 50])
    with pytest.raises(DataError, match="row 2 holds 'bad'"):
        _fit([1.0, 3.0], NUMERIC)[0].transform(frame)


@pytest.mark.parametrize("columns", [[], [_column("a", IGNORED)]])
def test_nothing_to_encode_gives_no_features(columns):
    frame = _new([1, 2, 3])
    encoder, features, _ = TableEncoder.fit_transform(
        frame, columns, STANDARD, np.array([0, 1, 0]), is_classification=True, random_state=0
    )
    assert features.shape == _table(encoder, frame).shape == (3, 0)
    assert encoder.feature_names() == []


def test_feature_names_are_those_of_the_columns_side_by_side():
    frame = pd.DataFrame(
        {
            "site": ["arm", "leg"] * 100,
            "zip": [f"z{i % 40}" for i in range(N)],
            "age": np.arange(N),
            "area": np.arange(N)[::-1] * 2.0,
        }
    )
    roles = {"site": CATEGORICAL, "zip": CATEGORICAL, "age": NUMERIC, "area": NUMERIC}
    columns = [_column(name, role) for name, role in roles.items()]
    encoder, features, _ = TableEncoder.fit_transform(
        frame, columns, STANDARD, np.arange(N) % 2, is_classification=True, random_state=0
    )
    named = dict(zip(encoder.feature_names(), features.T, strict=True))
    assert set(named) == {"age", "area", "site_arm", "site_leg", "zip"}
    np.testing.assert_allclose(named["age"], -named["area"], atol=1e-6)
    np.testing.assert_array_equal(named["site_leg"], np.arange(N) % 2)


@pytest.mark.parametrize("role", [NUMERIC, CATEGORICAL])
def test_features_are_float32_and_the_table_is_not_modified(role):
    frame = _new([1, 2, None, 1])
    before = frame.copy()
    encoder, features, _ = TableEncoder.fit_transform(
        frame,
        [_column("a", role)],
        STANDARD,
        np.arange(4) % 2,
        is_classification=True,
        random_state=0,
    )
    assert features.dtype == _table(encoder, frame).dtype == np.float32
    pd.testing.assert_frame_equal(frame, before)


def test_columns_are_taken_by_name_in_any_order():
    frame = pd.DataFrame({"a": [1.0, 3.0], "b": ["u", "v"]})
    columns = [_column("a", NUMERIC), _column("b", CATEGORICAL)]
    encoder, features, _ = TableEncoder.fit_transform(
        frame, columns, STANDARD, np.array([0, 1]), is_classification=True, random_state=0
    )
    turned = frame[["b", "a"]].assign(extra="w")
    np.testing.assert_array_equal(_table(encoder, turned), features)


def test_a_training_row_does_not_see_the_target_of_its_group():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    y = rng.integers(0, 2, 60)[groups]
    frame = pd.DataFrame({"clinic": groups.astype(str)})
    column = Column("clinic", CATEGORICAL, "str")
    options = {"is_classification": True, "random_state": 0}
    recipe = Recipe(many_categories="target")
    _, by_row, _ = TableEncoder.fit_transform(frame, [column], recipe, y, **options)
    _, by_group, _ = TableEncoder.fit_transform(
        frame, [column], recipe, y, **options, groups=groups
    )
    assert np.corrcoef(by_row[:, 0], y)[0, 1] > 0.9
    assert abs(np.corrcoef(by_group[:, 0], y)[0, 1]) < 0.5


def test_dates_are_no_numbers():
    with pytest.raises(DataError, match="'seen' holds dates"):
        numbers_in(pd.Series(pd.to_datetime(["2020-01-01", None]), name="seen"))


def test_huge_numbers_stay_finite():
    encoder, features = _fit([1.0, 0.0, 2.0], NUMERIC)
    assert np.isfinite(features).all()
    assert np.isfinite(_table(encoder, _new([1e29]))).all()
    with pytest.raises(DataError, match="too large value in row 1: 1e"):
        _table(encoder, _new([1e300]))


@pytest.mark.parametrize(
    ("scaling", "expected"),
    [
        ("none", [0, 1, 2, 3, 10]),
        ("standard", np.array([-3.2, -2.2, -1.2, -0.2, 6.8]) / np.sqrt(12.56)),
        ("minmax", [0, 0.1, 0.2, 0.3, 1]),
        ("robust", [-1 / np.sqrt(1 + 1 / 9), -0.5 / np.sqrt(1 + 1 / 36), 0, 0.493197, 2.4]),
        ("quantile", [-5.199338, -0.67449, 0, 0.67449, 5.199338]),
    ],
)
def test_numbers_are_scaled_as_the_recipe_says(scaling, expected):
    encoder, features = _fit([0, 1, 2, 3, 10], NUMERIC, Recipe(scaling=scaling))
    np.testing.assert_allclose(features[:, 0], expected, rtol=1e-5)
    np.testing.assert_array_equal(_table(encoder, _new([0, 1, 2, 3, 10])), features)


@pytest.mark.parametrize("scaling", SCALINGS)
def test_missing_numbers_become_the_median_and_a_column_tells_of_them(scaling):
    recipe = Recipe(scaling=scaling, fills_missing=True)
    encoder, features = _fit([1.0, None, 2.0, 7.0], NUMERIC, recipe)
    assert encoder.feature_names() == ["a", "a_is_missing"]
    np.testing.assert_array_equal(features[1, 0], features[2, 0])
    np.testing.assert_array_equal(features[:, 1], [0, 1, 0, 0])
    np.testing.assert_array_equal(_table(encoder, _new([None, 2.0])), features[1:3])


def test_numbers_missing_only_when_predicted_are_filled_in_without_a_column():
    encoder, features = _fit([1.0, 2.0, 6.0], NUMERIC, FILLED)
    assert features.shape == (3, 1)
    np.testing.assert_array_equal(_table(encoder, _new([None, 2.0])), features[[1, 1]])


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize(("fills", "expected"), [(True, 0), (False, np.nan)])
def test_a_column_without_values_in_the_fold_tells_nothing(scaling, fills, expected):
    recipe = Recipe(scaling=scaling, fills_missing=fills)
    encoder, features = _fit([None, None, None], NUMERIC, recipe, dtype=float)
    np.testing.assert_array_equal(features[:, 0], [expected] * 3)
    assert _table(encoder, _new([1e9, None])).shape == (2, features.shape[1])


@pytest.mark.parametrize("recipe", [STANDARD, FILLED, Recipe(fills_missing=True, has_splines=True)])
def test_weights_act_as_repeated_rows_would(recipe):
    rng = np.random.default_rng(0)
    values, weight = rng.normal(size=41), rng.integers(1, 4, 41)
    values[::5] = np.nan
    encoder, features = _fit(values, NUMERIC, recipe, sample_weight=weight.astype(float))
    repeated = np.repeat(values, weight)
    expected, _ = _fit(repeated, NUMERIC, recipe)
    np.testing.assert_allclose(features, _table(expected, _new(values)), atol=1e-6)
    np.testing.assert_allclose(
        _table(encoder, _new([None, 0.5])), _table(expected, _new([None, 0.5])), atol=1e-6
    )


def test_a_linear_head_bends_in_numbers_of_ten_values_or_more():
    recipe = Recipe(scaling="standard", fills_missing=True, has_splines=True)
    encoder, features = _fit(np.linspace(0, 1, 50), NUMERIC, recipe)
    assert encoder.feature_names() == ["a", *(f"a_spline_{i}" for i in range(6))]
    target = np.sin(3 * np.linspace(0, 1, 50))
    design = np.column_stack([np.ones(50), features])
    residual = target - design @ np.linalg.lstsq(design, target)[0]
    assert np.abs(residual).max() < 0.001
    assert np.isfinite(_table(encoder, _new([-100.0, 100.0, None]))).all()
    assert _fit(np.arange(50) % 9, NUMERIC, recipe)[0].feature_names() == ["a"]


def test_a_table_of_many_numbers_gets_no_splines():
    frame = pd.DataFrame({f"x{i}": np.arange(20.0) for i in range(51)})
    columns = [_column(name, NUMERIC) for name in frame]
    recipe = Recipe(fills_missing=True, has_splines=True)
    _, table, _ = TableEncoder.fit_transform(
        frame, columns, recipe, np.arange(20) % 2, is_classification=True, random_state=0
    )
    assert table.shape == (20, 51)


@pytest.mark.parametrize("dtype", [object, "boolean", pd.ArrowDtype(pa.bool_())], ids=str)
def test_booleans_are_1_and_0_whatever_the_scaling(dtype):
    encoder, features = _fit([True, False, None, True], BOOLEAN, dtype=dtype)
    np.testing.assert_array_equal(features[:, 0], [1, 0, np.nan, 1])
    as_others = _new(["true", "False", None, 1], object)
    np.testing.assert_array_equal(_table(encoder, as_others), features)


def test_what_is_neither_true_nor_false_is_refused_with_its_row():
    encoder, _ = _fit([True, False], BOOLEAN)
    with pytest.raises(DataError, match=r"'a' is boolean, but row 2 holds 'maybe'\. Write"):
        _table(encoder, _new([True, "maybe"]))


@pytest.mark.parametrize("values", [[3, None, 1], ["3", None, "1"]])
def test_pandas_categoricals_can_be_taken_as_numbers(values):
    _, features = _fit(values, NUMERIC, Recipe(), dtype="category")
    np.testing.assert_array_equal(features[:, 0], [3, np.nan, 1])


@pytest.mark.parametrize("dtype", ["category", pd.ArrowDtype(pa.string()), "string", object])
def test_the_row_that_holds_no_number_is_found_in_any_type(dtype):
    with pytest.raises(DataError, match="row 2 holds 'x'"):
        numbers_in(pd.Series(["1", "x"], dtype=dtype, name="a"))


NATIVE = Recipe(categories="native", many_categories="native")


def test_categories_left_to_the_head_are_numbered_in_their_order():
    encoder, table, codes = _fit_both(["10", "9", None, "x", "9"], CATEGORICAL, NATIVE)
    assert table.shape == (5, 0)
    np.testing.assert_array_equal(codes[:, 0], [1, 2, 4, 3, 2])
    encoder, _, codes = _fit_both(["10", "9", None, "9"], CATEGORICAL, NATIVE)
    np.testing.assert_array_equal(codes[:, 0], [2, 1, 3, 1])
    assert encoder.cardinalities == (4,)
    assert encoder.feature_names() == ["a"]
    assert codes.dtype == np.int32
    new = _new(["new", "10", None, 9], object)
    np.testing.assert_array_equal(encoder.transform(new)[1][:, 0], [0, 2, 3, 1])


def test_true_and_1_are_two_categories():
    _, _, codes = _fit_both([1, True, "True", 1.0], CATEGORICAL, NATIVE, dtype=object)
    np.testing.assert_array_equal(codes[:, 0], [1, 2, 2, 1])


def test_rare_categories_of_a_wide_column_stand_in_for_unseen_ones():
    values = [*(f"c{i}" for i in range(31)), *(f"c{i}" for i in range(29))]
    encoder, _, codes = _fit_both(values, CATEGORICAL, NATIVE)
    assert encoder.cardinalities == (30,)
    assert codes[[29, 30], 0].tolist() == [0, 0]
    encoder, features = _fit(values, CATEGORICAL, Recipe(many_categories="onehot"))
    assert encoder.feature_names()[:2] == ["a_is_rare", "a_c0"]
    np.testing.assert_array_equal(features[30], _table(encoder, _new(["new"]))[0])
    assert features.sum(axis=1).tolist() == [1] * 60
    encoder, _, codes = _fit_both(values, CATEGORICAL, NATIVE.changed(few=31))
    assert encoder.cardinalities == (32,)


@pytest.mark.parametrize(("n_categories", "n_features"), [(255, 255), (256, 1)])
def test_beyond_255_categories_one_hot_gives_way_to_the_target(n_categories, n_features):
    values = [f"c{i % n_categories}" for i in range(2 * n_categories)]
    _, features = _fit(values, CATEGORICAL, Recipe(many_categories="onehot"))
    assert features.shape[1] == n_features


@pytest.mark.parametrize(
    ("fills", "expected"), [(False, [[1], [2], [np.nan]]), (True, [[-1], [1], [0]])]
)
def test_ordinal_categories_are_one_number_each(fills, expected):
    recipe = Recipe("standard" if fills else "none", fills, categories="ordinal")
    encoder, features = _fit(["a", "b"], CATEGORICAL, recipe)
    np.testing.assert_array_equal(features, expected[:2])
    np.testing.assert_array_equal(_table(encoder, _new(["a", "b", "new"])), expected)


def test_target_encodings_are_standardised_where_numbers_are_scaled():
    names = [f"c{i % 40}" for i in range(N)]
    recipe = Recipe(scaling="robust")
    _, features = _fit(names, CATEGORICAL, recipe, np.arange(N) % 40, is_classification=False)
    np.testing.assert_allclose([features.mean(), features.std()], [0, 1], atol=1e-5)


def test_two_groups_are_enough_to_keep_their_targets_apart():
    groups = np.arange(N) // (N // 2)
    _, features = _fit(
        [f"c{i % 40}" for i in range(N)], CATEGORICAL, Recipe(), y=groups, groups=groups
    )
    assert features[:100].min() == features[:100].max() == 1
    assert features[100:].min() == features[100:].max() == 0


def test_a_hundred_thousand_categories_take_a_moment():
    values = pd.Series([f"c{i % 100_000}" for i in range(200_000)])
    start = time.process_time()
    for recipe in (Recipe(), NATIVE):
        encoder, *_ = _fit_both(values, CATEGORICAL, recipe)
        encoder.transform(_new(values))
    assert time.process_time() - start < 10


DAYS = pd.date_range("2023-12-25", periods=20, freq="23h")


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        (DAYS, None),
        (DAYS.tz_localize("UTC").tz_convert("Asia/Tokyo"), None),
        (DAYS.astype(str), None),
        (DAYS.strftime("%d/%m/%Y %H:%M"), None),
        (DAYS.strftime("%Y-%m-%dT%H:%M:%S+00:00"), None),
        (DAYS, pd.ArrowDtype(pa.timestamp("us", "Europe/Paris"))),
        (DAYS.astype(str), pd.ArrowDtype(pa.string())),
        (DAYS.astype(str), "category"),
        (list(DAYS.to_pydatetime()), object),
    ],
    ids=lambda value: str(value)[:40],
)
def test_dates_of_any_type_become_the_same_parts(values, dtype):
    encoder, features = _fit(values, DATE, Recipe(), dtype=dtype)
    parts = ["year", "month", "day", "hour", "total_seconds", "weekday", "day_of_year"]
    assert encoder.feature_names() == [f"a_{part}" for part in parts]
    seconds = np.float32(1703462400 + 82800)
    np.testing.assert_array_equal(features[1], [2023, 12, 25, 23, seconds, 1, 359])
    np.testing.assert_array_equal(_table(encoder, _new(values, dtype)), features)
    np.testing.assert_array_equal(_table(encoder, _new(DAYS)), features)


def test_parts_of_dates_that_do_not_vary_are_left_out():
    values = [date(2024, 5, 1), date(2024, 5, 8), None]
    encoder, features = _fit(values, DATE, Recipe())
    assert encoder.feature_names() == ["a_day", "a_total_seconds", "a_day_of_year"]
    assert np.isnan(features[2]).all()


def test_one_date_that_is_sometimes_missing_still_tells_that():
    encoder, features = _fit([date(2024, 5, 1), date(2024, 5, 1), None], DATE, FILLED)
    assert encoder.feature_names() == ["a_total_seconds", "a_is_missing"]
    np.testing.assert_array_equal(features, [[0, 0], [0, 0], [0, 1]])


def test_missing_dates_are_filled_in_and_told_of_once():
    encoder, features = _fit([date(2024, 5, 1), date(2024, 5, 9), None], DATE, FILLED)
    names = ["a_day", "a_total_seconds", "a_weekday", "a_day_of_year", "a_is_missing"]
    assert encoder.feature_names() == names
    np.testing.assert_allclose(features[2], [0, 0, 0, 0, 1], atol=1e-6)
    np.testing.assert_array_equal(_table(encoder, _new([None, None])), features[[2, 2]])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["01/05/2024", "soon"], "'a' holds dates written as .*, but row 2 holds 'soon'. Correct"),
        (["13/13/2024"], "row 1 holds '13/13/2024'"),
        ([20240501], "row 1 holds (np.int64.)?20240501"),
        ([None, True], "row 2 holds True"),
    ],
)
def test_what_is_no_date_is_refused_with_its_row(values, message):
    encoder, _ = _fit(["01/05/2024", "30/06/2024", None], DATE)
    with pytest.raises(DataError, match=message):
        _table(encoder, _new(values))


def test_junk_among_training_dates_is_refused_with_its_row():
    values = [*DAYS.astype(str), "?"]
    with pytest.raises(DataError, match=r"'a' holds dates, but row 21 holds '\?'"):
        _fit(values, DATE)


@pytest.mark.parametrize("values", [["red", "blue"], [1, 2]])
def test_a_column_that_is_no_date_at_all_is_refused(values):
    with pytest.raises(DataError, match="'a' is to hold dates, but no one way of writing"):
        _fit(values, DATE)


def _mixed_frame():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.normal(50, 10, N),
            "is_old": rng.random(N) > 0.5,
            "site": rng.choice(["back", "arm", "leg"], N),
            "zip": rng.integers(0, 60, N).astype(str),
            "seen": pd.date_range("2020-01-01", periods=N, freq="31h").astype(str),
        }
    )
    return frame.mask(rng.random(frame.shape) < 0.1)


def _fit_mixed(recipe):
    frame = _mixed_frame()
    columns = infer_roles(frame, RoleOverrides(), {})
    assert [column.role for column in columns] == [NUMERIC, BOOLEAN, CATEGORICAL, CATEGORICAL, DATE]
    return frame, *TableEncoder.fit_transform(
        frame, columns, recipe, np.arange(N) % 3, is_classification=True, random_state=0
    )


RECIPES = [
    Recipe(scaling, fills, categories=categories, many_categories=categories, has_splines=fills)
    for scaling, fills in zip(SCALINGS, [True, False, True, False, False], strict=True)
    for categories in CATEGORY_ENCODINGS
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_what_was_saved_encodes_as_before(recipe, tmp_path):
    frame, encoder, table, codes = _fit_mixed(recipe)
    encoder.save(tmp_path)
    loaded = TableEncoder.load(tmp_path)
    for before, after in zip(encoder.transform(frame), loaded.transform(frame), strict=True):
        np.testing.assert_array_equal(before, after)
    assert loaded.feature_names() == encoder.feature_names()
    assert loaded.cardinalities == encoder.cardinalities
    assert len(encoder.feature_names()) == table.shape[1] + codes.shape[1]
    assert not np.isinf(table).any()
    assert np.isnan(table).any() != recipe.fills_missing
    assert table.dtype == np.float32
    assert table.flags.c_contiguous
    assert [part.shape for part in loaded.transform(frame.iloc[:0])] == [
        (0, table.shape[1]),
        (0, codes.shape[1]),
    ]


@pytest.mark.parametrize("recipe", RECIPES[:4])
def test_rows_are_encoded_one_by_one_as_together(recipe):
    frame, encoder, _, _ = _fit_mixed(recipe)
    together = encoder.transform(frame)
    alone = encoder.transform(frame.iloc[[17]])
    for whole, row in zip(together, alone, strict=True):
        np.testing.assert_array_equal(whole[17:18], row)


def test_a_leaf_of_another_type_is_refused(tmp_path):
    encoder, _ = _fit([1.0, 3.0], NUMERIC)
    encoder.save(tmp_path)
    skops.io.dump(MinMaxScaler().fit([[1.0], [3.0]]), tmp_path / "numeric-scaler.skops")
    with pytest.raises(ModelError, match="is a MinMaxScaler, but the model says StandardScaler"):
        TableEncoder.load(tmp_path)


class Strange(StandardScaler):
    """A type that nobody knows."""


def test_a_leaf_of_an_unknown_type_is_never_loaded(tmp_path):
    encoder, _ = _fit([1.0, 3.0], NUMERIC)
    encoder.save(tmp_path)
    skops.io.dump(Strange().fit([[1.0], [3.0]]), tmp_path / "numeric-scaler.skops")
    with pytest.raises(ModelError, match=r"test_encoding\.Strange"):
        TableEncoder.load(tmp_path)


@pytest.mark.parametrize("damage", ["[]", "{", '{"strange": {}}', '{"numeric": {"names": []}}'])
def test_a_damaged_wiring_is_refused(damage, tmp_path):
    (tmp_path / "encoder.json").write_text(damage)
    with pytest.raises(ModelError, match="can't be read"):
        TableEncoder.load(tmp_path)


def test_the_wiring_is_plain_json(tmp_path):
    _, encoder, _, _ = _fit_mixed(Recipe())
    encoder.save(tmp_path)
    wiring = json.loads((tmp_path / "encoder.json").read_text())
    assert wiring["onehot"]["site"]["names"] == ["arm", "back", "leg"]
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".skops"}


@pytest.mark.parametrize("role", [TEXT, VECTOR, IGNORED])
def test_texts_vectors_and_ignored_columns_are_left_to_others(role):
    _, table, codes = _fit_both(["a b", "c d"], role)
    assert table.shape == codes.shape == (2, 0)
