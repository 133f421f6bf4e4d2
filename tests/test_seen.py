"""What a backbone has seen: told by the bytes of images and by the values of groups."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from twostage.errors import BackboneError
from twostage.seen import SeenRows, as_text

SEEN = SeenRows(frozenset({"h1", "h2"}), frozenset({"7", "P3"}), "patient")


def written(seen: SeenRows, folder: Path) -> Path:
    (folder / "seen.parquet").write_bytes(seen.to_bytes())
    return folder / "seen.parquet"


def test_a_row_is_seen_if_one_of_its_images_is() -> None:
    rows = [["h1"], ["h3"], [], ["h3", "h2"], ["H1"]]
    assert SEEN.has_seen(rows).tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    "groups",
    [
        [7, 8, 9],
        [7.0, 8.5, np.nan],
        ["7", "8", "7.5"],
        ["P3", "p3", None],
        pd.Series([7, 8, None], dtype="Int64"),
        pd.Series(["7", "8", "9"], dtype="category"),
        np.array([7, 8, 9], np.int32),
        np.array([7, 8, 9], np.float32),
    ],
)
def test_a_row_is_seen_if_its_group_is_however_it_is_written(groups: Any) -> None:
    assert SEEN.has_seen([["h9"], [], ["h8"]], groups).tolist() == [True, False, False]


def test_image_and_group_each_tell() -> None:
    found = SEEN.has_seen([["h1"], ["h9"], ["h9"]], ["x", "P3", "x"])
    assert found.tolist() == [True, True, False]


def test_where_nothing_was_seen_nothing_is() -> None:
    assert SeenRows().has_seen([["h1"], []], ["P3", None]).tolist() == [False, False]
    assert SEEN.has_seen([]).tolist() == []
    assert SEEN.has_seen([], []).tolist() == []


def test_where_it_is_not_known_all_rows_are_seen() -> None:
    assert SeenRows(is_known=False).has_seen([[], ["h9"]], ["x", None]).tolist() == [True, True]


@pytest.mark.parametrize(
    ("value", "text"),
    [(7, "7"), (7.0, "7"), ("7", "7"), (np.float32(7), "7"), (7.5, "7.5"), ("007", "007")],
)
def test_whole_numbers_are_one_group_with_their_text(value: Any, text: str) -> None:
    assert as_text(value) == text


def test_what_was_seen_comes_back_from_its_bytes(tmp_path: Path) -> None:
    assert SeenRows.read(written(SEEN, tmp_path)) == SEEN
    nothing = SeenRows()
    assert SeenRows.read(written(nothing, tmp_path)) == nothing


def test_equal_rows_have_equal_bytes() -> None:
    again = SeenRows(frozenset(["h2", "h1"]), frozenset(["P3", "7"]), "patient")
    assert again.to_bytes() == SEEN.to_bytes()


def test_others_read_the_file_as_a_table(tmp_path: Path) -> None:
    table = pd.read_parquet(written(SEEN, tmp_path))
    assert table["content_hash"].dropna().tolist() == ["h1", "h2"]
    assert table["group"].dropna().tolist() == ["7", "P3"]


def test_without_the_file_nothing_is_known(tmp_path: Path) -> None:
    assert not SeenRows.read(tmp_path / "seen.parquet").is_known


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    file = written(SEEN, tmp_path)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BackboneError, match=r"seen.parquet'.*can't be read .*Copy the backbone"):
        SeenRows.read(file)


def test_another_table_is_told(tmp_path: Path) -> None:
    pd.DataFrame({"content_hash": ["h1"]}).to_parquet(tmp_path / "seen.parquet")
    with pytest.raises(BackboneError, match="can't be read"):
        SeenRows.read(tmp_path / "seen.parquet")


def test_of_two_trainings_all_that_either_saw_is_seen() -> None:
    other = SeenRows(frozenset({"h5"}), frozenset({"P9"}), None)
    both = other.union(SEEN)
    assert both == SeenRows(frozenset({"h1", "h2", "h5"}), frozenset({"7", "P3", "P9"}), "patient")
    assert not SEEN.union(SeenRows(is_known=False)).is_known
