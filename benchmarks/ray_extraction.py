"""Compare extraction by a Ray cluster with a local run: is the store equal, and what does it cost?

    python benchmarks/ray_extraction.py [IMAGES] [--n-images N] [--rounds N]

IMAGES is a folder of real photos, of which the first 2,000 are embedded: locally; by a cluster of
two nodes and a head without cores, all on this machine; by one that loses a node in the middle; and
by one to a bucket of an S3 server on this machine. The stores must be equal to the bit.

Without IMAGES, that is left out. Then photos are made, and timed in rounds: a local run, one by a
cluster with a single node of all cores, and one with two nodes that share them. Each run is a
process of its own with a store of its own. Compared is the time after cluster and model have
started; both are told.
Results go to artifacts/ray.json and .md.
"""

import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from statistics import median
from typing import Any

import click
import joblib
import numpy as np
from PIL import Image

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "ray", "keras", "openvino", "numpy", "pillow", "pyarrow")
JPEG_SIZE = (600, 450)
N_PICTURES = 64  # different ones; files differ by bytes after the end of the picture
N_REAL = 2000
MOST = 1.15  # times the local run
LAYOUTS = {"local": 0, "one node": 1, "two nodes": 2}
OBJECT_STORE_BYTES = 80 << 20
BACKBONE = {"backbone": "mobilenet_v2", "precision": "float32"}
EXTRACT = """
import json, sys
from dataclasses import asdict
from twostage import extract
images, store, options = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
summary = asdict(extract(images, store, **options))
keys = ("seconds", "seconds_to_start", "n_images", "n_computed", "n_errors", "device")
print(json.dumps({key: summary[key] for key in keys}))
"""


