"""Hold every row of the catalogue against Keras' own network, and keep how far they differ.

    python benchmarks/golden.py [NAME ...]

It runs the golden tests (tests/test_backbones.py), each architecture in a process of its own, and
collects what they record: for each engine, in float32, the norm of the difference to Keras' own
model and ``preprocess_input``, over the norm, of the worst image. Weights are random.

Results go to artifacts/golden.json and .md.
"""

import json
import platform
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from importlib.metadata import version
from pathlib import Path

import click
import joblib

from twostage.backbones.catalogue import CATALOGUE

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
TEST = "tests/test_backbones.py::test_embedding_is_what_enters_keras_own_classifier"
ENGINES = ("keras", "openvino")
LIBRARIES = ("twostage", "keras", "tensorflow", "openvino", "numpy")


def run_test(name: str) -> dict[str, float | bool]:
    """Run the golden test of one architecture."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        marks = "slow or nightly or not slow"
        command = [sys.executable, "-m", "pytest", "-q", "-m", marks, f"--junitxml={report}"]
        run = subprocess.run([*command, f"{TEST}[{name}]"], cwd=ROOT, stdout=subprocess.DEVNULL)
        # A process that the system killed for its memory leaves no report.
        properties = ET.parse(report).findall(".//property") if report.exists() else []
    found = {str(p.get("name")): float(str(p.get("value"))) for p in properties}
    return found | {"passed": run.returncode == 0, "seconds": time.perf_counter() - started}


def write(found: dict[str, dict[str, float | bool]]) -> None:
    """Write the results so far."""
    versions = {name: version(name) for name in LIBRARIES}
    machine = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record = {"machine": machine, "versions": versions, "architectures": found}
    (ARTIFACTS / "golden.json").write_text(json.dumps(record, indent=1) + "\n")
    n_passed = sum(bool(row["passed"]) for row in found.values())
    lines = [
        "# Every architecture against Keras' own network",
        "",
        f"By `benchmarks/golden.py`: {n_passed} of {len(found)} pass. Float32, random weights; the "
        "norm of the difference to Keras' own embedding over its norm, of the worst image. At most "
        "1e-5 passes.",
        "",
        "| architecture | keras | openvino | |",
        "|---|---|---|---|",
    ]
    for name, row in found.items():
        numbers = " | ".join(f"{row[e]:.1e}" if e in row else "" for e in ENGINES)
        lines.append(f"| {name} | {numbers} | {'passed' if row['passed'] else 'FAILED'} |")
    made = ", ".join(f"{name} {found}" for name, found in versions.items())
    lines += ["", f"{machine}; {made}.", ""]
    (ARTIFACTS / "golden.md").write_text("\n".join(lines))


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(CATALOGUE)))
def main(names: tuple[str, ...]) -> None:
    """Run the golden tests of all architectures, or of those named."""
    file = ARTIFACTS / "golden.json"
    found = json.loads(file.read_text())["architectures"] if names and file.exists() else {}
    for name in names or CATALOGUE:
        found[name] = run_test(name)
        click.echo(f"{name}: {found[name]}")
        write({name: found[name] for name in CATALOGUE if name in found})


if __name__ == "__main__":
    main()
