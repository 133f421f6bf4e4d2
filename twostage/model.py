"""A fitted model as a folder: write, read, check. Reading never runs code from the files."""

import json
import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twostage.backbones.spec import BackboneSpec
from twostage.backbones.tuned import TunedBackbone, files_beside
from twostage.encoders import folder as encoders
from twostage.encoders.spec import read_spec
from twostage.errors import BackboneError, ModelError, UsageError
from twostage.fingerprint import hash_file, hash_json
from twostage.fitted import FitSettings, FittedModel, Holdout
from twostage.folders import put_in_place
from twostage.heads import HEADS, OWN_ESTIMATOR, Blend, Task, head_class
from twostage.joins import ImageBlock
from twostage.members import Member
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.saving import to_json
from twostage.seen import SeenRows
from twostage.staged import AnyModel, Scorer, StagedModel, StagingSettings
from twostage.table.roles import Column

PathLike = str | os.PathLike[str]
SCHEMA_VERSION = 3
RECORD = "model.json"
_OWN_DIGEST = "digest"  # of the record without it
_TRAINED_ON = "trained_on.parquet"
_SEEN = "seen.parquet"  # of a staged model
_BACKBONE_FOLDER = "backbone"
_MEMBER_FOLDER = "member-{number}"
_PART_FOLDER = "part-{number}"  # of a staged model: a model in itself
_SCORER_FOLDER = "scorer-{number}"
_LARGEST_DIM = 1 << 20
_TYPES_OF_RECORD = {
    "content_hash": pa.list_(pa.string()),
    "group": pa.string(),
    "row_digest": pa.string(),
}
_RECORDED_LIBRARIES = (
    "twostage",
    "scikit-learn",
    "lightgbm",
    "keras",
    "skrub",
    "skops",
    "numpy",
    "pandas",
)


