"""Mutate models, backbones, stores and results, and see that nothing but a clear error comes of it.

    python benchmarks/torture_files.py [--cases N] [--seed S] [--only KIND]... [-o FILE.json]

Makes small examples of all that twostage opens: models of every head, a tuned backbone, an own
network, a store, a benchmark's results, a checkpoint, tables. Then, so many times, it copies one of
them, changes a file (bits, truncation, splices, zeros, a file swapped for another; in
JSON and inside archives and Parquet: types, keys, huge numbers), half of the times with all digests
written anew, so that the change gets past them, and opens and uses it in a child process.

What may come of it: an error of twostage's; the same result as before; another result, if digests
were written anew or the file has none. What may not: any other error, a crash, a hang, more memory
than ever needed, or another result behind digests that should have told.
"""

import io
import json
import multiprocessing
import os
import random
import resource
import shutil
import tempfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

N_ROWS, DIM, SIZE_PX = 90, 6, 32
LIMIT_S = 60.0
MOST_MB = 6000  # of a child; TensorFlow alone takes one
HEADS = ("lightgbm", "linear", "keras", "svm", "random-forest")
HUGE = (10**6, 2**31, 2**63, 10**30, 1e308, -1, -(2**31), 0)
BY_BYTES = ("flip", "truncate", "splice", "zeros", "swap")
BY_CONTENT = ("json", "inside")
ANSWERS = ("refused", "same", "other")


@dataclass(frozen=True)
class Case:
    """One mutation.

    Attributes
    ----------
    number : int
        It seeds all that is random in it.
    example : str
        Folder of the example.
    how : str
        What is done to a file of it.
    signed : bool
        Whether digests are written anew.
    """

    number: int
    example: str
    how: str
    signed: bool


@dataclass(frozen=True)
class Outcome:
    """What came of a case: one of `ANSWERS`, or a fault."""

    case: Case
    file: str
    answer: str
    detail: str
    seconds: float

    @property
    def is_fault(self) -> bool:
        """Whether it is nothing that may come of it."""
        return self.answer not in ANSWERS


# --- examples -----------------------------------------------------------------------------------


def make_examples(folder: Path, only: tuple[str, ...] = ()) -> list[str]:
    """Make what is to be mutated, and return the names of the examples; see `MAKERS`."""
    names = []
    for name, make in MAKERS.items():
        if not only or {name, name.split("-")[0]} & set(only):
            (folder / name).mkdir(parents=True)
            make(folder / name, name)
            names.append(name)
    return names


def _rows() -> tuple[pd.DataFrame, np.ndarray]:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N_ROWS, DIM)).astype(np.float32)
    words = rng.choice(["red", "green", "blue", "old", "new", "fast", "slow"], (N_ROWS, 6))
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(N_ROWS)],
            "age": np.where(rng.random(N_ROWS) < 0.1, np.nan, rng.normal(size=N_ROWS)),
            "site": rng.choice(["arm", "leg", "back"], N_ROWS),
            "street": rng.integers(0, 40, N_ROWS).astype(str),
            "sold": pd.to_datetime("2020-01-01") + pd.to_timedelta(np.arange(N_ROWS), "D"),
            "vector": list(rng.normal(size=(N_ROWS, 3))),
            "text": [" ".join(row) for row in words],
            "label": np.where(matrix[:, 0] > 0, "bad", "good"),
        }
    )
    return frame, matrix


def _blocks(matrix: np.ndarray) -> dict[str, Any]:
    from twostage.joins import ImageBlock

    n = len(matrix)
    hashes = [[f"h{i}"] for i in range(n)]
    return {"image": ImageBlock("image", matrix, np.ones(n, int), [None] * n, hashes)}


