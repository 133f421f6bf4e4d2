"""Tell what each column of a table is for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pandas.api import types

from twostage.errors import UsageError, did_you_mean, listed

NUMERIC, CATEGORICAL, IGNORED = "numeric", "categorical", "ignored"
HIGH_CARDINALITY = "categorical of many values"
MAX_ONE_HOT = 30
LIKE_AN_ID = "all values differ, like an id"
_NEARLY_ALL = 0.9
_FEW_ROWS = 10


@dataclass(frozen=True)
class Column:
    """A column and its role.

    Attributes
    ----------
    name : str
        As in the table.
    role : {"numeric", "categorical", "categorical of many values", "ignored"}
        How it is used.
    dtype : str
        As pandas names it, when the role was told.
    reason : str or None
        Why it is ignored.
    """

    name: str
    role: str
    dtype: str
    reason: str | None = None


@dataclass(frozen=True)
class RoleOverrides:
    """Roles that the user decides.

    Attributes
    ----------
    numeric, categorical, ignore : tuple of str
        Columns taken as such, whatever they look like.
    """

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def check(self, columns: Collection[str]) -> None:
        """Raise UsageError if a column does not exist or has two roles."""
        named = [*self.numeric, *self.categorical, *self.ignore]
        for name in named:
            if name not in columns:
                hint = did_you_mean(name, [str(column) for column in columns])
                raise UsageError(f"The table has no column '{name}' to give a role to.{hint}")
        twice = [name for name in dict.fromkeys(named) if named.count(name) > 1]
        if twice:
            raise UsageError(f"More than one role is given to {listed(twice)}. Give one.")


def infer_roles(
    frame: pd.DataFrame,
    overrides: RoleOverrides,
    reserved: Mapping[str, str],
    image_endings: tuple[str, ...] = (),
) -> list[Column]:
    """Tell the role of each column from its type and values, never from the target.

    Parameters
    ----------
    frame : DataFrame of shape (n_rows, n_columns)
        The rows to learn from.
    overrides : RoleOverrides
        What the user decided.
    reserved : mapping of str to str
        Columns that are no features whatever anyone says (target, group, images), and why.
    image_endings : tuple of str
        Columns whose values end so name images, and are ignored.

    Returns
    -------
    list of Column
        In the frame's order, reserved columns left out.
    """
    columns = []
    for name in frame.columns:
        if name not in reserved:
            role, reason = _role_of(frame[name], str(name), overrides, image_endings)
            columns.append(Column(str(name), role, str(frame[name].dtype), reason))
    return columns


def _role_of(
    values: pd.Series, name: str, overrides: RoleOverrides, image_endings: tuple[str, ...]
) -> tuple[str, str | None]:
    if name in overrides.ignore:
        return IGNORED, "on request"
    if name in overrides.numeric:
        return NUMERIC, None
    if name in overrides.categorical:
        return _category_role(values), None
    reason = _reason_to_ignore(values, image_endings)
    if reason is not None:
        return IGNORED, reason
    return (NUMERIC if _is_numeric(values) else _category_role(values)), None


def _category_role(values: pd.Series) -> str:
    return HIGH_CARDINALITY if values.nunique() > MAX_ONE_HOT else CATEGORICAL


def _is_numeric(values: pd.Series) -> bool:
    return types.is_numeric_dtype(values.dtype) or types.is_bool_dtype(values.dtype)


def _reason_to_ignore(values: pd.Series, image_endings: tuple[str, ...]) -> str | None:
    present = values.dropna()
    if types.is_datetime64_any_dtype(values.dtype) or types.is_timedelta64_dtype(values.dtype):
        return "a date"
    if types.is_complex_dtype(values.dtype):
        return "complex numbers"
    if present.empty:
        return "no values"
    if isinstance(present.iloc[0], (list, tuple, dict, set, np.ndarray)):
        return "holds lists"
    if not _is_numeric(values):
        present = present.astype(str)
        if image_endings and present.str.lower().str.endswith(image_endings).mean() > _NEARLY_ALL:
            return "names images"
    n_distinct = present.nunique()
    if n_distinct == 1 and len(present) == len(values):
        return "constant"
    if types.is_float_dtype(values.dtype) or len(present) < _FEW_ROWS:
        return None
    if n_distinct == len(present):
        return LIKE_AN_ID
    if not _is_numeric(values) and n_distinct > _NEARLY_ALL * len(present):
        return "nearly all values differ"
    return None
