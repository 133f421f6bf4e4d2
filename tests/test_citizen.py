"""The estimators among scikit-learn's own tools: searches, calibration, routing, persistence."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from unittest import mock

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import sklearn
from conftest import FakeBuilder
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from twostage import (
    ImageEmbedder,
    TwoStageClassifier,
    TwoStageRegressor,
    load_model,
)
from twostage.backbones import lazy
from twostage.errors import ModelError
from twostage.heads import Blend, LightGBMHead, LinearHead

N = 40


def of_the_linear_head(estimator: object) -> dict[str, str]:
    """Return the checks that can't pass, and why."""
    why = "the penalty is chosen in folds, and rows written twice fall into other folds"
    return {"check_sample_weight_equivalence_on_dense_data": why}


@parametrize_with_checks(
    [TwoStageClassifier(head="linear"), TwoStageRegressor(head="linear")],
    expected_failed_checks=of_the_linear_head,
)
def test_scikit_learn_accepts_the_linear_head(
    estimator: object, check: Callable[[object], None]
) -> None:
    assert check(estimator) is None


@pytest.fixture
def photos_table(
    tmp_path: Path, photo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> tuple[pd.DataFrame, np.ndarray]:
    """Return a table of 40 rows, and a target that photo and area decide. Paths start from here."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    red, area = rng.integers(0, 256, N), rng.uniform(50, 200, N)
    for i in range(N):
        photo(tmp_path / f"{i}.png", (int(red[i]), i, 0))
    X = pd.DataFrame({"photo": [f"{i}.png" for i in range(N)], "area": area})
    return X, np.where(red + area > 255, "dear", "cheap")


@pytest.mark.slow
def test_a_search_of_ten_settings_embeds_each_image_once(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    grid = {
        "head__num_leaves": [2, 4, 6, 8, 10],
        "image_features": ["raw", "pca"],
    }
    fitted = []

    def score(model: TwoStageClassifier, X: pd.DataFrame, y: np.ndarray) -> float:
        (member,) = model.model_.members
        fitted.append((member.head.num_leaves, dict(model.model_.settings.recipe)["blocks"]))
        return model.score(X, y)

    search = GridSearchCV(TwoStageClassifier("photo"), grid, cv=5, scoring=score).fit(X, y)
    every = [
        (leaves, features) for leaves in grid["head__num_leaves"] for features in ("raw", "pca")
    ]
    assert sorted(fitted) == sorted(every * 5)
    assert fake_backbone.n_embedded == N
    assert search.best_estimator_.head.num_leaves == search.best_params_["head__num_leaves"]
    assert search.estimator.head == "lightgbm"


def test_heads_and_their_own_parameters_are_searched_together(photos_table: tuple) -> None:
    X, _ = photos_table
    grid = [
        {"head": ["linear", LinearHead()], "head__penalty": [1.0, 1e6]},
        {"head": ["lightgbm"], "head__n_trees": [1, 30]},
    ]
    model = TwoStageClassifier(head="random-forest", ignore="photo")
    search = GridSearchCV(model, grid, cv=3, scoring="neg_log_loss", error_score="raise")
    search.fit(X, X["area"] > 125)
    of_weak, of_strong = search.cv_results_["mean_test_score"][[[1, 3, 4], [0, 2, 5]]]
    assert (of_strong > of_weak).all()


EMBEDDED = make_pipeline(
    make_column_transformer((ImageEmbedder(), ["photo"]), ("passthrough", ["area"])),
    StandardScaler(),
    LogisticRegression(),
)


@pytest.mark.parametrize(
    ("model", "backbone"),
    [
        (TwoStageClassifier("photo"), "backbone"),
        (EMBEDDED, "columntransformer__imageembedder__backbone"),
    ],
    ids=["estimator", "embedder in a pipeline"],
)
def test_a_search_over_backbones_embeds_once_for_each(
    photos_table: tuple, fake_backbone: FakeBuilder, model: object, backbone: str
) -> None:
    X, y = photos_table
    grid = {backbone: ["resnet50", "mobilenet_v2"]}
    search = GridSearchCV(model, grid, cv=3, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.7
    found = Counter()
    for built in fake_backbone.built:
        found[built.spec.architecture] += built.n_embedded
    assert found == {"resnet50": N, "mobilenet_v2": N}


class _Noting(TwoStageClassifier):
    """Notes, in whatever process it is in, which images a backbone embedded there."""

    def _blocks(self, *arguments: object) -> tuple:
        def build(*asked: object) -> tuple:
            engine, device = lazy.build.of_twostage(*asked)
            run = engine.run

            def noted(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
                for batch in batches:
                    lines = [f"{os.getpid()} {colour}\n" for colour in batch[:, 0, 0, 1]]
                    with (Path(self.cache_dir).parent / "notes").open("a") as notes:
                        notes.writelines(lines)
                    yield batch

            engine.run = lambda batches: run(noted(batches))
            return engine, device

        build.of_twostage = lazy.build
        with mock.patch.object(lazy, "build", build):
            return super()._blocks(*arguments)


@pytest.mark.slow
def test_a_search_in_two_processes_embeds_each_image_once(
    photos_table: tuple, tmp_path: Path
) -> None:
    X, y = photos_table
    model = _Noting(
        "photo",
        LinearHead(),
        backbone="mobilenet_v2_035",
        weights="random",
        image_size=32,
        image_root=tmp_path,
        cache_dir=tmp_path / "cache",
    )
    grid = {"head__penalty": [0.1, 1.0, 10.0, 100.0, None], "image_pooling": ["mean", "max"]}
    search = GridSearchCV(model, grid, cv=5, n_jobs=2, error_score="raise").fit(X, y)
    assert search.best_score_ > 0.7
    processes, greens = zip(
        *(line.split() for line in (tmp_path / "notes").read_text().splitlines()), strict=True
    )
    assert str(os.getpid()) not in processes
    assert sorted(map(int, greens)) == list(range(N))


def test_predictions_out_of_fold_are_those_of_folds_by_hand(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    X.index = np.arange(N)[::-1]
    model = TwoStageClassifier("photo", "linear")
    proba = cross_val_predict(model, X, y, cv=4, method="predict_proba")
    assert ((proba[:, 1] > 0.5) == (y == "dear")).mean() > 0.8
    for train, test in StratifiedKFold(4).split(X, y):
        by_hand = clone(model).fit(X.iloc[train], y[train])
        np.testing.assert_array_equal(proba[test], by_hand.predict_proba(X.iloc[test]))
    assert fake_backbone.n_embedded == N


def test_probabilities_can_be_calibrated(photos_table: tuple, fake_backbone: FakeBuilder) -> None:
    X, y = photos_table
    train, rest = np.arange(N) < 24, np.arange(N) >= 24
    model = TwoStageClassifier("photo", "linear")
    calibrated = CalibratedClassifierCV(model, cv=3).fit(X[train], y[train])
    assert calibrated.score(X[rest], y[rest]) > 0.7
    assert not hasattr(model, "model_")
    weight = (X["area"] > 100).to_numpy(float)
    weighted = CalibratedClassifierCV(model, cv=3).fit(X[train], y[train], weight[train])
    (first, _), *_ = StratifiedKFold(3).split(X[train], y[train])
    by_hand = clone(model).fit(X.iloc[first], y[first], sample_weight=weight[first])
    expected = by_hand.predict_proba(X)
    found = weighted.calibrated_classifiers_[0].estimator.predict_proba(X)
    np.testing.assert_array_equal(found, expected)
    unweighted = calibrated.calibrated_classifiers_[0].estimator.predict_proba(X)
    assert not np.allclose(unweighted, expected)


@pytest.mark.parametrize("is_loaded", [False, True], ids=["fitted", "loaded"])
def test_a_frozen_estimator_is_calibrated_but_not_fitted_again(
    photos_table: tuple, fake_backbone: FakeBuilder, tmp_path: Path, is_loaded: bool
) -> None:
    X, y = photos_table
    train, rest = np.arange(N) < 20, np.arange(N) >= 20
    model = TwoStageClassifier("photo", "linear").fit(X[train], y[train])
    if is_loaded:
        model.save(tmp_path / "model")
        model = load_model(tmp_path / "model")
    learned = model.model_
    before = model.predict_proba(X)[:, 1]
    calibrated = CalibratedClassifierCV(FrozenEstimator(model)).fit(X[rest], y[rest])
    assert model.model_ is learned
    order = np.argsort(before)
    after = calibrated.predict_proba(X)[order, 1]
    assert (np.diff(after) >= 0).all()
    assert after[-1] - after[0] > 0.5


def test_a_frozen_embedder_is_not_fitted_again(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    frozen = FrozenEstimator(ImageEmbedder("resnet50").fit(X[["photo"]]))
    pipeline = make_pipeline(
        make_column_transformer((frozen, ["photo"]), ("passthrough", ["area"])),
        StandardScaler(),
        LogisticRegression(),
    )
    assert cross_validate(pipeline, X, y, cv=3)["test_score"].mean() > 0.7
    n_built = len(fake_backbone.built)
    pipeline.fit(X, y)
    assert len(fake_backbone.built) == n_built
    names = pipeline[0].get_feature_names_out().tolist()
    assert names == [*(f"frozenestimator__photo_emb_000{i}" for i in range(3)), "passthrough__area"]


def test_permutation_tells_which_columns_matter(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    X = X.assign(noise=np.random.default_rng(1).normal(size=N))
    model = TwoStageClassifier("photo", "linear").fit(X, y)
    found = permutation_importance(model, X, y, n_repeats=5, random_state=0)
    assert found.importances_mean[:2].min() > 0.1 > abs(found.importances_mean[2])
    assert fake_backbone.n_embedded == N


def _double(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(area=frame["area"] * 2)


def test_a_pipeline_may_come_first(photos_table: tuple, fake_backbone: FakeBuilder) -> None:
    X, y = photos_table
    pipeline = make_pipeline(FunctionTransformer(_double), TwoStageClassifier("photo", "linear"))
    grid = {"twostageclassifier__head__penalty": [1.0, 1e6]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(X, y)
    assert search.best_params_ == {"twostageclassifier__head__penalty": 1.0}
    assert search.best_score_ > 0.8
    alone = clone(search.best_estimator_[-1]).fit(_double(X), y)
    np.testing.assert_array_equal(search.predict_proba(X), alone.predict_proba(_double(X)))
    assert search.classes_.tolist() == ["cheap", "dear"]


@pytest.mark.parametrize(("library", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
@pytest.mark.parametrize("make", [pd.DataFrame, pl.from_pandas], ids=["from pandas", "from polars"])
def test_embeddings_come_in_the_container_asked_for(
    photos_table: tuple, fake_backbone: FakeBuilder, library: str, kind: type, make: Callable
) -> None:
    X = photos_table[0].assign(second=photos_table[0]["photo"].to_numpy()[::-1])
    columns = make_column_transformer(
        (ImageEmbedder(), ["photo", "second"]),
        ("passthrough", ["area"]),
        verbose_feature_names_out=False,
    ).set_output(transform=library)
    found = columns.fit_transform(make(X))
    assert isinstance(found, kind)
    names = [f"{column}_emb_000{i}" for column in ("photo", "second") for i in range(3)] + ["area"]
    assert list(found.columns) == names == list(columns.get_feature_names_out())
    numbers = found.to_numpy()
    np.testing.assert_array_equal(numbers[:, 1], np.arange(N))
    np.testing.assert_array_equal(numbers[:, 4], np.arange(N)[::-1])
    np.testing.assert_array_equal(numbers[:, 6], X["area"])
    np.testing.assert_array_equal(columns.transform(make(X[20:])).to_numpy(), numbers[20:])


@pytest.fixture
def grouped_rows() -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Return X, y, groups, weights. Inner splits that part groups, or weigh rows alike, mislead."""
    rng = np.random.default_rng(0)
    groups = rng.permutation(np.repeat(np.arange(40), 4))
    of_group = rng.normal(size=(40, 15))
    noise = rng.normal(size=40)
    X = pd.DataFrame(of_group[groups] + 0.01 * rng.normal(size=(160, 15))).rename(columns=str)
    y = of_group[groups, 0] + 2 * noise[groups]
    weight = rng.choice([0.0, 1.0, 10.0], 160)
    return X, y, groups, weight


def test_groups_and_weights_are_routed(grouped_rows: tuple) -> None:
    X, y, groups, weight = grouped_rows
    given = {"groups": groups, "sample_weight": weight}
    plain = TwoStageRegressor(head="linear")
    with sklearn.config_context(enable_metadata_routing=True):
        model = clone(plain).set_fit_request(groups=True, sample_weight=True)
        model.set_score_request(sample_weight=True)
        found = cross_validate(
            model, X, y, cv=GroupKFold(3), params=given, error_score="raise", return_estimator=True
        )
    splits = list(GroupKFold(3).split(X, y, groups))
    assert len(found["estimator"]) == len(splits) == 3
    for estimator, score, (train, test) in zip(
        found["estimator"], found["test_score"], splits, strict=True
    ):
        rows = (X.iloc[train], y[train])
        by_hand = clone(plain).fit(*rows, groups=groups[train], sample_weight=weight[train])
        predicted = by_hand.predict(X.iloc[test])
        np.testing.assert_array_equal(estimator.predict(X.iloc[test]), predicted)
        assert score == pytest.approx(r2_score(y[test], predicted, sample_weight=weight[test]))
        assert score != pytest.approx(r2_score(y[test], predicted))
        for other in ({"sample_weight": weight[train]}, {"groups": groups[train]}):
            differing = clone(plain).fit(*rows, **other).predict(X.iloc[test])
            assert not np.allclose(differing, predicted)


def test_what_weighs_nothing_is_neither_learned_nor_scored() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"area": rng.normal(size=120)})
    weight = rng.integers(0, 2, 120)
    y = np.where(weight, 2 * X["area"], 1e6 * rng.normal(size=120))
    with sklearn.config_context(enable_metadata_routing=True):
        model = TwoStageRegressor(head="linear").set_fit_request(sample_weight=True)
        model.set_score_request(sample_weight=True)
        scores = cross_validate(model, X, y, cv=3, params={"sample_weight": weight})["test_score"]
    assert scores.min() > 0.9


