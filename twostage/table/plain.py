"""Numeric and boolean columns, scaled and filled in."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from twostage.table.numbers import booleans_in, numbers_in
from twostage.table.part import Part, Training
from twostage.table.scaling import NumberScaler


@dataclass(frozen=True)
class NumericColumns(Part):
    """Numeric columns as the recipe wants them.

    Attributes
    ----------
    names : list of str
        The columns, at least one.
    scaler : NumberScaler
        Of the columns side by side.
    """

    names: list[str]
    scaler: NumberScaler

    _FILE: ClassVar[str] = "numeric-scaler"

    @classmethod
    def fit_transform(cls, training: Training, names: Sequence[str]) -> tuple[Self, np.ndarray]:
        """Learn from the columns named, and encode them."""
        recipe = training.recipe
        scaler, features = NumberScaler.fit_transform(
            cls._matrix(training.frame, names),
            names,
            scaling=cls._scaling(recipe.scaling),
            fills_missing=recipe.fills_missing,
            has_splines=recipe.has_splines,
            random_state=training.random_state,
            sample_weight=training.sample_weight,
            has_origins=True,
        )
        return cls(list(names), scaler), features

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Encode rows; float64 of shape (n_rows, n_features)."""
        return self.scaler.transform(self._matrix(frame, self.names))

    def feature_names(self) -> list[str]:
        """Return the name of each feature."""
        return self.scaler.feature_names()

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the scaler, and return what else `load` needs."""
        return {"names": self.names, "scaler": self.scaler.save(folder, self._FILE)}

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        return cls(record["names"], NumberScaler.load(folder, cls._FILE, record["scaler"]))

    @staticmethod
    def _matrix(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
        return np.column_stack([numbers_in(frame[name]) for name in names])

    @staticmethod
    def _scaling(of_recipe: str) -> str:
        return of_recipe


class BooleanColumns(NumericColumns):
    """Boolean columns as 1 and 0, never scaled."""

    _FILE = "boolean-scaler"

    @staticmethod
    def _matrix(frame: pd.DataFrame, names: Sequence[str]) -> np.ndarray:
        return np.column_stack([booleans_in(frame[name]) for name in names])

    @staticmethod
    def _scaling(of_recipe: str) -> str:
        return "none"
