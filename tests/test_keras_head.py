"""The Keras head: it learns from every kind of input, repeats itself, and leaves no traces."""

import random
import subprocess
import sys
from copy import deepcopy

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, r2_score
from tuning import n_graphs

import twostage.heads.network_training as module
from twostage.errors import DataError
from twostage.features import Features
from twostage.heads.base import Task
from twostage.heads.keras import KerasHead
from twostage.heads.keras_network import build

TASKS = {"binary": Task(2), "multiclass": Task(3), "regression": Task(None)}
EFFECTS = np.array([0.0, -1.5, -0.5, 0.5, 1.5])  # of category numbers; 0 is unseen


def _data(kind, n=300, seed=0):
    """Features of which each kind tells a part of the target: table, codes, blocks."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 3)).astype(np.float32)
    codes = rng.integers(1, 5, size=(n, 1)).astype(np.int32)
    block = rng.normal(size=(n, 20)).astype(np.float32)
    block[:, 0] *= 10  # as principal components do, it varies far more than the others
    value = table[:, 0] + EFFECTS[codes[:, 0]] + block[:, 0] / 10 + rng.normal(scale=0.2, size=n)
    features = Features(table, codes, (5,), (block,))
    if kind == "regression":
        return features, 1000 + 50 * value
    return features, np.digitize(value, [0] if kind == "binary" else [-0.8, 0.8])


def _fit(kind, features, y, *, groups=None, weight=None, seed=0, **options):
    options = {"max_epochs": 12, "learning_rate": 0.01, "n_members": 5} | options
    task = Task(TASKS[kind].n_classes, seed)
    return KerasHead(**options).fit(features, y, task, groups, weight)


def _output(head, features):
    return (head.predict_proba if head.task_.is_classification else head.predict)(features)


def _without(features, part):
    """Take the message out of one part."""
    shuffle = np.random.default_rng(9).permutation(len(features))
    table, codes, block = features.table, features.codes, features.blocks[0]
    if part == "table":
        table = table[shuffle]
    elif part == "codes":
        codes = codes[shuffle]
    else:
        block = block[shuffle]
    return Features(table, codes, features.cardinalities, (block,))


@pytest.fixture(scope="module", params=TASKS)
def fitted(request):
    """A kind of task, a head that learned it, and rows that the head did not see."""
    return (
        request.param,
        _fit(request.param, *_data(request.param, 600)),
        _data(request.param, 300, 1),
    )


@pytest.fixture(scope="module")
def binary():
    return _fit("binary", *_data("binary", 150), max_epochs=3)


def _score(kind, head, features, y):
    output = _output(head, features)
    if kind == "regression":
        return r2_score(y, output)
    return accuracy_score(y, output.argmax(axis=1))


def test_it_learns(fitted):
    kind, head, (features, y) = fitted
    assert _score(kind, head, features, y) > {"binary": 0.85, "multiclass": 0.78}.get(kind, 0.85)


@pytest.mark.slow
def test_no_graph_of_a_fit_outlives_it():
    features, y = _data("binary")
    before = n_graphs()
    _fit("binary", features, y)
    assert n_graphs() <= before


@pytest.mark.parametrize("part", ["table", "codes", "block"])
def test_every_kind_of_input_counts(fitted, part):
    kind, head, (features, y) = fitted
    assert _score(kind, head, _without(features, part), y) < _score(kind, head, features, y) - 0.08


def test_probabilities_add_up_to_one(fitted):
    _, head, (features, _) = fitted
    if head.task_.is_classification:
        proba = head.predict_proba(features)
        assert proba.shape == (len(features), head.task_.n_classes)
        assert (proba >= 0).all()
        np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-12)


def test_an_unseen_category_lies_between_those_seen(fitted):
    kind, head, (features, _) = fitted
    if kind != "regression":
        return
    of = []
    for number in range(5):
        codes = np.full_like(features.codes, number)
        given = Features(features.table, codes, features.cardinalities, features.blocks)
        of.append(head.predict(given).mean())
    assert of[1] < of[0] < of[4]
    assert abs(of[0] - 1000) < 30


def test_a_saved_head_predicts_the_same(fitted, tmp_path):
    _, head, (features, _) = fitted
    head.save(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["head.json", "head.keras"]
    loaded = clone(head).load(tmp_path, head.task_)
    np.testing.assert_array_equal(_output(loaded, features), _output(head, features))
    np.testing.assert_array_equal(_output(deepcopy(head), features), _output(head, features))


@pytest.mark.slow
def test_another_process_unpacks_a_head_that_predicts_the_same(fitted, tmp_path):
    kind, head, (features, _) = fitted
    if kind != "multiclass":
        return
    joblib.dump((head, features), tmp_path / "head.joblib")
    code = (
        "import sys, joblib, numpy as np\n"
        "head, features = joblib.load(sys.argv[1] + '/head.joblib')\n"
        "np.save(sys.argv[1] + '/proba.npy', head.predict_proba(features))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load(tmp_path / "proba.npy"), head.predict_proba(features))


def test_rows_are_predicted_alike_in_pieces_and_none_at_all(fitted, monkeypatch):
    _, head, (features, _) = fitted
    whole = _output(head, features)
    monkeypatch.setattr(module, "_CHUNK", 77)
    np.testing.assert_allclose(_output(head, features), whole, rtol=1e-4)
    assert _output(head, features.take(np.arange(0))).shape == (0, *whole.shape[1:])


def test_the_same_seed_gives_the_same_and_another_does_not():
    features, y = _data("multiclass", 150)
    first, again, other = (
        _fit("multiclass", features, y, seed=seed, max_epochs=3).predict_proba(features)
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)


def test_random_states_outside_are_left_alone():
    features, y = _data("binary", 150)
    before = random.getstate(), np.random.get_state()[1].copy()
    _fit("binary", features, y, max_epochs=1).predict_proba(features)
    assert random.getstate() == before[0]
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])


def test_the_features_are_not_changed():
    features, y = _data("binary", 150)
    _fit("binary", features, y, max_epochs=1)
    np.testing.assert_array_equal(features.codes, _data("binary", 150)[0].codes)


def test_units_of_the_inputs_do_not_matter():
    features, y = _data("binary", 150)
    table, block = features.table * 1024 + 512, features.blocks[0] / 128  # exact in binary
    other = Features(table, features.codes, features.cardinalities, (block,))
    one = _fit("binary", features, y, max_epochs=2).predict_proba(features)
    two = _fit("binary", other, y, max_epochs=2).predict_proba(other)
    np.testing.assert_allclose(one, two, atol=1e-3)


def test_the_embedding_of_unseen_categories_learns_too():
    features, y = _data("regression", 200)
    features = Features(features.table, features.codes + 1, (6,), features.blocks)
    rng = np.random.default_rng(0)
    network = build(KerasHead(n_members=2), features, Task(None), rng)
    embeddings = next(weights for weights in network.weights if weights.shape[0] == 6)
    before = np.array(embeddings)
    y, sees = ((y - y.mean()) / y.std()).astype(np.float32), np.ones((200, 2), bool)
    module.Training(network, features, y, np.ones(200), sees, 4, rng).run_epoch()
    moved = np.abs(np.array(embeddings) - before).max(axis=1) > 1e-4  # weight decay moves less
    assert moved.tolist() == [True, False, True, True, True, True]


def test_an_absent_class_gets_a_column_and_next_to_no_probability():
    features, y = _data("multiclass")
    proba = _fit("multiclass", features, np.where(y == 1, 0, y)).predict_proba(features)
    assert proba.shape == (300, 3)
    assert proba[:, 1].mean() < 0.02


def test_weights_act():
    features, y = _data("regression", 200)
    y[::2] += 1000
    weight = np.where(np.arange(200) % 2, 1.0, 1e-3)
    assert _fit("regression", features, y, weight=weight).predict(features).mean() < 1030


def test_weights_are_relative():
    features, y = _data("binary", 150)
    one, two = (
        _fit("binary", features, y, weight=np.full(150, value), max_epochs=2)
        for value in (1.0, 4.0)
    )
    np.testing.assert_allclose(one.predict_proba(features), two.predict_proba(features), rtol=1e-5)


def test_no_member_sees_a_part_of_a_group_and_each_misses_about_a_fifth():
    _, y = _data("binary", 300)
    groups = np.arange(300) // 6
    sees = module.rows_seen(y, Task(2), groups, 10)
    for member in sees.T:
        assert not set(groups[member]) & set(groups[~member])
        assert 0.7 < member.mean() < 0.9
    assert (~sees).sum(axis=1).tolist() == [2] * 300


def test_rows_of_one_group_are_all_seen():
    _, y = _data("binary", 300)
    assert module.rows_seen(y, Task(2), np.zeros(300, int), 5).all()


def test_early_stopping_keeps_the_best_epoch():
    rng = np.random.default_rng(0)
    codes = np.empty((200, 0), np.int32)
    noise = Features(rng.normal(size=(200, 30)).astype(np.float32), codes, (), ())
    y = rng.integers(0, 2, 200)
    stopped = _fit("binary", noise, y, patience=3, dropout=0.0, max_epochs=100)
    assert stopped.n_epochs_ < 20
    no_longer = _fit("binary", noise, y, dropout=0.0, max_epochs=stopped.n_epochs_)
    assert no_longer.n_epochs_ == stopped.n_epochs_
    np.testing.assert_array_equal(stopped.predict_proba(noise), no_longer.predict_proba(noise))


@pytest.mark.parametrize("kind", TASKS)
def test_twelve_rows_are_enough(kind):
    features, y = _data(kind, 12)
    output = _output(_fit(kind, features, y, max_epochs=200), features)
    assert np.isfinite(output).all()
    assert log_loss(y, output) < 0.5 if kind != "regression" else r2_score(y, output) > 0.5


@pytest.mark.parametrize("keep", ["table", "codes", "block"])
def test_one_kind_of_input_is_enough(keep):
    features, y = _data("binary", 150)
    nothing = np.empty((150, 0), np.float32)
    alone = Features(
        features.table if keep == "table" else nothing,
        features.codes if keep == "codes" else nothing.astype(np.int32),
        (5,) if keep == "codes" else (),
        features.blocks if keep == "block" else (),
    )
    assert _fit("binary", alone, y, n_members=1).predict_proba(alone).shape == (150, 2)


def test_no_features_at_all_are_refused():
    empty = Features(np.empty((20, 0), np.float32), np.empty((20, 0), np.int32), (), ())
    with pytest.raises(DataError, match="no features to learn from"):
        _fit("binary", empty, np.arange(20) % 2)


def test_a_clone_is_not_fitted(binary):
    copy = clone(binary)
    assert copy.get_params() == binary.get_params()
    assert not hasattr(copy, "network_")
    assert not hasattr(deepcopy(copy), "network_")


def test_members_do_not_share_what_they_learn():
    """A member that sees no row of a training stays as it was, whatever the others learn."""
    features, y = _data("binary", 120)
    rng = np.random.default_rng(0)
    network = build(KerasHead(n_members=3, weight_decay=0.0), features, Task(2), rng)
    sees = np.ones((120, 3), bool)
    sees[:, 1] = False
    before = [np.array(weights) for weights in network.trainable_weights]
    training = module.Training(network, features, y.astype(np.int32), np.ones(120), sees, 2, rng)
    training.run_epoch()
    for old, weights in zip(before, network.trainable_weights, strict=True):
        new, path = np.array(weights), weights.path
        axis = list(new.shape).index(3) if 3 in new.shape else None
        if axis is None:  # embeddings, batch normalisation: members lie one after another
            old, new = (a.reshape(*a.shape[:-1], 3, -1) for a in (old, new))
            axis = old.ndim - 2
        changed = [not np.allclose(old.take(m, axis), new.take(m, axis)) for m in range(3)]
        assert changed == [True, False, True], path


@pytest.mark.slow
def test_many_fits_do_not_fill_the_memory():
    psutil = pytest.importorskip("psutil")
    features, y = _data("binary", 150)
    used = []
    for _ in range(12):
        _fit("binary", features, y, max_epochs=1).predict_proba(features)
        used.append(psutil.Process().memory_info().rss)
    assert used[-1] - used[3] < 100e6