def test_a_search_routes_groups_and_weights_through_a_pipeline(grouped_rows: tuple) -> None:
    X, y, groups, weight = grouped_rows
    with sklearn.config_context(enable_metadata_routing=True):
        model = TwoStageRegressor(head="linear").set_fit_request(groups=True, sample_weight=True)
        model.set_score_request(sample_weight=True)
        pipeline = make_pipeline(FunctionTransformer(), model)
        grid = {"twostageregressor__scaling": ["standard", "minmax"]}
        search = GridSearchCV(pipeline, grid, cv=GroupKFold(3), error_score="raise")
        search.fit(X, y, groups=groups, sample_weight=weight)
    scaling = search.best_params_["twostageregressor__scaling"]
    by_hand = TwoStageRegressor(head="linear", scaling=scaling)
    by_hand.fit(X, y, groups=groups, sample_weight=weight)
    np.testing.assert_array_equal(search.predict(X), by_hand.predict(X))
    by_name = make_pipeline(FunctionTransformer(), TwoStageRegressor(head="linear"))
    by_name.set_params(twostageregressor__scaling=scaling).fit(
        X, y, twostageregressor__groups=groups, twostageregressor__sample_weight=weight
    )
    np.testing.assert_array_equal(by_name.predict(X), by_hand.predict(X))