def write_jpegs(folder: Path, n: int) -> None:
    """Write JPEGs, smooth as photos are, no two of equal bytes."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(min(n, N_PICTURES)):
        small = Image.fromarray(rng.integers(0, 256, (12, 18, 3), np.uint8))
        data = BytesIO()
        small.resize(JPEG_SIZE, Image.Resampling.BICUBIC).save(data, "JPEG", quality=90)
        pictures.append(data.getvalue())
    folder.mkdir()
    for i in range(n):
        (folder / f"{i:06d}.jpg").write_bytes(pictures[i % len(pictures)] + i.to_bytes(4))


@contextmanager
def cluster_of(n_nodes: int) -> Iterator[Any]:
    """Start a cluster on this machine, whose nodes share its cores; its head has none."""
    from ray.cluster_utils import Cluster

    os.environ.setdefault("RAY_raylet_start_wait_time_s", "120")
    os.environ.setdefault("RAY_worker_niceness", "0")  # as a local run
    small = {"object_store_memory": OBJECT_STORE_BYTES}
    head = {"num_cpus": 0, "include_dashboard": False, **small}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(n_nodes):
            cluster.add_node(num_cpus=max(1, joblib.cpu_count() // n_nodes), **small)
        yield cluster
    finally:
        cluster.shutdown()


@contextmanager
def bucket() -> Iterator[str]:
    """Start an S3 server on this machine, and yield the URL of a new bucket."""
    import s3fs
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    os.environ.update(
        AWS_ENDPOINT_URL=f"http://{host}:{port}",
        AWS_ACCESS_KEY_ID="test",
        AWS_SECRET_ACCESS_KEY="test",
        AWS_DEFAULT_REGION="us-east-1",
        AWS_EC2_METADATA_DISABLED="true",
    )
    s3fs.S3FileSystem().mkdir("bucket")
    try:
        yield "s3://bucket"
    finally:
        server.stop()


def run(images: Path, store: Any, **options: Any) -> dict[str, Any]:
    """Extract in a process of its own; return what it says."""
    command = [
        sys.executable,
        "-X",
        "faulthandler",
        "-c",
        EXTRACT,
        str(images),
        str(store),
        json.dumps(options),
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def differences(store: Any, local: Any) -> dict[str, int]:
    """Count the rows that are not in both stores, in the same place, equal to the bit."""
    from twostage import EmbeddingStore

    ours, theirs = EmbeddingStore(store), EmbeddingStore(local)
    if ours.parts() != theirs.parts():
        return {"parts": abs(len(ours.parts()) - len(theirs.parts())) or 1}
    n_rows = n_other = 0
    for part in theirs.parts():
        one, other = (s.read_part(part).to_pylist() for s in (ours, theirs))
        n_rows += len(other)
        n_other += sum(a != b for a, b in zip(one, other, strict=True))
    return {"n_rows": n_rows, "n_other": n_other, "n_faults": len(ours.verify())}


def run_and_lose_a_node(images: Path, store: Path, cluster: Any, options: dict[str, Any]) -> int:
    """Extract, and remove a node as if its machine failed when a quarter is done; return when."""
    from twostage import extract

    lost: list[int] = []

    def watch(n_done: int, n_images: int) -> None:
        if not lost and n_done >= n_images // 4:
            lost.append(n_done)
            node = next(iter(cluster.worker_nodes))
            cluster.remove_node(node, allow_graceful=False)

    extract(images, store, progress=watch, **options)
    return lost[0]


def compare_stores(images: Path, folder: Path) -> dict[str, Any]:
    """Embed real photos in each way, and compare the stores."""
    names = sorted(
        path.relative_to(images).as_posix()
        for path in images.rglob("*")
        if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )[:N_REAL]
    options = {**BACKBONE, "names": names}
    local = folder / "local"
    found: dict[str, Any] = {"n_images": run(images, local, **options)["n_images"]}
    with bucket() as place, cluster_of(2) as cluster:
        on_ray = {**options, "executor": "ray", "address": cluster.address}
        for name, store in (("ray", folder / "ray"), ("S3", f"{place}/store")):
            run(images, store, **on_ray)
            found[name] = differences(store, local)
        store = folder / "lost"
        n_done = run_and_lose_a_node(images, store, cluster, on_ray)
        found["node lost"] = {**differences(store, local), "lost_after": n_done}
    return found


def time_runs(n_images: int, rounds: int, folder: Path) -> dict[str, Any]:
    """Time each layout, one after the other, in rounds."""
    images = folder / "images"
    write_jpegs(images, n_images)
    run(images, folder / "warm", **BACKBONE, names=["000000.jpg"])  # converts the network
    runs: dict[str, list[dict[str, Any]]] = {layout: [] for layout in LAYOUTS}
    for i in range(rounds):
        for layout, n_nodes in LAYOUTS.items():
            runs[layout].append(time_run(images, folder / f"{layout} {i}", n_nodes))
            click.echo(f"{layout}: {runs[layout][-1]}", err=True)
    work = {name: median(one["work_s"] for one in each) for name, each in runs.items()}
    return {
        "n_images": n_images,
        "rounds": rounds,
        "runs": runs,
        "work_s": work,
        "times_local": {name: seconds / work["local"] for name, seconds in work.items()},
    }


def time_run(images: Path, store: Path, n_nodes: int) -> dict[str, Any]:
    """Time one run: what the cluster takes to start, the model, and the work."""
    started = time.perf_counter()
    if n_nodes:
        with cluster_of(n_nodes) as cluster:
            cluster_s = time.perf_counter() - started
            found = run(images, store, **BACKBONE, executor="ray", address=cluster.address)
    else:
        cluster_s = 0.0
        found = run(images, store, **BACKBONE)
    work_s = found["seconds"] - found["seconds_to_start"]
    return {**found, "seconds_of_cluster": cluster_s, "work_s": work_s}


def as_markdown(results: dict[str, Any]) -> str:
    """Put the results in words."""
    lines = [
        "# Extraction by a Ray cluster",
        "",
        f"{results['machine']}; {', '.join(f'{k} {v}' for k, v in results['versions'].items())}. "
        "Made by `python benchmarks/ray_extraction.py IMAGES`.",
    ]
    equal = results.get("equal")
    if equal:
        lines += [
            "",
            f"## {equal['n_images']:,} real photos: rows that differ from the local store",
            "",
            "| | rows | that differ | faults |",
            "|---|---|---|---|",
        ]
        for name in ("ray", "S3", "node lost"):
            row = equal[name]
            cells = (row.get("n_rows"), row.get("n_other"), row.get("n_faults"))
            lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    speed = results.get("speed")
    if speed:
        lines += [
            "",
            f"## {speed['n_images']:,} photos of {JPEG_SIZE[0]}x{JPEG_SIZE[1]}, "
            f"medians of {speed['rounds']} rounds",
            "",
            "| | cluster s | model s | work s | times local |",
            "|---|---|---|---|---|",
        ]
        for name, runs in speed["runs"].items():
            cluster_s = median(one["seconds_of_cluster"] for one in runs)
            model_s = median(one["seconds_to_start"] for one in runs)
            lines.append(
                f"| {name} | {cluster_s:.1f} | {model_s:.1f} | {speed['work_s'][name]:.1f} | "
                f"{speed['times_local'][name]:.2f} |"
            )
        lines += ["", f"At most {MOST} times local is asked for."]
    return "\n".join(lines) + "\n"


@click.command()
@click.argument("images", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--n-images", default=20_000, show_default=True, help="To time; 0 for none.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--output", default=ARTIFACTS, type=click.Path(path_type=Path), show_default=True)
def main(images: Path | None, n_images: int, rounds: int, output: Path) -> None:
    """Compare stores and times, and write ray.json and ray.md."""
    results: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
    }
    with tempfile.TemporaryDirectory() as folder:
        if images is not None:
            results["equal"] = compare_stores(images.resolve(), Path(folder))
            click.echo(results["equal"], err=True)
        if n_images:
            results["speed"] = time_runs(n_images, rounds, Path(folder))
    output.mkdir(exist_ok=True)
    (output / "ray.json").write_text(json.dumps(results, indent=1) + "\n")
    (output / "ray.md").write_text(as_markdown(results))


if __name__ == "__main__":
    main()
