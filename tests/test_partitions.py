"""Predictions for a table in many files are those for the table in one."""

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner, Result
from partitioned import make_partitioned

from twostage.cli.main import main
from twostage.errors import ExecutorError
from twostage.partitions import PartitionRecord, find_partitions, predict_partitions


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what `make_partitioned` makes."""
    folder = tmp_path_factory.mktemp("partitions")
    make_partitioned(folder)
    return folder


def test_each_file_gets_its_predictions_in_a_file_of_its_name(folder: Path, tmp_path: Path) -> None:
    words = ("predict", folder / "M", "--store", folder / "S")
    one, many = tmp_path / "one.parquet", tmp_path / "many"
    assert run(*words, "--table", folder / "table.parquet", "-o", one).exit_code == 3
    result = run(*words, "--table", folder / "table", "-o", many)
    assert result.exit_code == 3
    assert "many: 60 predictions in 3 files." in result.stdout
    assert "1 row with an unusable image; first: '7.png'" in result.stderr
    files = sorted(str(file.relative_to(many)) for file in many.rglob("*.parquet"))
    assert files == ["a.parquet", "b.parquet", "more/c.parquet"]
    found = pd.concat([pd.read_parquet(many / name) for name in files], ignore_index=True)
    pd.testing.assert_frame_equal(found, pd.read_parquet(one))
    again = run(*words, "--table", folder / "table", "-o", many, "--json")
    assert json.loads(again.stdout) == {"output": str(many), "n_rows": 60, "n_errors": 1}


def test_what_can_not_be_predicted_is_told(folder: Path, tmp_path: Path) -> None:
    words = ("predict", folder / "M", "--table", folder / "table", "-o", tmp_path / "out")
    refused = run(*words, "--images", folder)
    assert refused.exit_code == 2
    assert "embed its images first" in refused.stderr
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    refused = run(*words, "--store", folder / "S")
    assert refused.exit_code == 2
    assert "holds 'mine.txt'" in refused.stderr
    (tmp_path / "none").mkdir()
    empty = run(
        "predict",
        folder / "M",
        "--table",
        tmp_path / "none",
        "--store",
        folder / "S",
        "-o",
        tmp_path / "new",
    )
    assert empty.exit_code == 1
    assert "has no Parquet files" in empty.stderr


def test_an_error_says_in_which_file_it_is(folder: Path, tmp_path: Path) -> None:
    pd.DataFrame({"image": ["1.png"]}).to_parquet(tmp_path / "short.parquet")
    result = run(
        "predict",
        folder / "M",
        "--table",
        tmp_path,
        "--store",
        folder / "S",
        "-o",
        tmp_path / "new",
    )
    assert result.exit_code == 1
    assert "short.parquet: The table lacks 'age'" in result.stderr


def test_predictions_that_a_worker_wrote_elsewhere_are_missed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "twostage.partitions._predict",
        lambda model, store, partition: PartitionRecord(partition.output, 1, 0, None),
    )
    partitions = find_partitions(folder / "table", tmp_path / "out")
    with pytest.raises(ExecutorError, match="it is not there"):
        predict_partitions(str(folder / "M"), str(folder / "S"), partitions)