@pytest.mark.parametrize(
    "head",
    [
        RandomForestClassifier(7),
        make_pipeline(StandardScaler(), LogisticRegression()),
        LightGBMHead(n_trees=5),
        Blend([LinearHead(), RandomForestClassifier(7)]),
    ],
    ids=["estimator", "pipeline", "head", "blend"],
)
def test_clones_share_nothing_and_a_fit_leaves_the_head_as_it_is(
    photos_table: tuple, fake_backbone: FakeBuilder, head: object
) -> None:
    X, y = photos_table
    before = joblib.hash(head)
    model = TwoStageClassifier("photo", head, ignore=["area"], class_weight="balanced").fit(X, y)
    other = clone(model)
    assert not hasattr(other, "model_")
    assert model.head is head is not other.head
    assert joblib.hash(head) == joblib.hash(other.head) == before
    assert other.ignore == ["area"]
    name, value = {
        "RandomForestClassifier": ("max_depth", 1),
        "Pipeline": ("logisticregression__C", 3.0),
        "LightGBMHead": ("num_leaves", 3),
        "Blend": ("heads", ["linear"]),
    }[type(head).__name__]
    other.set_params(**{f"head__{name}": value})
    assert other.get_params()[f"head__{name}"] == value
    assert joblib.hash(head) == before


