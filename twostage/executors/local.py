"""Run shards in this process, one after the other."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

S = TypeVar("S")
R = TypeVar("R")


class LocalExecutor:
    """Runs a worker over shards here; the worker overlaps decoding and the backbone itself."""

    def run(self, worker: Callable[[S], R], shards: Iterable[S]) -> Iterator[R]:
        """Yield what the worker returns for each shard, as each is done."""
        return map(worker, shards)
