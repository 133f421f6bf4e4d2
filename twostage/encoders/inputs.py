"""What turns texts or sequences into the inputs of an encoder's network, as learned at fit."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from twostage.contents import TEXT
from twostage.features import Features
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.saving import to_json
from twostage.table.sequences import StepsEncoder
from twostage.table.words import WordEncoder

_WORDS, _STEPS = "words", "steps.json"


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


@dataclass(frozen=True)
class StepInputs:
    """The steps of sequences, scaled and padded."""

    steps: StepsEncoder

    def features(self, values: pd.Series) -> Features:
        """Return the steps of sequences."""
        return features_of(len(values), sequences=(self.steps.transform(values),))

    def save(self, folder: Path) -> None:
        """Write length and scales."""
        (folder / _STEPS).write_text(to_json(asdict(self.steps)))


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
    return StepInputs(checked(StepsEncoder, read_json(folder / _STEPS), _STEPS))
