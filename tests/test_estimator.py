"""The estimators as scikit-learn sees them, and that they are the command line's own code."""

from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from conftest import FakeBuilder
from sklearn.base import clone
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from twostage import ImageEmbedder, TwoStageClassifier, TwoStageRegressor, load_model
from twostage.errors import ImagesError
from twostage.splits import inner_folds


@parametrize_with_checks([TwoStageClassifier(), TwoStageRegressor()])
def test_scikit_learn_accepts_the_estimators(
    estimator: object, check: Callable[[object], None]
) -> None:
    assert check(estimator) is None


@pytest.fixture
def houses(
    tmp_path: Path, photo: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> pd.DataFrame:
    """Return a table of 40 houses; photo and area decide the price. Paths start from here."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    red = rng.integers(0, 256, 40)
    for i in range(40):
        photo(tmp_path / f"{i}.png", (int(red[i]), i, 0))
    area = rng.uniform(50, 200, 40)
    return pd.DataFrame(
        {
            "photo": [f"{i}.png" for i in range(40)],
            "area": area,
            "price": red * 100 + area * 100,
            "is_dear": np.where(red + area > 255, "dear", "cheap"),
        }
    )


def test_cross_validation_embeds_no_image_twice(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    X, y = houses[["photo", "area"]], houses["price"]
    cross_val_score(TwoStageRegressor("photo"), X, y, cv=3)
    assert fake_backbone.n_embedded == 40


def test_images_and_table_together_beat_each_alone(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    X, y = houses[["photo", "area"]], houses["price"]
    folds = KFold(4, shuffle=True, random_state=0)
    score = {
        features: cross_val_score(
            TwoStageRegressor("photo", features=features), X, y, cv=folds
        ).mean()
        for features in ("both", "images", "table")
    }
    assert score["both"] > max(score["images"], score["table"])


def test_a_classifier_predicts_labels_and_probabilities(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    X, y = houses[["photo", "area"]], houses["is_dear"]
    model = TwoStageClassifier("photo").fit(X, y)
    assert model.classes_.tolist() == ["cheap", "dear"]
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba.sum(axis=1), 1)
    assert (model.predict(X) == model.classes_[proba.argmax(axis=1)]).all()
    assert model.score(X, y) > 0.9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X: X[["area", "photo"]], "must be in the same order"),
        (lambda X: X.rename(columns={"area": "size"}), "unseen at fit time"),
        (lambda X: X[["photo"]], "missing"),
    ],
)
def test_other_columns_than_at_fit_are_refused(
    houses: pd.DataFrame, fake_backbone: FakeBuilder, change: Callable, message: str
) -> None:
    X = houses[["photo", "area"]]
    model = TwoStageRegressor("photo").fit(X, houses["price"])
    with pytest.raises(ValueError, match=message):
        model.predict(change(X))


def test_estimators_work_in_a_grid_search_and_are_cloned_whole(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    X, y = houses[["photo", "area"]], houses["price"]
    search = GridSearchCV(
        TwoStageRegressor("photo"), {"features": ["images", "table", "both"]}, cv=2
    ).fit(X, y)
    assert search.best_params_["features"] == "both"
    assert clone(search.best_estimator_).get_params() == search.best_estimator_.get_params()
    assert fake_backbone.n_embedded == 40


def test_a_dumped_estimator_predicts_the_same(
    houses: pd.DataFrame, fake_backbone: FakeBuilder, tmp_path: Path
) -> None:
    X = houses[["photo", "area"]]
    model = TwoStageRegressor("photo").fit(X, houses["price"])
    joblib.dump(model, tmp_path / "model.joblib")
    np.testing.assert_array_equal(
        joblib.load(tmp_path / "model.joblib").predict(X), model.predict(X)
    )


def test_a_saved_estimator_is_loaded_fitted_and_takes_columns_by_name(
    houses: pd.DataFrame, fake_backbone: FakeBuilder, tmp_path: Path
) -> None:
    X = houses[["photo", "area"]]
    model = TwoStageClassifier("photo", backbone="resnet50").fit(X, houses["is_dear"])
    model.save(tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, TwoStageClassifier)
    assert loaded.backbone == "resnet50"
    other_order = houses[["price", "area", "photo"]]
    np.testing.assert_array_equal(loaded.predict_proba(other_order), model.predict_proba(X))


def test_the_embedder_gives_rows_in_order_and_names(
    houses: pd.DataFrame, fake_backbone: FakeBuilder, tmp_path: Path
) -> None:
    embedder = ImageEmbedder().set_output(transform="pandas")
    X = houses[["photo"]].sample(frac=1, random_state=0)
    embedded = embedder.fit_transform(X)
    assert list(embedded) == ["photo_emb_0000", "photo_emb_0001", "photo_emb_0002"]
    assert embedded.index.tolist() == X.index.tolist()
    assert embedded["photo_emb_0001"].tolist() == X.index.tolist()


@pytest.mark.parametrize(
    "paths",
    [["1.png", "3.png"], pd.Series(["1.png", "3.png"]), np.array([["1.png"], ["3.png"]])],
    ids=["list", "series", "array"],
)
def test_the_embedder_takes_paths_in_any_form(
    houses: pd.DataFrame, fake_backbone: FakeBuilder, paths: object
) -> None:
    embedder = ImageEmbedder(image_root=Path.cwd())
    np.testing.assert_array_equal(embedder.fit_transform(paths)[:, 1], [1, 3])
    assert embedder.get_feature_names_out()[0] == "image_emb_0000"


def test_the_embedder_turns_unreadable_images_into_nan_or_an_error(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    paths = ["1.png", "lost.png", None]
    embedded = ImageEmbedder().fit_transform(paths)
    assert np.isnan(embedded).all(axis=1).tolist() == [False, True, True]
    with pytest.raises(ImagesError, match=r"1 of 3 rows .* row 2, 'lost.png': read: no such file"):
        ImageEmbedder(on_error="fail").fit_transform(paths)


def test_the_embedder_works_in_a_pipeline(houses: pd.DataFrame, fake_backbone: FakeBuilder) -> None:
    columns = make_column_transformer((ImageEmbedder(), ["photo"]), ("passthrough", ["area"]))
    pipeline = make_pipeline(columns, StandardScaler(), LogisticRegression())
    scores = cross_val_score(pipeline, houses[["photo", "area"]], houses["is_dear"], cv=4)
    assert scores.mean() > 0.8
    assert fake_backbone.n_embedded == 40


@pytest.mark.parametrize("head", ["lightgbm", "linear"])
def test_equal_groups_reach_the_head(
    houses: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    seen = []

    def spy(y: np.ndarray, *, groups: np.ndarray, **options: object) -> list:
        seen.append(groups)
        return inner_folds(y, groups=groups, **options)

    monkeypatch.setattr(f"twostage.heads.{head}.inner_folds", spy)
    X = pd.DataFrame({"area": np.linspace(0, 1, 120)})
    TwoStageRegressor(head=head).fit(X, X["area"], groups=np.repeat(np.arange(60), 2))
    assert seen[0].tolist() == np.repeat(np.arange(60), 2).tolist()


def test_a_polars_table_is_a_table(houses: pd.DataFrame, fake_backbone: FakeBuilder) -> None:
    X = houses[["photo", "area"]]
    from_pandas = TwoStageRegressor("photo").fit(X, houses["price"])
    from_polars = TwoStageRegressor("photo").fit(pl.from_pandas(X), houses["price"].to_numpy())
    np.testing.assert_array_equal(from_polars.predict(pl.from_pandas(X)), from_pandas.predict(X))


def test_columns_may_be_named_by_an_index_or_one_string(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    X = houses[["photo", "area"]].assign(leak=houses["price"] * 1.5)
    model = TwoStageRegressor(X.columns[:1], ignore="leak").fit(X, houses["price"])
    assert model.model_.table_columns == ["area"]
    assert list(model.model_.dims) == ["photo"]


def test_a_role_for_a_column_that_is_not_there_is_refused(houses: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match=r"no column 'aera' .* Did you mean 'area'"):
        TwoStageRegressor(ignore=["aera"]).fit(houses[["area"]], houses["price"])


def test_two_columns_of_one_name_are_refused(houses: pd.DataFrame) -> None:
    with pytest.raises(ValueError, match="two columns 'area'"):
        TwoStageRegressor().fit(houses[["area", "area"]], houses["price"])


def test_a_series_gives_its_name_to_the_features(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    embedder = ImageEmbedder().fit(houses["photo"])
    assert embedder.get_feature_names_out()[2] == "photo_emb_0002"


@pytest.mark.parametrize("parameter", [{"on_error": "rais"}, {"device": "gpuu"}])
def test_choices_that_do_not_exist_are_refused(
    houses: pd.DataFrame, fake_backbone: FakeBuilder, parameter: dict
) -> None:
    with pytest.raises(ValueError, match="must be one of"):
        ImageEmbedder(**parameter).fit(houses[["photo"]])


def test_what_is_left_out_or_unusable_is_a_warning(
    houses: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    X = houses[["photo", "area"]].assign(record=range(40))
    X.loc[3, "photo"] = "lost.png"
    with pytest.warns(UserWarning) as caught:
        TwoStageRegressor("photo").fit(X, houses["price"])
    said = [str(warning.message) for warning in caught]
    assert any("1 rows have an unusable image" in text and "lost.png" in text for text in said)
    assert any("'record' is left out: all values differ, like an id" in text for text in said)


def test_the_table_alone_embeds_nothing(houses: pd.DataFrame, fake_backbone: FakeBuilder) -> None:
    X = houses[["photo", "area"]]
    TwoStageRegressor("photo", features="table").fit(X, houses["price"]).predict(X)
    assert fake_backbone.n_embedded == 0


def test_rows_without_a_group_stand_for_themselves() -> None:
    X = pd.DataFrame({"area": np.linspace(0, 1, 120)})
    groups = pd.Series(["a", None, "b", np.nan] * 30)
    model = TwoStageRegressor().fit(X, X["area"] * 2, groups=groups)
    assert model.predict(X[:1]).shape == (1,)
