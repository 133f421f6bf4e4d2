"""Names are found among others by their hashes, and told apart where those collide."""

import numpy as np
import pyarrow as pa
import pytest

from twostage import lookup
from twostage.lookup import RowsByName


def rows_of(names, wanted):
    found = RowsByName(pa.array(names, pa.large_string())).rows_of(pa.array(wanted, pa.string()))
    return found.tolist()


@pytest.mark.parametrize("hashed", [hash, len, lambda name: 7], ids=["hash", "length", "constant"])
def test_each_name_is_found_whatever_shares_its_hash(monkeypatch, hashed):
    monkeypatch.setattr(
        lookup,
        "keys_of",
        lambda names: np.array([hashed(name) for name in names.to_pylist()], np.int64),
    )
    names = ["b", "aa", "", "ä", "a", "cc"]
    assert rows_of(names, ["a", "cc", "zz", "", "b", "a", "ä", "x"]) == [4, 5, -1, 2, 0, 4, 3, -1]


def test_of_equal_names_the_first_counts():
    assert rows_of(["a", "b", "a", "b"], ["b", "a"]) == [1, 0]


def test_nothing_is_found_in_nothing_and_null_is_never_found():
    assert rows_of([], ["a"]) == [-1]
    assert rows_of(["a"], []) == []
    assert rows_of([None, "a"], [None, "a"]) == [-1, 1]


def test_names_in_many_pieces_are_found(monkeypatch):
    monkeypatch.setattr(lookup, "_AT_ONCE", 4)
    monkeypatch.setattr(lookup, "_HASHED_AT_ONCE", 3)
    names = [f"{number}.jpg" for number in range(20)]
    chunked = pa.chunked_array([names[5:10], names[:5], ["x"], names[10:]])
    found = RowsByName(pa.array(names, pa.large_string())).rows_of(chunked)
    assert found.tolist() == [*range(5, 10), *range(5), -1, *range(10, 20)]
