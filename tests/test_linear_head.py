"""The linear head: it chooses penalty and scale by itself, and lets nothing drown."""

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, r2_score

import twostage.heads.linear as module
from twostage.features import Features
from twostage.heads.base import Task
from twostage.heads.linear import LinearHead

TASKS = {"binary": Task(2), "multiclass": Task(3), "regression": Task(None)}


def _data(kind, n=200, seed=0, width=0, noise=0.3):
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 3)).astype(np.float32)
    block = (10 * rng.normal(size=(n, width))).astype(np.float32)
    value = table[:, 0] - table[:, 1] + noise * rng.normal(size=n)
    features = Features(table, np.empty((n, 0), np.int32), (), (block,) if width else ())
    if kind == "regression":
        return features, value
    return features, np.digitize(value, [0] if kind == "binary" else [-0.7, 0.7])


def _output(head, features):
    return (head.predict_proba if head.task_.is_classification else head.predict)(features)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("width", [0, 100])
def test_it_learns_with_and_without_wide_blocks(kind, width):
    head = LinearHead().fit(*_data(kind, width=width), TASKS[kind])
    new, truth = _data(kind, seed=1, width=width)
    if kind == "regression":
        assert r2_score(truth, head.predict(new)) > 0.9
    else:
        assert log_loss(truth, head.predict_proba(new)) < (0.35 if kind == "binary" else 0.5)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_probabilities_are_those_of_scikit_learn_with_the_penalty_chosen(kind):
    features, y = _data(kind)
    head = LinearHead().fit(features, y, TASKS[kind])
    expected = LogisticRegression(C=1 / head.penalty_, max_iter=1000)
    expected.fit(features.table, y)
    scores = head.sharpness_ * expected.decision_function(features.table)
    proba = softmax(scores if scores.ndim == 2 else np.column_stack([0 * scores, scores]), axis=1)
    np.testing.assert_allclose(head.predict_proba(features), proba, atol=1e-3)


def test_values_are_those_of_ridge_with_the_penalty_and_the_scale_chosen():
    features, y = _data("regression", width=50)
    head = LinearHead().fit(features, y, TASKS["regression"])
    X = np.hstack([features.table, features.blocks[0] * head.block_scales_[0]]).astype(np.float64)
    expected = Ridge(head.penalty_).fit(X, y).predict(X)
    np.testing.assert_allclose(head.predict(features), expected, atol=1e-4)


def test_the_penalty_is_heavier_where_there_is_more_noise():
    penalties = [
        LinearHead().fit(*_data("regression", 60, noise=noise), Task(None)).penalty_
        for noise in (0.01, 10.0)
    ]
    assert penalties[0] < penalties[1]


def test_a_useless_block_is_scaled_down_and_a_useful_one_is_not():
    features, y = _data("regression", width=100)
    useless = LinearHead().fit(features, y, Task(None))
    useful = LinearHead().fit(features, features.blocks[0][:, :5].sum(axis=1), Task(None))
    assert useless.block_scales_[0] < useful.block_scales_[0]


@pytest.mark.parametrize("kind", TASKS)
def test_settings_of_the_user_are_those_used(kind):
    features, y = _data(kind, width=5)
    head = LinearHead(penalty=7.0, block_scale=0.5).fit(features, y, TASKS[kind])
    assert head.penalty_ == 7.0
    assert head.block_scales_.tolist() == [0.5]


@pytest.mark.parametrize("kind", TASKS)
def test_a_weight_counts_as_so_many_equal_rows(kind):
    features, y = _data(kind, 60, width=4)
    times = np.random.default_rng(0).integers(1, 4, 60)
    rows = np.repeat(np.arange(60), times)
    fixed = LinearHead(penalty=1.0, block_scale=0.1)
    weighted = clone(fixed).fit(features, y, TASKS[kind], None, times.astype(float))
    repeated = clone(fixed).fit(features.take(rows), y[rows], TASKS[kind])
    np.testing.assert_allclose(_output(weighted, features), _output(repeated, features), atol=1e-3)


def test_weights_count_in_the_choice_of_the_penalty():
    rng = np.random.default_rng(0)
    features, _ = _data("binary", 200)
    rare = (rng.random(200) < 0.1).astype(int)
    weight = np.where(rare == 1, 9.0, 1.0)
    head = LinearHead().fit(features, rare, Task(2), None, weight)
    assert 0.35 < head.predict_proba(features)[:, 1].mean() < 0.65


