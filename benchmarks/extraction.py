"""Measure how fast images become embeddings, beside what a user would write by hand.

    python benchmarks/extraction.py [--images N] [--rounds N] [--architecture NAME ...] [--growth]

Speed: photos as cameras take them, each file's bytes its own. For each architecture it measures,
each in a process of its own, interleaved, in several rounds:

- decode: reading and decoding alone, with as many threads as there are cores;
- forward: the engine alone, on pixels that lie ready;
- end to end: `twostage.extract` into a new store, from the walk through the folder to the summary;
- by hand (a): ``image_dataset_from_directory`` + ``model.predict``;
- by hand (b): ``predict`` on one batch of Pillow images after the other.

The bound of an engine is 1 / (1 / decode + 1 / forward). Start-up (imports, building the network,
its first call) is left out of the rates and reported beside them.

Growth (``--growth``): peak memory at 2,000 and 20,000 images, a second run over 100,000 unchanged
images, and the time from the start of the command to the first embedding.

Results go to artifacts/extraction.json and .md. MobileNetV2 has ImageNet weights where Keras finds
them; what is missing is random, which is as fast.
"""

import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import joblib
import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
PHOTOS = ROOT.parent / "shared" / "data" / "photos_original"
LIBRARIES = ("twostage", "keras", "tensorflow", "openvino", "numpy", "pillow", "pyarrow")
VARIANTS = (("keras", "float32"), ("openvino", "float32"), ("openvino", "bfloat16"))
HANDS = {"hand_a": "`image_dataset_from_directory` + `predict`", "hand_b": "Pillow + `predict`"}
CONSTRUCTORS = {
    "mobilenet_v2": ("MobileNetV2", "mobilenet_v2"),
    "resnet50": ("ResNet50", "resnet50"),
}
BATCH = 32
N_UNCHANGED = 100_000
Found = dict[str, float]


def make_photos(folder: Path, n: int) -> None:
    """Write n photos, no two of equal bytes: real ones repeated, or drawn ones of their sizes."""
    originals = sorted(PHOTOS.glob("*.jpg")) if PHOTOS.is_dir() else list(_drawn(folder))
    contents = [file.read_bytes() for file in originals]
    for i in range(n):
        (folder / f"{i:06d}.jpg").write_bytes(contents[i % len(contents)] + i.to_bytes(8, "big"))


