"""A store behind a URL is what it is in a folder: in memory, and against a real S3 API."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from click.testing import CliRunner
from stores import SPEC, rows

from twostage.cli.main import main
from twostage.errors import StoreError
from twostage.extraction import extract
from twostage.seen import SeenRows
from twostage.store.holders import machine
from twostage.store.locking import holder_of
from twostage.store.schema import embedding_array, part_schema
from twostage.store.store import EmbeddingStore

PARTS = ["part-000000.parquet", "part-000001.parquet", "part-000002.parquet"]
HOLD = """
import sys
from twostage.store.store import EmbeddingStore
with EmbeddingStore(sys.argv[1]).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def place(scheme, request, tmp_path, monkeypatch):
    """Yield where a store may be."""
    monkeypatch.setattr("twostage.remote._WAITS_S", (0.0, 0.0, 0.0))
    if scheme == "s3":
        request.getfixturevalue("environment")
    system = fsspec.filesystem(scheme)
    bucket = f"bucket-{abs(hash(str(tmp_path)))}"
    system.mkdir(bucket)
    yield f"{scheme}://{bucket}/a folder/store"
    system.rm(bucket, recursive=True)


@pytest.fixture(params=["memory", pytest.param("s3", marks=pytest.mark.slow)])
def url(request, tmp_path, monkeypatch):
    """Return where a store may be, in memory and in a bucket."""
    yield from place(request.param, request, tmp_path, monkeypatch)


@pytest.fixture
def in_bucket(request, tmp_path, monkeypatch):
    """Return where a store may be in a bucket, whose server may fail."""
    yield from place("s3", request, tmp_path, monkeypatch)


@pytest.fixture
def small_shards(monkeypatch):
    """Give a part two images, so that six make three."""
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", 2)


@pytest.fixture
def small(url):
    """Return a store with one part of two images and an unreadable one between them."""
    store = EmbeddingStore.create(url, SPEC)
    store.write_part(PARTS[0], rows(store, a=[1, 2, 3], b=None, c=[7, 8, 9]))
    return store


def contents(store):
    frame = store.to_pandas().sort_values("image").reset_index(drop=True)
    return frame.drop(columns="mtime_ns")


def counts(summary):
    return summary.n_computed, summary.n_reused, summary.n_unchanged, summary.n_errors


def file_system(url):
    return fsspec.url_to_fs(url, use_listings_cache=False)


def names(url):
    system, path = file_system(url)
    return sorted(one.rpartition("/")[2] for one in system.find(path))


def write(url, name, data):
    system, path = file_system(url)
    system.pipe_file(f"{path}/{name}", data)


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


def test_a_store_behind_a_url_equals_one_in_a_folder(
    url, photos, tmp_path, fake_backbone, small_shards
):
    (photos / "cats" / "broken.png").write_bytes(b"no image")
    assert counts(extract(photos, tmp_path / "store")) == (6, 0, 0, 1)
    assert counts(extract(photos, url)) == (6, 0, 0, 1)
    local, remote = EmbeddingStore(tmp_path / "store"), EmbeddingStore(url)
    assert names(url) == ["_store.json", *PARTS, "part-000003.parquet"]
    pd.testing.assert_frame_equal(contents(remote), contents(local))
    assert remote.spec == local.spec
    assert remote.path == url
    assert repr(remote) == f"EmbeddingStore({url!r})"
    assert remote.verify() == []
    assert remote.info().n_rows == len(remote) == 7
    assert sorted(pd.read_parquet(url)["image"]) == sorted(contents(remote)["image"])


def test_only_what_is_new_or_changed_is_written(
    url, photos, photo, fake_backbone, small_shards, monkeypatch
):
    monkeypatch.setattr("twostage.images.loading.UNSETTLED_NS", -(10**12))
    extract(photos, url)
    before = {part: EmbeddingStore(url).read_part(part) for part in PARTS}
    assert counts(extract(photos, url)) == (0, 0, 6, 0)
    photo(photos / "cats" / "2.png", (1, 2, 3), (20, 20))
    assert counts(extract(photos, url)) == (1, 0, 5, 0)
    after = EmbeddingStore(url)
    assert [part for part in PARTS if not after.read_part(part).equals(before[part])] == [PARTS[1]]
    assert after.embeddings(["cats/2.png"]).tolist() == [[1, 2, 3]]
    assert len(after) == 6


