"""Parts put together and rows dropped: nothing else changes, whoever reads or kills meanwhile."""

import os

import pandas as pd
import pytest
from stores import SPEC, rows

from twostage.errors import StoreError, UsageError
from twostage.store.store import EmbeddingStore

LARGE = "part-000000-000004.parquet"


@pytest.fixture
def store(tmp_path):
    """Return a store of five parts with two rows each; every other image is unreadable."""
    store = EmbeddingStore.create(tmp_path / "store", SPEC)
    for i in range(5):
        two = {f"a{i}": [i, 2, 3], f"b{i}": None}
        store.write_part(f"part-{i:06d}.parquet", rows(store, **two))
    return store


def table(store):
    frame = store.to_pandas()
    frame["embedding"] = [None if v is None else tuple(v) for v in frame["embedding"]]
    return frame


def half_compacted(store):
    """Leave a store as a compaction does that is killed before it deletes anything."""
    parts = store.parts()
    frame = table(store)
    whole = rows(store, **dict(zip(frame["image"], map(_listed, frame["embedding"]), strict=True)))
    store.put_part(LARGE, whole, replaces=parts)
    return parts


def _listed(vector):
    return None if vector is None else list(vector)


def files(store):
    return sorted(name for name in os.listdir(store.path) if name.startswith("part-"))


@pytest.mark.parametrize(
    ("n_rows", "parts"),
    [
        (1, [f"part-{i:06d}.parquet" for i in range(5)]),
        (3, [f"part-{i:06d}.parquet" for i in range(5)]),
        (4, ["part-000000-000001.parquet", "part-000002-000003.parquet", "part-000004.parquet"]),
        (9, ["part-000000-000003.parquet", "part-000004.parquet"]),
        (10, [LARGE]),
    ],
)
def test_compact_puts_neighbours_together_and_changes_no_row(store, n_rows, parts):
    before = table(store)
    done = store.compact(n_rows)
    assert (done.n_before, done.n_after) == (5, len(parts))
    assert store.parts() == files(store) == parts
    assert store.next_number() == 5
    assert table(store).equals(before)
    assert table(EmbeddingStore(store.path)).equals(before)
    assert sorted(pd.read_parquet(store.path)["image"]) == sorted(before["image"])


def test_a_compacted_store_is_compacted_again_and_written_on(store):
    store.compact(4)
    store.write_part("part-000002-000003.parquet", rows(store, a2=[9, 9, 9]))
    store.write_part("part-000005.parquet", rows(store, a5=[5, 5, 5]))
    assert store.compact().n_after == 1
    assert store.parts() == ["part-000000-000005.parquet"]
    assert list(store.embeddings(["a2", "a5", "a0"])[:, 0]) == [9, 5, 0]
    assert len(store) == 11


def test_readers_honour_what_a_killed_compaction_has_replaced(store):
    before = table(store)
    parts = half_compacted(store)
    assert files(store) == sorted([*parts, LARGE])
    assert store.parts() == [LARGE]
    assert store.replaced_parts() == parts
    assert len(store) == 10
    assert table(store).equals(before)
    assert store.next_number() == 5


@pytest.mark.parametrize("finish", ["lock", "compact", "prune"])
def test_the_next_run_finishes_a_killed_compaction(store, finish):
    before = table(store)
    half_compacted(store)
    if finish == "lock":
        with store.lock():
            pass
    elif finish == "compact":
        store.compact()
    else:
        store.prune([])
    assert files(store) == [LARGE]
    assert table(store).equals(before)


