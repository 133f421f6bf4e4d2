"""The SVM head: it learns, its probabilities are honest, and many rows don't stop it."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from twostage.features import Features
from twostage.heads import make_head
from twostage.heads.base import Task
from twostage.heads.calibration import calibrated, fit_calibration, folds_to_calibrate
from twostage.heads.svm import SVMHead, block_scales

TASKS = {"binary": Task(2), "multiclass": Task(3), "regression": Task(None)}


def features(X, n_table=3):
    X = np.asarray(X, np.float32)
    codes = np.empty((len(X), 0), np.int32)
    return Features(X[:, :n_table], codes, (), (X[:, n_table:],))


def data(task, n=240, seed=0):
    """One column of the table and one of the block tell the target; the block is large."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    value = np.abs(X[:, 0]) - X[:, 3] + rng.normal(scale=0.2, size=n)
    X[:, 3:] *= 100
    if task == "regression":
        return X, 1000 + 50 * value
    return X, np.digitize(value, [0.8] if task == "binary" else [0.2, 1.4])


def output(head, X):
    of = features(X)
    return head.predict_proba(of) if head.task_.is_classification else head.predict(of)


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture(params=["exact", "approximate"])
def size(request, monkeypatch):
    if request.param == "approximate":  # inner folds train on fewer rows than there are in all
        monkeypatch.setattr("twostage.heads.svm._MAX_EXACT_ROWS", 100)
        monkeypatch.setattr("twostage.heads.svm._N_LANDMARKS", 100)


@pytest.mark.parametrize(("n", "n_folds"), [(2_000, 5), (2_001, 1)])
def test_of_more_than_2000_rows_one_fifth_is_held_out_to_calibrate(n, n_folds):
    folds = folds_to_calibrate(np.arange(n) % 2, Task(2), None)
    assert len(folds) == n_folds
    assert len(folds[0][1]) == pytest.approx(n / 5, abs=1)


def test_it_learns_what_is_not_linear(task, size):
    X, y = data(task)
    head = SVMHead().fit(features(X), y, TASKS[task])
    X, truth = data(task, seed=1)
    if task == "regression":
        assert r2_score(truth, head.predict(features(X))) > 0.8
    else:
        found = output(head, X)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert found.dtype == np.float64
        assert accuracy_score(truth, found.argmax(axis=1)) > 0.75
        assert log_loss(truth, found) < 0.55


@pytest.mark.parametrize(("limit", "kind"), [(240, SVC), (239, Pipeline)])
def test_more_rows_than_an_exact_machine_can_take_get_an_approximate_one(monkeypatch, limit, kind):
    monkeypatch.setattr("twostage.heads.svm._MAX_EXACT_ROWS", limit)
    monkeypatch.setattr("twostage.heads.svm._N_LANDMARKS", 50)
    X, y = data("binary")
    assert isinstance(SVMHead(C=1.0).fit(features(X), y, Task(2)).model_, kind)


def test_settings_are_chosen_on_a_part_of_many_rows(task, monkeypatch):
    monkeypatch.setattr("twostage.heads.svm._MAX_ROWS_TO_CHOOSE_ON", 100)
    X, y = data(task)
    if task == "multiclass":
        y[y == 1] = 2
        y[np.random.default_rng(0).permutation(len(y))[-1]] = 1  # a class that the part lacks
    head = SVMHead().fit(features(X), y, TASKS[task])
    assert np.isfinite(output(head, X)).all()


def test_settings_of_the_user_stand():
    X, y = data("binary")
    head = SVMHead(C=0.7, block_variance=5.0).fit(features(X), y, Task(2))
    assert (head.C_, head.block_variance_, head.model_.C) == (0.7, 5.0, 0.7)


def test_the_weight_of_blocks_is_chosen_by_what_they_tell():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 40))
    by_table = SVMHead().fit(features(X), (X[:, 0] > 0).astype(int), Task(2))
    by_block = SVMHead().fit(features(X), (X[:, 3:9].sum(axis=1) > 0).astype(int), Task(2))
    assert by_table.block_variance_ < by_block.block_variance_


def test_each_block_is_scaled_to_the_variance_asked_for():
    X, _ = data("binary")
    parts = features(X)
    weight = np.arange(1, len(X) + 1)
    scaled = parts.matrix() * block_scales(parts, 4.0, weight)
    np.testing.assert_array_equal(scaled[:, :3], X[:, :3])
    mean = np.average(scaled[:, 3:], axis=0, weights=weight)
    total = np.average((scaled[:, 3:] - mean) ** 2, axis=0, weights=weight).sum()
    assert total == pytest.approx(4, rel=1e-4)


