"""Extraction by the workers of a Ray cluster: a store equal to that of a local run."""

import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from buckets import settings
from click.testing import CliRunner
from partitioned import make_partitioned
from PIL import Image
from stores import SPEC, rows

from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.cli.main import main
from twostage.errors import ExecutorError, ImagesError, StoreError, UsageError
from twostage.executors import ray as ray_executor
from twostage.executors.host import Host
from twostage.executors.ray import (
    RayExecutor,
    RayOptions,
    ReadyWorker,
    check_reachable,
    choose_cpus,
    count_room,
)
from twostage.extraction import ExtractionOptions, extract
from twostage.images.manifest import list_images
from twostage.remote_worker import WorkerRecipe
from twostage.store.agreement import settle
from twostage.store.locking import mark_of
from twostage.store.planning import Shard
from twostage.store.store import EmbeddingStore

TINY = {
    "backbone": "mobilenet_v2",
    "weights": "random",
    "image_size": 32,
    "engine": "openvino",
    "precision": "float32",
}
N_IMAGES = 60
SHARD_SIZE = 8


def invoke(*words):
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--address", "auto"], "address is of a Ray cluster.*--executor ray"),
        (["--ray-workers", "2"], "leave --ray-workers out"),
        (["--gpus-per-worker", "1"], "leave --gpus-per-worker out"),
        (["--executor", "ray", "--address", "nowhere"], "no address of a Ray cluster"),
        (["--executor", "ray", "--ray-workers", "0"], "0 is not in the range"),
        (["--executor", "ray", "--device", "gpu"], "--gpus-per-worker 1 instead"),
    ],
)
def test_options_of_a_cluster_that_make_no_sense_are_refused(
    photos, tmp_path, fake_backbone, words, message
):
    pytest.importorskip("ray")
    result = invoke("extract", photos, "-o", tmp_path / "store", *words)
    assert result.exit_code == 2
    assert re.search(message, result.stderr)
    assert not (tmp_path / "store").exists()


