"""Stage two by several workers: the same rows held out, the same features, the same trees."""

import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from stores import write_store

from twostage import distributed
from twostage.cli.main import main
from twostage.distributed import fit_on_cluster, read_outline, sample_by_groups
from twostage.errors import DataError, ExecutorError, UsageError
from twostage.executors import ray_group
from twostage.executors.host import Peer
from twostage.executors.ray import RayOptions
from twostage.executors.ray_group import run_together
from twostage.fitted import FitSettings, FittedModel
from twostage.fitting import fit_and_score
from twostage.seen import SeenRows
from twostage.sources import blocks_from_store
from twostage.store.store import EmbeddingStore
from twostage.table.files import read_table
from twostage.table.roles import RoleOverrides
from twostage.targets import prepare_target

N = 1500
SETTINGS = FitSettings("label", image_columns=("image",), group="case", n_jobs=1)


def run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store S and of a table in four files, which know of a few words."""
    folder = tmp_path_factory.mktemp("distributed")
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N, 8))
    price = matrix[:, 0] + rng.normal(size=N)
    matrix[7] = np.nan  # an unusable image
    colours = np.array(["red", "green", "blue", None], object)
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(N)],
            "case": rng.integers(0, 900, N),
            "age": np.where(np.arange(N) % 50 == 0, np.nan, rng.normal(size=N)),
            "colour": colours[rng.integers(0, 4, N)],
            "town": [f"town {i}" for i in rng.integers(0, 60, N)],
        }
    )
    price += np.nan_to_num(frame["age"]) + (frame["colour"] == "red")
    frame["price"], frame["label"] = np.exp(price / 3), np.where(price > 0, "yes", "no")
    frame["kind"] = np.digitize(price, [-1, 0, 1]).astype(str)
    write_store(folder / "S", frame["image"].tolist(), matrix)
    (folder / "table").mkdir()
    for name, (start, stop) in {
        "a": (0, 20),
        "b": (20, 700),
        "c": (700, 701),
        "d": (701, N),
    }.items():
        frame[start:stop].to_parquet(folder / "table" / f"{name}.parquet")
    return folder


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Let threads be the workers: all that they do, and LightGBM's network, is as on a cluster."""
    crew = SimpleNamespace(n=1, shares=[])

    def together(ray, options, task, divide, n_ports, signs_of_loss):
        shares = divide(crew.n, 1)
        crew.shares.append(shares)
        places = [Peer({}).meet(lambda: "127.0.0.1", n_ports) for _ in shares]
        with ThreadPoolExecutor(len(shares)) as pool:
            jobs = [pool.submit(task, share, places, i) for i, share in enumerate(shares)]
            return [job.result() for job in jobs]

    monkeypatch.setattr(distributed, "connected", lambda address: nullcontext())
    monkeypatch.setattr(distributed, "run_together", together)
    return crew


def fit_together(folder: Path, settings: FitSettings, n_sampled: int = 10_000) -> FittedModel:
    outline = read_outline(str(folder / "table"), str(folder / "S"), settings)
    return fit_on_cluster(outline, settings, RayOptions(), n_sampled)


def fit_here(folder: Path, settings: FitSettings) -> FittedModel:
    frame, store = read_table(folder / "table"), EmbeddingStore(folder / "S")
    target = prepare_target(frame[settings.target], settings.task, log_target=settings.log_target)
    blocks, _ = blocks_from_store(frame, settings.image_columns, store)
    return fit_and_score(frame, blocks, target, settings, store.spec, store.seen)


def outputs(model: FittedModel, folder: Path) -> np.ndarray:
    frame, store = read_table(folder / "table"), EmbeddingStore(folder / "S")
    return model.outputs(frame, blocks_from_store(frame, ["image"], store)[0])


@pytest.mark.parametrize(
    "settings",
    [
        replace(SETTINGS, roles=RoleOverrides(ignore=("price", "kind"))),
        replace(SETTINGS, target="kind", class_weight="balanced", features="images"),
        replace(
            SETTINGS, target="price", log_target=True, roles=RoleOverrides(ignore=("label", "kind"))
        ),
    ],
    ids=["binary", "classes", "values"],
)
def test_one_worker_fits_what_one_machine_fits(folder, workers, settings):
    ours, theirs = fit_together(folder, settings), fit_here(folder, settings)
    assert ours.holdout == theirs.holdout
    assert ours.columns == theirs.columns
    assert ours.dims == theirs.dims
    assert ours.backbone == theirs.backbone
    pd.testing.assert_frame_equal(ours.trained_on, theirs.trained_on)
    np.testing.assert_array_equal(outputs(ours, folder), outputs(theirs, folder))


