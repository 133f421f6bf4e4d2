"""Kill, crowd and starve runs that write stores, and see that nothing is lost and nothing wrong.

    python benchmarks/torture_store.py kills [--runs N] [--command-lines N] [--seed N]
    python benchmarks/torture_store.py writers [--rounds N] [--seed N]
    python benchmarks/torture_store.py disk [--rounds N] [--seed N]

Most runs are forks of this process, whose backbone is replaced by one that costs nothing and whose
shards are small: what is tried is the store, at as many moments as possible. Some are real command
lines with a network and an engine. Stores are compared with those of undisturbed runs, bit by bit.

Results go to artifacts/torture.json by `python benchmarks/torture.py`.
"""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from PIL import Image

import twostage.backbones.lazy
import twostage.store.planning
from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.errors import StoreError
from twostage.extraction import ExtractionOptions, embed_files, extract
from twostage.images.references import file_reference
from twostage.pruning import gone_images
from twostage.store.schema import embedding_matrix
from twostage.store.store import EmbeddingStore

N_IMAGES = 20
SHARD_SIZE = 4
COMMAND_LINE_IMAGES = 3400  # four parts
SIZE_PX = 24
GRID = 4
NETWORK = ("--backbone", "mobilenet_v2_035", "--weights", "random", "--image-size", "32")
VARIANT = ("--engine", "openvino", "--precision", "float32")
LONG_AGO_NS = 1_600_000_000 * 10**9
UNREADABLE = 3  # exit code of a run that is done, but for unreadable images
SCENES = ("fresh", "grown", "changed", "compact", "prune")
WRITING = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
Rows = dict[str, tuple[str | None, str | None, bytes | None]]  # content hash, error, embedding


class WrongError(Exception):
    """Something was lost, or is wrong."""


# What runs in place of a network.


