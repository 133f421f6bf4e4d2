"""Scores of cross-validation and differences between them, with intervals that hold."""

import sys
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from sklearn.model_selection import RepeatedStratifiedKFold, cross_val_score

from twostage.bootstrap import Score
from twostage.errors import DataError, UsageError
from twostage.intervals import (
    FoldPrediction,
    cross_validated_difference,
    cross_validated_score,
)
from twostage.metrics import METRICS, score

AUC, R2, LOG_LOSS = METRICS["auc"], METRICS["r2"], METRICS["log_loss"]
N = 100


def _data(seed=0, signal=1.0):
    rng = np.random.default_rng(seed)
    y = np.arange(N) % 2
    return rng.normal(size=(N, 4)) + signal * np.outer(y, [1, 0, 0, 0]), y


def _folds(n_repeats=1, columns=slice(None), signal=1.0, n_folds=5):
    x, y = _data(signal=signal)
    x = x[:, columns]
    cuts = RepeatedStratifiedKFold(n_splits=n_folds, n_repeats=n_repeats, random_state=0)
    folds = []
    for number, (train, test) in enumerate(cuts.split(x, y)):
        proba = LogisticRegression().fit(x[train], y[train]).predict_proba(x[test])
        place = divmod(number, n_folds)
        folds.append(FoldPrediction(*place, y[test], proba, test, len(train)))
    return folds


