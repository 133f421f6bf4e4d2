"""Tuning inside fit: no second stage learns from a row by what has seen its label."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from keras import layers
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from twostage import TwoStageClassifier, TwoStageRegressor, finetuning, load_model, staging
from twostage.backbones.tuned import LinearTop, TunedBackbone
from twostage.cache import cached_backbones, clear_backbones, place_for_backbone
from twostage.cli.fit import _record, describe
from twostage.cli.main import main
from twostage.errors import DataError, ModelError, StoreError, UsageError
from twostage.fitted import FittedModel
from twostage.model import read_model, write_model
from twostage.rows import TrainingRows
from twostage.staged import Scorer, StagedModel, StagingSettings
from twostage.training import epochs

N, SIZE = 48, 32
MODES = ("holdout", "crossfit", "oof-scores", "naive")
QUICK = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "augment": "none", "n_folds": 2}


@dataclass(frozen=True)
class Clinic:
    """Photos of patients, two each, and a network to tune."""

    folder: Path
    X: pd.DataFrame
    y: np.ndarray
    patients: np.ndarray
    cache: Path

    def estimator(self, mode: str | None, kind: Any = TwoStageClassifier, **more: Any) -> Any:
        more = {"finetuning": QUICK if mode else None, "head": "linear"} | more
        return kind(
            "photo",
            finetune=mode,
            backbone=self.folder / "small.keras",
            engine="keras",
            image_root=self.folder,
            cache_dir=self.cache,
            **more,
        )

    def fitted(self, mode: str, **more: Any) -> Any:
        return self.estimator(mode, **more).fit(self.X, self.y, groups=self.patients)


@pytest.fixture(autouse=True, scope="module")
def tuning_changes_the_network() -> Iterator[None]:
    """Keep the last epoch: where no epoch is better, the backbone stays what it was."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "best_epoch", lambda history: len(history) - 1)
        yield


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    folder = tmp_path_factory.mktemp("clinic")
    save_network(folder / "small.keras")
    rng = np.random.default_rng(0)
    is_ill = np.arange(N) // 2 % 2 == 1
    for number in range(N):
        pixels = rng.integers(0, 60, (SIZE, SIZE, 3))
        pixels[..., 0] += int(60 + 80 * is_ill[number] + rng.uniform(-50, 50))
        save_pixels(folder / f"{number}.png", pixels)
    X = pd.DataFrame({"photo": [f"{i}.png" for i in range(N)], "age": rng.uniform(20, 80, N)})
    y = np.where(is_ill, "ill", "well")
    patients = np.array([f"P{number // 2}" for number in range(N)])
    return Clinic(folder, X, y, patients, folder / "cache")


def save_network(file: Path) -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(6, 3, strides=4, activation="relu")(x)
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    keras.Model(inputs, layers.GlobalAveragePooling2D()(x)).save(file)


def save_pixels(file: Path, pixels: np.ndarray) -> None:
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(file)


class Models(dict):
    """Estimators fitted in each mode, when they are first asked for."""

    def __init__(self, clinic: Clinic):
        super().__init__()
        self._clinic = clinic

    def __missing__(self, mode: str) -> Any:
        if mode == "naive":
            with pytest.warns(UserWarning, match="learn from the same rows"):
                self[mode] = self._clinic.fitted(mode)
        else:
            self[mode] = self._clinic.fitted(mode)
        return self[mode]


@pytest.fixture(scope="module")
def models(clinic: Clinic) -> Models:
    return Models(clinic)


