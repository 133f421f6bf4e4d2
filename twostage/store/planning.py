"""Decide what an extraction has to do: a pure function of the manifest and the store's index."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from twostage.errors import PASSING_KINDS

SHARD_SIZE = 1024


class Listed(Protocol):
    """An image to embed and what the file system says of it; None where there is no file."""

    @property
    def image(self) -> str: ...

    @property
    def size_bytes(self) -> int | None: ...

    @property
    def mtime_ns(self) -> int | None: ...


@dataclass(frozen=True)
class Shard:
    """The unit of work and of loss: what goes into one part.

    Attributes
    ----------
    part : str
        The part's file name. If it exists, rows of these images in it are to be replaced.
    images : sequence of Listed
        What to look at.
    """

    part: str
    images: Sequence[Any]


@dataclass(frozen=True)
class Plan:
    """What is to be done.

    Attributes
    ----------
    shards : list of Shard
        New parts first, then those to rewrite.
    n_unchanged : int
        Images whose row can stay as it is.
    n_gone : int
        Those of them whose file is not there any more; their embeddings stand.
    """

    shards: list[Shard]
    n_unchanged: int
    n_gone: int = 0


def make_plan(
    manifest: Sequence[Listed],
    index: pa.Table,
    *,
    n_parts: int,
    retry_errors: bool = False,
    verify: bool = False,
) -> Plan:
    """Compare what is wanted with what is there.

    Parameters
    ----------
    manifest : sequence of Listed
        The images wanted, each name once.
    index : pyarrow.Table
        What the store holds, as `EmbeddingStore.index` gives it.
    n_parts : int
        The number that the first new part bears.
    retry_errors : bool
        Whether to try again what could not be decoded; what could not be read always is.
    verify : bool
        Whether to read every image again, and trust no size and time.

    Returns
    -------
    Plan
        An image that the store holds is looked at again, by its bytes, where size or time differ
        or are not to be trusted; it goes back into the part that holds it.
    """
    columns = ("part", "size_bytes", "mtime_ns", "error")
    rows = zip(*(index[name].to_pylist() for name in columns), strict=True)
    stored = dict(zip(index["image"].to_pylist(), rows, strict=True))
    fresh: list[Listed] = []
    again: dict[str, list[Listed]] = {}
    n_unchanged = n_gone = 0
    for listed in manifest:
        row = stored.get(listed.image)
        if row is None:
            fresh.append(listed)
        elif _must_look_again(listed, *row[1:], retry_errors=retry_errors, verify=verify):
            again.setdefault(row[0], []).append(listed)
        else:
            n_unchanged += 1
            n_gone += listed.size_bytes is None and row[3] is None
    # New parts first: a renamed image is found by its bytes as long as its old row stands.
    shards = [*_new_shards(fresh, n_parts), *(Shard(*item) for item in sorted(again.items()))]
    return Plan(shards, n_unchanged, n_gone)


def _must_look_again(
    listed: Listed,
    size_bytes: int | None,
    mtime_ns: int | None,
    error: str | None,
    *,
    retry_errors: bool,
    verify: bool,
) -> bool:
    if listed.size_bytes is None:
        return False  # the file is still, or by now, gone: what was computed from it stands
    if error is not None and (retry_errors or error.startswith(PASSING_KINDS)):
        return True
    if verify or not mtime_ns:
        return True
    return (listed.size_bytes, listed.mtime_ns) != (size_bytes, mtime_ns)


def _new_shards(images: Sequence[Listed], first: int) -> Iterator[Shard]:
    for number, start in enumerate(range(0, len(images), SHARD_SIZE), start=first):
        yield Shard(part_name(number), images[start : start + SHARD_SIZE])


def part_name(number: int) -> str:
    """Return the file name of a store's n-th part."""
    return f"part-{number:06d}.parquet"
