"""Measure how fast a backbone is tuned, beside plain Keras, and what score it reaches when.

    KERAS_HOME=... python benchmarks/finetuning.py [DATA] [--rounds N]

Throughput: the same network, input size, batch size, augmentation and optimizer on the same photos,
in float32, epochs interleaved, medians:

- by hand: ``image_dataset_from_directory`` (prefetched) into ``model.fit``;
- ours: what `twostage finetune` runs, on pixels, and on cached activations (``copies``), whose
  computation is spread over the epochs of a tuning.

For the last blocks (from ``block_13`` on) and for all. Start-up and compilation, an epoch of each,
are left out.

Score against time, if DATA holds the folder ham10000: the frozen backbone, the last blocks, all;
tuned on half of the lesions' rows, AUC of the top on the other half, after each epoch.

Results go to artifacts/finetuning.json and .md.
"""

import json
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import click
import joblib
import numpy as np
from PIL import Image

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "keras", "tensorflow", "numpy")
N_PHOTOS, SIZE_PX, BATCH_SIZE, N_EPOCHS, N_COPIES = 512, 192, 32, 12, 4
BLOCK = "block_13"
CURVES = {
    "last blocks, cached": {"unfreeze": BLOCK},
    "last blocks": {"unfreeze": BLOCK, "copies": 0},
    "all": {"unfreeze": "all"},
}


def make_photos(folder: Path, data: Path | None) -> Path:
    """Return a folder of photos in two class folders: real ones if there are any, else noise."""
    sources = sorted((data / "ham10000").rglob("*.jpg"))[:N_PHOTOS] if data else []
    rng = np.random.default_rng(0)
    for number in range(N_PHOTOS):
        file = folder / f"class_{number % 2}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        if sources:
            shutil.copyfile(sources[number % len(sources)], file)
        else:
            small = rng.integers(0, 256, (30, 40, 3), np.uint8)
            Image.fromarray(small).resize((600, 450)).save(file)
    return folder


class ByHand:
    """What the tutorials write."""

    def __init__(self, folder: Path, is_partial: bool):
        import keras

        from twostage.training.augmentation import augmentation_layers

        base = keras.applications.MobileNetV2(
            include_top=False, pooling="avg", weights=None, input_shape=(SIZE_PX, SIZE_PX, 3)
        )
        names = [layer.name for layer in base.layers]
        first = names.index(f"{BLOCK}_expand") if is_partial else 0
        for layer in base.layers:
            is_norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = names.index(layer.name) >= first and not is_norm
        pixels = keras.Input((SIZE_PX, SIZE_PX, 3))
        values = pixels
        for layer in augmentation_layers("natural"):
            values = layer(values)
        values = keras.applications.mobilenet_v2.preprocess_input(values)
        values = keras.layers.Dropout(0.2)(base(values, training=False))
        self.model = keras.Model(pixels, keras.layers.Dense(2, activation="softmax")(values))
        self.model.compile(keras.optimizers.AdamW(1e-4), "categorical_crossentropy")
        images = keras.utils.image_dataset_from_directory(
            folder,
            label_mode="categorical",
            image_size=(SIZE_PX, SIZE_PX),
            batch_size=BATCH_SIZE,
            verbose=False,
        )
        self.images = images.prefetch(2)

    def run_epoch(self, number: int) -> None:
        """Train on every photo once."""
        self.model.fit(self.images, epochs=1, verbose=0)


class Ours:
    """What `twostage finetune` runs."""

    def __init__(self, folder: Path, workspace: Path, weights: str, is_partial: bool, copies: int):
        from twostage.backbones.network import load_trunk
        from twostage.backbones.spec import BackboneSettings
        from twostage.images.manifest import list_images
        from twostage.labelled import load_labelled
        from twostage.table.files import table_from_folders
        from twostage.targets import prepare_target
        from twostage.training.activations import frozen_activations
        from twostage.training.blocks import BlockedNetwork
        from twostage.training.data import Examples
        from twostage.training.settings import TuningSettings
        from twostage.training.standing import DenseTop
        from twostage.training.top import LinearTop
        from twostage.training.trainer import Trainer

        settings = BackboneSettings("mobilenet_v2", weights=weights, image_size=SIZE_PX)
        trunk = load_trunk(settings)
        network = BlockedNetwork(trunk.model)
        how = TuningSettings(
            epochs=N_EPOCHS, unfreeze=BLOCK if is_partial else "all", copies=copies
        )
        first = network.first_trained(how.unfreeze)
        workspace.mkdir()
        frame = table_from_folders([image.image for image in list_images(folder)])
        target = prepare_target(frame["folder"])
        started = time.perf_counter()
        labelled = load_labelled(
            frame, ["image"], folder, target, [], workspace, size_px=SIZE_PX, resize="crop"
        )
        rows, preprocessing = np.arange(len(labelled)), trunk.preprocessing
        self.looks = [labelled.pixels]
        if copies:
            part = network.frozen_part(first)
            self.looks, _ = frozen_activations(
                part, preprocessing, labelled.pixels, rows, rows[:1], how, workspace
            )
        self.seconds_before = time.perf_counter() - started
        top = LinearTop(np.zeros((1280, 2), np.float32), np.zeros(2, np.float32))
        self.trainer = Trainer(
            network,
            first,
            None if copies else preprocessing,
            DenseTop(top),
            is_classification=True,
            settings=how,
            n_rows=len(labelled),
        )
        y = np.eye(2, dtype=np.float32)[labelled.y]
        self.examples = [
            Examples(look, rows, y, np.ones(len(y), np.float32)) for look in self.looks
        ]

    def run_epoch(self, number: int) -> None:
        """Train on every photo once."""
        self.trainer.run_epoch(number, self.examples[number % len(self.examples)])


