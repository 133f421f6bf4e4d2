"""Measure what stage two costs beyond LightGBM itself: seconds and memory, and how both grow.

    python benchmarks/stage_two.py [--rows N ...] [--repeats N]

For each number of rows it makes a store of random 1,280-dimensional embeddings and a table of 20
columns, and measures, each in a process of its own, one after the other and repeatedly:

- bare: ``lightgbm.Dataset`` + ``train`` on the ready matrix, with a fixed number of trees;
- fixed: stage two with the same trees, parameters and threads, on the raw embeddings;
- default: stage two with its defaults, and how much of it is LightGBM's own.

Results go to artifacts/stage_two.json and .md.
"""

import json
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import joblib
import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa

from twostage import EmbeddingStore
from twostage.backbones.spec import BackboneSpec
from twostage.features import Features
from twostage.fitted import FitSettings
from twostage.fitting import fit_model, training_rows
from twostage.heads.base import Task
from twostage.heads.lightgbm import LightGBMHead
from twostage.sources import blocks_from_store
from twostage.store.schema import embedding_array
from twostage.targets import prepare_target

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "lightgbm", "scikit-learn", "numpy", "pandas", "pyarrow")
DIM, N_NUMERIC, N_CATEGORICAL, N_TREES = 1280, 14, 6, 100
SHARD = 1024
ARMS = ("bare", "fixed", "default")


def make_data(folder: Path, n_rows: int) -> None:
    """Write a store and a table, whose target hangs on both."""
    rng = np.random.default_rng(0)
    spec = BackboneSpec(
        architecture="random", weights="random:0", weights_digest="0" * 32, weights_file_hash=None,
        layer="none", pooling=None, dim=DIM, input_size_px=224, resize="crop",
        preprocessing="none", storage_dtype="float32",
    )  # fmt: skip
    store = EmbeddingStore.create(folder / "store", asdict(spec))
    factors = rng.normal(size=(32, DIM)).astype(np.float32)
    table = pd.DataFrame({f"number{i}": rng.normal(size=n_rows) for i in range(N_NUMERIC)})
    for i in range(N_CATEGORICAL):
        table[f"category{i}"] = [f"c{k}" for k in rng.integers(0, 4**i + 2, n_rows)]
    target = table["number0"] + table["category2"].str.len() + rng.normal(size=n_rows)
    for number, start in enumerate(range(0, n_rows, SHARD)):
        n = min(SHARD, n_rows - start)
        hidden = rng.normal(size=(n, 32)).astype(np.float32)
        matrix = np.maximum(hidden @ factors + rng.normal(size=(n, DIM)), 0).astype(np.float32)
        target[start : start + n] += hidden[:, 0]
        images = [f"{i:07d}.jpg" for i in range(start, start + n)]
        columns = {
            "image": images,
            "content_hash": [f"{i:032x}" for i in range(start, start + n)],
            "embedding": embedding_array(matrix, np.ones(n, bool), store.schema),
        }
        arrays = [
            pa.array(columns[field.name], field.type) if field.name in columns
            else pa.nulls(n, field.type)
            for field in store.schema
        ]  # fmt: skip
        store.write_part(
            f"part-{number:06d}.parquet", pa.Table.from_arrays(arrays, schema=store.schema)
        )
    table.insert(0, "image", [f"{i:07d}.jpg" for i in range(n_rows)])
    table["target"] = target
    table.to_parquet(folder / "table.parquet")


class Clock:
    """Adds up the seconds that LightGBM itself takes."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.depth = 0

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed; what it calls is not counted twice."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self.depth += 1
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.depth -= 1
                if self.depth == 0:
                    self.seconds += time.perf_counter() - started

        return timed


@contextmanager
def counting() -> Iterator[Clock]:
    """Count what LightGBM takes for binning, training and cross-validation."""
    clock = Clock()
    kept = lightgbm.Dataset.construct, lightgbm.train, lightgbm.cv
    lightgbm.Dataset.construct = clock.counted(kept[0])
    lightgbm.train, lightgbm.cv = clock.counted(kept[1]), clock.counted(kept[2])
    try:
        yield clock
    finally:
        lightgbm.Dataset.construct, lightgbm.train, lightgbm.cv = kept


def peak_mb() -> float:
    """Return the most memory this process ever held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def run_arm(arm: str, folder: Path) -> dict[str, float]:
    """Measure one arm in this process."""
    imports = peak_mb()
    frame = pd.read_parquet(folder / "table.parquet")
    if arm == "bare":
        found = run_bare(frame, folder)
    else:
        found = run_ours(frame, folder, LightGBMHead(n_trees=N_TREES) if arm == "fixed" else None)
    matrix = len(frame) * DIM * 4 / 2**20
    return found | {
        "peak_mb": peak_mb() - imports,
        "peak_by_matrix": (peak_mb() - imports) / matrix,
    }


