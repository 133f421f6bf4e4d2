"""The house: imports point down, the import stays light, public names stay what they are."""

import ast
import json
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import twostage

PACKAGE = Path(twostage.__file__).parent
# Floors from the ground up. Rooms of one floor do not import each other.
FLOORS = [
    ["errors"],
    [
        "opening",
        "fingerprint",
        "pixels",
        "contents",
        "folders",
        "throughput",
        "demo",
        "bootstrap",
        "gradients",
        "lookup",
        "memory",
        "recipes",
        "features",
    ],
    ["splits", "weighted", "targets", "networks", "ridge", "saving", "seen", "remote"],
    ["images", "backbones", "store", "table", "blocks", "heads", "executors", "metrics"],
    ["encoders", "joins", "worker", "training", "intervals", "pruning"],
    ["remote_worker"],
    ["extraction", "rows", "labelled"],
    ["cache", "encoding"],
    ["members", "sources", "finetuning"],
    ["blending", "tuning", "fitted", "pretraining", "cotraining"],
    ["fitting", "staged", "embedder"],
    ["model", "staging", "unseen", "distributed"],
    ["estimator", "partitions"],
    ["evaluation"],
    ["benchmarking", "report"],
    ["cli"],
]
FLOOR_OF = {room: number for number, floor in enumerate(FLOORS) for room in floor}
HEAVY = ("tensorflow", "keras", "pandas", "sklearn", "lightgbm", "ray", "matplotlib", "pyarrow")


def room_of(module: str) -> str:
    return module.split(".")[1]


def imports() -> list[tuple[str, str]]:
    """Return (room, imported room) of every import in the package, wherever it stands."""
    found = []
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) == 2:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            found += [(parts[1], room_of(name)) for name in names if name.startswith("twostage.")]
    return found


def test_every_room_stands_on_a_floor() -> None:
    rooms = {name for _, name, _ in pkgutil.iter_modules([str(PACKAGE)])}
    assert rooms == set(FLOOR_OF)


def test_imports_point_down() -> None:
    wrong = [
        f"{room} imports {other}"
        for room, other in imports()
        if room != other and FLOOR_OF[room] <= FLOOR_OF[other]
    ]
    assert not wrong


def test_only_one_module_imports_keras_at_its_top() -> None:
    importers = [
        file.name
        for file in PACKAGE.rglob("*.py")
        if any(
            isinstance(node, ast.Import)
            and any(a.name.split(".")[0] == "keras" for a in node.names)
            for node in ast.walk(ast.parse(file.read_text()))
        )
    ]
    assert sorted(importers) == ["devices.py", "quiet_keras.py"]


def test_what_others_may_have_made_is_opened_in_one_place() -> None:
    opens = re.compile(r"np\.load\(|saving\.load_model|models import load_model|skops\.io\.load")
    openers = [file.name for file in PACKAGE.rglob("*.py") if opens.search(file.read_text())]
    assert sorted(openers) == ["files.py", "keras_file.py", "saving.py"]


def test_no_module_opens_a_pickle() -> None:
    opens = re.compile(
        r"import (pickle|cloudpickle|dill)|pickle\.(loads?|Unpickler)"
        r"|joblib\.load|allow_pickle=True"
    )
    for file in PACKAGE.rglob("*.py"):
        assert not opens.search(file.read_text()), file


@pytest.mark.parametrize("code", ["import twostage", "import twostage.cli.main"])
def test_the_import_is_light(code: str) -> None:
    probe = f"{code}; import json, sys; print(json.dumps(sorted(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    loaded = {name.split(".")[0] for name in json.loads(run.stdout)}
    assert not loaded & set(HEAVY)


def test_public_names_survive_the_import_of_every_module() -> None:
    before = {name: getattr(twostage, name) for name in twostage.__all__}
    for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "twostage."):
        import_module(name)
    after = {name: getattr(twostage, name) for name in twostage.__all__}
    assert after == before
    assert all(callable(value) for value in after.values())


def test_public_names_are_listed() -> None:
    assert set(twostage.__all__) <= set(dir(twostage))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = twostage.nothing


@pytest.mark.parametrize("name", twostage.__all__)
def test_public_names_are_documented(name: str) -> None:
    doc = getattr(twostage, name).__doc__
    assert doc
    assert "Parameters" in doc