def test_a_run_that_ends_between_parts_is_gone_on_with(
    url, photos, fake_backbone, small_shards, monkeypatch
):
    really_write = EmbeddingStore.write_part

    def die_at_the_third(self, part, table):
        if part == PARTS[2]:
            raise KeyboardInterrupt
        really_write(self, part, table)

    monkeypatch.setattr(EmbeddingStore, "write_part", die_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        extract(photos, url)
    assert names(url) == ["_store.json", *PARTS[:2]]
    monkeypatch.setattr(EmbeddingStore, "write_part", really_write)
    n_embedded = fake_backbone.n_embedded
    extract(photos, url)
    assert fake_backbone.n_embedded == n_embedded + 2
    store = EmbeddingStore(url)
    assert len(store) == len(set(store.index()["image"].to_pylist())) == 6


def test_compact_and_prune_and_delete(url, photos, fake_backbone, small_shards):
    extract(photos, url)
    store = EmbeddingStore(url)
    before = contents(store)
    assert store.compact().n_after == 1
    assert names(url) == ["_store.json", "part-000000-000002.parquet"]
    pd.testing.assert_frame_equal(contents(store), before)
    (photos / "dogs" / "0.png").unlink()
    result = invoke("store", "prune", url, "--images", photos)
    assert result.output == f"{url}: 1 row dropped, 5 rows left.\n"
    assert len(store) == 5
    assert store.verify() == []
    store.delete()
    assert names(url) == []
    with pytest.raises(StoreError, match=r"There is no store '.*'\. Make it with"):
        EmbeddingStore(url)


def test_what_a_backbone_has_seen_is_remembered(url):
    store = EmbeddingStore.create(url, SPEC, seen=SeenRows(frozenset({"x"}), frozenset({"g"}), "c"))
    assert EmbeddingStore(url).seen == SeenRows(frozenset({"x"}), frozenset({"g"}), "c")
    write(url, "_seen.parquet", b"damaged")
    assert not store.seen.is_known


def test_a_second_run_is_refused_naming_the_first(small, url):
    message = rf"'{url}' is being written by process {os.getpid()} on \S+ since 2\d{{3}}-"
    with small.lock():
        for store in (small, EmbeddingStore(url)):
            with pytest.raises(StoreError, match=message), store.lock():
                pytest.fail("two runs held the store")
        assert small.info().writer == holder_of(url)
        assert names(url) == ["_lock-000001", "_store.json", PARTS[0]]
        small.write_part(PARTS[1], rows(small, d=[4, 4, 4]))
    assert holder_of(url) is None
    assert names(url) == ["_store.json", *PARTS[:2]]


def test_a_waiting_run_gets_the_lock_of_one_that_ends(small, url, monkeypatch):
    monkeypatch.setattr("twostage.store.lease._LOOKED_EVERY_S", 0.01)
    order = []

    def write_too():
        with EmbeddingStore(url).lock(wait=True):
            order.append("second")

    second = threading.Thread(target=write_too)
    with small.lock():
        second.start()
        time.sleep(0.1)
        order.append("first")
    second.join(timeout=20)
    assert order == ["first", "second"]


def stale_lock(url, number=1, **facts):
    holder = {"pid": 7, "host": "elsewhere", "since": "2026-01-01", "machine": "x", "token": "y"}
    write(url, f"_lock-{number:06d}", json.dumps({**holder, **facts}).encode())


def test_the_lock_of_another_machine_is_taken_over_once_it_is_silent(small, url, monkeypatch):
    stale_lock(url, 3)
    with (
        pytest.raises(
            StoreError, match=r"by process 7 on elsewhere since 2026-01-01\. .* ends 5 m"
        ),
        small.lock(),
    ):
        pytest.fail("two runs held the store")
    stale_after_s = 0.05 if url.startswith("memory") else 1.0
    monkeypatch.setattr("twostage.store.lease.STALE_AFTER_S", stale_after_s)
    time.sleep(stale_after_s + 1.1 * (stale_after_s == 1.0))  # a server counts whole seconds
    with small.lock():
        assert names(url) == ["_lock-000004", "_store.json", PARTS[0]]
    assert names(url) == ["_store.json", PARTS[0]]


def test_a_lock_that_says_nothing_holds(small, url):
    write(url, "_lock-000001", b"{")
    refused = pytest.raises(StoreError, match=r"is being written by another run\.")
    with refused, small.lock():
        pytest.fail("two runs held the store")


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_over_at_once(small, url):
    with subprocess.Popen(["true"]) as gone:
        pass
    stale_lock(url, pid=gone.pid, machine=machine())
    assert holder_of(url) is None
    with small.lock():
        assert names(url)[0] == "_lock-000002"


def test_of_many_that_want_a_stale_lock_one_gets_it_at_a_time(small, url, monkeypatch):
    monkeypatch.setattr("twostage.store.lease._is_over", lambda holder, *_: holder["pid"] == 7)
    holding, most, n_held = [], [], []

    def want():
        try:
            with EmbeddingStore(url).lock():
                holding.append(1)
                most.append(len(holding))
                n_held.append(1)
                time.sleep(0.02)
                holding.pop()
        except StoreError:
            pass

    for _ in range(5):
        stale_lock(url)
        threads = [threading.Thread(target=want) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
    assert n_held
    assert max(most) == 1
    assert [name for name in names(url) if name.startswith("_lock")] in ([], ["_lock-000001"])


def test_a_lock_is_renewed(small, url, monkeypatch):
    monkeypatch.setattr("twostage.store.lease.RENEWED_EVERY_S", 0.01)
    written = threading.Event()
    really_renew = type(small.files).renew

    def renew(self, name, data):
        really_renew(self, name, data)
        written.set()

    monkeypatch.setattr(type(small.files), "renew", renew)
    with small.lock():
        before = small.files.read("_lock-000001")
        assert written.wait(timeout=20)
        assert small.files.read("_lock-000001") == before


def test_a_run_that_was_asleep_writes_nothing_and_leaves_the_other_runs_lock(
    small, url, monkeypatch
):
    with small.lock():
        clock = time.time() + 3600
        monkeypatch.setattr("twostage.store.lease.time.time", lambda: clock)
        with pytest.raises(
            StoreError, match=r"could not renew its lock .* for 3600 s.*same command"
        ):
            small.write_part(PARTS[1], rows(small, d=[4, 4, 4]))
    assert names(url) == ["_lock-000001", "_store.json", PARTS[0]]


DIM = 2000


def part_of(store, images):
    """Return rows of some images, whose embeddings are noise of a seed that the name is."""
    table = rows(EmbeddingStoreOfThree(), **{image: [0, 0, 0] for image in images})
    noise = [np.random.default_rng(ord(image)).bytes(4 * DIM) for image in images]
    matrix = np.frombuffer(b"".join(noise), np.float32).reshape(len(images), DIM)
    columns = {name: table[name] for name in table.schema.names}
    is_valid = np.ones(len(images), bool)
    columns["embedding"] = embedding_array(matrix, is_valid, store.schema)
    return pa.table(columns, schema=store.schema)


class EmbeddingStoreOfThree:
    """What `rows` needs of a store."""

    schema = part_schema(SPEC)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
@pytest.mark.parametrize("newer", ["ba", "xyz"])
def test_a_part_that_is_written_anew_meanwhile_is_read_again(url, at, newer, monkeypatch):
    monkeypatch.setattr("twostage.store.remote_files._TAIL_BYTES", 1 << 12)
    store = EmbeddingStore.create(url, SPEC | {"dim": DIM})
    expected = part_of(store, newer)
    really_read, n_read = type(store.files)._read_range, []

    def read_and_write(self, name, start, end):
        n_read.append(start)
        if len(n_read) == at:
            EmbeddingStore(url).put_part(PARTS[0], expected)
        return really_read(self, name, start, end)

    monkeypatch.setattr(type(store.files), "_read_range", read_and_write)
    store.put_part(PARTS[0], part_of(store, "ab"))
    found = store.embeddings(["a", "b", "z"])
    wanted = part_of(store, "abz")["embedding"].combine_chunks().flatten().to_numpy()
    is_there = np.isin(list("abz"), list(newer))
    np.testing.assert_array_equal(
        found, np.where(is_there[:, None], wanted.reshape(3, DIM), np.float32("nan"))
    )
    n_read.clear()
    store.put_part(PARTS[0], part_of(store, "ab"))
    images = list(newer if at <= 2 else "ab")
    assert store.read_part(PARTS[0])["image"].to_pylist() == images


def test_damage_is_found(small, url):
    write(url, PARTS[1], b"PAR1 and no more")
    with pytest.raises(StoreError, match=r"000001\.parquet' can't be read .*Delete it and run"):
        small.to_pandas()
    assert [fault.where for fault in small.verify()][1:] == [PARTS[1]]
    write(url, "_store.json", b"{")
    with pytest.raises(StoreError, match=r"is not a store: it has no readable _store\.json"):
        EmbeddingStore(url)


def test_a_store_is_not_made_over_other_things(url, photos, fake_backbone):
    write(url, "thesis.txt", b"precious")
    with pytest.raises(StoreError, match="is a folder with other files in it"):
        extract(photos, url)
    assert names(url) == ["thesis.txt"]
    assert not fake_backbone.built


def test_commands_take_the_url_of_a_store(url, photos, photo, tmp_path, fake_backbone, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(3, 8):
        photo(photos / "cats" / f"{i}.png", (10 * i, 0, 100))
        photo(photos / "dogs" / f"{i}.png", (10 * i, 200, 0))
    result = invoke("extract", photos, "-o", url, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{url}: 16 images, 16 embedded now")
    assert invoke("store", "verify", url).output == f"{url}: 16 images in 1 part, no fault.\n"
    assert invoke("store", "info", url).output.startswith(f"{url}: 16 images in 1 part")
    assert invoke("store", "compact", url).output == f"{url}: 1 part made into 1.\n"
    result = invoke(
        *("fit", url, "--target-from-folder", "--head", "linear", "-o", "model", "--quiet")
    )
    assert result.exit_code == 0, result.output
    result = invoke("predict", "model", "--store", url, "-o", "predictions.csv", "--quiet")
    assert result.exit_code == 0, result.output
    assert len(pd.read_csv("predictions.csv")) == 16
    assert sorted(os.listdir(tmp_path)) == ["model", "photos", "predictions.csv"]


def test_a_place_where_half_a_file_could_be_left_is_refused(photos, tmp_path, fake_backbone):
    result = invoke("extract", photos, "-o", "http://127.0.0.1:9/store")
    assert result.exit_code == 2
    assert "A store can't be written to 'http://127.0.0.1:9/store': a run that" in result.output


def test_a_url_of_the_disk_is_its_folder(photos, tmp_path, fake_backbone):
    extract(photos, f"file://{tmp_path}/store")
    assert len(EmbeddingStore(tmp_path / "store")) == 6
    assert EmbeddingStore(f"file://{tmp_path}/store").path == tmp_path / "store"


EXTRACT = """
import sys
from conftest import FakeBuilder
import twostage.backbones.lazy, twostage.store.planning
from twostage.extraction import extract
twostage.backbones.lazy.build = FakeBuilder()
twostage.store.planning.SHARD_SIZE = 2
extract(sys.argv[1], sys.argv[2])
"""


@pytest.fixture
def bucket_of_photos(in_bucket, photos):
    system, path = file_system(in_bucket)
    folder = path.replace("store", "photos")
    for photo in photos.rglob("*.png"):
        system.put_file(str(photo), f"{folder}/{photo.relative_to(photos)}")
    return in_bucket.replace("store", "photos")


def puts(environment):
    return [request for request in environment.requests if request.startswith("PUT ")]


@pytest.mark.parametrize("k", [1, 2, 3, 5])
@pytest.mark.slow
def test_a_run_killed_before_its_kth_put_is_gone_on_with(
    k, in_bucket, environment, bucket_of_photos, photos, tmp_path, fake_backbone, small_shards
):
    extract(photos, tmp_path / "store")
    command = [sys.executable, "-c", EXTRACT, bucket_of_photos, in_bucket]
    path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    environment.clear()

    def kill(request):
        if request.startswith("PUT ") and len(puts(environment)) == k - 1:
            run.kill()
            run.wait()
            environment.failing = {"PUT": 1}  # of what was sent, nothing arrives

    environment.before = kill
    with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}) as run:
        pass
    environment.clear()
    assert run.returncode == -9
    n_before = fake_backbone.n_embedded
    extract(bucket_of_photos, in_bucket)
    n_committed = max(k - 3, 0)  # the lock and the record come before the parts
    assert fake_backbone.n_embedded == n_before + 6 - 2 * n_committed
    resumed, undisturbed = EmbeddingStore(in_bucket), EmbeddingStore(tmp_path / "store")
    pd.testing.assert_frame_equal(contents(resumed), contents(undisturbed))
    assert resumed.verify() == []
    assert names(in_bucket) == ["_store.json", *PARTS]


@pytest.mark.slow
def test_puts_that_fail_for_a_moment_are_tried_again(
    in_bucket, environment, photos, fake_backbone, small_shards
):
    environment.failing = {"PUT": 3}
    extract(photos, in_bucket)
    assert environment.n_failed == 3
    assert len(EmbeddingStore(in_bucket)) == 6


@pytest.mark.slow
def test_a_server_that_takes_no_more_ends_the_run_and_leaves_the_store(
    in_bucket, environment, photos, fake_backbone, small_shards
):
    def fail_from_now_on(request):
        if request.startswith("PUT ") and PARTS[2] in request:
            environment.failing = {"PUT": 10**6}

    environment.before = fail_from_now_on
    result = invoke("extract", photos, "-o", in_bucket)
    assert result.exit_code == 1
    assert (
        f"Error: Can't write '{in_bucket}/{PARTS[2]}': Service Unavailable. The store holds all "
        "parts written before; run the same command again to continue.\n"
    ) in result.output
    assert environment.n_failed == 4
    environment.clear()
    assert names(in_bucket) == ["_store.json", *PARTS[:2]]
    assert EmbeddingStore(in_bucket).verify() == []
    n_before = fake_backbone.n_embedded
    extract(photos, in_bucket)
    assert fake_backbone.n_embedded == n_before + 2


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_said_in_one_line(
    in_bucket, environment, photos, fake_backbone, monkeypatch
):
    extract(photos, in_bucket)
    environment.failing = {"GET": 10**6, "HEAD": 10**6}
    for words in (["store", "info", in_bucket], ["extract", photos, "-o", in_bucket]):
        result = invoke(*words)
        assert result.exit_code == 1
        assert result.output.startswith(f"Error: The store '{in_bucket}' can't be ")
        assert result.output.count("\n") == 1
    environment.clear()
    result = invoke("extract", photos, "-o", "s3://no-such-bucket/store")
    assert result.exit_code == 1
    assert result.output.endswith(
        "\nError: Can't write the store 's3://no-such-bucket/store': The specified bucket does not "
        "exist.\n"
    )


@pytest.mark.slow
def test_another_process_holds_the_store_until_it_is_killed(in_bucket):
    store = EmbeddingStore.create(in_bucket, SPEC)
    command = [sys.executable, "-c", HOLD, in_bucket]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline().strip() == b"held"
        refusal = pytest.raises(StoreError, match=f"written by process {holder.pid} on")
        with refusal, store.lock():
            pytest.fail("two runs held the store")
        assert store.info().writer == holder_of(in_bucket)
        holder.kill()
    assert holder_of(in_bucket) is None
    with store.lock():
        assert names(in_bucket) == ["_lock-000002", "_store.json"]


@pytest.mark.slow
def test_the_index_of_a_store_costs_no_embeddings(in_bucket, environment):
    store = EmbeddingStore.create(in_bucket, SPEC)
    for part in PARTS:
        store.write_part(part, rows(store, **{part: [1, 2, 3]}))
    environment.clear()
    assert len(EmbeddingStore(in_bucket).index()) == 3
    assert len([request for request in environment.requests if PARTS[0] in request]) == 2


@pytest.mark.slow
def test_of_two_locks_made_at_once_by_the_server_one_is(in_bucket):
    files = EmbeddingStore.create(in_bucket, SPEC).files
    made = []

    def make(i):
        try:
            files.create("_lock-000001", str(i).encode())
            made.append(i)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=make, args=[i]) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=20)
    assert len(made) == 1
    assert files.read("_lock-000001") == str(made[0]).encode()


@pytest.mark.slow
def test_a_benchmark_takes_the_url_of_a_store(in_bucket, photos, photo, tmp_path, fake_backbone):
    for i in range(3, 10):
        photo(photos / "cats" / f"{i}.png", (10 * i, 0, 100))
        photo(photos / "dogs" / f"{i}.png", (10 * i, 200, 0))
    extract(photos, in_bucket)
    words = ["--target-from-folder", "--heads", "linear", "--folds", "2", "-o", tmp_path / "out"]
    result = invoke("benchmark", in_bucket, *words, "--near-duplicates", "off", "--quiet")
    assert result.exit_code == 0, result.output
    (record,) = json.loads((tmp_path / "out" / "run.json").read_text())["stores"]
    assert (record["name"], record["path"]) == ("store", in_bucket)
