"""Work out what a large extraction costs and where it waits, and check the formulas by simulation.

    python benchmarks/scale_simulation.py

Rates of a core come from artifacts/extraction.json, sizes from artifacts/storage.json. What could
not be measured here (a GPU, an object store, prices) is assumed, and stands in ASSUMED.
`bounds` is the formula; `Simulation` follows each image through a cluster: the request, the wait
for its answer, the machine's network, a core that decodes, a core or GPU that embeds a batch.
Results go to artifacts/scale.json and .md; docs/scale.md shows the tables.
"""

import heapq
import json
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
N_IMAGES = (10_000_000, 1_000_000_000)
N_SIMULATED = 100_000
SHARD = 1024
N_READERS, N_AHEAD = 32, 128  # requests and images under way in one process of twostage
PHOTOS = "ham10000"
LOSING_NODES = 100
CPU_BATCH, GPU_BATCH = 8, 128
ASSUMED = {
    "image_bytes": 130_000,  # the mean of the photos that decoding was measured with
    "latency_s": 0.05,  # until an object store begins to answer
    "gets_per_s": 5_500,  # of one prefix, as Amazon publishes for S3
    "node_cores": 16,
    "node_gbit_per_s": 12.5,
    "gpu_per_s": {"mobilenet_v2": 6_000, "resnet50": 2_500},  # a data centre's, in float16
    "per_core_hour": 0.04,
    "per_gpu_hour": 2.5,  # without the cores beside it
    "per_million_gets": 0.4,
    "per_million_puts": 5.0,
    "per_gb_month": 0.023,
    "losses_per_node_hour": 0.05,
    "restart_s": 60,
}


@dataclass(frozen=True)
class Work:
    """What one image costs.

    Attributes
    ----------
    decode_s, forward_s : float
        Seconds of a core.
    image_bytes : int
        What is read.
    latency_s : float
        Until an answer to a request begins.
    """

    decode_s: float
    forward_s: float
    image_bytes: int
    latency_s: float


@dataclass(frozen=True)
class Cluster:
    """Where it runs.

    Attributes
    ----------
    nodes, cores, processes : int
        Machines; cores of each; processes of twostage on each, with 32 requests under way.
    gpu_per_s : float or None
        Images a second that a machine's GPU embeds; None if its cores do.
    gbit_per_s : float
        Of a machine's network.
    gets_per_s : float
        That the object store answers.
    """

    nodes: int
    cores: int
    processes: int
    gpu_per_s: float | None
    gbit_per_s: float
    gets_per_s: float


def bounds(work: Work, cluster: Cluster) -> dict[str, float]:
    """Return the images a second that each thing allows; a run reaches the least of them."""
    on_cores = work.decode_s + (work.forward_s if cluster.gpu_per_s is None else 0.0)
    transfer_s = work.image_bytes * 8e-9 / cluster.gbit_per_s
    under_way = cluster.processes * N_READERS
    allowed = {
        "cores": cluster.nodes * cluster.cores / on_cores,
        "network": cluster.nodes / transfer_s,
        "latency": cluster.nodes * under_way / (work.latency_s + transfer_s),
        "requests": cluster.gets_per_s,
    }
    if cluster.gpu_per_s is not None:
        allowed["GPUs"] = cluster.nodes * cluster.gpu_per_s
    return allowed


class Simulation:
    """Images on their way through a cluster, from event to event.

    Answers come after a time with an exponential distribution; decoding and embedding on cores
    vary by a fifth.
    """

    def __init__(self, work: Work, cluster: Cluster, n_images: int, seed: int = 0):
        self.work, self.cluster = work, cluster
        self.n_left, self.n_done = n_images, 0
        self.now = self.granted_at = 0.0
        self.chance = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = count()

    def run(self) -> float:
        """Return the images a second that came out."""
        for _ in range(self.cluster.nodes):
            Machine(self).go_on()
        while self._events:
            self.now, _, happens = heapq.heappop(self._events)
            happens()
        return self.n_done / self.now

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._events, (self.now + seconds, next(self._number), happens))

    def about(self, seconds: float) -> float:
        """Return a time that varies."""
        return seconds * self.chance.uniform(0.8, 1.2)

    def answer_s(self) -> float:
        """Ask the object store, and return how long its answer takes to begin."""
        self.granted_at = max(self.granted_at, self.now) + 1 / self.cluster.gets_per_s
        return self.granted_at - self.now + self.chance.expovariate(1 / self.work.latency_s)


