"""The torture suite: all that a store, a decoder and the opening of files must withstand.

    python benchmarks/torture.py [PART ...] [--from FILE]

- kills: runs that write stores are killed at random moments and before each change of a file
- writers: several runs at once, readers beside them, a clock that goes back
- disk: disks that fill, can't be written, go away
- files: mutated stores, models and backbones, opened

Mutated images have a page of their own: `torture_images.py`. `torture_store.py` and
`torture_files.py` do the work here, with options of their own. Each part's result goes into
artifacts/torture.json and .md, beside those that are there; what one of them has printed already
is taken with --from.
"""

import json
import platform
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "filelock", "numpy", "openvino", "pillow", "pyarrow")
PARTS = {
    "kills": ("torture_store", "kills"),
    "writers": ("torture_store", "writers"),
    "disk": ("torture_store", "disk"),
    "files": ("torture_files", "run"),
}


def run(part: str) -> dict[str, Any]:
    """Run a part as large as it is by default."""
    module, function = PARTS[part]
    work: Callable[[], dict[str, Any]] = getattr(import_module(module), function)
    return work()


@click.command()
@click.argument("parts", nargs=-1, type=click.Choice(list(PARTS)))
@click.option(
    "--from",
    "file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The result of one part, as JSON, instead of running it.",
)
def main(parts: tuple[str, ...], file: Path | None) -> None:
    """Run PARTS, or all, and add each to the artifacts when it is done."""
    if file is not None and len(parts) != 1:
        raise click.UsageError("--from goes with one part.")
    for part in parts or PARTS:
        save(part, run(part) if file is None else json.loads(file.read_text()))


def save(part: str, found: dict[str, Any]) -> None:
    """Put a part into the artifacts, beside those that are there."""
    path = ARTIFACTS / "torture.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    found["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    found["versions"] = {"python": platform.python_version()}
    found["versions"] |= {name: version(name) for name in LIBRARIES}
    record[part] = found
    record = {each: record[each] for each in PARTS if each in record}
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(as_markdown(record))


def as_markdown(record: dict[str, Any]) -> str:
    """Put all parts into one page."""
    lines = [
        "# What stores and files withstand",
        "",
        "Made by `benchmarks/torture.py`. Images: [torture_images.md](torture_images.md).",
    ]
    for part, found in record.items():
        versions = ", ".join(f"{name} {each}" for name, each in found["versions"].items())
        rows = [row for name, value in found.items() for row in _rows(name, value)]
        lines += ["", f"## {part}", "", "| what | found |", "|---|---|"]
        lines += [f"| {name} | {value} |" for name, value in rows if name not in _OF_ALL]
        lines += ["", f"{found['machine']}; {versions}."]
    return "\n".join(lines) + "\n"


_OF_ALL = ("machine",)
_N_ROWS = 60


def _rows(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Yield what is counted, by its path; lists of many things by their length."""
    if name == "versions":
        return
    if isinstance(value, dict) and len(value) <= _N_ROWS:
        for key, each in value.items():
            yield from _rows(f"{name}: {key}", each)
    elif isinstance(value, (dict, list)):
        yield name, f"{len(value)} entries" if len(str(value)) > _N_ROWS else json.dumps(value)
    else:
        yield name, f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
