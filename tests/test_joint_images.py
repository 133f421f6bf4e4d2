"""Joint networks of images and tables: the backbone and the head's network trained together."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sklearn.metrics import log_loss, roc_auc_score
from tuning import QUICK, arrays, save_small_network, write_photos

from twostage import TwoStageClassifier, TwoStageRegressor, benchmark, extract, load_model, staging
from twostage.backbones.tuned import LinearTop, TunedBackbone
from twostage.cli.main import main
from twostage.cotraining import Cotraining, _lesson
from twostage.errors import BackboneError, BenchmarkError, DataError, UsageError
from twostage.heads import JointHead
from twostage.staged import StagedModel
from twostage.store.store import EmbeddingStore
from twostage.training import epochs
from twostage.training.data import Examples, TrainingBatches
from twostage.training.epochs import Inputs
from twostage.training.standing import NetworkTop, Standard

N = 60
TUNING = QUICK | {"learning_rate": 1e-2, "augment": "none"}


def small_head(**more: Any) -> JointHead:
    return JointHead(**{"n_members": 1, "max_epochs": 4, "units": 8, "block_units": 4} | more)


@dataclass
class Clinic:
    """Photos of patients, two each; one row has no photo, one shows two."""

    folder: Path
    X: pd.DataFrame
    y: pd.Series
    values: pd.Series
    patients: pd.Series

    def estimator(self, kind: Any = TwoStageClassifier, **more: Any) -> Any:
        options = {
            "head": small_head(),
            "finetuning": TUNING,
            "backbone": self.folder / "small.keras",
            "engine": "keras",
            "image_root": self.folder / "photos",
            "cache_dir": self.folder / "cache",
        }
        return kind("image", **options | more)


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    folder = tmp_path_factory.mktemp("clinic")
    save_small_network(folder)
    table = write_photos(folder / "photos", N)
    rng = np.random.default_rng(0)
    X = table[["image"]].assign(age=rng.normal(size=N), site=rng.choice(["arm", "leg"], N))
    X.loc[3, "image"] = None
    X.loc[4, "image"] = "004.png;005.png"
    X.loc[5, "image"] = None
    return Clinic(folder, X, table["label"], table["value"], table["patient"])


@pytest.fixture(scope="module")
def asked() -> list[Cotraining]:
    return []


@pytest.fixture(scope="module")
def model(clinic: Clinic, asked: list[Cotraining]) -> Any:
    """Return an estimator that kept its last epoch: by chance, the frozen one may be better."""
    cotrain = staging.cotrain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(epochs, "best_epoch", lambda history: len(history) - 1)
        patch.setattr(staging, "cotrain", lambda *a, **k: asked.append(a[1]) or cotrain(*a, **k))
        return clinic.estimator().fit(clinic.X, clinic.y, groups=clinic.patients)


def backbone_of(model: StagedModel) -> TunedBackbone:
    return TunedBackbone.in_folder(Path(model.parts[0].backbone["weights"]).parent)


def test_both_are_trained_and_a_model_read_back_predicts_the_same(
    clinic: Clinic, model: Any, asked: list[Cotraining], tmp_path: Path
) -> None:
    (what,) = asked
    trained = keras.models.load_model(backbone_of(model.model_).network)
    before = keras.models.load_model(clinic.folder / "small.keras")
    pairs = zip(arrays(trained.trainable_weights), arrays(before.trainable_weights), strict=True)
    assert any(np.abs(a - b).max() > 1e-4 for a, b in pairs)
    network = model.model_.parts[0].members[0].head.network_
    weights = backbone_of(model.model_).network_weights().arrays
    for mine, kept in zip(network.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(mine, kept)
    expected = model.predict_proba(clinic.X)
    model.save(tmp_path / "model")
    (clinic.folder / "cache").rename(clinic.folder / "hidden")
    try:
        back = load_model(
            tmp_path / "model", image_root=clinic.folder / "photos", cache_dir=tmp_path / "cache"
        )
        np.testing.assert_array_equal(back.predict_proba(clinic.X), expected)
    finally:
        (clinic.folder / "hidden").rename(clinic.folder / "cache")
    assert back.model_.staging == model.model_.staging
    assert back.finetune is None
    assert back.finetuning["epochs"] == TUNING["epochs"]
    assert set(what.train) | set(what.validation) == set(range(N))


def test_the_score_that_chose_is_that_of_the_predictions(
    clinic: Clinic, model: Any, asked: list[Cotraining]
) -> None:
    """What trains and what predicts agree, on rows without an image and of several too."""
    rows = asked[0].validation
    history = pd.read_csv(backbone_of(model.model_).folder / "history.csv")
    proba = model.predict_proba(clinic.X.iloc[rows])
    is_ill = clinic.y.iloc[rows] == "class_1"
    loss = log_loss(is_ill, proba[:, 1], labels=[False, True])
    assert history["validation_loss"].iloc[-1] == pytest.approx(loss, abs=1e-4)
    assert history["score"].iloc[-1] == pytest.approx(roc_auc_score(is_ill, proba[:, 1]))


def test_no_group_is_both_trained_on_and_chosen_by(clinic: Clinic, asked: list[Cotraining]) -> None:
    (what,) = asked
    patients = clinic.patients.to_numpy()
    assert not set(patients[what.train]) & set(patients[what.validation])
    assert not {3, 4, 5} & set(what.train) or {4, 5} <= set(what.train) | set(what.validation)


def test_its_backbone_extracts_and_knows_what_it_has_seen(
    clinic: Clinic, model: Any, tmp_path: Path
) -> None:
    model.save(tmp_path / "model")
    done = extract(
        clinic.folder / "photos", tmp_path / "store", backbone=tmp_path / "model/part-0/backbone"
    )
    assert done.n_images == N
    seen = EmbeddingStore(tmp_path / "store").seen
    recorded = {h for row in model.model_.trained_on["content_hash"] for h in row}
    assert seen.content_hashes == recorded
    assert seen.groups == set(clinic.patients)
    with pytest.raises(BackboneError, match="can't be read"):
        LinearTop.read(backbone_of(model.model_).folder / "top.npz")


def test_nothing_is_scored_that_was_trained_on(clinic: Clinic, model: Any) -> None:
    shown = clinic.X["image"].notna()
    with pytest.raises(DataError, match="seen the labels of all 58 rows"):
        model.score(clinic.X[shown], clinic.y[shown])


@pytest.mark.slow
def test_the_same_again_trains_nothing(
    clinic: Clinic, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "cotrain", None)
    again = clinic.estimator().fit(clinic.X, clinic.y, groups=clinic.patients)
    np.testing.assert_array_equal(again.predict_proba(clinic.X), model.predict_proba(clinic.X))
    other = clinic.X.assign(age=clinic.X["age"] + 1)
    with pytest.raises(TypeError):  # of another table it has to train
        clinic.estimator().fit(other, clinic.y, groups=clinic.patients)
    asked = clinic.estimator(finetuning=TUNING | {"unfreeze": 9})
    with pytest.raises(UsageError, match="has 5 blocks; asked to train 9"):
        monkeypatch.undo()
        asked.fit(clinic.X, clinic.y, groups=clinic.patients)


@pytest.mark.slow
def test_where_no_epoch_is_better_it_is_the_frozen_network_of_all_rows(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(epochs, "best_epoch", lambda history: 0)
    how = TUNING | {"epochs": 1, "unfreeze": 2, "copies": 2}
    model = clinic.estimator(TwoStageRegressor, finetuning=how).fit(clinic.X, clinic.values)
    frozen = clinic.estimator(TwoStageRegressor, finetuning={"unfreeze": "none"})
    frozen.fit(clinic.X, clinic.values)
    np.testing.assert_allclose(model.predict(clinic.X), frozen.predict(clinic.X), rtol=1e-4)
    assert isinstance(model.model_, StagedModel)
    assert not isinstance(frozen.model_, StagedModel)
    assert frozen.model_.n_rows == N
    frozen.save(tmp_path / "model")
    assert load_model(tmp_path / "model").finetuning == {"unfreeze": "none"}
    assert backbone_of(model.model_).seen().content_hashes


# What an example is


@pytest.fixture
def lesson(asked: list[Cotraining], model: Any) -> Any:
    what = asked[0]
    pixels = np.zeros((N, 2, 2, 3), np.uint8)
    shown = [[[row] for row in range(N)], [[] for _ in range(N)]]
    shown[0][0], shown[0][1], shown[1][2] = [7, 8], [], [9]
    first = what.rows.blocks["image"]
    rows = replace(what.rows, blocks={"image": first})
    made = _lesson(replace(what, rows=rows, train=np.arange(40)), pixels, shown[:1])
    return replace(made, columns=shown)


def test_a_row_shows_its_images_by_turns_and_none_where_it_has_none(lesson: Any) -> None:
    looks = [np.zeros((N, 4), np.float32)]
    inputs = Inputs(looks, looks[0], None)
    first, second = (lesson.examples(inputs, epoch) for epoch in (0, 1))
    assert first.rows.shape == (40, 2)
    assert (first.rows[0, 0], second.rows[0, 0]) == (7, 8)
    assert first.rows[2].tolist() == [2, 9]
    is_there = first.others[0]
    assert is_there[:3].tolist() == [[1, 0], [0, 0], [1, 1]]
    assert [other.shape for other in first.others[1:]] == [(40, 1), (40,)]


def test_validation_images_are_not_those_trained_on(lesson: Any) -> None:
    assert not set(lesson.train_images[:1]) - {2}
    assert set(lesson.validation_images) >= set(lesson.validation)


def test_a_batch_has_images_by_example_and_the_other_inputs() -> None:
    x = np.arange(6, dtype=np.float32)[:, None]
    places = np.array([[0, 1], [2, 3], [4, 5]])
    rows = np.arange(3)
    given = Examples(x, places, rows[:, None], rows, (rows * 10, rows[:, None] * 100))
    batches = TrainingBatches(given, 3, 0.0, np.random.default_rng(0))
    (pixels, tens, hundreds), y, _ = batches[0]
    np.testing.assert_array_equal(pixels[:, :, 0], places[y[:, 0]])
    np.testing.assert_array_equal(tens, 10 * y[:, 0])
    np.testing.assert_array_equal(hundreds, 100 * y)


def test_a_network_sees_standardised_embeddings_and_a_copy_of_it_is_trained() -> None:
    table, images = keras.Input((2,)), [keras.Input((3,)), keras.Input((3,))]
    summed = keras.layers.Concatenate()([table, *images])
    network = keras.Model([table, *images], keras.layers.Dense(1)(summed))
    network.layers[-1].set_weights([np.ones((8, 1), np.float32), np.zeros(1, np.float32)])
    top = NetworkTop(
        network,
        [
            Standard(1, np.zeros(3, np.float32), np.full(3, 0.5, np.float32), 10.0),
            Standard(2, np.zeros(3, np.float32), np.full(3, 0.01, np.float32), 10.0),
        ],
    )
    embeddings = keras.Input((2, 3))
    model = keras.Model([embeddings, *top.inputs], top(embeddings))
    given = [np.ones((2, 2, 3)), np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros((2, 2))]
    assert np.asarray(model(given))[:, 0].tolist() == [6.0, 30.0]
    model.set_weights([np.zeros_like(one) for one in model.get_weights()])
    assert network.get_weights()[0].sum() == 8
    assert top.weights()[0].sum() == 0


@pytest.mark.slow
def test_an_image_that_is_another_by_now_is_refused(
    clinic: Clinic, model: Any, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    table = clinic.X.drop(index=[3, 4, 5]).assign(label=clinic.y)
    extract(clinic.folder / "photos", store, backbone=clinic.folder / "small.keras", engine="keras")
    write_photos(tmp_path / "photos", N, seed=1)
    with pytest.raises(BenchmarkError, match="is not the image that was embedded before"):
        benchmark(
            store,
            tmp_path / "results",
            table=table,
            target="label",
            image_columns="image",
            heads={"joint": small_head()},
            features=["both"],
            n_folds=2,
            n_jobs=1,
            near_duplicates=None,
            images=tmp_path / "photos",
            finetuning=TUNING | {"epochs": 1},
        )


# What goes together


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finetune": "crossfit"}, "head='joint' trains the backbone itself"),
        ({"finetune": "joint", "head": "linear"}, "Leave finetune out"),
        ({"finetuning": TUNING | {"mixup": 0.2}}, "categories and words can't be mixed"),
        ({"image_features": "pca"}, "Leave --image-features"),
    ],
)
def test_what_does_not_go_with_a_joint_network_is_refused(
    clinic: Clinic, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        clinic.estimator(**change).fit(clinic.X, clinic.y)


@pytest.fixture
def run(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(clinic.folder)
    table = clinic.X.assign(patient=clinic.patients, state=clinic.y)
    table.drop(index=[3, 4, 5]).to_csv("table.csv", index=False)

    def run(command: str, *arguments: object) -> Result:
        asked = ("--table", "table.csv", "--target", "state", "--image-col", "image")
        return CliRunner().invoke(main, [command, *asked, *map(str, arguments)])

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "."), "give --images with their folder. On the embeddings in a STORE"),
        (("fit", "--images", ".", "--finetune", "crossfit"), "joint trains the backbone itself"),
        (("fit", "--images", ".", "--tuning-folds", 3), "--tuning-folds: the head joint learns"),
        (("fit", "--features", "table", "--epochs", 3), "--epochs: with --features table there"),
    ],
)
def test_a_wrong_command_exits_with_2(run: Any, arguments: tuple, message: str) -> None:
    result = run(*arguments, "--head", "joint", "-o", "M")
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_options_of_tuning_need_something_to_tune(run: Any) -> None:
    result = run("fit", ".", "--head", "linear", "--epochs", 3, "-o", "M")
    assert result.exit_code == 2
    assert "nothing is tuned without --finetune or --head joint" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--heads", "lightgbm,joint"), "Give images (--images) too"),
        (("--heads", "linear", "--images", "photos"), "and none here does"),
        (("--heads", "linear,joint:none", "--epochs", 2), "and none here does"),
        (("--heads", "svm:cross"), "names no way to tune a backbone for svm. They are 'holdout'"),
    ],
)
def test_a_benchmark_that_can_not_train_exits_with_2(
    run: Any, clinic: Clinic, arguments: tuple, message: str
) -> None:
    store = clinic.folder / "store"
    if not store.exists():
        extract(clinic.folder / "photos", store, backbone=clinic.folder / "small.keras")
    result = run("benchmark", store, *arguments, "--features", "both", "-o", "R")
    assert result.exit_code == 2, result.output
    assert message in result.stderr


@pytest.mark.slow
def test_the_command_trains_scores_and_saves(run: Any, tmp_path: Path) -> None:
    result = run(
        *("fit", "--images", "photos", "--backbone", "small.keras", "--engine", "keras"),
        *("--head", "joint", "--group", "patient", "--epochs", 1, "--tuning-batch-size", 8),
        *("--unfreeze", 1, "-o", tmp_path / "M", "--json"),
    )
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["finetune"] == "joint"
    assert record["holdout"]["n_rows"] + record["holdout"]["n_training_rows"] == N - 3
    assert "epoch 1, loss" in result.stderr
    predicted = CliRunner().invoke(
        main,
        f"predict {tmp_path}/M --images photos --table table.csv -o {tmp_path}/P.csv".split(),
    )
    assert predicted.exit_code == 0, predicted.output
    evaluated = run("evaluate", tmp_path / "M", "--images", "photos")
    assert evaluated.exit_code in (1, 2), evaluated.output  # all rows were trained on


@pytest.mark.slow
def test_a_benchmark_trains_anew_in_each_fold_and_never_on_what_it_tests(
    clinic: Clinic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Cotraining] = []
    cotrain = staging.cotrain
    monkeypatch.setattr(staging, "cotrain", lambda *a, **k: asked.append(a[1]) or cotrain(*a, **k))
    store = tmp_path / "store"
    extract(clinic.folder / "photos", store, backbone=clinic.folder / "small.keras", engine="keras")
    table = clinic.X.assign(label=clinic.y, patient=clinic.patients)
    found = benchmark(
        store,
        tmp_path / "results",
        table=table,
        target="label",
        image_columns="image",
        group="patient",
        heads=["linear", "joint:none", "joint:1", "linear:crossfit"],
        features=["both"],
        n_folds=2,
        n_jobs=1,
        near_duplicates=None,
        images=clinic.folder / "photos",
        finetuning=TUNING | {"epochs": 1},
    )
    names = ["linear", "joint:none", "joint:1", "linear:crossfit"]
    assert list(found.summary["arm"]) == [f"{name}, both" for name in names]
    oof = pd.read_parquet(tmp_path / "results/oof.parquet")
    tested = oof[oof["arm"] == "joint:1, both"].groupby("fold")["row"].apply(set)
    assert len(asked) == len(tested) == 2
    for fold, what in enumerate(asked):
        rows = set(what.rows.frame.index)
        assert rows | tested[fold] == set(range(N))
        assert not set(clinic.patients[list(rows)]) & set(clinic.patients[list(tested[fold])])
        hashes = {h for row in what.rows.blocks["image"].content_hashes for h in row}
        index = EmbeddingStore(store).index().to_pandas().set_index("image")["content_hash"]
        shown = ";".join(clinic.X["image"].iloc[list(tested[fold])].dropna()).split(";")
        assert not hashes & set(index[shown])
    assert set(found.importance["arm"]) == {f"{name}, both" for name in names[:3]}
    assert found.run["identity"]["tuning"]["joint:1"]["unfreeze"] == "1"
