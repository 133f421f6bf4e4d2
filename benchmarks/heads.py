"""Compare LightGBM, the Keras head and their blend on table, images and both, with intervals.

    KERAS_HOME=... python benchmarks/heads.py DATA [--only NAME ...] [--folds N] [-o FOLDER]

DATA holds the folders ham10000, houses, leaf and clothing_reviews. It is what `twostage extract`
with MobileNetV2 and `twostage benchmark` do; their folders go to -o, where a run that was ended
goes on. Results are added to artifacts/heads.json and .md; those of ham10000 are drawn (heads.png)
and reported on (heads.html, without photos) too.
"""

import json
import platform
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import pandas as pd
from accuracy import TASKS, Task

from twostage import benchmark, extract
from twostage.report.writing import write_report
from twostage.table.roles import RoleOverrides

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "lightgbm", "keras", "tensorflow", "scikit-learn", "numpy")
HEADS = ("lightgbm", "keras", "lightgbm+keras")
REPORTED = "ham10000"
NAMES = [task.name for task in TASKS if task.name != "houses, four photos"]


def measure(task: Task, data: Path, folder: Path, n_folds: int) -> dict[str, Any]:
    """Extract and compare; return scores, costs and sentences."""
    root = data / task.folder
    columns = [*task.images, *task.numeric, *task.few, *task.many, *task.text]
    table = pd.read_csv(root / "table.csv")
    table = table[[*columns, task.target, *([task.group] if task.group else [])]]
    stores: list[Path] = []
    if task.images:
        stores.append(folder / f"{task.folder}-store")
        extract(root, stores[0], names=pd.unique(table[list(task.images)].to_numpy().ravel()))
    started = time.perf_counter()
    found = benchmark(
        stores,
        folder / f"{task.folder}-results",
        table=table,
        target=task.target,
        heads=HEADS,
        n_folds=n_folds,
        image_columns=task.images,
        group=task.group,
        log_target=task.log_target,
        roles=RoleOverrides(task.numeric, (*task.few, *task.many), text=task.text),
        metrics=["log_loss"] if task.metric == "log_loss" else (),
    )
    return {
        "rows": len(table),
        "folds": n_folds,
        "metric": found.summary["metric"].iloc[0],
        "seconds": round(time.perf_counter() - started),
        "arms": found.summary.to_dict("records"),
        "findings": [finding.sentence for finding in found.findings],
    }


def report(results: Path) -> None:
    """Write the report of a benchmark, and its plot of the arms."""
    plots = results.with_name(f"{results.name}-plots")
    write_report(results, ARTIFACTS / "heads.html", plots=plots)
    shutil.copyfile(plots / "arms.png", ARTIFACTS / "heads.png")


def as_markdown(record: dict[str, Any]) -> str:
    """Return a table for each data set."""
    lines = [
        "# LightGBM beside the Keras head",
        "",
        "By `benchmarks/heads.py`: frozen MobileNetV2 (ImageNet), heads as they are, the same "
        "folds for all arms; 95% intervals corrected for the dependence of folds. Seconds of a fit "
        "and microseconds of a prediction per row, with a process on each core.",
    ]
    for name, found in record["tasks"].items():
        lines += [
            "",
            f"## {name}: {found['metric']}, {found['rows']:,} rows, {found['folds']} folds",
            "",
            "| arm | score | 95% interval | fit s | predict us/row | model kB |",
            "|---|---|---|---|---|---|",
        ]
        for arm in found["arms"]:
            lines.append(
                f"| {arm['arm']} | {arm['value']:.4f} | {arm['low']:.4f} to {arm['high']:.4f} | "
                f"{arm['fit_seconds']:.1f} | {arm['predict_us_per_row']:.0f} | "
                f"{arm['model_bytes'] / 1000:,.0f} |"
            )
        lines += ["", *(f"- {sentence}" for sentence in found["findings"])]
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", type=click.Choice(NAMES), multiple=True)
@click.option("--folds", default=5, show_default=True)
@click.option("-o", "--output", default="heads-benchmark", type=click.Path(path_type=Path))
def main(data: Path, only: tuple[str, ...], folds: int, output: Path) -> None:
    """Compare heads on each data set."""
    file = ARTIFACTS / "heads.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"tasks": {}}
    record["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record["versions"] = {name: version(name) for name in LIBRARIES}
    output.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        if task.name not in (only or NAMES):
            continue
        record["tasks"][task.name] = measure(task, data, output, folds)
        file.write_text(json.dumps(record, indent=1) + "\n")
        file.with_suffix(".md").write_text(as_markdown(record))
        if task.folder == REPORTED:
            report(output / f"{task.folder}-results")
        click.echo(json.dumps(record["tasks"][task.name]["findings"], indent=1))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
