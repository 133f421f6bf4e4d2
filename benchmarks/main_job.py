"""Run the main job, extract and fit, with the images, the table and both, and keep the scores.

    python benchmarks/main_job.py NAME IMAGES TABLE --image-col COL --target COL [fit options ...]

It types the commands that a user would, and adds NAME to artifacts/main_job.json and .md.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import click
import joblib

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
ARMS = ("images", "table", "both")
LIBRARIES = ("twostage", "tensorflow", "keras", "lightgbm", "scikit-learn", "numpy", "pillow")


def twostage(*arguments: str) -> dict[str, Any]:
    """Run a command and return its JSON summary."""
    command = [sys.executable, "-c", "from twostage.cli.main import main; main()", *arguments]
    run = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False)
    if run.returncode not in (0, 3):
        raise click.ClickException(run.stderr)
    return dict(json.loads(run.stdout))


def measure(
    images: str, table: str, image_col: str, target: str, splits: int, options: tuple[str, ...]
) -> dict[str, Any]:
    """Extract once and fit each arm on each split; return the summaries, with seconds."""
    named = ("--table", table, "--image-col", image_col)
    result: dict[str, Any] = {"options": ["--target", target, *options], "splits": []}
    with tempfile.TemporaryDirectory() as folder:
        store = f"{folder}/store"
        summary = twostage("extract", images, *named, "-o", store)
        result["extract"] = {
            name: summary[name] for name in ("backbone", "n_images", "seconds", "device")
        }
        for seed in range(splits):
            arms = {}
            for arm in ARMS:
                started = time.perf_counter()
                extra = ("--target", target, *options, "--features", arm)
                seeded = (*extra, "--random-state", str(seed))
                fitted = twostage("fit", store, *named, *seeded, "-o", f"{folder}/{arm}")
                seconds = time.perf_counter() - started
                arms[arm] = {"holdout": fitted["holdout"], "seconds": seconds}
            result["splits"].append(arms)
    return result


def as_markdown(record: dict[str, Any]) -> str:
    """Return all results as tables, the main metric of each."""
    lines = [
        "| data | metric | images | table | both | both over the better one, by split |",
        "|---|---|---|---|---|---|",
    ]
    first = [
        "| data | metric | held-out rows | images | table | both |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in record["results"].items():
        holdout = result["splits"][0]["both"]["holdout"]
        metric = next(iter(holdout["scores"]))
        scores = {
            arm: [split[arm]["holdout"]["scores"][metric] for split in result["splits"]]
            for arm in ARMS
        }
        means = {arm: fmean(score["value"] for score in scores[arm]) for arm in ARMS}
        better = max(("images", "table"), key=lambda arm: means[arm])
        pairs = zip(scores["both"], scores[better], strict=True)
        gains = ", ".join(f"{both['value'] - alone['value']:+.3f}" for both, alone in pairs)
        cells = " | ".join(f"{means[arm]:.3f}" for arm in ARMS)
        lines.append(f"| {name} | {metric} | {cells} | {gains} |")
        cells = " | ".join(_with_interval(scores[arm][0]) for arm in ARMS)
        first.append(f"| {name} | {metric} | {holdout['n_rows']} | {cells} |")
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return "\n".join(
        [
            "Held-out scores of `twostage fit`, as `benchmarks/main_job.py` gives them.",
            "",
            "Means over held-out fifths of different `--random-state`:",
            "",
            *lines,
            "",
            "The first of them (`--random-state 0`, the default), with its 95% intervals:",
            "",
            *first,
            "",
            f"{record['machine']}; {versions}.",
            "",
        ]
    )


def _with_interval(score: dict[str, float]) -> str:
    return f"{score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f})"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("images", type=click.Path(exists=True))
@click.argument("table", type=click.Path(exists=True))
@click.option("--image-col", required=True)
@click.option("--target", required=True)
@click.option("--splits", default=5, show_default=True, help="How many held-out fifths.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(
    name: str,
    images: str,
    table: str,
    image_col: str,
    target: str,
    splits: int,
    options: tuple[str, ...],
) -> None:
    """Measure one data set and add it to the artifact."""
    path = ARTIFACTS / "main_job.json"
    record = json.loads(path.read_text()) if path.exists() else {"results": {}}
    record["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record["versions"] = {library: version(library) for library in LIBRARIES}
    record["results"][name] = measure(images, table, image_col, target, splits, options)
    path.write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "main_job.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
