"""Run one task on several workers of a Ray cluster at once, who work on it together.

All of them begin, or none; if one is lost, all begin anew, as many as then find room. Ray Train has
such groups as well, but hands their results back through a folder that all nodes share.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from twostage.errors import ExecutorError, TwoStageError, first_line
from twostage.executors import host as host_module
from twostage.executors.ray import (
    RayOptions,
    alive_nodes,
    check_version,
    choose_cpus,
    count_room,
    environment_of,
    no_room_message,
)

log = logging.getLogger("twostage")
P = TypeVar("P")
R = TypeVar("R")
_ATTEMPTS = 3
_LOOK_S = 5.0

Places = Sequence[tuple[str, list[int]]]
GroupTask = Callable[[P, Places, int], R]


def run_together(
    ray: Any,
    options: RayOptions,
    task: GroupTask[P, R],
    divide: Callable[[int, int], Sequence[P]],
    n_ports: int,
    signs_of_loss: Sequence[str] = (),
) -> list[R]:
    """Run a task on as many workers as find room, each with a part of what there is to do.

    Parameters
    ----------
    ray : module
        Ray, connected.
    options : RayOptions
        How many workers at most, and how large.
    task : callable
        Is called on each worker, as a process of its own, with its part, the address and free
        ports of each worker, and its rank among them. It can be pickled.
    divide : callable
        Takes the number of workers there may be and the cores of each; returns a part for each of
        as many or fewer.
    n_ports : int
        Free ports that each worker is to have.
    signs_of_loss : sequence of str
        Names of the types of what a task raises when another worker is gone.

    Returns
    -------
    list
        What the task returned, by rank.

    Raises
    ------
    ExecutorError
        If there is no room, a worker has another twostage, the task raises something, or workers
        were lost three times.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return _Group(ray, options, signs_of_loss).run(task, divide, n_ports)
        except _LostError as error:
            if attempt == _ATTEMPTS:
                raise ExecutorError(
                    f"Workers were lost {_ATTEMPTS} times; the last time: {error}. Look into Ray's "
                    "logs, which are in /tmp/ray/session_latest/logs on each node; most often it "
                    "is memory."
                ) from error
            log.warning("A worker was lost (%s); all begin anew.", error)
    raise AssertionError("there is a last attempt")


class _LostError(Exception):
    """A worker is gone, or what it told the others never came."""


class _Group:
    def __init__(self, ray: Any, options: RayOptions, signs_of_loss: Sequence[str]):
        self._ray, self._options, self._signs_of_loss = ray, options, signs_of_loss
        self._nodes: list[str] = []
        self._cpus = options.cpus_per_worker or choose_cpus(alive_nodes(ray), 0)

    def run(
        self, task: GroupTask[P, R], divide: Callable[[int, int], Sequence[P]], n_ports: int
    ) -> list[R]:
        room = None
        while room is None:
            parts = divide(self._count_room(), self._cpus)
            room = self._reserve(len(parts))
        actors: list[Any] = []
        try:
            actors = [self._start(room, place) for place in range(len(parts))]
            found = self._get([actor.found.remote("twostage") for actor in actors])
            self._nodes = [node for node, _ in found]
            for node, version in found:
                check_version(node, version)
            address_of = self._ray.util.get_node_ip_address
            places = self._get([actor.meet.remote(address_of, n_ports) for actor in actors])
            log.info("Workers in the cluster: %d, with %d CPUs each.", len(actors), self._cpus)
            shared = self._ray.put(task)
            promises = [
                actor.work.remote([shared, self._ray.put(part)], self._ray.get, places, rank)
                for rank, (actor, part) in enumerate(zip(actors, parts, strict=True))
            ]
            return self._get(promises)
        finally:
            for actor in actors:
                self._ray.kill(actor)
            self._ray.util.remove_placement_group(room)

    def _count_room(self) -> int:
        """Count the workers that were asked for, or else find room."""
        room = count_room(alive_nodes(self._ray), self._cpus, 0)
        return self._options.ray_workers or max(1, room)

    def _reserve(self, n: int) -> Any:
        """Reserve room for all workers, on different nodes if that can be.

        None if there is less room by now: that a node is gone is known only after a while.
        """
        room = self._ray.util.placement_group([{"CPU": self._cpus}] * n, strategy="SPREAD")
        until_s = time.monotonic() + self._options.start_s
        while not room.wait(min(_LOOK_S, self._options.start_s)):
            has_less = self._count_room() < n
            if has_less or time.monotonic() >= until_s:
                self._ray.util.remove_placement_group(room)
            if has_less:
                return None
            if time.monotonic() >= until_s:
                who = "No worker" if n == 1 else f"Not all {n} workers"
                raise ExecutorError(
                    no_room_message(who, alive_nodes(self._ray), self._cpus, self._options)
                )
        return room

    def _start(self, room: Any, place: int) -> Any:
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._ray.cloudpickle.register_pickle_by_value(host_module)
        where = PlacementGroupSchedulingStrategy(room, placement_group_bundle_index=place)
        made = self._ray.remote(num_cpus=self._cpus, scheduling_strategy=where)(host_module.Peer)
        return made.remote(environment_of(self._cpus))

    def _get(self, promises: list[Any]) -> list[Any]:
        """Wait for all, but not for the others once one has failed."""
        waiting, exceptions = list(promises), self._ray.exceptions
        while waiting:
            ready, waiting = self._ray.wait(waiting, timeout=_LOOK_S)
            for promise in ready:
                try:
                    self._ray.get(promise)
                except exceptions.RayTaskError as error:
                    raise self._explained(error.cause, promises.index(promise)) from error
                except exceptions.RayError as error:
                    raise _LostError(first_line(error).rstrip(".")) from error
        return list(self._ray.get(promises))

    def _explained(self, cause: Exception, rank: int) -> Exception:
        """Return what to raise: a worker whose peer is gone is often heard before that is known."""
        node = self._nodes[rank] if self._nodes else "(unknown)"
        if isinstance(cause, TwoStageError):
            return ExecutorError(
                f"A worker on node {node} can't go on: {cause} All nodes must see the same files, "
                "under the same paths or URLs."
            )
        reason = f"{type(cause).__name__}: {first_line(cause)}".rstrip(".")
        if type(cause).__name__ in self._signs_of_loss:
            return _LostError(reason)
        return ExecutorError(
            f"A worker on node {node} failed: {reason}. This is a fault of twostage, or of what is "
            "installed there."
        )
