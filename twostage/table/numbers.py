"""Columns of numbers and of booleans as floats."""

import numpy as np
import pandas as pd
from pandas.api import types

from twostage.errors import DataError

LARGEST = 1e30  # squares of standardised values must stay finite in float64, values in float32
_BOOLEANS = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0}


def numbers_in(values: pd.Series) -> np.ndarray:
    """Return a numeric column as float64, NaN where it is missing.

    Raises
    ------
    DataError
        Naming the first row that holds no number, or one that is infinite or beyond 1e30.
    """
    _check_type(values)
    if isinstance(values.dtype, pd.CategoricalDtype):
        values = values.astype(object)
    try:
        numbers = _as_floats(values)
    except (ValueError, TypeError, OverflowError) as error:
        is_bad = pd.to_numeric(values.astype(object), errors="coerce").isna() & values.notna()
        row = int(np.argmax(is_bad.to_numpy(dtype=bool)))
        raise DataError(
            f"Column '{values.name}' is numeric, but row {row + 1} holds {values.iloc[row]!r}. "
            "Correct it, or make the column categorical when fitting."
        ) from error
    is_too_large = np.abs(numbers) > LARGEST
    if is_too_large.any():
        row = int(np.argmax(is_too_large))
        raise DataError(
            f"Column '{values.name}' holds an infinite or too large value in row {row + 1}: "
            f"{numbers[row]:g}. Replace it by a number or leave it missing."
        )
    return numbers


def booleans_in(values: pd.Series) -> np.ndarray:
    """Return a column of booleans as float64: 1 and 0, NaN where it is missing.

    Text such as "True" and "false" and the numbers 1 and 0 will do.

    Raises
    ------
    DataError
        Naming the first row that holds something else.
    """
    try:
        places, distinct = pd.factorize(values)
    except TypeError:  # lists and the like have no hash
        places, distinct = pd.factorize(values.map(str, na_action="ignore"))
    numbers = [_BOOLEANS.get(str(value).strip().lower()) for value in distinct]
    if None in numbers:
        place = numbers.index(None)
        row = int(np.argmax(places == place))
        raise DataError(
            f"Column '{values.name}' is boolean, but row {row + 1} holds {distinct[place]!r}. "
            "Write true or false, leave it missing, or make the column categorical when fitting."
        )
    return np.array([*numbers, np.nan], np.float64)[places]


def _check_type(values: pd.Series) -> None:
    dtype = values.dtype
    if dtype.kind in "mM":
        what = "dates"
    elif types.is_complex_dtype(dtype):
        what = "complex numbers"
    else:
        return
    raise DataError(
        f"Column '{values.name}' holds {what}, not numbers. Make them numbers, or ignore it."
    )


def _as_floats(values: pd.Series) -> np.ndarray:
    if not types.is_numeric_dtype(values.dtype):
        values = pd.to_numeric(values)
    return np.asarray(values.to_numpy(dtype=np.float64, na_value=np.nan))
