"""The torture suite, small: it must find nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "torture_store.py"


def torture(*arguments: object) -> dict:
    """Run the suite in a process that has no threads, for it forks."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


@pytest.mark.slow
def test_a_compaction_killed_before_any_of_its_changes_loses_nothing() -> None:
    found = torture("kills", "--runs", 0, "--command-lines", 0, "--only", "compact")
    counts = found["compact"]["before each change"]
    assert counts["killed"] == counts["resumed"] > 10


@pytest.mark.slow
def test_a_run_killed_before_any_of_its_changes_loses_nothing() -> None:
    found = torture("kills", "--runs", 0, "--command-lines", 0, "--only", "changed")
    counts = found["changed"]["before each change"]
    assert counts["killed"] == counts["resumed"] > 10


@pytest.mark.slow
def test_runs_killed_at_any_moment_lose_nothing() -> None:
    found = torture("kills", "--runs", 9, "--command-lines", 2, "--no-steps")
    assert found["fresh"]["at random"]["killed"] >= 3
    assert found["command lines"]["killed"] == 2
    assert found["command lines"]["largest difference"] < 1e-6


@pytest.mark.slow
def test_runs_that_meet_and_clocks_that_go_back_do_no_harm() -> None:
    found = torture("writers", "--rounds", 3)
    assert found["two writers"]["rounds"] == 3
    assert found["estimators sharing a cache"]["runs"] == 9
    assert found["clock"]["runs"] == 3


@pytest.mark.slow
def test_disks_that_fill_or_go_away_leave_the_store_intact() -> None:
    found = torture("disk", "--rounds", 2)
    assert "skipped" in found or found["taken away"] == {"unmounted": 1, "deleted": 1}
