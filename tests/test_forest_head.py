"""The random forest head: it learns with holes in the features, and repeats itself."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score

from twostage.features import Features
from twostage.heads import make_head
from twostage.heads.base import Task
from twostage.heads.forest import ForestHead

TASKS = {"binary": Task(2, n_jobs=2), "multiclass": Task(3, n_jobs=2), "regression": Task(None)}


def features(X, n_table=3):
    X = np.asarray(X, np.float32)
    codes = np.empty((len(X), 0), np.int32)
    return Features(X[:, :n_table], codes, (), (X[:, n_table:],))


def data(task, n=300, seed=0):
    """One column of the table and one of the block tell the target, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    value = X[:, 0] - X[:, 3] + rng.normal(scale=0.2, size=n)
    if task == "regression":
        return X, value
    return X, np.digitize(value, [0] if task == "binary" else [-0.7, 0.7])


def output(head, X):
    of = features(X)
    return head.predict_proba(of) if head.task_.is_classification else head.predict(of)


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def head():
    return ForestHead(n_trees=60)


def test_it_learns(task, head):
    head.fit(features(data(task)[0]), data(task)[1], TASKS[task])
    X, truth = data(task, seed=1)
    if task == "regression":
        assert r2_score(truth, head.predict(features(X))) > 0.75
    else:
        found = output(head, X)
        np.testing.assert_allclose(found.sum(axis=1), 1)
        assert found.dtype == np.float64
        assert accuracy_score(truth, found.argmax(axis=1)) > 0.75


def test_it_learns_from_what_is_missing(task, head):
    X, y = data(task)
    X[:, [1, 2, 3, 4, 5]] = 0
    X[:, 0] = np.where(y > np.median(y) if task == "regression" else y == y.max(), np.nan, 1)
    found = output(head.fit(features(X), y, TASKS[task]), X)
    high = found if task == "regression" else found[:, -1]
    is_high = np.isnan(X[:, 0])
    assert high[is_high].min() > high[~is_high].max()


def test_rows_missing_all_that_was_never_missing_get_a_prediction(task, head):
    X, y = data(task)
    found = output(head.fit(features(X), y, TASKS[task]), np.full((3, 6), np.nan))
    assert np.isfinite(found).all()


def test_a_class_absent_at_fit_has_probability_zero(head):
    X, y = data("binary")
    proba = output(head.fit(features(X), 2 * y, Task(4)), X)
    assert proba.shape == (len(X), 4)
    assert (proba[:, [1, 3]] == 0).all()
    np.testing.assert_allclose(proba.sum(axis=1), 1)


def test_a_single_class_is_certain(head):
    X, y = data("binary")
    proba = output(head.fit(features(X), np.ones_like(y), Task(3)), X)
    np.testing.assert_array_equal(proba, np.eye(3)[np.ones_like(y)])


def test_weights_act(task, head):
    X, y = data(task)
    X[:] = 0
    weight = np.where(y == y.max() if task != "regression" else y > 0, 1000.0, 1.0)
    found = output(head.fit(features(X), y, TASKS[task], sample_weight=weight), X[:1])
    if task == "regression":
        assert found[0] > y[y > 0].mean() - 0.2
    else:
        assert found[0, -1] > 0.95


def test_threads_and_pieces_change_nothing(task, head, monkeypatch):
    X, y = data(task)
    one = output(clone(head).fit(features(X), y, Task(TASKS[task].n_classes, n_jobs=1)), X)
    monkeypatch.setattr("twostage.heads.forest._CHUNK", 7)
    two = output(clone(head).fit(features(X), y, Task(TASKS[task].n_classes, n_jobs=2)), X)
    np.testing.assert_array_equal(one, two)


def test_another_seed_grows_other_trees(head):
    X, y = data("binary")
    one, two = (output(clone(head).fit(features(X), y, Task(2, seed)), X) for seed in (0, 1))
    assert (one != two).any()


def test_trees_of_many_rows_see_a_part_of_them(head, monkeypatch):
    monkeypatch.setattr("twostage.heads.forest._MAX_ROWS_OF_A_TREE", 50)
    X, y = data("binary")
    head.fit(features(X), y, Task(2))
    assert {tree.tree_.weighted_n_node_samples[0] for tree in head.model_.estimators_} == {50}


def test_a_saved_head_predicts_the_same(task, head, tmp_path):
    X, y = data(task)
    if task == "multiclass":
        y = np.where(y == 1, 0, y)  # one class is absent
    head.fit(features(X), y, TASKS[task])
    head.save(tmp_path)
    loaded = ForestHead(**head.parameters()).load(tmp_path, TASKS[task])
    X[::3, ::2] = np.nan
    np.testing.assert_array_equal(output(loaded, X), output(head, X))


def test_no_rows_give_no_predictions(task, head):
    X, y = data(task)
    found = output(head.fit(features(X), y, TASKS[task]), X[:0])
    assert found.shape == ((0,) if task == "regression" else (0, TASKS[task].n_classes))


def test_it_is_made_by_name_and_cloned():
    head = make_head("random-forest").set_params(max_features=0.2)
    assert clone(head).get_params() == head.get_params()
    assert set(head.search_space) <= set(head.get_params())