def test_several_workers_score_as_one_machine_does(folder, workers):
    settings = replace(SETTINGS, roles=RoleOverrides(ignore=("price", "kind")))
    workers.n = 3
    ours, theirs = fit_together(folder, settings, n_sampled=600), fit_here(folder, settings)
    assert ours.n_rows == theirs.n_rows == N
    assert ours.holdout.n_rows == theirs.holdout.n_rows
    assert abs(ours.holdout.scores["auc"].value - theirs.holdout.scores["auc"].value) < 0.03
    pd.testing.assert_frame_equal(ours.trained_on, theirs.trained_on)
    text = ours.members[0].head.booster_.model_to_string()
    assert "machines" not in text
    assert "127.0.0.1" not in text


def test_each_row_is_learned_from_once_and_no_held_out_row_is(folder, workers):
    settings = replace(SETTINGS, roles=RoleOverrides(ignore=("price", "kind")))
    workers.n = 2
    fit_together(folder, settings, n_sampled=600)
    case = read_table(folder / "table")["case"].to_numpy()
    in_score, in_the_end = (
        {
            what: np.concatenate(
                [f.first + getattr(f, what) for share in shares for f in share.files]
            )
            for what in ("learned", "scored", "recorded")
        }
        | {"n_sampled": sum(len(share.sampled.y) for share in shares)}
        for shares in workers.shares
    )
    assert len(in_the_end["learned"]) + in_the_end["n_sampled"] == N
    assert sorted(in_the_end["recorded"]) == list(range(N))
    assert not len(in_the_end["scored"])
    scored, learned = in_score["scored"], in_score["learned"]
    assert not set(case[scored]) & set(case[learned])
    assert len(scored) + len(learned) + in_score["n_sampled"] == N
    assert len(set(scored)) == len(scored)
    assert 400 < in_the_end["n_sampled"] <= 600


@pytest.mark.parametrize("n_tabled", [900, 10_000])
def test_rows_that_taught_encoders_of_the_table_are_shown_out_of_fold(
    folder, workers, monkeypatch, n_tabled
):
    """The column of 60 towns is encoded by the target, which a row must not tell of itself."""
    monkeypatch.setattr(distributed, "_MOST_ROWS_OF_TABLE", n_tabled)
    settings = replace(SETTINGS, roles=RoleOverrides(ignore=("price", "kind")))
    model = fit_together(folder, settings, n_sampled=600)
    (share,) = workers.shares[-1]
    n_known = sum(file.is_known.sum() for file in share.files)
    n_taught = n_known + len(share.sampled.y)
    assert (800 < n_taught <= 900) if n_tabled == 900 else (n_taught == N)
    frame = read_table(folder / "table")
    encoder = model.members[0].encoder.table
    for file in share.files:
        rows = frame.iloc[file.first + file.learned[file.is_known]]
        own, codes = encoder.transform(rows)
        assert own.shape == file.dense.shape
        np.testing.assert_array_equal(codes, file.codes)
        is_other = (own != file.dense).any(axis=1) & ~np.isnan(own).any(axis=1)
        assert len(rows) < 20 or is_other.mean() > 0.9


def test_a_table_alone_can_be_fitted(folder, workers):
    settings = replace(SETTINGS, features="table", roles=RoleOverrides(ignore=("price", "kind")))
    model = fit_together(folder, settings)
    assert model.dims == {}
    assert model.holdout.scores["auc"].value > 0.6


def test_rows_that_the_backbone_has_seen_are_left_out(folder, workers, tmp_path):
    frame = read_table(folder / "table")
    rng = np.random.default_rng(1)
    seen = SeenRows(frozenset(f"h{i}" for i in range(300)))
    write_store(tmp_path / "S", frame["image"].tolist(), rng.normal(size=(N, 8)), seen=seen)
    (tmp_path / "table").symlink_to(folder / "table")
    settings = replace(SETTINGS, group=None, roles=RoleOverrides(ignore=("price", "kind", "case")))
    model = fit_together(tmp_path, settings)
    assert (model.n_rows, model.n_seen) == (N - 300, 300)
    allowed = fit_together(tmp_path, replace(settings, allow_seen=True))
    assert allowed.n_rows == N
    assert allowed.holdout.n_training_rows + allowed.holdout.n_rows == N


