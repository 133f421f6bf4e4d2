"""Measure stage one on a GPU, with whichever Keras backend is installed.

    python benchmarks/gpu_extraction.py [--backbone NAME ...] [--batch-size N ...] [--rounds N]
    python benchmarks/gpu_extraction.py --quick        # does it run? also without a GPU

Each arm runs in a process of its own, one after the other, in rounds; medians are told:

- forward: the engine alone, on pixels that lie ready, at several batch sizes, on one GPU;
- timm: the same architecture in timm, the model alone, on a batch that lies on the GPU, if timm is
  installed;
- decoded: `extract` from files to a store at the best batch size, but pixels are not decoded, they
  lie ready: files are read and hashed, embeddings are written;
- end to end: `extract` from 900x600 JPEGs, on all GPUs.

It computes in bfloat16 or float16, whichever the GPU has, with random weights: they cost the same.
Results go to artifacts/gpu_extraction.json and .md, from a machine with a GPU only.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from io import BytesIO
from itertools import repeat
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import click
import joblib
import numpy as np
from PIL import Image

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "keras", "tensorflow", "jax", "torch", "timm", "numpy", "pillow")
IN_TIMM = {
    "resnet50": "resnet50",
    "efficientnet_v2_s": "tf_efficientnetv2_s",
    "convnext_tiny": "convnext_tiny",
}
JPEG_SIZE = (900, 600)
N_PICTURES = 64  # different ones; files differ by bytes after the end of the picture
N_WARM = 3
Numbers = dict[str, float]


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


def per_second(run: Callable[[int], None], batch_size: int, n_images: int) -> float:
    """Return images per second of what runs a number of batches, warm."""
    n_batches = max(2, n_images // batch_size)
    run(N_WARM)
    started = time.perf_counter()
    run(n_batches)
    return n_batches * batch_size / (time.perf_counter() - started)


def run_device(how: dict[str, Any]) -> dict[str, Any]:
    """Return what the machine has, and what it computes in."""
    from twostage.backbones.devices import choose_device
    from twostage.backbones.network import backend

    device = choose_device("auto")
    precision = "float32"
    if device.capability is not None:
        precision = "bfloat16" if device.capability >= (8, 0) else "float16"
    return {
        "backend": backend(),
        "description": device.description,
        "is_gpu": device.is_gpu,
        "precision": precision,
    }


def run_forward(how: dict[str, Any]) -> Numbers:
    """Measure the engine alone, on one device."""
    from dataclasses import replace

    from twostage.backbones.devices import choose_device
    from twostage.backbones.keras_engine import KerasEngine
    from twostage.backbones.network import load_network

    devices = choose_device("auto").names[:1]
    network = load_network(settings_of(how), devices[0])
    spec = replace(network.spec, precision=how["precision"])
    found = {}
    for batch_size in how["batch_sizes"]:
        engine = KerasEngine(spec, network.model, devices, batch_size)
        batch = noise(batch_size, spec.input_size_px)

        def run(n: int, engine: Any = engine, batch: Any = batch) -> None:
            for _ in engine.run(repeat(batch, n)):
                pass

        rate = per_second(run, batch_size, how["n_images"])
        if engine.batch_size == batch_size:  # else it did not fit
            found[str(batch_size)] = rate
    return found


def run_timm(how: dict[str, Any]) -> Numbers:
    """Measure timm's model alone; nothing, where timm can't be imported."""
    try:
        import timm
        import torch
    except (ImportError, RuntimeError) as error:  # torchvision raises the latter
        click.echo(f"timm can't be imported: {error}", err=True)
        return {}

    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = getattr(torch, how["precision"])
    model = timm.create_model(IN_TIMM[how["backbone"]], pretrained=False, num_classes=0).eval()
    model = model.to(device, dtype, memory_format=torch.channels_last)
    size_px = how["image_size"] or settings_of(how).with_defaults().image_size
    found = {}
    for batch_size in how["batch_sizes"]:
        batch = torch.zeros(batch_size, 3, size_px, size_px, device=device, dtype=dtype)
        batch = batch.contiguous(memory_format=torch.channels_last)

        def run(n: int, batch: Any = batch) -> None:
            with torch.inference_mode():
                for _ in range(n):
                    model(batch)
            if device == "cuda":
                torch.cuda.synchronize()

        try:
            found[str(batch_size)] = per_second(run, batch_size, how["n_images"])
        except torch.OutOfMemoryError:
            break
    return found


def run_decoded(how: dict[str, Any]) -> Numbers:
    """Measure `extract` where decoding costs nothing."""
    size_px = settings_of(how).with_defaults().image_size
    ready = noise(1, size_px)[0], *JPEG_SIZE
    with patch("twostage.images.loading.decode", lambda *args, **kwargs: ready):
        return run_end_to_end(how)


def run_end_to_end(how: dict[str, Any]) -> Numbers:
    """Measure `extract`, the engine being built and warm."""
    from twostage import extract

    with tempfile.TemporaryDirectory() as scratch:
        options = {
            "backbone": how["backbone"],
            "weights": "random",
            "image_size": how["image_size"],
            "engine": "keras",
            "precision": how["precision"],
            "batch_size": how["batch_size"],
        }
        names = [f"{i:06d}.jpg" for i in range(min(how["n_images"], N_WARM * how["batch_size"]))]
        extract(how["images"], f"{scratch}/warm", names=names, **options)
        summary = extract(how["images"], f"{scratch}/store", **options)
    if summary.n_errors or summary.n_computed != how["n_images"]:
        raise click.ClickException(f"Not all images were embedded: {summary}")
    return {str(how["batch_size"]): summary.n_computed / summary.seconds}


ARMS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "device": run_device,
    "forward": run_forward,
    "timm": run_timm,
    "decoded": run_decoded,
    "end to end": run_end_to_end,
}


def settings_of(how: dict[str, Any]) -> Any:
    """Return the backbone asked for."""
    from twostage.backbones.spec import BackboneSettings

    return BackboneSettings(how["backbone"], weights="random", image_size=how["image_size"])


def noise(n: int, size_px: int) -> np.ndarray:
    """Return uint8 pixels of shape (n, size_px, size_px, 3)."""
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), np.uint8)


def in_process(arm: str, how: dict[str, Any]) -> dict[str, Any]:
    """Run an arm in a process of its own."""
    command = [sys.executable, __file__, "--arm", arm, "--how", json.dumps(how)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise click.ClickException(f"{arm} of {how}: {run.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    click.echo(f"{how.get('backbone', '')} {arm}: {found}", err=True)
    return found


def in_rounds(arms: list[str], rounds: int, how: dict[str, Any]) -> dict[str, Numbers]:
    """Return the median of each arm's images per second, by batch size, rounds interleaved."""
    found: dict[str, list[Numbers]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            found[arm].append(in_process(arm, how))
    return {
        arm: {size: median(run[size] for run in runs if size in run) for size in runs[0]}
        for arm, runs in found.items()
    }


def measure(rounds: int, how: dict[str, Any]) -> dict[str, Any]:
    """Measure one backbone."""
    has_timm = find_spec("timm") is not None and how["backbone"] in IN_TIMM
    alone = in_rounds(["forward", "timm"] if has_timm else ["forward"], rounds, how)
    alone = {arm: sizes for arm, sizes in alone.items() if sizes}
    forward = alone["forward"]
    best = max(forward, key=lambda size: forward[size])
    rest = in_rounds(["decoded", "end to end"], rounds, how | {"batch_size": int(best)})
    return {"best_batch_size": int(best), "images_per_s": alone | rest}


def as_markdown(record: dict[str, Any]) -> str:
    """Return the ratios and the numbers they come from."""
    lines = [
        "# Stage one on a GPU",
        "",
        f"By `benchmarks/gpu_extraction.py`, Keras on {record['backend']}, in "
        f"{record['precision']}: images per second, medians of {record['rounds']} interleaved "
        "rounds, each arm in a process of its own. Forward: the engine alone on one GPU, pixels "
        "lying ready on the host. timm: its model alone, the batch lying on the GPU. Decoded: "
        "`extract` to a store without decoding. End to end: `extract` from "
        f"{JPEG_SIZE[0]}x{JPEG_SIZE[1]} JPEGs.",
        "",
        "| backbone | batch | forward | timm | forward by timm | decoded | by forward | end to end "
        "| by forward |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in record["results"].items():
        rates = {arm: max(sizes.values()) for arm, sizes in found["images_per_s"].items()}
        forward, theirs = rates["forward"], rates.get("timm")
        timm = f"{theirs:,.0f} | {forward / theirs:.2f}" if theirs else "not installed | "
        ours = " | ".join(
            f"{rates[arm]:,.0f} | {rates[arm] / forward:.2f}" for arm in ("decoded", "end to end")
        )
        lines.append(f"| {name} | {found['best_batch_size']} | {forward:,.0f} | {timm} | {ours} |")
    lines += ["", "Forward, by batch size:", ""]
    for name, found in record["results"].items():
        sizes = found["images_per_s"]["forward"].items()
        lines.append(f"- {name}: " + ", ".join(f"{size}: {rate:,.0f}" for size, rate in sizes))
    if not record["is_gpu"]:
        lines += ["", "Made on a CPU, to see that it runs: no evidence for a GPU."]
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {versions}.", ""])


def installed_versions() -> dict[str, str]:
    """Return the versions of those libraries that are installed."""
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


@click.command()
@click.option("--backbone", "backbones", multiple=True, default=tuple(IN_TIMM), show_default=True)
@click.option("--batch-size", "sizes", multiple=True, type=int, default=(32, 64, 128, 256, 512))
@click.option("--images", "n_images", default=8192, show_default=True)
@click.option("--image-size", type=int, help="In pixels; each backbone's own if not given.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--precision", help="If not what the GPU has.")
@click.option("--quick", is_flag=True, help="Few small images, to see that it runs.")
@click.option("--folder", type=click.Path(path_type=Path), help="Where the results go.")
@click.option("--arm", type=click.Choice(list(ARMS)), hidden=True)
@click.option("--how", hidden=True)
def main(
    backbones: tuple[str, ...],
    sizes: tuple[int, ...],
    n_images: int,
    image_size: int | None,
    rounds: int,
    precision: str | None,
    quick: bool,
    folder: Path | None,
    arm: str | None,
    how: str | None,
) -> None:
    """Measure all backbones, and write the artifact."""
    if arm is not None and how is not None:
        click.echo(json.dumps(ARMS[arm](json.loads(how))))
        return
    if quick:
        backbones, sizes, n_images, image_size, rounds = ("resnet50",), (2, 4), 24, 64, 1
    device = in_process("device", {})
    precision = precision or device["precision"]
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        images = Path(scratch, "images")
        write_jpegs(images, n_images)
        for name in backbones:
            asked = {
                "backbone": name,
                "batch_sizes": sizes,
                "image_size": image_size,
                "images": str(images),
                "n_images": n_images,
                "precision": precision,
            }
            results[name] = measure(rounds, asked)
    record = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores, "
        f"{device['description']}",
        "versions": installed_versions(),
        "backend": device["backend"],
        "is_gpu": device["is_gpu"],
        "precision": precision,
        "rounds": rounds,
        "results": results,
    }
    if folder is None and device["is_gpu"] and not quick:
        folder = ARTIFACTS
    if folder is not None:
        (folder / "gpu_extraction.json").write_text(json.dumps(record, indent=1) + "\n")
        (folder / "gpu_extraction.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