LOOKS = {
    "length": len,
    "table": lambda store: str(table(store).to_dict("list")),  # NaN is not NaN
    "index": lambda store: store.index().drop(["part"]).to_pydict(),
    "embeddings": lambda store: store.embeddings(["a4", "a0"]).tolist(),
    "info": lambda store: (store.info().n_rows, store.info().n_errors),
}


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
@pytest.mark.parametrize("n_before", [0, 1, 3])
def test_a_reader_whose_parts_are_put_together_meanwhile_begins_anew(store, look, n_before):
    store.write_part("part-000000.parquet", rows(store, a0=[8, 2, 3]))
    expected, n_opened = look(store), 0
    reader = EmbeddingStore(store.path)
    really_open = reader.files.open

    def open_late(part):
        nonlocal n_opened
        n_opened += 1
        if n_opened == n_before + 1:
            store.compact()
        return really_open(part)

    reader.files.open = open_late
    found = look(reader)
    assert n_opened > n_before
    assert store.parts() == [LARGE]
    assert found == expected


def test_a_part_that_is_listed_and_not_there_ends_the_reading(store):
    (store.path / "part-000009.parquet").symlink_to("nowhere")
    with pytest.raises(StoreError, match=r"part-000009\.parquet' is gone"):
        len(store)


def test_prune_drops_rows_and_parts_that_are_empty_then(store):
    before = table(store)
    untouched = (store.path / "part-000002.parquet").read_bytes()
    assert store.prune(["a0", "b0", "b1", "a4", "nowhere"]) == 4
    assert files(store) == [f"part-{i:06d}.parquet" for i in range(1, 5)]
    is_kept = ~before["image"].isin(["a0", "b0", "b1", "a4"])
    assert table(store).equals(before[is_kept].reset_index(drop=True))
    assert (store.path / "part-000002.parquet").read_bytes() == untouched


@pytest.mark.parametrize("work", [lambda s: s.compact(4), lambda s: s.prune(["a1", "a3"])])
def test_a_disk_that_fills_leaves_each_row_once(store, monkeypatch, work):
    before, n_written = table(store), 0
    really_replace = store.files.replace

    def replace(name, data):
        nonlocal n_written
        n_written += 1
        if n_written > 1:
            raise OSError(28, "No space left on device")
        really_replace(name, data)

    monkeypatch.setattr(store.files, "replace", replace)
    with pytest.raises(StoreError, match="No space left on device"):
        work(store)
    left = table(store)
    assert left["image"].is_unique
    assert set(before["image"]) - set(left["image"]) <= {"a1"}


@pytest.mark.parametrize("work", [lambda s: s.compact(), lambda s: s.prune(["a1"])])
def test_a_store_that_is_being_written_is_left_alone(store, work):
    other = EmbeddingStore(store.path)
    with other.lock(), pytest.raises(StoreError, match="is being written by process"):
        work(store)
    assert len(files(store)) == 5


def test_parts_of_no_rows_are_refused(store):
    with pytest.raises(UsageError, match="must be at least 1; found 0"):
        store.compact(0)


def test_an_empty_store_stays_empty(tmp_path):
    store = EmbeddingStore.create(tmp_path / "empty", SPEC)
    assert store.compact().n_after == 0
    assert store.prune(["a"]) == 0


def test_what_is_replaced_goes_only_when_what_replaces_it_is_safe(store, monkeypatch):
    order = []
    really = {name: getattr(os, name) for name in ("fsync", "replace", "unlink")}
    for name in really:
        monkeypatch.setattr(
            os, name, lambda *a, name=name, **o: order.append(name) or really[name](*a, **o)
        )
    parts = store.parts()
    store.put_part(LARGE, rows(store, a0=[0, 2, 3]), replaces=parts)
    store.finish()
    assert order == ["fsync", "replace", "fsync", *["unlink"] * len(parts), "fsync"]


def test_a_listing_that_misses_what_comes_and_goes_is_not_believed(store, monkeypatch):
    store.compact()
    before = table(store)
    store.write_part("part-000005.parquet", rows(store, z=[1, 2, 3]))
    really_list, n_listed = store.files.names, 0

    def list_torn():
        nonlocal n_listed
        n_listed += 1
        return [n for n in really_list() if n != LARGE or n_listed > 1]

    monkeypatch.setattr(store.files, "names", list_torn)
    assert len(table(store)) == len(before) + 1