def test_any_estimator_is_a_head_and_its_parameters_can_be_searched(
    photos_table: tuple, fake_backbone: FakeBuilder, tmp_path: Path
) -> None:
    X, y = photos_table
    model = TwoStageClassifier("photo", RandomForestClassifier(20))
    search = GridSearchCV(model, {"head__max_depth": [1, 3]}, cv=3, error_score="raise").fit(X, y)
    best = search.best_estimator_
    assert best.model_.members[0].head.model_.max_depth == search.best_params_["head__max_depth"]
    best.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), best.predict_proba(X))
    again = clone(loaded).head
    assert isinstance(again, RandomForestClassifier)
    assert again.get_params() == best.head.get_params()


class _Unheard(LogisticRegression):
    """A class that twostage does not know."""


def test_an_unknown_type_is_saved_and_loaded_only_if_trusted(
    photos_table: tuple, fake_backbone: FakeBuilder, tmp_path: Path
) -> None:
    X, y = photos_table
    model = TwoStageClassifier("photo", _Unheard()).fit(X, y)
    with pytest.raises(ModelError, match="_Unheard"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    trusted = [f"{_Unheard.__module__}._Unheard"]
    model.save(tmp_path / "model", trusted=trusted)
    with pytest.raises(ModelError, match="_Unheard"):
        load_model(tmp_path / "model")
    loaded = load_model(tmp_path / "model", trusted=trusted)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


@pytest.mark.parametrize(
    "head",
    ["linear", "lightgbm+linear", LightGBMHead(num_leaves=3), LinearHead(penalty=3.0)],
    ids=str,
)
def test_a_loaded_model_would_be_fitted_again_with_the_same_head(
    photos_table: tuple, fake_backbone: FakeBuilder, tmp_path: Path, head: object
) -> None:
    X, y = photos_table
    TwoStageClassifier("photo", head).fit(X, y).save(tmp_path / "model")
    again = clone(load_model(tmp_path / "model")).head
    assert type(again) is type(head)
    assert repr(again) == repr(head)


def test_a_loaded_blend_would_be_fitted_again_with_the_same_heads(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"area": rng.normal(size=120), "size": rng.normal(size=120)})
    y = 5 * X["area"] + 2 * np.sign(X["area"] * X["size"])  # each head is good at one half
    blend = Blend([LinearHead(penalty=3.0), LightGBMHead(n_trees=60)])
    model = TwoStageRegressor(head=blend).fit(X, y)
    assert len(model.model_.members) == 2
    model.save(tmp_path / "model")
    again = clone(load_model(tmp_path / "model"))
    assert isinstance(again.head, Blend)
    assert repr(list(again.head.heads)) == repr(blend.heads)
    np.testing.assert_array_equal(again.fit(X, y).predict(X), model.predict(X))