def _make_model(folder: Path, name: str) -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.neighbors import KNeighborsClassifier

    from twostage.fitted import FitSettings
    from twostage.fitting import fit_and_score
    from twostage.heads import head_class
    from twostage.model import write_model
    from twostage.table.roles import RoleOverrides
    from twostage.targets import prepare_target

    frame, matrix = _rows()
    kind = name.partition("-")[2]
    small: dict[str, Any] = {
        "lightgbm": {"n_trees": 5},
        "random-forest": {"n_trees": 4},
        "keras": {"n_members": 1, "units": 4, "block_units": 4, "max_epochs": 2},
    }
    own = {
        "boosting": HistGradientBoostingClassifier(max_iter=3),
        "neighbours": KNeighborsClassifier(algorithm="kd_tree"),
    }
    head = own.get(kind) or head_class(kind)(**small.get(kind, {}))
    roles = RoleOverrides(
        ("age",), ("site", "street"), date=("sold",), text=("text",), vector=("vector",)
    )
    settings = FitSettings("label", head, image_columns=("image",), roles=roles)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = fit_and_score(frame, _blocks(matrix), prepare_target(frame["label"]), settings)
    write_model(model, folder / "it")


def _store(folder: Path, n: int = N_ROWS) -> Any:
    from twostage.backbones.spec import BackboneSpec
    from twostage.seen import SeenRows
    from twostage.store.schema import embedding_array
    from twostage.store.store import EmbeddingStore

    frame, matrix = _rows()
    spec = BackboneSpec(
        "mobilenet_v2", "imagenet", "digest", None, "penultimate", "avg", DIM, 96, "crop", "tf",
        "float32",
    )  # fmt: skip
    seen = SeenRows(frozenset({"h1", "h2"}), frozenset({"P1"}), "patient")
    store = EmbeddingStore.create(folder, spec.to_dict(), spec.identity, seen)
    for number, rows in enumerate(np.array_split(np.arange(n), 2)):
        usable = rows % 9 != 5
        columns = {
            "image": [frame["image"][i] for i in rows],
            "content_hash": [f"h{i}" for i in rows],
            "size_bytes": [1] * len(rows),
            "mtime_ns": [None] * len(rows),
            "width": [9] * len(rows),
            "height": [9] * len(rows),
            "embedding": embedding_array(matrix[rows], usable, store.schema),
            "error": [None if fine else "decode: no image" for fine in usable],
            "seen": [False] * len(rows),
        }
        store.write_part(f"part-{number:06d}.parquet", pa.table(columns, schema=store.schema))
    return store


def _make_store(folder: Path, name: str) -> None:
    _store(folder / "it")


