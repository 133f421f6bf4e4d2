"""What the encoders of a table's columns have in common."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from twostage.recipes import Recipe


@dataclass(frozen=True)
class Training:
    """What encoders learn from.

    Attributes
    ----------
    frame : DataFrame of shape (n_rows, n_columns)
        The training rows. Never modified.
    recipe : Recipe
        How columns are encoded.
    y : array of shape (n_rows,)
        Class numbers or values.
    is_classification : bool
        What ``y`` is.
    random_state : int
        Of all that is random.
    groups : int array of shape (n_rows,) or None
        Rows of one group must not learn from each other's target.
    sample_weight : array of shape (n_rows,) or None
        Of the rows.
    many : collection of str
        Categorical columns of many values.
    """

    frame: pd.DataFrame
    recipe: Recipe
    y: np.ndarray
    is_classification: bool
    random_state: int
    groups: np.ndarray | None
    sample_weight: np.ndarray | None
    many: Collection[str]


class Part(ABC):
    """An encoder of some columns, all in one way."""

    @classmethod
    @abstractmethod
    def fit_transform(cls, training: Training, names: Sequence[str]) -> tuple[Self, np.ndarray]:
        """Learn from the columns named, and encode them; of shape (n_rows, n_features)."""

    @abstractmethod
    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Encode rows; of shape (n_rows, n_features)."""

    @abstractmethod
    def feature_names(self) -> list[str]:
        """Return the name of each feature."""

    @abstractmethod
    def save(self, folder: Path) -> dict[str, Any]:
        """Write fitted encoders into a folder, and return what else `load` needs, as JSON."""

    @classmethod
    @abstractmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
