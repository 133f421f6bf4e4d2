"""Scores: equal to scikit-learn's, with intervals that hold what they promise."""

import re
from dataclasses import astuple
from math import sqrt
from time import process_time

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm, spearmanr
from sklearn import metrics as reference

from twostage import bootstrap
from twostage.errors import UsageError
from twostage.metrics import (
    METRICS,
    Score,
    find_metrics,
    score,
    score_classification,
    score_regression,
)

N = 60


def _binary(seed=0, n=N):
    """Class numbers, and rounded probabilities, so that there are ties."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, n)
    positive = np.clip((0.3 + 0.3 * y + rng.normal(scale=0.2, size=n)).round(1), 0, 1)
    return y, np.column_stack([1 - positive, positive])


def _multiclass(n_classes, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(N) % n_classes)
    raw = rng.random((N, n_classes)) + 0.4 * np.eye(n_classes)[y]
    return y, raw / raw.sum(axis=1, keepdims=True)


def _values(seed=0, n=N):
    rng = np.random.default_rng(seed)
    predicted = rng.uniform(10, 20, n)
    return predicted + rng.normal(size=n), predicted


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_classification_scores_equal_scikit_learns(n_classes):
    y, proba = _binary() if n_classes == 2 else _multiclass(n_classes)
    scores = score_classification(y, proba, np.arange(N))
    labels = proba.argmax(axis=1)
    ranked = proba[:, 1] if n_classes == 2 else proba
    expected = {
        "auc": reference.roc_auc_score(y, ranked, multi_class="ovr"),
        "log_loss": reference.log_loss(y, proba),
        "accuracy": reference.accuracy_score(y, labels),
        "balanced_accuracy": reference.balanced_accuracy_score(y, labels),
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)


def test_regression_scores_equal_scikit_learns():
    y, predicted = _values()
    scores = score_regression(y, predicted, np.arange(N))
    expected = {
        "r2": reference.r2_score(y, predicted),
        "rmse": reference.root_mean_squared_error(y, predicted),
        "mae": reference.mean_absolute_error(y, predicted),
        "mape": reference.mean_absolute_percentage_error(y, predicted),
    }
    assert {name: score.value for name, score in scores.items()} == pytest.approx(expected)


@pytest.mark.parametrize("least", [0.0, -1.0])
def test_mape_is_left_out_unless_all_true_values_are_positive(least):
    y, predicted = _values()
    y[3] = least
    assert list(score_regression(y, predicted, np.arange(N))) == ["r2", "rmse", "mae"]


def _labels(scorer, **fixed):
    """Turn a scorer of labels into one of probabilities."""
    return lambda y, proba, **kw: scorer(y, proba.argmax(axis=1), **fixed, **kw)


def _ranked(scorer, **fixed):
    def of_proba(y, proba, **kw):
        return scorer(y, proba[:, 1] if proba.shape[1] == 2 else proba, **fixed, **kw)

    return of_proba


def _f1(y, proba, **kw):
    average = "binary" if proba.shape[1] == 2 else "macro"
    return _labels(reference.f1_score, average=average)(y, proba, **kw)


def _kappa(y, proba, **kw):
    labels = range(proba.shape[1])
    scorer = _labels(reference.cohen_kappa_score, weights="quadratic", labels=labels)
    return scorer(y, proba, **kw)


def _spearman(y, predicted, sample_weight):
    """Repeat rows: scikit-learn has no Spearman, and SciPy's takes no weights."""
    times = sample_weight.astype(int)
    return spearmanr(np.repeat(y, times), np.repeat(predicted, times)).statistic


def _r2_of_logs(y, predicted, sample_weight):
    if (y <= 0).any() or (predicted <= 0).any():
        return np.nan
    return reference.r2_score(np.log(y), np.log(predicted), sample_weight=sample_weight)


REFERENCES = {
    "auc": _ranked(reference.roc_auc_score, multi_class="ovr"),
    "average_precision": _ranked(reference.average_precision_score),
    "log_loss": reference.log_loss,
    "brier": _ranked(reference.brier_score_loss),
    "accuracy": _labels(reference.accuracy_score),
    "balanced_accuracy": _labels(reference.balanced_accuracy_score),
    "f1": _f1,
    "kappa": _kappa,
    "r2": reference.r2_score,
    "r2_log": _r2_of_logs,
    "rmse": reference.root_mean_squared_error,
    "mae": reference.mean_absolute_error,
    "mape": reference.mean_absolute_percentage_error,
    "spearman": _spearman,
}
DATA = {
    "two classes, tied": _binary,
    "three classes": lambda seed: _multiclass(3, seed),
    "five classes, tied": lambda seed: (lambda y, p: (y, p.round(1)))(*_multiclass(5, seed)),
    "values": _values,
    "values, tied": lambda seed: tuple(each.round() for each in _values(seed)),
}
CASES = [
    (name, data)
    for name in REFERENCES
    for data in DATA
    if (METRICS[name].task == "regression") == data.startswith("values")
    and (name, data) != ("log_loss", "five classes, tied")  # those don't sum to one
    and (name, data) != ("auc", "five classes, tied")
    and (name, data) != ("brier", "five classes, tied")
]


