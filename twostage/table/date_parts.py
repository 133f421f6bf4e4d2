"""Dates to parts: year, month, day, weekday, and so on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from twostage.table.dates import dates_in, format_of
from twostage.table.leaves import load_leaf, save_leaf
from twostage.table.part import Part, Training
from twostage.table.scaling import NumberScaler, standard_unless_none

_STEM = "date"
_SECONDS = f"{_STEM}_total_seconds"


@dataclass(frozen=True)
class DateColumn:
    """Takes the dates of one column apart, by skrub.

    Attributes
    ----------
    name : str
        Of the column.
    date_format : str or None
        In which its dates are written, if they are text.
    encoder : skrub.DatetimeEncoder
        Fitted.
    kept : tuple of str
        The parts that differ between the training rows, and the seconds since 1970.
    """

    name: str
    date_format: str | None
    encoder: Any
    kept: tuple[str, ...]

    @classmethod
    def fit_transform(cls, values: pd.Series) -> tuple[Self, np.ndarray]:
        """Learn from training rows, and take them apart; NaN where a date is missing."""
        from skrub import DatetimeEncoder  # takes a second

        date_format = format_of(values)
        encoder = DatetimeEncoder(add_weekday=True, add_day_of_year=True)
        parts = encoder.fit_transform(dates_in(values, date_format).rename(_STEM))
        kept = [part for part in parts if parts[part].nunique() > 1 or part == _SECONDS]
        column = cls(str(values.name), date_format, encoder, tuple(kept))
        return column, parts[kept].to_numpy(np.float64)

    def transform(self, values: pd.Series) -> np.ndarray:
        """Take rows apart; float64 of shape (n_rows, n_parts)."""
        parts = self.encoder.transform(dates_in(values, self.date_format).rename(_STEM))
        return np.asarray(parts[list(self.kept)].to_numpy(np.float64))

    def part_names(self) -> list[str]:
        """Return the name of each part, such as ``sold_year``."""
        return [self.name + part.removeprefix(_STEM) for part in self.kept]


@dataclass(frozen=True)
class DateParts(Part):
    """Date columns as the numbers of their parts, scaled and filled in.

    Attributes
    ----------
    columns : list of DateColumn
        At least one.
    scaler : NumberScaler
        Of all parts side by side. Anything but "none" is "standard": parts have no outliers.
    """

    columns: list[DateColumn]
    scaler: NumberScaler

    @classmethod
    def fit_transform(cls, training: Training, names: Sequence[str]) -> tuple[Self, np.ndarray]:
        """Learn from the columns named, and encode them."""
        fitted = [DateColumn.fit_transform(training.frame[name]) for name in names]
        columns = [column for column, _ in fitted]
        part_names: list[str] = []
        indicators = {}  # one for each date, not one for each part
        for column in columns:
            indicators[f"{column.name}_is_missing"] = len(part_names) + column.kept.index(_SECONDS)
            part_names += column.part_names()
        scaler, features = NumberScaler.fit_transform(
            np.column_stack([parts for _, parts in fitted]),
            part_names,
            scaling=standard_unless_none(training.recipe.scaling),
            fills_missing=training.recipe.fills_missing,
            sample_weight=training.sample_weight,
            indicators=indicators,
        )
        return cls(columns, scaler), features

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Encode rows; float64 of shape (n_rows, n_features)."""
        parts = [column.transform(frame[column.name]) for column in self.columns]
        return self.scaler.transform(np.column_stack(parts))

    def feature_names(self) -> list[str]:
        """Return the name of each feature."""
        return self.scaler.feature_names()

    def save(self, folder: Path) -> dict[str, Any]:
        """Write skrub's encoders and the scaler, and return what else `load` needs."""
        for number, column in enumerate(self.columns):
            save_leaf(column.encoder, folder, f"date-{number}")
        columns = [
            {"name": column.name, "date_format": column.date_format, "kept": list(column.kept)}
            for column in self.columns
        ]
        return {"columns": columns, "scaler": self.scaler.save(folder, "dates-scaler")}

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        columns = [
            DateColumn(
                saved["name"],
                saved["date_format"],
                load_leaf(folder, f"date-{number}", "DatetimeEncoder"),
                tuple(saved["kept"]),
            )
            for number, saved in enumerate(record["columns"])
        ]
        return cls(columns, NumberScaler.load(folder, "dates-scaler", record["scaler"]))
