"""Measure what fine-tuning adds to a frozen backbone, on lesions held back from everything.

    KERAS_HOME=... python benchmarks/tuned_accuracy.py DATA [--repeats N] [--first N]

DATA holds the folder ham10000. MobileNetV2 1.0 with ImageNet weights at 192 pixels. In each repeat
a quarter of the rows, by whole lesions, is held back. `twostage fit` gets the others: frozen, and
with the modes of `--finetune`; its own estimate is the score that it prints; `twostage predict`
predicts the lesions held back. Modes with the same split share their tuned backbones, by the cache.

Each cell is added to artifacts/tuned_accuracy.json when it is done: a run that was ended goes on
where it was. Repeat 0 is left out by default, since the settings were tried on it.
"""

import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
import pandas as pd
from click.testing import CliRunner
from scipy import stats
from sklearn.metrics import roc_auc_score

from twostage.cli.main import main as twostage
from twostage.splits import holdout

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
RESULT = ARTIFACTS / "tuned_accuracy.json"
LIBRARIES = ("twostage", "keras", "tensorflow", "lightgbm", "scikit-learn", "numpy")
COLUMNS = ["image", "lesion_id", "age", "sex", "site", "malignant"]
SIZE_PX, SHARE_HELD_BACK = 192, 0.25
TUNING = (
    *("--unfreeze", "block_13", "--copies", "4", "--epochs", "8", "--patience", "8"),
    *("--lr", "3e-4", "--augment", "medical"),
)
MODES = ("none", "oof-scores", "crossfit")
HEADS = ("linear", "lightgbm")
FEATURES = ("both", "images")
CELL = ["repeat", "features", "head", "mode"]


def run(*arguments: str) -> str:
    """Run a command and return what it prints."""
    result = CliRunner().invoke(twostage, list(arguments))
    if result.exit_code:
        raise click.ClickException(f"twostage {' '.join(arguments)}: {result.output}")
    return result.stdout


def cut(data: Path, repeat: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to learn from, and those of lesions held back."""
    table = pd.read_csv(data / "ham10000" / "table.csv")[COLUMNS]
    kept, held = holdout(
        table["malignant"].to_numpy(),
        is_classification=True,
        groups=pd.factorize(table["lesion_id"])[0],
        fraction=SHARE_HELD_BACK,
        random_state=repeat,
    )
    return table.iloc[kept], table.iloc[held]


def measure(data: Path, cell: dict[str, Any]) -> dict[str, Any]:
    """Return the AUC that `fit` reports with its interval, and the one on lesions held back."""
    started = time.perf_counter()
    rows, held_back = cut(data, cell["repeat"])
    images = str(data / "ham10000")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        rows.to_csv(work / "table.csv", index=False)
        held_back.drop(columns="malignant").to_csv(work / "new.csv", index=False)
        tuning = [] if cell["mode"] == "none" else ["--finetune", cell["mode"], *TUNING]
        summary = run(
            *("fit", "--images", images, "--table", str(work / "table.csv")),
            *("--target", "malignant", "--image-col", "image", "--group", "lesion_id"),
            *("--image-size", str(SIZE_PX), "--head", cell["head"], "--features", cell["features"]),
            *("--quiet", "--json", "-o", str(work / "model")),
            *tuning,
        )
        predictions = work / "predictions.csv"
        run(
            *("predict", str(work / "model"), "--table", str(work / "new.csv"), "--quiet"),
            *("--images", images, "-o", str(predictions)),
        )
        proba = pd.read_csv(predictions)["proba_1"]
    own = json.loads(summary)["holdout"]["scores"]["auc"]
    return cell | {
        "own": own["value"],
        "own_low": own["low"],
        "own_high": own["high"],
        "held_back": float(roc_auc_score(held_back["malignant"], proba)),
        "n_rows": len(rows),
        "n_held_back": len(held_back),
        "seconds": round(time.perf_counter() - started),
    }


def corrected_interval(values: np.ndarray) -> tuple[float, float]:
    """Return mean and half width of the 95% interval of what was measured on overlapping splits.

    References
    ----------
    Nadeau and Bengio (2003), Inference for the Generalization Error: the corrected resampled t.
    """
    n = len(values)
    variance = np.var(values, ddof=1) * (1 / n + SHARE_HELD_BACK / (1 - SHARE_HELD_BACK))
    return float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * np.sqrt(variance))


def as_markdown(record: dict[str, Any]) -> str:
    """Return the table."""
    cells = pd.DataFrame(record["cells"])
    first = cells.iloc[0]
    repeats = sorted(int(number) for number in cells["repeat"].unique())
    lines = [
        "# What fine-tuning adds to a frozen backbone",
        "",
        f"By `benchmarks/tuned_accuracy.py`: ham10000, malignant or not; MobileNetV2 1.0 with "
        f"ImageNet weights at {SIZE_PX} pixels; about {first['n_rows']:,} rows to learn from and "
        f"{first['n_held_back']:,} of other lesions, held back from everything; repeats "
        f"{', '.join(map(str, repeats))}. Tuned with `{' '.join(TUNING)}`. AUC, means over "
        "repeats; the gain is paired by repeat, ± is half its 95% interval (Nadeau and Bengio's "
        "correction). Own is what `twostage fit` reports, less the AUC on the lesions held back; "
        "in brackets in how many repeats that lies within the interval that it reports.",
        "",
        "| features | head | `--finetune` | AUC | gain over frozen | own estimate less AUC |",
        "|---|---|---|---|---|---|",
    ]
    for features, head in product(FEATURES, HEADS):
        chosen = cells[(cells["features"] == features) & (cells["head"] == head)]
        by_mode = {mode: one.set_index("repeat") for mode, one in chosen.groupby("mode")}
        for mode in (mode for mode in MODES if mode in by_mode):
            found = by_mode[mode]
            gain = ""
            if mode != "none":
                differences = (found["held_back"] - by_mode["none"]["held_back"]).dropna()
                mean, half = corrected_interval(differences.to_numpy())
                gain = f"{mean:+.4f} ± {half:.4f}"
            bias, half = corrected_interval((found["own"] - found["held_back"]).to_numpy())
            is_within = found["held_back"].between(found["own_low"], found["own_high"])
            lines.append(
                f"| {features} | {head} | {mode} | {found['held_back'].mean():.4f} | {gain} | "
                f"{bias:+.3f} ± {half:.3f} ({is_within.sum()} of {len(found)}) |"
            )
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repeats", type=click.IntRange(2), default=5, show_default=True)
@click.option("--first", default=1, show_default=True, help="Number of the first repeat.")
def main(data: Path, repeats: int, first: int) -> None:
    """Measure what is not measured yet."""
    record: dict[str, Any] = {"cells": []}
    if RESULT.exists():
        record = json.loads(RESULT.read_text())
    record["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record["versions"] = {name: version(name) for name in LIBRARIES}
    done = {tuple(cell[name] for name in CELL) for cell in record["cells"]}
    for names in product(range(first, first + repeats), FEATURES, HEADS, MODES):
        if names in done:
            continue
        record["cells"].append(measure(data, dict(zip(CELL, names, strict=True))))
        click.echo(record["cells"][-1])
        unfinished = RESULT.with_suffix(".tmp")
        unfinished.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(unfinished, RESULT)
    if len({cell["repeat"] for cell in record["cells"]}) > 1:
        RESULT.with_suffix(".md").write_text(as_markdown(record))
        click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
