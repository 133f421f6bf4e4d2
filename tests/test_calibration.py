"""Reliability curves and calibration errors that can be believed."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve

from twostage import bootstrap
from twostage.errors import DataError
from twostage.evaluation.calibration import calibrate, share_interval


def _said(n, seed=0, shift=0.0):
    """Probabilities that are too high by a shift."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(0.1, 0.8, n)
    positive = true + shift
    return (rng.random(n) < true).astype(int), np.column_stack([1 - positive, positive])


def test_the_curve_is_scikit_learns():
    y, proba = _said(500)
    expected = calibration_curve(y, proba[:, 1], n_bins=10, strategy="quantile")
    curve = calibrate(y, proba, np.arange(500)).curve
    np.testing.assert_allclose(curve["came_true"], expected[0])
    np.testing.assert_allclose(curve["said"], expected[1])
    assert curve["n_rows"].sum() == 500
    assert curve["n_rows"].between(49, 51).all()


def test_the_error_is_the_mean_gap_by_rows():
    found = calibrate(*_said(500, shift=0.1), np.arange(500))
    gaps = (found.curve["said"] - found.curve["came_true"]).abs()
    assert found.error.value == pytest.approx(np.average(gaps, weights=found.curve["n_rows"]))
    assert found.error.low > 0.02


def test_of_several_classes_the_predicted_one_is_looked_at():
    rng = np.random.default_rng(0)
    proba = rng.dirichlet(np.ones(4), size=400)
    y = np.array([rng.choice(4, p=row) for row in proba])
    top = proba.max(axis=1)
    is_right = (proba.argmax(axis=1) == y).astype(int)
    of_two = calibrate(is_right, np.column_stack([1 - top, top]), np.arange(400))
    of_four = calibrate(y, proba, np.arange(400))
    assert of_four.curve.equals(of_two.curve)
    assert of_four.error == of_two.error


def test_equal_probabilities_share_a_bin():
    y, proba = _said(300)
    curve = calibrate(y, proba.round(0), np.arange(300)).curve
    assert list(curve["said"]) == [0.0, 1.0]
    assert len(calibrate(y, np.full((300, 2), 0.5), np.arange(300)).curve) == 1


@pytest.mark.slow
@pytest.mark.parametrize(("shift", "least"), [(0.0, 0.9), (0.1, 0.9)])
def test_the_error_of_probabilities_of_known_error_is_in_its_interval(monkeypatch, shift, least):
    monkeypatch.setattr(bootstrap, "N_RESAMPLES", 400)
    found = [calibrate(*_said(400, seed, shift), np.arange(400)) for seed in range(100)]
    assert np.mean([each.error.low <= shift <= each.error.high for each in found]) >= least


def test_what_chance_makes_is_what_calibrated_probabilities_show():
    found = [calibrate(*_said(400, seed), np.arange(400)) for seed in range(60)]
    shown = np.mean([each.error.value for each in found])
    assert found[0].by_chance == pytest.approx(shown, rel=0.08)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_intervals_of_shares_in_groups_contain_the_truth(share):
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(40), 5)
    n_in = {"groups": 0, "rows": 0}
    for _ in range(400):
        mine, alike = rng.random(200) < share, rng.random(200) < 0.5
        of_group = (rng.random(40) < share)[groups]
        is_true = np.where(alike, of_group, mine)
        for name, by in (("groups", groups), ("rows", np.arange(200))):
            low, high = share_interval(is_true, by)
            n_in[name] += low <= share <= high
    assert 0.91 <= n_in["groups"] / 400 <= 0.99
    assert n_in["rows"] < n_in["groups"]


def test_a_bin_in_which_nothing_came_true_still_has_an_interval():
    low, high = share_interval(np.zeros(20, bool), np.arange(20))
    assert low == 0
    assert high == pytest.approx(0.161, abs=0.001)
    assert share_interval(np.zeros(20, bool), np.arange(20) // 4)[1] > high


def test_few_groups_leave_the_error_without_an_interval():
    assert not calibrate(*_said(100), np.arange(100) // 10).error.has_interval


def test_no_rows_and_nan_are_refused():
    y, proba = _said(10)
    with pytest.raises(DataError, match="no rows to calibrate on"):
        calibrate(y[:0], proba[:0], np.arange(0))
    proba[3] = np.nan
    with pytest.raises(DataError, match="1 of 10 rows are NaN; first: row 3"):
        calibrate(y, proba, np.arange(10))
