"""Run shards in this process."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")


class LocalExecutor:
    """Runs a worker over shards here; the worker overlaps decoding, the engine and writing."""

    def run(self, worker: Callable[[Iterable[S]], Iterator[R]], shards: Iterable[S]) -> Iterator[R]:
        """Yield what the worker returns for each shard, as each is done."""
        return worker(shards)