class Machine:
    """How many images are where on one machine."""

    def __init__(self, simulation: Simulation):
        self.simulation = simulation
        cluster = simulation.cluster
        self.on_gpu = cluster.gpu_per_s is not None
        self.batch = GPU_BATCH if self.on_gpu else CPU_BATCH
        self.n_asked = self.n_read = self.n_decoding = self.n_decoded = self.n_engaged = 0
        self.link_free_at = 0.0

    def go_on(self) -> None:
        """Begin whatever can be begun: batches first, so that what is decoded does not wait."""
        simulation, work, cluster = self.simulation, self.simulation.work, self.simulation.cluster
        while self._may_embed():
            n = min(self.batch, self.n_decoded)
            self.n_decoded -= n
            self.n_engaged += 1
            took = simulation.about(n * work.forward_s)
            simulation.after(
                n / cluster.gpu_per_s if cluster.gpu_per_s else took, lambda n=n: self._embedded(n)
            )
        while self.n_read and self._free_cores():
            self.n_read -= 1
            self.n_decoding += 1
            simulation.after(simulation.about(work.decode_s), self._decoded)
        while simulation.n_left and self._may_ask():
            simulation.n_left -= 1
            self.n_asked += 1
            simulation.after(simulation.answer_s(), self._answered)

    def _free_cores(self) -> int:
        busy = self.n_decoding + (0 if self.on_gpu else self.n_engaged)
        return self.simulation.cluster.cores - busy

    def _may_embed(self) -> bool:
        is_last = not (self.simulation.n_left or self.n_asked or self.n_read or self.n_decoding)
        has_batch = self.n_decoded >= self.batch or (is_last and self.n_decoded > 0)
        is_free = not self.n_engaged if self.on_gpu else self._free_cores() > 0
        return has_batch and is_free

    def _may_ask(self) -> bool:
        processes = self.simulation.cluster.processes
        waiting = self.n_asked + self.n_read + self.n_decoding
        ahead = waiting + max(self.n_decoded - 2 * self.batch, 0)
        return self.n_asked < N_READERS * processes and ahead < N_AHEAD * processes

    def _answered(self) -> None:
        simulation = self.simulation
        transfer_s = simulation.work.image_bytes * 8e-9 / simulation.cluster.gbit_per_s
        self.link_free_at = max(self.link_free_at, simulation.now) + transfer_s
        simulation.after(self.link_free_at - simulation.now, self._was_read)

    def _was_read(self) -> None:
        self.n_asked -= 1
        self.n_read += 1
        self.go_on()

    def _decoded(self) -> None:
        self.n_decoding -= 1
        self.n_decoded += 1
        self.go_on()

    def _embedded(self, n: int) -> None:
        self.n_engaged -= 1
        self.simulation.n_done += n
        self.go_on()


def hours_of_shards(
    n_shards: int, shard_s: float, nodes: int, losses_per_hour: float, restart_s: float
) -> float:
    """Return how long nodes take that are lost now and then, with the shard they were at."""
    per_s = losses_per_hour / 3600
    return n_shards / nodes * (1 / per_s + restart_s) * math.expm1(per_s * shard_s) / 3600


def simulate_losses(
    n_shards: int, shard_s: float, nodes: int, losses_per_hour: float, restart_s: float
) -> float:
    """Return the same, found by losing nodes at random; the last shard's end counts."""
    chance = random.Random(0)
    free_at = [0.0] * nodes
    while n_shards:
        now = free_at[0]
        lives_s = chance.expovariate(losses_per_hour / 3600)
        is_done = lives_s > shard_s
        heapq.heapreplace(free_at, now + (shard_s if is_done else lives_s + restart_s))
        n_shards -= is_done
    return max(free_at) / 3600


