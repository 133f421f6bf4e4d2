"""The guard: what a backbone was trained on is not scored, and trained on only if asked for."""

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from tuning import QUICK, save_small_network, small_network, write_photos

from twostage import TwoStageClassifier, TwoStageRegressor, fitting, load_model
from twostage.backbones.spec import BackboneSettings
from twostage.backbones.tuned import find_tuned
from twostage.cli.main import main
from twostage.errors import BackboneError, DataError
from twostage.extraction import extract
from twostage.finetuning import finetune
from twostage.fingerprint import hash_file
from twostage.fitted import FitSettings, FittedModel
from twostage.fitting import fit_and_score
from twostage.seen import SeenRows
from twostage.sources import blocks_from_store
from twostage.store.schema import embedding_array
from twostage.store.store import EmbeddingStore
from twostage.targets import prepare_target

N = 60
SPEC = {"architecture": "fake", "dim": 3, "storage_dtype": "float32"}
SETTINGS = FitSettings("label", head="linear", image_columns=("image",), features="images")
FIRST_HALF = frozenset(f"h{i}" for i in range(N // 2))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(N)],
            "patient": [f"P{i // 2}" for i in range(N)],
            "family": [f"F{i // 2}" for i in range(N)],
            "age": np.random.default_rng(1).uniform(20, 80, N).round(1),
            "label": np.arange(N) % 2,
        }
    )


def a_store(folder: Path, seen: SeenRows | None, frame: pd.DataFrame) -> EmbeddingStore:
    """Make a store whose image number i has the hash ``h<i>``; names beyond are copies of 0."""
    store = EmbeddingStore.create(folder, SPEC, "identity", seen)
    n = len(frame)
    matrix = np.random.default_rng(0).normal(size=(n, 3)).astype(np.float32)
    matrix[:, 0] += np.arange(n) % 2
    hashes = [f"h{i}" if i < N else "h0" for i in range(n)]
    known = SeenRows() if seen is None else seen
    columns = {
        "image": frame["image"].tolist(),
        "content_hash": hashes,
        "size_bytes": [1] * n,
        "mtime_ns": [None] * n,
        "width": [9] * n,
        "height": [9] * n,
        "embedding": embedding_array(matrix, np.ones(n, bool), store.schema),
        "error": [None] * n,
        "seen": [h in known.content_hashes for h in hashes],
    }
    store.write_part("part-000000.parquet", pa.table(columns, schema=store.schema))
    return store


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., FittedModel]:
    """Return a function that fits a table on embeddings of a backbone that has seen something."""

    def run(frame: pd.DataFrame, seen: SeenRows | None, **changes: Any) -> FittedModel:
        store = a_store(tmp_path / "store", seen, frame)
        blocks, _ = blocks_from_store(frame, ["image"], store)
        settings = replace(SETTINGS, **changes)
        target = prepare_target(frame["label"])
        return fit_and_score(frame, blocks, target, settings, seen=EmbeddingStore(store.path).seen)

    return run


def trained_on(model: FittedModel) -> set[str]:
    return {h for row in model.trained_on["content_hash"] for h in row}


def rest(*left_out: int) -> set[str]:
    return {f"h{i}" for i in range(N)} - FIRST_HALF - {f"h{i}" for i in left_out}


def test_seen_rows_are_neither_trained_on_nor_scored(
    frame: pd.DataFrame, fit: Callable[..., FittedModel]
) -> None:
    model = fit(frame, SeenRows(FIRST_HALF))
    assert (model.n_seen, model.n_rows) == (30, 30)
    assert trained_on(model) == rest()
    assert model.holdout is not None
    assert model.holdout.n_rows + model.holdout.n_training_rows == 30


@pytest.mark.parametrize("seen", [None, SeenRows(frozenset({"another"}), frozenset({"P99"}), "x")])
def test_of_a_backbone_that_has_seen_none_of_them_all_rows_count(
    frame: pd.DataFrame, fit: Callable[..., FittedModel], seen: SeenRows | None
) -> None:
    model = fit(frame, seen)
    assert (model.n_seen, model.n_rows) == (0, N)


