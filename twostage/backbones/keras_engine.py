"""Execute a network with Keras, whichever backend it runs on, on one device or several."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from queue import SimpleQueue
from threading import Lock
from traceback import clear_frames
from typing import Any

import numpy as np

from twostage.backbones.forward import compile_forward, is_out_of_memory
from twostage.backbones.inference import for_inference
from twostage.backbones.network import backend, on_device
from twostage.backbones.spec import BackboneSpec
from twostage.errors import BackboneError

_BATCH_SIZE_ON_CPU = 32
_BATCH_SIZE_ON_GPU = 128
_N_AT_ONCE = 2  # on a device: it computes one batch while the other is fetched or waits


class KerasEngine:
    """A Keras network, compiled for each device.

    Parameters
    ----------
    spec : BackboneSpec
        What it is; its precision decides how it is compiled.
    model : keras.Model
        From uint8 pixels of shape (n, size, size, 3) to float32 embeddings of shape (n, dim).
    devices : sequence of str, optional
        As Keras names them ("cpu:0", "gpu:1"), each with a replica of the network; one that the
        backend chooses if None.
    batch_size : int, optional
        32 on a CPU and 128 on a GPU if None. Halved where a device's memory does not suffice.
    """

    def __init__(
        self,
        spec: BackboneSpec,
        model: Any,
        devices: Sequence[str] | None = None,
        batch_size: int | None = None,
    ):
        self.spec = spec
        self.name = backend()
        where = tuple(devices) if devices else (None,)
        self.is_on_cpu = not str(where[0]).startswith("gpu")
        automatic = _BATCH_SIZE_ON_CPU if self.is_on_cpu else _BATCH_SIZE_ON_GPU
        self.batch_size = batch_size or automatic
        try:
            with on_device(where[0]):
                network = for_inference(model, spec.precision)
            self._replicas = [_Replica(network, device) for device in where]
        except Exception as error:  # each backend has its own
            if not is_out_of_memory(error):
                raise
            raise BackboneError(self._too_small_message(error)) from error

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Embed batches; see `Engine.run`. They are handed out to the devices in turn."""
        free: SimpleQueue[_Replica] = SimpleQueue()
        for replica in self._replicas * _N_AT_ONCE:
            free.put(replica)

        def embed(batch: np.ndarray, size: int) -> np.ndarray:
            replica = free.get()
            try:
                return _in_parts(replica, batch, size)
            finally:
                free.put(replica)

        waiting: deque[tuple[np.ndarray, int, Future[np.ndarray]]] = deque()
        n_threads = len(self._replicas) * _N_AT_ONCE
        with ThreadPoolExecutor(n_threads, thread_name_prefix="twostage-embed") as pool:
            try:
                for batch in batches:
                    size = self.batch_size
                    waiting.append((batch, size, pool.submit(embed, batch, size)))
                    if len(waiting) > n_threads:  # one more, so that no thread waits for us
                        yield self._next(waiting)
                while waiting:
                    yield self._next(waiting)
            finally:
                for _, _, future in waiting:
                    future.cancel()

    def _next(self, waiting: deque[tuple[np.ndarray, int, Future[np.ndarray]]]) -> np.ndarray:
        """Return the embeddings of the batch that waits longest; smaller parts, if they must be."""
        batch, size, future = waiting.popleft()
        error = future.exception()
        if error is None:
            return self._checked(future.result())
        if not is_out_of_memory(error):
            raise error
        del future
        wait([other for _, _, other in waiting])  # else they hold the memory that we need
        return self._checked(self._embed_smaller(batch, size, error))

    def _embed_smaller(self, batch: np.ndarray, size: int, error: BaseException) -> np.ndarray:
        """Embed a batch that did not fit into memory, in ever smaller parts."""
        while True:
            clear_frames(error.__traceback__)  # they hold what did not fit
            if size == 1:
                raise BackboneError(self._too_small_message(error)) from error
            size = min(size // 2, self.batch_size)
            self.batch_size = size
            try:
                return _in_parts(self._replicas[0], batch, size)
            except Exception as again:  # each backend has its own
                if not is_out_of_memory(again):
                    raise
                error = again

    def _checked(self, embeddings: np.ndarray) -> np.ndarray:
        """Return embeddings; refuse what float16, whose range is narrow, made of them."""
        if self.spec.precision == "float16" and not _is_in_range(embeddings):
            raise BackboneError(
                f"'{self.spec.architecture}' computes numbers that are too large or too small for "
                "float16. Use --precision float32, or bfloat16 on a GPU that has it."
            )
        return embeddings

    def _too_small_message(self, error: BaseException) -> str:
        said = (str(error).strip().splitlines() or [""])[0][:200]
        device, way_out = ("machine", "") if self.is_on_cpu else ("GPU", ", or use --device cpu")
        return (
            f"The {device}'s memory does not hold '{self.spec.architecture}' with one image of "
            f"{self.spec.input_size_px} pixels ({said}). End other programs that use it, or take a "
            f"smaller --backbone or --image-size{way_out}."
        )


class _Replica:
    """The network on one device.

    Batches are started one after the other, by the thread that holds the lock, and fetched outside
    of it: the next one starts meanwhile.
    """

    def __init__(self, network: Any, device: str | None):
        self._start = compile_forward(network, device)
        self._lock = Lock()

    def embed(self, batch: np.ndarray) -> np.ndarray:
        with self._lock:
            fetch = self._start(batch)
        return np.asarray(fetch(), dtype=np.float32)


def _in_parts(replica: _Replica, batch: np.ndarray, size: int) -> np.ndarray:
    """Embed a batch in parts of a size, the last one filled up: compiled for one shape."""
    parts = [batch[i : i + size] for i in range(0, len(batch), size)]
    embedded = [replica.embed(_filled(part, size))[: len(part)] for part in parts]
    return embedded[0] if len(embedded) == 1 else np.concatenate(embedded)


def _is_in_range(embeddings: np.ndarray) -> bool:
    """Whether all numbers are finite and no embedding vanished."""
    return bool(np.isfinite(embeddings).all() and embeddings.any(axis=1).all())


def _filled(batch: np.ndarray, size: int) -> np.ndarray:
    """Fill a batch up with black images; no image depends on the others."""
    if len(batch) == size:
        return batch
    filler = np.zeros((size - len(batch), *batch.shape[1:]), np.uint8)
    return np.concatenate([batch, filler])