@dataclass
class ExactEngine:
    """Embeds an image as the sums of its pixels in a grid: the same bits in whatever batch."""

    spec: BackboneSpec
    batch_size: int = 4
    name: str = "exact"
    is_on_cpu: bool = True
    n_embedded: int = 0

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield arrays of shape (n, 48)."""
        for batch in batches:
            self.n_embedded += len(batch)
            side = batch.shape[1] // GRID
            cells = batch.reshape(len(batch), GRID, side, GRID, side, 3)
            yield cells.sum(axis=(2, 4), dtype=np.int64).reshape(len(batch), -1).astype(np.float32)


ENGINES: list[ExactEngine] = []


def build_exact(settings: BackboneSettings, device: str, batch_size: int | None) -> Any:
    """Stand in for `twostage.backbones.lazy.build`."""
    settings = settings.with_defaults()
    spec = BackboneSpec(
        architecture=str(settings.backbone),
        weights=str(settings.weights),
        weights_digest="exact",
        weights_file_hash=None,
        layer=settings.layer,
        pooling=settings.pooling,
        dim=GRID * GRID * 3,
        input_size_px=settings.image_size,
        resize=settings.resize,
        preprocessing="none",
        storage_dtype=settings.dtype,
    )
    ENGINES.append(ExactEngine(spec))
    return ENGINES[-1], "exact on cpu"


# Images, and stores of them.


def write_images(folder: Path, n: int, seed: int = 0) -> Path:
    """Write images of random pixels; copies, broken ones and one that is missing among them."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for i in range(n):
        pixels = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:05d}.png", compress_level=0)
    for i in (7, n // 2, n - 2):
        shutil.copy(folder / f"{i:05d}.png", folder / f"{(i * 5 + 3) % n:05d}.copy.png")
    (folder / "00003.png").write_bytes(b"no image")
    (folder / "00011.png").write_bytes(b"")
    (folder / "00019.link.png").symlink_to("nowhere.png")
    settle(folder)
    return folder


def settle(folder: Path, time_ns: int = LONG_AGO_NS) -> None:
    """Give files a time that can be trusted."""
    for file in folder.iterdir():
        if file.exists():
            os.utime(file, ns=(time_ns, time_ns))


def change_images(folder: Path, target: Path) -> Path:
    """Copy a folder; every third image gets other bytes of the same size, some go, some come."""
    shutil.copytree(folder, target, symlinks=True)
    names = sorted(file.name for file in target.iterdir() if not file.is_symlink())
    rng = np.random.default_rng(1)
    for name in names[::3]:
        pixels = rng.integers(0, 256, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(target / name, compress_level=0)
        os.utime(target / name, ns=(LONG_AGO_NS + 1, LONG_AGO_NS + 1))
    (target / names[1]).rename(target / "renamed.png")
    return target


def rows_of(store: Path) -> Rows:
    """Return what a store holds, and see that no image has two rows."""
    opened = EmbeddingStore(store)
    found: Rows = {}
    for part in opened.scan(opened.read_part):
        names = part["image"].to_pylist()
        vectors = embedding_matrix(part["embedding"], opened.dim)
        facts = zip(part["content_hash"].to_pylist(), part["error"].to_pylist(), strict=True)
        for image, (content_hash, error), vector in zip(names, facts, vectors, strict=True):
            if image in found:
                raise WrongError(f"'{image}' has two rows")
            found[image] = (content_hash, error, vector.tobytes() if error is None else None)
    return found


# Processes.


@dataclass
class Run:
    """A run in a process of its own.

    Attributes
    ----------
    pid : int
        Of the process.
    report : Path
        What it says at its end.
    """

    pid: int
    report: Path

    def kill(self, after_s: float, how: int = signal.SIGKILL) -> bool:
        """Kill it after a while; whether it was still running."""
        time.sleep(after_s)
        os.kill(self.pid, how)
        return os.WIFSIGNALED(os.waitpid(self.pid, 0)[1])

    def end(self) -> dict[str, Any]:
        """Wait for its end, and return what it says."""
        status = os.waitpid(self.pid, 0)[1]
        if os.WIFSIGNALED(status):
            return {"killed": os.WTERMSIG(status)}
        said = json.loads(self.report.read_text())
        self.report.unlink()
        if "traceback" in said:
            raise WrongError(said["traceback"])
        return said


def start(work: Callable[[], Any], report: Path) -> Run:
    """Do some work in a fork of this process."""
    pid = os.fork()
    if pid:
        return Run(pid, report)
    try:
        twostage.backbones.lazy.build = build_exact
        twostage.store.planning.SHARD_SIZE = SHARD_SIZE
        report.write_text(json.dumps({"result": work()}))
    except StoreError as error:
        report.write_text(json.dumps({"error": str(error)}))
    except BaseException:
        report.write_text(json.dumps({"traceback": traceback.format_exc()}))
    os._exit(0)


def dying_at(step: int, folder: Path, work: Callable[[], Any]) -> Callable[[], Any]:
    """Return work that is killed right before its n-th change to a folder; counted from 1."""

    def die() -> Any:
        n_steps = 0

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal n_steps
            if event not in WRITING or not str(arguments[0]).startswith(str(folder)):
                return
            n_steps += 1
            if n_steps == step:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        return work()

    return die


# Kills.


@dataclass
class Scene:
    """Something that a run does to a store, and what must come of it.

    Attributes
    ----------
    name : str
        What it is called.
    before : Path or None
        The store that it starts from.
    after : Rows
        What an undisturbed run makes of it.
    work : callable
        Takes the store's folder.
    was : Rows
        What there was before.
    seconds : float
        What an undisturbed run takes.
    """

    name: str
    before: Path | None
    work: Callable[[Path], Any]
    after: Rows = field(default_factory=dict)
    was: Rows = field(default_factory=dict)
    seconds: float = 0.0

    def place(self, folder: Path) -> Path:
        """Put the store that it starts from at a folder."""
        shutil.rmtree(folder, ignore_errors=True)
        if self.before is not None:
            shutil.copytree(self.before, folder)
        return folder

    def look(self, store: Path) -> Rows:
        """See that a killed run has left rows that were or will be, and none of those that stay.

        Returns
        -------
        Rows
            What is there.
        """
        before = self.was
        found = rows_of(store) if EmbeddingStore.exists_at(store) else {}
        for image, row in found.items():
            if row not in (before.get(image), self.after.get(image)):
                raise WrongError(
                    f"{self.name}: '{image}' is neither what it was nor what it shall be"
                )
        missing = [image for image in before if image in self.after and image not in found]
        if missing:
            raise WrongError(f"{self.name}: {len(missing)} rows are lost, '{missing[0]}' first")
        return found

    def compare(self, store: Path) -> None:
        """See that a resumed run came to what an undisturbed one comes to."""
        if rows_of(store) != self.after:
            raise WrongError(f"{self.name}: the resumed store differs from the undisturbed one")
        faults = EmbeddingStore(store).verify()
        if faults:
            raise WrongError(f"{self.name}: {faults[0].where}: {faults[0].what}")


def computed(images: Path, store: Path, **options: Any) -> dict[str, int]:
    """Extract, and say what was computed."""
    summary = extract(images, store, workers=1, **options)
    return {"n_computed": summary.n_computed, "n_images": summary.n_images}


def pruned(images: Path, store: Path) -> dict[str, int]:
    """Prune a store of what is gone."""
    opened = EmbeddingStore(store)
    return {"n_dropped": opened.prune(gone_images(opened, images))}


def compacted(store: Path) -> dict[str, int]:
    """Put the parts of a store together."""
    return {"n_after": EmbeddingStore(store).compact(3 * SHARD_SIZE).n_after}


def make_scenes(folder: Path, only: Collection[str] = SCENES) -> list[Scene]:
    """Make images, stores to start from, and stores of undisturbed runs."""
    old = write_images(folder / "old", N_IMAGES)
    new = change_images(old, folder / "new")
    half = folder / "half"
    half.mkdir()
    for file in sorted(old.iterdir())[::2]:
        shutil.copy2(file, half / file.name, follow_symlinks=False)
    whole, part = folder / "whole.store", folder / "part.store"
    for images, store in ((old, whole), (half, part)):
        run_to_end(partial(computed, images, store), folder)
    scenes = [
        Scene("fresh", None, partial(computed, old)),
        Scene("grown", part, partial(computed, old)),
        Scene("changed", whole, partial(computed, new)),
        Scene("compact", whole, compacted),
        Scene("prune", whole, partial(pruned, half)),
    ]
    scenes = [scene for scene in scenes if scene.name in only]
    for scene in scenes:
        store = scene.place(folder / "undisturbed")
        scene.was = rows_of(store) if scene.before else {}
        started = time.perf_counter()
        run_to_end(partial(scene.work, store), folder)
        scene.seconds = time.perf_counter() - started
        scene.after = rows_of(store)
    return scenes


def run_to_end(work: Callable[[], Any], folder: Path) -> dict[str, Any]:
    """Do some work in a process of its own, which must succeed."""
    said = start(work, folder / "report").end()
    if "result" not in said:
        raise WrongError(f"An undisturbed run failed: {said}")
    return dict(said["result"])


def kill_once(scene: Scene, folder: Path, chance: random.Random) -> Counter[str]:
    """Kill runs of a scene at random moments, one after the other, then let one come to its end."""
    counts: Counter[str] = Counter()
    store = scene.place(folder / "killed")
    for _ in range(chance.choice((1, 2, 3, 4))):
        run = start(partial(scene.work, store), folder / "report")
        counts["killed"] += run.kill(chance.uniform(0, 1.1 * scene.seconds))
        scene.look(store)
    return counts + resume(scene, store, folder)


def resume(scene: Scene, store: Path, folder: Path) -> Counter[str]:
    """Let a run come to its end on what a killed one left, and compare."""
    found = scene.look(store)
    known = {row[0] for row in found.values() if row[1] is None}
    wanted = {row[0] for row in scene.after.values() if row[1] is None}
    n_leftovers = sum(name.startswith("_tmp-") for name in os.listdir(store)) if found else 0
    said = run_to_end(partial(scene.work, store), folder)
    if said.get("n_computed", 0) > len(wanted - known):
        raise WrongError(f"{scene.name}: {len(wanted - known)} images were missing, but: {said}")
    scene.compare(store)
    return Counter(
        resumed=1,
        found_half_done=len(found) > 0 and found != scene.after,
        with_leftovers=n_leftovers > 0,
    )


def kill_at_each_step(scene: Scene, folder: Path) -> Counter[str]:
    """Kill a run right before each change that it makes to the store's folder."""
    counts: Counter[str] = Counter()
    while True:
        store = scene.place(folder / "killed")
        step = dying_at(counts["killed"] + 1, store, partial(scene.work, store))
        if "killed" not in start(step, folder / "report").end():
            return counts
        counts += resume(scene, store, folder) + Counter(killed=1)


def kills(
    runs: int = 201,
    command_lines: int = 24,
    seed: int = 0,
    steps: bool = True,
    only: Collection[str] = SCENES,
) -> dict[str, Any]:
    """Kill so many runs of extract at random moments, and a quarter as many of compact and prune.

    Parameters
    ----------
    runs : int
        Of extract.
    command_lines : int
        Of ``twostage extract`` with a network, besides those.
    seed : int
        Of the moments.
    steps : bool
        Whether to kill a run of each kind before each change that it makes to a file, too.
    only : collection of str
        Kinds of runs.
    """
    chance = random.Random(seed)
    found: dict[str, Any] = {}
    with room() as folder:
        for scene in make_scenes(folder, only) if runs or steps else ():
            wanted = math.ceil(runs / (8 if scene.name in ("compact", "prune") else 3))
            counts: Counter[str] = Counter()
            while counts["killed"] < wanted:
                counts += kill_once(scene, folder, chance)
            found[scene.name] = {"at random": dict(counts)}
            if steps:
                found[scene.name]["before each change"] = dict(kill_at_each_step(scene, folder))
            tell(scene.name, found[scene.name])
        if command_lines:
            found["command lines"] = kill_command_lines(folder, command_lines, chance)
            tell("command lines", found["command lines"])
    return found


def kill_command_lines(folder: Path, n: int, chance: random.Random) -> dict[str, Any]:
    """Kill `twostage extract` with a network, over and over on one store until it is done."""
    images = write_images(folder / "many", COMMAND_LINE_IMAGES)
    undisturbed, store = folder / "undisturbed.store", folder / "killed.store"
    extract_by_command(images, undisturbed).communicate()
    after = rows_of(undisturbed)
    counts: Counter[str] = Counter()
    exits: list[dict[str, Any]] = []
    differences = [0.0]
    while counts["killed"] < n or store.exists():
        process = extract_by_command(images, store)
        if counts["killed"] < n:
            wait_for_parts(process, store, n_parts(store) + chance.choice((0, 1)))
            time.sleep(chance.uniform(0, 2))
        if counts["killed"] < n and process.poll() is None:
            how = chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGINT, signal.SIGTERM))
            sent = time.perf_counter()
            process.send_signal(how)
            said = process.communicate()[1]
            counts["killed"] += process.returncode != UNREADABLE  # or all was done
            if how != signal.SIGKILL:
                exits.append(check_exit(process, how, said, time.perf_counter() - sent))
        process.wait()
        found = rows_of(store) if EmbeddingStore.exists_at(store) else {}
        counts["found half done"] += 0 < len(found) < len(after)
        differences += [difference(found[image], after[image]) for image in found]
        if len(found) == len(after):
            counts["stores finished"] += 1
            shutil.rmtree(store)
    return {
        **counts,
        "rows compared": len(differences) - 1,
        "largest difference": max(differences),
        "interrupted": exits,
    }