def measure_throughput(data: Path | None, weights: str, n_rounds: int) -> dict[str, Any]:
    """Return the images per second of each arm, and the ratios to what is written by hand."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_photos(Path(temporary) / "photos", data)
        for name, is_partial in (("last blocks", True), ("all", False)):
            by_hand = ByHand(folder, is_partial)  # what its weights are does not change its speed
            arms: dict[str, Any] = {"by hand": by_hand}
            arms["ours"] = Ours(folder, Path(temporary) / f"{name} 0", weights, is_partial, 0)
            if is_partial:
                workspace = Path(temporary) / f"{name} {N_COPIES}"
                arms["ours, cached"] = Ours(folder, workspace, weights, True, N_COPIES)
            seconds: dict[str, list[float]] = {arm: [] for arm in arms}
            for number in range(n_rounds + 1):
                for arm, one in arms.items():
                    started = time.perf_counter()
                    one.run_epoch(number)
                    if number:  # the first compiles
                        before = getattr(one, "seconds_before", 0.0) / N_EPOCHS
                        seconds[arm].append(time.perf_counter() - started + before)
            medians = {arm: median(values) for arm, values in seconds.items()}
            found[name] = {
                arm: {
                    "images_per_s": N_PHOTOS / value,
                    "ratio": medians["by hand"] / value,
                    "rounds": [N_PHOTOS / one for one in seconds[arm]],
                }
                for arm, value in medians.items()
            }
            click.echo(f"{name}: {found[name]}")
    return found


def measure_curves(data: Path) -> dict[str, Any]:
    """Return seconds and AUC on images held back, epoch by epoch, of each way to tune."""
    import pandas as pd

    from twostage.backbones.spec import BackboneSettings
    from twostage.finetuning import finetune

    table = pd.read_csv(data / "ham10000" / "table.csv")
    curves = {}
    for name, options in CURVES.items():
        with tempfile.TemporaryDirectory() as temporary:
            summary = finetune(
                data / "ham10000",
                Path(temporary) / "backbone",
                table=table,
                target="malignant",
                image_columns="image",
                group="lesion_id",
                backbone=BackboneSettings("mobilenet_v2", image_size=SIZE_PX),
                augment="medical",
                epochs=N_EPOCHS,
                patience=N_EPOCHS,
                **options,
            )
        history = summary.history
        curves[name] = {
            "seconds": [round(value, 1) for value in history["seconds"].cumsum()],
            "auc": [round(value, 4) for value in history["score"]],
            "n_trained": summary.n_trained,
            "n_validation": summary.n_validation,
            "seconds_in_all": round(summary.seconds, 1),
        }
        click.echo(f"{name}: {curves[name]}")
    return curves


def as_markdown(record: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "# How fast a backbone is tuned",
        "",
        f"By `benchmarks/finetuning.py`: MobileNetV2, {N_PHOTOS} photos at {SIZE_PX} pixels, "
        f"float32, batches of {BATCH_SIZE}; medians of {record['rounds']} epochs of each, "
        f"interleaved. Decoding and cached activations ({N_COPIES} copies) are spread over "
        f"{N_EPOCHS} epochs. By hand an epoch often waits for the thread that tunes Keras' input "
        "pipeline; in its fastest one it did not, so those are compared too.",
        "",
        "| trained | arm | images/s | by hand = 1 | fastest epoch | by hand = 1 |",
        "|---|---|---|---|---|---|",
    ]
    for name, arms in record["throughput"].items():
        for arm, found in arms.items():
            best, best_by_hand = max(found["rounds"]), max(arms["by hand"]["rounds"])
            lines.append(
                f"| {name} | {arm} | {found['images_per_s']:.0f} | {found['ratio']:.2f} | "
                f"{best:.0f} | {best / best_by_hand:.2f} |"
            )
    if record["curves"]:
        lines += [
            "",
            "Score against time: tuned on half of the lesions of ham10000, AUC of the top on the "
            "images that chose the epoch, by seconds of training. Epoch 0 is the frozen backbone. "
            "The seconds in all have decoding, cached activations, the frozen top and start-up.",
            "",
            "| trained | images | seconds in all | seconds and AUC after epoch 0, 2, 4 ... |",
            "|---|---|---|---|",
        ]
        for name, curve in record["curves"].items():
            points = list(zip(curve["seconds"], curve["auc"], strict=True))[::2]
            shown = ", ".join(f"{seconds:.0f}: {auc:.3f}" for seconds, auc in points)
            lines.append(
                f"| {name} | {curve['n_trained']} | {curve['seconds_in_all']:.0f} | {shown} |"
            )
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument(
    "data", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path)
)
@click.option("--rounds", default=5, show_default=True)
@click.option("--weights", type=click.Choice(["imagenet", "random"]), default="imagenet")
@click.option("--curves/--no-curves", default=True)
def main(data: Path | None, rounds: int, weights: str, curves: bool) -> None:
    """Measure throughput and score against time."""
    record = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
        "rounds": rounds,
        "throughput": measure_throughput(data, weights, rounds),
        "curves": measure_curves(data) if data and curves else {},
    }
    (ARTIFACTS / "finetuning.json").write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "finetuning.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