def test_without_ray_its_installation_is_told(photos, tmp_path, fake_backbone, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = invoke("extract", photos, "-o", tmp_path / "store", "--executor", "ray")
    assert result.exit_code == 1
    assert "pip install 'twostage[ray]'" in result.stderr
    assert not (tmp_path / "store").exists()


def test_an_executor_that_does_not_exist_is_refused():
    with pytest.raises(UsageError, match="executor must be one of local, ray; found 'dask'"):
        ExtractionOptions(executor="dask")
    with pytest.raises(UsageError, match="cpus_per_worker must be at least 1; found 0"):
        RayOptions(cpus_per_worker=0)


def test_an_address_where_nothing_listens_is_told_at_once(monkeypatch):
    with pytest.raises(ExecutorError, match=r"Nothing answers at '127\.0\.0\.1:1'"):
        check_reachable("127.0.0.1:1")

    def silent(*arguments):
        raise TimeoutError

    monkeypatch.setattr(ray_executor.socket, "create_connection", silent)
    with pytest.raises(ExecutorError, match=r"'ray://10.0.0.9:10001' \(timed out\)"):
        check_reachable("ray://10.0.0.9:10001")


@pytest.mark.parametrize("answer", [None, b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_what_answers_but_is_no_cluster_is_told(monkeypatch, answer):
    monkeypatch.setattr(ray_executor, "_REACH_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            connection, _ = server.accept()
            if answer is not None:
                connection.sendall(answer)
                connection.close()
            else:
                time.sleep(5)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(ExecutorError, match="is no Ray cluster"):
            check_reachable(f"127.0.0.1:{server.getsockname()[1]}")


def test_workers_take_whole_nodes_or_the_share_of_their_gpus():
    small, large, with_gpus = {"CPU": 4.0}, {"CPU": 64.0}, {"CPU": 32.0, "GPU": 8.0}
    assert choose_cpus([small, large], 0) == 4
    assert choose_cpus([large, {"CPU": 0.0}], 0) == 8
    assert choose_cpus([small, with_gpus], 1) == 4
    assert choose_cpus([small, with_gpus], 0.5) == 2
    assert choose_cpus([], 0) == 1
    assert count_room([small, large, {}], 4, 0) == 17
    assert count_room([small, with_gpus], 4, 1) == 8
    assert count_room([small], 4, 1) == 0


def test_a_run_with_nothing_to_do_needs_no_cluster(photos, tmp_path, fake_backbone, monkeypatch):
    for photo in photos.rglob("*.png"):
        os.utime(photo, (1e9, 1e9))  # so long ago that the time is trusted
    extract(photos, tmp_path / "store")
    monkeypatch.setitem(sys.modules, "ray", None)
    summary = extract(photos, tmp_path / "store", executor="ray")
    assert summary.n_unchanged == 6


def test_a_backbone_for_elsewhere_is_the_same_and_not_built(fake_backbone, tmp_path):
    file = tmp_path / "weights.h5"
    file.write_bytes(b"weights")
    here = LazyBackbone(BackboneSettings(weights=os.path.relpath(file)), "auto")
    here.get()
    there = here.elsewhere("cpu")
    assert there.spec == here.spec
    assert there.device is None
    assert there._settings.weights == str(file.resolve())


# --- by a Ray that is none ------------------------------------------------------------------------


class RayError(Exception):
    """The worker is gone."""


class RayTaskError(RayError):
    """The worker raised something."""

    def __init__(self, cause):
        super().__init__(str(cause))
        self.cause = cause


@dataclass(eq=False)
class Promise:
    """An answer that is computed when it is asked for."""

    ray: "FakeRay"
    host: Any
    answer: Callable[[], Any]

    def get(self):
        if self.host in self.ray.dead:
            raise RayError("the worker died")
        try:
            return self.answer()
        except Exception as error:
            raise RayTaskError(error) from error


class FakeActor:
    def __init__(self, ray, host):
        self.ray, self.host = ray, host

    def __getattr__(self, name):
        method = getattr(self.host, name)

        def remote(*arguments):
            promise = Promise(self.ray, self.host, partial(method, *arguments))
            if name == "give":
                promise.answer()
            return promise

        return SimpleNamespace(remote=remote)


class FakeRay:
    """Stands in for Ray: its actors are threads of this process.

    Attributes
    ----------
    hosts : list of Host
        That were started.
    dead : set of Host
        Of these, those that died.
    killed : list of Host
        Those that were ended.
    """

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    cloudpickle = SimpleNamespace(register_pickle_by_value=lambda module: None)

    def __init__(self, n_cpus=2):
        self.hosts, self.dead, self.killed = [], set(), []
        self.n_cpus = n_cpus

    def nodes(self):
        return [{"Alive": True, "Resources": {"CPU": float(self.n_cpus)}}] * 2

    def remote(self, **options):
        def start(cls):
            def actor(environment):
                self.hosts.append(cls({}))
                return FakeActor(self, self.hosts[-1])

            return SimpleNamespace(remote=actor)

        return start

    def put(self, thing):
        return thing

    def get(self, promise):
        return promise.get() if isinstance(promise, Promise) else promise

    def wait(self, promises, num_returns, timeout):
        return promises[:num_returns], promises[num_returns:]

    def kill(self, actor):
        self.killed.append(actor.host)


@dataclass(frozen=True)
class Letters:
    images: str


def split(shard):
    half = len(shard.images) // 2
    return Letters(shard.images[:half]), Letters(shard.images[half:])


def condemn(shard, n_before):
    return Letters(shard.images.upper())


@pytest.fixture
def fake_ray(monkeypatch):
    """Replace Ray, and let nothing wait for long."""
    ray = FakeRay()
    monkeypatch.setattr(ray_executor, "connected", lambda address: nullcontext(ray))
    monkeypatch.setattr(ray_executor, "_REPORT_S", 0.05)
    return ray


def work_of(ray, kills="", raises=None, stops=""):
    """Make what makes workers that return letters, but for some."""

    def recipe(progress):
        host = progress.__self__

        def run(shards):
            for shard in shards:
                if raises is not None:
                    raise raises
                if set(kills) & set(shard.images):
                    ray.dead.add(host)
                    time.sleep(60)
                if set(stops) & set(shard.images):
                    time.sleep(60)
                progress(len(shard.images), 0)
                yield shard.images

        return ReadyWorker(run, "paper")

    return recipe


def run_on(ray, recipe, *shards, **options):
    told = []
    executor = RayExecutor(
        RayOptions(**options), split, condemn, lambda done, n: told.append((done, n))
    )
    return sorted(executor.run(recipe, map(Letters, shards))), executor, told


def test_records_of_all_shards_come_back_and_all_actors_end(fake_ray):
    records, executor, told = run_on(fake_ray, work_of(fake_ray), "abc", "de", "fg", "h")
    assert records == ["abc", "de", "fg", "h"]
    assert executor.device == "paper"
    assert executor.condemned == []
    assert told[-1] == (8, 8)
    assert told == sorted(told)
    assert len(fake_ray.hosts) == 2
    assert set(fake_ray.killed) == set(fake_ray.hosts)


def test_no_more_workers_are_started_than_asked_for(fake_ray):
    run_on(fake_ray, work_of(fake_ray), "a", "b", "c", ray_workers=1)
    assert len(fake_ray.hosts) == 1


def test_a_letter_that_kills_is_found(fake_ray):
    records, executor, _ = run_on(fake_ray, work_of(fake_ray, kills="f"), "abcd", "efgh", "ij")
    assert sorted("".join(records)) == sorted("abcdeFghij")
    assert executor.condemned == ["f"]
    assert set(fake_ray.killed) == set(fake_ray.hosts)


def test_a_worker_that_does_nothing_is_ended(fake_ray):
    records, executor, _ = run_on(fake_ray, work_of(fake_ray, stops="b"), "abc", silence_s=0.3)
    assert sorted("".join(records)) == sorted("aBc")
    assert executor.condemned == ["b"]


def test_an_error_of_a_worker_ends_the_run(fake_ray):
    with pytest.raises(StoreError, match="the disk is full"):
        run_on(fake_ray, work_of(fake_ray, raises=StoreError("the disk is full")), "a", "b")
    with pytest.raises(ExecutorError, match=r"failed: 7\. This is a fault of"):
        run_on(fake_ray, work_of(fake_ray, raises=KeyError(7)), "a", "b")
    assert set(fake_ray.killed) == set(fake_ray.hosts)


def test_another_version_on_a_node_is_told(fake_ray, monkeypatch):
    monkeypatch.setattr(ray_executor, "__version__", "99.0")
    with pytest.raises(ExecutorError, match=r"has twostage .*; this is twostage 99\.0"):
        run_on(fake_ray, work_of(fake_ray), "a")
    monkeypatch.setattr(Host, "found", lambda self, package: ("here", None))
    with pytest.raises(ExecutorError, match="Node here has no twostage; this is"):
        run_on(fake_ray, work_of(fake_ray), "a")


def test_what_a_node_lacks_is_told_with_the_node(fake_ray):
    def recipe(progress):
        raise StoreError("the store can't be seen from it")

    with pytest.raises(ExecutorError, match=r"node .* can't start: the store can't be seen from"):
        run_on(fake_ray, recipe, "a")
    assert set(fake_ray.killed) == set(fake_ray.hosts)


def test_workers_that_die_before_they_begin_end_the_run(fake_ray):
    def dies(progress):
        fake_ray.dead.add(progress.__self__)
        raise SystemExit

    def died(self):
        try:
            return get(self)
        except SystemExit:
            raise RayError("out of memory") from None

    get = Promise.get
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Promise, "get", died)
        with pytest.raises(ExecutorError, match=r"3 workers in a row ended.*out of memory"):
            run_on(fake_ray, dies, "a")


def test_that_there_is_no_room_is_told(fake_ray, monkeypatch):
    monkeypatch.setattr(FakeRay, "wait", lambda self, promises, num_returns, timeout: ([], []))
    with pytest.raises(ExecutorError, match=r"One takes 3 CPUs and 1 GPUs; .* 2 CPUs and 0 GPUs"):
        run_on(fake_ray, None, "a", start_s=0.0, cpus_per_worker=3, gpus_per_worker=1)


@pytest.mark.parametrize("scheme", ["", "memory://"])
def test_a_worker_whose_run_is_gone_writes_no_more(photos, tmp_path, fake_backbone, scheme):
    place = f"{scheme}{tmp_path}/store"
    extract(photos, place)
    store, references = EmbeddingStore(place), list_images(photos)
    backbone = LazyBackbone(BackboneSpec.from_dict(store.spec, place), "cpu")
    shards = [
        Shard(f"part-00001{i}.parquet", [one._replace(image=f"{i}.png")])
        for i, one in enumerate(references[:2])
    ]
    with store.lock():
        recipe = WorkerRecipe(place, mark_of(place), backbone, references)
        worker = recipe(lambda done, n: None)
        assert len(list(worker.run(shards[:1]))) == 1
    with pytest.raises(StoreError, match="holds it no more"), store.lock():
        list(worker.run(shards[1:]))
    assert shards[1].part not in store.parts()
    with pytest.raises(StoreError, match="can't be seen from it"):
        recipe(lambda done, n: None)


def test_images_that_a_worker_does_not_see_are_told(photos, tmp_path, fake_backbone):
    extract(photos, tmp_path / "store")
    store = EmbeddingStore(tmp_path / "store")
    gone = [one._replace(path=f"/nowhere{one.path}") for one in list_images(photos)]
    recipe = WorkerRecipe(str(store.path), mark_of(store.path), LazyBackbone(SPEC, "cpu"), gone)
    with pytest.raises(ImagesError, match="images can't be read from it; for example '/nowhere/"):
        recipe(lambda done, n: None)


def test_equal_bytes_get_one_embedding(tmp_path):
    store = EmbeddingStore.create(tmp_path / "store", SPEC)
    first, other, last = (f"part-00000{i}.parquet" for i in range(3))
    store.write_part(first, rows(store, a=[1, 2, 3], b=None))
    again = rows(store, c=[1, 2, 3.5], d=[7, 8, 9])
    hashes = pa.array(["hash of a", "hash of d"])
    store.write_part(other, again.set_column(1, again.schema.field(1), hashes))
    store.write_part(last, rows(store, e=[4, 5, 6]))
    assert settle(store) == 1
    assert settle(store) == 0
    found = store.embeddings(["a", "c", "d", "e"]).tolist()
    assert found[0] == found[1]
    assert found[2:] == [[7, 8, 9], [4, 5, 6]]


def write_noise(folder, n):
    """Write images, no two alike."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    for i in range(n):
        pixels = random.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.png")


# --- with a cluster -------------------------------------------------------------------------------


class DeadlyRecipe(WorkerRecipe):
    """Makes workers that die of some images."""

    def __call__(self, progress):
        import os

        from twostage.images import loading

        decode = loading.decode

        def deadly(data, *arguments):
            if data.endswith(b"this kills"):
                os._exit(1)
            return decode(data, *arguments)

        loading.decode = deadly
        return super().__call__(progress)


@pytest.fixture(scope="module")
def cluster(server):
    """Start a cluster of two nodes with a core each, beside a head without any."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    variables = {
        **settings(server[1]),  # what is not there as a node starts, its workers don't know
        "RAY_raylet_start_wait_time_s": "120",  # where cores are busy
        "RAY_worker_niceness": "0",
    }
    small = {"object_store_memory": 80 << 20}
    head = {"num_cpus": 0, "include_dashboard": False, **small}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(num_cpus=1, **small)
        yield cluster
        cluster.shutdown()
    assert not ray.is_initialized()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder of noise, some of it twice, with an unreadable file."""
    folder = tmp_path_factory.mktemp("images")
    write_noise(folder, N_IMAGES)
    for i in (3, 12, 25):
        (folder / f"{i + 20:03d}.png").write_bytes((folder / f"{i:03d}.png").read_bytes())
    (folder / "030.png").write_bytes(b"no image")
    return folder


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", SHARD_SIZE)


@pytest.fixture(scope="module")
def parts(images, tmp_path_factory):
    """Return what the parts of a local run hold, by name."""
    store = tmp_path_factory.mktemp("local") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twostage.store.planning.SHARD_SIZE", SHARD_SIZE)
        extract(images, store, **TINY)
    return contents(store)


def contents(store):
    """Return by part what it holds, embeddings to the bit; times may be unsettled."""
    store = EmbeddingStore(store)
    return {part: store.read_part(part).drop_columns(["mtime_ns"]) for part in store.parts()}


def extract_on(cluster, images, store, **options):
    return extract(images, store, executor="ray", address=cluster.address, **TINY, **options)


@pytest.mark.slow
def test_the_store_is_equal_to_that_of_a_local_run(cluster, images, parts, tmp_path):
    told = []
    summary = extract_on(
        cluster, images, tmp_path / "store", progress=lambda done, n: told.append((done, n))
    )
    assert contents(tmp_path / "store") == parts
    assert (summary.n_images, summary.n_errors) == (N_IMAGES, 1)
    assert summary.n_computed + summary.n_reused == N_IMAGES - 1
    assert summary.device == "openvino in float32 on CPU, 1 cores"
    assert 0 < summary.seconds_to_start < summary.seconds
    assert told == sorted(told)
    assert told[-1] == (N_IMAGES, N_IMAGES)


@pytest.mark.slow
def test_images_and_store_may_be_in_a_bucket(cluster, images, parts, environment):
    system = fsspec.filesystem("s3")
    system.mkdir("ray")
    system.put(str(images), "ray/images", recursive=True)
    extract_on(cluster, "s3://ray/images", "s3://ray/store")
    assert contents("s3://ray/store") == parts
    assert EmbeddingStore("s3://ray/store").verify() == []


@pytest.mark.slow
def test_a_node_that_is_lost_costs_nothing_but_time(cluster, images, parts, tmp_path):
    node = cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
    store = tmp_path / "store"

    def lose_one(n_done, n_images):
        if n_done >= SHARD_SIZE and node in cluster.worker_nodes:
            cluster.remove_node(node, allow_graceful=False)

    extract_on(cluster, images, store, progress=lose_one)
    assert node not in cluster.worker_nodes
    assert contents(store) == parts
    assert EmbeddingStore(store).verify() == []


@pytest.mark.slow
def test_an_image_that_kills_its_worker_becomes_an_error(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("twostage.extraction.WorkerRecipe", DeadlyRecipe)
    monkeypatch.setattr("twostage.executors.backlog._DEATHS", 1)  # a start takes seconds
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", 2)
    folder = tmp_path / "images"
    write_noise(folder, 4)
    extract(folder, tmp_path / "local", **TINY)
    deadly = folder / "002.png"
    deadly.write_bytes(deadly.read_bytes() + b"this kills")
    for image in folder.iterdir():
        os.utime(image, (1e9, 1e9))  # a time within 2 s of the reading is not trusted later
    summary = extract_on(cluster, folder, tmp_path / "store")
    assert summary.errors == {"decode: ends the process that decodes it": 1}
    found, local = (
        EmbeddingStore(tmp_path / name).to_pandas().set_index("image")
        for name in ("store", "local")
    )
    assert list(found.index) == list(local.index)
    assert list(found.index[found["error"].notna()]) == ["002.png"]
    for image in set(local.index) - {"002.png"}:
        np.testing.assert_array_equal(found["embedding"][image], local["embedding"][image])
    again = extract_on(cluster, folder, tmp_path / "store")
    assert again.n_computed == again.n_reused == 0


@pytest.mark.slow
def test_a_table_in_many_files_is_predicted_as_it_is_locally(cluster, tmp_path):
    make_partitioned(tmp_path)
    words = ("predict", tmp_path / "M", "--table", tmp_path / "table", "--store", tmp_path / "S")
    assert invoke(*words, "-o", tmp_path / "local").exit_code == 3
    on_ray = ("--executor", "ray", "--address", cluster.address)
    result = invoke(*words, "-o", tmp_path / "ray", *on_ray)
    assert result.exit_code == 3
    assert "60 predictions in 3 files." in result.stdout
    for name in ("a", "b", "more/c"):
        ours, theirs = (pd.read_parquet(tmp_path / x / f"{name}.parquet") for x in ("ray", "local"))
        pd.testing.assert_frame_equal(ours, theirs)


@pytest.mark.slow
def test_weights_that_a_node_does_not_have_are_told(cluster, images, tmp_path, monkeypatch):
    def gone(self, device):
        other = elsewhere(self, device)
        other._settings = BackboneSettings()
        other._expected = replace(
            self.spec, weights="/nowhere/weights.h5", weights_file_hash="digest"
        )
        return other

    elsewhere = LazyBackbone.elsewhere
    monkeypatch.setattr(LazyBackbone, "elsewhere", gone)
    with pytest.raises(ExecutorError, match=r"can't start: .*/nowhere/weights.h5"):
        extract_on(cluster, images, tmp_path / "store")