def test_a_copy_of_a_seen_image_is_seen(
    frame: pd.DataFrame, fit: Callable[..., FittedModel]
) -> None:
    copy = frame.iloc[[0]].assign(image="renamed.png", patient="P99")
    model = fit(pd.concat([frame, copy], ignore_index=True), SeenRows(FIRST_HALF))
    assert (model.n_seen, model.n_rows) == (31, 30)


def test_a_new_image_of_a_seen_group_is_seen(
    frame: pd.DataFrame, fit: Callable[..., FittedModel], tmp_path: Path
) -> None:
    frame.loc[[40, 41], "patient"] = "P3"
    seen = SeenRows(FIRST_HALF, frozenset({"P3"}), "patient")
    for settings in ({}, {"group": "patient"}, {"group": "family"}):
        shutil.rmtree(tmp_path / "store", ignore_errors=True)
        assert trained_on(fit(frame, seen, **settings)) == rest(40, 41)


def test_a_row_that_the_fits_own_group_links_with_a_seen_one_is_seen(
    frame: pd.DataFrame, fit: Callable[..., FittedModel]
) -> None:
    frame.loc[[50, 51], "family"] = "F0"
    assert trained_on(fit(frame, SeenRows(FIRST_HALF), group="family")) == rest(50, 51)


def test_without_the_column_of_groups_images_alone_are_compared_and_that_is_told(
    frame: pd.DataFrame, fit: Callable[..., FittedModel], caplog: pytest.LogCaptureFixture
) -> None:
    seen = SeenRows(FIRST_HALF, frozenset({"F29"}), "person")
    with caplog.at_level(logging.WARNING, "twostage"):
        model = fit(frame, seen, group="family")
    assert trained_on(model) == rest()
    assert "tuned with groups of 'person', which the table has not" in caplog.text


def test_if_all_rows_are_seen_the_ways_out_are_told(
    frame: pd.DataFrame, fit: Callable[..., FittedModel]
) -> None:
    seen = SeenRows(frozenset(f"h{i}" for i in range(N)))
    with pytest.raises(
        DataError, match=r"tuned on all 60 rows.*Tune it with --holdout.*or use --allow-seen"
    ):
        fit(frame, seen)


