"""Columns of dates, whatever their type, as dates."""

from typing import Any

import numpy as np
import pandas as pd
from pandas.api import types

from twostage.errors import DataError

ISO = "ISO8601"
NEARLY_ALL = 0.9
_SAMPLE = 1000
_LOOKS = r"\d\s*[-/.:T]\s*\w|\d.*[A-Za-z]{3}.*\d{4}|^[A-Za-z]{3}.*\d.*\d{4}"


def is_date_type(values: pd.Series) -> bool:
    """Whether values are dates by their type, not by how they are written."""
    dtype = values.dtype
    if types.is_datetime64_any_dtype(dtype):
        return True
    return types.is_object_dtype(dtype) and types.infer_dtype(values, skipna=True) in {
        "date",
        "datetime",
        "datetime64",
    }


def looks_like_date(strings: pd.Series) -> np.ndarray:
    """Tell which strings hold digits and a separator, as dates do: 2020 and "a b" do not."""
    return strings.astype(str).str.contains(_LOOKS, regex=True).to_numpy(dtype=bool)


def guessed_format(strings: pd.Series) -> str | None:
    """Return the format in which dates are written, None if they are not, or not all alike.

    skrub guesses; it wants one format for all, so that ISO dates of which only some have a time
    or fractions of a second are looked at first.
    """
    text = strings.astype(str).str.strip()
    if text.str.match(r"\d{4}-\d{2}-\d{2}").all() and _parsed(text, ISO).notna().all():
        return ISO
    from skrub import ToDatetime  # takes a second
    from skrub.core import RejectColumn

    try:
        return str(ToDatetime().fit(text).format_)
    except RejectColumn:
        return None


def format_of(values: pd.Series) -> str | None:
    """Return the format in which a column's dates are written, None if they are dates by type.

    Raises
    ------
    DataError
        If no format is found. A little junk does not matter: `dates_in` names its row.
    """
    present = values.dropna()
    if present.empty or is_date_type(values):
        return None
    found = None
    if not types.is_numeric_dtype(values.dtype):
        sample = spread_sample(present, _SAMPLE)
        looks = looks_like_date(sample)
        found = guessed_format(sample[looks] if looks.mean() > NEARLY_ALL else sample)
    if found is None:
        raise DataError(
            f"Column '{values.name}' is to hold dates, but no one way of writing dates fits its "
            f"values; the first is {present.iloc[0]!r}. Write them as 2024-12-31, or give the "
            "column another role."
        )
    return found


def spread_sample(values: pd.Series, most: int) -> pd.Series:
    """Return up to so many values from all over a column: tables are often sorted."""
    rows = np.unique(np.linspace(0, len(values) - 1, most).round().astype(int))
    return values.iloc[rows]


def dates_in(values: pd.Series, date_format: str | None) -> pd.Series:
    """Return a column as dates without a time zone, in UTC if they had one.

    Parameters
    ----------
    values : Series of length n_rows
        Dates by type, or text.
    date_format : str or None
        How text is written; ISO 8601 if None.

    Returns
    -------
    Series of datetime64, NaT where missing; the values' index.

    Raises
    ------
    DataError
        Naming the first row that holds no date.
    """
    is_given = values.notna().to_numpy(dtype=bool)
    if is_date_type(values):
        dates = _parsed(values, None)
    elif types.is_numeric_dtype(values.dtype) or types.is_bool_dtype(values.dtype):
        dates = pd.Series(pd.NaT, index=values.index, dtype="datetime64[us]")
    else:
        text = values.astype(object).where(is_given, None)
        text = text.map(lambda value: str(value).strip(), na_action="ignore")
        dates = _parsed(text, date_format or ISO)
    is_bad = dates.isna().to_numpy() & is_given
    if is_bad.any():
        row = int(np.argmax(is_bad))
        way = "" if date_format in (None, ISO) else f" written as {date_format}"
        raise DataError(
            f"Column '{values.name}' holds dates{way}, but row {row + 1} holds "
            f"{values.iloc[row]!r}. Correct it, leave it missing, or give the column another "
            "role when fitting."
        )
    return dates


def _parsed(values: pd.Series, date_format: str | None) -> pd.Series:
    options: dict[str, Any] = {} if date_format is None else {"format": date_format}
    dates = pd.to_datetime(values, errors="coerce", utc=True, **options)
    return dates.dt.tz_localize(None)
