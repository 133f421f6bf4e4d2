"""Load many images in threads, in order, while the backbone works on the ones before."""

import time
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from twostage.errors import ImageError
from twostage.fingerprint import hash_bytes
from twostage.images.decoding import decode, read_bytes
from twostage.images.references import Reference
from twostage.pixels import MAX_PIXELS
from twostage.remote import N_READERS
from twostage.throughput import StageClock

Item = TypeVar("Item")
Read = tuple[bytes, int | None, int | None]  # bytes, size, time

# File systems may keep times to 2 s (FAT): a younger file may change again under the same time.
UNSETTLED_NS = 2_000_000_000
_BYTES_PER_PIXEL = 8  # 16 bits of red, green, blue and alpha, not compressed
_LEAST_BYTES = 1 << 26


@dataclass(frozen=True)
class LoadedImage:
    """What was found at a reference.

    Attributes
    ----------
    image : str
        The reference's name.
    content_hash : str or None
        Digest of the bytes; None if they could not be read.
    size_bytes, mtime_ns : int or None
        As of the moment of reading. ``mtime_ns`` is None where it can't vouch for the bytes:
        absent, 0, or within 2 s of the reading.
    pixels : uint8 array of shape (size_px, size_px, 3) or None
        None if the bytes were known already, or not decodable.
    width, height : int or None
        Of the whole upright image, if it was decoded.
    error : str or None
        Kind and short reason.
    """

    image: str
    content_hash: str | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    pixels: np.ndarray | None = None
    width: int | None = None
    height: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class Condemned:
    """Stands for an image that is read, and not decoded: that would end the process.

    Attributes
    ----------
    reference : Reference
        The image.
    error : str
        What it gets instead.
    """

    reference: Reference
    error: str

    @property
    def size_bytes(self) -> int | None:
        return self.reference.size_bytes

    def read(self) -> bytes:
        return read(self.reference)[0]


class ImageLoader:
    """Read, hash and decode images in threads.

    Parameters
    ----------
    size_px : int
        Side of the pixels that come out.
    resize : {"crop", "squash", "pad"}
        See `twostage.images.decoding.decode`.
    n_threads : int
        Pillow decodes without Python's global lock, so threads are enough.
    n_ahead : int
        How many images may wait, decoded, for the backbone: bounds the memory.
    clock : StageClock
        What counts the time it takes.
    max_pixels : int
        Larger images are not decoded; files that such an image would not need are not read.
    """

    def __init__(
        self,
        size_px: int,
        resize: str,
        n_threads: int,
        n_ahead: int,
        clock: StageClock,
        max_pixels: int = MAX_PIXELS,
    ):
        self._size_px = size_px
        self._resize = resize
        self._n_ahead = n_ahead
        self._clock = clock
        self._max_pixels = max_pixels
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="twostage-decode")
        self._readers = ThreadPoolExecutor(N_READERS, thread_name_prefix="twostage-read")

    def __enter__(self) -> "ImageLoader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._readers.shutdown(wait=False, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    def load(self, references: Iterable[Reference], known: Container[str]) -> Iterator[LoadedImage]:
        """Yield what is at each reference, in order.

        Parameters
        ----------
        references : iterable of Reference
            What to load.
        known : container of str
            Content hashes whose embedding is there already: such images are not decoded.
        """

        def load_one(item: tuple[Reference, Callable[[], Read]]) -> LoadedImage:
            with self._clock.decoding():
                return self._load_one(*item, known)

        return _map_in_order(self._pool, load_one, self._being_read(references), self._n_ahead)

    def _being_read(
        self, references: Iterable[Reference]
    ) -> Iterator[tuple[Reference, Callable[[], Read]]]:
        """Begin to read what is no local file: whatever waits for a network keeps no core busy."""
        for reference in references:
            if reference.source is None:
                yield reference, partial(self._read, reference)
            else:
                yield reference, self._readers.submit(self._read, reference).result

    def _read(self, reference: Reference) -> Read:
        _check_size(reference, self._max_pixels)
        return read(reference)

    def _load_one(
        self, reference: Reference, wait: Callable[[], Read], known: Container[str]
    ) -> LoadedImage:
        try:
            with self._clock.reading():
                data, size_bytes, mtime_ns = wait()
        except ImageError as error:
            return LoadedImage(reference.image, None, reference.size_bytes, None, error=str(error))
        content_hash = hash_bytes(data)
        facts = (reference.image, content_hash, size_bytes, _settled(mtime_ns))
        if content_hash in known:
            return LoadedImage(*facts)
        if isinstance(reference.source, Condemned):
            return LoadedImage(*facts, error=reference.source.error)
        try:
            pixels, width, height = decode(data, self._size_px, self._resize, self._max_pixels)
        except ImageError as error:
            return LoadedImage(*facts, error=str(error))
        return LoadedImage(*facts, pixels=pixels, width=width, height=height)


def read(reference: Reference) -> Read:
    """Return the bytes at a reference, with size and time as of that moment.

    Raises
    ------
    ImageError
        Of kind ``read``, if the bytes can't be had.
    """
    if reference.source is None:
        data, status = read_bytes(reference.path)
        return data, status.st_size, status.st_mtime_ns
    return reference.source.read(), reference.size_bytes, reference.mtime_ns


def _check_size(reference: Reference, max_pixels: int) -> None:
    """Raise ImageError of a file that is larger than an image of so many pixels can be."""
    most = max(_BYTES_PER_PIXEL * max_pixels, _LEAST_BYTES)
    size_bytes = (reference.source or reference).size_bytes
    if size_bytes is not None and size_bytes > most:
        raise ImageError("limit", f"a file of {size_bytes:,} bytes; max-pixels allows {most:,}")


def _settled(mtime_ns: int | None) -> int | None:
    if mtime_ns is None or mtime_ns <= 0 or mtime_ns > time.time_ns() - UNSETTLED_NS:
        return None
    return mtime_ns


def _map_in_order(
    pool: ThreadPoolExecutor,
    work: Callable[[Item], LoadedImage],
    items: Iterable[Item],
    n_ahead: int,
) -> Iterator[LoadedImage]:
    """``map`` that never runs further ahead of its reader than ``n_ahead``."""
    waiting: deque[Future[LoadedImage]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > n_ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
