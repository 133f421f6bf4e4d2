"""Measure what it takes to decide what is missing: a manifest of millions against a store of parts.

    python benchmarks/manifest.py [--rows N]...

The store has real Parquet parts of 1,024 rows with 1,280 numbers each (all of them 0, so that they
take little room on the disk), in another order than the manifest. Of a hundred images one is new;
of those stored, some changed since, some could not be read, some are not asked for. Each way of
deciding runs in a process of its own, whose time and peak of memory are what is told. ``before`` is
how it was done with a Python object per image; it is left out at ten million, where it would take
more memory than this machine has. Results go to artifacts/manifest.json and .md.
"""

import hashlib
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import joblib
import numpy as np
import pyarrow as pa

from twostage.errors import PASSING_KINDS
from twostage.images.manifest import Manifest
from twostage.images.references import Reference
from twostage.store.planning import PLANNED_BY, SHARD_SIZE, Plan, Shard, make_plan, part_name
from twostage.store.schema import embedding_array
from twostage.store.store import EmbeddingStore

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
SIZES = (100_000, 1_000_000, 10_000_000)
MOST_BEFORE = 1_000_000
SPEC = {"architecture": "mobilenet_v2", "dim": 1280, "storage_dtype": "float16"}
OLD = 1_600_000_000_000_000_000
NEW, CHANGED, FAILED, UNASKED = 100, 1000, 5000, 2000  # one image of so many
LIBRARIES = ("twostage", "numpy", "pyarrow")
WAYS = ("after", "before")


def names(rows: np.ndarray) -> list[str]:
    """Return names like a shop's: some thousand photos to a folder."""
    return [f"shop-{row // 4096:05d}/photos/item-{row:09d}.jpg" for row in rows.tolist()]


def references(n_rows: int) -> Iterator[Reference]:
    """Yield what a listing would, in which one image in a thousand has changed."""
    for start in range(0, n_rows, 1 << 16):
        rows = np.arange(start, min(start + (1 << 16), n_rows))
        for row, name in zip(rows.tolist(), names(rows), strict=True):
            yield Reference(name, f"/data/{name}", 100_000 + (row % CHANGED == 1), OLD + row)


