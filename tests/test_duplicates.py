"""Rows that show the same stay together."""

import numpy as np
import pytest

from twostage.evaluation import duplicates
from twostage.evaluation.duplicates import join_duplicates, near_pairs
from twostage.joins import ImageBlock

RNG = np.random.default_rng(0)


def a_block(matrix: np.ndarray, hashes: list[str] | None = None) -> dict[str, ImageBlock]:
    n = len(matrix)
    names = [[h] for h in hashes or [f"h{i}" for i in range(n)]]
    return {"image": ImageBlock("image", matrix, np.ones(n, int), [None] * n, names)}


@pytest.mark.parametrize("block", [3, 7, 2048])
def test_near_pairs_are_those_of_the_whole_matrix(
    monkeypatch: pytest.MonkeyPatch, block: int
) -> None:
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    matrix = RNG.normal(size=(40, 8)).astype(np.float32) + 5
    matrix[33] = matrix[2] + 0.001
    matrix[7] = np.nan
    centred = matrix - np.nanmean(matrix, axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    wanted = np.argwhere(np.triu(unit @ unit.T >= 0.6, 1)).tolist()
    found = sorted(near_pairs(matrix, 0.6).tolist())
    assert found == wanted
    assert [2, 33] in found


def test_a_common_direction_makes_no_duplicates() -> None:
    matrix = (100 + RNG.normal(size=(50, 16))).astype(np.float32)
    assert (matrix @ matrix.T / np.outer(*[np.linalg.norm(matrix, axis=1)] * 2)).min() > 0.99
    assert len(near_pairs(matrix, 0.95)) == 0


def test_near_duplicates_join_groups_and_are_counted() -> None:
    matrix = RNG.normal(size=(30, 16)).astype(np.float32)
    matrix[20] = matrix[4] * 1.01
    found = join_duplicates(a_block(matrix), np.arange(30) // 2, 0.95, 5)
    assert (found.n_near_pairs, found.n_near_rows, found.is_joined) == (1, 2, True)
    assert len(set(found.groups[[4, 5, 20, 21]])) == 1
    assert len(np.unique(found.groups)) == 14


def test_equal_bytes_are_counted_and_are_no_near_duplicates() -> None:
    matrix = RNG.normal(size=(30, 16)).astype(np.float32)
    matrix[20] = matrix[4]
    hashes = [f"h{i}" for i in range(30)]
    hashes[20] = "h4"
    found = join_duplicates(a_block(matrix, hashes), np.arange(30), 0.95, 5)
    assert (found.n_equal_rows, found.n_near_pairs) == (2, 0)


def test_many_rows_of_equal_bytes_make_no_pairs_among_themselves() -> None:
    matrix = RNG.normal(size=(300, 16)).astype(np.float32)
    hashes = [f"h{i}" for i in range(300)]
    matrix[270:], hashes[270:] = matrix[4], ["h4"] * 30
    matrix[7] = matrix[4] * 1.01
    groups = np.where(np.arange(300) >= 270, 4, np.arange(300))
    found = join_duplicates(a_block(matrix, hashes), groups, 0.95, 5)
    assert (found.n_equal_rows, found.n_near_pairs) == (31, 1)
    assert found.groups[7] == found.groups[4] == found.groups[299]


def test_pairs_beyond_a_bound_are_told_and_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST_PAIRS", 50)
    monkeypatch.setattr(duplicates, "_BLOCK", 16)
    matrix = np.repeat(RNG.normal(size=(2, 16)), 30, axis=0).astype(np.float32)
    found = join_duplicates(a_block(matrix), np.arange(60), 0.95, 5)
    assert (found.n_near_pairs, found.is_joined) == (50, False)
    assert str(found.note).startswith("More than 50 pairs of images are nearly equal")


def test_off_joins_none() -> None:
    matrix = np.repeat(RNG.normal(size=(15, 16)), 2, axis=0).astype(np.float32)
    found = join_duplicates(a_block(matrix), np.arange(30), None, 5)
    assert found.groups.tolist() == list(range(30))
    assert not found.is_joined


def test_a_backbone_that_finds_all_images_alike_joins_none_and_says_so() -> None:
    steps = np.arange(60)[:, None] * np.ones((1, 4))
    found = join_duplicates(a_block(steps.astype(np.float32)), np.arange(60), 0.95, 5)
    assert not found.is_joined
    assert found.groups.tolist() == list(range(60))
    assert "hardly tells these images apart" in str(found.note)


def test_of_too_many_rows_none_are_looked_for_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(duplicates, "MOST_ROWS", 10)
    found = join_duplicates(a_block(np.ones((11, 2), np.float32)), np.arange(11), 0.95, 5)
    assert "up to 10 rows" in str(found.note)
