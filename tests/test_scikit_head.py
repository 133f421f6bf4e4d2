"""Any scikit-learn estimator as a head: what it gets, what is refused, what is saved."""

import lightgbm
import numpy as np
import pytest
import skops.io
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.cluster import KMeans
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.linear_model import LogisticRegression, Ridge, RidgeClassifier
from sklearn.metrics import accuracy_score, log_loss, r2_score
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from twostage.errors import ModelError, UsageError
from twostage.features import Features
from twostage.heads import heads_of
from twostage.heads.base import Task
from twostage.heads.scikit import ScikitHead
from twostage.saving import TRUSTED, dump, load

TASKS = {"binary": Task(2), "multiclass": Task(3), "regression": Task(None)}
CLASSIFIERS = [
    LogisticRegression(),
    RandomForestClassifier(30),
    HistGradientBoostingClassifier(max_iter=20),
    lightgbm.LGBMClassifier(n_estimators=20, verbose=-1, n_jobs=1),
    KNeighborsClassifier(),
    SVC(),
    LinearSVC(),
    RidgeClassifier(),
    make_pipeline(StandardScaler(), SelectKBest(f_classif, k=4), LogisticRegression()),
    GridSearchCV(LogisticRegression(), {"C": [0.1, 1]}, cv=3),
    GaussianProcessClassifier(),
    MLPClassifier((8,), max_iter=300, learning_rate_init=0.02, tol=1e-3),
]
REGRESSORS = [
    Ridge(),
    RandomForestRegressor(30),
    HistGradientBoostingRegressor(max_iter=30),
    KNeighborsRegressor(),
    make_pipeline(StandardScaler(), Ridge()),
]


class NamelessClassifier(ClassifierMixin, BaseEstimator):
    """A type that twostage does not know, which is sure of the sign of the first feature."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        return np.eye(2)[(X[:, 0] > 0).astype(int)]


class ScorelessClassifier(NamelessClassifier):
    """It gives neither probabilities nor scores."""

    predict_proba = property()


def features(X, n_table=3):
    X = np.asarray(X, np.float32)
    codes = np.empty((len(X), 0), np.int32)
    return Features(X[:, :n_table], codes, (), (X[:, n_table:],))


def data(task, n=240, seed=0):
    """One column of the table and one of the block tell the target; the block is large."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 5)).astype(np.float32)
    value = X[:, 0] - X[:, 3] + rng.normal(scale=0.2, size=n)
    X[:, 3:] *= 30
    if task == "regression":
        return X, value
    return X, np.digitize(value, [0] if task == "binary" else [-0.7, 0.7])


def named(estimator):
    return type(estimator).__name__


@pytest.fixture(params=CLASSIFIERS, ids=named)
def classifier(request):
    return request.param


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_classifiers_learn(classifier, task):
    X, y = data(task)
    head = ScikitHead(classifier).fit(features(X), y, TASKS[task])
    X, truth = data(task, seed=1)
    proba = head.predict_proba(features(X))
    np.testing.assert_allclose(proba.sum(axis=1), 1, rtol=1e-6)
    assert proba.dtype == np.float64
    assert accuracy_score(truth, proba.argmax(axis=1)) > (0.85 if task == "binary" else 0.7)


@pytest.mark.parametrize("regressor", REGRESSORS, ids=named)
def test_regressors_learn_and_are_saved(regressor, tmp_path):
    X, y = data("regression")
    head = ScikitHead(regressor).fit(features(X), y, Task(None))
    new, truth = data("regression", seed=1)
    found = head.predict(features(new))
    assert (found.shape, found.dtype) == ((len(new),), np.float64)
    assert r2_score(truth, found) > 0.8
    head.save(tmp_path)
    loaded = ScikitHead(**head.parameters()).load(tmp_path, Task(None))
    np.testing.assert_array_equal(loaded.predict(features(new)), found)


def test_a_class_absent_at_fit_has_probability_zero(classifier):
    X, y = data("binary")
    proba = ScikitHead(classifier).fit(features(X), 2 * y + 1, Task(5)).predict_proba(features(X))
    assert (proba[:, [0, 2, 4]] == 0).all()
    assert accuracy_score(2 * y + 1, proba.argmax(axis=1)) > 0.85


def test_a_saved_classifier_predicts_the_same(classifier, tmp_path):
    X, y = data("multiclass")
    head = ScikitHead(classifier).fit(features(X), y, Task(3))
    head.save(tmp_path)
    loaded = ScikitHead(**head.parameters()).load(tmp_path, Task(3))
    new = features(data("multiclass", seed=1)[0])
    np.testing.assert_array_equal(loaded.predict_proba(new), head.predict_proba(new))
    assert type(loaded.estimator) is type(classifier)


