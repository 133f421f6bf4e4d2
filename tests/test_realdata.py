"""The main job on real photographs, with ImageNet weights."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from conftest import SHARED
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from twostage import EmbeddingStore, TwoStageRegressor, extract
from twostage.cli.main import main

pytestmark = pytest.mark.realdata
LESIONS, HOUSES, INSECTS = (
    SHARED / "data" / name for name in ("ham10000", "houses", "hymenoptera")
)


def run(*arguments: object) -> dict:
    result = CliRunner().invoke(main, [*map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.mark.slow
def test_lesions_images_and_table_together_beat_each_alone(tmp_path: Path) -> None:
    table = ("--table", LESIONS / "table.csv", "--image-col", "image")
    store = tmp_path / "S"
    summary = run("extract", LESIONS, *table, "--backbone", "mobilenet_v2", "-o", store)
    assert summary["n_computed"] == 2328
    auc = {}
    for features in ("both", "images", "table"):
        options = ("--target", "malignant", "--group", "lesion_id", "--ignore", "dx")
        model = tmp_path / features
        fitted = run("fit", store, *table, *options, "--features", features, "-o", model)
        auc[features] = fitted["holdout"]["scores"]["auc"]["value"]
    assert auc["both"] > auc["images"] > auc["table"] > 0.7
    predictions = tmp_path / "P.parquet"
    run("predict", tmp_path / "both", *table[:2], "--store", store, "-o", predictions)
    rows, given = pd.read_parquet(predictions), pd.read_csv(LESIONS / "table.csv")
    assert rows["image"].tolist() == given["image"].tolist()
    assert rows["lesion_id"].tolist() == given["lesion_id"].tolist()


@pytest.mark.slow
def test_frozen_features_tell_ants_from_bees(tmp_path: Path) -> None:
    table = pd.read_csv(INSECTS / "table.csv")
    extract(INSECTS, tmp_path / "S", names=table["image"], backbone="mobilenet_v2")
    X = EmbeddingStore(tmp_path / "S").embeddings(table["image"].tolist())
    is_train = (table["split"] == "train").to_numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    model.fit(X[is_train], table["label"][is_train])
    assert model.score(X[~is_train], table["label"][~is_train]) > 0.93


@pytest.mark.slow
def test_houses_from_the_command_line_and_from_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = ("--table", HOUSES / "table.csv", "--image-col", "image")
    options = ("--target", "price", "--log-target", "--backbone", "mobilenet_v2_035")
    fitted = run("fit", "--images", HOUSES, *table, *options, "-o", tmp_path / "M")
    roles = {column["name"]: column["role"] for column in fitted["columns"]}
    assert {name for name, role in roles.items() if role == "numeric"} == {
        "bedrooms",
        "bathrooms",
        "area",
        "zipcode",
    }
    assert fitted["holdout"]["scores"]["r2_log"]["value"] > 0.5

    frame = pd.read_csv(HOUSES / "table.csv")
    model = TwoStageRegressor("image", backbone="mobilenet_v2_035", image_root=HOUSES)
    folds = KFold(3, shuffle=True, random_state=0)
    X, y = frame.drop(columns="price"), np.log(frame["price"])
    assert cross_val_score(make_pipeline(model), X, y, cv=folds).mean() > 0.4
