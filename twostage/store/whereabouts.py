"""Where the embedding of each content hash stands, and how large its image is, in some arrays."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twostage.lookup import as_mask, keys_of

NEEDED = ("content_hash", "width", "height", "error")
_NONE = -1  # the width of what is no image
_MOST_RECENT = 1 << 17  # entries of a dictionary, before they go into the arrays


class Contents(NamedTuple):
    """What is noted of a part's rows that have an embedding; each array of shape (n,)."""

    keys: np.ndarray
    widths: np.ndarray
    heights: np.ndarray


class _Known(NamedTuple):
    """What is noted of all, in the order of the keys."""

    keys: np.ndarray
    parts: np.ndarray
    widths: np.ndarray
    heights: np.ndarray


def contents_of(rows: pa.Table) -> Contents:
    """Return what is noted of a part's rows, which have the columns `NEEDED`."""
    fine = rows.filter(pa.array(as_mask(pc.is_null(rows["error"]))))
    sizes = (pc.fill_null(fine[name], _NONE).to_numpy() for name in ("width", "height"))
    return Contents(keys_of(fine["content_hash"]), *sizes)


class Whereabouts:
    """The content hashes of which a store has the embedding: 20 bytes each, and no object.

    Parameters
    ----------
    parts : sequence of (str, Contents)
        The name of each part, and what is in it.

    Notes
    -----
    Of a content hash it keeps 64 bits of a hash. Among ten million, about one new content in 10^12
    is taken for known; the parts, which hold all of it, are then asked in vain. Threads may ask
    while one adds.
    """

    def __init__(self, parts: Sequence[tuple[str, Contents]] = ()):
        self._names = [part for part, _ in parts]
        self._numbers = {part: number for number, part in enumerate(self._names)}
        numbered = [
            _Known(keys, np.full(len(keys), number, np.int32), *sizes)
            for number, (_, (keys, *sizes)) in enumerate(parts)
        ]
        self._known = _joined([_NOTHING, *numbered])
        self._recent: dict[int, tuple[int, int, int]] = {}

    def add(self, part: str, contents: Contents) -> None:
        """Note what is in a part."""
        if part not in self._numbers:
            self._numbers[part] = len(self._names)
            self._names.append(part)
        number = self._numbers[part]
        for key, *size in zip(*(values.tolist() for values in contents), strict=True):
            self._recent[key] = (number, *size)
        if len(self._recent) > _MOST_RECENT:
            values = np.array(list(self._recent.values()), np.int32).reshape(-1, 3).T
            recent = _Known(np.fromiter(self._recent, np.int64, len(self._recent)), *values)
            self._known = _joined([recent, self._known])
            self._recent = {}

    def __contains__(self, content_hash: object) -> bool:
        return self._find(content_hash) is not None

    def __getitem__(self, content_hash: str) -> tuple[int | None, int | None]:
        """Return the width and height of the image, None if it has none."""
        found = self._find(content_hash)
        if found is None:
            raise KeyError(content_hash)
        _, width, height = found
        return (None, None) if width == _NONE else (width, height)

    def parts_of(self, hashes: Iterable[str]) -> list[str]:
        """Return the parts where any of them stand, none twice."""
        found = filter(None, map(self._find, hashes))
        return [self._names[number] for number in sorted({number for number, *_ in found})]

    def _find(self, content_hash: object) -> tuple[int, int, int] | None:
        key = hash(content_hash)
        recent = self._recent.get(key)  # asked first: what leaves it is in the arrays before
        if recent is not None:
            return recent
        known = self._known
        at = int(known.keys.searchsorted(key))
        if at == len(known.keys) or known.keys[at] != key:
            return None
        return int(known.parts[at]), int(known.widths[at]), int(known.heights[at])


_NOTHING = _Known(np.zeros(0, np.int64), *np.zeros((3, 0), np.int32))


def _joined(several: Sequence[_Known]) -> _Known:
    """Put several together, of equal keys the first one's in front."""
    keys, *others = (np.concatenate(values) for values in zip(*several, strict=True))
    order = np.argsort(keys, kind="stable")  # a merge, where the pieces are in order
    return _Known(keys[order], *(values[order] for values in others))
