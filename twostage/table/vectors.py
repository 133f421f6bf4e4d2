"""Columns that hold a vector of numbers in each row."""

import numpy as np
import pandas as pd
import pyarrow as pa

from twostage.errors import DataError
from twostage.table.numbers import LARGEST


def vectors_in(values: pd.Series, width: int) -> np.ndarray:
    """Return a column of vectors as one matrix.

    Parameters
    ----------
    values : Series of length n_rows
        Lists, arrays, or Arrow lists of numbers; some may be missing.
    width : int
        How many numbers each has.

    Returns
    -------
    float32 array of shape (n_rows, width)
        NaN where a row has no vector.

    Raises
    ------
    DataError
        Naming the first row whose vector has another width, or holds something that is no number
        or is infinite or beyond 1e30.
    """
    is_missing = values.isna().to_numpy(dtype=bool)
    matrix = np.full((len(values), width), np.nan, np.float32)
    if is_missing.all():
        return matrix
    flat = _flat(values[~is_missing], np.flatnonzero(~is_missing), width)
    is_bad = ~(np.abs(flat) <= LARGEST)
    if is_bad.any():
        place = int(np.argmax(is_bad.any(axis=1)))
        row = int(np.flatnonzero(~is_missing)[place])
        found = float(flat[place][is_bad[place]][0])
        raise DataError(
            f"Column '{values.name}' holds a vector with a missing, infinite or too large number "
            f"in row {row + 1}: {found:g}. Replace the number, or leave the whole vector missing."
        )
    matrix[~is_missing] = flat
    return matrix


def vector_width(values: pd.Series) -> int:
    """Return how many numbers the vectors of a column have, and check that all have so many.

    Raises
    ------
    DataError
        As `vectors_in`, or if there is no vector at all.
    """
    present = values.dropna()
    if present.empty:
        raise DataError(f"Column '{values.name}' holds no vector in any row. Ignore it.")
    first = present.iloc[0]
    width = len(first) if _is_list(first) else 0
    vectors_in(values, width)
    if width == 0:
        raise DataError(f"Column '{values.name}' holds empty vectors. Ignore it.")
    return width


def _is_list(value: object) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim == 1)


def _flat(present: pd.Series, rows: np.ndarray, width: int) -> np.ndarray:
    """Return vectors, none missing, as a float64 matrix; ``rows`` are their numbers, for errors."""
    if isinstance(present.dtype, pd.ArrowDtype) and is_list_type(present.dtype.pyarrow_dtype):
        return _flat_from_arrow(present, rows, width)
    for row, vector in zip(rows, present, strict=True):
        _check(vector, present.name, row, width)
    try:
        matrix = np.stack([np.asarray(vector, np.float64) for vector in present])
    except (ValueError, TypeError) as error:
        raise _no_numbers(present, rows) from error
    if matrix.ndim != 2:
        raise _no_numbers(present, rows)
    return matrix


def _flat_from_arrow(present: pd.Series, rows: np.ndarray, width: int) -> np.ndarray:
    array = pa.array(present.array)
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    arrow = array.type
    if pa.types.is_fixed_size_list(arrow):
        lengths = np.full(len(array), arrow.list_size)
    else:
        lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    is_wrong = lengths != width
    if is_wrong.any():
        place = int(np.argmax(is_wrong))
        raise _wrong_width(present.name, rows[place], int(lengths[place]), width)
    flat = array.flatten()  # respects slices, which .values does not
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        raise _no_numbers(present, rows)
    numbers = flat.to_numpy(zero_copy_only=False).astype(np.float64)
    return np.asarray(numbers.reshape(len(array), width))


def is_list_type(arrow: pa.DataType) -> bool:
    """Whether an Arrow type is one of lists, of whatever."""
    return bool(
        pa.types.is_list(arrow)
        or pa.types.is_large_list(arrow)
        or pa.types.is_fixed_size_list(arrow)
    )


def _check(vector: object, name: object, row: int, width: int) -> None:
    if not _is_list(vector):
        raise DataError(
            f"Column '{name}' holds vectors, but row {row + 1} holds {vector!r}. Make it a list "
            f"of {width} numbers, or leave it missing."
            if width
            else f"Column '{name}' holds no vectors: row {row + 1} holds {vector!r}. Give it "
            "another role."
        )
    if len(vector) != width:  # type: ignore[arg-type]
        raise _wrong_width(name, row, len(vector), width)  # type: ignore[arg-type]


def _wrong_width(name: object, row: int, found: int, width: int) -> DataError:
    return DataError(
        f"Column '{name}' holds vectors of {width} numbers, but row {row + 1} has one of {found}. "
        "Make all of one length, or leave it missing."
    )


def _no_numbers(present: pd.Series, rows: np.ndarray) -> DataError:
    pairs = zip(rows, present, strict=True)
    row, vector = next((row, vector) for row, vector in pairs if not _is_of_numbers(vector))
    return DataError(
        f"Column '{present.name}' holds vectors, but that of row {row + 1} is not made of "
        f"numbers: {str(vector)[:60]}. Correct it, or leave it missing."
    )


def _is_of_numbers(vector: object) -> bool:
    try:
        return np.asarray(vector, np.float64).ndim == 1
    except (ValueError, TypeError):
        return False