def _network() -> Any:
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = keras.Input((SIZE_PX, SIZE_PX, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1, name="scaling")(inputs)
    for number in range(2):
        x = layers.Conv2D(4, 3, 2, use_bias=False, name=f"conv_{number}")(x)
        x = layers.ReLU(name=f"relu_{number}")(layers.BatchNormalization(name=f"bn_{number}")(x))
    return keras.Model(inputs, layers.GlobalAveragePooling2D(name="pool")(x))


def _make_keras(folder: Path, name: str) -> None:
    (folder / "it").mkdir()
    _network().save(folder / "it" / "mine.keras")


def _make_backbone(folder: Path, name: str) -> None:
    from twostage.backbones.network import load_network
    from twostage.backbones.spec import BackboneSettings
    from twostage.backbones.tuned import LinearTop, write_tuned
    from twostage.seen import SeenRows

    network = _network()
    network.save(folder / "parent.keras")
    spec = load_network(BackboneSettings(folder / "parent.keras")).spec
    (folder / "parent.keras").unlink()
    top = LinearTop(np.ones((4, 2), np.float32), np.zeros(2, np.float32))
    seen = SeenRows(frozenset({"h1"}), frozenset({"P1"}), "patient")
    write_tuned(folder / "it", network, spec, {"target": "label"}, seen, top, {})


def _make_results(folder: Path, name: str) -> None:
    from twostage import benchmark

    frame, _ = _rows()
    _store(folder / "store")
    benchmark(
        folder / "store",
        folder / "it",
        table=frame[["image", "age", "site", "label"]],
        target="label",
        image_columns="image",
        heads=["linear"],
        n_folds=2,
        n_jobs=1,
        near_duplicates=None,
        importance=1,
    )
    shutil.move(folder / "store", folder / "it" / "_store_beside")


def _make_checkpoint(folder: Path, name: str) -> None:
    from twostage.training.checkpoint import Checkpoint, write_checkpoint

    (folder / "it").mkdir()
    row = {"epoch": 0, "loss": 1.0, "validation_loss": 1.0, "score": 0.5, "seconds": 0.1}
    arrays = [np.arange(6.0, dtype=np.float32).reshape(2, 3), np.int32(3)]
    write_checkpoint(folder / "it", Checkpoint({"settings": {}}, [row], arrays, arrays))


def _make_tables(folder: Path, name: str) -> None:
    frame, _ = _rows()
    (folder / "it").mkdir()
    frame.to_parquet(folder / "it" / "table.parquet")
    frame.drop(columns="vector").to_csv(folder / "it" / "table.csv", index=False)


MAKERS: dict[str, Callable[[Path, str], None]] = {
    **{f"model-{head}": _make_model for head in (*HEADS, "boosting", "neighbours")},
    "store": _make_store,
    "backbone": _make_backbone,
    "keras": _make_keras,
    "results": _make_results,
    "checkpoint": _make_checkpoint,
    "tables": _make_tables,
}


# --- use ----------------------------------------------------------------------------------------


def use(folder: Path, example: str) -> Any:
    """Open an example and use it; what comes of it can be compared."""
    return USERS[example.split("-")[0]](folder)


def _use_model(folder: Path) -> Any:
    from twostage.model import read_model

    frame, matrix = _rows()
    model = read_model(folder)
    return model.predict_proba(frame, _blocks(matrix)).tobytes()


def _use_store(folder: Path) -> Any:
    from twostage.joins import image_names, match_with_store
    from twostage.store.store import EmbeddingStore

    frame, _ = _rows()
    store = EmbeddingStore(folder)
    index = store.index()
    names = image_names(frame["image"])
    match_with_store(names, store, must_match=False)
    seen = _known(store.seen)
    rows = store.embeddings(frame["image"].tolist())
    known = store.known([f"h{i}" for i in range(N_ROWS)])
    store.to_pandas()
    return (
        len(store),
        rows.tobytes(),
        sorted(known),
        index.to_pydict(),
        seen.digest,
    )


def _use_backbone(folder: Path) -> Any:
    from twostage.backbones.tuned import find_tuned

    tuned = find_tuned(folder)
    if tuned is None:
        from twostage.errors import BackboneError

        raise BackboneError("no backbone")
    seen, top = _known(tuned.seen()), tuned.top()
    outputs = top.outputs(np.ones((2, len(top.kernel)), np.float32))
    tuned.is_whole()
    return outputs.tobytes(), seen.digest, _embedded(folder)


def _known(seen: Any) -> Any:
    """Return what a backbone has seen; where that is lost, all rows count as seen: a refusal."""
    from twostage.errors import BackboneError

    if not seen.is_known:
        raise BackboneError("what the backbone has seen is not known")
    return seen


def _use_keras(folder: Path) -> Any:
    return _embedded(folder / "mine.keras")


def _embedded(path: Path) -> bytes:
    from twostage.backbones.network import load_network
    from twostage.backbones.spec import BackboneSettings

    size_px = None if path.is_dir() else SIZE_PX
    network = load_network(BackboneSettings(path, image_size=size_px))
    size_px = network.spec.input_size_px
    pixels = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3), np.uint8)
    return network.embed(pixels).tobytes()


def _use_results(folder: Path) -> Any:
    from twostage.evaluation.results import ResultsFolder
    from twostage.report.writing import write_report

    results = ResultsFolder(folder)
    results.read_run()
    cells = [results.read_cell(arm, 0, fold) for arm in range(3) for fold in range(2)]
    page = folder.parent / "report.html"
    write_report(folder, page, store=folder / "_store_beside")
    predicted = [None if cell is None else cell.predicted.tobytes() for cell in cells]
    return predicted, page.read_bytes()


