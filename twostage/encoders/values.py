"""The texts or sequences of a column, as stage one lists and loads them: each content once."""

import re
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from twostage.contents import TEXT
from twostage.fingerprint import hash_bytes
from twostage.images.loading import LoadedImage
from twostage.images.references import Reference
from twostage.table.sequences import count_channels, sequences_in
from twostage.table.tokens import texts_in

_SHAPE, _NUMBERS = np.dtype("<i8"), np.dtype("<f8")
_ALWAYS = 1  # a time: what is named by its own digest never changes
_WORD = re.compile(r"\w")


def bytes_of(value: str | np.ndarray) -> bytes:
    """Return the bytes that identify a text, or a float64 sequence of (n_steps, n_channels)."""
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    steps = value + 0.0  # no -0.0
    steps[np.isnan(steps)] = np.nan  # one of the many that there are
    return np.array(steps.shape, _SHAPE).tobytes() + steps.astype(_NUMBERS).tobytes()


def value_of(data: bytes, kind: str) -> str | np.ndarray:
    """Return the text or the sequence that `bytes_of` made bytes of."""
    if kind == TEXT:
        return data.decode("utf-8", "surrogatepass")
    shape = np.frombuffer(data, _SHAPE, 2)
    return np.frombuffer(data, _NUMBERS, offset=shape.nbytes).reshape(shape)


@dataclass(frozen=True)
class Bytes:
    """The bytes of a value, at hand."""

    data: bytes

    @property
    def size_bytes(self) -> int:
        """How many they are."""
        return len(self.data)

    def read(self) -> bytes:
        """Return them."""
        return self.data


def references_to(values: pd.Series, kind: str) -> list[Reference | None]:
    """Return for each value of a column what stage one embeds; None where there is nothing.

    Equal values have equal references, named by the digest of their bytes. A missing value, a text
    of blanks and a sequence without a step are nothing.

    Raises
    ------
    DataError
        If a value is no sequence, or has other channels than the first one.
    """
    found = _texts_in(values) if kind == TEXT else _sequences_in(values)
    return [_reference(bytes_of(value)) if len(value) else None for value in found]


def _texts_in(values: pd.Series) -> list[str]:
    return [text if text.strip() else "" for text in texts_in(values)]


def _sequences_in(values: pd.Series) -> list[np.ndarray]:
    found = sequences_in(values, count_channels(values))
    return np.split(found.flat, np.cumsum(found.lengths)[:-1])


def _reference(data: bytes) -> Reference:
    name = hash_bytes(data)
    return Reference(name, name, len(data), _ALWAYS, Bytes(data))


class ValueLoader:
    """Hands values to an encoder, as `ImageLoader` hands pixels to a backbone.

    Parameters
    ----------
    kind : {"text", "sequence"}
        What they are.
    """

    def __init__(self, kind: str):
        self._kind = kind

    def __enter__(self) -> "ValueLoader":
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass

    def load(self, references: Iterable[Reference], known: Container[str]) -> Iterator[LoadedImage]:
        """Yield what is at each reference, in order; known contents without their values."""
        for reference in references:
            facts = (reference.image, reference.image, reference.size_bytes, reference.mtime_ns)
            if reference.source is None or reference.image in known:
                yield LoadedImage(*facts)
                continue
            value = value_of(reference.source.read(), self._kind)
            if isinstance(value, str) and not _WORD.search(value):
                yield LoadedImage(*facts, error="decode: it has no words")
                continue
            width, height = _size_of(value)
            yield LoadedImage(*facts, pixels=_alone(value), width=width, height=height)


def _alone(value: str | np.ndarray) -> np.ndarray:
    """Return an array of shape () that holds a value: stacked, they make a batch."""
    array = np.empty((), object)
    array[()] = value
    return array


def _size_of(value: str | np.ndarray) -> tuple[int, int]:
    """Return the characters of a text and 1, or the steps and channels of a sequence."""
    return (len(value), 1) if isinstance(value, str) else (value.shape[0], value.shape[1])


def names_of(references: Sequence[Reference | None]) -> list[list[str]]:
    """Return the names of each row's contents: one, or none."""
    return [[] if reference is None else [reference.image] for reference in references]
