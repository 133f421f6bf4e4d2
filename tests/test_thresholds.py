"""The threshold table: what each threshold does, and why it is shown."""

import numpy as np
import pytest
from sklearn import metrics as reference

from twostage.errors import DataError
from twostage.evaluation.thresholds import threshold_table


def _data(n=300, seed=0, decimals=2):
    rng = np.random.default_rng(seed)
    is_positive = rng.random(n) < 0.3
    return is_positive, np.clip(rng.normal(0.35 + 0.25 * is_positive, 0.2), 0, 1).round(decimals)


def _row(table, why):
    return table.set_index("why").loc[why]


def test_every_threshold_does_what_scikit_learn_counts():
    is_positive, probability = _data()
    for row in threshold_table(is_positive, probability).itertuples():
        flagged = probability >= row.threshold
        assert row.share_flagged == pytest.approx(flagged.mean())
        assert row.sensitivity == pytest.approx(reference.recall_score(is_positive, flagged))
        assert row.specificity == pytest.approx(reference.recall_score(~is_positive, ~flagged))
        assert row.precision == pytest.approx(reference.precision_score(is_positive, flagged))
        assert row.npv == pytest.approx(reference.precision_score(~is_positive, ~flagged))
        assert row.f1 == pytest.approx(reference.f1_score(is_positive, flagged))
        assert row.accuracy == pytest.approx(reference.accuracy_score(is_positive, flagged))


def test_the_best_thresholds_are_the_best_there_are():
    is_positive, probability = _data()
    table = threshold_table(is_positive, probability)
    every = threshold_table(is_positive, probability, thresholds=np.unique(probability))
    youden = every["sensitivity"] + every["specificity"]
    best = _row(table, "best Youden")
    assert best["sensitivity"] + best["specificity"] == youden.max()
    assert _row(table, "best F1")["f1"] == every["f1"].max()


@pytest.mark.parametrize("target", [0.8, 0.9, 0.95])
def test_thresholds_for_a_target_reach_it_and_go_no_further(target):
    is_positive, probability = _data()
    table = threshold_table(is_positive, probability)
    row = _row(table, f"sensitivity {target:g}")
    assert row["sensitivity"] >= target
    assert (probability[is_positive] > row["threshold"]).mean() < target
    row = _row(table, f"specificity {target:g}")
    assert row["specificity"] >= target
    lower = probability[probability < row["threshold"]].max()
    assert (probability[~is_positive] < lower).mean() < target


def test_the_half_is_always_there_and_rows_are_in_order():
    table = threshold_table(*_data())
    assert _row(table, "given")["threshold"] == 0.5
    assert table["threshold"].is_monotonic_increasing
    assert len(table) == 9


def test_where_none_may_be_flagged_the_threshold_is_infinite_and_shares_of_none_are_nan():
    is_positive = np.array([True] * 5 + [False] * 5)
    row = _row(threshold_table(is_positive, np.full(10, 0.7)), "specificity 0.9")
    assert row["threshold"] == np.inf
    assert row["share_flagged"] == 0
    assert np.isnan(row["precision"])
    assert row["npv"] == 0.5
    assert row["f1"] == 0


def test_one_class_and_nan_are_refused():
    with pytest.raises(DataError, match="but 0 of 3 are positive"):
        threshold_table(np.zeros(3, bool), np.array([0.1, 0.2, 0.3]))
    with pytest.raises(DataError, match="1 of 2 rows are NaN; first: row 1"):
        threshold_table(np.array([True, False]), np.array([0.1, np.nan]))
