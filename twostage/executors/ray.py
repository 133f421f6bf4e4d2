"""Run shards on a Ray cluster: a pool of actors, each with a worker that it keeps.

Of Ray it takes actors, their placement, their failures and the autoscaler; which shard goes where
is the backlog's. Ray Data has the pool as well, but tries blocks that kill their actor again for
ever, and can't say which block that was.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any, Generic, TypeVar

from twostage import __version__
from twostage.errors import ExecutorError, TwoStageError, UsageError, first_line
from twostage.executors import host as host_module
from twostage.executors.backlog import Backlog, S

log = logging.getLogger("twostage")
R = TypeVar("R")
_MOST_CPUS = 8  # of a worker, if not asked for: threads of one Python keep no more of them busy
_REPORT_S = 0.5
_LOOK_S = 5.0  # between looks at the cluster's nodes
_REACH_S = 10.0
_SETTINGS = b"\0\0\0\4\0\0\0\0\0"  # a frame of HTTP/2: length, kind, flags, stream
_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_OBJECT_STORE_BYTES = 1 << 27  # of a cluster of one's own: only records go through it
_MOST_FAILED_STARTS = 3
_OF_THIS_MACHINE = ("local", "auto")
_HINT = "Check the address, that the cluster is up ('ray status' there), and firewalls."
# A cluster of one's own reports nothing home, and its workers have no less right to the cores.
_VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # else each start warns of it
    "RAY_worker_niceness": "0",
}


@dataclass(frozen=True)
class RayOptions:
    """Where shards run, and by how many workers.

    Attributes
    ----------
    address : str or None
        Of the cluster: ``host:port``, ``ray://host:port``, or ``auto`` for the one that this
        machine is a node of. If None, that of the variable RAY_ADDRESS, or else a cluster of this
        machine alone, for as long as the run takes.
    ray_workers : int or None
        Workers, at most. Those that find no room are waited for, so that a cluster that can grow
        does; if None, there are as many as find room.
    cpus_per_worker : int or None
        Cores of a worker: they decode, and embed where there is no GPU. All of the smallest node,
        up to 8, if None; its share of them where workers have GPUs.
    gpus_per_worker : float
        GPUs of a worker; 0 for none.
    start_s : float
        How long the first worker may take to be there.
    silence_s : float
        After which a worker that does nothing is taken for stuck, and ended.
    """

    address: str | None = None
    ray_workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float = 0.0
    start_s: float = 300.0
    silence_s: float = 300.0

    def __post_init__(self) -> None:
        for name, least in (("ray_workers", 1), ("cpus_per_worker", 1), ("gpus_per_worker", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise UsageError(f"{name} must be at least {least}; found {value}.")


@dataclass(frozen=True)
class ReadyWorker(Generic[S, R]):
    """A worker on its node.

    Attributes
    ----------
    run : callable
        Takes shards, and yields a record of each as it is done.
    device : str
        What it runs on.
    """

    run: Callable[[Iterable[S]], Iterator[R]]
    device: str


@dataclass
class _Handle:
    """An actor.

    Attributes
    ----------
    key : int
        Its number.
    actor : object
        Ray's handle of it.
    heard_s : float
        When it last did something, by the clock.
    node : str
        The address of its machine, once that is known.
    then : callable
        What takes its next answer.
    n_seen : int
        Images that it looked at.
    n_finished : int
        Images in the shards that it has done.
    """

    key: int
    actor: Any
    heard_s: float
    node: str = "(unknown)"
    then: Any = None
    n_seen: int = 0
    n_finished: int = 0


Progress = Callable[[int, int], None]
Recipe = Callable[[Progress], ReadyWorker[S, R]]


class RayExecutor(Generic[S, R]):
    """Runs workers over shards in a Ray cluster.

    Parameters
    ----------
    options : RayOptions
        Where, and how many.
    split, condemn : callable
        What is done to a shard that kills workers; see `Backlog`.
    progress : callable, optional
        Called with the number of images done and the number to do, a few times a second.

    Attributes
    ----------
    device : str or None
        What the first worker runs on.
    seconds_to_start : float
        Until that was there.
    condemned : list
        Images that killed workers.
    """

    def __init__(
        self,
        options: RayOptions,
        split: Callable[[S], tuple[S, S]],
        condemn: Callable[[S, int], S],
        progress: Progress | None = None,
    ):
        self._options = options
        self._split, self._condemn = split, condemn
        self._progress = progress
        self.device: str | None = None
        self.seconds_to_start = 0.0
        self.condemned: list[Any] = []

    def run(self, worker: Recipe[S, R], shards: Iterable[S]) -> Iterator[R]:
        """Yield what a worker returns for each shard, or piece of one, as each is done.

        Parameters
        ----------
        worker : callable
            Makes a worker, on the node that it is to work on: it can be pickled. Takes what the
            worker is to call with the number of images done, and of all.
        shards : iterable
            What is to be done.

        Raises
        ------
        ExecutorError
            If the cluster can't be reached, no worker can start, or all of them die.
        TwoStageError
            What a worker raises.
        """
        backlog = Backlog(shards, self._split, self._condemn)
        if not backlog.n_jobs:
            return
        started_s = time.monotonic()
        with connected(self._options.address) as ray:
            pool = _Pool(ray, worker, backlog, self._options)
            try:
                while backlog.n_jobs:
                    yield from pool.step()
                    if pool.device is not None and self.device is None:
                        self.device = pool.device
                        self.seconds_to_start = time.monotonic() - started_s
                    if self._progress is not None:
                        self._progress(pool.n_seen, backlog.n_images)
            finally:
                self.condemned = backlog.condemned
                pool.end()


class _Pool(Generic[S]):
    """The actors, of which there are as many as have something to do and find room.

    Parameters
    ----------
    ray : module
        Ray, connected.
    worker : callable
        Makes a worker.
    backlog : Backlog
        What is left.
    options : RayOptions
        How many, and how large.

    Attributes
    ----------
    device : str or None
        What the first of them runs on.
    """

    def __init__(
        self, ray: Any, worker: Callable[[Any], Any], backlog: Backlog[S], options: RayOptions
    ):
        self._ray, self._backlog, self._options = ray, backlog, options
        self._box = [ray.put(worker)]
        self._handles: dict[Any, _Handle] = {}  # by what is waited for
        self._actors: dict[int, Any] = {}  # that were started, and not ended
        self._numbers = count()
        self._n_failed_starts = 0
        self._answered_s = time.monotonic()  # when any of them was last heard
        self._looked_s = -_LOOK_S
        self._n_most = self._n_announced = 0
        self._n_told = 0
        self.device: str | None = None
        nodes = alive_nodes(ray)
        self._cpus = options.cpus_per_worker or choose_cpus(nodes, options.gpus_per_worker)
        ray.cloudpickle.register_pickle_by_value(host_module)
        self._actor_class = ray.remote(
            num_cpus=self._cpus, num_gpus=options.gpus_per_worker, max_concurrency=3
        )(host_module.Host)

    @property
    def _n_coming(self) -> int:
        """How many actors have nothing to do yet: they are about to start, or wait for room."""
        return sum(self._backlog.is_idle(handle.key) for handle in self._handles.values())

    @property
    def n_seen(self) -> int:
        """How many images were looked at; what a dead worker had seen does not count back."""
        running = sum(handle.n_seen - handle.n_finished for handle in self._handles.values())
        self._n_told = max(self._n_told, self._backlog.n_done + max(0, running))
        return self._n_told

    def step(self) -> list[Any]:
        """Start and end actors, and return the records that came within a moment."""
        self._grow()
        self._end_stuck()
        ready, _ = self._ray.wait(list(self._handles), num_returns=1, timeout=_REPORT_S)
        records: list[Any] = []
        for promise in ready:
            handle = self._handles.pop(promise)
            try:
                answer = self._ray.get(promise)
                self._answered_s = time.monotonic()
                records += handle.then(handle, answer)
            except self._ray.exceptions.RayTaskError as error:
                self._raise(error, handle)
            except self._ray.exceptions.RayError as error:
                self._lose(handle, error)
        return records

    def end(self) -> None:
        """End all actors."""
        for key in list(self._actors):
            self._kill(key)

    def _grow(self) -> None:
        """Start actors, as many as have something to do and may be."""
        now_s = time.monotonic()
        if now_s - self._looked_s >= _LOOK_S:
            self._looked_s = now_s
            room = count_room(alive_nodes(self._ray), self._cpus, self._options.gpus_per_worker)
            self._n_most = self._options.ray_workers or max(1, room)
            self._tell_size()
        while len(self._handles) < self._n_most and self._n_coming < self._backlog.n_free:
            actor = self._actor_class.remote(environment_of(self._cpus))
            handle = _Handle(next(self._numbers), actor, now_s)
            self._actors[handle.key] = handle.actor
            self._ask(handle, handle.actor.found.remote("twostage"), self._found)
        if now_s - self._answered_s > self._options.start_s:
            raise ExecutorError(self._late())

    def _tell_size(self) -> None:
        n_most = min(self._n_most, self._backlog.n_jobs)
        if n_most > self._n_announced:
            log.info("Ray starts up to %d workers of %d CPUs each ...", n_most, self._cpus)
            self._n_announced = n_most

    def _ask(
        self, handle: _Handle, promise: Any, then: Callable[[_Handle, Any], list[Any]]
    ) -> None:
        handle.then = then
        self._handles[promise] = handle

    def _found(self, handle: _Handle, theirs: tuple[str, str | None]) -> list[Any]:
        """Let an actor make its worker, if its node has this very twostage."""
        handle.node, version = theirs
        check_version(handle.node, version)
        self._ask(handle, handle.actor.open.remote(self._box, self._ray.get), self._opened)
        return []

    def _opened(self, handle: _Handle, device: str) -> list[Any]:
        self.device = self.device or device
        self._n_failed_starts = 0
        self._listen(handle)
        return []

    def _told(self, handle: _Handle, news: tuple[int, list[Any]]) -> list[Any]:
        """Take what a worker has done, and give it more."""
        n_seen, records = news
        if records or n_seen != handle.n_seen:
            handle.heard_s = time.monotonic()
        handle.n_seen = n_seen
        handle.n_finished += sum(self._backlog.finish(handle.key) for _ in records)
        self._listen(handle)
        return records

    def _listen(self, handle: _Handle) -> None:
        """Give a worker what it is to have in hand, and wait for what it says; end an idle one."""
        shards = self._backlog.take(handle.key, self._n_coming)
        if self._backlog.is_idle(handle.key):
            self._kill(handle.key)
            return
        if shards:
            handle.actor.give.remote(shards)
            handle.heard_s = time.monotonic()
        self._ask(handle, handle.actor.report.remote(_REPORT_S), self._told)

    def _end_stuck(self) -> None:
        """End workers that have something to do and do nothing."""
        late_s = time.monotonic() - self._options.silence_s
        for promise, handle in list(self._handles.items()):
            if handle.heard_s < late_s and not self._backlog.is_idle(handle.key):
                log.warning("A worker on node %s is stuck and is ended.", handle.node)
                del self._handles[promise]
                self._kill(handle.key)
                self._backlog.give_back(handle.key)

    def _lose(self, handle: _Handle, error: Exception) -> None:
        """Note that an actor is gone; another takes its place."""
        self._kill(handle.key)
        if self._backlog.is_idle(handle.key):
            self._n_failed_starts += 1
            if self._n_failed_starts >= _MOST_FAILED_STARTS:
                raise ExecutorError(
                    f"{_MOST_FAILED_STARTS} workers in a row ended before they could begin; the "
                    f"last: {first_line(error)} Look into Ray's logs, which are in "
                    "/tmp/ray/session_latest/logs on each node."
                ) from error
            return
        log.warning("A worker on node %s was lost; what it had is tried again.", handle.node)
        self._backlog.give_back(handle.key)

    def _raise(self, error: Any, handle: _Handle) -> None:
        """Raise what a worker raised; where it could not begin, say on which node."""
        cause = error.cause
        if not isinstance(cause, TwoStageError):
            raise ExecutorError(
                f"A worker on node {handle.node} failed: {first_line(cause)}. This is a fault of "
                "twostage, or of what is installed there."
            ) from error
        if handle.then == self._opened:
            raise ExecutorError(f"A worker on node {handle.node} can't start: {cause}") from error
        raise cause

    def _kill(self, key: int) -> None:
        self._ray.kill(self._actors.pop(key))

    def _late(self) -> str:
        return no_room_message("No worker", alive_nodes(self._ray), self._cpus, self._options)


def refuse_without_cluster(given: Iterable[str]) -> None:
    """Raise UsageError if options of a cluster are given, by their names, to a run here."""
    name = next(iter(given), None)
    if name is not None:
        option = f"--{name.replace('_', '-')}"
        raise UsageError(
            f"{option} is of a Ray cluster, but the executor is 'local'. Give --executor ray as "
            f"well, or leave {option} out."
        )


def check_version(node: str, version: str | None) -> None:
    """Raise ExecutorError if a node has another twostage than this, or none."""
    if version != __version__:
        found = "no twostage" if version is None else f"twostage {version}"
        raise ExecutorError(
            f"Node {node} has {found}; this is twostage {__version__}. Install "
            f"twostage=={__version__} on every node, in the environment that Ray runs in."
        )


def no_room_message(
    who: str, nodes: Sequence[Mapping[str, float]], cpus: int, options: RayOptions
) -> str:
    """Say that workers could not begin, and what there is.

    Parameters
    ----------
    who : str
        Whoever could not.
    nodes : sequence of mapping
        What each node has, of ``CPU`` and ``GPU``.
    cpus : int
        Of a worker.
    options : RayOptions
        What was asked for.
    """
    gpus = options.gpus_per_worker
    wanted = f"{cpus} CPUs" + (f" and {gpus:g} GPUs" if gpus else "")
    found = ", ".join(
        f"{node.get('CPU', 0):g} CPUs and {node.get('GPU', 0):g} GPUs" for node in nodes
    )
    return (
        f"{who} could begin within {options.start_s:.0f} s. One takes {wanted}; the cluster's "
        f"nodes have {found or 'none'}. Wait until they are free, or ask for less: "
        "--cpus-per-worker, --gpus-per-worker."
    )


def choose_cpus(nodes: Sequence[Mapping[str, float]], gpus_per_worker: float) -> int:
    """Choose how many cores a worker gets.

    Parameters
    ----------
    nodes : sequence of mapping
        What each node has, of ``CPU`` and ``GPU``.
    gpus_per_worker : float
        0 for workers without a GPU.
    """
    if gpus_per_worker:
        nodes = [node for node in nodes if node.get("GPU", 0) >= gpus_per_worker]
        shares = [node.get("CPU", 0) * gpus_per_worker / node["GPU"] for node in nodes]
    else:
        shares = [node["CPU"] for node in nodes if node.get("CPU", 0) >= 1]
    return max(1, min(_MOST_CPUS, int(min(shares, default=1))))


def count_room(nodes: Sequence[Mapping[str, float]], cpus: int, gpus: float) -> int:
    """Count the workers that find room on nodes, were these free."""
    return sum(
        int(min(node.get("CPU", 0) // cpus, node.get("GPU", 0) / gpus if gpus else float("inf")))
        for node in nodes
    )


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect to a cluster, and yield Ray; one that the program is connected to already stays so.

    Raises
    ------
    ExecutorError
        If Ray is not installed, or nothing answers at the address.
    """
    ray = _import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = _address(address)
    check_reachable(address)
    on_termination = signal.getsignal(signal.SIGTERM)
    own = {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == "local" else {}),
        )
    except Exception as error:  # of many kinds: no cluster here, another version of Ray or Python
        raise ExecutorError(
            f"Can't connect to Ray at '{address}': {first_line(error)} Check the address, and "
            "that Ray and Python have the same version here and there."
        ) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_termination)  # Ray has put its own in its place
    try:
        yield ray
    finally:
        ray.shutdown()


