"""Where embeddings stand is kept in arrays; what they say is checked where it matters."""

import numpy as np
import pytest
from stores import SPEC, rows

from twostage.store import whereabouts
from twostage.store.store import EmbeddingStore
from twostage.store.whereabouts import Whereabouts, contents_of


@pytest.fixture
def store(tmp_path):
    store = EmbeddingStore.create(tmp_path / "store", SPEC)
    store.write_part("part-000000.parquet", rows(store, a=[1, 2, 3], b=None))
    store.write_part("part-000001.parquet", rows(store, c=[4, 5, 6]))
    return store


def opened_by(store, monkeypatch):
    opened = []
    read = type(store.files).open
    monkeypatch.setattr(
        type(store.files), "open", lambda files, name: opened.append(name) or read(files, name)
    )
    return opened


@pytest.mark.parametrize("most_recent", [0, 1, 100])
def test_it_says_where_each_embedding_stands_and_its_size(store, monkeypatch, most_recent):
    monkeypatch.setattr(whereabouts, "_MOST_RECENT", most_recent)
    known = store.whereabouts()
    store.write_part("part-000002.parquet", rows(store, d=[7, 8, 9], e=None))
    store.write_part("part-000003.parquet", rows(store, f=[0, 0, 0]))
    assert [name for name in "abcdefx" if f"hash of {name}" in known] == list("acdf")
    assert known["hash of d"] == (40, 30)
    assert known.parts_of(["hash of f", "hash of x", "hash of a", "hash of f"]) == [
        "part-000000.parquet",
        "part-000003.parquet",
    ]
    with pytest.raises(KeyError):
        known["hash of b"]


def test_what_has_no_size_has_none(store):
    table = rows(store, t=[1, 1, 1])
    for name in ("width", "height"):
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, [[None]]).cast(store.schema)
    assert Whereabouts([("part", contents_of(table))])["hash of t"] == (None, None)


def test_only_the_parts_that_hold_an_embedding_are_asked_for_it(store, monkeypatch):
    store.whereabouts()
    opened = opened_by(store, monkeypatch)
    assert list(store.known(["hash of c"])["hash of c"]) == [4, 5, 6]
    assert opened == ["part-000001.parquet"]


@pytest.mark.parametrize("is_gone", [False, True])
def test_what_another_run_moved_is_found_where_it_stands_now(store, is_gone):
    store.whereabouts()
    other = EmbeddingStore(store.path)
    other.write_part("part-000002.parquet", rows(other, moved=[1, 2, 3], c=[4, 5, 6]))
    if is_gone:
        other.delete_parts(["part-000001.parquet"])
    else:
        other.put_part("part-000001.parquet", rows(other, z=[9, 9, 9]))
    assert list(store.known(["hash of c"])["hash of c"]) == [4, 5, 6]
    assert list(store.known(["hash of moved"])["hash of moved"]) == [1, 2, 3]


def test_a_hash_that_two_contents_share_gives_neither_the_others_embedding(store, monkeypatch):
    monkeypatch.setattr(whereabouts, "keys_of", lambda hashes: np.full(len(hashes), 7))
    monkeypatch.setattr(whereabouts, "hash", lambda content_hash: 7, raising=False)
    assert "hash of new" in store.whereabouts()
    assert store.known(["hash of new"]) == {}
    known = store.known(["hash of a", "hash of c", "hash of new"])
    assert [list(known[f"hash of {name}"]) for name in "ac"] == [[1, 2, 3], [4, 5, 6]]