def _many_classes(n_per_class, seed=0, n_classes=30):
    """Make classes that lie well apart in 40 dimensions, of a few rows each."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(n_classes, 40))
    y = np.repeat(np.arange(n_classes), n_per_class)
    table = (centres[y] + 0.7 * rng.normal(size=(len(y), 40))).astype(np.float32)
    return Features(table, np.empty((len(y), 0), np.int32), (), ()), y


def test_of_many_classes_of_few_rows_probabilities_are_as_sharp_as_they_are_right(monkeypatch):
    sharpened = LinearHead().fit(*_many_classes(8), Task(30))
    monkeypatch.setattr(module, "_sharpness", lambda *_: 1.0)
    blunt = LinearHead().fit(*_many_classes(8), Task(30))
    assert sharpened.sharpness_ > 1.1
    new, truth = _many_classes(20, seed=1)
    losses = [log_loss(truth, head.predict_proba(new)) for head in (sharpened, blunt)]
    assert losses[0] < 0.97 * losses[1]


def test_a_few_rows_that_are_all_told_apart_do_not_ask_for_certainty():
    y = np.arange(40) % 2
    table = np.column_stack([y, y]).astype(np.float32)
    features = Features(table, np.empty((40, 0), np.int32), (), ())
    head = LinearHead().fit(features, y, Task(2))
    assert 0.9 < head.predict_proba(features)[1, 1] < 0.999


@pytest.mark.parametrize("n_classes", [3, 25])
def test_a_class_that_lies_in_one_group_is_still_learned(n_classes):
    features, y = _many_classes(8, n_classes=n_classes)
    groups = np.where(y == 1, -1, np.arange(len(y)) // 2)
    proba = LinearHead().fit(features, y, Task(n_classes), groups).predict_proba(features)
    assert (proba.argmax(axis=1) == y).mean() > 0.9


def test_groups_stay_together_when_the_penalty_is_chosen(monkeypatch):
    seen = []
    inner_folds = module.inner_folds

    def spy(y, **options):
        seen.extend(inner_folds(y, **options))
        return seen

    monkeypatch.setattr(module, "inner_folds", spy)
    groups = np.arange(200) // 4
    LinearHead().fit(*_data("regression"), Task(None), groups)
    assert len(seen) == 5
    for train, test in seen:
        assert not set(groups[train]) & set(groups[test])


@pytest.mark.parametrize("kind", TASKS)
def test_a_single_group_is_learned_without_a_choice(kind):
    features, y = _data(kind)
    head = LinearHead().fit(features, y, TASKS[kind], np.zeros(200, int))
    assert np.isfinite(_output(head, features)).all()


@pytest.mark.parametrize("present", [[1], [0, 2]])
def test_classes_that_are_absent_get_no_probability(present):
    features, y = _data("binary")
    labels = np.array(present)[y % len(present)]
    proba = LinearHead().fit(features, labels, Task(3)).predict_proba(features)
    assert proba.shape == (200, 3)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    absent = np.setdiff1d(np.arange(3), present)
    assert (proba[:, absent] == 0).all()


@pytest.mark.parametrize("kind", TASKS)
def test_a_saved_head_predicts_the_same(tmp_path, kind):
    features, y = _data(kind, width=10)
    head = LinearHead().fit(features, y, TASKS[kind])
    head.save(tmp_path)
    loaded = LinearHead().load(tmp_path, TASKS[kind])
    np.testing.assert_array_equal(_output(loaded, features), _output(head, features))
    assert loaded.penalty_ == head.penalty_


def test_of_very_many_rows_one_fifth_chooses(monkeypatch):
    monkeypatch.setattr(module, "_MANY_ROWS", 100)
    calls = []
    inner_folds = module.inner_folds

    def spy(y, **options):
        calls.append(inner_folds(y, **options))
        return calls[-1]

    monkeypatch.setattr(module, "inner_folds", spy)
    LinearHead().fit(*_data("binary"), Task(2))
    assert len(calls[0]) == 1


@pytest.mark.parametrize("kind", TASKS)
def test_of_two_blocks_the_useless_one_weighs_less(kind):
    rng = np.random.default_rng(0)
    useful, useless = (rng.normal(size=(150, 30)).astype(np.float32) for _ in range(2))
    value = useful[:, :4].sum(axis=1)
    y = value if kind == "regression" else np.digitize(value, [0] if kind == "binary" else [-1, 1])
    none = np.empty((150, 0), np.float32)
    features = Features(none, np.empty((150, 0), np.int32), (), (useless, useful))
    head = LinearHead().fit(features, y, TASKS[kind])
    assert head.block_scales_[0] < head.block_scales_[1]


def test_columns_of_blocks_are_where_they_are_in_the_matrix():
    parts = [np.full((2, width), width, np.float32) for width in (3, 1, 4)]
    features = Features(parts[0], np.empty((2, 0), np.int32), (), tuple(parts[1:]))
    for part, columns in zip(parts[1:], features.block_columns, strict=True):
        np.testing.assert_array_equal(features.matrix()[:, columns], part)
    assert features.is_block.tolist() == [False] * 3 + [True] * 5
    assert Features(parts[0], features.codes, (), ()).block_columns == []
