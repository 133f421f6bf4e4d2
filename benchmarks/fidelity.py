"""Measure what bfloat16 does to embeddings, with ImageNet weights on real photos.

    KERAS_HOME=... python benchmarks/fidelity.py DATA [--architecture NAME ...] [--no-downstream]

DATA holds the folders ham10000, houses, hymenoptera and photos_original. For each architecture:

- how far OpenVINO's float32 embeddings are from Keras' own network: the norm of the difference over
  the norm, of the worst image;
- the cosines between float32 and bfloat16 embeddings, image by image, with nothing, all depthwise
  convolutions, and the first convolutions of each kind kept in float32; and how fast each is;
- what bfloat16, as the engine does it, changes downstream: the same folds and heads on embeddings
  of both precisions, the mean of the paired differences with its 95% interval.

It needs a processor with bfloat16. Results go to artifacts/fidelity.json and .md.
"""

import json
import platform
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import joblib
import numpy as np
from accuracy import TASKS, Data, Task, folds, interval, ours, score

from twostage.backbones import openvino_engine
from twostage.backbones.lazy import LazyBackbone, _engine
from twostage.backbones.network import load_network
from twostage.backbones.spec import BackboneSettings
from twostage.images.decoding import decode

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "keras", "tensorflow", "openvino", "numpy")
FOLDERS = ("ham10000", "houses", "hymenoptera", "photos_original")
HEADS = ("lightgbm", "linear")
DOWNSTREAM = ("ham10000", "houses, one photo")
N_TIMED, N_ROUNDS = 512, 5
POLICIES = {
    "nothing": lambda layers: [],
    "all depthwise": lambda layers: openvino_engine._convolutions(layers, "GroupConvolution"),
    "first three of each kind": openvino_engine._kept_in_float32,
}


def read_pixels(folder: Path, size_px: int) -> np.ndarray:
    """Return the pixels of all photos below a folder."""
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in (".jpg", ".jpeg", ".png"))
    return np.stack([decode(file.read_bytes(), size_px)[0] for file in files])


def build(architecture: str, precision: str) -> Any:
    """Build the OpenVINO engine anew."""
    _engine.cache_clear()
    settings = BackboneSettings(architecture, engine="openvino", precision=precision)
    return LazyBackbone(settings, "cpu").get()


def batches(pixels: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield rows, so many at once."""
    for start in range(0, len(pixels), size):
        yield pixels[start : start + size]


def embed(engine: Any, pixels: np.ndarray) -> np.ndarray:
    """Return the embeddings of shape (n, dim)."""
    return np.vstack(list(engine.run(batches(pixels, engine.batch_size))))


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the cosine of each pair of rows."""
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one.astype(float) * other).sum(axis=1) / norms)


def describe(values: np.ndarray) -> dict[str, float]:
    """Return the distribution of cosines."""
    quantiles = {"min": 0.0, "1%": 0.01, "5%": 0.05, "median": 0.5}
    return {name: float(np.quantile(values, q)) for name, q in quantiles.items()}


def measure_embeddings(architecture: str, data: Path) -> dict[str, Any]:
    """Compare embeddings of float32 and of bfloat16 under each policy."""
    network = load_network(BackboneSettings(architecture))
    pixels = {name: read_pixels(data / name, network.spec.input_size_px) for name in FOLDERS}
    engines = {"float32": build(architecture, "float32")}
    usual = openvino_engine._kept_in_float32
    for name, policy in POLICIES.items():
        openvino_engine._kept_in_float32 = policy
        engines[name] = build(architecture, "bfloat16")
    openvino_engine._kept_in_float32 = usual
    found: dict[str, Any] = {"dim": network.spec.dim, "by_folder": {}, "relative_speed": {}}
    for folder, shown in pixels.items():
        full = embed(engines["float32"], shown)
        few = slice(0, 64)
        theirs = network.embed(shown[few])
        difference = np.linalg.norm(full[few] - theirs, axis=1) / np.linalg.norm(theirs, axis=1)
        found["by_folder"][folder] = {
            "n_photos": len(shown),
            "float32_difference": float(difference.max()),
            "cosines": {
                name: describe(cosines(full, embed(engines[name], shown))) for name in POLICIES
            },
        }
        click.echo(f"{architecture}, {folder}: {found['by_folder'][folder]}")
    found["relative_speed"] = time_engines(engines, pixels["ham10000"][:N_TIMED])
    return found