@pytest.mark.slow
def test_dumped_estimators_predict_the_same_in_another_process(
    photos_table: tuple, fake_backbone: FakeBuilder, tmp_path: Path
) -> None:
    photos, y = photos_table
    X = photos.assign(site=np.random.default_rng(0).choice(["a", "b"], N))
    table = X[["area", "site"]]
    heads = ["lightgbm", "linear", "random-forest", "svm", "blend", LogisticRegression()]
    fitted = {
        f"{head} {task}": (make(head=head).fit(table, target), table)
        for head in heads
        for task, make, target in (
            ("classifies", TwoStageClassifier, y),
            ("regresses", TwoStageRegressor, X["area"] * 2),
        )
        if task == "classifies" or isinstance(head, str)
    }
    fitted["images"] = (TwoStageClassifier("photo", "linear").fit(X, y), X)
    fitted["pipeline"] = (clone(EMBEDDED).fit(X, y), X)
    fitted["embedder"] = (ImageEmbedder().fit(X[["photo"]]), X[["photo"]])
    joblib.dump(fitted, tmp_path / "models")
    code = (
        "import joblib, sys\n"
        "def found(model, X):\n"
        "    for method in ('predict_proba', 'predict', 'transform'):\n"
        "        if hasattr(model, method): return getattr(model, method)(X)\n"
        "models = joblib.load(sys.argv[1])\n"
        "joblib.dump({name: found(*pair) for name, pair in models.items()}, sys.argv[2])\n"
        "assert 'tensorflow' not in sys.modules\n"
    )
    files = [str(tmp_path / "models"), str(tmp_path / "outputs")]
    subprocess.run([sys.executable, "-c", code, *files], check=True)
    outputs = joblib.load(tmp_path / "outputs")
    assert list(outputs) == list(fitted)
    for name, (model, rows) in fitted.items():
        methods = ("predict_proba", "predict", "transform")
        method = next(method for method in methods if hasattr(model, method))
        expected = getattr(model, method)(rows)
        assert len(np.unique(expected)) > 2, name
        np.testing.assert_array_equal(outputs[name], expected, err_msg=name)