@pytest.fixture
def run(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs a command line in the clinic's folder."""
    monkeypatch.chdir(clinic.folder)
    table = clinic.X.assign(patient=clinic.patients, state=clinic.y)
    table.to_csv(clinic.folder / "table.csv", index=False)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(main, [str(argument) for argument in arguments])

    return run


def backbone_of(spec: dict[str, Any]) -> TunedBackbone:
    return TunedBackbone.in_folder(Path(spec["weights"]).parent)


def hashes_in(model: StagedModel | FittedModel) -> set[str]:
    return {h for row in model.trained_on["content_hash"] for h in row}


@pytest.mark.parametrize("mode", MODES)
def test_a_model_read_back_predicts_the_same_without_the_cache(
    clinic: Clinic, models: Models, tmp_path: Path, mode: str
) -> None:
    model = models[mode]
    expected = model.predict_proba(clinic.X)
    assert np.mean(model.predict(clinic.X) == clinic.y) > 0.6
    model.save(tmp_path / "model")
    hidden = clinic.cache / "backbones"
    hidden.rename(clinic.cache / "hidden")
    try:
        back = load_model(
            tmp_path / "model", image_root=clinic.folder, cache_dir=tmp_path / "cache"
        )
        np.testing.assert_array_equal(back.predict_proba(clinic.X), expected)
    finally:
        (clinic.cache / "hidden").rename(hidden)
    assert back.model_.staging == model.model_.staging
    assert back.model_.settings == model.model_.settings
    assert back.get_params()["finetune"] == mode
    assert back.get_params()["finetuning"]["n_folds"] == 2
    assert back.get_params()["backbone"] == str(clinic.folder / "small.keras")
    pd.testing.assert_frame_equal(back.model_.trained_on, model.model_.trained_on)
    assert not list((tmp_path / "model").rglob("*.pkl"))


@pytest.mark.parametrize("mode", ["holdout", "crossfit"])
def test_no_head_learns_from_a_row_that_its_backbone_has_seen(models: Models, mode: str) -> None:
    model = models[mode].model_
    for part in model.parts:
        seen = backbone_of(part.backbone).seen()
        assert seen.content_hashes
        assert not seen.content_hashes & hashes_in(part)
        assert not seen.groups & set(part.trained_on["group"])
        assert len(seen.content_hashes) + part.n_rows == N
        assert part.n_seen == 0


def test_crossfit_uses_each_row_in_either_stage(models: Models) -> None:
    model = models["crossfit"].model_
    first, second = (backbone_of(part.backbone).seen() for part in model.parts)
    assert not first.groups & second.groups
    assert first.content_hashes == hashes_in(model.parts[1])
    assert second.content_hashes == hashes_in(model.parts[0])
    assert sum(model.n_tuned) == sum(part.n_rows for part in model.parts) == N


def test_the_naive_mode_is_marked(models: Models) -> None:
    (part,) = models["naive"].model_.parts
    assert part.settings.allow_seen
    assert part.n_seen == N
    assert not models["naive"].model_.settings.allow_seen


@pytest.mark.parametrize("mode", MODES)
def test_all_rows_of_both_stages_are_remembered(models: Models, mode: str) -> None:
    model = models[mode].model_
    assert len(model.trained_on) == model.n_rows == N
    assert len(hashes_in(model)) == N
    assert model.seen.content_hashes <= hashes_in(model)


def test_scores_are_those_of_the_backbone_that_has_not_seen_the_row(
    clinic: Clinic, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[TrainingRows] = []

    def fit_model(rows: TrainingRows, *more: Any) -> FittedModel:
        taught.append(rows)
        return fit(rows, *more)

    fit = staging.fit_model
    monkeypatch.setattr(staging, "fit_model", fit_model)
    model = clinic.fitted("oof-scores", features="images").model_  # by the backbones of the cache
    (rows,) = taught
    assert model.score_names == {"photo": ["photo_cnn_well"]}
    assert [column.name for column in model.parts[0].columns] == ["photo_cnn_well"]
    assert model.columns == []
    for scorer in model.scorers:
        tuned = backbone_of(scorer.backbone)
        blocks = models["oof-scores"]._look(clinic.X, scorer.backbone)[0]
        hashes = [row[0] for row in blocks["photo"].content_hashes]
        is_new = ~np.isin(hashes, sorted(tuned.seen().content_hashes))
        assert is_new.any()
        groups = set(clinic.patients[is_new])
        assert not groups & tuned.seen().groups
        expected = scorer.scores(blocks["photo"].matrix)[:, 0]
        taken = rows.frame["photo_cnn_well"].to_numpy()
        np.testing.assert_allclose(taken[is_new], expected[is_new], rtol=1e-5)
        assert not np.allclose(taken[~is_new], expected[~is_new])
    assert not np.isnan(rows.frame["photo_cnn_well"]).any()
    assert [len(backbone_of(s.backbone).seen().content_hashes) for s in model.scorers] == (
        model.n_tuned
    )


def test_scores_of_backbones_are_comparable() -> None:
    embeddings = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    kernel = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float32)
    bias = np.zeros(4, np.float32)

    def scores(n: int, shift: float = 0.0) -> np.ndarray:
        return Scorer({}, LinearTop(kernel[:, :n], bias[:n] + shift)).scores(embeddings)

    outputs = embeddings @ kernel
    np.testing.assert_allclose(scores(1), outputs[:, :1], rtol=1e-5)
    np.testing.assert_allclose(scores(2), outputs[:, 1:2] - outputs[:, :1], rtol=1e-4)
    np.testing.assert_allclose(np.exp(scores(4)).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(scores(4), scores(4, shift=3.0), rtol=1e-4, atol=1e-5)
    embeddings[2] = np.nan
    assert np.isnan(scores(4)).any(axis=1).tolist() == [False, False, True, False, False]


def test_scores_of_values_are_in_the_unit_of_the_target(clinic: Clinic) -> None:
    price = 1000.0 + 500.0 * (clinic.y == "ill")
    model = clinic.estimator("oof-scores", TwoStageRegressor, finetuning=QUICK | {"epochs": 0})
    model.fit(clinic.X, price, groups=clinic.patients)
    blocks = model._look(clinic.X, model.model_.scorers[0].backbone)[0]
    scores = model.model_.scorers[0].scores(blocks["photo"].matrix)[:, 0]
    assert 1000 < scores.mean() < 1500
    assert np.corrcoef(scores, price)[0, 1] > 0.5
    assert model.model_.score_names == {"photo": ["photo_cnn"]}


def test_a_row_without_an_image_is_predicted_too(clinic: Clinic, models: Models) -> None:
    X = clinic.X.assign(photo=clinic.X["photo"].where(np.arange(N) != 3))
    for mode in ("crossfit", "oof-scores"):
        assert np.isfinite(models[mode].predict_proba(X)).all()


def test_a_score_on_rows_that_a_backbone_has_seen_is_refused(
    clinic: Clinic, models: Models
) -> None:
    with pytest.raises(DataError, match="has seen the labels of all 48 rows"):
        models["crossfit"].score(clinic.X, clinic.y)
    with pytest.warns(UserWarning, match="24 of 48 rows, or their groups, had been seen"):
        models["holdout"].score(clinic.X, clinic.y)


@pytest.mark.slow
def test_a_search_over_the_head_tunes_each_fold_once_and_on_its_rows_alone(
    clinic: Clinic, tmp_path: Path
) -> None:
    estimator = clinic.estimator("holdout").set_params(cache_dir=tmp_path / "cache")
    folds = list(GroupKFold(2).split(clinic.X, clinic.y, clinic.patients))
    grid = {"head__penalty": [1.0, 100.0], "image_features": ["raw", "pca"]}
    search = GridSearchCV(estimator, grid, cv=folds, refit=False, error_score="raise")
    search.fit(clinic.X, clinic.y, groups=clinic.patients)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    tuned = cached_backbones(tmp_path / "cache")
    assert len(tuned) == 2
    folders = [tmp_path / "cache" / "backbones" / one.name for one in tuned]
    seen = [TunedBackbone.in_folder(folder).seen() for folder in folders]
    assert {len(one.content_hashes) for one in seen} == {N // 4}
    assert not seen[0].content_hashes & seen[1].content_hashes
    assert len(clear_backbones(tmp_path / "cache")) == 2
    assert cached_backbones(tmp_path / "cache") == []


def test_clones_and_dumps_are_as_any_estimators(
    clinic: Clinic, models: Models, tmp_path: Path
) -> None:
    model = models["crossfit"]
    assert clone(model).get_params() == model.get_params()
    joblib.dump(model, tmp_path / "model.joblib")
    back = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(back.predict(clinic.X), model.predict(clinic.X))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_columns": None}, "there are none: give image_columns"),
        ({"features": "table"}, "features other than 'table'"),
        ({"finetune": "cross-fit"}, "None or one of holdout, oof-scores, crossfit, naive; found"),
        ({"finetune": None}, "finetune is None. Give finetune, or leave finetuning out"),
        ({"finetuning": {"epoch": 3}}, "no setting 'epoch'. Did you mean 'epochs'"),
        ({"finetuning": {"epochs": -1}}, "epochs must be 0 to"),
        ({"finetuning": {"share": 1.0}}, "share must be 0.05 to 0.95"),
        ({"finetuning": {"n_folds": 1}}, "n_folds must be 2 to 100"),
    ],
)
def test_what_can_not_be_tuned_is_refused(
    clinic: Clinic, change: dict[str, Any], message: str
) -> None:
    X = clinic.X[["age"]] if "image_columns" in change else clinic.X
    with pytest.raises(UsageError, match=message):
        clinic.estimator("crossfit").set_params(**change).fit(X, clinic.y)


def test_weights_of_classes_are_for_both_stages() -> None:
    defaults = {"class_weight": "balanced", "random_state": 3}
    assert StagingSettings.chosen("holdout", None, defaults).tuning.class_weight == "balanced"
    own = StagingSettings.chosen("holdout", {"class_weight": None, "share": 0.3}, defaults)
    assert (own.tuning.class_weight, own.tuning.random_state, own.share) == (None, 3, 0.3)
    assert StagingSettings.chosen("holdout", own.options(), {}) == own


def test_an_image_with_two_labels_is_refused_before_anything_is_tuned(clinic: Clinic) -> None:
    shutil.copyfile(clinic.folder / "0.png", clinic.folder / "copy.png")
    X = clinic.X.assign(photo=[*clinic.X["photo"][:-1], "copy.png"])
    with pytest.raises(DataError, match=r"'0.png' and 'copy.png' are the same image with two"):
        clinic.estimator("holdout").fit(X, clinic.y)


@pytest.mark.parametrize("name", ["scorer-1/backbone/top.npz", "seen.parquet", "part-0/model.json"])
def test_a_changed_file_of_a_staged_model_is_refused(
    models: Models, tmp_path: Path, name: str
) -> None:
    write_model(models["oof-scores"].model_, tmp_path / "model")
    write_model(models["oof-scores"].model_, tmp_path / "model")  # it may take its own place
    assert isinstance(read_model(tmp_path / "model"), StagedModel)
    file = tmp_path / "model" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ModelError, match=f"'{name}' .* digest differs"):
        read_model(tmp_path / "model")
    file.unlink()
    with pytest.raises(ModelError, match=f"lacks its file '{name}'"):
        read_model(tmp_path / "model")


