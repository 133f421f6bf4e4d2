"""What turns texts or sequences into the inputs of an encoder's network, as learned at fit."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from twostage.contents import TEXT
from twostage.features import Features
from twostage.table.words import WordEncoder

_WORDS = "words"


class Inputs(Protocol):
    """What was learned about values: a vocabulary, or a scaling."""

    def features(self, values: pd.Series) -> Features:
        """Return values as the network's features."""
        ...

    def save(self, folder: Path) -> None:
        """Write it into a folder."""
        ...


@dataclass(frozen=True)
class WordInputs:
    """The words of texts, by number."""

    words: WordEncoder

    def features(self, values: pd.Series) -> Features:
        """Return the words of texts."""
        return features_of(len(values), texts=(self.words.transform(values),))

    def save(self, folder: Path) -> None:
        """Write the vocabulary."""
        self.words.save(folder, _WORDS)


def features_of(n_rows: int, **parts: Any) -> Features:
    """Return features of texts or sequences alone."""
    nothing = np.empty((n_rows, 0), np.float32)
    return Features(nothing, nothing.astype(np.int32), (), (), **parts)


def load_inputs(kind: str, folder: Path) -> Inputs:
    """Read what `Inputs.save` wrote.

    Raises
    ------
    ValueError, OSError
        If it is damaged.
    """
    if kind == TEXT:
        return WordInputs(WordEncoder.load(folder, _WORDS))
    raise ValueError(f"there are no inputs of {kind}s")