def test_allowed_rows_train_and_are_never_scored(
    frame: pd.DataFrame, fit: Callable[..., FittedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    score = fitting.score_model

    def spy(model: FittedModel, rows: pd.DataFrame, *more: Any) -> Any:
        scored.extend(rows.index)
        return score(model, rows, *more)

    monkeypatch.setattr(fitting, "score_model", spy)
    model = fit(frame, SeenRows(FIRST_HALF), allow_seen=True)
    assert (model.n_seen, model.n_rows) == (30, N)
    assert model.holdout is not None
    assert model.holdout.n_rows == len(scored) == 6
    assert model.holdout.n_training_rows == 54
    assert min(scored) >= N // 2


def test_if_all_rows_are_seen_and_allowed_there_is_no_score(
    frame: pd.DataFrame, fit: Callable[..., FittedModel]
) -> None:
    model = fit(frame, SeenRows(frozenset(f"h{i}" for i in range(N))), allow_seen=True)
    assert (model.n_seen, model.n_rows, model.holdout) == (N, N, None)


def test_where_it_is_lost_what_was_seen_no_row_is_trained_on_unasked(
    frame: pd.DataFrame, fit: Callable[..., FittedModel], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"seen.parquet, which says on what, is gone.*Put the file"):
        fit(frame, SeenRows(is_known=False))
    shutil.rmtree(tmp_path / "store")
    model = fit(frame, SeenRows(is_known=False), allow_seen=True)
    assert (model.n_seen, model.holdout) == (N, None)


def test_a_fit_on_the_table_alone_has_seen_nothing(
    frame: pd.DataFrame, fit: Callable[..., FittedModel]
) -> None:
    model = fit(frame, SeenRows(FIRST_HALF), features="table", head="linear")
    assert (model.n_seen, model.n_rows) == (0, N)


@pytest.mark.parametrize(
    "head",
    [
        "linear",
        "lightgbm",
        pytest.param("random-forest", marks=pytest.mark.slow),
        pytest.param("svm", marks=pytest.mark.slow),
    ],
)
def test_a_class_that_only_seen_rows_have_is_told(
    frame: pd.DataFrame,
    fit: Callable[..., FittedModel],
    head: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    frame["label"] = frame["label"].astype(str)
    frame.loc[:9, "label"] = "rare"
    with caplog.at_level(logging.WARNING, "twostage"):
        model = fit(frame, SeenRows(FIRST_HALF), head=head)
    assert "1 of 3 classes are in rows alone that the backbone has seen" in caplog.text
    assert "not learned: 'rare'" in caplog.text
    assert model.n_rows == 30
    assert model.holdout is not None
    assert np.isfinite(model.holdout.scores["auc"].value)


# The store


def test_a_store_remembers_what_its_backbone_has_seen(frame: pd.DataFrame, tmp_path: Path) -> None:
    seen = SeenRows(FIRST_HALF, frozenset({"P3"}), "patient")
    a_store(tmp_path / "store", seen, frame)
    assert (tmp_path / "store" / "_seen.parquet").is_file()
    assert EmbeddingStore(tmp_path / "store").seen == seen
    assert EmbeddingStore.create(tmp_path / "plain", SPEC).seen == SeenRows()


@pytest.mark.parametrize("change", [Path.unlink, lambda file: file.write_bytes(b"")])
def test_a_store_that_lost_it_says_so_and_takes_it_again(
    frame: pd.DataFrame, tmp_path: Path, change: Any
) -> None:
    seen = SeenRows(FIRST_HALF)
    store = a_store(tmp_path / "store", seen, frame)
    change(tmp_path / "store" / "_seen.parquet")
    assert not EmbeddingStore(store.path).seen.is_known
    store.remember(SeenRows(is_known=False))
    assert not store.seen.is_known
    store.remember(seen)
    assert EmbeddingStore(store.path).seen == seen


def test_a_store_does_not_forget_for_what_is_said_later(
    frame: pd.DataFrame, tmp_path: Path
) -> None:
    store = a_store(tmp_path / "store", SeenRows(FIRST_HALF), frame)
    store.remember(SeenRows())
    assert EmbeddingStore(store.path).seen == SeenRows(FIRST_HALF)


# The chain, from photos to a model


@dataclass
class Chain:
    """Photos, a backbone tuned on half of them, and a store of all."""

    photos: Path
    table: pd.DataFrame
    backbone: Path
    store: Path
    network: Path

    @property
    def is_seen(self) -> pd.Series:
        seen = SeenRows.read(self.backbone / "seen.parquet")
        return self.table["patient"].isin(seen.groups)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    folder = tmp_path_factory.mktemp("chain")
    table = write_photos(folder / "photos")
    table.to_csv(folder / "photos" / "table.csv", index=False)
    network = save_small_network(folder)
    finetune(
        folder / "photos",
        folder / "tuned",
        table=table,
        target="label",
        image_columns="image",
        group="patient",
        backbone=BackboneSettings(network, engine="keras"),
        **QUICK | {"epochs": 1},
    )
    extract(folder / "photos", folder / "store", backbone=folder / "tuned", engine="keras")
    return Chain(folder / "photos", table, folder / "tuned", folder / "store", network)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def fit_command(chain: Chain, model: Path, *more: object, store: Path | None = None) -> Result:
    table = ("--table", chain.photos / "table.csv", "--image-col", "image", "--target", "label")
    how = ("--head", "linear", "--features", "images", "-o", model)
    return run("fit", store or chain.store, *table, *how, *more)


def test_the_store_of_a_tuned_backbone_tells_which_images_were_seen(chain: Chain) -> None:
    rows = pd.read_parquet(chain.store).set_index("image")["seen"]
    assert rows.loc[chain.table["image"]].tolist() == chain.is_seen.tolist()
    assert chain.is_seen.sum() == 20
    assert (chain.store / "_seen.parquet").is_file()
    assert EmbeddingStore(chain.store).seen.group_column == "patient"


def test_fit_leaves_seen_rows_out_and_says_so(chain: Chain, tmp_path: Path) -> None:
    result = fit_command(chain, tmp_path / "model", "--group", "patient")
    assert result.exit_code == 0, result.output
    assert "Left out: 20 rows that the tuned backbone has seen" in result.stdout
    assert "Saved" in result.stdout
    assert "on all 20 rows" in result.stdout


def test_fit_trains_on_them_if_it_is_allowed_and_says_so(chain: Chain, tmp_path: Path) -> None:
    result = fit_command(chain, tmp_path / "model", "--allow-seen")
    assert result.exit_code == 0, result.output
    assert "20 of these rows; trained on (--allow-seen), not scored." in result.stdout
    assert "on all 40 rows" in result.stdout


def test_a_fit_on_seen_rows_alone_is_refused(chain: Chain, tmp_path: Path) -> None:
    table = tmp_path / "seen.csv"
    chain.table[chain.is_seen].to_csv(table, index=False)
    result = fit_command(chain, tmp_path / "model", "--table", table)
    assert result.exit_code == 1
    assert "The backbone was tuned on all 20 rows" in result.stderr
    assert not (tmp_path / "model").exists()


def test_a_backbone_that_lost_its_memory_is_not_fitted_on_unasked(
    chain: Chain, tmp_path: Path
) -> None:
    backbone = shutil.copytree(chain.backbone, tmp_path / "tuned")
    (backbone / "seen.parquet").unlink()
    store = tmp_path / "store"
    extract(chain.photos, store, backbone=backbone, engine="keras")
    result = fit_command(chain, tmp_path / "model", store=store)
    assert result.exit_code == 1
    assert "seen.parquet, which says on what, is gone" in result.stderr
    shutil.copy(chain.backbone / "seen.parquet", backbone)  # found again
    extract(chain.photos, store, backbone=backbone)
    assert fit_command(chain, tmp_path / "model", store=store).exit_code == 0


def test_a_backbone_whose_memory_was_changed_is_refused(chain: Chain, tmp_path: Path) -> None:
    backbone = shutil.copytree(chain.backbone, tmp_path / "tuned")
    (backbone / "seen.parquet").write_bytes(SeenRows().to_bytes())
    with pytest.raises(BackboneError, match=r"seen.parquet' is not the one that 'twostage finetu"):
        extract(chain.photos, tmp_path / "store", backbone=backbone, engine="keras")
    assert not EmbeddingStore.exists_at(tmp_path / "store")


def test_a_network_out_of_its_folder_is_refused(chain: Chain, tmp_path: Path) -> None:
    shutil.copy(chain.backbone / "backbone.keras", tmp_path / "mine.keras")
    with pytest.raises(BackboneError, match=r"without the folder that says what it has seen"):
        extract(chain.photos, tmp_path / "store", backbone=tmp_path / "mine.keras")


def test_another_network_in_its_place_is_refused(chain: Chain, tmp_path: Path) -> None:
    backbone = shutil.copytree(chain.backbone, tmp_path / "tuned")
    small_network().save(backbone / "backbone.keras")
    with pytest.raises(BackboneError, match=r"is not the network that 'twostage finetune' wrote"):
        extract(chain.photos, tmp_path / "store", backbone=backbone)


def test_a_network_in_the_folder_of_another_tuned_one_is_refused(
    chain: Chain, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    how = {"table": chain.table, "target": "label", "image_columns": "image", "epochs": 0}
    finetune(chain.photos, other, backbone=BackboneSettings(chain.network, engine="keras"), **how)
    shutil.copy(chain.backbone / "backbone.keras", other)
    with pytest.raises(BackboneError, match=r"backbone.keras' is not the one that 'twostage fin"):
        extract(chain.photos, tmp_path / "store", backbone=other, engine="keras")


def test_a_network_of_ones_own_beside_a_tuned_one_is_ones_own(chain: Chain, tmp_path: Path) -> None:
    backbone = shutil.copytree(chain.backbone, tmp_path / "tuned")
    shutil.copy(chain.network, backbone / "mine.keras")
    assert find_tuned(backbone / "mine.keras") is None


@pytest.mark.parametrize("damage", ["", "[]", '{"format_version": 9}', '{"format_version": 1}'])
def test_a_damaged_record_is_told(chain: Chain, tmp_path: Path, damage: str) -> None:
    backbone = shutil.copytree(chain.backbone, tmp_path / "tuned")
    (backbone / "backbone.json").write_text(damage)
    with pytest.raises(BackboneError, match=r"can't be read|is of format version|is damaged"):
        find_tuned(backbone)


def test_a_model_brings_its_backbone_along_with_what_it_has_seen(
    chain: Chain, tmp_path: Path
) -> None:
    backbone = shutil.copytree(chain.backbone, tmp_path / "tuned")
    store = tmp_path / "store"
    extract(chain.photos, store, backbone=backbone, engine="keras")
    assert fit_command(chain, tmp_path / "model", store=store).exit_code == 0
    shutil.rmtree(backbone)
    shutil.rmtree(store)
    inside = tmp_path / "model" / "backbone"
    for name in ("backbone.json", "backbone.keras", "seen.parquet"):
        assert hash_file(inside / name) == hash_file(chain.backbone / name)
    new = tmp_path / "new.csv"
    chain.table.drop(columns="label").to_csv(new, index=False)
    result = run("predict", tmp_path / "model", "--table", new, "--images", chain.photos,
                 "-o", tmp_path / "predictions.csv")  # fmt: skip
    assert result.exit_code == 0, result.output
    predictions = pd.read_csv(tmp_path / "predictions.csv")
    assert (predictions["prediction"] == chain.table["label"]).mean() > 0.8
    model = load_model(tmp_path / "model", image_root=chain.photos)
    with pytest.warns(UserWarning, match="20 of 40 rows"):
        model.score(chain.table[["image"]], chain.table["label"])


# The estimators


def classifier(chain: Chain, **more: Any) -> TwoStageClassifier:
    return TwoStageClassifier(
        "image",
        "linear",
        backbone=chain.backbone,
        engine="keras",
        image_root=chain.photos,
        features="images",
        **more,
    )


def test_an_estimator_leaves_seen_rows_out_and_warns(chain: Chain) -> None:
    X, y = chain.table[["image", "patient"]], chain.table["label"]
    with pytest.warns(UserWarning, match=r"20 of 40 rows, or their groups, .*: left out"):
        model = classifier(chain).fit(X, y)
    assert (model.model_.n_seen, model.model_.n_rows) == (20, 20)
    with pytest.warns(UserWarning, match="20 of 40 rows.* are not scored"):
        score = model.score(X, y)
    kept = ~chain.is_seen
    assert score == (model.predict(X[kept]) == y[kept]).mean()
    assert len(model.predict(X)) == 40
    with pytest.raises(DataError, match="has seen the labels of all 20 rows"):
        model.score(X[chain.is_seen], y[chain.is_seen])
    weights = np.where(np.arange(40) % 3 == 0, 2.0, 1.0)
    with pytest.warns(UserWarning, match="not scored"):
        weighted = model.score(X, y, weights)
    assert weighted == np.average(model.predict(X[kept]) == y[kept], weights=weights[kept])


def test_an_estimator_trains_on_them_if_it_is_allowed(chain: Chain) -> None:
    X, y = chain.table[["image", "patient"]], chain.table["label"]
    with pytest.warns(UserWarning, match="trained on all the same"):
        model = classifier(chain, allow_seen=True).fit(X, y)
    assert model.model_.n_rows == 40


def test_an_estimator_knows_groups_that_it_is_given(chain: Chain) -> None:
    images = chain.table[["image"]]
    patients = np.where(chain.is_seen, "new", chain.table["patient"])
    first = chain.table["patient"][chain.is_seen].iloc[0]
    patients[np.flatnonzero(~chain.is_seen)[:2]] = first
    with pytest.warns(UserWarning, match="22 of 40 rows"):
        classifier(chain).fit(images, chain.table["label"], groups=patients)


def test_an_estimator_refuses_seen_rows_alone(chain: Chain) -> None:
    seen = chain.table[chain.is_seen]
    with pytest.raises(DataError, match="tuned on all 20 rows"):
        classifier(chain).fit(seen[["image"]], seen["label"])


def test_a_regressor_scores_new_rows_alone(chain: Chain) -> None:
    X, y = chain.table[["image", "patient"]], chain.table["value"]
    model = TwoStageRegressor(
        "image", "linear", backbone=chain.backbone, engine="keras", image_root=chain.photos,
        features="images",
    )  # fmt: skip
    with pytest.warns(UserWarning, match="left out"):
        model.fit(X, y)
    with pytest.warns(UserWarning, match="not scored"):
        assert model.score(X, y) <= 1