def _use_checkpoint(folder: Path) -> Any:
    from twostage.training.checkpoint import read_checkpoint

    kept = read_checkpoint(folder)
    if kept is None:
        return None
    return dict(kept.asked), list(kept.history), [a.tobytes() for a in (*kept.state, *kept.best)]


def _use_tables(folder: Path) -> Any:
    from twostage.table.files import read_table

    return [read_table(folder / f"table.{ending}").to_csv() for ending in ("parquet", "csv")]


USERS: dict[str, Callable[[Path], Any]] = {
    "model": _use_model,
    "store": _use_store,
    "backbone": _use_backbone,
    "keras": _use_keras,
    "results": _use_results,
    "checkpoint": _use_checkpoint,
    "tables": _use_tables,
}
HAVE_DIGESTS = ("model", "backbone")
_SHARES = {"store": 3.0, "results": 2.0, "model-keras": 0.5, "keras": 0.7, "backbone": 0.7}


# --- mutations ----------------------------------------------------------------------------------


def mutate(folder: Path, case: Case, others: Path) -> str:
    """Change a file of a copy of an example, and return its name.

    Parameters
    ----------
    folder : Path
        The copy.
    case : Case
        What to do.
    others : Path
        Where all examples are, to take other files from.
    """
    rng = random.Random(case.number)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if case.how == "json":
        files = [file for file in files if file.suffix == ".json"] or files
    if case.how == "inside":
        files = [file for file in files if file.suffix in _INSIDE] or files
    file = rng.choice(files)
    if case.how in BY_BYTES:
        data = file.read_bytes()
        pool = sorted(p for p in others.rglob(f"*{file.suffix}") if p.is_file() and p != file)
        file.write_bytes(_changed_bytes(case.how, data, rng, rng.choice(pool or files)))
    else:
        file.write_bytes(_changed_content(file.suffix, file.read_bytes(), rng))
    if case.signed:
        sign(folder)
    return file.relative_to(folder).as_posix()


def _changed_bytes(how: str, data: bytes, rng: random.Random, other: Path) -> bytes:
    if how == "swap" or not data:
        return other.read_bytes()
    place = rng.randrange(len(data))
    if how == "truncate":
        return data[:place]
    changed = bytearray(data)
    if how == "flip":
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how == "zeros":
        changed[place : place + 16] = bytes(len(changed[place : place + 16]))
    else:
        piece = other.read_bytes()
        start = rng.randrange(max(1, len(piece)))
        n = rng.randrange(1, 200)
        changed[place : place + n] = piece[start : start + n]
    return bytes(changed)


def _changed_content(suffix: str, data: bytes, rng: random.Random) -> bytes:
    change = _INSIDE.get(suffix)
    return _changed_bytes("flip", data, rng, Path()) if change is None else change(data, rng)


def _changed_json(data: bytes, rng: random.Random) -> bytes:
    record = json.loads(data)
    for _ in range(rng.choice((1, 1, 2))):
        places = list(_places(record))
        if places:
            holder, key = rng.choice(places)
            if rng.random() < 0.25:
                del holder[key]
            else:
                holder[key] = _another(holder[key], rng)
    text = json.dumps(record)
    if rng.random() < 0.03:
        text = "[" * 100_000 + text
    return text.encode()


def _places(record: Any) -> Iterator[tuple[Any, Any]]:
    items = record.items() if isinstance(record, dict) else enumerate(record)
    for key, value in list(items):
        yield record, key
        if isinstance(value, (dict, list)):
            yield from _places(value)


