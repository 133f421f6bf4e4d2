"""The estimators among scikit-learn's own tools: searches, calibration, routing, persistence."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_predict, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks

from twostage import (
    EmbeddingStore,
    ImageEmbedder,
    TwoStageClassifier,
    TwoStageRegressor,
    load_model,
)
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


def test_a_search_of_ten_settings_embeds_each_image_once(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    grid = {
        "head__num_leaves": [2, 4, 6, 8, 10],
        "image_features": ["raw", "pca"],
    }
    search = GridSearchCV(TwoStageClassifier("photo"), grid, cv=5).fit(X, y)
    assert len(search.cv_results_["params"]) == 10
    assert fake_backbone.n_embedded == N
    assert isinstance(search.best_estimator_.head, LightGBMHead)


def test_a_search_over_backbones_embeds_once_for_each(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    grid = {"backbone": ["resnet50", "mobilenet_v2"]}
    GridSearchCV(TwoStageClassifier("photo"), grid, cv=3).fit(X, y)
    assert fake_backbone.n_embedded == 2 * N


@pytest.mark.slow
def test_a_search_in_two_processes_embeds_each_image_once(
    photos_table: tuple, tmp_path: Path, own_cache: Path
) -> None:
    X, y = photos_table
    model = TwoStageClassifier(
        "photo",
        LinearHead(),
        backbone="mobilenet_v2_035",
        weights="random",
        image_size=32,
        image_root=tmp_path,
        cache_dir=own_cache,
    )
    grid = {"head__penalty": [0.1, 1.0, 10.0, 100.0, None], "image_pooling": ["mean", "max"]}
    search = GridSearchCV(model, grid, cv=5, n_jobs=2).fit(X, y)
    assert len(search.cv_results_["params"]) == 10
    (folder,) = [path for path in own_cache.iterdir() if path.is_dir()]
    store = EmbeddingStore(folder)
    rows = [image for part in store.parts() for image in store.read_part(part)["image"].to_pylist()]
    assert len(rows) == len(set(rows)) == N


def test_probabilities_can_be_calibrated_and_predicted_out_of_fold(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    model = TwoStageClassifier("photo", "linear")
    calibrated = CalibratedClassifierCV(model, cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.8
    frozen = FrozenEstimator(model.fit(X, y))
    assert CalibratedClassifierCV(frozen).fit(X, y).score(X, y) > 0.8
    proba = cross_val_predict(model, X, y, cv=4, method="predict_proba")
    assert ((proba[:, 1] > 0.5) == (y == "dear")).mean() > 0.7
    assert fake_backbone.n_embedded == N


def test_permutation_tells_which_columns_matter(
    photos_table: tuple, fake_backbone: FakeBuilder
) -> None:
    X, y = photos_table
    X = X.assign(noise=np.random.default_rng(1).normal(size=N))
    model = TwoStageClassifier("photo", "linear").fit(X, y)
    found = permutation_importance(model, X, y, n_repeats=5, random_state=0)
    assert found.importances_mean[:2].min() > found.importances_mean[2]


def test_a_pipeline_may_come_first(photos_table: tuple, fake_backbone: FakeBuilder) -> None:
    X, y = photos_table
    double = FunctionTransformer(lambda frame: frame.assign(area=frame["area"] * 2))
    pipeline = make_pipeline(double, TwoStageClassifier("photo"))
    assert pipeline.fit(X, y).score(X, y) > 0.8


@pytest.mark.parametrize(("library", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame)])
def test_embeddings_come_in_the_container_asked_for(
    photos_table: tuple, fake_backbone: FakeBuilder, library: str, kind: type
) -> None:
    X, _ = photos_table
    columns = make_column_transformer(
        (ImageEmbedder(), ["photo"]), ("passthrough", ["area"]), verbose_feature_names_out=False
    ).set_output(transform=library)
    found = columns.fit_transform(X)
    assert isinstance(found, kind)
    names = ["photo_emb_0000", "photo_emb_0001", "photo_emb_0002", "area"]
    assert list(found.columns) == names == list(columns.get_feature_names_out())


def test_groups_and_weights_are_routed() -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"area": rng.normal(size=120)})
    y = X["area"].to_numpy() + rng.normal(size=120)
    groups, weight = np.arange(120) // 3, np.r_[np.ones(119), 0]
    seen = []

    class Spy(TwoStageRegressor):
        def fit(self, X, y, groups=None, sample_weight=None):  # type: ignore[no-untyped-def]
            seen.append((groups, sample_weight))
            return super().fit(X, y, groups, sample_weight)

    with sklearn.config_context(enable_metadata_routing=True):
        model = Spy(head="linear").set_fit_request(groups=True, sample_weight=True)
        model.set_score_request(sample_weight=True)
        cross_validate(
            model, X, y, cv=GroupKFold(3), params={"groups": groups, "sample_weight": weight}
        )
    assert len(seen) == 3
    for of_rows, weights in seen:
        assert len(of_rows) == len(weights) in (78, 81)
        assert (np.bincount(of_rows)[np.unique(of_rows)] == 3).all()


def test_any_estimator_is_a_head_and_its_parameters_can_be_searched(
    photos_table: tuple, fake_backbone: FakeBuilder, tmp_path: Path
) -> None:
    X, y = photos_table
    model = TwoStageClassifier("photo", RandomForestClassifier(20))
    search = GridSearchCV(model, {"head__max_depth": [1, 3]}, cv=3).fit(X, y)
    best = search.best_estimator_
    assert best.model_.members[0].head.model_.max_depth == search.best_params_["head__max_depth"]
    best.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(X), best.predict_proba(X))
    assert isinstance(clone(loaded).head, RandomForestClassifier)


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
    ("head", "expected"),
    [
        ("linear", "linear"),
        (LightGBMHead(num_leaves=3), LightGBMHead),
        (Blend([LinearHead(penalty=3.0), LightGBMHead(n_trees=5)]), (Blend, LinearHead)),
    ],
    ids=["name", "head", "blend"],
)
def test_a_loaded_model_would_be_fitted_again_with_the_same_head(
    photos_table: tuple, fake_backbone: FakeBuilder, tmp_path: Path, head: object, expected: object
) -> None:
    X, y = photos_table
    TwoStageClassifier("photo", head).fit(X, y).save(tmp_path / "model")
    again = clone(load_model(tmp_path / "model")).head
    if isinstance(expected, str):
        assert again == expected
    else:
        assert isinstance(again, expected)
        assert "num_leaves" not in str(head) or again.num_leaves == 3


@pytest.mark.parametrize("head", ["lightgbm", "linear", "blend"])
def test_a_dumped_estimator_predicts_the_same_in_another_process(tmp_path: Path, head: str) -> None:
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"area": rng.normal(size=120), "site": rng.choice(["a", "b"], 120)})
    model = TwoStageRegressor(head=head).fit(X, X["area"] * 2)
    joblib.dump(model, tmp_path / "model.joblib")
    X.to_parquet(tmp_path / "X.parquet")
    code = (
        "import joblib, pandas as pd, sys; m = joblib.load(sys.argv[1]);"
        "print(*m.predict(pd.read_parquet(sys.argv[2])).tolist())"
    )
    files = [str(tmp_path / "model.joblib"), str(tmp_path / "X.parquet")]
    run = subprocess.run(
        [sys.executable, "-c", code, *files], capture_output=True, text=True, check=True
    )
    np.testing.assert_array_equal(np.array(run.stdout.split(), float), model.predict(X))


@pytest.mark.parametrize(
    ("estimator", "weight", "message"),
    [
        (TwoStageRegressor(), np.zeros(30), "at least one non-zero"),
        (TwoStageRegressor(), np.r_[-1, np.ones(29)], "Negative values"),
        (TwoStageRegressor(class_weight="balanced"), None, "Class weights need classes"),
        (TwoStageClassifier(log_target=True), None, "needs a regression"),
        (TwoStageRegressor(head=RandomForestClassifier()), None, "RandomForestClassifier"),
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