def n_parts(store: Path) -> int:
    """Count the parts that there are."""
    return len(list(store.glob("part-*.parquet")))


def wait_for_parts(process: "subprocess.Popen[str]", store: Path, n: int) -> None:
    """Wait until there are so many parts, or the process ends."""
    while process.poll() is None and n_parts(store) < n:
        time.sleep(0.02)


def extract_by_command(images: Path, store: Path) -> "subprocess.Popen[str]":
    """Start `twostage extract`."""
    code = "from twostage.cli.main import main; main()"
    command = [sys.executable, "-c", code, "extract", images, "-o", store, *NETWORK, *VARIANT]
    ours = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen([*map(str, command), "--quiet"], text=True, **ours)


def check_exit(
    process: "subprocess.Popen[str]", how: int, said: str, seconds: float
) -> dict[str, Any]:
    """See that an interrupted command ends soon, with its exit code and a word on how to go on."""
    is_told = process.returncode == 130 and "Run the same command again" in said
    is_early = process.returncode == -how and ", in invoke" not in said  # Python was starting
    is_late = process.returncode == UNREADABLE and not said  # all was done
    if not (is_told or is_early or is_late):
        raise WrongError(f"Interrupted by {how}: exit {process.returncode}: {said}")
    return {"signal": signal.Signals(how).name, "exit": process.returncode, "seconds": seconds}


