"""Columns of sequences: cells, long tables, alignment in time, what heads see of them."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from twostage import TwoStageClassifier, TwoStageRegressor, attach_sequences, load_model
from twostage.cli.main import main
from twostage.encoding import FeatureEncoder
from twostage.errors import DataError, ModelError, UsageError
from twostage.heads.base import Head
from twostage.recipes import Recipe
from twostage.rows import TrainingRows, row_digests
from twostage.table.roles import SEQUENCE, VECTOR, Column, RoleOverrides, infer_roles
from twostage.table.sequences import (
    SUMMARIES,
    StepsEncoder,
    SummaryEncoder,
    count_channels,
    sequences_in,
)

NESTED_LISTS = pd.ArrowDtype(pa.list_(pa.list_(pa.float64())))


def _series(cells, dtype=object):
    return pd.Series(cells, dtype=dtype, name="a")


def _column(cells):
    return pd.DataFrame({"a": _series(cells)})


@pytest.mark.parametrize(
    ("cells", "lengths", "flat"),
    [
        ([[1, 2], [], None, [3]], [2, 0, 0, 1], [[1], [2], [3]]),
        ([[[1, 2]], [[3, 4], [5, 6]]], [1, 2], [[1, 2], [3, 4], [5, 6]]),
        ([[[1, None], None, [3, 4]]], [3], [[1, np.nan], [np.nan, np.nan], [3, 4]]),
        ([np.arange(4.0).reshape(2, 2), np.empty((0, 7)), float("nan")], [2, 0, 0], None),
        ([np.array([np.array([1.0, 2.0])], object)], [1], [[1, 2]]),
        ([(1, 2), np.array([3, 4], np.int8)], [2, 2], [[1], [2], [3], [4]]),
    ],
)
def test_cells_of_any_kind_are_sequences(cells, lengths, flat):
    values = _series(cells)
    found = sequences_in(values, count_channels(values))
    assert found.lengths.tolist() == lengths
    if flat is not None:
        np.testing.assert_array_equal(found.flat, flat)


def test_lists_of_lists_from_parquet_are_sequences(tmp_path):
    cells = [[[1.0, 2.0], [3.0, 4.0]], [[5.0, None]], None]
    arrow = pd.Series(cells, dtype=NESTED_LISTS, name="a")
    pq.write_table(pa.table({"a": cells}), tmp_path / "t.parquet")
    read = pd.read_parquet(tmp_path / "t.parquet")["a"]
    for values in (arrow, read):
        (column,) = infer_roles(pd.DataFrame({"a": values}), RoleOverrides(), {})
        assert (column.role, column.n_values) == (SEQUENCE, 2)
        assert sequences_in(values, 2).lengths.tolist() == [2, 1, 0]


def test_lists_of_numbers_are_vectors_or_sequences_only_on_request():
    frame = _column([[1, 2], [3, 4]] * 6)
    roles = [
        infer_roles(frame, overrides, {})[0].role
        for overrides in (RoleOverrides(vector=("a",)), RoleOverrides(sequence=("a",)))
    ]
    assert roles == [VECTOR, SEQUENCE]
    (column,) = infer_roles(frame, RoleOverrides(), {})
    assert column.reason == "holds lists; name it with --vector or --sequence to use it"


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["abc"], "is to hold sequences, but row 1 holds 'abc'. A sequence is a list"),
        ([[1], 5], "row 2 holds 5"),
        ([["a"]], "that of row 1 is not made of numbers"),
        ([[[[1]]]], "that of row 1 is not made of numbers"),
        ([[[1, 2]], [], [[1]]], "sequences of 2 channels, but that of row 3 has 1"),
        ([[[1, 2], None, [3]]], "row 1: step 1 has 2 channels, step 3 has 1"),
        ([[1, 2], [3, np.inf]], "infinite or too large number in row 2: inf"),
        ([[], None], "no sequence of any step"),
        ([[[], []]], "steps without channels"),
    ],
)
def test_what_is_no_sequence_is_named(cells, message):
    with pytest.raises(DataError, match=message):
        count_channels(_series(cells))


def test_steps_are_scaled_padded_and_tell_of_gaps():
    values = _series([[[0, 5], [2, None]], [[4, 5]], None])
    encoder = StepsEncoder.fit(values, 2)
    steps = encoder.transform(values)
    assert steps.lengths.tolist() == [2, 1, 0]
    scale = np.sqrt(8 / 3)
    expected = np.zeros((3, 2, 3))
    expected[0] = [[-2 / scale, 0, 0], [0, 0, 1]]  # the third: where the second is missing
    expected[1, 0] = [2 / scale, 0, 0]
    np.testing.assert_allclose(steps.values, expected, atol=1e-6)
    assert encoder.transform(values[:0]).values.shape == (0, 2, 3)


def test_the_last_steps_of_outliers_in_length_are_kept():
    values = _series([[1.0, 2.0]] * 99 + [list(range(50))])
    encoder = StepsEncoder.fit(values, 1)
    assert encoder.length == 4
    steps = encoder.transform(values[-1:])
    assert steps.lengths.tolist() == [4]
    assert (np.diff(steps.values[0, :, 0]) >= 0).all()
    assert encoder.transform(_series([[3.0]])).values[0, :, 0].tolist()[1:] == [0, 0, 0]


def test_a_channel_always_missing_says_nothing():
    values = _series([[[1, None], [2, None]], [[3, None]]])
    encoder = StepsEncoder.fit(values, 2)
    assert encoder.has_gaps == (False, False)
    assert (encoder.transform(values).values[..., 1] == 0).all()
    described = SummaryEncoder.fit(values, 2).transform(values)
    assert np.isfinite(described).all()


def test_a_summary_describes_each_channel():
    values = _series([[[1, np.nan], [2, 7], [6, 9]], [[5, 5]], []])
    encoder = SummaryEncoder.fit(values, 2)
    described = pd.DataFrame(encoder.transform(values), columns=encoder.feature_names("a"))
    first = described.iloc[0]
    told = [first[f"a_0_{what}"] for what in SUMMARIES]
    np.testing.assert_allclose(told, [3, np.sqrt(14 / 3), 1, 6, 1, 6, 2.5, 0], rtol=1e-6)
    told = [first[f"a_1_{what}"] for what in SUMMARIES]
    np.testing.assert_allclose(told, [8, 1, 7, 9, 7, 9, 2, 1 / 3], rtol=1e-6)
    assert described["a_length"].tolist() == [3, 1, 0]
    assert described["a_0_sd"].tolist()[1] == 0  # of one step
    assert described["a_0_slope"].tolist()[1] == 0
    assert described["a_0_missing"].tolist() == [0, 0, 1]
    assert described["a_0_mean"].iloc[2] == 4  # of no step: as on average


class _StepsHead(Head):
    recipe = Recipe(sequences="steps")


@pytest.mark.parametrize("recipe", [Recipe(), _StepsHead.recipe], ids=["summary", "steps"])
def test_encoders_of_sequences_learn_from_training_rows_and_are_read_back(tmp_path, recipe):
    rng = np.random.default_rng(0)
    cells = [rng.normal(size=(n % 5, 2)) for n in range(60)]
    frame = _column(cells)
    column = Column("a", SEQUENCE, "object", n_values=2)
    rows = TrainingRows(frame, {}, np.arange(60) % 2, 2)
    encoder, features = FeatureEncoder.fit_transform(rows, [column], recipe, 0)
    encoder.save(tmp_path)
    again = FeatureEncoder.load(tmp_path)
    known = again.transform(frame, {})
    if recipe.sequences == "steps":
        assert features.n_features == 0
        assert not features.is_empty
        (steps,) = known.sequences
        np.testing.assert_array_equal(steps.values, features.sequences[0].values)
        assert steps.values.shape == (60, 4, 2)
    else:
        assert features.sequences == ()
        assert features.matrix().shape == (60, 17 + 1)
        assert again.feature_names()[:2] == ["a_0_mean", "a_0_sd"]
        np.testing.assert_array_equal(known.matrix()[:, :17], features.matrix()[:, :17])


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("steps", {"length": 10**9}, "of 1000000000 steps"),
        ("steps", {"scales": [1.0]}, "other channels"),
        ("steps", {"scales": [0.0, 1.0]}, "no scales"),
        ("steps", {"means": [float("nan"), 1.0]}, "no scales"),
        ("summaries", {"fills": [1.0]}, "other numbers"),
        ("summaries", {"fills": [1.0] * 9}, "other numbers than its block"),
    ],
)
def test_a_damaged_record_of_sequences_is_refused(tmp_path, part, change, message):
    recipe = Recipe(sequences="steps" if part == "steps" else "summary")
    rows = TrainingRows(_column([[[1, 2], [3, 5]]] * 4), {}, np.arange(4) % 2, 2)
    column = Column("a", SEQUENCE, "object", n_values=2)
    FeatureEncoder.fit_transform(rows, [column], recipe, 0)[0].save(tmp_path)
    record = json.loads((tmp_path / "encoding.json").read_text())
    record[part]["a"] |= change
    (tmp_path / "encoding.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=message):
        FeatureEncoder.load(tmp_path)


def test_the_largest_numbers_are_described_and_scaled(tmp_path):
    frame = _column([[1e30, -1e30], [1.0], [-1e30, 1e30, 5.0]] * 4)
    column = Column("a", SEQUENCE, "object", n_values=1)
    rows = TrainingRows(frame, {}, np.arange(12) % 2, 2)
    for number, recipe in enumerate([Recipe(), _StepsHead.recipe]):
        folder = tmp_path / str(number)
        folder.mkdir()
        FeatureEncoder.fit_transform(rows, [column], recipe, 0)[0].save(folder)
        features = FeatureEncoder.load(folder).transform(frame, {})
        assert np.isfinite(features.matrix()).all()
        assert all(np.isfinite(steps.values).all() for steps in features.sequences)


def test_digests_of_rows_see_every_step():
    long = np.zeros((5000, 1))
    other = long.copy()
    other[2500] = 1
    frame = _column([long, other, long.copy(), long[:, 0].tolist()])
    digests = row_digests(frame)
    assert digests[0] == digests[2] == digests[3]
    assert digests[0] != digests[1]


# Long tables.

TABLE = pd.DataFrame({"id": [3, 1, 2], "y": [0, 1, 0]}, index=[7, 8, 9])
LONG = pd.DataFrame(
    {"id": [1, 3, 1, 3, 1], "t": [2, 1, 0, 5, 1], "x": [12.0, 31, 10, 35, 11], "z": [1, 2, 3, 4, 5]}
)


def _attached(table=TABLE, long=LONG, **options):
    return attach_sequences(table, long, **({"id": "id", "step": "t"} | options))


def test_steps_are_sorted_and_joined_by_id():
    with pytest.warns(UserWarning, match="1 of 3 rows have no sequence; first: row 3, id 2"):
        joined = _attached(channels=["x"])
    assert joined.index.tolist() == [7, 8, 9]
    told = [cell[:, 0].tolist() for cell in joined["sequence"]]
    assert told == [[31, 35], [10, 11, 12], []]
    assert "sequence" not in TABLE


def test_ids_are_matched_whatever_their_type():
    long = LONG.assign(id=LONG["id"].astype(str))
    table = TABLE.assign(id=TABLE["id"].astype(float))[:2]
    assert [len(cell) for cell in _attached(table, long)["sequence"]] == [2, 3]


def test_sequences_without_a_row_and_columns_without_numbers_are_noted():
    with pytest.warns(UserWarning) as told:
        joined = _attached(TABLE[:1], LONG.assign(note="a"))
    texts = [str(warning.message) for warning in told]
    assert texts == [
        "1 of 2 sequences are of ids that no row has, and left out: '1'.",
        "Of the long table of sequences, 'note' is left out: no numbers.",
    ]
    assert joined["sequence"].iloc[0].tolist() == [[31, 2], [35, 4]]


def test_steps_may_be_dates():
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(LONG["t"], unit="D")
    for steps in (days, days.dt.strftime("%d/%m/%Y")):
        joined = _attached(TABLE[:2], LONG.assign(t=steps), channels=["x"])
        assert joined["sequence"].iloc[1][:, 0].tolist() == [10, 11, 12]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"t": [0, 1, 0, 5, 1]}, {}, "Sequence '1' has two values in rows 1 and 3 of its long"),
        ({"t": [None, 1, 0, 5, 1]}, {}, "Row 1 of the long table of sequences has no step in"),
        ({"id": [1, None, 1, 3, 1]}, {}, "Row 2 of the long table of sequences has no id in"),
        ({"t": ["a", "b", "c", "d", "e"]}, {}, "are neither numbers nor dates"),
        ({"x": list("abcde")}, {"channels": ["x"]}, "Channel 'x' of the long table of sequences"),
        ({"id": ["a"] * 5, "t": range(5)}, {}, "None of the ids in column 'id' of the table"),
        ({}, {"channels": ["nothing"]}, "In the long table of sequences: The table has no channel"),
        ({}, {"name": "y"}, "has a column 'y' already"),
        ({}, {"step": "id"}, "can't be the column of ids and of steps"),
        ({}, {"channels": ["x", "x"]}, "Channel 'x' is named twice"),
        ({}, {"align": "nearest"}, "align must be one of asof, linear"),
        ({}, {"slower": LONG}, "Both long tables have a channel 'x'"),
    ],
)
def test_a_wrong_long_table_is_explained(change, options, message):
    with pytest.raises((DataError, UsageError), match=message):
        _attached(long=LONG.assign(**change), **options)


@pytest.mark.parametrize(
    ("align", "expected"),
    [
        ("asof", [np.nan, 10, 10, 10, 20, 20, np.nan, 5]),
        ("linear", [np.nan, 10, 12.5, 15, 20, 20, np.nan, 5]),
    ],
)
def test_slower_measurements_are_aligned_in_time(align, expected):
    long = pd.DataFrame({"id": [1] * 6 + [2] * 2, "t": [0, 1, 2, 3, 5, 9, 0, 1], "x": 0.0})
    slower = pd.DataFrame(
        {"id": [1, 2, 1, 1], "t": [5, 1, 1, 3], "slow": [20.0, 5, 10, np.nan]}
    ).sample(frac=1, random_state=0)
    table = pd.DataFrame({"id": [1, 2]})
    joined = _attached(table, long, slower=slower, align=align)
    found = np.concatenate([cell[:, 1] for cell in joined["sequence"]])
    np.testing.assert_allclose(found, expected)


def test_a_long_table_without_rows_is_explained():
    with pytest.raises(DataError, match="The long table of sequences has no rows"):
        _attached(long=LONG[:0])


def test_dates_and_numbers_are_not_aligned():
    slower = pd.DataFrame({"id": [1], "t": ["2024-01-01"], "slow": [1.0]})
    with pytest.raises(DataError, match="dates in one long table and numbers in the other"):
        _attached(slower=slower)


# From the table to predictions.


def _trends(n, rng):
    """Return a table and a long table: the class is the sign of the trend."""
    y = rng.integers(0, 2, n)
    parts = [
        pd.DataFrame({"id": i, "t": np.arange(k), "x": (2 * y[i] - 1) * np.arange(k) + offset})
        for i, (k, offset) in enumerate(
            zip(rng.integers(3, 9, n), rng.normal(0, 9, n), strict=True)
        )
    ]
    return pd.DataFrame({"id": range(n), "y": y}), pd.concat(parts).sample(frac=1, random_state=0)


@pytest.fixture(scope="module")
def trends(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trends")
    table, long = _trends(120, np.random.default_rng(0))
    table.to_csv(folder / "table.csv", index=False)
    long.to_csv(folder / "long.csv", index=False)
    return folder, table, long


def test_estimators_take_a_column_of_sequences(trends, tmp_path):
    _, table, long = trends
    joined = _attached(table, long)
    train, test = joined[:80], joined[80:]
    model = TwoStageClassifier(head="linear", ignore=["id"]).fit(
        train[["id", "sequence"]], train["y"]
    )
    assert model.score(test[["id", "sequence"]], test["y"]) > 0.95
    model.save(tmp_path / "model")
    again = load_model(tmp_path / "model")
    np.testing.assert_array_equal(
        again.predict_proba(test[["id", "sequence"]]), model.predict_proba(test[["id", "sequence"]])
    )


def test_a_row_without_steps_or_with_one_is_predicted(trends):
    _, table, long = trends
    joined = _attached(table, long)
    for head in ("lightgbm", "linear"):
        model = TwoStageRegressor(head=head).fit(joined[["sequence"]], joined["y"])
        odd = pd.DataFrame({"sequence": _series([np.empty((0, 1)), np.ones((1, 1)), None])})
        assert np.isfinite(model.predict(odd)).all()
        with pytest.raises(DataError, match="sequences of 1 channel, but that of row 1 has 2"):
            model.predict(pd.DataFrame({"sequence": _series([np.ones((3, 2))])}))


def _run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command_line_joins_long_tables(trends, tmp_path):
    folder, _, _ = trends
    table = ("--table", folder / "table.csv")
    long = ("--sequences", folder / "long.csv")
    how = ("--sequence-id", "id", "--step", "t")
    fit = ("fit", "--features", "table", *table, "--target", "y", "--head", "linear")
    model = tmp_path / "model"
    result = _run(*fit, *long, *how, "-o", model)
    assert result.exit_code == 0, result.output
    assert "Sequence: sequence (1)." in result.output
    assert "Ignored: id (on request)." in result.output
    predictions = tmp_path / "p.csv"
    result = _run("predict", model, *table, *long, "-o", predictions)
    assert result.exit_code == 0, result.output
    assert "left out" not in result.output
    assert len(pd.read_csv(predictions)) == 120

    for wrong, message in [
        (("predict", model, *table, "-o", predictions), "give --sequences with their long table"),
        (
            ("predict", model, *table, *long, "--slower", folder / "long.csv", "-o", predictions),
            "without --slower: leave it out",
        ),
        ((*fit, "--step", "t", "-o", model), "--step is about a long table"),
        ((*fit, *long, "-o", model), "--sequences needs --sequence-id"),
        ((*fit, *long, *how, "--slower-channel", "x", "-o", model), "give it as --slower"),
    ]:
        result = _run(*wrong)
        assert result.exit_code == 2, result.output
        assert message in result.output
    result = _run("evaluate", model, *table, *long)
    assert "the model has seen all 120 rows" in result.output


@pytest.mark.slow
def test_a_benchmark_scores_sequences(trends, tmp_path):
    folder, _, _ = trends
    result = _run(
        *("benchmark", "--features", "table", "--table", folder / "table.csv", "--target", "y"),
        *("--sequences", folder / "long.csv", "--sequence-id", "id", "--step", "t", "--folds", 2),
        *("--heads", "linear", "--n-jobs", 1, "-o", tmp_path / "results"),
    )
    assert result.exit_code == 0, result.output
    assert "sequence" in result.output


def test_a_model_of_sequences_that_was_damaged_is_refused(trends, tmp_path):
    _, table, long = trends
    joined = _attached(table, long)
    model = TwoStageClassifier(head="linear").fit(joined[["sequence"]], joined["y"])
    model.save(tmp_path / "model")
    record = tmp_path / "model" / "model.json"
    record.write_text(record.read_text().replace('"sequences": null', '"sequences": {"id": 5}'))
    with pytest.raises(ModelError):
        load_model(tmp_path / "model")
