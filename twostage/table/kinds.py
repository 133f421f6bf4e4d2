"""Tell of what kind the values of a column are: numbers, dates, sentences, lists."""

import numpy as np
import pandas as pd
import pyarrow as pa
from pandas.api import types

from twostage.table.dates import (
    NEARLY_ALL,
    guessed_format,
    is_date_type,
    looks_like_date,
    spread_sample,
)
from twostage.table.vectors import is_list_type

_SAMPLE = 100
_WORDS_OF_TEXT, _WORDS_OF_LONG_TEXT = 3, 5
_MANY_TEXTS = 100
LISTS = "holds lists; name it with --vector or --sequence to use it"


def is_boolean(present: pd.Series) -> bool:
    """Whether the values, none of them missing, are true or false."""
    dtype = present.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return False
    if types.is_bool_dtype(dtype):
        return True
    return types.is_object_dtype(dtype) and types.infer_dtype(present) == "boolean"


def is_numeric(present: pd.Series) -> bool:
    """Whether the values, none of them missing, are numbers or booleans by their type."""
    dtype = present.dtype
    if types.is_object_dtype(dtype):
        return types.infer_dtype(present) in {
            "integer",
            "floating",
            "mixed-integer-float",
            "decimal",
            "boolean",
        }
    return types.is_numeric_dtype(dtype) or is_boolean(present)


def is_float(present: pd.Series) -> bool:
    """Whether the values are floating point numbers, which may all differ and yet tell much."""
    if types.is_object_dtype(present.dtype):
        return types.infer_dtype(present) in {"floating", "mixed-integer-float", "decimal"}
    return types.is_float_dtype(present.dtype) or _arrow_test(present.dtype, pa.types.is_decimal)


def is_date(present: pd.Series) -> bool:
    """Whether the values, none of them missing, are dates or text in which dates are written.

    Of text, a sample is looked at. Only what holds digits and a separator can be a date: 2020 or
    "a b" are none.
    """
    if is_date_type(present):
        return True
    sample = spread_sample(present, _SAMPLE)
    if not _is_of_strings(sample):
        return False
    looks = looks_like_date(sample)
    return looks.mean() > NEARLY_ALL and guessed_format(sample[looks]) is not None


def is_text(present: pd.Series) -> bool:
    """Whether the values are free text: several words each, and many different ones.

    Three words on average, and most values differing; or five, and a hundred different ones.
    """
    sample = spread_sample(present, _SAMPLE)
    if not _is_of_strings(sample):
        return False
    n_words = np.mean([len(text.split()) for text in sample])
    if n_words < _WORDS_OF_TEXT:
        return False
    different = n_distinct(present)
    return different > len(present) / 2 or bool(
        n_words >= _WORDS_OF_LONG_TEXT and different >= _MANY_TEXTS
    )


def why_unusable(present: pd.Series) -> str | None:
    """Say why values of this kind are of no use, if they are not."""
    dtype = present.dtype
    if types.is_timedelta64_dtype(dtype) or _arrow_test(dtype, pa.types.is_duration):
        return "a duration"
    if types.is_complex_dtype(dtype):
        return "complex numbers"
    if isinstance(dtype, pd.ArrowDtype) and pa.types.is_nested(dtype.pyarrow_dtype):
        return LISTS if is_list_type(dtype.pyarrow_dtype) else "holds structures"
    if not types.is_object_dtype(dtype):
        return None
    is_nested = present.map(lambda value: isinstance(value, _NESTED))
    if not is_nested.any():
        return None
    first = present[is_nested].iloc[0]
    return LISTS if isinstance(first, (list, tuple, np.ndarray)) else "holds structures"


def n_distinct(present: pd.Series) -> int:
    """Return how many different values there are."""
    try:
        return int(present.nunique())
    except TypeError:
        return int(present.astype(str).nunique())


_NESTED = (list, tuple, dict, set, np.ndarray)


def _is_of_strings(values: pd.Series) -> bool:
    if isinstance(values.dtype, pd.CategoricalDtype):
        return False
    if types.is_object_dtype(values.dtype):
        return types.infer_dtype(values) == "string"
    return types.is_string_dtype(values.dtype) and not types.is_object_dtype(values.dtype)


def _arrow_test(dtype: object, test: object) -> bool:
    return isinstance(dtype, pd.ArrowDtype) and bool(test(dtype.pyarrow_dtype))  # type: ignore[operator]
