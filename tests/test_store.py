"""A store is a folder of Parquet parts: committed whole, readable by others, never mixed."""

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from filelock import FileLock
from stores import SPEC, rows

from twostage.errors import StoreError
from twostage.seen import SeenRows
from twostage.store.files import StoreFiles, make_folder
from twostage.store.locking import locked
from twostage.store.places import check_folder, delete_files
from twostage.store.schema import embedding_array, embedding_matrix, part_schema
from twostage.store.store import EmbeddingStore

PART = "part-000000.parquet"
HOLD = """
import sys
from twostage.store.store import EmbeddingStore
with EmbeddingStore(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(params=["float32", "float16"])
def store(request, tmp_path):
    return EmbeddingStore.create(tmp_path / "store", SPEC | {"storage_dtype": request.param})


@pytest.fixture
def small(tmp_path):
    """Return a store with one part of two images and an unreadable one between them."""
    store = EmbeddingStore.create(tmp_path / "store", SPEC)
    store.write_part(PART, rows(store, a=[1, 2, 3], b=None, c=[7, 8, 9]))
    return store


def contents(store):
    frame = store.to_pandas()
    vectors = [None if vector is None else vector.tolist() for vector in frame["embedding"]]
    return dict(zip(frame["image"], vectors, strict=True))


def files(folder):
    return sorted(os.listdir(folder))


def with_pandas(folder):
    return pd.read_parquet(folder).to_dict("list")


def with_polars(folder):
    return pl.read_parquet(folder / "*.parquet").to_dict(as_series=False)


def with_duckdb(folder):
    relation = duckdb.sql(f"select * from '{folder}/*.parquet'")
    columns = zip(*relation.fetchall(), strict=True)
    return dict(zip(relation.columns, columns, strict=True))


def test_a_store_comes_back_as_it_was_written(store):
    table = rows(store, a=[1, 2, 3], b=None, c=[0.5, -0.25, 9])
    store.write_part(PART, table)
    again = EmbeddingStore(store.path)
    assert again.spec == store.spec
    assert again.dim == 3
    assert len(again) == 3
    assert again.read_part(PART).equals(table)
    assert contents(again) == {"a": [1, 2, 3], "b": None, "c": [0.5, -0.25, 9]}
    assert repr(again) == f"EmbeddingStore({str(store.path)!r})"


def test_the_storage_dtype_decides_the_precision(store):
    store.write_part(PART, rows(store, a=[1 / 3, 0, 0]))
    kind = store.spec["storage_dtype"]
    assert str(pq.read_schema(store.path / PART).field("embedding").type) == (
        f"fixed_size_list<element: {'halffloat' if kind == 'float16' else 'float'}>[3]"
    )
    assert store.embeddings(["a"])[0, 0] == np.dtype(kind).type(1 / 3)


@pytest.mark.parametrize("read", [with_pandas, with_polars, with_duckdb])
def test_other_tools_read_the_folder_as_it_is(store, read):
    store.write_part(PART, rows(store, a=[1, 2, 3], b=None))
    store.write_part("part-000001.parquet", rows(store, c=[7, 8, 9]))
    with store.lock():
        (store.path / "_tmp-_run.json").write_text("{")
        columns = read(store.path)
    assert list(columns) == store.schema.names
    assert list(columns["image"]) == ["a", "b", "c"]
    vectors = [None if vector is None else list(vector) for vector in columns["embedding"]]
    assert vectors == [[1, 2, 3], None, [7, 8, 9]]


@pytest.mark.parametrize("read", [with_pandas, with_polars, with_duckdb])
def test_a_part_that_a_killed_run_left_half_way_is_not_read(small, monkeypatch, read):
    monkeypatch.setattr("twostage.store.files.os.replace", lambda *_: None)
    small.write_part("part-000001.parquet", rows(small, z=[0, 0, 0]))
    assert len(files(small.path)) == 3
    assert list(read(small.path)["image"]) == ["a", "b", "c"]
    assert list(contents(small)) == ["a", "b", "c"]


def test_a_lone_part_knows_its_backbone(small):
    metadata = pq.read_schema(small.path / PART).metadata
    assert json.loads(metadata[b"twostage.spec"]) == SPEC


def test_an_empty_store_has_no_rows(store):
    assert len(store) == 0
    assert store.parts() == []
    assert store.index().num_rows == 0
    assert list(store.to_pandas().columns) == store.schema.names
    assert np.isnan(store.embeddings(["a"])).all()
    assert store.embeddings([]).shape == (0, 3)
    assert store.known(["hash of a"]) == {}


def test_the_index_says_where_each_row_stands_without_its_embedding(small):
    small.write_part("part-000004.parquet", rows(small, d=[1, 1, 1]))
    index = small.index().to_pydict()
    assert index["image"] == ["a", "b", "c", "d"]
    assert index["part"] == [PART] * 3 + ["part-000004.parquet"]
    assert index["error"] == [None, "decode: broken", None, None]
    assert "embedding" not in index


@pytest.mark.parametrize("number", [0, 7, 1_000_000])
def test_the_next_part_follows_the_last(tmp_path, number):
    store = EmbeddingStore.create(tmp_path / "store", SPEC)
    assert store.next_number() == 0
    store.write_part(f"part-{number:06d}.parquet", rows(store, a=[1, 2, 3]))
    assert store.next_number() == number + 1


def test_embeddings_come_in_the_order_asked_for(small):
    small.write_part("part-000001.parquet", rows(small, d=[4, 4, 4]))
    found = small.embeddings(["d", "c", "nowhere", "a", "b", "c"])
    assert found.dtype == np.float32
    expected = [[4] * 3, [7, 8, 9], [np.nan] * 3, [1, 2, 3], [np.nan] * 3, [7, 8, 9]]
    np.testing.assert_array_equal(found, expected)


def test_known_hashes_are_those_with_an_embedding(small):
    known = small.known(["hash of c", "hash of b", "hash of x", "hash of c"])
    assert {content_hash: list(vector) for content_hash, vector in known.items()} == {
        "hash of c": [7, 8, 9]
    }


def test_an_error_beside_an_embedding_of_the_same_hash_does_not_hide_it(small):
    failed = rows(small, d=None).set_column(1, "content_hash", [["hash of a"]])
    small.write_part("part-000001.parquet", failed)
    assert list(small.known(["hash of a"])["hash of a"]) == [1, 2, 3]


def test_a_changed_image_stays_in_its_part_and_its_neighbours_as_they_were(store):
    store.write_part(PART, rows(store, a=[1, 2, 3], b=None, c=[7, 8, 9], d=[4, 4, 4]))
    store.write_part("part-000001.parquet", rows(store, e=[5, 5, 5]))
    untouched = (store.path / "part-000001.parquet").read_bytes()
    store.write_part(PART, rows(store, b=[2, 2, 2], c=None))
    expected = {"a": [1, 2, 3], "d": [4, 4, 4], "b": [2, 2, 2], "c": None, "e": [5, 5, 5]}
    assert contents(store) == expected
    assert len(store) == 5
    assert store.parts() == [PART, "part-000001.parquet"]
    assert (store.path / "part-000001.parquet").read_bytes() == untouched


@pytest.mark.parametrize("image", ["a", "new"])
def test_a_full_disk_leaves_the_store_as_it_was(small, monkeypatch, image):
    before = files(small.path), contents(small)

    def refuse(*_):
        raise OSError(28, "No space left on device")

    part = PART if image == "a" else "part-000001.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("twostage.store.files.os.replace", refuse)
        with pytest.raises(StoreError, match=r"Can't write '.*parquet': No space left on device"):
            small.write_part(part, rows(small, **{image: [0, 0, 0]}))
    assert (files(small.path), contents(small)) == before


@pytest.mark.parametrize("n_bytes", [0, 4, 300, -1])
def test_a_damaged_part_is_named_with_the_remedy(small, n_bytes):
    path = small.path / PART
    path.write_bytes(path.read_bytes()[:n_bytes])
    message = rf"Part '.*{PART}' can't be read \(.*\)\. Delete it and run"
    for read in (small.index, small.to_pandas, lambda: small.embeddings(["a"])):
        with pytest.raises(StoreError, match=message):
            read()


def test_a_part_of_another_backbone_is_refused(small, tmp_path):
    other = EmbeddingStore.create(tmp_path / "other", SPEC | {"architecture": "another"})
    other.write_part("part-000009.parquet", rows(other, z=[0, 0, 0]))
    (other.path / "part-000009.parquet").rename(small.path / "part-000009.parquet")
    message = r"part-000009\.parquet' was made by another backbone than the store it lies in"
    for read in (small.index, small.to_pandas, lambda: small.embeddings(["z"])):
        with pytest.raises(StoreError, match=message):
            read()


def test_another_format_version_is_refused_naming_both(small):
    record = json.loads((small.path / "_store.json").read_text())
    (small.path / "_store.json").write_text(json.dumps(record | {"format_version": 99}))
    with pytest.raises(StoreError, match=r"of format version 99; this twostage reads version 2"):
        EmbeddingStore(small.path)


@pytest.mark.parametrize("record", [None, "", "{", "[]", "{}", "\udcff"])
def test_a_folder_without_a_readable_record_is_no_store(tmp_path, record):
    if record is not None:
        (tmp_path / "_store.json").write_text(record, errors="surrogateescape")
    assert EmbeddingStore.exists_at(tmp_path) is (record is not None)
    with pytest.raises(StoreError, match=r"is not a store: it has no readable _store\.json"):
        EmbeddingStore(tmp_path)


def test_a_missing_store_says_how_to_make_it(tmp_path):
    with pytest.raises(StoreError, match=r"There is no store '.*nowhere'\. Make it with"):
        EmbeddingStore(tmp_path / "nowhere")


def test_a_store_is_not_made_over_other_things(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match=r"is a folder with other files in it\. Give a new"):
        EmbeddingStore.create(tmp_path, SPEC)
    with pytest.raises(StoreError, match=r"thesis\.txt' is a file\. Give a folder"):
        EmbeddingStore.create(tmp_path / "thesis.txt", SPEC)
    assert files(tmp_path) == ["thesis.txt"]


def test_foreign_files_beside_the_parts_are_not_read(small):
    for name in ("notes.txt", "other.parquet", "part-1.parquet.bak"):
        (small.path / name).write_bytes(b"x")
    assert small.parts() == [PART]
    assert list(contents(small)) == ["a", "b", "c"]


def test_delete_removes_the_store_and_leaves_foreign_files_alone(small, tmp_path):
    other = EmbeddingStore.create(tmp_path / "other", SPEC)
    (other.path / "notes.txt").write_text("precious")
    for store in (small, other):
        with store.lock():
            (store.path / "_tmp-part-000001.parquet~").write_bytes(b"x")
        store.delete()
    assert not small.path.exists()
    assert files(other.path) == ["notes.txt"]


def test_leftovers_of_a_killed_run_go_with_the_next_lock_and_nothing_else(small):
    (small.path / "_tmp-part-000001.parquet~").write_bytes(b"x")
    (small.path / "notes.txt").write_text("precious")
    before = contents(small)
    with small.lock():
        assert not (small.path / "_tmp-part-000001.parquet~").exists()
    assert (small.path / "notes.txt").exists()
    assert contents(small) == before


def test_a_second_writer_is_refused_naming_this_process(small):
    since = r"since 2\d{3}-\d\d-\d\d \d\d:\d\d:\d\d\S+"
    message = rf"is being written by process {os.getpid()} on \S+ {since}\. Wait for it to end"
    with small.lock(), pytest.raises(StoreError, match=message), small.lock():
        pytest.fail("two runs held the store")


def test_a_lock_without_a_name_still_holds(small):
    with (
        FileLock(small.path / "_lock"),
        pytest.raises(StoreError, match=r"is being written by another run\."),
        small.lock(),
    ):
        pytest.fail("two runs held the store")


def test_another_process_holds_the_store_until_it_is_killed(small):
    command = [sys.executable, "-c", HOLD, str(small.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        refusal = pytest.raises(StoreError, match=f"written by process {holder.pid} on")
        with refusal, small.lock():
            pytest.fail("two runs held the store")
        holder.kill()
    with small.lock():
        record = json.loads((small.path / "_run.json").read_text())
    assert record["pid"] == os.getpid()


def test_a_lock_is_free_after_an_error(small):
    with pytest.raises(KeyError), small.lock():
        raise KeyError
    assert not (small.path / "_run.json").exists()
    with small.lock():
        assert (small.path / "_run.json").exists()


def test_a_patient_writer_waits_for_the_first_to_end(small, monkeypatch):
    order, has_tried = [], threading.Event()

    class AnnouncingLock(FileLock):
        def _acquire(self):
            super()._acquire()
            has_tried.set()

    def write_too():
        with small.lock(wait=True):
            order.append("second")

    second = threading.Thread(target=write_too)
    with small.lock():
        monkeypatch.setattr("twostage.store.locking.FileLock", AnnouncingLock)
        second.start()
        assert has_tried.wait(timeout=20)
        order.append("first")
    second.join(timeout=20)
    assert order == ["first", "second"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_embedding_column_keeps_nulls_and_survives_slicing(dtype):
    schema = part_schema(SPEC | {"storage_dtype": dtype})
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    array = embedding_array(matrix, np.array([True, False, True, True]), schema)
    assert array.null_count == 1
    column = pa.chunked_array([array.slice(1, 2), array.slice(3)])
    np.testing.assert_array_equal(embedding_matrix(column, 3), [[np.nan] * 3, matrix[2], matrix[3]])


def test_the_length_of_a_damaged_store_is_a_store_error(small):
    (small.path / "part-000000.parquet").write_bytes(b"PAR1")
    with pytest.raises(StoreError, match="can't be read"):
        len(small)


def test_a_store_that_another_run_takes_away_is_made_again_by_the_one_that_waits(
    small, monkeypatch, caplog
):
    has_tried, is_there = threading.Event(), []

    class AnnouncingLock(FileLock):
        def _acquire(self):
            super()._acquire()
            has_tried.set()

    def wait_for_it():
        with locked(small.path, wait=True):
            is_there.append(small.path.is_dir())

    second = threading.Thread(target=wait_for_it)
    with caplog.at_level("INFO", "twostage"), small.lock():
        monkeypatch.setattr("twostage.store.locking.FileLock", AnnouncingLock)
        second.start()
        assert has_tried.wait(timeout=20)
        delete_files(small.path)
    second.join(timeout=20)
    assert is_there == [True]
    assert f"Waiting for process {os.getpid()} on " in caplog.text
    assert not small.path.exists()


def test_a_killed_deletion_leaves_a_store(small, monkeypatch):
    def die(path, **_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.unlink", die)
    with pytest.raises(KeyboardInterrupt):
        delete_files(small.path)
    monkeypatch.undo()
    assert contents(small)
    (small.path / PART).unlink()
    delete_files(small.path)
    assert files(small.path) == []


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(small, monkeypatch):
    order = []
    really = {name: getattr(os, name) for name in ("fsync", "replace", "mkdir")}

    def recorded(name):
        def call(target, *more, **options):
            path = Path(more[0] if name == "replace" else target) if name != "fsync" else None
            path = path or Path(f"/proc/self/fd/{target}").readlink()
            order.append((name, path.name))
            return really[name](target, *more, **options)

        return call

    for name in really:
        monkeypatch.setattr(f"twostage.store.files.os.{name}", recorded(name))
    small.write_part("part-000001.parquet", rows(small, d=[4, 4, 4]))
    assert order == [
        ("fsync", "_tmp-part-000001.parquet~"),
        ("replace", "part-000001.parquet"),
        ("fsync", "store"),
    ]
    order.clear()
    make_folder(small.path / "a" / "b")
    assert order == [("mkdir", "a"), ("fsync", "store"), ("mkdir", "b"), ("fsync", "a")]


def test_a_store_that_vanishes_is_an_error_that_says_so(small):
    part = rows(small, d=[4, 4, 4])
    moved = small.path.rename(small.path.with_name("moved"))
    for look in (small.parts, small.index, small.to_pandas, lambda: len(small)):
        with pytest.raises(StoreError, match=r"can't be listed: No such file.* Check that"):
            look()
    with pytest.raises(StoreError, match=r"is gone: its folder was moved, deleted or unmounted"):
        small.write_part("part-000001.parquet", part)
    small.path.mkdir()
    with pytest.raises(StoreError, match=r"is gone: its folder was moved, deleted or unmounted"):
        small.write_part("part-000001.parquet", part)
    assert files(small.path) == []
    assert files(moved) == ["_store.json", PART]


def test_a_disk_that_can_not_be_read_is_no_damage(small, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(small.files, "open", refuse)
    with pytest.raises(StoreError, match=r"can't be read: .*Input/output error.* Check disk and"):
        small.index()


@pytest.mark.parametrize(
    "spec",
    [
        *(None, [], {}, SPEC | {"dim": "3"}, SPEC | {"dim": -1}, SPEC | {"dim": 1.5}),
        *(SPEC | {"dim": 2**40}, SPEC | {"storage_dtype": "int8"}),
    ],
)
def test_a_record_that_does_not_say_what_embeddings_look_like_is_refused(small, spec):
    path = small.path / "_store.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"spec": spec}))
    with pytest.raises(StoreError, match="does not say which backbone made it"):
        EmbeddingStore(small.path)


def test_a_store_can_not_be_made_or_remembered_on_a_full_disk(tmp_path, monkeypatch):
    store = EmbeddingStore.create(tmp_path / "store", SPEC, seen=SeenRows(is_known=False))

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("twostage.store.files.os.replace", refuse)
    for write in (
        lambda: EmbeddingStore.create(tmp_path / "other", SPEC),
        lambda: store.remember(SeenRows()),
        lambda: store.lock().__enter__(),
    ):
        with pytest.raises(StoreError, match=r"Can't write the store .*: No space left on device"):
            write()
    monkeypatch.undo()
    assert not EmbeddingStore(store.path).seen.is_known


def test_a_folder_in_which_a_store_is_being_made_is_no_wrong_place(tmp_path, monkeypatch):
    really_list = StoreFiles.names
    (tmp_path / "_lock").touch()

    def list_late(self):
        monkeypatch.undo()
        store = EmbeddingStore.create(self.folder, SPEC)
        store.write_part(PART, rows(store, a=[1, 2, 3]))
        return really_list(self)

    monkeypatch.setattr(StoreFiles, "names", list_late)
    check_folder(tmp_path)
    assert EmbeddingStore.exists_at(tmp_path)
