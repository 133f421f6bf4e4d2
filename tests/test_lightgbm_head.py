"""The LightGBM head: it learns, it repeats itself, and it knows when to stop."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss, r2_score

import twostage.heads.lightgbm as module
from twostage.errors import UsageError
from twostage.heads import HEADS, head_class, make_head
from twostage.heads.lightgbm import LightGBMHead

TASKS = ["binary", "multiclass", "regression"]


def _data(task, n=300, seed=0, n_features=4):
    """Features of which the first two tell the target, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features)).astype(np.float32)
    value = X[:, 0] - X[:, 1] + rng.normal(scale=0.3, size=n)
    if task == "regression":
        return X, value
    return X, np.digitize(value, [0] if task == "binary" else [-0.7, 0.7])


def _head(task, **options):
    return LightGBMHead(task != "regression", **{"random_state": 0, "n_jobs": 1} | options)


def _output(head, X):
    return head.predict_proba(X) if head.is_classification else head.predict(X)


@pytest.fixture
def splits(monkeypatch):
    """What the head asks of the inner split, and what it gets."""
    calls = []

    def recorded(y, **options):
        parts = holdout(y, **options)
        calls.append({"y": y, "parts": parts, **options})
        return parts

    holdout = module.holdout
    monkeypatch.setattr(module, "holdout", recorded)
    return calls


@pytest.mark.parametrize("n", [80, 300])
@pytest.mark.parametrize("task", TASKS)
def test_it_learns_with_and_without_an_inner_split(task, n):
    X, y = _data(task, n)
    new, truth = _data(task, 300, seed=1)
    head = _head(task).fit(X, y)
    if task == "regression":
        assert r2_score(truth, head.predict(new)) > 0.75
    else:
        assert accuracy_score(truth, head.predict(new)) > (0.85 if task == "binary" else 0.7)


@pytest.mark.parametrize(("task", "n_classes"), [("binary", 2), ("multiclass", 3)])
def test_probabilities_sum_to_one_and_prediction_is_the_likeliest_class(task, n_classes):
    X, y = _data(task)
    head = _head(task).fit(X, y)
    proba = head.predict_proba(X)
    assert proba.shape == (len(X), n_classes)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    np.testing.assert_array_equal(head.predict(X), proba.argmax(axis=1))
    assert log_loss(y, proba) < 0.5


@pytest.mark.parametrize("task", TASKS)
def test_the_same_seed_gives_the_same_predictions(task):
    X, y = _data(task)
    np.testing.assert_array_equal(
        *(_output(_head(task).fit(X, y), X) for _ in range(2)), strict=True
    )


def test_another_seed_gives_another_inner_split(splits):
    X, y = _data("binary")
    for seed in (1, 2):
        _head("binary", random_state=seed).fit(X, y)
    assert [call["random_state"] for call in splits] == [1, 2]
    assert splits[0]["parts"][1].tolist() != splits[1]["parts"][1].tolist()


@pytest.mark.parametrize("task", TASKS)
def test_the_number_of_threads_changes_nothing(monkeypatch, task):
    monkeypatch.setattr(module, "_MIN_CELLS_FOR_THREADS", 0)
    monkeypatch.setattr(module, "_MAX_TREES", 20)
    X, y = _data(task)
    one, two = (_output(_head(task, n_jobs=n_jobs).fit(X, y), X) for n_jobs in (1, 2))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("task", TASKS)
def test_the_inner_split_knows_the_task_and_keeps_groups_together(splits, task):
    X, y = _data(task)
    groups = np.arange(300) // 5
    _head(task).fit(X, y, groups)
    (call,) = splits
    train, inner = call["parts"]
    assert call["is_classification"] == (task != "regression")
    np.testing.assert_array_equal(call["y"], y)
    assert set(groups[train]).isdisjoint(groups[inner])
    assert len(inner) == pytest.approx(60, abs=10)


@pytest.mark.parametrize(
    ("n", "groups", "is_split"),
    [
        (99, None, False),
        (100, None, True),
        (120, np.arange(120) % 9, False),
        (120, np.arange(120) % 10, True),
    ],
    ids=["99 rows", "100 rows", "9 groups", "10 groups"],
)
def test_under_100_rows_or_10_groups_there_is_no_early_stopping(splits, n, groups, is_split):
    head = _head("binary").fit(*_data("binary", n), groups)
    assert len(splits) == is_split
    assert (head.booster_.num_trees() == 100) != is_split


def test_few_trees_are_grown_where_there_is_nothing_to_learn():
    X, _ = _data("binary")
    noise = np.random.default_rng(5).integers(0, 2, len(X))
    learned = _head("binary").fit(*_data("binary")).booster_.num_trees()
    assert _head("binary").fit(X, noise).booster_.num_trees() < learned / 2


@pytest.mark.parametrize("n", [80, 300])
def test_the_final_trees_are_grown_on_all_rows(n):
    trees = _head("binary").fit(*_data("binary", n)).booster_.trees_to_dataframe()
    roots = trees[trees["node_depth"] == 1]
    assert set(roots["count"]) == {n}


@pytest.mark.parametrize("task", TASKS)
def test_missing_features_are_learned_from(task):
    X, y = _data(task)
    is_high = X[:, 0] > 0
    X[:, 1:] = 0
    X[~is_high, 0] = np.nan
    X[is_high, 0] = 0
    output = _output(_head(task).fit(X, y), X)
    assert np.isfinite(output).all()
    first = output if task == "regression" else output[:, -1]
    assert first[is_high].min() > first[~is_high].max()


def test_rows_without_any_feature_get_a_finite_prediction():
    X, y = _data("binary")
    X[::3] = np.nan
    proba = _head("binary").fit(X, y).predict_proba(np.full((2, 4), np.nan, np.float32))
    assert np.isfinite(proba).all()


@pytest.mark.parametrize("n_table_features", [0, 2])
@pytest.mark.parametrize("n_features", [4, 260])
@pytest.mark.parametrize("task", TASKS)
def test_a_saved_head_predicts_the_same(tmp_path, monkeypatch, task, n_features, n_table_features):
    monkeypatch.setattr(module, "_MAX_TREES", 20)
    X, y = _data(task, 120, n_features=n_features)
    head = _head(task, n_table_features=n_table_features).fit(X, y)
    head.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [LightGBMHead.FILE]
    loaded = LightGBMHead.load(tmp_path, head.is_classification)
    np.testing.assert_array_equal(_output(loaded, X), _output(head, X))
    np.testing.assert_array_equal(loaded.predict(X), head.predict(X))


def test_a_narrow_table_is_not_lost_among_wide_embeddings():
    X, y = _data("binary", 200, n_features=1000)
    new, truth = _data("binary", 200, seed=1, n_features=1000)
    told, untold = (
        log_loss(truth, _head("binary", n_table_features=k).fit(X, y).predict_proba(new))
        for k in (2, 0)
    )
    assert told < untold


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_the_methods_of_one(name):
    head = make_head(name, is_classification=True, n_table_features=0, random_state=7)
    assert isinstance(head, head_class(name))
    assert head.random_state == 7
    for method in ("fit", "predict", "predict_proba", "save", "load"):
        assert callable(getattr(head, method))


def test_an_unknown_head_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match=r"Unknown head 'lightgmb'. Did you mean 'lightgbm'\? Hea"):
        make_head("lightgmb", is_classification=True, n_table_features=0, random_state=0)
