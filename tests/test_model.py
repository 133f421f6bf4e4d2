"""A model as a folder: it survives the way to disk and back, and no tampering."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from stores import write_store

from twostage.errors import ModelError, UsageError
from twostage.fingerprint import hash_file, hash_json
from twostage.fitted import FitSettings, FittedModel
from twostage.fitting import fit_and_score
from twostage.joins import ImageBlock
from twostage.model import read_model, write_model
from twostage.targets import prepare_target

N = 120


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "photo": [f"{i}.jpg" for i in range(N)],
            "age": np.where(rng.random(N) < 0.1, np.nan, rng.uniform(20, 80, N)),
            "site": pd.Series(rng.choice(["arm", "leg"], N)).where(rng.random(N) > 0.1),
            "street": rng.integers(0, 40, N).astype(str),
            "dx": rng.choice(["nevus", "melanoma", "other"], N),
            "price": rng.uniform(1, 2, N),
        }
    )


@pytest.fixture
def blocks() -> dict[str, ImageBlock]:
    matrix = np.random.default_rng(1).normal(size=(N, 3)).astype(np.float32)
    hashes = [[f"h{i}"] for i in range(N)]
    return {"photo": ImageBlock("photo", matrix, np.ones(N, int), [None] * N, hashes)}


def fitted(frame: pd.DataFrame, blocks: dict[str, ImageBlock], target: str) -> FittedModel:
    settings = FitSettings(target, image_columns=("photo",))
    other = "price" if target == "dx" else "dx"
    table = frame.drop(columns=other)
    return fit_and_score(table, blocks, prepare_target(frame[target]), settings)


@pytest.mark.parametrize("target", ["dx", "price"])
def test_a_model_read_back_predicts_the_same(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path, target: str
) -> None:
    model = fitted(frame, blocks, target)
    write_model(model, tmp_path / "model")
    back = read_model(tmp_path / "model")
    pd.testing.assert_frame_equal(
        back.prediction_table(frame, blocks), model.prediction_table(frame, blocks)
    )
    assert back.holdout == model.holdout
    assert back.settings == model.settings
    assert back.columns == model.columns
    assert len(back.trained_on) == N
    unseen = frame.assign(site="moon", street="new")
    np.testing.assert_array_equal(back.predict(unseen, blocks), model.predict(unseen, blocks))


def test_nothing_in_the_folder_is_a_pickle(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path
) -> None:
    write_model(fitted(frame, blocks, "dx"), tmp_path / "model")
    files = [path for path in sorted((tmp_path / "model").rglob("*")) if path.is_file()]
    assert [file.relative_to(tmp_path / "model").as_posix() for file in files] == [
        "member-0/block-0.npz",
        "member-0/encoding.json",
        "member-0/head.json",
        "member-0/head.txt",
        "member-0/member.json",
        "member-0/table/encoder.json",
        "member-0/table/target.skops",
        "model.json",
        "trained_on.parquet",
    ]
    for file in files:
        with pytest.raises((pickle.UnpicklingError, ValueError, KeyError, EOFError, IndexError)):
            pickle.loads(file.read_bytes())


@pytest.mark.parametrize(
    "name", ["member-0/head.txt", "member-0/table/encoder.json", "trained_on.parquet"]
)
def test_a_changed_file_is_refused(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path, name: str
) -> None:
    write_model(fitted(frame, blocks, "dx"), tmp_path / "model")
    file = tmp_path / "model" / name
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(ModelError, match=f"'{name}' .* digest differs"):
        read_model(tmp_path / "model")
    file.unlink()
    with pytest.raises(ModelError, match=f"lacks its file '{name}'"):
        read_model(tmp_path / "model")


def test_an_older_model_is_replaced_whole(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path
) -> None:
    write_model(fitted(frame, blocks, "dx"), tmp_path / "model")
    write_model(fitted(frame, blocks, "price"), tmp_path / "model")
    assert read_model(tmp_path / "model").settings.target == "price"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_failed_write_leaves_the_older_model(
    frame: pd.DataFrame,
    blocks: dict[str, ImageBlock],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_model(fitted(frame, blocks, "dx"), tmp_path / "model")

    def fail(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("twostage.encoding.TableEncoder.save", fail)
    with pytest.raises(ModelError, match="No space left on device"):
        write_model(fitted(frame, blocks, "price"), tmp_path / "model")
    assert read_model(tmp_path / "model").settings.target == "dx"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_of_other_things_is_not_touched(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(UsageError, match="other files in it"):
        write_model(fitted(frame, blocks, "dx"), tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_another_schema_version_is_refused(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path
) -> None:
    write_model(fitted(frame, blocks, "dx"), tmp_path / "model")
    record = tmp_path / "model" / "model.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"schema_version": 99}))
    with pytest.raises(ModelError, match="schema version 99"):
        read_model(tmp_path / "model")


def test_a_weights_file_goes_with_the_model(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path
) -> None:
    weights = tmp_path / "mine.weights.h5"
    weights.write_bytes(b"weights")
    (tmp_path / "store").mkdir()
    spec = write_store(tmp_path / "store", ["a.jpg"], np.zeros((1, 3))).spec
    spec |= {"weights": str(weights), "weights_file_hash": hash_file(weights)}
    settings = FitSettings("dx", image_columns=("photo",))
    table = frame.drop(columns="price")
    model = fit_and_score(table, blocks, prepare_target(frame["dx"]), settings, spec)
    assert write_model(model, tmp_path / "model") == []
    (tmp_path / "model").rename(tmp_path / "sent")
    inside = Path(read_model(tmp_path / "sent").backbone["weights"])
    assert inside.read_bytes() == b"weights"
    assert inside.is_relative_to(tmp_path / "sent")

    weights.write_bytes(b"other weights")
    (note,) = write_model(model, tmp_path / "without")
    assert "is another one by now, so the model does not bring it along" in note
    weights.unlink()
    (note,) = write_model(model, tmp_path / "without")
    assert "is gone, so the model does not bring it along" in note
    assert read_model(tmp_path / "without").backbone == spec


def test_a_folder_with_a_record_and_other_files_is_not_replaced(
    frame: pd.DataFrame, blocks: dict[str, ImageBlock], tmp_path: Path
) -> None:
    model = fitted(frame, blocks, "dx")
    write_model(model, tmp_path / "model")
    (tmp_path / "model" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="other files in it"):
        write_model(model, tmp_path / "model")
    foreign = tmp_path / "project"
    foreign.mkdir()
    (foreign / "model.json").write_text('{"xgboost": 1}')
    with pytest.raises(UsageError, match="other files in it"):
        write_model(model, foreign)
    assert (foreign / "model.json").read_text() == '{"xgboost": 1}'


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: {"schema_version": 3}, "lists no files"),
        (lambda r: r | {"digests": {}}, "digest differs"),
        (lambda r: r | {"digests": r["digests"] | {"../../x": "0"}}, "outside itself"),
        (lambda r: r | {"settings": r["settings"] | {"head": "oracle"}}, "is damaged"),
        (lambda r: r | {"classes": {"labels": [1], "dtype": "nonsense"}}, "is damaged"),
        (lambda r: r | {"columns": 5}, "is damaged"),
    ],
)
def test_a_damaged_or_hostile_record_is_a_model_error(
    frame: pd.DataFrame,
    blocks: dict[str, ImageBlock],
    tmp_path: Path,
    change: Callable[[dict], dict],
    message: str,
) -> None:
    write_model(fitted(frame, blocks, "dx"), tmp_path / "model")
    record = tmp_path / "model" / "model.json"
    hostile = change(json.loads(record.read_text()))
    hostile.pop("digest", None)
    record.write_text(json.dumps(hostile | {"digest": hash_json(hostile)}))
    with pytest.raises(ModelError, match=message):
        read_model(tmp_path / "model")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r | {"classes": r["classes"] | {"labels": r["classes"]["labels"][::-1]}},
        lambda r: r | {"weights": [0.1]},
        lambda r: r | {"dims": 999},
        lambda r: r | {"n_rows": 7},
        lambda r: r | {"digest": "0" * 32},
    ],
)
def test_an_edited_record_is_refused(
    frame: pd.DataFrame,
    blocks: dict[str, ImageBlock],
    tmp_path: Path,
    change: Callable[[dict], dict],
) -> None:
    write_model(fitted(frame, blocks, "dx"), tmp_path / "model")
    record = tmp_path / "model" / "model.json"
    record.write_text(json.dumps(change(json.loads(record.read_text()))))
    with pytest.raises(ModelError, match=r"model\.json is not the one that was saved"):
        read_model(tmp_path / "model")
