"""A store made smaller: rows dropped, parts put together.

Each part is written whole before any that it replaces goes, so that a run killed in between has
lost nothing, and the next one finishes.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from twostage.errors import UsageError
from twostage.store.files import name_of_span, span
from twostage.store.planning import SHARD_SIZE

if TYPE_CHECKING:
    from twostage.store.store import EmbeddingStore

ROWS_OF_A_LARGE_PART = 16 * SHARD_SIZE


@dataclass(frozen=True)
class Compaction:
    """What became of a store's parts.

    Attributes
    ----------
    n_before, n_after : int
        Number of parts.
    """

    n_before: int
    n_after: int


def drop_rows(store: "EmbeddingStore", images: Iterable[str]) -> int:
    """Drop the rows of images, part by part; return how many there were."""
    unwanted = pa.array(list(images), pa.string())
    n_dropped = 0
    with store.lock():
        for part in store.parts():
            is_unwanted = pc.is_in(store.read_part(part, ["image"])["image"], unwanted)
            n = pc.sum(is_unwanted).as_py() or 0
            if n == len(is_unwanted):
                store.delete_parts([part])
            elif n:
                rows = store.read_part(part).filter(pc.invert(is_unwanted))
                store.put_part(part, rows)
            n_dropped += n
    return n_dropped


def compact(store: "EmbeddingStore", n_rows: int) -> Compaction:
    """Put neighbouring parts together, up to a number of rows each."""
    if n_rows < 1:
        raise UsageError(f"The rows of a part must be at least 1; found {n_rows}.")
    with store.lock():
        parts = store.parts()
        n_after = 0
        for group in _groups(store, parts, n_rows):
            n_after += 1
            if len(group) > 1:
                name = name_of_span(span(group[0])[0], span(group[-1])[1])
                rows = pa.concat_tables([store.read_part(part) for part in group])
                store.put_part(name, rows, replaces=group)
                store.delete_parts(group)
    return Compaction(len(parts), n_after)


def _groups(store: "EmbeddingStore", parts: Iterable[str], n_rows: int) -> Iterator[list[str]]:
    """Yield neighbouring parts that fit into one."""
    group: list[str] = []
    n_in_group = 0
    for part in parts:
        n = len(store.read_part(part, ["image"]))
        if group and n_in_group + n > n_rows:
            yield group
            group, n_in_group = [], 0
        group.append(part)
        n_in_group += n
    if group:
        yield group