def _another(value: Any, rng: random.Random) -> Any:
    """Return a value of another type, or a wild one of the same."""
    wild: list[Any] = [None, True, "", "x" * 50, "../../etc/passwd", [], {}, [[]], 3, 0.5]
    wild += [float("nan"), float("inf"), *HUGE]
    if isinstance(value, str):
        wild += [value + "x", value.upper(), value[:-1], "/etc/passwd", "numpy.ndarray"]
    if isinstance(value, int) and not isinstance(value, bool):
        wild += [value + 1, -value, value * 1000, *HUGE]
    if isinstance(value, list):
        wild += [value[::-1], value * 2, value[:-1], [*value, None]]
    return rng.choice(wild)


def _changed_archive(data: bytes, rng: random.Random) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
        packed = {info.filename: info.compress_type for info in archive.infolist()}
    name = rng.choice(sorted(parts))
    kind = rng.random()
    if name.endswith(".json"):
        parts[name] = _changed_json(parts[name], rng)
    elif kind < 0.1:
        del parts[name]
    elif name.endswith(".npy") and kind < 0.6:
        parts[name] = _changed_array(parts[name], rng)
    else:
        how = rng.choice(("flip", "truncate", "zeros"))
        parts[name] = _changed_bytes(how, parts[name], rng, Path())
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part, compress_type=packed[name])
    return sink.getvalue()


def _changed_array(data: bytes, rng: random.Random) -> bytes:
    """Change the numbers, the shape or the type of an array, of structured ones too."""
    array = np.load(io.BytesIO(data), allow_pickle=False)
    choice = rng.randrange(5)
    flat = array.reshape(-1).copy()
    if choice == 0 and flat.size:
        flat = flat[:-1]
    elif choice == 1:
        flat = np.concatenate([flat, flat])
    elif choice == 2 and array.dtype.names is None:
        flat = flat.astype(rng.choice(("float32", "int8", "uint64", "bool")))
    elif flat.size:
        names = array.dtype.names
        column = flat[rng.choice(names)] if names else flat
        values = (-1, -2, 2**31 - 1, 10**6, 0, 1, 7, 2**62)
        with np.errstate(all="ignore"):
            value = np.array(rng.choice(values)).astype(column.dtype)
            column[rng.randrange(len(column))] = value
        flat = flat.reshape(array.shape)
    sink = io.BytesIO()
    np.save(sink, flat, allow_pickle=False)
    return sink.getvalue()


def _changed_table(data: bytes, rng: random.Random) -> bytes:
    """Write a Parquet file anew with other columns, types, rows or metadata."""
    table = pq.read_table(io.BytesIO(data))
    choice, n = rng.randrange(6), table.num_columns
    place = rng.randrange(n)
    name = table.column_names[place]
    if choice == 0:
        table = table.drop_columns([name])
    elif choice == 1:
        table = table.rename_columns([f"{c}_" if c == name else c for c in table.column_names])
    elif choice == 2:
        values: list[Any] = [rng.choice((None, 1, 2**62, -1))] * table.num_rows
        if rng.random() < 0.5:
            values = ["x" * 10] * table.num_rows
        table = table.set_column(place, name, pa.array(values))
    elif choice == 3:
        table = table.slice(0, rng.randrange(table.num_rows + 1))
    elif choice == 4:
        table = pa.concat_tables([table, table])
    else:
        metadata = dict(table.schema.metadata or {})
        key = rng.choice(sorted(metadata) or [b"pandas"])
        try:
            metadata[key] = _changed_json(metadata.get(key, b"{}"), rng)
        except (ValueError, TypeError, AttributeError):
            metadata[key] = b"\xff{"
        table = table.replace_schema_metadata(metadata)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _changed_text(data: bytes, rng: random.Random) -> bytes:
    """Change a number or a line of LightGBM's text."""
    lines = data.decode().split("\n")
    place = rng.randrange(min(len(lines), 150))
    key, mark, value = lines[place].partition("=")
    if not mark or rng.random() < 0.1:
        lines[place] = rng.choice(["", "Tree=1", "num_leaves=100000000", key * 2])
    else:
        tokens = value.split(" ")
        wild = [*map(str, HUGE), "nan", "inf", "", "-5", "1e999", "x", "0 0 0"]
        tokens[rng.randrange(len(tokens))] = rng.choice(wild)
        lines[place] = f"{key}={' '.join(tokens)}"
    text = "\n".join(lines)
    return (_resized(text) if rng.random() < 0.7 else text).encode()


