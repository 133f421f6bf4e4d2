"""Table columns as numbers."""

import numpy as np
import pandas as pd
import pytest

from twostage.errors import DataError
from twostage.table.encoding import TableEncoder, numbers_in
from twostage.table.roles import (
    CATEGORICAL,
    HIGH_CARDINALITY,
    IGNORED,
    MAX_ONE_HOT,
    NUMERIC,
    Column,
)

N = 200


def _column(name, role):
    return Column(name, role, "any")


def _fit(values, role, y=None, *, is_classification=True, dtype=None):
    """Fit on one column, ``a``; its encoder and the features of its own rows."""
    frame = pd.DataFrame({"a": pd.Series(values, dtype=dtype)})
    y = np.arange(len(frame)) % 2 if y is None else y
    if role == CATEGORICAL and frame["a"].nunique() > MAX_ONE_HOT:
        role = HIGH_CARDINALITY
    return TableEncoder.fit_transform(
        frame, [_column("a", role)], y, is_classification=is_classification, random_state=0
    )


def _new(values, dtype=None):
    return pd.DataFrame({"a": pd.Series(values, dtype=dtype)})


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
    np.testing.assert_array_equal(encoder.transform(_new(values, dtype)), features)


def test_new_numbers_are_scaled_as_the_training_rows_were():
    encoder, _ = _fit([1.0, 3.0], NUMERIC)
    np.testing.assert_allclose(encoder.transform(_new([2.0, 5.0, None]))[:, 0], [0, 3, np.nan])