def check_ready(address: str | None) -> None:
    """Raise what `connected` would, as far as that is known at once."""
    if not _import_ray().is_initialized():
        check_reachable(_address(address))


def check_reachable(address: str) -> None:
    """Raise ExecutorError if nothing answers at an address: Ray itself would try for minutes."""
    if address in _OF_THIS_MACHINE:
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(
            f"'{address}' is no address of a Ray cluster. Give host:port, ray://host:port, or "
            "auto for the cluster of this machine."
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _REACH_S) as connection:
            is_ray = os.environ.get("RAY_USE_TLS") == "1" or _speaks_grpc(connection)
    except (OSError, OverflowError) as error:
        reason = "timed out" if isinstance(error, TimeoutError) else first_line(error)
        raise ExecutorError(f"Nothing answers at '{address}' ({reason}). {_HINT}") from error
    if not is_ray:
        raise ExecutorError(f"What answers at '{address}' is no Ray cluster. {_HINT}")


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether what is connected answers as HTTP/2 begins, over which Ray speaks."""
    try:
        connection.sendall(_GREETING)
        answer = connection.recv(len(_SETTINGS))
    except OSError:  # it never said a word, or hung up
        return False
    return answer[3:4] == _SETTINGS[3:4]


def _address(given: str | None) -> str:
    return given or os.environ.get("RAY_ADDRESS") or "local"


def _import_ray() -> Any:
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise ExecutorError(
            "The executor 'ray' needs the package ray. Install it with: pip install 'twostage[ray]'"
        ) from error
    return ray


def alive_nodes(ray: Any) -> list[dict[str, float]]:
    """Return what each node has that is there."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]


def environment_of(cpus: int) -> dict[str, str]:
    """Return what keeps a worker to its cores: joblib counts them so, and TensorFlow."""
    names = ("LOKY_MAX_CPU_COUNT", "TF_NUM_INTRAOP_THREADS")
    return {**dict.fromkeys(names, str(cpus)), "TF_CPP_MIN_LOG_LEVEL": "3"}