def _resized(text: str) -> str:
    """Write the sizes of trees anew, as they are now."""
    head, mark, rest = text.partition("\nTree=0\n")
    trees, end, tail = f"Tree=0\n{rest}".partition("end of trees")
    starts = [0]
    while (found := trees.find("\nTree=", starts[-1])) >= 0:
        starts.append(found + 1)
    sizes = np.diff([*starts, len(trees)]).tolist()
    lines = head.split("\n")
    lines = [f"tree_sizes={' '.join(map(str, sizes))}" if "tree_sizes=" in x else x for x in lines]
    return "\n".join(lines) + "\n" + trees + end + tail if mark else text


_INSIDE: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": _changed_json,
    ".keras": _changed_archive,
    ".skops": _changed_archive,
    ".npz": _changed_archive,
    ".parquet": _changed_table,
    ".txt": _changed_text,
}


def sign(folder: Path) -> None:
    """Write digests anew, so that a change gets past them."""
    from twostage.fingerprint import hash_file, hash_json

    for record_file in (folder / "backbone.json", folder / "model.json"):
        try:
            record = json.loads(record_file.read_text())
            for name in record["digests"]:
                if (folder / name).is_file():
                    record["digests"][name] = hash_file(folder / name)
            if record_file.name == "model.json":
                record.pop("digest", None)
                record["digest"] = hash_json(record)
            record_file.write_text(json.dumps(record))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # the record itself is what was changed


# --- children -----------------------------------------------------------------------------------


def _child(connection: Connection, examples: str) -> None:
    """Try cases until there are no more; each answer is told at once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from twostage.errors import TwoStageError

    warnings.simplefilter("ignore")
    root = Path(examples)
    before: dict[str, Any] = {}
    while (case := connection.recv()) is not None:
        with tempfile.TemporaryDirectory() as scratch:
            if case.example not in before:
                copy = Path(scratch) / "before"
                shutil.copytree(root / case.example / "it", copy)
                before[case.example] = use(copy, case.example)
            copy = Path(scratch) / "it"
            shutil.copytree(root / case.example / "it", copy)
            file, answer, detail = "?", "", ""
            try:
                file = mutate(copy, case, root)
                connection.send(file)
                found = use(copy, case.example)
                answer = _judged(case, found == before[case.example])
            except TwoStageError as error:
                answer, detail = "refused", str(error)
            except Exception as error:
                last = traceback.extract_tb(error.__traceback__)
                ours = [f for f in last if "twostage" in f.filename] or last
                where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}"
                answer = f"{type(error).__name__} at {where}"
                detail = "".join(traceback.format_exception(error))[-3000:]
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if peak_mb > MOST_MB:
            answer, detail = "memory", f"{peak_mb:.0f} MB"
        connection.send((file, answer, detail))


def _judged(case: Case, is_same: bool) -> str:
    if is_same:
        return "same"
    is_silent = case.example.split("-")[0] in HAVE_DIGESTS and not case.signed
    is_store = case.example == "store" and case.how in BY_BYTES and case.how != "swap"
    return "another result, silently" if is_silent or is_store else "other"


def _tried(cases: list[Case], examples: Path, limit_s: float) -> Iterator[Outcome]:
    """Try cases in a child, and in another one after each that it does not survive."""
    context = multiprocessing.get_context("spawn")
    waiting = list(reversed(cases))
    child = connection = None
    while waiting:
        case = waiting.pop()
        if child is None or not child.is_alive():
            connection, end = context.Pipe()
            child = context.Process(target=_child, args=(end, str(examples)), daemon=True)
            child.start()
            end.close()
        started = time.perf_counter()
        assert connection is not None
        connection.send(case)
        file, answer, detail = "?", "", ""
        try:
            spent = _cpu_seconds(child.pid)
            while not answer:
                if not connection.poll(1.0):
                    waited = time.perf_counter() - started
                    is_over = _cpu_seconds(child.pid) - spent > limit_s or waited > 20 * limit_s
                    answer = "hang" if is_over and child.is_alive() else ""
                    continue
                told = connection.recv()
                file, answer, detail = told if isinstance(told, tuple) else (told, "", "")
        except (EOFError, ConnectionResetError):
            child.join()
            answer = f"crash ({child.exitcode})"
        if answer in ("hang", "memory"):
            child.kill()
            child.join()
        yield Outcome(case, file, answer, detail, time.perf_counter() - started)
    if child is not None and child.is_alive() and connection is not None:
        connection.send(None)
        child.join(10)


def _cpu_seconds(pid: int | None) -> float:
    """Return what a process has computed: on a busy machine a clock on the wall tells nothing."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- run ----------------------------------------------------------------------------------------


