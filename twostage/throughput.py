"""Tell where the time of an extraction goes, while its steps overlap."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Throughput:
    """How many images a second each step takes, had it the machine to itself.

    Attributes
    ----------
    decode_per_s : float
        Reading, hashing and decoding, by all workers.
    model_per_s : float
        The backbone.
    write_per_s : float
        Committing parts.
    bound_per_s : float
        What these allow together: steps that share the cores add up, others don't.
    reached_per_s : float
        What the run did, the start of the backbone left out.
    bottleneck : {"decode", "model", "write"}
        The slowest step.
    n_workers, n_cores : int
        Threads that decode, and what they run on.
    shares_cores : bool
        Whether the backbone runs on the cores that decode.
    """

    decode_per_s: float
    model_per_s: float
    write_per_s: float
    bound_per_s: float
    reached_per_s: float
    bottleneck: str
    n_workers: int
    n_cores: int
    shares_cores: bool


class StageClock:
    """Adds up the seconds of each step.

    Parameters
    ----------
    n_workers, n_cores : int
        Threads that decode, and what they run on.

    Notes
    -----
    Where the backbone runs on the cores that decode, wall time says nothing about a single step:
    it is the time on a processor that counts, of the threads that decode, and of all others. A
    backbone on a device of its own works whenever nothing is waited for.
    """

    def __init__(self, n_workers: int, n_cores: int):
        self._n_workers, self._n_cores = n_workers, n_cores
        self._lock = threading.Lock()
        self._n_decoded = 0
        self._decode_s = self._decode_cpu_s = 0.0
        self._write_s = self._write_cpu_s = 0.0
        self._wait_s = self._left_out_s = self._left_out_cpu_s = 0.0
        self._started_s, self._started_cpu_s = time.perf_counter(), time.process_time()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Count what a worker waits for the disk, or the network."""
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        waited = time.perf_counter() - wall - (time.thread_time() - cpu)
        with self._lock:
            self._decode_s += max(0.0, waited)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Count what a worker does for one image, by its time on a processor."""
        cpu = time.thread_time()
        try:
            yield
        finally:
            cpu = time.thread_time() - cpu
            with self._lock:
                self._n_decoded += 1
                self._decode_s += cpu
                self._decode_cpu_s += cpu

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Count the commit of a part."""
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self._write_s += time.perf_counter() - wall
        self._write_cpu_s += time.thread_time() - cpu

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count what the backbone waits for images."""
        wall = time.perf_counter()
        yield
        self._wait_s += time.perf_counter() - wall

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Leave out what is done once in a run, while workers may decode already."""
        wall, cpu, decode_cpu = time.perf_counter(), time.process_time(), self._decode_cpu_s
        yield
        self._left_out_s += time.perf_counter() - wall
        meanwhile = self._decode_cpu_s - decode_cpu
        self._left_out_cpu_s += max(0.0, time.process_time() - cpu - meanwhile)

    def throughput(self, n_images: int, shares_cores: bool) -> Throughput:
        """Say how fast each step was.

        Parameters
        ----------
        n_images : int
            That went through the backbone; not 0.
        shares_cores : bool
            Whether the backbone runs on the cores that decode.
        """
        wall = time.perf_counter() - self._started_s - self._left_out_s
        cpu = time.process_time() - self._started_cpu_s - self._left_out_cpu_s
        model_s = wall - self._wait_s - self._write_s
        if shares_cores:
            model_s = (cpu - self._decode_cpu_s - self._write_cpu_s) / self._n_cores
        n_decoding = min(self._n_workers, self._n_cores)
        rates = {
            "decode": _rate(self._n_decoded * n_decoding, self._decode_s),
            "model": _rate(n_images, model_s),
            "write": _rate(n_images, self._write_s),
        }
        together = 1 / sum(1 / rate for rate in rates.values())
        return Throughput(
            decode_per_s=rates["decode"],
            model_per_s=rates["model"],
            write_per_s=rates["write"],
            bound_per_s=together if shares_cores else min(rates.values()),
            reached_per_s=_rate(n_images, wall),
            bottleneck=min(rates, key=lambda step: rates[step]),
            n_workers=self._n_workers,
            n_cores=self._n_cores,
            shares_cores=shares_cores,
        )


def _rate(n: int, seconds: float) -> float:
    return max(n, 1) / max(seconds, 1e-6)