def test_rows_of_a_group_never_calibrate_each_other():
    """Labels are noise, shared by four equal rows: only a split through groups finds sense."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 5)), 4, axis=0)
    y = np.repeat(rng.permutation(60) % 2, 4)
    groups = np.repeat(np.arange(60), 4)
    head = SVMHead(C=30.0, block_variance=4.0, gamma=3.0)
    split = clone(head).fit(features(X), y, Task(2))
    grouped = clone(head).fit(features(X), y, Task(2), groups)
    assert np.abs(output(split, X) - 0.5).mean() > 0.4
    assert np.abs(output(grouped, X) - 0.5).mean() < 0.1


def test_groups_stay_together_in_folds_and_every_class_is_in_each_training_part():
    groups = np.arange(90) // 3
    y = np.where(groups == 7, 2, groups % 2)
    folds = folds_to_calibrate(y, Task(3), groups)
    assert len(folds) == 5
    for train, test in folds:
        shared = set(groups[train]) & set(groups[test])
        assert shared <= {7}  # a class of one group, held out row by row
        assert set(y[train]) == {0, 1, 2}


def test_calibration_finds_the_truth_behind_scores():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=20_000)
    y = (rng.random(20_000) < 1 / (1 + np.exp(-(3 * scores - 1)))).astype(int)
    rows = [(np.empty(0, int), np.arange(20_000))]
    calibration, loss = fit_calibration([scores], rows, y)
    found = calibrated(np.array([0.0, 1.0]), calibration)[:, 1]
    np.testing.assert_allclose(found, 1 / (1 + np.exp([1, -2])), atol=0.01)
    assert loss == pytest.approx(log_loss(y, calibrated(scores, calibration)), abs=0.001)


def test_scores_that_separate_the_classes_perfectly_leave_some_doubt():
    y = np.arange(100) % 2
    folds = [(np.empty(0, int), np.arange(100))]
    calibration, _ = fit_calibration([2.0 * y - 1], folds, y)
    assert 0.98 < calibrated(np.array([1.0]), calibration)[0, 1] < 0.999


def test_scores_that_mislead_are_not_turned_round():
    y = np.arange(100) % 2
    folds = [(np.empty(0, int), np.arange(100))]
    calibration, _ = fit_calibration([1.0 - 2 * y], folds, y)
    np.testing.assert_allclose(calibrated(np.array([-5.0, 5.0]), calibration), 0.5, atol=1e-3)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_class_of_one_row_does_not_stop_it(n_classes):
    X, y = data("binary")
    y[y == 1] = 0
    y[:1] = 1
    y[1:80] = n_classes - 1 if n_classes == 3 else 0
    proba = output(SVMHead().fit(features(X), y, Task(n_classes)), X)
    assert np.isfinite(proba).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_in_a_single_group_it_still_learns(task):
    X, y = data(task)
    head = SVMHead().fit(features(X), y, TASKS[task], np.zeros(len(y), int))
    found = output(head, X)
    if task == "regression":
        assert r2_score(y, found) > 0.8
    else:
        assert accuracy_score(y, found.argmax(axis=1)) > 0.8


def test_of_one_row_per_class_it_still_learns():
    X = np.eye(4, 5)
    proba = output(SVMHead().fit(features(X), np.arange(4), Task(4)), X)
    np.testing.assert_array_equal(proba.argmax(axis=1), np.arange(4))


def test_a_class_absent_at_fit_has_probability_zero():
    X, y = data("binary")
    proba = output(SVMHead().fit(features(X), 2 * y, Task(4)), X)
    assert (proba[:, [1, 3]] == 0).all()
    assert accuracy_score(2 * y, proba.argmax(axis=1)) > 0.8


def test_a_single_class_is_certain(tmp_path):
    X, y = data("binary")
    head = SVMHead().fit(features(X), np.ones_like(y), Task(3))
    head.save(tmp_path)
    for fitted in (head, SVMHead().load(tmp_path, Task(3))):
        np.testing.assert_array_equal(output(fitted, X), np.eye(3)[np.ones_like(y)])


def test_a_constant_target_is_predicted():
    X, y = data("regression")
    head = SVMHead().fit(features(X), np.full_like(y, 7.0), Task(None))
    np.testing.assert_allclose(head.predict(features(X)), 7)


@pytest.mark.slow
def test_weights_act(task, size):
    X, y = data(task)
    X = np.random.default_rng(0).integers(0, 2, size=X.shape)  # they tell nothing
    X[:, 1:] = 0
    is_high = y == y.max() if task != "regression" else y > np.quantile(y, 0.7)
    weight = np.where(is_high, 50.0, 1.0)
    plain, weighted = (
        output(SVMHead(C=0.3).fit(features(X), y, TASKS[task], None, w), X) for w in (None, weight)
    )
    if task == "regression":
        assert weighted.mean() > plain.mean() + 10
    else:
        assert weighted[:, -1].mean() > plain[:, -1].mean() + 0.2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_predictions(task, size):
    X, y = data(task)
    one, two = (output(SVMHead(C=1.0).fit(features(X), y, TASKS[task]), X) for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_a_saved_head_predicts_the_same(task, size, tmp_path):
    X, y = data(task)
    head = SVMHead(C=1.0).fit(features(X), y, TASKS[task])
    head.save(tmp_path)
    loaded = SVMHead(**head.parameters()).load(tmp_path, TASKS[task])
    np.testing.assert_array_equal(output(loaded, X), output(head, X))


def test_no_rows_give_no_predictions(task):
    X, y = data(task)
    found = output(SVMHead(C=1.0).fit(features(X), y, TASKS[task]), X[:0])
    assert found.shape == ((0,) if task == "regression" else (0, TASKS[task].n_classes))


def test_features_are_left_as_they_are():
    X, y = data("binary")
    parts = features(X)
    before = parts.matrix()
    SVMHead().fit(parts, y, Task(2)).predict_proba(parts)
    np.testing.assert_array_equal(parts.matrix(), before)


def test_it_is_made_by_name_and_cloned():
    head = make_head("svm").set_params(C=2.0)
    assert clone(head).get_params() == head.get_params()
    assert set(head.search_space) <= set(head.get_params())