def time_engines(engines: dict[str, Any], pixels: np.ndarray) -> dict[str, float]:
    """Return the images per second of each, by those of float32; interleaved, medians."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(N_ROUNDS):
        for name, engine in engines.items():
            started = time.perf_counter()
            embed(engine, pixels)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: median(values) for name, values in seconds.items()}
    return {name: medians["float32"] / value for name, value in medians.items()}


def read(task: Task, data: Path) -> Data:
    """Read a task's table."""
    import pandas as pd

    table = pd.read_csv(data / task.folder / "table.csv")
    y = table[task.target].to_numpy()
    groups = pd.factorize(table[task.group])[0] if task.group else np.arange(len(table))
    columns = [*task.images, *task.numeric, *task.few, *task.many]
    y = np.log(y) if task.metric == "r2" else y
    return Data(task, table[columns], y, groups, data / task.folder, [])


def measure_downstream(architecture: str, task: Task, data: Path, repeats: int) -> dict[str, Any]:
    """Score each head on the same folds with embeddings of both precisions."""
    rows = read(task, data)
    found: dict[str, Any] = {}
    for head in HEADS:
        scores: dict[str, list[float]] = {"float32": [], "bfloat16": []}
        for repeat in range(repeats):
            for train, test in folds(rows, repeat):
                for precision, values in scores.items():
                    model = ours(rows, head).set_params(
                        backbone=architecture, engine="openvino", precision=precision
                    )
                    model.fit(rows.X.iloc[train], rows.y[train], groups=rows.groups[train])
                    values.append(score(rows, model, rows.X.iloc[test], rows.y[test]))
        differences = [b - f for b, f in zip(scores["bfloat16"], scores["float32"], strict=True)]
        found[head] = {
            "float32": float(np.mean(scores["float32"])),
            "difference": float(np.mean(differences)),
            "interval": interval(differences),
        }
        click.echo(f"{architecture}, {task.name}, {head}: {found[head]}")
    return {"metric": task.metric, "heads": found}


def as_markdown(record: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "# What bfloat16 does to embeddings",
        "",
        "By `benchmarks/fidelity.py`: ImageNet weights, real photos, OpenVINO. Cosines between the "
        "float32 and the bfloat16 embedding of an image, by what is kept in float32; the engine "
        "keeps the first three convolutions of each kind, dense and depthwise. Speed "
        "is that of the forward alone, by float32's.",
        "",
        "| architecture | photos | n | kept in float32 | min | 1% | 5% | median | speed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in record["architectures"].items():
        for folder, row in found["by_folder"].items():
            for policy, cosine in row["cosines"].items():
                numbers = " | ".join(f"{value:.4f}" for value in cosine.values())
                speed = found["relative_speed"][policy]
                lines.append(
                    f"| {name} | {folder} | {row['n_photos']:,} | {policy} | {numbers} | "
                    f"{speed:.2f} |"
                )
    lines += [
        "",
        "In float32, OpenVINO's embedding differs from Keras' own by at most this share of its "
        "norm: "
        + ", ".join(
            f"{name} {max(row['float32_difference'] for row in found['by_folder'].values()):.1e}"
            for name, found in record["architectures"].items()
        )
        + ".",
        "",
        "Downstream: images and table together, bfloat16 minus float32 on the same folds "
        f"({record['repeats']} repeats of 5), mean and half width of its 95% interval.",
        "",
        "| architecture | data | metric | head | float32 | difference |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in record["architectures"].items():
        for task, row in found.get("downstream", {}).items():
            for head, scores in row["heads"].items():
                lines.append(
                    f"| {name} | {task} | {row['metric']} | {head} | {scores['float32']:.4f} | "
                    f"{scores['difference']:+.4f} ± {scores['interval']:.4f} |"
                )
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option(
    "--architecture",
    "architectures",
    multiple=True,
    default=["mobilenet_v2", "mobilenet_v2_035"],
    show_default=True,
)
@click.option("--downstream/--no-downstream", default=True)
@click.option("--repeats", default=2, show_default=True)
def main(data: Path, architectures: tuple[str, ...], downstream: bool, repeats: int) -> None:
    """Measure the fidelity of bfloat16."""
    if not openvino_engine.has_native_bfloat16():
        raise click.ClickException("This processor does not compute in bfloat16.")
    record: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
        "repeats": repeats,
        "architectures": {},
    }
    for architecture in architectures:
        found = record["architectures"][architecture] = measure_embeddings(architecture, data)
        if downstream:
            found["downstream"] = {
                task.name: measure_downstream(architecture, task, data, repeats)
                for task in TASKS
                if task.name in DOWNSTREAM
            }
        (ARTIFACTS / "fidelity.json").write_text(json.dumps(record, indent=1) + "\n")
        (ARTIFACTS / "fidelity.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