@pytest.mark.parametrize(("name", "data"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_every_metric_equals_scikit_learns_with_sample_weights(name, data, seed):
    y, predicted = DATA[data](seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, N))
    expected = [REFERENCES[name](y, predicted, sample_weight=row.astype(float)) for row in weights]
    np.testing.assert_allclose(METRICS[name](y, predicted, weights), expected)
    np.testing.assert_allclose(METRICS[name](y, predicted, weights.astype(float)), expected)


@pytest.mark.parametrize("name", ["auc", "average_precision"])
def test_ranks_of_several_tied_classes_equal_scikit_learns_class_by_class(name):
    y, proba = DATA["five classes, tied"](0)
    weights = np.random.default_rng(0).integers(0, 4, (1, N))
    binary = {
        "auc": reference.roc_auc_score,
        "average_precision": reference.average_precision_score,
    }
    each = [binary[name](y == k, proba[:, k], sample_weight=weights[0]) for k in range(5)]
    assert METRICS[name](y, proba, weights)[0] == pytest.approx(np.mean(each))


def test_every_metric_has_a_reference():
    assert set(METRICS) == set(REFERENCES)


def test_metrics_that_are_not_defined_are_nan():
    one_class = np.zeros(4, int), np.tile([0.9, 0.1], (4, 1))
    constant = np.ones(4), np.arange(4.0)
    once = np.ones((1, 4))
    for name in ("auc", "average_precision", "f1", "kappa"):
        assert np.isnan(METRICS[name](*one_class, once)).all()
    for name in ("r2", "spearman"):
        assert np.isnan(METRICS[name](*constant, once)).all()


def test_all_metrics_that_fit_are_found_but_kappa_must_be_asked_for():
    names = [metric.name for metric in find_metrics("classification", np.arange(3))]
    expected = "auc average_precision log_loss brier accuracy balanced_accuracy f1"
    assert names == expected.split()
    assert [m.name for m in find_metrics("classification", np.arange(3), ["kappa"])] == ["kappa"]
    of_values = [metric.name for metric in find_metrics("regression", np.array([0.0, 1.0]))]
    assert of_values == ["r2", "rmse", "mae", "spearman"]


@pytest.mark.parametrize(
    ("task", "name", "message"),
    [
        ("classification", "r2", "'r2' is for regression, not classification. Those that fit"),
        ("classification", "acuracy", "Unknown metric 'acuracy'. Did you mean 'accuracy'?"),
        (
            "regression",
            "auc",
            "not regression. Those that fit regression: r2, r2_log, rmse",
        ),
        ("regression", "mape", "but 2 of 3 are not; first: row 1, -2. Ask for 'mae' instead."),
    ],
)
def test_a_metric_that_does_not_fit_is_refused_with_those_that_do(task, name, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        find_metrics(task, np.array([1.0, -2.0, 0.0]), [name])


def test_log_loss_of_a_certain_mistake_is_finite():
    proba = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    y = np.array([1, 1, 1])
    value = score_classification(y, proba, np.arange(3))["log_loss"].value
    assert value == pytest.approx(reference.log_loss(y, proba, labels=[0, 1]))


KNOWN = {
    "auc": norm.cdf(1 / sqrt(2)),
    "accuracy": norm.cdf(0.5),
    "balanced_accuracy": norm.cdf(0.5),
    "log_loss": norm(loc=0.5).expect(lambda s: np.logaddexp(0, -s)),
    "r2": 0.8,
    "rmse": 1.0,
    "mae": sqrt(2 / np.pi),
}
N_SIMULATIONS = 200


@pytest.fixture(scope="module")
def simulated():
    """Scores of 200 samples from a population whose scores are known."""
    rng = np.random.default_rng(0)
    samples = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "N_RESAMPLES", 400)
        for _ in range(N_SIMULATIONS):
            y = np.arange(200) % 2
            positive = expit(rng.normal(y - 0.5))
            predicted = rng.normal(scale=2, size=200)
            rows = np.arange(200)
            samples.append(
                score_classification(y, np.column_stack([1 - positive, positive]), rows)
                | score_regression(rng.normal(predicted), predicted, rows)
            )
    return samples


@pytest.mark.parametrize("name", KNOWN)
def test_intervals_cover_the_known_value_about_95_times_in_100(simulated, name):
    n_covered = sum(score[name].low <= KNOWN[name] <= score[name].high for score in simulated)
    assert 0.90 <= n_covered / N_SIMULATIONS <= 0.99


@pytest.mark.parametrize("name", ["auc", "log_loss", "accuracy", "balanced_accuracy"])
def test_interval_by_groups_is_wider_when_groups_repeat_rows(name):
    y, proba = (np.repeat(each, 4, axis=0) for each in _binary())
    by_row = score_classification(y, proba, np.arange(len(y)))[name]
    by_group = score_classification(y, proba, np.repeat(np.arange(N), 4))[name]
    assert by_group.value == by_row.value
    assert (by_group.high - by_group.low) / (by_row.high - by_row.low) == pytest.approx(2, abs=0.3)


@pytest.mark.parametrize("name", ["auc", "balanced_accuracy"])
def test_resamples_without_a_class_are_left_out_of_the_interval(name):
    y = np.r_[1, np.zeros(23, int)]
    proba = np.column_stack([1 - y, y]) * 0.8 + 0.1
    found = score_classification(y, proba, np.arange(24))[name]
    assert found == Score(1.0, pytest.approx(0.025), 1.0)  # of one row one can't say much


def test_few_groups_give_no_interval():
    y = np.arange(40) % 2
    proba = np.column_stack([1 - y, y]) * 0.8 + 0.1
    score = score_classification(y, proba, np.arange(40) // 3)["auc"]
    assert score.value == 1.0
    assert np.isnan([score.low, score.high]).all()
    assert str(score) == "1.000 (too few rows for an interval)"


def test_auc_of_one_class_is_nan_and_the_other_scores_stand():
    scores = score_classification(np.ones(20, int), np.tile([0.4, 0.6], (20, 1)), np.arange(20))
    auc = scores["auc"]
    assert np.isnan([auc.value, auc.low, auc.high]).all()
    assert scores["accuracy"] == Score(1.0, pytest.approx(0.025 ** (1 / 20)), 1.0)


@pytest.mark.parametrize("per_group", [1, 2])
@pytest.mark.parametrize("name", ["auc", "average_precision", "balanced_accuracy", "f1"])
def test_the_interval_of_a_perfect_score_holds_what_often_looks_perfect(name, per_group):
    """Simulate a model that ranks 1 positive in 25 below all negatives."""
    n, share, rng = 40, 0.04, np.random.default_rng(0)  # groups of each class
    y = np.repeat([0, 1], n * per_group)
    groups = np.arange(2 * n).repeat(per_group)
    is_low = rng.random((2000, n)) < share
    assert 0.15 < (~is_low).all(axis=1).mean() < 0.25  # so often it looks perfect

    def scored(is_low):
        chances = np.r_[np.full(n, 0.3), np.where(is_low, 0.1, 0.9)].repeat(per_group)
        proba = np.column_stack([1 - chances, chances])
        return score([METRICS[name]], y, proba, groups)[name]

    truth = np.mean([scored(each).value for each in is_low[:20]])
    found = scored(np.zeros(n, bool))
    assert found.value == found.high == 1
    assert 0.025 ** (1 / n) == pytest.approx(found.low)
    assert found.low < truth < 1


def test_values_that_are_predicted_exactly_leave_no_doubt():
    y = np.arange(30.0)
    assert score_regression(y, y, np.arange(30))["r2"] == Score(1.0, 1.0, 1.0)


def test_auc_of_many_classes_is_the_mean_over_those_that_are_there():
    y, proba = _multiclass(3)
    y = np.where(y == 2, 0, y)
    each = [reference.roc_auc_score(y == k, proba[:, k]) for k in (0, 1)]
    value = score_classification(y, proba, np.arange(N))["auc"].value
    assert value == pytest.approx(np.mean(each))


@pytest.mark.parametrize("max_cells", [1, 7 * N, 333 * N])
def test_blocks_of_the_weight_matrix_change_nothing(monkeypatch, max_cells):
    y, proba = _binary()
    groups = np.arange(N) // 2
    at_once = score_classification(y, proba, groups)
    monkeypatch.setattr(bootstrap, "_MAX_CELLS", max_cells)
    in_blocks = score_classification(y, proba, groups)
    for name, found in at_once.items():
        assert astuple(in_blocks[name]) == pytest.approx(astuple(found), rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("decimals", [2, 16])
def test_the_auc_of_100_000_rows_takes_seconds_of_one_core(decimals):
    y, proba = _binary(n=100_000)
    proba = (proba + np.random.default_rng(0).normal(scale=0.01, size=proba.shape)).round(decimals)
    start = process_time()
    score([METRICS["auc"]], y, proba, np.arange(len(y)))
    assert process_time() - start < 5


def test_same_seed_gives_the_same_interval_and_another_seed_another():
    y, predicted = _values()
    first, again, other = (
        score_regression(y, predicted, np.arange(N), random_state=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first["r2"].value == other["r2"].value
    assert first["r2"].low != other["r2"].low


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (Score(0.81234, 0.75, 0.9), "0.812 (95% interval 0.750 to 0.900)"),
        (Score(12345.6, -0.5, 99.9), "12,346 (95% interval -0.500 to 99.900)"),
    ],
)
def test_a_score_reads_as_value_and_interval(score, text):
    assert str(score) == text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.8512, "0.851"),
        (-0.0005, "-0.001"),
        (123.4, "123"),
        (2.34e-5, "2.3e-05"),
        (1e-17, "0.000"),
    ],
)
def test_scores_are_written_as_people_read_them(value: float, written: str) -> None:
    assert bootstrap.short(value) == written