def difference(row: Any, other: Any) -> float:
    """Return by how much two rows' embeddings differ; nothing else may."""
    if row[:2] != other[:2]:
        raise WrongError(f"A row is {row[:2]}, in the undisturbed store {other[:2]}")
    if row[2] is None or row[2] == other[2]:
        return 0.0
    mine, theirs = (np.frombuffer(each[2], np.float32) for each in (row, other))
    return float(np.abs(mine - theirs).max() / np.abs(theirs).max())


# Several at once.


def writers(rounds: int = 20, seed: int = 0) -> dict[str, Any]:
    """Let runs meet on one store, and set the clock back between runs."""
    chance = random.Random(seed)
    found: dict[str, Any] = {}
    with room() as folder:
        scenes = {scene.name: scene for scene in make_scenes(folder)}
        works: dict[str, Callable[[], dict[str, int]]] = {
            "two writers": partial(meet, scenes["fresh"], folder, rounds),
            "estimators sharing a cache": partial(share, folder, rounds),
            "reader beside writer": partial(read_beside, scenes, folder, rounds, chance),
            "clock": partial(turn_clock, folder, rounds, chance),
        }
        for name, work in works.items():
            found[name] = work()
            tell(name, found[name])
    return found


def meet(scene: Scene, folder: Path, rounds: int) -> dict[str, int]:
    """Let two runs begin at once on one store: one is refused, or comes when the other is done."""
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        store = scene.place(folder / "met")
        work = partial(scene.work, store)
        runs = [start(work, folder / f"report{i}") for i in range(2)]
        said = [run.end() for run in runs]
        refused = [each["error"] for each in said if "error" in each]
        wrong = [error for error in refused if f"'{store}' is being written by" not in error]
        n_computed = sum(each["result"]["n_computed"] for each in said if "result" in each)
        contents = {row[0] for row in scene.after.values() if row[1] is None}
        if wrong or len(refused) == len(runs) or n_computed != len(contents):
            raise WrongError(f"Two writers: {said}")
        scene.compare(store)
        counts += Counter(rounds=1, refused=len(refused))
    return dict(counts)


