"""The demo: its data is what it says, and the story it tells is true."""

import filecmp
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from twostage.cli.demo import compare
from twostage.cli.main import main
from twostage.demo import N_IMAGES, N_NEW, make_demo_data
from twostage.metrics import Score


def test_the_same_seed_makes_the_same_data(tmp_path: Path) -> None:
    make_demo_data(tmp_path / "a")
    make_demo_data(tmp_path / "b")
    table = pd.read_csv(tmp_path / "a" / "table.csv")
    assert len(table) == N_IMAGES
    assert len(pd.read_csv(tmp_path / "a" / "new.csv")) == N_NEW
    names = ["table.csv", "new.csv", *table["photo"]]
    assert filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", names, shallow=False)[0] == names


@pytest.mark.slow
def test_the_demo_tells_the_whole_story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["demo", "-o", "story"])
    assert result.exit_code == 0, result.output
    assert "Both together beat" in result.stdout
    for arm in ("images alone", "table alone", "both together"):
        assert f"  {arm}" in result.stdout
    predictions = pd.read_csv("story/predictions.csv")
    assert len(predictions) == N_NEW
    assert predictions["error"].isna().all()
    again = CliRunner().invoke(main, ["demo", "-o", "story"])
    assert again.exit_code == 2
    assert "'story' is not empty" in again.stderr


def test_a_demo_that_does_not_win_says_so() -> None:
    scores = {name: Score(value, 0.5, 0.9) for name, value in (("images", 0.8), ("table", 0.6))}
    assert "do not beat images alone here (-0.100)" in compare(scores | {"both": Score(0.7, 0, 1)})
    assert "beat images alone by 0.100" in compare(scores | {"both": Score(0.9, 0, 1)})