def make_cases(names: list[str], n_cases: int, seed: int) -> list[Case]:
    """Spread cases over examples, ways to change them, and whether digests are written anew."""
    rng = random.Random(seed)
    ways = [*BY_BYTES, *BY_CONTENT, *BY_CONTENT]
    shares = [_SHARES.get(name, 1.0) for name in names]
    return [
        Case(
            seed * 1_000_000 + number,
            rng.choices(names, shares)[0],
            rng.choice(ways),
            rng.random() < 0.6,
        )
        for number in range(n_cases)
    ]


def run(
    n_cases: int = 1500,
    seed: int = 0,
    only: tuple[str, ...] = (),
    limit_s: float = LIMIT_S,
    told: Callable[[Outcome], None] | None = None,
) -> dict[str, Any]:
    """Try so many mutations.

    Parameters
    ----------
    n_cases, seed : int
        How many, and which.
    only : tuple of str
        Kinds of examples: "model", "store", "backbone", "keras", "results", "checkpoint",
        "tables"; all if empty.
    limit_s : float
        After which a case counts as a hang.
    told : callable, optional
        Is given each `Outcome`.

    Returns
    -------
    dict
        ``cases``, ``faults`` (how many), ``answers`` and ``by_example`` (counts), ``found`` (the
        faults), ``seconds``.
    """
    started = time.perf_counter()
    outcomes = []
    with tempfile.TemporaryDirectory() as scratch:
        examples = Path(scratch)
        names = make_examples(examples, only)
        for outcome in _tried(make_cases(names, n_cases, seed), examples, limit_s):
            outcomes.append(outcome)
            if told is not None:
                told(outcome)
    faults = [outcome for outcome in outcomes if outcome.is_fault]
    return {
        "cases": len(outcomes),
        "seed": seed,
        "faults": len(faults),
        "answers": dict(Counter(o.answer for o in outcomes)),
        "by_example": {
            name: dict(Counter(o.answer for o in outcomes if o.case.example == name))
            for name in names
        },
        "found": [asdict(outcome) for outcome in faults],
        "slowest_s": round(max(o.seconds for o in outcomes), 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


@click.command()
@click.option("--cases", "n_cases", default=1500, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--only", multiple=True, metavar="KIND", help="model, store, backbone, keras, ...")
@click.option("-o", "--output", metavar="FILE", help="Where to write the counts, as JSON.")
def main(n_cases: int, seed: int, only: tuple[str, ...], output: str | None) -> None:
    """Mutate what twostage opens, and count what comes of it."""

    def told(outcome: Outcome) -> None:
        if outcome.is_fault:
            case = outcome.case
            click.echo(f"{case} {outcome.file}: {outcome.answer}\n{outcome.detail}", err=True)

    found = run(n_cases, seed, only, told=told)
    text = json.dumps(found, indent=1)
    if output is not None:
        Path(output).write_text(text + "\n")
    click.echo(json.dumps({k: v for k, v in found.items() if k != "found"}, indent=1))
    raise SystemExit(1 if found["faults"] else 0)


if __name__ == "__main__":
    main()