def test_samples_are_of_whole_groups():
    groups = np.repeat(np.arange(100), 3)
    chosen = sample_by_groups(groups, 50, 0)
    assert len(chosen) == 48
    assert set(np.unique(groups[chosen], return_counts=True)[1]) == {3}
    np.testing.assert_array_equal(chosen, sample_by_groups(groups, 50, 0))
    assert not np.array_equal(chosen, sample_by_groups(groups, 50, 1))
    np.testing.assert_array_equal(sample_by_groups(groups, 300, 0), np.arange(300))
    assert len(sample_by_groups(np.zeros(20, int), 5, 0)) == 20


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (replace(SETTINGS, head="linear"), r"'linear' needs all rows .* 1,500 rows of 8 numbers"),
        (
            replace(SETTINGS, head="lightgbm+svm"),
            r"'svm' needs all rows in one memory.*IncrementalPCA",
        ),
        (replace(SETTINGS, n_tuned=3), "Leave --tune out"),
        (replace(SETTINGS, target="lable"), "no target column 'lable'.*'label'"),
    ],
)
def test_what_a_cluster_can_not_fit_is_told(folder, settings, message):
    with pytest.raises((UsageError, DataError), match=message):
        read_outline(str(folder / "table"), str(folder / "S"), settings)


def test_files_that_differ_are_told(folder, tmp_path):
    frame = read_table(folder / "table")
    (tmp_path / "t").mkdir()
    frame[:10].to_parquet(tmp_path / "t" / "a.parquet")
    frame[10:].drop(columns="age").to_parquet(tmp_path / "t" / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet' has no column 'age', '.*a.parquet' has num"):
        read_table(tmp_path / "t")
    frame[10:].assign(age="old").to_parquet(tmp_path / "t" / "b.parquet")
    with pytest.raises(DataError, match=r"b.parquet' has texts in column 'age'"):
        read_outline(str(tmp_path / "t"), str(folder / "S"), SETTINGS)
    frame[10:].assign(age=None, colour=frame["colour"].astype("category")).to_parquet(
        tmp_path / "t" / "b.parquet"
    )
    assert len(read_table(tmp_path / "t")) == N


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--address", "h:1"], "address is of a Ray cluster.*leave --address out"),
        (["--sample-rows", "500"], "--sample-rows is of a Ray cluster"),
        (["--executor", "ray", "--tune", "5"], "--tune: of no use for a fit on a Ray cluster"),
        (["--executor", "ray", "--device", "gpu"], "--device: of no use"),
        (["--executor", "ray", "--sample-rows", "5"], "5 is not in the range"),
        (["--executor", "ray", "--head", "keras"], "'keras' needs all rows in one memory"),
        (["--executor", "ray", "--address", "nowhere"], "no address of a Ray cluster"),
    ],
)
def test_options_that_make_no_sense_are_refused(folder, tmp_path, words, message):
    pytest.importorskip("ray")
    given = ["--table", folder / "table", "--target", "label", "--image-col", "image"]
    result = run("fit", folder / "S", *given, "--group", "case", "-o", tmp_path / "M", *words)
    assert result.exit_code == 2, result.output
    assert message.split(".*")[0] in result.stderr.replace("\n", " ")
    assert not (tmp_path / "M").exists()


def test_without_ray_its_installation_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = ["--table", folder / "table", "--target", "label", "--image-col", "image"]
    result = run("fit", folder / "S", *given, "-o", tmp_path / "M", "--executor", "ray")
    assert result.exit_code == 1
    assert "pip install 'twostage[ray]'" in result.stderr


def test_the_command_fits_predicts_and_tells_of_unusable_images(folder, workers, tmp_path):
    given = ["--table", folder / "table", "--target", "label", "--image-col", "image"]
    given += ["--group", "case", "--ignore", "price", "--ignore", "kind"]
    here, there = tmp_path / "here", tmp_path / "there"
    local = run("fit", folder / "S", *given, "-o", here)
    result = run("fit", folder / "S", *given, "-o", there, "--executor", "ray")
    assert result.exit_code == local.exit_code == 3, result.output
    assert "1 row with an unusable image" in result.stderr
    assert result.stdout == local.stdout.replace(str(here), str(there))
    assert "Reading 1,500 of 1,500 rows to learn encoders, 1,500 of them with" in result.stderr
    words = ("--table", folder / "table", "--store", folder / "S", "--quiet", "-o")
    for model in (here, there):
        assert run("predict", model, *words, tmp_path / f"{model.name}-p").exit_code == 3
    for name in "abcd":
        ours, theirs = (
            pd.read_parquet(tmp_path / f"{x}-p" / f"{name}.parquet") for x in ("here", "there")
        )
        pd.testing.assert_frame_equal(ours, theirs)


