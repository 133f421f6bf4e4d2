"""The LightGBM head: it learns, it repeats itself, and it knows when to stop."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.metrics import accuracy_score, log_loss, r2_score

import twostage.heads.lightgbm as module
from twostage.features import Features
from twostage.heads.base import Task
from twostage.heads.lightgbm import LightGBMHead

TASKS = {"binary": Task(2), "multiclass": Task(3), "regression": Task(None)}


def _features(table, block=None, codes=None, cardinalities=()):
    n = len(table)
    codes = np.empty((n, 0), np.int32) if codes is None else codes
    blocks = () if block is None else (block.astype(np.float32),)
    return Features(table.astype(np.float32), codes, cardinalities, blocks)


def _data(kind, n=300, seed=0, n_features=4, width=0):
    """Features of which the first two of the table tell the target, with noise."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features + width)).astype(np.float32)
    value = X[:, 0] - X[:, 1] + rng.normal(scale=0.3, size=n)
    features = _features(X[:, :n_features], X[:, n_features:] if width else None)
    if kind == "regression":
        return features, value
    return features, np.digitize(value, [0] if kind == "binary" else [-0.7, 0.7])


def _fit(kind, features, y, *, groups=None, weight=None, seed=0, **options):
    task = Task(TASKS[kind].n_classes, seed, n_jobs=1)
    return LightGBMHead(**options).fit(features, y, task, groups, weight)


def _output(head, features):
    return (head.predict_proba if head.task_.is_classification else head.predict)(features)


@pytest.fixture
def splits(monkeypatch):
    """The folds that early stopping looked at, and what was asked for."""
    calls = []

    def recorded(y, task, groups):
        folds = original(y, task, groups)
        calls.append(folds)
        return folds

    original = module.folds_to_stop_by
    monkeypatch.setattr(module, "folds_to_stop_by", recorded)
    return calls


@pytest.mark.parametrize("n", [80, 300, 1200])
@pytest.mark.parametrize("kind", TASKS)
def test_it_learns_from_few_rows_and_from_more(kind, n):
    head = _fit(kind, *_data(kind, n))
    new, truth = _data(kind, 300, seed=1)
    if kind == "regression":
        assert r2_score(truth, head.predict(new)) > 0.75
    else:
        predicted = head.predict_proba(new).argmax(axis=1)
        assert accuracy_score(truth, predicted) > (0.82 if kind == "binary" else 0.7)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_probabilities_sum_to_one(kind):
    features, y = _data(kind)
    proba = _fit(kind, features, y).predict_proba(features)
    assert proba.shape == (len(y), TASKS[kind].n_classes)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert log_loss(y, proba) < 0.5


@pytest.mark.parametrize("kind", TASKS)
def test_the_same_seed_gives_the_same_predictions(kind):
    features, y = _data(kind)
    np.testing.assert_array_equal(*(_output(_fit(kind, features, y), features) for _ in range(2)))


def test_another_seed_gives_other_inner_splits(splits):
    features, y = _data("binary")
    for seed in (1, 2):
        _fit("binary", features, y, seed=seed)
    assert splits[0][0][1].tolist() != splits[1][0][1].tolist()


@pytest.mark.parametrize("kind", TASKS)
def test_the_number_of_threads_changes_nothing(monkeypatch, kind):
    monkeypatch.setattr(module, "_MIN_CELLS_FOR_THREADS", 0)
    features, y = _data(kind)
    one, two = (
        LightGBMHead(n_trees=20).fit(features, y, Task(TASKS[kind].n_classes, n_jobs=n_jobs))
        for n_jobs in (1, 2)
    )
    np.testing.assert_array_equal(_output(one, features), _output(two, features))


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("n", "n_folds"), [(300, 5), (1000, 1)])
def test_inner_splits_keep_groups_together(splits, kind, n, n_folds):
    features, y = _data(kind, n)
    groups = np.arange(n) // 5
    _fit(kind, features, y, groups=groups)
    (folds,) = splits
    assert len(folds) == n_folds
    for train, inner in folds:
        assert set(groups[train]).isdisjoint(groups[inner])
        assert len(inner) == pytest.approx(n / 5, abs=n / 20)


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
    head = _fit("binary", *_data("binary", n), groups=groups)
    assert bool(splits[0]) == is_split
    assert (head.booster_.num_trees() == 100) != is_split


def test_few_trees_are_grown_where_there_is_nothing_to_learn():
    features, y = _data("binary")
    noise = np.random.default_rng(5).integers(0, 2, len(y))
    learned = _fit("binary", features, y).booster_.num_trees()
    assert _fit("binary", features, noise).booster_.num_trees() < learned / 2


@pytest.mark.parametrize("n", [80, 300])
def test_the_final_trees_are_grown_on_all_rows(n):
    trees = _fit("binary", *_data("binary", n)).booster_.trees_to_dataframe()
    roots = trees[trees["node_depth"] == 1]
    assert set(roots["count"]) == {n}


def test_settings_of_the_user_are_those_of_the_trees():
    features, y = _data("binary")
    head = _fit("binary", features, y, n_trees=7, num_leaves=3, learning_rate=0.3)
    assert head.booster_.num_trees() == 7
    assert head.booster_.params["num_leaves"] == 3
    assert head.booster_.params["learning_rate"] == 0.3


@pytest.mark.parametrize("kind", TASKS)
def test_missing_features_are_learned_from(kind):
    features, y = _data(kind)
    is_high = features.table[:, 0] > 0
    table = np.zeros_like(features.table)
    table[~is_high, 0] = np.nan
    output = _output(_fit(kind, _features(table), y), _features(table))
    assert np.isfinite(output).all()
    first = output if kind == "regression" else output[:, -1]
    assert first[is_high].min() > first[~is_high].max()