@pytest.mark.parametrize(
    ("estimator", "weight", "message"),
    [
        (TwoStageRegressor(), np.zeros(30), "at least one non-zero"),
        (TwoStageRegressor(), np.r_[-1, np.ones(29)], "Negative values"),
        (TwoStageRegressor(class_weight="balanced"), None, "Class weights need classes"),
        (TwoStageClassifier(log_target=True), None, "needs a regression"),
        (
            TwoStageRegressor(head=RandomForestClassifier()),
            None,
            r"RandomForestClassifier.* can't predict numbers",
        ),
        (TwoStageRegressor(head="lightgmb"), None, "Did you mean 'lightgbm'"),
    ],
)
def test_what_cannot_be_is_one_error(
    estimator: TwoStageRegressor, weight: object, message: str
) -> None:
    X = pd.DataFrame({"area": np.arange(30.0) ** 1.5})
    y = np.arange(30) % 2 if isinstance(estimator, TwoStageClassifier) else np.arange(30.0)
    with pytest.raises(ValueError, match=message):
        estimator.fit(X, y, sample_weight=weight)


def of_the_embedder(estimator: ImageEmbedder) -> dict[str, str]:
    """Return the checks that can't pass, and why."""
    why = "a list of paths is a column of images: one dimension is what most users have"
    return {"check_fit1d": why, "check_fit2d_predict1d": why}


@pytest.mark.filterwarnings("ignore:.*unusable image")
@parametrize_with_checks([ImageEmbedder()], expected_failed_checks=of_the_embedder)
def test_scikit_learn_accepts_the_embedder_fed_with_numbers_for_paths(
    estimator: object, check: Callable[[object], None], fake_backbone: FakeBuilder
) -> None:
    assert check(estimator) is None


