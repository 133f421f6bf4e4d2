"""Compare stage two on a Ray cluster with that on one machine: are the scores equal?

    KERAS_HOME=... python benchmarks/ray_fitting.py DATA [--rows N] [--folds N] [--outline-rows N]

Two tables, each cut into files: ham10000 (DATA holds it), whose photos are embedded first, and a
generated one of N rows, with embeddings of which a few numbers tell the target. Of each fold, by
whole groups, LightGBM learns from the other rows: on one machine; on a cluster of two nodes, which
share this machine's cores; and there with encoders from a sample of a part of the rows. The folds
are scored with the same rows, the differences paired. Seconds are of a whole fit: with the score
on its own held-out fifth, and, of a cluster, the start of its workers twice.

Then what the process that starts the fit reads of a long table, so that rows can be split, in
seconds and memory.
Results go to artifacts/ray_fitting.json and .md.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import joblib
import numpy as np
import pandas as pd
import pyarrow as pa
from ray_extraction import cluster_of

from twostage import EmbeddingStore, extract
from twostage.distributed import fit_on_cluster, read_outline
from twostage.executors.ray import RayOptions
from twostage.fitted import FitSettings, FittedModel
from twostage.fitting import fit_and_score
from twostage.intervals import (
    FoldPrediction,
    cross_validated_difference,
    cross_validated_score,
)
from twostage.metrics import METRICS
from twostage.sources import blocks_from_store
from twostage.splits import cross_folds
from twostage.store.schema import embedding_array
from twostage.table.files import read_table
from twostage.table.roles import RoleOverrides
from twostage.targets import prepare_target

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "ray", "lightgbm", "scikit-learn", "numpy", "pandas", "pyarrow")
DIM = 200
N_FILES = 8
ROWS_OF_PART = 10_240
OUTLINE = """
import json, resource, sys, time
from twostage.distributed import read_outline
from twostage.fitted import FitSettings
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
started = time.perf_counter()
settings = FitSettings("label", image_columns=("image",), group="case")
outline = read_outline(sys.argv[1], sys.argv[2], settings)
seconds = time.perf_counter() - started
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": round(seconds, 1), "gb": round((peak - before) / 1e6, 2)}))
"""
ONE, CLUSTER, SAMPLED = "one machine", "two nodes", "two nodes, sample"


def lesions(data: Path, folder: Path) -> tuple[pd.DataFrame, Path, FitSettings, int]:
    """Embed ham10000; return its table, store, settings and the rows of a sample."""
    store = folder / "lesions"
    extract(data / "ham10000" / "images", store, backbone="mobilenet_v2")
    frame = pd.read_csv(data / "ham10000" / "table.csv")
    settings = FitSettings(
        "malignant",
        image_columns=("image",),
        group="lesion_id",
        roles=RoleOverrides(ignore=("dx",)),
    )
    return frame, store, settings, 1500


def generated(
    n: int, folder: Path, spec: dict[str, Any]
) -> tuple[pd.DataFrame, Path, FitSettings, int]:
    """Make a table and a store; the target is of both, and of what they say together."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(n, DIM)).astype(np.float32)
    age, town = rng.normal(size=n), rng.integers(0, 300, n)
    site = rng.choice(["arm", "leg", "back", "face"], n)
    value = matrix[:, 0] + matrix[:, 1] * age + rng.normal(size=300)[town] + (site == "face")
    frame = pd.DataFrame(
        {
            "image": [f"{i:07d}.jpg" for i in range(n)],
            "case": rng.integers(0, n // 2, n),
            "age": age,
            "town": [f"town {i}" for i in town],
            "site": site,
            "label": np.where(value + 2 * rng.normal(size=n) > 0, "yes", "no"),
        }
    )
    store = EmbeddingStore.create(folder / "generated", spec | {"dim": DIM}, "generated")
    write_rows(store, frame["image"].tolist(), matrix)
    settings = FitSettings("label", image_columns=("image",), group="case")
    return frame, folder / "generated", settings, n // 6


def write_rows(store: EmbeddingStore, images: list[str], matrix: np.ndarray) -> None:
    """Write embeddings into parts of a store."""
    for number, start in enumerate(range(0, len(images), ROWS_OF_PART)):
        some = matrix[start : start + ROWS_OF_PART]
        n = len(some)
        columns = {
            "image": images[start : start + n],
            "content_hash": [f"{i:032x}" for i in range(start, start + n)],
            "size_bytes": [1] * n,
            "mtime_ns": [None] * n,
            "width": [9] * n,
            "height": [9] * n,
            "embedding": embedding_array(some, np.ones(n, bool), store.schema),
            "error": [None] * n,
            "seen": [False] * n,
        }
        part = f"part-{number:06d}.parquet"
        store.write_part(part, pa.table(columns, schema=store.schema))


def measure_outline(n: int, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Read the outline of a long table, in a process of its own."""
    store = EmbeddingStore.create(folder / "long", spec | {"dim": 4}, "long")
    images = [f"{i % 1000:03d}/{i:08d}.jpg" for i in range(n)]
    rng = np.random.default_rng(0)
    write_rows(store, images, np.ones((n, 4), np.float32))
    columns = {"image": images, "case": rng.integers(0, n // 2, n), "label": rng.integers(0, 2, n)}
    (folder / "long-table").mkdir()
    for i, rows in enumerate(np.array_split(np.arange(n), N_FILES)):
        some = pd.DataFrame(columns).iloc[rows]
        some.to_parquet(folder / "long-table" / f"{i}.parquet")
    command = [sys.executable, "-c", OUTLINE, str(folder / "long-table"), str(folder / "long")]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"rows": n, **found}


def compare(
    frame: pd.DataFrame,
    store: Path,
    settings: FitSettings,
    n_sampled: int,
    n_folds: int,
    address: str,
    folder: Path,
) -> dict[str, Any]:
    """Fit and score each arm on each fold."""
    held = EmbeddingStore(store)
    target = prepare_target(frame[settings.target])
    groups = pd.factorize(frame[settings.group])[0]
    folds = cross_folds(target.y, is_classification=True, groups=groups, n_folds=n_folds)
    arms: dict[str, list[FoldPrediction]] = {ONE: [], CLUSTER: [], SAMPLED: []}
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for number, (train, test) in enumerate(folds):
        table = folder / f"{store.name}-{number}"
        table.mkdir()
        for i, rows in enumerate(np.array_split(train, N_FILES)):
            frame.iloc[rows].to_parquet(table / f"{i}.parquet")
        tested = frame.iloc[test]
        blocks, _ = blocks_from_store(tested, settings.image_columns, held)
        for name in arms:
            n_most = n_sampled if name == SAMPLED else len(frame)
            started = time.perf_counter()
            model = fit(name, table, store, settings, address, n_most)
            seconds[name].append(time.perf_counter() - started)
            found = FoldPrediction(
                0,
                number,
                target.y[test],
                model.predict_proba(tested, blocks),
                groups[test],
                len(train),
            )
            arms[name].append(found)
            click.echo(f"{store.name} {number} {name}: {seconds[name][-1]:.1f} s", err=True)
    auc = METRICS["auc"]
    return {
        "rows": len(frame),
        "folds": n_folds,
        "sampled": n_sampled,
        "arms": {
            name: {
                "auc": vars_of(cross_validated_score(auc, found)),
                "less_one_machine": vars_of(cross_validated_difference(auc, found, arms[ONE])),
                "seconds": round(median(seconds[name]), 1),
            }
            for name, found in arms.items()
        },
    }


def fit(
    name: str, table: Path, store: Path, settings: FitSettings, address: str, n_sampled: int
) -> FittedModel:
    """Fit one arm."""
    if name != ONE:
        outline = read_outline(str(table), str(store), settings)
        return fit_on_cluster(outline, settings, RayOptions(address), n_sampled)
    frame, held = read_table(table), EmbeddingStore(store)
    target = prepare_target(frame[settings.target])
    blocks, _ = blocks_from_store(frame, settings.image_columns, held)
    return fit_and_score(frame, blocks, target, replace(settings, n_jobs=None), held.spec)


def vars_of(score: Any) -> list[float]:
    """Return a score and its interval."""
    return [round(float(value), 4) for value in (score.value, score.low, score.high)]


def as_markdown(record: dict[str, Any]) -> str:
    """Put the results in words."""
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    lines = [
        "# LightGBM on a Ray cluster, and on one machine",
        "",
        "By `benchmarks/ray_fitting.py`: AUC on folds that no arm saw, by whole groups, and "
        "differences to one machine on the same rows; 95% intervals corrected for the dependence "
        "of folds. Seconds are medians of a whole fit; the nodes of the cluster share the "
        "machine's cores, so that there is nothing to gain, and their workers start twice.",
    ]
    for name, found in record["tables"].items():
        lines += [
            "",
            f"## {name}: {found['rows']:,} rows, {found['folds']} folds, "
            f"a sample of {found['sampled']:,} rows",
            "",
            "| arm | AUC | less one machine | s |",
            "|---|---|---|---|",
        ]
        for arm, each in found["arms"].items():
            auc, less = (
                "{:{f}} ({:{f}} to {:{f}})".format(*each[key], f=form)
                for key, form in (("auc", ".4f"), ("less_one_machine", "+.4f"))
            )
            shown = "" if arm == ONE else less
            lines.append(f"| {arm} | {auc} | {shown} | {each['seconds']} |")
    outline = record["outline"]
    lines += [
        "",
        "## What the process that starts a fit reads first",
        "",
        f"Target, group and names of {outline['rows']:,} rows, matched with a store of as many "
        f"images: {outline['seconds']} s, {outline['gb']} GB of memory.",
    ]
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rows", default=20_000, show_default=True, help="Of the generated table.")
@click.option("--folds", default=5, show_default=True)
@click.option("--outline-rows", default=1_000_000, show_default=True)
def main(data: Path, rows: int, folds: int, outline_rows: int) -> None:
    """Compare, and write ray_fitting.json and .md."""
    os.environ.setdefault("RAY_worker_niceness", "0")
    record: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
        "tables": {},
    }
    with tempfile.TemporaryDirectory() as name, cluster_of(2) as cluster:
        folder = Path(name)
        real = lesions(data, folder)
        spec = EmbeddingStore(real[1]).spec
        made = generated(rows, folder, spec)
        record["outline"] = measure_outline(outline_rows, spec, folder)
        for title, given in (("ham10000", real), ("generated", made)):
            record["tables"][title] = compare(*given, folds, cluster.address, folder)
            click.echo(json.dumps(record["tables"][title], indent=1), err=True)
    (ARTIFACTS / "ray_fitting.json").write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "ray_fitting.md").write_text(as_markdown(record))


if __name__ == "__main__":
    main()
