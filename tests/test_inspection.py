"""`info` counts what a store holds; `verify` finds what is wrong with it."""

import json
import os
import platform

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from stores import SPEC, rows

from twostage.errors import StoreError
from twostage.seen import SeenRows
from twostage.store.store import EmbeddingStore

PART = "part-000000.parquet"


def sound(store, **embeddings):
    """Make rows whose digests look like digests."""
    table = rows(store, **embeddings)
    hashes = [f"{i:032x}" for i in range(len(table))]
    return table.set_column(1, "content_hash", pa.array(hashes))


@pytest.fixture
def store(tmp_path):
    store = EmbeddingStore.create(tmp_path / "store", SPEC)
    store.write_part(PART, sound(store, a=[1, 2, 3], b=None, c=[7, 8, 9]))
    return store


def faults(store):
    return [(fault.where, fault.what) for fault in store.verify()]


def set_column(store, **columns):
    table = store.read_part(PART)
    for name, values in columns.items():
        number = table.schema.get_field_index(name)
        array = pa.array(values, table.schema.field(name).type)
        table = table.set_column(number, table.schema.field(name), array)
    store.put_part(PART, table)


def test_info_counts_rows_errors_and_bytes(store):
    unread = sound(store, d=None, e=None)
    unread = unread.set_column(7, "error", pa.array(["read: no such file", "decode: broken"]))
    store.write_part("part-000001.parquet", unread)
    info = store.info()
    assert (info.n_rows, info.n_embedded, info.n_contents, info.n_parts) == (5, 2, 2, 2)
    assert info.n_errors == {"decode": 2, "read": 1}
    assert info.size_bytes == sum((store.path / part).stat().st_size for part in store.parts())
    assert (info.spec, info.n_seen, info.writer, info.format_version) == (SPEC, 0, None, 2)
    assert "pyarrow" in info.versions


def test_info_names_the_run_that_writes(store):
    with store.lock():
        assert store.info().writer.startswith(f"process {os.getpid()} on ")
    holder = {"pid": 2**22 + 1, "host": platform.node(), "since": "long ago"}
    (store.path / "_run.json").write_text(json.dumps(holder))
    assert store.info().writer is None
    (store.path / "_run.json").write_text(json.dumps(holder | {"host": "elsewhere"}))
    assert store.info().writer == f"process {2**22 + 1} on elsewhere since long ago"


def test_a_sound_store_has_no_fault(store):
    assert store.verify() == []
    with store.lock():
        (store.path / "_tmp-part-000001.parquet~").write_bytes(b"being written")
        assert store.verify() == []
    EmbeddingStore.create(store.path.with_name("empty"), SPEC)
    assert EmbeddingStore(store.path.with_name("empty")).verify() == []


@pytest.mark.parametrize("place", ["start", "middle", "end"])
def test_a_flipped_bit_is_a_fault(store, place):
    path = store.path / PART
    data = bytearray(path.read_bytes())
    data[{"start": 40, "middle": len(data) // 4, "end": -20}[place]] ^= 4
    path.write_bytes(data)
    ((where, what),) = faults(store)
    assert where == PART
    assert "can't be read" in what or "another backbone" in what


def test_no_bit_of_the_numbers_can_flip_unnoticed(store):
    path = store.path / PART
    chunk = pq.read_metadata(path).row_group(0).column(6)
    assert chunk.path_in_schema.startswith("embedding")
    intact = path.read_bytes()
    for offset in range(chunk.data_page_offset, chunk.data_page_offset + 40):
        path.write_bytes(intact[:offset] + bytes([intact[offset] ^ 1]) + intact[offset + 1 :])
        try:
            found = store.embeddings(["a", "c"])
        except StoreError:
            continue
        np.testing.assert_array_equal(found, [[1, 2, 3], [7, 8, 9]])


@pytest.mark.parametrize(
    ("columns", "what"),
    [
        ({"error": [None, None, None]}, "1 image with neither an embedding nor an error, or both"),
        ({"error": [None, "decode: x", "read: y"]}, "neither an embedding nor an error, or both"),
        ({"error": [None, "odd", None]}, "1 image with an error of an unknown kind; first: 'b'"),
        ({"content_hash": ["0" * 32, None, "1" * 32]}, "with no digest of their bytes"),
        ({"content_hash": ["0" * 32, "x", "y"]}, "2 images with something else for a digest"),
        ({"image": ["a", None, "c"]}, "1 image with no name"),
        ({"embedding": [[1, 2, 3], None, [7, np.nan, 9]]}, "1 image whose embedding holds NaN"),
        ({"embedding": [[1, 1, 1], None, [7, 8, 9]]}, "one number, repeated; first: 'a'"),
    ],
)
def test_rows_that_can_not_be_are_faults(store, columns, what):
    set_column(store, **columns)
    assert [what in found for _, found in faults(store)] == [True]


def test_images_that_all_have_one_embedding_are_a_fault(store):
    set_column(store, embedding=[[1, 2, 3], None, [1, 2, 3]])
    assert "all 2 different images have the same embedding" in faults(store)[0][1]
    set_column(store, content_hash=["0" * 32] * 3)
    assert faults(store) == []
    other = sound(store, d=[1, 2, 3]).set_column(1, "content_hash", pa.array(["f" * 32]))
    store.put_part("part-000001.parquet", other)
    assert "all 2 different images have the same embedding" in faults(store)[0][1]


def test_an_image_with_two_rows_is_a_fault(store):
    store.put_part("part-000001.parquet", sound(store, c=[7, 8, 9]))
    ((where, what),) = faults(store)
    assert where == str(store.path)
    assert what.startswith("1 image in more than one row; first: 'c', in 'part-000000.parquet', ")


def test_parts_that_do_not_belong_are_faults(store, tmp_path):
    other = EmbeddingStore.create(tmp_path / "other", SPEC | {"architecture": "another"})
    other.write_part("part-000003.parquet", sound(other, z=[1, 2, 3]))
    (other.path / "part-000003.parquet").rename(store.path / "part-000003.parquet")
    ((where, what),) = faults(store)
    assert where == "part-000003.parquet"
    assert "another backbone than the store it lies in: architecture is another, not fake" in what


def test_a_part_of_other_columns_is_a_fault(store):
    table = store.read_part(PART).drop(["width"])
    pq.write_table(table, store.path / PART)
    assert "has not the columns of a store's part" in faults(store)[0][1]
    with pytest.raises(StoreError, match="has not the columns"):
        store.index()


def test_files_that_do_not_belong_are_faults(store):
    (store.path / "_tmp-part-000001.parquet~").write_bytes(b"x")
    (store.path / "other.parquet").write_bytes(b"x")
    (store.path / "_mine.txt").write_bytes(b"x")
    store.put_part("part-000000-000001.parquet", store.read_part(PART), replaces=[PART])
    assert [where for where, _ in faults(store)] == [
        PART,
        "_tmp-part-000001.parquet~",
        "other.parquet",
    ]


def test_a_lost_list_of_seen_rows_is_a_fault(tmp_path):
    seen = SeenRows(frozenset({"0" * 32}))
    store = EmbeddingStore.create(tmp_path / "tuned", SPEC, seen=seen)
    assert store.verify() == []
    (store.path / "_seen.parquet").write_bytes(b"x")
    assert "trained on is lost or damaged" in faults(store)[0][1]


def test_verify_needs_no_right_to_write(store, monkeypatch):
    monkeypatch.setattr("twostage.store.files.replace_file", lambda *_: pytest.fail("written"))
    assert store.verify() == []
    assert store.info().n_rows == 3
