"""Opening what others made: nothing of a file runs, and what is wrong with it is said."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import skops.io
from click.testing import CliRunner
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, TargetEncoder
from sklearn.svm import SVC, SVR
from sklearn.tree import DecisionTreeClassifier
from stores import write_store

from twostage.backbones.spec import BackboneSpec
from twostage.backbones.tuned import LinearTop, find_tuned
from twostage.cli.main import main
from twostage.errors import (
    BackboneError,
    BenchmarkError,
    DataError,
    ModelError,
    StoreError,
    TwoStageError,
)
from twostage.evaluation.results import ResultsFolder
from twostage.fingerprint import hash_file, hash_json
from twostage.fitted import FitSettings
from twostage.fitting import fit_and_score
from twostage.heads import LinearHead, ScikitHead
from twostage.joins import ImageBlock
from twostage.model import read_model, write_model
from twostage.opening.compiled import check_objects
from twostage.opening.files import check_zip, read_arrays, read_json
from twostage.opening.lightgbm_text import check_text
from twostage.opening.records import checked
from twostage.report.evidence import read_evidence
from twostage.saving import dump, load
from twostage.store.store import EmbeddingStore
from twostage.table.categories import _check_encodings
from twostage.table.files import read_table
from twostage.targets import prepare_target
from twostage.training.checkpoint import read_checkpoint

N = 60


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[Path]:
    """Return a path that exists by the end if code of a file ran; that fails the test."""
    path = tmp_path / "code_ran"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()  # so a bomb goes off where it is let
    path.rmdir()
    yield path
    assert not path.exists()


@dataclass
class Folders:
    """A model, its table and store, to be tampered with."""

    root: Path
    frame: pd.DataFrame

    @property
    def model(self) -> Path:
        return self.root / "model"

    def sign(self) -> None:
        """Write all digests anew."""
        file = self.model / "model.json"
        record = json.loads(file.read_text())
        for name in record["digests"]:
            if (self.model / name).is_file():
                record["digests"][name] = hash_file(self.model / name)
        self.write(record)

    def change(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change the record, and sign it."""
        record = json.loads((self.model / "model.json").read_text())
        change(record)
        self.write(record)

    def write(self, record: dict[str, Any]) -> None:
        record.pop("digest", None)
        text = json.dumps(record | {"digest": hash_json(record)})
        (self.model / "model.json").write_text(text)

    def predict(self) -> Any:
        table = self.root / "table.csv"
        self.frame.to_csv(table, index=False)
        arguments = ["--table", table, "--store", self.root / "store", "-o", self.root / "P.csv"]
        return CliRunner().invoke(main, ["predict", str(self.model), *map(str, arguments)])