def check_destination(path: PathLike) -> bool:
    """Raise UsageError if a model can't be written there.

    Returns
    -------
    bool
        Whether an older model is there, which would be replaced.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{path}' is a file. Give a folder for the model.")
    if folder.is_dir() and any(folder.iterdir()) and not _holds_only_a_model(folder):
        raise UsageError(
            f"'{path}' is a folder with other files in it than a model's. Give a new folder."
        )
    return (folder / RECORD).is_file()


def _holds_only_a_model(folder: Path) -> bool:
    """Whether every file of a folder belongs to a model, so that it may be replaced."""
    try:
        listed = _read_record(folder)["digests"]
    except ModelError:
        return False
    found = {path.relative_to(folder).as_posix() for path in _files_in(folder)}
    return found <= {RECORD, *listed}


def write_model(model: AnyModel, path: PathLike, trusted: Sequence[str] = ()) -> list[str]:
    """Write a model, whole or not at all; an older model in its place is replaced.

    Parameters
    ----------
    model : FittedModel or StagedModel
        What `twostage.fitting.fit_model` or `twostage.staging.Staging.fit` returns.
    path : path-like
        The folder to make.
    trusted : sequence of str
        Types, by their full names, that may be saved although twostage does not know them: those
        of a scikit-learn estimator that the user brought.

    Returns
    -------
    list of str
        What the user should know: that the model does not bring its backbone's file along.

    Raises
    ------
    ModelError
        If it can't be written.
    """
    check_destination(path)
    folder = Path(path).absolute()
    temporary = folder.with_name(f"_tmp-{folder.name}-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        notes = _write_any(model, temporary, trusted)
        put_in_place(temporary, folder)
    except OSError as error:
        raise ModelError(f"Can't write the model '{path}': {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return notes


def read_model(path: PathLike, trusted: Sequence[str] = ()) -> AnyModel:
    """Read what `write_model` wrote, after comparing each file with its digest.

    Parameters
    ----------
    path : path-like
        The folder.
    trusted : sequence of str
        As for `write_model`: code of these types runs.

    Raises
    ------
    UsageError
        If the folder does not exist.
    ModelError
        If it is no model, of another version, or damaged.
    """
    folder = Path(path)
    if not folder.exists():
        raise UsageError(f"There is no model '{folder}'. Make one with 'twostage fit'.")
    return _read_any(folder, trusted)


def _read_any(folder: Path, trusted: Sequence[str]) -> AnyModel:
    record = _read_record(folder)
    try:
        if record.pop(_OWN_DIGEST) != hash_json(record):
            raise ModelError(
                f"Model '{folder}': {RECORD} is not the one that was saved. Copy it again, or "
                "refit."
            )
        _check_files(folder, record)
        if "staging" in record:
            return _read_staged(folder, record, trusted)
        return _read_files(folder, record, trusted)
    except (ModelError, BackboneError):
        raise
    except Exception as error:  # records of any content, read by libraries of any kind
        raise ModelError(
            f"Model '{folder}' is damaged: its {RECORD} does not fit its files "
            f"({type(error).__name__}: {error}). Copy it again, or refit."
        ) from error


def _read_staged(folder: Path, record: dict[str, Any], trusted: Sequence[str]) -> StagedModel:
    parts = []
    for number in range(checked(int, record["n_parts"], "n_parts")):
        part = _read_any(folder / _PART_FOLDER.format(number=number), trusted)
        if not isinstance(part, FittedModel):
            raise ModelError(f"Model '{folder}' is damaged: it holds models of models. Refit.")
        parts.append(part)
    scorers = []
    for number, saved in enumerate(record["scorers"]):
        subfolder = folder / _SCORER_FOLDER.format(number=number)
        tuned = TunedBackbone.in_folder(subfolder / _BACKBONE_FOLDER)
        spec = BackboneSpec.from_dict(saved, folder).to_dict()
        scorers.append(Scorer(spec | {"weights": str(tuned.network.resolve())}, tuned.top()))
    model = StagedModel(
        settings=replace(parts[0].settings, allow_seen=checked(bool, record["allow_seen"])),
        classes=parts[0].classes,
        staging=_read_staging(record),
        parent=BackboneSpec.from_dict(record["parent"], folder).to_dict(),
        columns=checked(list[Column], record["columns"], "columns"),
        parts=parts,
        n_tuned=checked(list[int], record["n_tuned"], "n_tuned"),
        n_rows=checked(int, record["n_rows"], "n_rows"),
        trained_on=_read_trained_on(folder),
        seen=SeenRows.read(folder / _SEEN),
        scorers=scorers,
        score_names=checked(dict[str, list[str]], record["score_names"], "score_names"),
        holdout=checked(Holdout | None, record["holdout"], "holdout"),
        n_seen=checked(int, record["n_seen"], "n_seen"),
    )
    _check_that_it_predicts(model)
    return model


def _read_staging(record: Mapping[str, Any]) -> StagingSettings:
    """Return how backbones were tuned, each setting of the type that it has to be."""
    options = dict(record["staging"])
    of_splits = {name: options.pop(name) for name in ("share", "n_folds")}
    own = {"mode": record["mode"], "tuning": options, **of_splits}
    staging: StagingSettings = checked(StagingSettings, own, "staging")
    return staging


def _read_files(folder: Path, record: dict[str, Any], trusted: Sequence[str]) -> FittedModel:
    asked = dict(record["settings"])
    heads = asked.pop("heads")
    settings: FitSettings = checked(FitSettings, asked, "settings")
    if not set(str(settings.head).split("+")) <= {*HEADS, OWN_ESTIMATOR}:
        raise ModelError(f"Model '{folder}' is damaged: it has a head '{settings.head}'. Refit.")
    classes = _read_classes(record["classes"])
    task = Task(None if classes is None else len(classes), settings.random_state, settings.n_jobs)
    weights = checked(list[float], record["weights"], "weights")
    if not np.isclose(sum(weights), 1):
        raise ValueError(f"the members' weights add up to {sum(weights)}")
    members = [
        Member.load(folder / _MEMBER_FOLDER.format(number=number), task, trusted)
        for number in range(len(weights))
    ]
    by_class = settings.class_weight
    settings = replace(
        settings,
        head=_asked_head(heads, str(settings.head), members),
        class_weight=dict(by_class) if isinstance(by_class, list) else by_class,
    )
    model = FittedModel(
        settings=settings,
        classes=classes,
        columns=checked(list[Column], record["columns"], "columns"),
        members=members,
        weights=weights,
        dims=_read_dims(record["dims"]),
        n_rows=checked(int, record["n_rows"], "n_rows"),
        trained_on=_read_trained_on(folder),
        backbone=_read_backbone(folder, record["backbone"]),
        holdout=checked(Holdout | None, record["holdout"], "holdout"),
        n_seen=checked(int, record["n_seen"], "n_seen"),
    )
    _check_that_it_predicts(model)
    return model


def _check_that_it_predicts(model: AnyModel) -> None:
    """Predict rows of nothing: what does not fit together shows here, not after hours of embedding.

    Raises
    ------
    Exception
        Whatever comes of it.
    """
    frame = pd.DataFrame(np.nan, index=range(2), columns=model.table_columns)
    blocks = {name: _two_images(name, dim) for name, dim in model.dims.items()}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        seen: Any = model.looking_at(blocks)
        outputs = model.outputs(frame, seen)
        if isinstance(model, FittedModel):  # the members of a part are checked when it is read
            for member in model.members:
                member.check_codes(frame, blocks)
    wanted = (2,) if model.classes is None else (2, len(model.classes))
    if outputs.shape != wanted:
        raise ValueError(f"it predicts an array of shape {outputs.shape}, not {wanted}")


def _two_images(column: str, dim: int) -> ImageBlock:
    """Return the block of a row with an image of zeros, and a row without one."""
    matrix = np.stack([np.zeros(dim, np.float32), np.full(dim, np.nan, np.float32)])
    return ImageBlock(column, matrix, np.array([1, 0]), [None, None], [[], []])


def _read_classes(record: Any) -> np.ndarray | None:
    if record is None:
        return None
    labels = checked(list[str] | list[bool] | list[int] | list[float], record["labels"], "classes")
    dtype = np.dtype(checked(str, record["dtype"], "the type of classes"))
    if dtype.kind not in "biufU" or len(set(labels)) < len(labels) or len(labels) < 2:
        raise ValueError(f"classes of type {dtype} are no classes")
    return np.array(labels) if dtype.kind == "U" else np.array(labels, dtype)


def _read_dims(record: Any) -> dict[str, int]:
    dims: dict[str, int] = checked(dict[str, int], record, "dims")
    for name, dim in dims.items():
        if not 1 <= dim <= _LARGEST_DIM:
            raise ValueError(f"embeddings of '{name}' have {dim} numbers")
    return dims


def _read_trained_on(folder: Path) -> pd.DataFrame:
    """Read the record of training rows, of these columns and types and no others."""
    table = pq.read_table(folder / _TRAINED_ON, columns=list(_TYPES_OF_RECORD))
    frame: pd.DataFrame = table.cast(pa.schema(_TYPES_OF_RECORD)).to_pandas()
    return frame


def _asked_head(asked: Sequence[dict[str, Any]], name: str, members: Sequence[Member]) -> Any:
    """Return the head that the model would be fitted again with.

    A scikit-learn estimator that got no weight in a blend is not in the model, and left out.
    """
    if all(_is_as_named(one) for one in asked):
        return name
    fitted = (member.head for member in members)
    estimators = (head.estimator for head in fitted if hasattr(head, "estimator"))
    heads: list[Any] = []
    for one in asked:
        if one["name"] == OWN_ESTIMATOR:
            heads += islice(estimators, 1)
        else:
            heads.append(head_class(one["name"])(**one["parameters"]))
    return heads[0] if len(heads) == 1 else Blend(heads)


def _is_as_named(asked: dict[str, Any]) -> bool:
    """Whether a head has the settings that its name alone gives it."""
    name = asked["name"]
    return name != OWN_ESTIMATOR and bool(head_class(name)().parameters() == asked["parameters"])


def _write_any(model: AnyModel, folder: Path, trusted: Sequence[str]) -> list[str]:
    if isinstance(model, StagedModel):
        return _write_staged(model, folder, trusted)
    return _write_files(model, folder, trusted)


def _write_staged(model: StagedModel, folder: Path, trusted: Sequence[str]) -> list[str]:
    """Write each part as a model of its own, with its backbone, and the scorers beside them."""
    notes, scorers = [], []
    for number, part in enumerate(model.parts):
        subfolder = folder / _PART_FOLDER.format(number=number)
        subfolder.mkdir()
        notes += _write_files(part, subfolder, trusted)
    for number, scorer in enumerate(model.scorers):
        subfolder = folder / _SCORER_FOLDER.format(number=number)
        subfolder.mkdir()
        spec, missing = _with_weights_file(scorer.backbone, subfolder)
        scorers.append(spec)
        notes += missing
    if notes:
        raise ModelError(
            "A backbone that the model needs is not as it was, so the model can't bring it along: "
            f"was the cache emptied? Fit again. ({notes[0]})"
        )
    model.trained_on.to_parquet(folder / _TRAINED_ON, index=False)
    (folder / _SEEN).write_bytes(model.seen.to_bytes())
    own = {
        "mode": model.staging.mode,
        "staging": model.staging.options(),
        "parent": model.parent,
        "allow_seen": model.settings.allow_seen,
        "columns": [asdict(column) for column in model.columns],
        "n_parts": len(model.parts),
        "n_tuned": model.n_tuned,
        "scorers": scorers,
        "score_names": model.score_names,
    }
    _write_record(model, folder, own)
    return notes


def _write_files(model: FittedModel, folder: Path, trusted: Sequence[str]) -> list[str]:
    for number, member in enumerate(model.members):
        subfolder = folder / _MEMBER_FOLDER.format(number=number)
        subfolder.mkdir()
        member.save(subfolder, trusted)
    model.trained_on.to_parquet(folder / _TRAINED_ON, index=False)
    backbone, notes = _with_weights_file(model.backbone, folder)
    own = {
        "settings": model.settings.record(),
        "classes": _classes_record(model.classes),
        "columns": [asdict(column) for column in model.columns],
        "weights": model.weights,
        "dims": model.dims,
        "backbone": backbone,
    }
    _write_record(model, folder, own)
    return notes


def _write_record(model: AnyModel, folder: Path, own: Mapping[str, Any]) -> None:
    """Write what a model is, with the digests of all files that were written before."""
    record = {
        "schema_version": SCHEMA_VERSION,
        "versions": {name: version(name) for name in _RECORDED_LIBRARIES},
        **own,
        "n_rows": model.n_rows,
        "holdout": None if model.holdout is None else asdict(model.holdout),
        "n_seen": model.n_seen,
        "digests": _digests(folder),
    }
    plain = json.loads(to_json(record))
    (folder / RECORD).write_text(to_json(plain | {_OWN_DIGEST: hash_json(plain)}))


def _with_weights_file(
    backbone: dict[str, Any] | None, folder: Path
) -> tuple[dict[str, Any] | None, list[str]]:
    """Copy the file that a backbone came from into the model, so that it can be sent to others.

    A file that is gone is noted: the model still predicts from a store.
    """
    if backbone is None or backbone["weights_file_hash"] is None:
        return backbone, []
    source = Path(backbone["weights"])
    if not source.is_file() or hash_file(source) != backbone["weights_file_hash"]:
        state = "another one by now" if source.exists() else "gone"
        return backbone, [
            f"The backbone's file '{source}' is {state}, so the model does not bring it along. It "
            "predicts from a store; to predict from images, put the file back and fit again."
        ]
    inside = Path(_BACKBONE_FOLDER) / source.name
    (folder / _BACKBONE_FOLDER).mkdir()
    shutil.copyfile(source, folder / inside)
    for beside in files_beside(source) or encoders.files_beside(source):
        shutil.copyfile(beside, folder / _BACKBONE_FOLDER / beside.name)
    return backbone | {"weights": inside.as_posix()}, []


def _read_backbone(folder: Path, record: Any) -> dict[str, Any] | None:
    if record is None:
        return None
    backbone = read_spec(record, folder).to_dict()
    if backbone["weights_file_hash"] is None or not _is_inside(backbone):
        return backbone
    return backbone | {"weights": str((folder / backbone["weights"]).resolve())}


def _is_inside(backbone: Mapping[str, Any]) -> bool:
    """Whether the file that a backbone came from is in the model; if not, its path is absolute."""
    return not Path(backbone["weights"]).is_absolute()


def _classes_record(classes: np.ndarray | None) -> dict[str, Any] | None:
    if classes is None:
        return None
    return {"labels": classes.tolist(), "dtype": classes.dtype.str}


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _digests(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): hash_file(path) for path in _files_in(folder)}


def _read_record(folder: Path) -> dict[str, Any]:
    try:
        record = read_json(folder / RECORD)
        found = record["schema_version"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ModelError(
            f"'{folder}' is not a model: it has no readable {RECORD}. Give a folder made by "
            "'twostage fit'."
        ) from None
    if found != SCHEMA_VERSION:
        raise ModelError(
            f"Model '{folder}' is of schema version {found}; this twostage reads version "
            f"{SCHEMA_VERSION}. Use the twostage that wrote it, or fit again."
        )
    if not isinstance(record.get("digests"), dict):
        raise ModelError(f"Model '{folder}' is damaged: its {RECORD} lists no files. Refit.")
    return dict(record)


def _check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Compare every file that may be read with its digest, and read none outside the folder."""
    digests = checked(dict[str, str], record["digests"], "digests")
    for path in folder.rglob("*"):
        if path.is_symlink():  # what it leads to is in no digest, and may be anywhere
            raise ModelError(
                f"Model '{folder}' has a link, '{path.relative_to(folder)}', where its own file "
                "must be. Copy the model with the files themselves: cp -rL."
            )
    lie_deeper = [path for path in _files_in(folder) if path.parent != folder]
    needed = {_TRAINED_ON, *digests, *(path.relative_to(folder).as_posix() for path in lie_deeper)}
    needed |= {_SEEN} if "staging" in record else set()
    backbone = record.get("backbone") or {}
    if backbone.get("weights_file_hash") is not None and _is_inside(backbone):
        needed.add(backbone["weights"])
    for name in sorted(needed):
        file = folder / name
        if not file.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"Model '{folder}' names a file outside itself: '{name}'. Refit.")
        if not file.is_file():
            raise ModelError(f"Model '{folder}' lacks its file '{name}'. Copy it again, or refit.")
        if hash_file(file) != digests.get(name):
            raise ModelError(
                f"File '{name}' of model '{folder}' is not the one that was saved: its digest "
                "differs. Copy the model again, or refit."
            )