def test_rows_without_any_feature_get_a_finite_prediction():
    features, y = _data("binary")
    features.table[::3] = np.nan
    nothing = _features(np.full((2, 4), np.nan))
    assert np.isfinite(_fit("binary", features, y).predict_proba(nothing)).all()


def test_categories_given_by_number_are_split_as_sets_and_unseen_ones_go_somewhere():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 9, (400, 1)).astype(np.int32)
    y = np.isin(codes[:, 0], [2, 5, 7]).astype(int)
    features = _features(np.empty((400, 0)), codes=codes, cardinalities=(9,))
    head = _fit("binary", features, y, n_trees=30, num_leaves=2)
    assert "cat_threshold" in head.booster_.model_to_string()
    assert ((head.predict_proba(features)[:, 1] > 0.5) == y).all()
    unseen = _features(np.empty((1, 0)), codes=np.zeros((1, 1), np.int32), cardinalities=(9,))
    assert np.isfinite(head.predict_proba(unseen)).all()


@pytest.mark.parametrize("kind", TASKS)
def test_trees_shown_only_what_they_split_on_predict_as_from_the_whole_matrix(kind):
    features, y = _data(kind, 200, n_features=3, width=300)
    features.table[::5, 0] = np.nan
    head = _fit(kind, features, y, n_trees=10)
    whole = np.hstack([*[features.table] * head.n_copies_, features.codes, *features.blocks])
    assert 0 < np.count_nonzero(head.booster_.feature_importance()) < whole.shape[1]
    bare = head.booster_.predict(whole)
    ours = _output(head, features)
    np.testing.assert_array_equal(ours[:, 1] if kind == "binary" else ours, bare)


def test_parts_side_by_side_give_the_trees_of_one_matrix(monkeypatch):
    monkeypatch.setattr(module, "_N_SAMPLED_FEATURES", 10_000)  # the table enters once
    features, y = _data("regression", 300, n_features=3, width=40)
    together = _features(features.matrix())
    heads = [_fit("regression", part, y, n_trees=20) for part in (features, together)]
    np.testing.assert_array_equal(heads[0].predict(features), heads[1].predict(together))


@pytest.mark.parametrize("width", [0, 300])
@pytest.mark.parametrize("kind", TASKS)
def test_a_saved_head_predicts_the_same(tmp_path, kind, width):
    features, y = _data(kind, 120, width=width)
    head = _fit(kind, features, y, n_trees=20)
    head.save(tmp_path)
    loaded = LightGBMHead().load(tmp_path, head.task_)
    np.testing.assert_array_equal(_output(loaded, features), _output(head, features))


@pytest.mark.slow
def test_a_narrow_table_is_not_lost_among_wide_embeddings(monkeypatch):
    features, y = _data("binary", 200, n_features=2, width=1000)
    new, truth = _data("binary", 200, seed=1, n_features=2, width=1000)
    told = _fit("binary", features, y)
    assert told.n_copies_ == 64
    monkeypatch.setattr(module, "_n_copies", lambda features: 1)
    untold = _fit("binary", features, y)
    assert log_loss(truth, told.predict_proba(new)) < log_loss(truth, untold.predict_proba(new))


@pytest.mark.parametrize("kind", TASKS)
def test_a_weight_counts_as_so_many_equal_rows(kind):
    features, y = _data(kind, 20)
    times = np.random.default_rng(0).integers(1, 5, 20)
    rows = np.repeat(np.arange(20), times)
    weighted = _fit(kind, features, y, weight=times.astype(float))
    repeated = _fit(kind, features.take(rows), y[rows])
    np.testing.assert_allclose(_output(weighted, features), _output(repeated, features), atol=1e-6)


def test_a_class_that_is_absent_gets_no_probability_to_speak_of():
    features, y = _data("binary")
    head = LightGBMHead(n_trees=50).fit(features, y * 2, Task(3))
    proba = head.predict_proba(features)
    assert proba.shape == (300, 3)
    assert proba[:, 1].max() < 0.01


def test_a_clone_is_unfitted_and_has_the_same_settings():
    head = clone(_fit("binary", *_data("binary"), num_leaves=5, n_trees=3))
    assert head.num_leaves == 5
    assert not hasattr(head, "booster_")


def test_many_classes_of_few_rows_do_not_diverge():
    """Unpenalised leaves of six rows per class reach a log loss of 29; a guess has 4.6."""
    n_classes, n_rows = 99, 6
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(n_classes), 2 * n_rows)
    values = rng.normal(size=(n_classes, 60))[y] + rng.normal(size=(len(y), 60))
    trained = np.flatnonzero(np.arange(len(y)) % 2 == 0)
    features = _features(values)
    head = LightGBMHead(n_trees=40).fit(features.take(trained), y[trained], Task(n_classes, 0, 1))
    others = np.setdiff1d(np.arange(len(y)), trained)
    assert log_loss(y[others], head.predict_proba(features.take(others))) < 3


def test_the_trees_of_many_classes_are_bounded_together(monkeypatch):
    rounds = []

    def cv(parameters, data, most, **options):
        rounds.append(most)
        return {"valid": [0.0]}

    monkeypatch.setattr(module.lightgbm, "cv", cv)
    for n_classes in (2, 25, 100, 2000):
        y = np.repeat(np.arange(n_classes), 2000 // n_classes + 6)
        features = _features(np.zeros((len(y), 1)))
        LightGBMHead().fit(features, y, Task(n_classes, 0, 1))
    assert rounds == [2000, 2000, 500, 100]