def _drawn(folder: Path) -> Iterator[Path]:
    rng = np.random.default_rng(0)
    scratch = folder.parent / "drawn"
    scratch.mkdir()
    for i in range(50):
        size = [(900, 600), (1024, 683), (640, 480)][i % 3]
        small = rng.integers(0, 256, (size[1] // 8, size[0] // 8, 3), np.uint8)
        file = scratch / f"{i}.jpg"
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(file, quality=88)
        yield file


def decode(images: Path) -> Found:
    """Measure reading and decoding alone."""
    from twostage.images.loading import ImageLoader
    from twostage.images.manifest import list_images
    from twostage.throughput import StageClock

    n_threads = joblib.cpu_count()
    references = list_images(images)
    clock = StageClock(n_threads, n_threads)
    with ImageLoader(224, "crop", n_threads, 128, clock) as loader:
        started = time.perf_counter()
        n = sum(image.pixels is not None for image in loader.load(references, known=()))
        return {"per_s": n / (time.perf_counter() - started)}


def _settings(architecture: str, engine: str, precision: str) -> dict[str, Any]:
    return {
        "backbone": architecture,
        "weights": _weights(architecture),
        "engine": engine,
        "precision": precision,
    }


def _weights(architecture: str) -> str:
    """Return where weights can come from without a download."""
    home = os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser()
    stem = architecture.replace("resnet50", "resnet50_weights")
    return "imagenet" if list(Path(home, "models").glob(f"{stem}*_1.0_224_no_top*")) else "random"


def _engine(architecture: str, engine: str, precision: str) -> Any:
    from twostage.backbones.lazy import build
    from twostage.backbones.spec import BackboneSettings

    settings = BackboneSettings(**_settings(architecture, engine, precision))
    built, _ = build(settings, "cpu", None)
    size_px = built.spec.input_size_px
    list(built.run([np.zeros((built.batch_size, size_px, size_px, 3), np.uint8)]))
    return built


def forward(images: Path, architecture: str, engine: str, precision: str) -> Found:
    """Measure an engine on pixels that lie ready."""
    built = _engine(architecture, engine, precision)
    pixels = _pixels(images, built.spec.input_size_px)
    n = len(list(images.iterdir()))
    starts = [i % (len(pixels) - built.batch_size) for i in range(0, n, built.batch_size)]
    started = time.perf_counter()
    for _ in built.run(pixels[start : start + built.batch_size] for start in starts):
        pass
    return {"per_s": len(starts) * built.batch_size / (time.perf_counter() - started)}


def _pixels(images: Path, size_px: int) -> np.ndarray:
    from twostage.images.decoding import decode as decode_one

    files = sorted(images.iterdir())[:96]
    return np.stack([decode_one(file.read_bytes(), size_px)[0] for file in files])


def end_to_end(images: Path, architecture: str, engine: str, precision: str) -> Found:
    """Measure `twostage.extract` into a new store."""
    started = time.perf_counter()
    from twostage import extract

    _engine(architecture, engine, precision)
    ready = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=images.parent) as folder:
        settings = _settings(architecture, engine, precision)
        summary = extract(images, Path(folder) / "store", device="cpu", **settings)
    done = time.perf_counter()
    assert summary.n_computed == summary.n_images
    return {"per_s": summary.n_images / (done - ready), "start_s": ready - started}


def _keras_own(architecture: str) -> tuple[Any, Callable[..., Any]]:
    import keras

    constructor, module = CONSTRUCTORS[architecture]
    weights = _weights(architecture)
    model = getattr(keras.applications, constructor)(
        include_top=False,
        pooling="avg",
        weights=None if weights == "random" else weights,
        input_shape=(224, 224, 3),
    )
    return model, getattr(keras.applications, module).preprocess_input


def hand_a(images: Path, architecture: str) -> Found:
    """Measure Keras' own way from a folder to embeddings."""
    started = time.perf_counter()
    import keras
    import tensorflow as tf

    model, preprocess = _keras_own(architecture)
    model.predict(np.zeros((BATCH, 224, 224, 3), np.float32), verbose=0)
    ready = time.perf_counter()
    data = keras.utils.image_dataset_from_directory(
        images, labels=None, image_size=(224, 224), batch_size=BATCH, shuffle=False, verbose=False
    )
    data = data.map(preprocess, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)
    n = len(model.predict(data, verbose=0))
    return {"per_s": n / (time.perf_counter() - ready), "start_s": ready - started}


def hand_b(images: Path, architecture: str) -> Found:
    """Measure ``predict`` on one batch of Pillow images after the other."""
    started = time.perf_counter()
    model, preprocess = _keras_own(architecture)
    model.predict(np.zeros((BATCH, 224, 224, 3), np.float32), verbose=0)
    ready = time.perf_counter()
    files = sorted(images.iterdir())
    embeddings = []
    for start in range(0, len(files), BATCH):
        batch = [
            np.asarray(Image.open(file).convert("RGB").resize((224, 224)), np.float32)
            for file in files[start : start + BATCH]
        ]
        embeddings.append(model.predict(preprocess(np.stack(batch)), verbose=0))
    n = len(np.vstack(embeddings))
    return {"per_s": n / (time.perf_counter() - ready), "start_s": ready - started}


def memory(images: Path) -> Found:
    """Measure the most memory that an extraction holds, by the default engine."""
    from twostage import extract

    with tempfile.TemporaryDirectory(dir=images.parent) as folder:
        summary = extract(images, Path(folder) / "store", weights=_weights("mobilenet_v2"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"peak_mb": peak, "n": summary.n_computed}


ARMS: dict[str, Callable[..., Found]] = {
    function.__name__: function
    for function in (decode, forward, end_to_end, hand_a, hand_b, memory)
}


def in_own_process(arm: str, images: Path, *arguments: str) -> Found:
    """Measure one arm in a fresh process."""
    command = [sys.executable, __file__, "--arm", arm, str(images), *arguments]
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if run.returncode:
        raise click.ClickException(f"{arm} {arguments} failed: {run.stderr[-3000:]}")
    found: Found = json.loads(run.stdout.splitlines()[-1])
    click.echo(f"{arm} {' '.join(arguments)}: {found}")
    return found


def measure_speed(images: Path, architectures: Iterable[str], rounds: int) -> dict[str, Any]:
    """Return the medians of every arm, interleaved."""
    variants = [v for v in VARIANTS if v[1] == "float32" or _has_bfloat16()]
    arms: list[tuple[str, ...]] = [("decode",)]
    for architecture in architectures:
        arms += [(hand, architecture) for hand in HANDS]
        for variant in variants:
            arms += [(arm, architecture, *variant) for arm in ("forward", "end_to_end")]
    found: dict[tuple[str, ...], list[Found]] = {arm: [] for arm in arms}
    for _ in range(rounds):
        for arm in arms:
            found[arm].append(in_own_process(arm[0], images, *arm[1:]))
    return {" ".join(arm): summarise(runs) for arm, runs in found.items()}


def summarise(runs: list[Found]) -> dict[str, Any]:
    """Return the medians of an arm's rounds, and its rates in each."""
    medians = {name: median(run[name] for run in runs) for name in runs[0]}
    return {**medians, "rounds": [round(run["per_s"], 1) for run in runs]}


def _has_bfloat16() -> bool:
    from twostage.backbones.openvino_engine import has_native_bfloat16

    return has_native_bfloat16()


def measure_growth(scratch: Path) -> dict[str, float]:
    """Return how memory and a run with nothing to do grow with the images."""
    found: dict[str, float] = {}
    for n in (2_000, 20_000):
        images = scratch / str(n)
        images.mkdir()
        make_photos(images, n)
        found[f"peak_mb_{n}"] = in_own_process("memory", images)["peak_mb"]
        shutil.rmtree(images)
    found |= _first_embedding(scratch)
    found["unchanged_100000_s"] = _unchanged(scratch)
    return found


def _first_embedding(scratch: Path) -> dict[str, float]:
    """Time the command on one image: with the network to convert, converted, and by Keras."""
    images = scratch / "one"
    images.mkdir()
    make_photos(images, 1)
    environment = os.environ | {"TWOSTAGE_CACHE": str(scratch / "cache")}
    runs = {"first_use_s": "openvino", "second_use_s": "openvino", "keras_s": "keras"}
    found = {}
    for name, engine in runs.items():
        arguments = ["--engine", engine, "--precision", "float32", "--device", "cpu"]
        arguments += ["--weights", _weights("mobilenet_v2")]
        found[name] = _command(images, scratch / name, *arguments, environment=environment)
    return found


def _unchanged(scratch: Path) -> float:
    """Time the command on 100,000 images that a store holds; the store is made up."""
    from twostage import EmbeddingStore
    from twostage.images.manifest import list_images

    images, like = scratch / "many", scratch / "first_use_s"
    images.mkdir()
    long_ago = time.time() - 1e6
    for i in range(N_UNCHANGED):
        file = images / f"{i:06d}.jpg"
        file.write_bytes(i.to_bytes(4, "big"))
        os.utime(file, (long_ago, long_ago))
    record = json.loads((like / "_store.json").read_text())
    store = EmbeddingStore.create(scratch / "store", record["spec"], record["identity"])
    references = list_images(images)
    for number, start in enumerate(range(0, N_UNCHANGED, 1024)):
        store.write_part(f"part-{number:06d}.parquet", _rows(store, references[start:][:1024]))
    arguments = ["--backbone", "mobilenet_v2", "--device", "cpu"]
    return _command(images, scratch / "store", *arguments)


def _rows(store: Any, references: list[Any]) -> Any:
    import pyarrow as pa

    from twostage.store.schema import embedding_array

    n = len(references)
    matrix = np.random.default_rng(0).normal(size=(n, store.dim)).astype(np.float32)
    columns = {
        "image": [r.image for r in references],
        "content_hash": [f"{r.image:0>32}" for r in references],
        "size_bytes": [r.size_bytes for r in references],
        "mtime_ns": [r.mtime_ns for r in references],
        "width": [900] * n,
        "height": [600] * n,
        "embedding": embedding_array(matrix, np.ones(n, bool), store.schema),
        "error": [None] * n,
    }
    return pa.table(columns, schema=store.schema)


def _command(
    images: Path, store: Path, *arguments: str, environment: dict[str, str] | None = None
) -> float:
    """Time ``twostage extract``, which must not have changed its mind on what is to be done."""
    code = "import sys; from twostage.cli.main import main; main(standalone_mode=False); "
    code += "print('keras' in sys.modules, file=sys.stderr)"
    command = [sys.executable, "-c", code, "extract", str(images), "-o", str(store), *arguments]
    started = time.perf_counter()
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    seconds = time.perf_counter() - started
    if run.returncode:
        raise click.ClickException(run.stderr[-3000:])
    is_keras_there = run.stderr.split()[-1] == "True"
    click.echo(f"{run.stdout.strip()} {seconds:.1f} s, Keras imported: {is_keras_there}")
    if store.name in ("store", "second_use_s") and is_keras_there:
        raise click.ClickException("Keras was imported where nothing asks for it.")
    return seconds


def write(record: dict[str, Any]) -> None:
    """Write the results."""
    (ARTIFACTS / "extraction.json").write_text(json.dumps(record, indent=1) + "\n")
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    lines = ["# From photos to embeddings", "", "By `benchmarks/extraction.py`.", ""]
    if "speed" in record:
        lines += _speed_lines(record)
    if "growth" in record:
        lines += _growth_lines(record["growth"])
    lines += [f"{record['machine']}; {made}.", ""]
    (ARTIFACTS / "extraction.md").write_text("\n".join(lines))


def _speed_lines(record: dict[str, Any]) -> list[str]:
    speed = record["speed"]
    lines = [
        f"{record['n_images']:,} photos, median of {record['rounds']} interleaved rounds, images "
        "per second, and in brackets the least and the most. By hand (a) is "
        "`image_dataset_from_directory` + `predict`, (b) Pillow and "
        f"`predict` batch by batch. Decoding alone: {speed['decode']['per_s']:.0f}.",
        "",
        "| architecture | engine | forward | bound | end to end | of the bound | by (a) | by (b) "
        "| start-up s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for architecture in record["architectures"]:
        hands = {hand: speed[f"{hand} {architecture}"] for hand in HANDS}
        for hand, found in hands.items():
            lines.append(
                f"| {architecture} | by hand: {HANDS[hand]} | | | {_spread(found)} | | | "
                f"| {found['start_s']:.1f} |"
            )
        for engine, precision in VARIANTS:
            name = f"{architecture} {engine} {precision}"
            if f"forward {name}" not in speed:
                continue
            alone, ours = speed[f"forward {name}"]["per_s"], speed[f"end_to_end {name}"]
            bound = 1 / (1 / speed["decode"]["per_s"] + 1 / alone)
            by = " | ".join(f"{ours['per_s'] / found['per_s']:.2f}" for found in hands.values())
            lines.append(
                f"| {architecture} | {engine}, {precision} | {alone:.0f} | {bound:.0f} | "
                f"{_spread(ours)} | {ours['per_s'] / bound:.2f} | {by} "
                f"| {ours['start_s']:.1f} |"
            )
    return [*lines, ""]


def _spread(found: dict[str, Any]) -> str:
    low, high = min(found["rounds"]), max(found["rounds"])
    return f"{found['per_s']:.0f} ({low:.0f}-{high:.0f})"


def _growth_lines(growth: dict[str, float]) -> list[str]:
    return [
        f"Peak memory: {growth['peak_mb_2000']:.0f} MB at 2,000 images, "
        f"{growth['peak_mb_20000']:.0f} MB at 20,000. A second run over 100,000 unchanged images: "
        f"{growth['unchanged_100000_s']:.1f} s, without Keras. From the command to the first "
        f"embedding in the store: {growth['first_use_s']:.1f} s when the network is converted "
        f"first, {growth['second_use_s']:.1f} s from then on, {growth['keras_s']:.1f} s with "
        "`--engine keras`.",
        "",
    ]


@click.command()
@click.option("--images", "n_images", default=1000, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--architecture", "architectures", multiple=True, default=list(CONSTRUCTORS))
@click.option("--speed/--no-speed", default=True, help="Measure the speed.")
@click.option("--growth/--no-growth", default=True, help="Measure the growth.")
@click.option("--arm", nargs=2, hidden=True)
@click.argument("arguments", nargs=-1)
def main(
    n_images: int,
    rounds: int,
    architectures: tuple[str, ...],
    speed: bool,
    growth: bool,
    arm: tuple[str, str] | None,
    arguments: tuple[str, ...],
) -> None:
    """Measure the extraction."""
    if arm is not None:
        click.echo(json.dumps(ARMS[arm[0]](Path(arm[1]), *arguments)))
        return
    record: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
        "n_images": n_images,
        "rounds": rounds,
        "architectures": list(architectures),
    }
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        if speed:
            (scratch / "photos").mkdir()
            make_photos(scratch / "photos", n_images)
            record["speed"] = measure_speed(scratch / "photos", architectures, rounds)
            write(record)
        if growth:
            record["growth"] = measure_growth(scratch)
    write(record)
    click.echo((ARTIFACTS / "extraction.md").read_text())


if __name__ == "__main__":
    main()