def measured() -> dict[str, Any]:
    """Return what the other artifacts say: seconds of a core, and bytes of an embedding."""
    speed = json.loads((ARTIFACTS / "extraction.json").read_text())["speed"]
    stored = json.loads((ARTIFACTS / "storage.json").read_text())["results"]
    n_cores = 2  # of the machine they were measured on
    core_s = {
        f"{name}, {precision}": {
            "forward_s": n_cores / speed[f"forward {name} openvino {precision}"]["per_s"],
            "end_to_end_s": n_cores / speed[f"end_to_end {name} openvino {precision}"]["per_s"],
        }
        for name in ("mobilenet_v2", "resnet50")
        for precision in ("float32", "bfloat16")
    }
    return {
        "decode_s": n_cores / speed["decode"]["per_s"],
        "core_s": core_s,
        "stored_bytes": {row["dtype"]: row["all"] for row in stored if row["photos"] == PHOTOS},
    }


def costs(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what numbers of images cost, on cores alone and with GPUs beside them."""
    on_cores = {name: (s["end_to_end_s"], 0.0) for name, s in found["core_s"].items()}
    on_gpus = {
        f"{name}, GPU": (found["decode_s"], 1 / per_s)
        for name, per_s in ASSUMED["gpu_per_s"].items()
    }
    return [
        {
            "images": n_images,
            "what": what,
            "core_h": n_images * core_s / 3600,
            "gpu_h": n_images * gpu_s / 3600,
            "money": n_images
            * (core_s * ASSUMED["per_core_hour"] + gpu_s * ASSUMED["per_gpu_hour"])
            / 3600,
        }
        for n_images in N_IMAGES
        for what, (core_s, gpu_s) in {**on_cores, **on_gpus}.items()
    ]


def storage(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a store of MobileNetV2's embeddings takes."""
    return [
        {
            "images": n_images,
            "dtype": dtype,
            "gb": n_images * n_bytes / 1e9,
            "per_month": n_images * n_bytes / 1e9 * ASSUMED["per_gb_month"],
            "parts": -(-n_images // SHARD),
            "gets": n_images * ASSUMED["per_million_gets"] / 1e6,
            "puts": n_images / SHARD * ASSUMED["per_million_puts"] / 1e6,
        }
        for n_images in N_IMAGES
        for dtype, n_bytes in found["stored_bytes"].items()
    ]


def cases(found: dict[str, Any]) -> Iterator[tuple[str, Work, Cluster]]:
    """Yield clusters, each of which waits for something else."""

    def work_of(name: str, latency_s: float = ASSUMED["latency_s"]) -> Work:
        forward_s = found["core_s"][name]["forward_s"]
        return Work(found["decode_s"], forward_s, ASSUMED["image_bytes"], latency_s)

    light, heavy = work_of("mobilenet_v2, bfloat16"), work_of("resnet50, bfloat16")
    on_disk = replace(light, latency_s=0.0005)
    plain = Cluster(1, ASSUMED["node_cores"], 1, None, ASSUMED["node_gbit_per_s"], 5_500)
    gpu, strong = (
        replace(plain, gpu_per_s=ASSUMED["gpu_per_s"][name])
        for name in ("mobilenet_v2", "resnet50")
    )
    yield "one machine, images on its disk", on_disk, replace(plain, gets_per_s=1e9)
    yield "one machine, a bucket", light, plain
    yield "the same, 4 processes", light, replace(plain, processes=4)
    yield "10 machines, one prefix", light, replace(plain, nodes=10, processes=4)
    yield "10 machines, 8 prefixes", light, replace(plain, nodes=10, processes=4, gets_per_s=44e3)
    yield "the same, ResNet50", heavy, replace(plain, nodes=10, processes=4, gets_per_s=44e3)
    yield "a GPU, MobileNetV2", light, replace(gpu, processes=16, gets_per_s=44e3)
    yield "the same, 2.5 Gbit/s", light, replace(gpu, processes=16, gets_per_s=44e3, gbit_per_s=2.5)
    yield "a GPU, ResNet50", heavy, replace(strong, processes=16, gets_per_s=44e3)


def check(found: dict[str, Any], n_images: int) -> list[dict[str, Any]]:
    """Compare the formula with the simulation, case by case."""
    rows = []
    for name, work, cluster in cases(found):
        allowed = bounds(work, cluster)
        bottleneck = min(allowed, key=lambda what: allowed[what])
        rows.append(
            {
                "case": name,
                "waits_for": bottleneck,
                "formula_per_s": allowed[bottleneck],
                "simulated_per_s": Simulation(work, cluster, n_images).run(),
            }
        )
    return rows


def losses(found: dict[str, Any]) -> dict[str, float]:
    """Return hours of a billion images on 100 machines, some of which are lost now and then."""
    core_s = found["core_s"]["mobilenet_v2, bfloat16"]["end_to_end_s"]
    shard_s = SHARD * core_s / ASSUMED["node_cores"]
    lost = (ASSUMED["losses_per_node_hour"], ASSUMED["restart_s"])
    n_shards = -(-N_IMAGES[-1] // SHARD)
    return {
        "undisturbed_h": n_shards * shard_s / LOSING_NODES / 3600,
        "formula_h": hours_of_shards(n_shards, shard_s, LOSING_NODES, *lost),
        "simulated_h": simulate_losses(n_shards, shard_s, LOSING_NODES, *lost),
    }


def cost_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return costs as a table."""
    return [
        "| images | what | core-hours | GPU-hours | money |",
        "|---|---|---|---|---|",
        *(
            f"| {row['images']:,} | {row['what']} | {row['core_h']:,.0f} | {row['gpu_h']:,.1f} | "
            f"{row['money']:,.0f} |"
            for row in rows
        ),
    ]


def storage_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return what is stored as a table."""
    return [
        "| images | dtype | GB | parts | per month | images read once | parts written once |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['images']:,} | {row['dtype']} | {row['gb']:,.0f} | {row['parts']:,} | "
            f"{row['per_month']:,.2f} | {row['gets']:,.2f} | {row['puts']:,.2f} |"
            for row in rows
        ),
    ]


def check_table(rows: list[dict[str, Any]]) -> list[str]:
    """Return formula and simulation as a table."""
    return [
        "| where | waits for | images/s | simulated | of the formula |",
        "|---|---|---|---|---|",
        *(
            f"| {row['case']} | {row['waits_for']} | {row['formula_per_s']:,.0f} | "
            f"{row['simulated_per_s']:,.0f} | {row['simulated_per_s'] / row['formula_per_s']:.2f} |"
            for row in rows
        ),
    ]


def as_markdown(record: dict[str, Any]) -> str:
    """Return all of it."""
    lost = record["losses"]
    return "\n".join(
        [
            "# What large extractions cost",
            "",
            "By `benchmarks/scale_simulation.py`; docs/scale.md says what is measured, and what is "
            "assumed.",
            "",
            *cost_table(record["costs"]),
            "",
            *storage_table(record["storage"]),
            "",
            f"Formula and simulation of {record['n_simulated']:,} images each:",
            "",
            *check_table(record["checks"]),
            "",
            f"A billion images on {LOSING_NODES} machines: {lost['undisturbed_h']:.3f} h; with "
            f"losses {lost['formula_h']:.3f} h by the formula, {lost['simulated_h']:.3f} h "
            "simulated.",
            "",
        ]
    )


@click.command()
def main() -> None:
    """Compute, simulate, and write the artifacts."""
    found = measured()
    record = {
        "measured": found,
        "assumed": ASSUMED,
        "n_simulated": N_SIMULATED,
        "costs": costs(found),
        "storage": storage(found),
        "checks": check(found, N_SIMULATED),
        "losses": losses(found),
    }
    (ARTIFACTS / "scale.json").write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "scale.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