def test_each_category_and_missing_is_a_column_and_unseen_is_zeros():
    encoder, features = _fit(["red", None, "blue", "red"], CATEGORICAL)
    assert encoder.feature_names() == ["a_blue", "a_red", "a_nan"]
    np.testing.assert_array_equal(features, [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(
        encoder.transform(_new(["green", "blue", None])), [[0, 0, 0], [1, 0, 0], [0, 0, 1]]
    )


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_missing_where_none_was_at_fit_is_zeros(missing):
    encoder, _ = _fit(["red", "blue"], CATEGORICAL)
    np.testing.assert_array_equal(encoder.transform(_new([missing], object)), [[0, 0]])


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
    np.testing.assert_array_equal(encoder.transform(_new([1, 1.0, "1"], object)), [[1, 0]] * 3)
    np.testing.assert_array_equal(features, np.eye(2))


@pytest.mark.parametrize(("n_categories", "n_features"), [(MAX_ONE_HOT, 30), (MAX_ONE_HOT + 1, 1)])
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
        _fit(names, CATEGORICAL, target, is_classification=is_classification)[1][:, 0]
        for target in (y, changed)
    )
    siblings = (names == names[row]) & (np.arange(N) != row)
    assert after[row] == before[row]
    assert (after[siblings] != before[siblings]).any()


def test_new_rows_get_their_categorys_mean_and_unseen_ones_the_overall_mean():
    names = [f"c{i % 40}" for i in range(N)]
    y = np.arange(N) % 40 + 0.5 * (np.arange(N) % 2)
    encoder, _ = _fit(names, CATEGORICAL, y, is_classification=False)
    encoded = encoder.transform(_new(["c0", "c39", "never seen", None]))[:, 0]
    np.testing.assert_allclose(encoded[:2], [y[::40].mean(), y[39::40].mean()], atol=0.1)
    np.testing.assert_allclose(encoded[2:], y.mean(), rtol=1e-6)


def test_a_wide_category_gives_one_feature_per_class_of_many():
    encoder, features = _fit([f"c{i % 40}" for i in range(N)], CATEGORICAL, np.arange(N) % 3)
    assert encoder.feature_names() == ["a_0", "a_1", "a_2"]
    assert features.shape == (N, 3)


def test_the_same_seed_encodes_by_the_same_folds():
    names, y = [f"c{i % 40}" for i in range(N)], np.random.default_rng(0).integers(0, 2, N)
    first, again = (_fit(names, CATEGORICAL, y)[1] for _ in range(2))
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
        encoder.transform(_new(values, object))
    with pytest.raises(DataError, match=message):
        _fit(values, NUMERIC, dtype=object)


def test_the_row_named_is_counted_from_the_top_whatever_the_index():
    frame = pd.DataFrame({"a": ["1", "bad"]}, index=[70, 50])
    with pytest.raises(DataError, match="row 2 holds 'bad'"):
        _fit([1.0, 3.0], NUMERIC)[0].transform(frame)


@pytest.mark.parametrize("columns", [[], [_column("a", IGNORED)]])
def test_nothing_to_encode_gives_no_features(columns):
    frame = _new([1, 2, 3])
    encoder, features = TableEncoder.fit_transform(
        frame, columns, np.array([0, 1, 0]), is_classification=True, random_state=0
    )
    assert features.shape == encoder.transform(frame).shape == (3, 0)
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
    roles = {"site": CATEGORICAL, "zip": HIGH_CARDINALITY, "age": NUMERIC, "area": NUMERIC}
    columns = [_column(name, role) for name, role in roles.items()]
    encoder, features = TableEncoder.fit_transform(
        frame, columns, np.arange(N) % 2, is_classification=True, random_state=0
    )
    named = dict(zip(encoder.feature_names(), features.T, strict=True))
    assert set(named) == {"age", "area", "site_arm", "site_leg", "zip"}
    np.testing.assert_allclose(named["age"], -named["area"], atol=1e-6)
    np.testing.assert_array_equal(named["site_leg"], np.arange(N) % 2)


@pytest.mark.parametrize("role", [NUMERIC, CATEGORICAL])
def test_features_are_float32_and_the_table_is_not_modified(role):
    frame = _new([1, 2, None, 1])
    before = frame.copy()
    encoder, features = TableEncoder.fit_transform(
        frame, [_column("a", role)], np.arange(4) % 2, is_classification=True, random_state=0
    )
    assert features.dtype == encoder.transform(frame).dtype == np.float32
    pd.testing.assert_frame_equal(frame, before)


def test_columns_are_taken_by_name_in_any_order():
    frame = pd.DataFrame({"a": [1.0, 3.0], "b": ["u", "v"]})
    columns = [_column("a", NUMERIC), _column("b", CATEGORICAL)]
    encoder, features = TableEncoder.fit_transform(
        frame, columns, np.array([0, 1]), is_classification=True, random_state=0
    )
    turned = frame[["b", "a"]].assign(extra="w")
    np.testing.assert_array_equal(encoder.transform(turned), features)


def test_a_training_row_does_not_see_the_target_of_its_group():
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(60), 5)
    y = rng.integers(0, 2, 60)[groups]
    frame = pd.DataFrame({"clinic": groups.astype(str)})
    column = Column("clinic", HIGH_CARDINALITY, "str")
    options = {"is_classification": True, "random_state": 0}
    _, by_row = TableEncoder.fit_transform(frame, [column], y, **options)
    _, by_group = TableEncoder.fit_transform(frame, [column], y, **options, groups=groups)
    assert np.corrcoef(by_row[:, 0], y)[0, 1] > 0.9
    assert abs(np.corrcoef(by_group[:, 0], y)[0, 1]) < 0.5


def test_dates_are_no_numbers():
    with pytest.raises(DataError, match="'seen' holds dates"):
        numbers_in(pd.Series(pd.to_datetime(["2020-01-01", None]), name="seen"))


def test_huge_numbers_stay_finite():
    encoder, features = _fit([1.0, 0.0, 2.0], NUMERIC)
    assert np.isfinite(features).all()
    assert np.isfinite(encoder.transform(_new([1e29]))).all()
    with pytest.raises(DataError, match="too large value in row 1: 1e"):
        encoder.transform(_new([1e300]))