def run_bare(frame: pd.DataFrame, folder: Path) -> dict[str, float]:
    """Bin and train on a matrix of table and embeddings that lies ready."""
    embeddings = EmbeddingStore(folder / "store").embeddings(frame["image"].tolist())
    table = frame.drop(columns=["image", "target"])
    encoded = table.apply(lambda c: c if c.dtype.kind == "f" else pd.factorize(c)[0])
    matrix = np.hstack([encoded.to_numpy(np.float32), embeddings])
    del embeddings
    head = LightGBMHead()
    head.task_, head.n_copies_ = Task(None), 1
    features = Features(matrix, np.empty((len(matrix), 0), np.int32), (), ())
    parameters = head._parameters(features, frame["target"].to_numpy(), None)
    started = time.perf_counter()
    data = lightgbm.Dataset(matrix, frame["target"], params=parameters).construct()
    booster = lightgbm.train(parameters, data, N_TREES)
    fitted = time.perf_counter()
    booster.predict(matrix, num_threads=parameters["num_threads"])
    return {"fit_s": fitted - started, "predict_s": time.perf_counter() - fitted}


def run_ours(frame: pd.DataFrame, folder: Path, head: LightGBMHead | None) -> dict[str, float]:
    """Fit and predict as ``twostage fit`` does."""
    recipe = {} if head is None else {"blocks": "raw"}
    settings = FitSettings(
        "target", head=head or "lightgbm", image_columns=("image",), recipe=recipe
    )
    target = prepare_target(frame["target"], "regression")
    started = time.perf_counter()
    blocks, _ = blocks_from_store(frame, ["image"], EmbeddingStore(folder / "store"))
    joined = time.perf_counter()
    with counting() as clock:
        model = fit_model(training_rows(frame, blocks, target, settings), target, settings)
    fitted = time.perf_counter()
    model.predict(frame, blocks)
    predicted = time.perf_counter()
    return {
        "join_s": joined - started,
        "fit_s": fitted - joined,
        "lightgbm_s": clock.seconds,
        "outside_by_lightgbm": (fitted - joined) / clock.seconds - 1,
        "predict_s": predicted - fitted,
    }


def measure(n_rows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return the median of each number of each arm, interleaved."""
    found: dict[str, list[dict[str, float]]] = {arm: [] for arm in ARMS}
    with tempfile.TemporaryDirectory() as folder:
        make_data(Path(folder), n_rows)
        for _ in range(repeats):
            for arm in ARMS:
                command = [sys.executable, __file__, "--arm", arm, folder]
                run = subprocess.run(command, capture_output=True, text=True, check=False)
                if run.returncode:
                    raise click.ClickException(run.stderr)
                found[arm].append(json.loads(run.stdout))
                click.echo(f"{n_rows:,} rows, {arm}: {found[arm][-1]}", err=True)
    return {
        arm: {name: median(run[name] for run in runs) for name in runs[0]}
        for arm, runs in found.items()
    }


def as_markdown(record: dict[str, Any]) -> str:
    """Return the ratios and the numbers they come from."""
    lines = [
        "# What stage two costs beyond LightGBM",
        "",
        f"By `benchmarks/stage_two.py`: {DIM} float32 dimensions and "
        f"{N_NUMERIC + N_CATEGORICAL} columns, medians of {record['repeats']} interleaved runs, "
        "each in a process of its own. Fixed: "
        f"{N_TREES} trees, raw embeddings, against `Dataset` + `train` on the ready matrix. "
        "Default: early stopping, raw embeddings and the linear probe's score. Memory is the peak "
        "above the imports, by the bytes of the embeddings.",
        "",
        "| rows | fixed: fit by bare | fixed: predict by bare | fixed: memory | default: outside "
        "LightGBM | default: memory | join s | fixed fit s | default fit s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for n_rows, arms in record["results"].items():
        bare, fixed, default = (arms[arm] for arm in ARMS)
        lines.append(
            f"| {int(n_rows):,} | {fixed['fit_s'] / bare['fit_s']:.2f} | "
            f"{fixed['predict_s'] / bare['predict_s']:.2f} | {fixed['peak_by_matrix']:.2f} | "
            f"{default['outside_by_lightgbm']:.1%} | {default['peak_by_matrix']:.2f} | "
            f"{default['join_s']:.1f} | {fixed['fit_s']:.1f} | {default['fit_s']:.1f} |"
        )
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {versions}.", ""])


@click.command()
@click.option("--rows", multiple=True, type=int, default=(10_000, 50_000, 100_000, 200_000))
@click.option("--repeats", default=3, show_default=True)
@click.option("--dry", is_flag=True, help="Print the tables, keep no artifact.")
@click.option("--arm", type=click.Choice(ARMS), hidden=True)
@click.argument("folder", required=False, type=click.Path(path_type=Path))
def main(
    rows: tuple[int, ...], repeats: int, dry: bool, arm: str | None, folder: Path | None
) -> None:
    """Measure all sizes, and write the artifact."""
    if arm is not None and folder is not None:
        click.echo(json.dumps(run_arm(arm, folder)))
        return
    record = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {library: version(library) for library in LIBRARIES},
        "repeats": repeats,
        "results": {str(n_rows): measure(n_rows, repeats) for n_rows in rows},
    }
    if not dry:
        (ARTIFACTS / "stage_two.json").write_text(json.dumps(record, indent=1) + "\n")
        (ARTIFACTS / "stage_two.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