def make_folders(root: Path, head: Any) -> Folders:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N, 4)).astype(np.float32)
    frame = pd.DataFrame(
        {
            "photo": [f"{i}.jpg" for i in range(N)],
            "age": rng.normal(size=N),
            "site": rng.choice(["arm", "leg"], N),
            "dx": rng.choice(["good", "bad"], N),
        }
    )
    store = write_store(root / "store", frame["photo"].tolist(), matrix)
    hashes = [[f"h{i}"] for i in range(N)]
    blocks = {"photo": ImageBlock("photo", matrix, np.ones(N, int), [None] * N, hashes)}
    settings = FitSettings("dx", head, image_columns=("photo",))
    model = fit_and_score(frame, blocks, prepare_target(frame["dx"]), settings, store.spec)
    write_model(model, root / "model")
    return Folders(root, frame)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a model of each of two heads, to be copied."""
    root = tmp_path_factory.mktemp("made")
    make_folders(root / "linear", LinearHead(penalty=1.0))
    make_folders(root / "scikit", ScikitHead(DecisionTreeClassifier()))
    return root


@pytest.fixture
def folders(made: Path, tmp_path: Path) -> Folders:
    shutil.copytree(made / "linear", tmp_path / "it")
    return Folders(tmp_path / "it", pd.DataFrame({"photo": ["0.jpg"], "age": [1], "site": ["arm"]}))


def refused(folders: Folders, says: str) -> None:
    """Check that the command refuses a model by one message and exit code 1."""
    found = folders.predict()
    assert found.exit_code == 1, found.output
    assert not found.exception or isinstance(found.exception, SystemExit)
    assert says in found.output
    assert "Traceback" not in found.output


# --- models ---


def test_an_untouched_model_predicts(folders: Folders) -> None:
    assert folders.predict().exit_code == 0


def test_a_pickle_in_place_of_any_file_does_not_run(folders: Folders, mark: Path) -> None:
    pristine = folders.root.parent / "pristine"
    folders.model.rename(pristine)
    names = [p.relative_to(pristine) for p in sorted(pristine.rglob("*")) if p.is_file()]
    assert len(names) > 5
    for name in names:
        shutil.rmtree(folders.model, ignore_errors=True)
        shutil.copytree(pristine, folders.model)
        (folders.model / name).write_bytes(pickle.dumps(Bomb(mark)))
        if name.name != "model.json":
            folders.sign()
        with pytest.raises(TwoStageError, match="model"):
            read_model(folders.model)
        assert not mark.exists()
    refused(folders, "model")


def test_a_pickle_inside_of_arrays_does_not_run(folders: Folders, mark: Path) -> None:
    file = folders.model / "member-0" / "head.npz"
    np.savez(file, coefficients=np.array([Bomb(mark)], object))
    folders.sign()
    refused(folders, "is damaged")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "member-0/../x"])
def test_a_record_that_names_a_file_outside_is_refused(folders: Folders, name: str) -> None:
    folders.change(lambda record: record["digests"].update({name: "0" * 32}))
    refused(folders, "outside itself" if "member" not in name else "lacks its file")


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"weights": "../../etc/passwd", "weights_file_hash": "0" * 32}, "outside itself"),
        ({"weights": "../../etc/passwd"}, "no digest of its weights"),
        ({"weights": "/etc/passwd"}, "no digest of its weights"),
    ],
)
def test_a_backbone_of_any_file_is_refused(
    folders: Folders, weights: dict[str, str], says: str
) -> None:
    folders.change(lambda record: record["backbone"].update(weights))
    refused(folders, says)


@pytest.mark.parametrize("name", ["member-0", "member-0/table", "member-0/head.npz"])
def test_a_link_in_a_model_is_refused(folders: Folders, name: str) -> None:
    place, away = folders.model / name, folders.root / "away"
    place.rename(away)
    place.symlink_to(away, target_is_directory=away.is_dir())
    refused(folders, "has a link")


def test_a_record_that_never_ends_is_not_read(folders: Folders) -> None:
    (folders.model / "model.json").unlink()
    (folders.model / "model.json").symlink_to("/dev/zero")
    refused(folders, "is not a model")


def test_a_type_that_is_not_trusted_is_refused_by_name(folders: Folders, mark: Path) -> None:
    sly = FunctionTransformer(os.mkdir, kw_args={})
    (folders.model / "member-0" / "table" / "numeric-scaler.skops").write_bytes(
        skops.io.dumps(make_pipeline(sly))
    )
    folders.sign()
    refused(folders, "posix.mkdir")


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["settings"].update(target=5),
        lambda r: r["settings"].update(head=[]),
        lambda r: r["settings"].update(random_state="x" * 1000),
        lambda r: r["classes"].update(dtype="U1000000000"),
        lambda r: r["classes"].update(dtype="O"),
        lambda r: r["classes"].update(labels=["one"]),
        lambda r: r["dims"].update(photo=10**30),
        lambda r: r["dims"].update(photo=5),
        lambda r: r["columns"][0].update(role=None),
        lambda r: r.update(n_rows=None),
        lambda r: r.update(weights=[]),
        lambda r: r.update(weights=[1e400]),
        lambda r: r.update(holdout={"n_rows": 3}),
        lambda r: r.update(backbone={}),
    ],
)
def test_a_record_of_other_types_or_sizes_is_refused(
    folders: Folders, change: Callable[[dict[str, Any]], Any]
) -> None:
    folders.change(change)
    with pytest.raises((ModelError, BackboneError), match=r"damaged|format version"):
        read_model(folders.model)


def test_what_does_not_fit_together_is_told_when_it_is_opened(folders: Folders) -> None:
    """Not after hours of embedding, when the first row is to be predicted."""
    file = folders.model / "member-0" / "head.npz"
    arrays = dict(np.load(file))
    np.savez(file, **arrays | {"coefficients": arrays["coefficients"][:-1]})
    folders.sign()
    with pytest.raises(ModelError, match="does not fit its files"):
        read_model(folders.model)


def test_a_tree_that_leads_astray_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "scikit", tmp_path / "it")
    folders = Folders(tmp_path / "it", pd.DataFrame())
    file = folders.model / "member-0" / "head.skops"
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    for name, data in parts.items():
        if b"left_child" in data[:400]:
            nodes = _array(data)
            nodes["left_child"][0] = 10**6
            parts[name] = _bytes(nodes)
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    folders.sign()
    with pytest.raises(ModelError, match="nodes lead astray"):
        read_model(folders.model)


def _array(data: bytes) -> np.ndarray:
    return np.load(io.BytesIO(data), allow_pickle=False)


def _bytes(array: np.ndarray) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()


# --- what compiled code follows ---


def _boosted() -> lightgbm.Booster:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, 3))
    X[:, 2] = rng.integers(0, 6, N)
    y = (X[:, 0] > 0) + (X[:, 2] > 3)
    how = {"objective": "multiclass", "num_class": 3, "verbose": -1, "min_data_in_leaf": 2}
    data = lightgbm.Dataset(X, y, categorical_feature=[2])
    return lightgbm.train(how | {"min_data_per_group": 1, "cat_smooth": 1}, data, 2)


@pytest.fixture(scope="module")
def text() -> str:
    text = _boosted().model_to_string()
    assert "cat_threshold" in text
    return text


def test_lightgbms_own_text_is_accepted(text: str) -> None:
    check_text(text)
    constant = lightgbm.Dataset(np.zeros((N, 1)), np.zeros(N))
    check_text(lightgbm.train({"verbose": -1}, constant, 2).model_to_string())


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("tree\n", "forest\n", "begins with"),
        ("version=v4", "version=v9", "version"),
        ("num_class=3", "num_class=0", "classes"),
        ("num_class=3", "num_class=1000000000", "num_class"),
        ("num_class:3", "num_class:999999999", "objective"),
        ("max_feature_idx=2", "max_feature_idx=99999999", "feature_names"),
        ("tree_sizes=", "tree_sizes=9", "not where the sizes say"),
        ("num_leaves=", "num_leaves=99", "numbers, not|leaves"),
        ("split_feature=0", "split_feature=7", "split_feature"),
        ("split_feature=0", "split_feature=-1", "split_feature"),
        ("threshold=", "threshold=nan ", "no number"),
        ("left_child=1", "left_child=0", "child"),
        ("left_child=1", "left_child=99999", "child"),
        ("cat_boundaries=0 ", "cat_boundaries=0 99999", "sets of categories|numbers"),
        ("cat_threshold=", "cat_threshold=-", "cat_threshold|no number"),
        ("is_linear=0", "is_linear=1", "linear"),
        ("shrinkage=1", "shrinkage=x", "no number"),
        ("end of trees", "end", "no end"),
        ("feature_names=Column_0", "feature_names=Col\0", "characters"),
        ("shrinkage=1\n", "shrinkage=1\nleaf_coeff=3\n", "the line"),
        ("[boosting: gbdt]", "[", "parameters"),
    ],
)
def test_a_text_that_would_harm_lightgbm_is_refused(
    text: str, old: str, new: str, says: str
) -> None:
    assert old in text
    changed = text.replace(old, new, 1)
    if "tree_sizes" not in old and changed.partition("Tree=0")[2]:
        changed = _with_sizes(changed)
    with pytest.raises(ValueError, match=says):
        check_text(changed)


def _with_sizes(text: str) -> str:
    """Write the sizes of trees anew: a change is not to be found by them alone."""
    trees = ("Tree=0" + text.partition("Tree=0")[2]).partition("end of trees")[0]
    sizes = [len(piece) + 1 for piece in trees.split("\nTree=")]
    sizes = [sizes[0], *(size + len("Tree=") for size in sizes[1:])]
    sizes[-1] -= 1
    lines = text.split("\n")
    at = next(place for place, line in enumerate(lines) if line.startswith("tree_sizes="))
    lines[at] = "tree_sizes=" + " ".join(map(str, sizes))
    return "\n".join(lines)


@pytest.mark.parametrize(
    "estimator",
    [
        DecisionTreeClassifier(),
        RandomForestRegressor(3),
        HistGradientBoostingRegressor(max_iter=2),
        SVC(),
        SVR(),
        KNeighborsRegressor(algorithm="kd_tree"),
        KNeighborsRegressor(algorithm="ball_tree", p=1),
    ],
    ids=lambda estimator: f"{type(estimator).__name__}",
)
def test_what_was_fitted_can_be_saved_and_opened(estimator: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N, 3)), rng.integers(0, 3, N)
    dump([estimator, estimator.fit(X, y)], tmp_path / "it.skops")
    back = load(tmp_path / "it.skops")[1]
    np.testing.assert_array_equal(back.predict(X), estimator.predict(X))


def _wider(machine: Any) -> None:
    machine.n_features_in_ = 9


def _shorter(machine: Any) -> None:
    machine._intercept_ = machine._intercept_[:1]


def _more_of_a_class(machine: Any) -> None:
    machine._n_support = machine._n_support + 1


@pytest.mark.parametrize("spoil", [_wider, _shorter, _more_of_a_class])
def test_support_vectors_that_do_not_fit_are_refused(spoil: Callable[[Any], None]) -> None:
    rng = np.random.default_rng(0)
    machine = SVC().fit(rng.normal(size=(N, 3)), rng.integers(0, 3, N))
    check_objects([machine])
    spoil(machine)
    with pytest.raises(ValueError, match="support vector machine"):
        check_objects({"machine": machine})


def test_a_forest_whose_trees_ask_for_more_features_is_refused() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N, 8)), rng.normal(size=N)
    wide, narrow = (RandomForestRegressor(2, random_state=0).fit(X[:, :n], y) for n in (8, 2))
    narrow.estimators_[1] = wide.estimators_[1]
    with pytest.raises(ValueError, match="features among 2"):
        check_objects(narrow)


def test_boosted_trees_that_lead_astray_are_refused() -> None:
    rng = np.random.default_rng(0)
    model = HistGradientBoostingRegressor(max_iter=2).fit(
        rng.normal(size=(N, 3)), rng.normal(size=N)
    )
    check_objects(model)
    model._predictors[1][0].nodes["feature_idx"][0] = 10**9
    with pytest.raises(ValueError, match="features that there are not"):
        check_objects(model)


def test_neighbours_whose_tree_is_another_are_refused() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N, 3)), rng.normal(size=N)
    model = KNeighborsRegressor(algorithm="kd_tree").fit(X, y)
    state = list(model._tree.__getstate__())
    state[1] = np.asarray(state[1]) + 10**6
    model._tree.__setstate__(tuple(state))
    with pytest.raises(ValueError, match="not the one that its points make"):
        check_objects(model)


# --- stores, results, backbones, checkpoints ---


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["spec"].update(dim=10**30),
        lambda r: r["spec"].update(dim="3"),
        lambda r: r["spec"].update(storage_dtype="object"),
        lambda r: r.update(spec=[]),
        lambda r: r.update(seen=5),
        lambda r: r.pop("seen"),  # as if the backbone had seen nothing
    ],
)
def test_a_store_of_a_hostile_record_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any]
) -> None:
    write_store(tmp_path, ["a.jpg"], np.zeros((1, 3)))
    record = json.loads((tmp_path / "_store.json").read_text())
    change(record)
    (tmp_path / "_store.json").write_text(json.dumps(record))
    with pytest.raises(StoreError, match="is damaged"):
        EmbeddingStore(tmp_path)


@pytest.mark.parametrize("text", ["[" * 100_000, "{}" * 9, "\xff", "5", '{"format_version": []}'])
def test_a_store_of_no_record_is_refused(tmp_path: Path, text: str) -> None:
    write_store(tmp_path, ["a.jpg"], np.zeros((1, 3)))
    (tmp_path / "_store.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StoreError, match=r"not a store|format version"):
        EmbeddingStore(tmp_path)


def test_a_flipped_bit_of_an_embedding_is_found(tmp_path: Path) -> None:
    store = write_store(tmp_path, ["a.jpg"], np.random.default_rng(0).normal(size=(1, 64)))
    part = tmp_path / "part-000000.parquet"
    data, column = part.read_bytes(), pq.ParquetFile(part).metadata.row_group(0).column(6)
    start = column.data_page_offset + column.total_compressed_size - 20
    for place in range(start, start + 20):
        part.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(StoreError, match="can't be read"):
            store.embeddings(["a.jpg"])


def test_a_part_of_other_columns_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path, ["a.jpg"], np.zeros((1, 3)))
    part = tmp_path / "part-000000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.set_column(4, "width", pa.array([2**40])), part)
    with pytest.raises(StoreError, match="has not the columns"):
        store.index()


def spec(**changes: Any) -> dict[str, Any]:
    made = BackboneSpec(
        architecture="mobilenet_v2",
        weights="imagenet",
        weights_digest="digest",
        weights_file_hash=None,
        layer="penultimate",
        pooling="avg",
        dim=3,
        input_size_px=96,
        resize="crop",
        preprocessing="tf",
        storage_dtype="float32",
    )
    return made.to_dict() | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 0},
        {"dim": True},
        {"input_size_px": 10**9},
        {"resize": "explode"},
        {"precision": "auto"},
        {"weights": "/etc/passwd"},
        {"weights": 3},
    ],
)
def test_a_backbone_record_of_other_values_is_refused(changes: dict[str, Any]) -> None:
    assert BackboneSpec.from_dict(spec(), "here").dim == 3
    with pytest.raises(BackboneError, match=f"'here' has a damaged .*{next(iter(changes))}"):
        BackboneSpec.from_dict(spec(**changes), "here")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"digests": {"../../etc/passwd": "0"}}, "no backbone's"),
        ({"digests": []}, "digests"),
        ({"preprocessing": ["tf"]}, "preprocessing"),
        ({"resize": 5}, "resize"),
    ],
)
def test_a_backbone_folder_of_a_hostile_record_is_refused(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    record = {"format_version": 1, "preprocessing": "tf", "resize": "crop", "parent": {}}
    (tmp_path / "backbone.json").write_text(json.dumps(record | {"digests": {}} | change))
    with pytest.raises(BackboneError, match=says):
        find_tuned(tmp_path)


def test_a_backbone_that_links_out_of_its_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "away.npz").write_bytes(b"")
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "top.npz").symlink_to(tmp_path / "away.npz")
    (tmp_path / "it" / "backbone.json").write_text("{}")
    with pytest.raises(BackboneError, match="link to a file outside"):
        find_tuned(tmp_path / "it")


def test_a_top_that_is_a_pickle_does_not_run(tmp_path: Path, mark: Path) -> None:
    np.savez(tmp_path / "top.npz", kernel=np.array([Bomb(mark)], object), bias=np.zeros(1))
    with pytest.raises(BackboneError, match="can't be read"):
        LinearTop.read(tmp_path / "top.npz")


def test_a_checkpoint_that_is_a_pickle_does_not_run(tmp_path: Path, mark: Path) -> None:
    np.savez(tmp_path / "checkpoint.npz", record=np.array([Bomb(mark)], object))
    with pytest.raises(TwoStageError, match="is damaged"):
        read_checkpoint(tmp_path)


def test_results_of_hostile_records_are_refused(tmp_path: Path, mark: Path) -> None:
    (tmp_path / "run.json").write_text('{"format_version": 1, "scores": 5}')
    with pytest.raises(BenchmarkError, match=r"run\.json has no 'identity'"):
        read_evidence(tmp_path)
    (tmp_path / "run.json").write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(BenchmarkError, match=r"no readable run\.json"):
        read_evidence(tmp_path)
    (tmp_path / "_cells").mkdir()
    cell = tmp_path / "_cells" / "arm-000-repeat-000-fold-000.parquet"
    cell.write_bytes(pickle.dumps(Bomb(mark)))
    assert ResultsFolder(tmp_path).read_cell(0, 0, 0) is None


@pytest.mark.parametrize("metadata", [b"[]", b"{}", b'{"index_columns": 5}', b"\xff"])
def test_a_table_of_hostile_metadata_is_a_data_error(tmp_path: Path, metadata: bytes) -> None:
    table = pa.table({"age": [1, 2]}).replace_schema_metadata({b"pandas": metadata})
    pq.write_table(table, tmp_path / "table.parquet")
    with pytest.raises(DataError, match="can't be read as a table"):
        read_table(tmp_path / "table.parquet")


# --- limits ---


def test_json_has_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "it.json"
    file.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(file)
    file.write_text("[1]")
    assert read_json(file) == [1]
    monkeypatch.setattr("twostage.opening.files._MOST_BYTES_OF_JSON", 2)
    with pytest.raises(ValueError, match="too many for a record"):
        read_json(file)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="no file"):
        read_json(tmp_path / "pipe")


def test_archives_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "it.zip"
    monkeypatch.setattr("twostage.opening.files._MOST_BYTES_OF_ZIP", 1000)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(100_000))
    with open(file, "rb") as opened, pytest.raises(ValueError, match="would unpack to 100,000"):
        check_zip(opened)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("../out", b"")
    with open(file, "rb") as opened, pytest.raises(ValueError, match="outside itself"):
        check_zip(opened)


def test_arrays_that_claim_more_than_there_is_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "it.npz"
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': "
    header += b"(1000000000000,), }"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.npy", header.ljust(127) + b"\n" + bytes(80))
    with pytest.raises(ValueError, match=r"\w+Error: "):
        read_arrays(file)
    np.savez_compressed(file, a=np.zeros(9))
    with pytest.raises(ValueError, match="is packed"):
        read_arrays(file)
    np.savez(file, a=np.array(["text"]))
    with pytest.raises(ValueError, match="does not hold numbers"):
        read_arrays(file)


@dataclass(frozen=True)
class Record:
    """What a test expects of JSON."""

    name: str
    sizes: tuple[int, ...] = ()
    share: float | None = None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "it lacks 'name'"),
        ({"name": "a", "more": 1}, "it has an unknown 'more'"),
        ({"name": 1}, r"it\.name is 1, not str"),
        ({"name": "a", "sizes": [1, True]}, r"it\.sizes\[1\] is True, not int"),
        ({"name": "a", "share": "x"}, r"it\.share is 'x', not null"),
        ({"name": "a", "share": 10**400}, r"it\.share"),
        ([], r"it is \[\], not a Record"),
    ],
)
def test_records_of_other_types_are_refused(value: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        checked(Record, value)


def test_records_are_what_their_types_say() -> None:
    found = checked(Record, {"name": "a", "sizes": [1, 2], "share": 1})
    assert found == Record("a", (1, 2), 1.0)
    assert isinstance(found.share, float)


# --- many mutations ---


@pytest.mark.slow
def test_mutated_files_are_refused_or_read_right() -> None:
    """A small part of benchmarks/torture_files.py, in a process of its own."""
    root = Path(__file__).parents[1]
    command = [sys.executable, root / "benchmarks" / "torture_files.py", "--cases", "60"]
    only = ["model-linear", "model-lightgbm", "store", "checkpoint"]
    for name in only:
        command += ["--only", name]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    found = json.loads(run.stdout)
    assert found["cases"] == 60
    assert found["faults"] == 0


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_target_encoder_has_a_number_for_each_category(n_classes: int) -> None:
    rows = np.arange(60)
    encoder = TargetEncoder(cv=3, random_state=0).fit(
        np.stack([rows % 4, rows % 5], axis=1), rows * 7 % n_classes
    )
    _check_encodings(encoder)
    encoder.encodings_[0] = encoder.encodings_[0][:-1]
    with pytest.raises(ValueError, match="numbers for"):
        _check_encodings(encoder)