def _of_values(n_repeats=1, noise=0.5, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.normal(size=N)
    folds = []
    for repeat in range(n_repeats):
        for fold, rows in enumerate(np.array_split(rng.permutation(N), 5)):
            predicted = y[rows] + noise * rng.normal(size=len(rows))
            folds.append(FoldPrediction(repeat, fold, y[rows], predicted, rows, 80))
    return folds


def _width(found):
    return found.high - found.low


def test_auc_is_the_mean_over_folds_that_scikit_learn_reports():
    cuts = RepeatedStratifiedKFold(n_splits=5, n_repeats=3, random_state=0)
    expected = cross_val_score(LogisticRegression(), *_data(), cv=cuts, scoring="roc_auc").mean()
    assert cross_validated_score(AUC, _folds(3)).value == pytest.approx(expected)


def test_folds_whose_scales_differ_do_not_hurt_their_auc():
    folds = _folds()
    shifted = [
        replace(fold, predicted=fold.predicted @ [[1, 0], [0.1 * fold.fold, 1]]) for fold in folds
    ]
    pooled = (
        np.concatenate([fold.y for fold in folds]),
        np.concatenate([fold.predicted[:, 1] for fold in shifted]),
    )
    found = cross_validated_score(AUC, shifted)
    assert found.value == cross_validated_score(AUC, folds).value
    assert roc_auc_score(*pooled) != pytest.approx(found.value, abs=0.001)


def test_r2_and_f1_are_those_of_all_rows_of_a_repeat():
    folds = _of_values()
    y, predicted = (np.concatenate([getattr(f, k) for f in folds]) for k in ("y", "predicted"))
    assert cross_validated_score(R2, folds).value == pytest.approx(r2_score(y, predicted))
    folds = _folds()
    y, label = (
        np.concatenate(each)
        for each in zip(*((f.y, f.predicted.argmax(axis=1)) for f in folds), strict=True)
    )
    assert cross_validated_score(METRICS["f1"], folds).value == pytest.approx(f1_score(y, label))


@pytest.mark.parametrize("name", ["auc", "log_loss", "accuracy", "kappa"])
def test_five_folds_have_an_interval_half_as_wide_again_as_independent_rows(name):
    folds = _folds()
    y, predicted = (np.concatenate([getattr(f, k) for f in folds]) for k in ("y", "predicted"))
    plain = score([METRICS[name]], y, predicted, np.arange(N))[name]
    found = cross_validated_score(METRICS[name], folds)
    assert found.low < found.value < found.high
    assert _width(found) / _width(plain) == pytest.approx(1.5, rel=0.12)


def test_repeats_steady_the_value_but_do_not_narrow_the_interval():
    folds = _of_values(9)
    each = [
        cross_validated_score(R2, [fold for fold in folds if fold.repeat == repeat])
        for repeat in range(9)
    ]
    found = cross_validated_score(R2, folds)
    assert found.value == pytest.approx(np.mean([one.value for one in each]))
    assert _width(found) == pytest.approx(np.mean([_width(one) for one in each]))


def test_copies_of_rows_in_one_group_do_not_narrow_the_interval():
    folds = _folds()
    fourfold = [
        replace(
            fold,
            y=np.repeat(fold.y, 4),
            predicted=np.repeat(fold.predicted, 4, axis=0),
            groups=np.repeat(fold.groups, 4),
            n_train=4 * fold.n_train,
        )
        for fold in folds
    ]
    assert cross_validated_score(AUC, fourfold) == cross_validated_score(AUC, folds)


def test_ends_stay_where_a_metric_can_be():
    y = np.r_[np.zeros(50, int), np.ones(50, int)]
    chances = np.r_[np.linspace(0, 0.5, 50), np.linspace(0.44, 1, 50)]
    proba = np.column_stack([1 - chances, chances])
    folds = [FoldPrediction(0, k, y[k::5], proba[k::5], np.arange(100)[k::5], 80) for k in range(5)]
    found = cross_validated_score(AUC, folds)
    assert 0.98 < found.value < 1
    assert found.high == 1


def _perfect():
    y = np.arange(N) % 2
    proba = np.column_stack([1 - y, y])
    return [FoldPrediction(0, k, y[k::5], proba[k::5], np.arange(N)[k::5], 80) for k in range(5)]


def test_a_perfect_score_is_not_a_certain_one():
    # 20 rows of the rarer class in all, and folds that share training rows.
    folds = [replace(fold, groups=fold.groups % 40) for fold in _perfect()]
    found = cross_validated_score(AUC, folds)
    assert (found.value, found.high) == (1, 1)
    assert found.low == pytest.approx(1 - 1.5 * (1 - 0.025 ** (1 / 20)))
    apart = cross_validated_difference(
        AUC, folds, [replace(f, predicted=f.predicted / 2) for f in folds]
    )
    assert (apart.value, apart.low, apart.high) == pytest.approx((0, found.low - 1, 1 - found.low))


def test_arms_that_rank_alike_do_not_differ():
    halved = [replace(fold, predicted=fold.predicted / 2) for fold in _folds()]
    assert cross_validated_difference(AUC, _folds(), halved) == Score(0, 0, 0)


def test_a_fold_without_a_class_is_left_out_of_the_auc():
    folds = _folds()
    lone = replace(folds[0], y=np.zeros_like(folds[0].y))
    with_lone, without = (cross_validated_score(AUC, [*more, *folds[1:]]) for more in ([lone], []))
    assert with_lone.value == without.value
    assert np.isnan(cross_validated_score(AUC, [lone]).value)


def test_few_groups_have_a_value_but_no_interval():
    folds = [replace(fold, groups=fold.groups // 10) for fold in _folds()]
    found = cross_validated_score(AUC, folds)
    assert np.isfinite(found.value)
    assert not found.has_interval


def test_a_difference_is_paired_and_narrower_than_of_independent_arms():
    both, one = _folds(2), _folds(2, slice(0, 1))
    found = cross_validated_difference(AUC, both, one)
    of_both, of_one = cross_validated_score(AUC, both), cross_validated_score(AUC, one)
    assert found.value == pytest.approx(of_both.value - of_one.value)
    assert _width(found) < 0.7 * np.hypot(_width(of_both), _width(of_one))
    swapped = cross_validated_difference(AUC, one, both)
    assert (swapped.low, swapped.high) == pytest.approx((-found.high, -found.low), abs=0.005)


def test_an_arm_does_not_differ_from_itself():
    assert cross_validated_difference(AUC, _folds(), _folds()) == Score(0, 0, 0)


def test_a_useful_column_beats_a_useless_one():
    found = cross_validated_difference(AUC, _folds(signal=2.0), _folds(columns=[1], signal=2.0))
    assert found.low > 0


def test_arms_on_other_folds_are_refused():
    folds = _folds()
    with pytest.raises(UsageError, match="one has 5 and the other 4"):
        cross_validated_difference(AUC, folds, folds[1:])
    with pytest.raises(UsageError, match="fold 0 of repeat 0 and fold 4 of repeat 0"):
        cross_validated_difference(AUC, folds, folds[::-1])
    other = [*folds[:3], replace(folds[3], groups=folds[3].groups + 1), folds[4]]
    with pytest.raises(UsageError, match="fold 3 of repeat 0"):
        cross_validated_difference(AUC, folds, other)


def test_predictions_that_are_nan_are_named_by_fold():
    folds = _folds(2)
    folds[7].predicted[3] = np.nan
    with pytest.raises(DataError, match="1 of 20 predictions of fold 2 of repeat 1 are NaN; first"):
        cross_validated_score(AUC, folds)


def test_no_folds_or_rows_are_refused():
    empty = replace(_folds()[0], y=np.empty(0, int), predicted=np.empty((0, 2)))
    for folds in ([], [empty]):
        with pytest.raises(DataError, match="no rows to score"):
            cross_validated_score(AUC, folds)


def test_same_seed_same_interval():
    first, again, other = (cross_validated_score(AUC, _folds(), seed) for seed in (1, 1, 2))
    assert first == again
    assert first.low != other.low


@pytest.fixture(scope="module")
def coverage():
    """Load the benchmark by its path: there is a package of its name."""
    path = Path(__file__).parents[1] / "benchmarks" / "coverage.py"
    spec = spec_from_file_location("benchmark_of_coverage", path)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", ["100 rows", "100 rows, 3 repeats", "100 rows, ridge"])
def test_intervals_of_useless_learners_contain_chance(coverage, name):
    setting = next(each for each in coverage.NULL if each.name == name)
    for by_method in coverage.measure(setting, 150)["metrics"].values():
        assert by_method["corrected"]["coverage"] >= 0.9  # 4 standard errors under 0.97
        assert by_method["difference"]["coverage"] >= 0.9
        assert by_method["corrected"]["width"] > by_method["uncorrected"]["width"]


@pytest.mark.slow
def test_bootstrap_over_groups_contains_what_is_true_and_over_rows_does_not(coverage):
    for by_method in coverage.measure_rows(60, 5, 300)["metrics"].values():
        assert 0.91 <= by_method["groups"]["coverage"] <= 0.985
        assert by_method["rows"]["coverage"] < 0.9