def test_a_single_class_is_certain(classifier, tmp_path):
    X, y = data("binary")
    head = ScikitHead(classifier).fit(features(X), np.ones_like(y), Task(3))
    head.save(tmp_path)
    for fitted in (head, ScikitHead().load(tmp_path, Task(3))):
        found = fitted.predict_proba(features(X))
        np.testing.assert_array_equal(found, np.eye(3)[np.ones_like(y)])


def test_no_rows_give_no_predictions():
    X, y = data("binary")
    head = ScikitHead(LogisticRegression()).fit(features(X), y, Task(2))
    assert head.predict_proba(features(X[:0])).shape == (0, 2)
    head = ScikitHead(Ridge()).fit(features(X), y, Task(None))
    assert head.predict(features(X[:0])).shape == (0,)


@pytest.mark.parametrize(
    ("estimator", "fills_missing"),
    [
        (RandomForestClassifier(), False),
        (lightgbm.LGBMClassifier(), False),
        (GridSearchCV(HistGradientBoostingClassifier(), {}), False),
        (LogisticRegression(), True),
        (make_pipeline(StandardScaler(), LogisticRegression()), True),
    ],
    ids=lambda value: named(value) if hasattr(value, "fit") else "",
)
def test_missing_values_are_filled_for_those_that_take_none(estimator, fills_missing):
    assert ScikitHead(estimator).recipe.fills_missing == fills_missing


def test_missing_values_reach_an_estimator_that_takes_them():
    X, y = data("binary")
    X[:] = 0
    X[y == 1, 0] = np.nan
    head = ScikitHead(HistGradientBoostingClassifier(max_iter=20)).fit(features(X), y, Task(2))
    assert log_loss(y, head.predict_proba(features(X))) < 0.2


def test_a_large_block_does_not_drown_the_table():
    X, _ = data("binary")
    X[:, 3:] *= 1000
    y = (X[:, 0] > 0).astype(int)
    head = ScikitHead(KNeighborsClassifier()).fit(features(X), y, Task(2))
    assert accuracy_score(y, head.predict_proba(features(X)).argmax(axis=1)) > 0.8


@pytest.mark.parametrize(
    ("estimator", "task", "message"),
    [
        (Ridge(), "binary", "target is classes, .* a classifier; found Ridge, a regressor. Give a"),
        (SVC(), "regression", "target is values, .* a regressor; found SVC, a classifier. Give a"),
        (KMeans(2), "binary", "found KMeans, a thing of another kind"),
        (None, "binary", "found NoneType, a thing of another kind"),
        (ScorelessClassifier(), "binary", "ScorelessClassifier has neither. Choose another"),
    ],
)
def test_an_estimator_that_cannot_do_the_task_is_refused(estimator, task, message):
    X, y = data(task)
    with pytest.raises(UsageError, match=message):
        ScikitHead(estimator).fit(features(X), y, TASKS[task])


def test_it_tells_what_it_can_do():
    head = ScikitHead(make_pipeline(StandardScaler(), Ridge()))
    assert (head.can_classify, head.can_regress) == (False, True)
    head = ScikitHead(GridSearchCV(SVC(), {}))
    assert (head.can_classify, head.can_regress) == (True, False)


@pytest.mark.parametrize(
    "estimator",
    [
        LogisticRegression(),
        LinearSVC(),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression()), {}, cv=3),
    ],
    ids=named,
)
def test_weights_act(estimator):
    X, y = data("binary")
    X = np.random.default_rng(5).normal(size=X.shape)  # it tells nothing
    weight = np.where(y == 1, 30.0, 1.0)
    plain, weighted = (
        ScikitHead(estimator).fit(features(X), y, Task(2), None, w).predict_proba(features(X))
        for w in (None, weight)
    )
    assert weighted[:, 1].mean() > plain[:, 1].mean() + 0.3


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (KNeighborsClassifier(), "KNeighborsClassifier can't use them: fit takes no sample_weight"),
        (
            make_pipeline(StandardScaler(), KNeighborsClassifier()),
            "Pipeline can't use them: the last step of the Pipeline takes no sample_weight. Leave",
        ),
    ],
    ids=named,
)
def test_weights_that_would_be_ignored_are_refused(estimator, message):
    X, y = data("binary")
    with pytest.raises(UsageError, match=message):
        ScikitHead(estimator).fit(features(X), y, Task(2), None, np.ones(len(y)))
    ScikitHead(estimator).fit(features(X), y, Task(2))


