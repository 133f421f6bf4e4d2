"""The benchmark for machines with a GPU runs, here on the CPU."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_extraction.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "backend",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason="not here"))
        for name in ("tensorflow", "jax", "torch")
    ],
)
def test_the_gpu_benchmark_runs_without_a_gpu(backend: str, tmp_path: Path) -> None:
    artifacts = {file: file.stat().st_mtime_ns for file in SCRIPT.parents[1].glob("artifacts/*")}
    command = [sys.executable, str(SCRIPT), "--quick", "--folder", str(tmp_path)]
    environment = os.environ | {"KERAS_BACKEND": backend}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    record = json.loads((tmp_path / "gpu_extraction.json").read_text())
    assert record["backend"] == backend
    assert record["precision"] == "float32"
    rates = record["results"]["resnet50"]["images_per_s"]
    assert {"forward", "decoded", "end to end"} <= set(rates)
    assert set(rates["forward"]) == {"2", "4"}
    assert all(rate > 0 for sizes in rates.values() for rate in sizes.values())
    text = (tmp_path / "gpu_extraction.md").read_text()
    assert "no evidence for a GPU" in text
    assert text.strip() in run.stdout
    assert artifacts == {
        file: file.stat().st_mtime_ns for file in SCRIPT.parents[1].glob("artifacts/*")
    }