def test_a_blend_keeps_its_heads_settings_though_one_gets_no_weight(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"area": rng.normal(size=120), "size": rng.normal(size=120)})
    y = X["area"] - 2 * X["size"]  # a straight line: trees get no weight
    blend = Blend([LinearHead(penalty=0.01), LightGBMHead(n_trees=5)])
    model = TwoStageRegressor(head=blend).fit(X, y)
    assert len(model.model_.members) == 1
    model.save(tmp_path / "model")
    again = clone(load_model(tmp_path / "model"))
    assert repr(list(again.head.heads)) == repr(blend.heads)
    np.testing.assert_array_equal(again.fit(X, y).predict(X), model.predict(X))


def test_an_estimator_without_weight_in_a_blend_is_no_name_of_a_head(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"area": rng.normal(size=120), "size": rng.normal(size=120)})
    y = X["area"] - 2 * X["size"]
    model = TwoStageRegressor(head=Blend(["linear", DummyRegressor()])).fit(X, y)
    assert len(model.model_.members) == 1
    model.save(tmp_path / "model")
    again = clone(load_model(tmp_path / "model"))
    np.testing.assert_array_equal(again.fit(X, y).predict(X), model.predict(X))


@pytest.mark.parametrize("labels", [[0, 1], ["no", "yes"], [2.0, 3.0]], ids=str)
def test_class_weights_of_a_loaded_model_fit_again(tmp_path: Path, labels: list) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"area": rng.normal(size=120)})
    y = np.array(labels)[(X["area"] + rng.normal(size=120) > 0).astype(int)]
    weights = {labels[0]: 1.0, labels[1]: 5.0}
    model = TwoStageClassifier(head="linear", class_weight=weights).fit(X, y)
    model.save(tmp_path / "model")
    again = clone(load_model(tmp_path / "model"))
    assert again.class_weight == weights
    np.testing.assert_array_equal(again.fit(X, y).predict_proba(X), model.predict_proba(X))


@pytest.mark.parametrize("seed", [7, np.int64(7)], ids=repr)
def test_numpys_integers_are_seeds_too(
    photos_table: tuple, fake_backbone: FakeBuilder, seed: int
) -> None:
    X, y = photos_table
    TwoStageClassifier("photo", "linear", weights="random", random_state=seed).fit(X, y)
    assert [built.spec.weights for built in fake_backbone.built] == ["random:7"]


def test_the_embedder_checks_the_names_it_is_asked_to_name_features_by(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    embedder = ImageEmbedder().fit(photos_table[0][["photo"]])
    assert len(embedder.get_feature_names_out(["photo"])) == 3
    with pytest.raises(ValueError, match="input_features is not equal to feature_names_in_"):
        embedder.get_feature_names_out(["other"])


def test_a_polars_series_keeps_its_name(photos_table: tuple, fake_backbone: FakeBuilder) -> None:
    photos = photos_table[0]["photo"]
    for column in (photos, pl.from_pandas(photos)):
        names = ImageEmbedder().fit(column).get_feature_names_out()
        assert names[0] == "photo_emb_0000"
    assert ImageEmbedder().fit(pl.Series(photos.tolist())).image_columns_ == ["image"]


def test_a_lazy_frame_is_asked_to_be_collected() -> None:
    lazy = pl.DataFrame({"area": [1.0, 2.0, 3.0]}).lazy()
    with pytest.raises(ValueError, match=r"Give X.collect\(\)"):
        TwoStageRegressor(head="linear").fit(lazy, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    model = TwoStageRegressor(head="linear", random_state=seed)
    with pytest.raises(ValueError, match=f"0 to 2\\*\\*32 - 1; found {seed}"):
        model.fit(np.arange(20.0).reshape(10, 2), np.arange(10.0))