def test_a_node_that_turns_out_to_be_gone_is_not_waited_for(monkeypatch):
    nodes = [{"CPU": 1.0}, {"CPU": 1.0}]
    removed = []

    class Room:
        def wait(self, seconds):
            nodes.pop()
            return False

    room = Room()
    util = SimpleNamespace(
        placement_group=lambda bundles, strategy: room, remove_placement_group=removed.append
    )
    monkeypatch.setattr(ray_group, "alive_nodes", lambda ray: list(nodes))
    group = ray_group._Group(SimpleNamespace(util=util), RayOptions(), ())
    assert group._reserve(2) is None
    assert removed == [room]
    assert group._count_room() == 1


# --- with a cluster -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """Start a cluster of two nodes with a core each, beside a head without any."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    small = {"object_store_memory": 80 << 20}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # where cores are busy
        patch.setenv("RAY_worker_niceness", "0")
        head = {"num_cpus": 0, "include_dashboard": False, **small}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(2):
            cluster.add_node(num_cpus=1, **small)
        yield cluster
        cluster.shutdown()


@pytest.mark.slow
def test_two_nodes_fit_what_two_workers_fit(folder, workers, cluster, tmp_path, monkeypatch):
    settings = replace(SETTINGS, roles=RoleOverrides(ignore=("price", "kind")))
    workers.n = 2
    expected = fit_together(folder, settings, n_sampled=600)
    monkeypatch.undo()
    given = ["--table", folder / "table", "--target", "label", "--image-col", "image"]
    given += ["--group", "case", "--ignore", "price", "--ignore", "kind", "-o", tmp_path / "M"]
    on_ray = ["--executor", "ray", "--address", cluster.address, "--sample-rows", 600]
    result = run("fit", folder / "S", *given, *on_ray)
    assert result.exit_code == 3, result.output
    assert "Workers in the cluster: 2, with 1 CPUs each." in result.stderr
    assert str(expected.holdout.scores["auc"]) in result.stdout


class Task:
    """Dies in one worker, until a file says that it did."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __call__(self, part, places, rank):
        import os
        import time

        if rank == 1 and not self.marker.exists():
            self.marker.write_text("once")
            os._exit(1)
        if not rank and not self.marker.exists():
            time.sleep(60)
        return part, len(places), rank


@pytest.mark.slow
def test_a_worker_that_is_lost_costs_a_new_beginning(cluster, tmp_path, caplog):
    import ray

    from twostage.executors.ray import connected

    parts = lambda n, cpus: [f"part {i} of {n}" for i in range(n)]  # noqa: E731
    with connected(cluster.address):
        found = run_together(ray, RayOptions(), Task(tmp_path / "marker"), parts, 1)
        assert found == [("part 0 of 2", 2, 0), ("part 1 of 2", 2, 1)]
        assert "all begin anew" in caplog.text
        options = RayOptions(ray_workers=3, start_s=5)
        with pytest.raises(ExecutorError, match="Not all 3 workers could begin within 5 s"):
            run_together(ray, options, Task(tmp_path / "marker"), parts, 1)
        with pytest.raises(ExecutorError, match=r"A worker on node .* failed: TypeError.*fault of"):
            run_together(ray, RayOptions(), Task, parts, 1)
        with pytest.raises(
            ExecutorError, match=r"on node .* can't go on: No store\. All nodes must"
        ):
            run_together(ray, RayOptions(), _lacks_the_store, parts, 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ray_group, "check_version", _refuse)
            with pytest.raises(ExecutorError, match="another version"):
                run_together(ray, RayOptions(), Task(tmp_path / "marker"), parts, 1)


def _lacks_the_store(part, places, rank):
    from twostage.errors import StoreError

    raise StoreError("No store.")


def _refuse(node, version):
    raise ExecutorError("another version")