def test_groups_reach_a_search_that_splits_by_them():
    X, y = data("binary")
    search = GridSearchCV(LogisticRegression(), {"C": [1.0]}, cv=GroupKFold(3))
    head = ScikitHead(search).fit(features(X), y, Task(2), np.arange(len(y)) // 4)
    assert head.predict_proba(features(X)).shape == (len(y), 2)


def test_rows_of_a_group_never_calibrate_each_other():
    """Labels are noise, shared by four equal rows: only a split through groups finds sense."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(60, 5)), 4, axis=0)
    y = np.repeat(rng.permutation(60) % 2, 4)
    groups = np.repeat(np.arange(60), 4)
    head = ScikitHead(SVC(C=30.0, gamma=0.4))
    split, grouped = (
        clone(head).fit(features(X), y, Task(2), given).predict_proba(features(X))
        for given in (None, groups)
    )
    assert np.abs(split - 0.5).mean() > 0.4
    assert np.abs(grouped - 0.5).mean() < 0.1


def test_the_seed_goes_wherever_there_is_none():
    estimator = GridSearchCV(
        make_pipeline(StandardScaler(), RandomForestClassifier(5)),
        {"randomforestclassifier__max_depth": [1, 2]},
        cv=3,
    )
    X, y = data("binary")
    one, same, other = (
        ScikitHead(estimator).fit(features(X), y, Task(2, seed)).predict_proba(features(X))
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


def test_a_seed_of_the_user_stands_and_the_estimator_is_left_alone():
    X, y = data("binary")
    given = RandomForestClassifier(5, random_state=3)
    head = ScikitHead(given).fit(features(X), y, Task(2, 1))
    assert head.model_.random_state == 3
    assert not hasattr(given, "estimators_")
    unset = RandomForestClassifier(5)
    ScikitHead(unset).fit(features(X), y, Task(2, 1))
    assert unset.random_state is None


def test_parameters_of_the_estimator_are_its_own_and_cloned():
    head = ScikitHead(RandomForestClassifier(max_depth=3))
    assert head.get_params()["estimator__max_depth"] == 3
    other = clone(head.set_params(estimator__max_depth=5))
    assert other.estimator.max_depth == 5
    assert other.estimator is not head.estimator


def test_an_estimator_given_as_a_head_is_wrapped():
    (head,) = heads_of(Ridge(alpha=2.0))
    assert isinstance(head, ScikitHead)
    assert head.estimator.alpha == 2


def test_an_unknown_type_is_refused_at_save_unless_trusted(tmp_path):
    X, y = data("binary")
    head = ScikitHead(NamelessClassifier()).fit(features(X), y, Task(2))
    name = f"{NamelessClassifier.__module__}.NamelessClassifier"
    with pytest.raises(ModelError, match=rf"{name}'. If you trust them, pass trusted=\['{name}'"):
        head.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    head.save(tmp_path, trusted=[name])
    with pytest.raises(ModelError, match=rf"holds types .* '{name}'. If you trust who"):
        ScikitHead().load(tmp_path, Task(2))
    loaded = ScikitHead().load(tmp_path, Task(2), trusted=[name])
    np.testing.assert_array_equal(
        loaded.predict_proba(features(X)), head.predict_proba(features(X))
    )


def test_an_unknown_type_is_refused_at_load(tmp_path):
    skops.io.dump({"head": NamelessClassifier()}, tmp_path / "head.skops")
    with pytest.raises(ModelError, match="NamelessClassifier"):
        load(tmp_path / "head.skops")


def test_a_trusted_name_trusts_nothing_else(tmp_path):
    with pytest.raises(ModelError, match="NamelessClassifier"):
        dump([NamelessClassifier()], tmp_path / "head.skops", trusted=[__name__, "NamelessClass"])


@pytest.mark.parametrize("trusted", [(), (f"{__name__}.<lambda>",)])
def test_a_function_without_a_name_is_refused_at_save_even_if_trusted(tmp_path, trusted):
    pipeline = make_pipeline(FunctionTransformer(lambda X: X), Ridge())
    message = "can't be written and read back" if trusted else "types that twostage does not know"
    with pytest.raises(ModelError, match=message):
        dump(pipeline, tmp_path / "head.skops", trusted)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_named(tmp_path):
    file = tmp_path / "head.skops"
    dump(Ridge(), file)
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ModelError, match=r"head.skops' can't be read .*Copy the model again"):
        load(file)


def test_the_list_of_trusted_types_is_exact():
    assert len(set(TRUSTED)) == len(TRUSTED)
    assert not any("*" in name for name in TRUSTED)
    assert list(TRUSTED) == sorted(TRUSTED)
