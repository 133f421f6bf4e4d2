"""Where the time of an extraction goes."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from twostage.throughput import StageClock


class Clocks:
    """Stands in for the clocks of `time`: they go only when told to."""

    def __init__(self) -> None:
        self.wall = self.process = self.thread = 100.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.process

    def thread_time(self) -> float:
        return self.thread

    def go(self, wall: float, thread: float = 0.0, others: float = 0.0) -> None:
        """Let time pass, on the wall, on this thread's processor, and on other threads' ones."""
        self.wall += wall
        self.thread += thread
        self.process += thread + others


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr("twostage.throughput.time", clocks)
    return clocks


def run(clock: StageClock, clocks: Clocks, n_images: int) -> None:
    """Do what an extraction does: per image 2 ms decoding, 8 ms model; 40 ms writing."""
    with clock.left_out():
        clocks.go(wall=5.0, thread=3.0, others=1.0)  # the backbone starts
    for _ in range(n_images):
        with clock.decoding():
            with clock.reading():
                clocks.go(wall=0.001)
            clocks.go(wall=0.002, thread=0.001)  # it had half a core
        with clock.waiting():
            clocks.go(wall=0.003)
        clocks.go(wall=0.004, others=0.008)
    with clock.writing():
        clocks.go(wall=0.040, thread=0.020)


def test_steps_that_share_cores_are_told_apart_by_their_time_on_a_processor(
    clocks: Clocks,
) -> None:
    clock = StageClock(n_workers=2, n_cores=2)
    run(clock, clocks, 100)
    found = clock.throughput(100, shares_cores=True)
    assert found.decode_per_s == pytest.approx(2 / 0.002)  # 1 ms of disk, 1 ms of processor
    assert found.model_per_s == pytest.approx(2 / 0.008)
    assert found.write_per_s == pytest.approx(100 / 0.040)
    assert found.bound_per_s == pytest.approx(1 / (1 / 1000 + 1 / 250 + 1 / 2500))
    assert found.reached_per_s == pytest.approx(100 / (100 * 0.010 + 0.040))
    assert found.bottleneck == "model"


def test_a_device_of_its_own_works_whenever_nothing_is_waited_for(clocks: Clocks) -> None:
    clock = StageClock(n_workers=2, n_cores=4)
    run(clock, clocks, 100)
    found = clock.throughput(100, shares_cores=False)
    assert found.model_per_s == pytest.approx(1 / 0.007)
    assert found.bound_per_s == pytest.approx(found.model_per_s)
    assert found.bottleneck == "model"


def test_what_workers_do_while_the_backbone_starts_is_not_left_out(clocks: Clocks) -> None:
    clock = StageClock(n_workers=1, n_cores=1)
    with clock.left_out():
        with clock.decoding():
            clocks.go(wall=2.0, thread=2.0)
        clocks.go(wall=1.0, thread=1.0)
    clocks.go(wall=4.0, thread=4.0)
    found = clock.throughput(1, shares_cores=True)
    assert found.decode_per_s == pytest.approx(1 / 2)
    assert found.model_per_s == pytest.approx(1 / 4)


def test_more_workers_than_cores_decode_no_faster(clocks: Clocks) -> None:
    clock = StageClock(n_workers=8, n_cores=2)
    with clock.decoding():
        clocks.go(wall=1.0, thread=1.0)
    assert clock.throughput(1, shares_cores=True).decode_per_s == pytest.approx(2)


def test_steps_that_took_no_time_are_no_division_by_zero(clocks: Clocks) -> None:
    found = StageClock(1, 1).throughput(1, shares_cores=True)
    assert found.bound_per_s > 0


def test_threads_count_together() -> None:
    def busy(until: Callable[[], bool]) -> None:
        with clock.decoding():
            while not until():
                pass

    clock = StageClock(n_workers=4, n_cores=1)
    barrier = threading.Barrier(4)

    def work(_: int) -> None:
        barrier.wait()
        end = time.thread_time() + 0.02
        busy(lambda: time.thread_time() >= end)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    found = clock.throughput(4, shares_cores=True)
    assert found.decode_per_s == pytest.approx(1 / 0.02, rel=0.2)