@pytest.mark.slow
def test_what_the_parent_has_seen_is_in_neither_stage(clinic: Clinic, tmp_path: Path) -> None:
    table = clinic.X.assign(state=clinic.y, patient=clinic.patients)
    folder, how = tmp_path / "tuned", {name: QUICK[name] for name in QUICK if name != "n_folds"}
    finetuning.finetune(
        clinic.folder,
        folder,
        table=table[:24],  # two steps: the rate of the first one is 0
        target="state",
        image_columns="photo",
        group="patient",
        holdout=0,
        backbone=clinic.folder / "small.keras",
        **how,
    )
    model = clinic.estimator("crossfit").set_params(backbone=folder)
    with pytest.warns(UserWarning, match="24 of 48 rows, or their groups, had been seen"):
        model.fit(clinic.X, clinic.y, groups=clinic.patients)
    assert model.model_.n_seen == 24
    assert sum(model.model_.n_tuned) == N - 24
    before = TunedBackbone.in_folder(folder).seen()
    assert not before.content_hashes & hashes_in(model.model_)
    assert before.content_hashes < model.model_.seen.content_hashes
    assert len(model.model_.seen.content_hashes) == N


@pytest.mark.slow
def test_a_backbone_that_no_epoch_made_better_shares_no_store_with_its_parent(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights are its parent's, and the rows that it has seen are not."""
    monkeypatch.setattr(epochs, "best_epoch", lambda history: 0)
    replace(clinic, cache=tmp_path / "one").fitted("holdout").save(tmp_path / "model")
    other = tmp_path / "other"
    load_model(tmp_path / "model", image_root=clinic.folder, cache_dir=other).predict(clinic.X)
    frozen = replace(clinic, cache=other).estimator(None).fit(clinic.X, clinic.y)
    assert frozen.model_.n_seen == 0
    assert len(list(other.glob("keras_*"))) == 2


@pytest.mark.slow
def test_a_damaged_backbone_of_the_cache_is_tuned_anew(clinic: Clinic, tmp_path: Path) -> None:
    model = clinic.estimator("holdout").set_params(cache_dir=tmp_path)
    proba = model.fit(clinic.X, clinic.y, groups=clinic.patients).predict_proba(clinic.X)
    tuned = backbone_of(model.model_.parts[0].backbone)
    (tuned.folder / "top.npz").write_bytes(b"nothing")
    assert not tuned.is_whole()
    model.fit(clinic.X, clinic.y, groups=clinic.patients)
    assert backbone_of(model.model_.parts[0].backbone).is_whole()
    np.testing.assert_array_equal(model.predict_proba(clinic.X), proba)


def test_a_model_whose_backbones_are_gone_is_not_saved(clinic: Clinic, tmp_path: Path) -> None:
    model = clinic.fitted("holdout")
    model.model_.parts[0].backbone["weights"] = str(tmp_path / "backbone.keras")
    with pytest.raises(ModelError, match="was the cache emptied"):
        model.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_backbone_that_is_being_tuned_is_not_cleared(tmp_path: Path) -> None:
    with place_for_backbone("0" * 32, tmp_path) as folder:
        (folder.with_name(f"{folder.name}.unfinished")).mkdir(parents=True)
        with pytest.raises(StoreError, match="is being tuned"):
            clear_backbones(tmp_path)
    assert [one.name for one in clear_backbones(tmp_path)] == [f"tuned-{'0' * 32}"]
    assert cached_backbones(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--finetune", "crossfit"), "give --images with their folder, not a STORE"),
        (("--epochs", 3, "--lr", 0.1), "--epochs, --lr: nothing is tuned without --finetune"),
        (("--tuning-batch-size", 8), "--tuning-batch-size: nothing is tuned without"),
        (("--tuning-folds", 4), "--tuning-folds: nothing is tuned without"),
        (("--finetune", "both"), "Invalid value for '--finetune'"),
    ],
)
def test_a_wrong_command_exits_with_2(run: Any, arguments: tuple, message: str) -> None:
    asked = ("--table", "table.csv", "--target", "state", "--image-col", "photo", "-o", "M")
    result = run("fit", ".", *asked, *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_tuning_without_pictures_exits_with_2(run: Any) -> None:
    asked = ("--table", "table.csv", "--target", "state", "--features", "table", "-o", "M")
    result = run("fit", "--images", ".", *asked, "--finetune", "holdout")
    assert result.exit_code == 2
    assert "--features table leaves them out" in result.stderr


def test_the_command_scores_on_rows_that_neither_stage_saw_and_saves_a_whole_model(
    clinic: Clinic, run: Any, own_cache: Path, tmp_path: Path
) -> None:
    asked = ("--table", "table.csv", "--target", "state", "--image-col", "photo")
    tuning = ("--finetune", "holdout", "--epochs", 1, "--tuning-batch-size", 8)
    more = ("--group", "patient", "--head", "linear", "--engine", "keras", "--augment", "none")
    result = run(
        *("fit", "--images", ".", "--backbone", "small.keras", "-o", tmp_path / "M"),
        *asked,
        *more,
        *tuning,
    )
    assert result.exit_code == 0, result.output
    assert "Fine-tuned (holdout): small.keras was tuned on 24 rows; the head" in result.stdout
    assert "which tuning, training, early stopping and encoders did not see" in result.stdout
    assert "epoch 1, loss" in result.stderr
    model = read_model(tmp_path / "M")
    assert model.holdout is not None
    assert model.holdout.n_rows + model.holdout.n_training_rows == N
    listed = run("cache", "info").stdout
    assert listed.count("tuned by a fit") == 2
    assert "2 tuned backbones" in run("cache", "clear").stdout
    predicted = run(
        *("predict", tmp_path / "M", "--images", ".", "--table", "table.csv"),
        *("-o", tmp_path / "P.parquet"),
    )
    assert predicted.exit_code == 0, predicted.output
    assert len(pd.read_parquet(tmp_path / "P.parquet")) == N


def test_the_summary_is_json_and_words(models: Models) -> None:
    record = json.loads(json.dumps(_record(models["crossfit"].model_, "M")))
    assert (record["finetune"], record["n_tuned"]) == ("crossfit", [24, 24])
    assert record["finetuning"]["epochs"] == 1
    told = describe(models["oof-scores"].model_, "M")
    assert "2 of small.keras, tuned on 24 and 24 rows, gave the others their scores (1 c" in told
    assert "same rows (finetune naive)" in describe(models["naive"].model_, "M")


def test_a_store_can_not_serve_several_backbones(run: Any, models: Models, tmp_path: Path) -> None:
    models["crossfit"].save(tmp_path / "M")
    result = run(
        *("predict", tmp_path / "M", "--store", ".", "--table", "table.csv"),
        *("-o", tmp_path / "P.csv"),
    )
    assert result.exit_code == 2
    assert "has 2 backbones, and a store holds embeddings by one. Give --images" in result.stderr


@pytest.mark.slow
def test_embeddings_tell_labels_of_rows_that_were_seen_and_of_no_others(tmp_path: Path) -> None:
    """Of noise there is nothing to learn: what is found was memorised."""
    n = 120
    rng = np.random.default_rng(0)
    for number in range(n):
        save_pixels(tmp_path / f"{number}.png", rng.integers(0, 256, (SIZE, SIZE, 3)))
    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.Conv2D(8, 3, strides=2, activation="relu")(x)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    keras.Model(inputs, x).save(tmp_path / "small.keras")
    X = pd.DataFrame({"photo": [f"{number}.png" for number in range(n)]})
    y = np.arange(n) % 2
    found = {}
    for mode in ("naive", "crossfit"):
        model = TwoStageClassifier(
            "photo",
            "linear",
            finetune=mode,
            finetuning=QUICK | {"epochs": 8, "learning_rate": 1e-3},
            backbone=tmp_path / "small.keras",
            engine="keras",
            image_root=tmp_path,
            cache_dir=tmp_path / "cache",
        ).fit(X, y)
        scores = []
        for part in model.model_.parts:  # as stage two would cross-validate itself
            block = model._look(X, part.backbone)[0]["photo"]
            rows = [h[0] in hashes_in(part) for h in block.content_hashes]
            head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
            scores += list(cross_val_score(head, block.matrix[rows], y[rows], scoring="roc_auc"))
        found[mode] = np.mean(scores)
    assert found["naive"] > 0.8
    assert 0.35 < found["crossfit"] < 0.65
