"""What runs in an actor of Ray. It is sent there whole, so that it needs no twostage on that node.

Hence it can tell which version there is, before anything of it is used.
"""

import os
import platform
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from queue import Empty, SimpleQueue
from typing import Any


class Visitor:
    """What is on a node, before it knows twostage.

    Parameters
    ----------
    environment : mapping
        Variables to set before anything is imported: how many cores are its own.
    """

    def __init__(self, environment: Mapping[str, str]):
        os.environ.update(environment)

    def found(self, package: str) -> tuple[str, str | None]:
        """Return this node's name, and the version of a package that is installed here."""
        try:
            return platform.node(), version(package)
        except PackageNotFoundError:
            return platform.node(), None


class Peer(Visitor):
    """Works on its part of something, together with others."""

    def meet(self, address_of: Callable[[], str], n_ports: int) -> tuple[str, list[int]]:
        """Return this node's address, and ports of it at which nothing listens."""
        sockets = [socket.socket() for _ in range(n_ports)]
        try:
            for each in sockets:
                each.bind(("", 0))
            return address_of(), [each.getsockname()[1] for each in sockets]
        finally:
            for each in sockets:
                each.close()

    def work(self, boxed: Sequence[Any], fetch: Callable[[Any], Any], *facts: Any) -> Any:
        """Do a task, the first in the box, to a part, the second; ``facts`` are of the peers."""
        task, part = (fetch(each) for each in boxed)
        return task(part, *facts)


class Host(Visitor):
    """Keeps one worker, and works on the shards that it is given, one run across all of them."""

    def __init__(self, environment: Mapping[str, str]):
        super().__init__(environment)
        self._given: SimpleQueue[Any] = SimpleQueue()
        self._news = threading.Condition()
        self._records: list[Any] = []
        self._n_done = 0
        self._failure: Exception | None = None
        self._worker: Any = None

    def open(self, boxed: Sequence[Any], fetch: Callable[[Any], Any]) -> str | None:
        """Make the worker, and return on what it runs."""
        self._worker = fetch(boxed[0])(self._note)
        threading.Thread(target=self._work, daemon=True, name="twostage-work").start()
        device: str | None = self._worker.device
        return device

    def give(self, shards: Sequence[Any]) -> None:
        """Take shards to work on."""
        for shard in shards:
            self._given.put(shard)

    def report(self, wait_s: float) -> tuple[int, list[Any]]:
        """Return how many images were looked at, and the records of what is committed since.

        Raises
        ------
        Exception
            Whatever ended the work.
        """
        with self._news:
            self._news.wait_for(lambda: self._records or self._failure, wait_s)
            records, self._records = self._records, []
            if self._failure is not None and not records:
                raise self._failure
            return self._n_done, records

    def _note(self, n_done: int, _n_images: int) -> None:
        self._n_done = n_done

    def _work(self) -> None:
        try:
            while True:
                for record in self._worker.run(self._stream(self._given.get())):
                    with self._news:
                        self._records.append(record)
                        self._news.notify_all()
        except Exception as error:
            with self._news:
                self._failure = error
                self._news.notify_all()

    def _stream(self, shard: Any) -> Iterator[Any]:
        """Yield a shard, and whatever is given by the time that it is loaded."""
        while True:
            yield shard
            try:
                shard = self._given.get_nowait()
            except Empty:
                return