def write_store(folder: Path, n_rows: int) -> None:
    """Write a store of all images but the new ones, and of some that are not asked for."""
    store = EmbeddingStore.create(folder, SPEC)
    rows = np.concatenate([np.arange(n_rows), n_rows + np.arange(n_rows // UNASKED)])
    rows = np.random.default_rng(0).permutation(rows[rows % NEW != 0])
    zeros = np.zeros((SHARD_SIZE, SPEC["dim"]), np.float32)
    for number, start in enumerate(range(0, len(rows), SHARD_SIZE)):
        some = rows[start : start + SHARD_SIZE]
        failed = some % FAILED == 2
        columns = {
            "image": names(some),
            "content_hash": [
                hashlib.blake2b(b"%d" % row, digest_size=16).hexdigest() for row in some
            ],
            "size_bytes": np.full(len(some), 100_000),
            "mtime_ns": OLD + some,
            "width": pa.array(np.full(len(some), 900, np.int32), mask=failed),
            "height": pa.array(np.full(len(some), 600, np.int32), mask=failed),
            "embedding": embedding_array(zeros[: len(some)], ~failed, store.schema),
            "error": ["read: timed out" if is_so else None for is_so in failed],
            "seen": np.zeros(len(some), bool),
        }
        store.put_part(part_name(number), pa.table(columns, schema=store.schema))


def plan_before(manifest: Sequence[Reference], index: pa.Table, n_parts: int) -> Plan:
    """Plan as twostage did with dictionaries; what comes out must be the same."""
    columns = ("part", "size_bytes", "mtime_ns", "error")
    rows = zip(*(index[name].to_pylist() for name in columns), strict=True)
    stored = dict(zip(index["image"].to_pylist(), rows, strict=True))
    fresh: list[Reference] = []
    again: dict[str, list[Reference]] = {}
    n_unchanged = 0
    for listed in manifest:
        row = stored.get(listed.image)
        if row is None:
            fresh.append(listed)
        elif (row[3] or "").startswith(PASSING_KINDS) or row[1:3] != (listed[2], listed[3]):
            again.setdefault(row[0], []).append(listed)
        else:
            n_unchanged += 1
    new = (fresh[start : start + SHARD_SIZE] for start in range(0, len(fresh), SHARD_SIZE))
    shards = [Shard(part_name(number), some) for number, some in enumerate(new, n_parts)]
    return Plan([*shards, *(Shard(*item) for item in sorted(again.items()))], n_unchanged)


def digest_of(plan: Plan) -> str:
    """Return what two plans agree in, or not."""
    digest = hashlib.blake2b(f"{plan.n_unchanged}".encode())
    for shard in plan.shards:
        digest.update(shard.part.encode())
        digest.update("\n".join(image.image for image in shard.images).encode())
    return digest.hexdigest()


def decide(way: str, store_at: Path, n_rows: int) -> dict[str, Any]:
    """Decide in this process, and say how long each step took and what memory it came to."""
    steps: dict[str, dict[str, float]] = {}

    @contextmanager
    def measured(step: str) -> Iterator[None]:
        started, cpu_started = time.perf_counter(), time.process_time()
        yield
        steps[step] = {
            "s": time.perf_counter() - started,
            "cpu_s": time.process_time() - cpu_started,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024e-6,
        }

    with measured("manifest"):
        manifest: Any = Manifest.of(references(n_rows), "/data")
        if way == "before":
            manifest = list(manifest)
    store = EmbeddingStore(store_at)
    with measured("index"):
        index = store.index(PLANNED_BY) if way == "after" else store.index()
    with measured("plan"):
        if way == "after":
            plan = make_plan(manifest, index, n_parts=store.next_number())
        else:
            plan = plan_before(manifest, index, store.next_number())
    del index
    with measured("errors"):
        failed = store.failed()
    with measured("contents"):
        store.whereabouts() if way == "after" else _sizes_by_hash(store.index())
    return {
        "way": way,
        "rows": n_rows,
        "parts": len(store.parts()),
        "shards": len(plan.shards),
        "unchanged": plan.n_unchanged,
        "failed": len(failed),
        "steps": steps,
        "load": os.getloadavg()[0],
        "digest": digest_of(plan),
    }


def _sizes_by_hash(index: pa.Table) -> dict[str, tuple[int, int]]:
    columns = ("content_hash", "width", "height", "error")
    rows = zip(*(index[name].to_pylist() for name in columns), strict=True)
    return {content_hash: (w, h) for content_hash, w, h, error in rows if error is None}


def measure(n_rows: int, scratch: Path) -> list[dict[str, Any]]:
    """Make a store if it is not there, and decide by each way, in a process of its own."""
    store_at = scratch / str(n_rows)
    if not store_at.exists():
        with patch("os.fsync"):  # this store need not outlive a power loss
            write_store(store_at, n_rows)
    ways = WAYS if n_rows <= MOST_BEFORE else WAYS[:1]
    found = [_in_a_process(way, store_at, n_rows) for way in ways]
    if len({row["digest"] for row in found}) != 1:
        raise AssertionError("The plans differ.")
    return found


def _in_a_process(way: str, store_at: Path, n_rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--decide", way, str(store_at), str(n_rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout))


def as_markdown(record: dict[str, Any]) -> str:
    """Return the results as a table."""
    lines = [
        "# Deciding what is missing",
        "",
        "By `benchmarks/manifest.py`: a manifest against a store's parts; one image in "
        f"{NEW} new, one in {CHANGED:,} changed, one in {FAILED:,} to be tried again. Seconds on "
        "the clock, and in brackets those of the processor, to read the parts and to plan; memory "
        "is the process' peak by then, with the manifest in it. The load is how many processes "
        "wanted the cores by the end; where it is more than there are cores, the processor's "
        "seconds tell more than the clock's. The last columns are what a run does around that: "
        "errors are collected at its end, and known contents are for images of equal bytes. "
        "`before` has a Python object per image. Both make the same plan.",
        "",
        "| rows | parts | way | load | read the parts, s | plan, s | **decided, s** | **peak MB** "
        "| errors, s | known contents, s | peak MB after all |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in record["results"]:
        steps = row["steps"]
        took = {name: _seconds(step["s"], step["cpu_s"]) for name, step in steps.items()}
        decided = [sum(steps[name][kind] for name in ("index", "plan")) for kind in ("s", "cpu_s")]
        lines.append(
            f"| {row['rows']:,} | {row['parts']:,} | {row['way']} | {row['load']:.0f} | "
            f"{took['index']} | {took['plan']} | {_seconds(*decided)} | "
            f"{steps['plan']['peak_mb']:,.0f} | {took['errors']} | {took['contents']} | "
            f"{steps['contents']['peak_mb']:,.0f} |"
        )
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


def _seconds(wall: float, cpu: float) -> str:
    return f"{wall:.1f} ({cpu:.1f})"


@click.command()
@click.option("--rows", multiple=True, type=int, help="Sizes to measure.  [default: all three]")
@click.option("--scratch", type=Path, help="Where to make stores, and to leave them.")
@click.option("--decide", "way", nargs=3, type=(click.Choice(WAYS), Path, int), hidden=True)
def main(rows: tuple[int, ...], scratch: Path | None, way: tuple[str, Path, int] | None) -> None:
    """Measure, and write the artifacts."""
    if way is not None:
        click.echo(json.dumps(decide(*way)))
        return
    with tempfile.TemporaryDirectory(prefix="twostage-manifest-") as temporary:
        where = scratch or Path(temporary)
        results = [row for n_rows in rows or SIZES for row in measure(n_rows, where)]
    record: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
        "results": results,
    }
    (ARTIFACTS / "manifest.json").write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "manifest.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