def share(folder: Path, rounds: int) -> dict[str, int]:
    """Let three estimators want overlapping files of one cache: nothing is embedded twice."""
    files = [file_reference(str(file)) for file in sorted((folder / "old").iterdir())]
    counts: Counter[str] = Counter()

    def embed(i: int, cache: Path) -> int:
        mine = files[i * 4 : i * 4 + 14]
        store = embed_files(mine, cache, BackboneSettings(), ExtractionOptions(workers=1))
        if not {file.image for file in mine} <= set(store.index()["image"].to_pylist()):
            raise WrongError("A file asked for is not in the cache")
        return sum(engine.n_embedded for engine in ENGINES)

    for _ in range(rounds):
        cache = folder / "cache"
        shutil.rmtree(cache, ignore_errors=True)
        runs = [start(partial(embed, i, cache), folder / f"report{i}") for i in range(3)]
        said = [run.end() for run in runs]
        if any("error" in each for each in said):
            raise WrongError(f"Sharing a cache: {said}")
        n_embedded = sum(each["result"] for each in said)
        (store,) = (path for path in cache.iterdir() if EmbeddingStore.exists_at(path))
        contents = {row[0] for row in rows_of(store).values() if row[1] is None}
        if n_embedded != len(contents):
            raise WrongError(f"{n_embedded} images embedded, {len(contents)} are different")
        counts += Counter(rounds=1, runs=3, images=n_embedded)
    return dict(counts)


