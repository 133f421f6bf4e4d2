"""Compare a joint network with two stages, paired, on skin lesions.

    KERAS_HOME=... python benchmarks/joint.py DATA [--folds N] [--heads NAMES] [--work DIR]

DATA holds the folder ham10000. MobileNetV2 1.0 with ImageNet weights at 192 pixels. All arms are of
one `twostage benchmark`, on the same folds, which part no lesion: heads on the embeddings of the
backbone as it came and the table; the joint network on the same; and what trains the last blocks
anew in each fold: the joint network with them, and `crossfit`, two stages. Differences are paired
by row, with intervals of lesions resampled.

The results folder in DIR keeps each cell that is done: a run that was ended goes on where it was.
artifacts/joint.json and .md are written anew from it.
"""

import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import pandas as pd

from twostage import benchmark, extract
from twostage.benchmarking import Benchmark, CellDone

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
RESULT = ARTIFACTS / "joint.json"
LIBRARIES = ("twostage", "keras", "tensorflow", "openvino", "lightgbm", "scikit-learn", "numpy")
COLUMNS = ["image", "lesion_id", "age", "sex", "site", "malignant"]
SIZE_PX = 192
TUNING = {
    "unfreeze": "block_13",
    "epochs": 8,
    "patience": 8,
    "copies": 4,
    "learning_rate": 3e-4,
    "augment": "medical",
}
HEADS = "joint,joint:none,lightgbm,linear,blend,lightgbm:crossfit,linear:crossfit"
METRICS = ("auc", "log_loss")


def compare(data: Path, work: Path, heads: list[str], n_folds: int) -> Benchmark:
    """Run the benchmark, or what is left of it."""
    table = pd.read_csv(data / "ham10000" / "table.csv")[COLUMNS]
    images, store = data / "ham10000", work / "store"
    extract(images, store, names=table["image"], backbone="mobilenet_v2", image_size=SIZE_PX)
    return benchmark(
        store,
        work / "results",
        table=table,
        target="malignant",
        image_columns="image",
        group="lesion_id",
        heads=heads,
        features=["both"],
        metrics=METRICS,
        n_folds=n_folds,
        images=images,
        finetuning=TUNING,
        importance=False,
        n_jobs=1,
        progress=told,
    )


def told(done: CellDone) -> None:
    """Tell of a cell."""
    click.echo(f"{done.arm}, fold {done.fold}: {done.score:.4f}, {done.fit_seconds:.0f} s")


def record_of(found: Benchmark, heads: list[str]) -> dict[str, Any]:
    """Return what was found."""
    counts = found.run["counts"]
    return {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
        "heads": heads,
        "tuning": TUNING,
        "size_px": SIZE_PX,
        "n_rows": counts["n_rows"],
        "n_groups": counts["n_groups"],
        "n_folds": len(found.run["folds"]),
        "arms": found.summary.to_dict("records"),
        "scores": found.scores.to_dict("records"),
        "findings": [asdict(finding) for finding in found.findings],
    }


def as_markdown(record: dict[str, Any]) -> str:
    """Return the tables."""
    how = ", ".join(f"{name} {value}" for name, value in record["tuning"].items())
    first = record["heads"][0]
    lines = [
        "# A joint network beside two stages",
        "",
        "By `benchmarks/joint.py`: ham10000, malignant or not, by image, age, sex and site; "
        f"MobileNetV2 1.0 with ImageNet weights at {record['size_px']} pixels; "
        f"{record['n_rows']:,} rows of {record['n_groups']:,} groups (lesions, and those whose "
        f"photos are nearly equal) in {record['n_folds']} folds, the same for all. `joint:none` "
        "is the joint network on the embeddings of the backbone as it came, which the heads of one "
        f"word see too, but `{first}`: that trains the backbone's last blocks with its network, "
        "anew in each fold. `crossfit` tunes three backbones on two thirds of the rows each, and "
        f"averages heads that learn from the others. Both by {how}. 95% intervals.",
        "",
        "| head, on image and table | AUC | interval | fit, s | predict, us/row |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {arm['head']} | {arm['value']:.4f} | {arm['low']:.4f} to {arm['high']:.4f} | "
        f"{arm['fit_seconds']:.0f} | {arm['predict_us_per_row']:.0f} |"
        for arm in record["arms"]
    ]
    lines += ["", f"| {first} less | AUC, paired | interval |", "|---|---|---|"]
    for finding in record["findings"]:
        of = finding["difference"]
        other = finding["against"] if finding["arm"].startswith(first) else finding["arm"]
        sign = 1 if finding["arm"].startswith(first) else -1
        low, high = sorted((sign * of["low"], sign * of["high"]))
        lines.append(
            f"| {other.split(',')[0]} | {sign * of['value']:+.4f} | {low:+.4f} to {high:+.4f} |"
        )
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--heads", default=HEADS, show_default=True, help="With commas between.")
@click.option("--folds", "n_folds", type=click.IntRange(2), default=5, show_default=True)
@click.option(
    "--work",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("joint-work"),
    show_default=True,
    help="Folder for the store and the results.",
)
def main(data: Path, heads: str, n_folds: int, work: Path) -> None:
    """Measure what is not measured yet, and write the artifacts."""
    work.mkdir(parents=True, exist_ok=True)
    names = heads.split(",")
    record = record_of(compare(data, work, names, n_folds), names)
    RESULT.write_text(json.dumps(record, indent=1) + "\n")
    RESULT.with_suffix(".md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
