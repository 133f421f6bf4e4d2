"""Tell what each column of a table is for."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pandas as pd

from twostage.errors import UsageError, did_you_mean, listed
from twostage.table import kinds
from twostage.table.vectors import vector_width
from twostage.table.vocabulary import count_categories

NUMERIC, BOOLEAN, CATEGORICAL, DATE = "numeric", "boolean", "categorical", "date"
TEXT, VECTOR, SEQUENCE, IGNORED = "text", "vector", "sequence", "ignored"
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
    role : {"numeric", "boolean", "categorical", "date", "text", "vector", "sequence", \
"ignored"}
        How it is used.
    dtype : str
        As pandas names it, when the role was told.
    reason : str or None
        Why it is ignored.
    n_values : int or None
        How many categories a categorical column has, or how many numbers each vector of one.
    """

    name: str
    role: str
    dtype: str
    reason: str | None = None
    n_values: int | None = None


@dataclass(frozen=True)
class RoleOverrides:
    """Roles that the user decides.

    Attributes
    ----------
    numeric, categorical, date, text, vector, ignore, sequence : tuple of str
        Columns taken as such, whatever they look like.
    """

    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    date: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    vector: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    sequence: tuple[str, ...] = ()

    def check(self, columns: Collection[str]) -> None:
        """Raise UsageError if a column does not exist or has two roles."""
        named = [
            *self.numeric,
            *self.categorical,
            *self.date,
            *self.text,
            *self.vector,
            *self.sequence,
            *self.ignore,
        ]
        for name in named:
            if name not in columns:
                hint = did_you_mean(name, [str(column) for column in columns])
                raise UsageError(f"The table has no column '{name}' to give a role to.{hint}")
        twice = [name for name in dict.fromkeys(named) if named.count(name) > 1]
        if twice:
            raise UsageError(f"More than one role is given to {listed(twice)}. Give one.")

    def role_of(self, name: str) -> str | None:
        """Return the role that the user gave to a column, if any."""
        for role, names in (
            (IGNORED, self.ignore),
            (NUMERIC, self.numeric),
            (CATEGORICAL, self.categorical),
            (DATE, self.date),
            (TEXT, self.text),
            (VECTOR, self.vector),
            (SEQUENCE, self.sequence),
        ):
            if name in names:
                return role
        return None


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

    Raises
    ------
    DataError
        If a column that the user says holds vectors or categories holds something else.
    """
    columns = []
    for name in frame.columns:
        if name not in reserved:
            values = frame[name]
            role, reason = _role_of(values, overrides.role_of(str(name)), image_endings)
            n_values = _n_values(values, role)
            columns.append(Column(str(name), role, str(values.dtype), reason, n_values))
    return columns


def _role_of(
    values: pd.Series, wish: str | None, image_endings: tuple[str, ...]
) -> tuple[str, str | None]:
    if wish is not None:
        return wish, "on request" if wish == IGNORED else None
    reason = _reason_to_ignore(values, image_endings)
    if reason is not None:
        return IGNORED, reason
    present = values.dropna()
    if kinds.is_boolean(present):
        return BOOLEAN, None
    if kinds.is_date(present):
        return DATE, None
    if len(present) >= _FEW_ROWS and kinds.is_text(present):
        return TEXT, None
    role = NUMERIC if kinds.is_numeric(present) else CATEGORICAL
    reason = _reason_of_many_values(present, role)
    return (role, None) if reason is None else (IGNORED, reason)


def _n_values(values: pd.Series, role: str) -> int | None:
    if role == CATEGORICAL:
        return count_categories(values)
    return vector_width(values) if role == VECTOR else None


def _reason_to_ignore(values: pd.Series, image_endings: tuple[str, ...]) -> str | None:
    present = values.dropna()
    if present.empty:
        return "no values"
    reason = kinds.why_unusable(present)
    if reason is not None:
        return reason
    if image_endings and not kinds.is_numeric(present) and _names_images(present, image_endings):
        return "names images"
    if len(present) == len(values) and kinds.n_distinct(present.iloc[:100]) == 1:
        return "constant" if kinds.n_distinct(present) == 1 else None
    return None


def _names_images(present: pd.Series, image_endings: tuple[str, ...]) -> bool:
    names = present.astype(str).str.lower()
    return bool(names.str.endswith(image_endings).mean() > _NEARLY_ALL)


def _reason_of_many_values(present: pd.Series, role: str) -> str | None:
    """Say why a column of so many values is of no use: an id, or nearly one."""
    if kinds.is_float(present) or len(present) < _FEW_ROWS:
        return None
    n_distinct = kinds.n_distinct(present)
    if n_distinct == len(present):
        return LIKE_AN_ID
    if role == CATEGORICAL and n_distinct > _NEARLY_ALL * len(present):
        return "nearly all values differ"
    return None