def read_beside(
    scenes: dict[str, Scene], folder: Path, rounds: int, chance: random.Random
) -> dict[str, int]:
    """Read a store over and over while runs write it, put it together and prune it."""
    counts: Counter[str] = Counter()
    for _ in range(rounds):
        scene = scenes[chance.choice(("grown", "changed", "compact", "prune"))]
        store = scene.place(folder / "read")
        run = start(partial(scene.work, store), folder / "report")
        while os.waitid(os.P_PID, run.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            scene.look(store)
            opened = EmbeddingStore(store)
            names = list(scene.after)
            vectors = opened.embeddings(names)
            for name, vector in zip(names, vectors, strict=True):
                before, after = scene.was.get(name), scene.after[name]
                if not np.isnan(vector[0]) and vector.tobytes() not in (
                    row[2] for row in (before, after) if row
                ):
                    raise WrongError(f"{scene.name}: '{name}' was read as what it never was")
            counts["looks"] += 1
        run.end()
        scene.compare(store)
        counts["rounds"] += 1
    return dict(counts)


def turn_clock(folder: Path, rounds: int, chance: random.Random) -> dict[str, int]:
    """Change images and extract, while the clock goes forth and back."""
    images = write_images(folder / "clock", 30)
    store, clock_ns = folder / "clock.store", time.time_ns()
    names = sorted(file.name for file in images.iterdir() if not file.is_symlink())
    counts: Counter[str] = Counter()

    def extract_then(now_ns: int) -> dict[str, int]:
        time.time_ns = lambda: now_ns
        return computed(images, store)

    for round_ in range(rounds):
        clock_ns += chance.choice((-86_400, -3600, -5, -1, 1, 5, 3600)) * 10**9 + round_
        for name in chance.sample(names, 5):
            pixels = np.random.default_rng(round_).integers(0, 256, (SIZE_PX, SIZE_PX, 3), np.uint8)
            Image.fromarray(pixels).save(images / name, compress_level=0)
            os.utime(images / name, ns=(clock_ns, clock_ns))
            counts["changes"] += 1
        run_to_end(partial(extract_then, clock_ns), folder)
        shutil.rmtree(folder / "undisturbed", ignore_errors=True)
        run_to_end(partial(computed, images, folder / "undisturbed"), folder)
        if rows_of(store) != rows_of(folder / "undisturbed"):
            raise WrongError(f"The clock went to {clock_ns}, and a change was not noticed")
        counts["runs"] += 1
    return dict(counts)


# Disks.


def disk(rounds: int = 6, seed: int = 0) -> dict[str, Any]:
    """Fill a small disk, make it read-only, and take it away, while runs write stores on it."""
    chance = random.Random(seed)
    with room() as folder:
        place = folder / "disk"
        place.mkdir()
        try:
            with mounted(place, 64):
                pass
        except (OSError, subprocess.CalledProcessError) as error:
            return {"skipped": f"a tmpfs can't be mounted here: {error}"}
        scenes = {scene.name: scene for scene in make_scenes(folder)}
        found = {}
        for name, scene in scenes.items():
            found[name] = fill(scene, place, folder, rounds, chance)
            tell(name, found[name])
        found["read-only"] = refuse_writing(scenes["grown"], place, folder)
        found["taken away"] = take_away(scenes["fresh"], place, folder)
    return found


@contextmanager
def mounted(place: Path, size_kib: int) -> Iterator[None]:
    """Mount a small disk in memory."""
    mount("-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", place)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", place], check=False, capture_output=True)


def mount(*arguments: object) -> None:
    """Call mount."""
    subprocess.run(["mount", *map(str, arguments)], check=True, capture_output=True)


def fill(
    scene: Scene, place: Path, folder: Path, rounds: int, chance: random.Random
) -> dict[str, int]:
    """Run on disks too small, of whatever size; then make room and go on."""
    counts: Counter[str] = Counter()
    reference = scene.place(folder / "undisturbed")
    sizes = [file.stat().st_size for file in reference.iterdir()] if scene.before else []
    start_kib = 4 + sum(4 * -(-size // 4096) for size in sizes)
    for _ in range(rounds):
        room_kib = 4 * chance.randrange(1, {"fresh": 16, "grown": 7}.get(scene.name, 4))
        with mounted(place, start_kib + room_kib):
            store = place / "store"
            if scene.before:
                shutil.copytree(scene.before, store)
            said = start(partial(scene.work, store), folder / "report").end()
            if "error" in said:
                if "No space left on device" not in said["error"]:
                    raise WrongError(said["error"])
                counts["filled"] += 1
                scene.look(store)
                mount("-o", "remount,size=4m", place)
                resume(scene, store, folder)
            scene.compare(store)
            counts["rounds"] += 1
    return dict(counts)


def refuse_writing(scene: Scene, place: Path, folder: Path) -> dict[str, int]:
    """Read from a disk that can't be written, and fail to write it with a word."""
    with mounted(place, 4096):
        store = shutil.copytree(scene.before, place / "store")
        mount("-o", "remount,ro", place)
        before = rows_of(store)
        said = start(partial(scene.work, store), folder / "report").end()
        if "Read-only file system" not in said.get("error", ""):
            raise WrongError(f"A read-only disk: {said}")
        if rows_of(store) != before or EmbeddingStore(store).verify():
            raise WrongError("A store on a read-only disk changed")
    return {"rounds": 1}


def take_away(scene: Scene, place: Path, folder: Path) -> dict[str, int]:
    """Unmount the disk, or delete the folder, in the middle of a run."""
    how = {
        "unmounted": lambda: subprocess.run(["umount", "-l", place], check=True),
        "deleted": lambda: shutil.rmtree(place / "store"),
    }
    for name, act in how.items():
        is_done = []

        def act_once(done: int, total: int, act: Any = act, is_done: Any = is_done) -> None:
            if done > total // 2 and not is_done:
                is_done.append(act())

        with mounted(place, 4096):
            work = partial(computed, folder / "old", place / "store", progress=act_once)
            said = start(work, folder / "report").end()
            if not any(words in said.get("error", "") for words in ("is gone", "can't be listed")):
                raise WrongError(f"A disk {name}: {said}")
    return dict.fromkeys(how, 1)


@contextmanager
def room() -> Iterator[Path]:
    """Yield a folder for all of it."""
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        yield Path(folder)


def tell(name: str, found: dict[str, Any]) -> None:
    """Say what was found."""
    click.echo(f"{name}: {json.dumps(found)}", err=True)


@click.group()
def main() -> None:
    """Kill, crowd and starve runs that write stores."""
    # A shell's background job ignores it, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


seed_option = click.option("--seed", default=0, show_default=True)


@main.command("kills")
@click.option("--runs", default=201, show_default=True, help="Of extract, to be killed.")
@click.option("--command-lines", default=24, show_default=True, help="To be killed.")
@click.option("--steps/--no-steps", default=True, help="Kill also before each change of a file.")
@click.option("--only", multiple=True, type=click.Choice(SCENES), help="Kind of runs.")
@seed_option
def _kills(runs: int, command_lines: int, steps: bool, only: tuple[str, ...], seed: int) -> None:
    click.echo(json.dumps(kills(runs, command_lines, seed, steps, only or SCENES), indent=1))


@main.command("writers")
@click.option("--rounds", default=20, show_default=True)
@seed_option
def _writers(rounds: int, seed: int) -> None:
    click.echo(json.dumps(writers(rounds, seed), indent=1))


@main.command("disk")
@click.option("--rounds", default=6, show_default=True, help="Of each kind of run.")
@seed_option
def _disk(rounds: int, seed: int) -> None:
    click.echo(json.dumps(disk(rounds, seed), indent=1))


if __name__ == "__main__":
    main()
