"""Long tables, a row per step: joined to a table as a column of sequences, aligned in time."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from twostage.errors import DataError, UsageError, listed
from twostage.table import kinds
from twostage.table.dates import dates_in, format_of, is_date_type
from twostage.table.files import require_column
from twostage.table.numbers import numbers_in
from twostage.table.vocabulary import named

ALIGNMENTS = ("asof", "linear")


@dataclass(frozen=True)
class LongLayout:
    """How long tables hold sequences.

    Attributes
    ----------
    id : str
        The column that says whose step a row is: in the long tables, and in the table.
    step : str
        The column of the steps' order: numbers or dates.
    channels : tuple of str
        The columns that are channels; all other columns of numbers, if empty.
    slower : tuple of str
        Those of a second long table, measured at other, as a rule fewer, times.
    align : {"asof", "linear"}
        What the second one says at a step: the last value at or before it; or on a line between
        the values before and after, the last one standing after it.
    name : str
        Of the column that holds the sequences.
    """

    id: str
    step: str
    channels: tuple[str, ...] = ()
    slower: tuple[str, ...] = ()
    align: str = "asof"
    name: str = "sequence"

    def __post_init__(self) -> None:
        if self.align not in ALIGNMENTS:
            raise UsageError(f"align must be one of {', '.join(ALIGNMENTS)}; found {self.align!r}.")
        if self.id == self.step:
            raise UsageError(f"'{self.id}' can't be the column of ids and of steps. Name two.")
        twice = [name for name in self.channels if self.channels.count(name) > 1]
        if twice or self.id in self.channels:
            raise UsageError(
                f"Channel '{(twice or [self.id])[0]}' is named twice, or is the column of ids. "
                "Name each channel once."
            )


def attach_sequences(
    table: pd.DataFrame,
    long: pd.DataFrame,
    *,
    id: str,
    step: str,
    channels: Sequence[str] = (),
    slower: pd.DataFrame | None = None,
    slower_channels: Sequence[str] = (),
    align: str = "asof",
    name: str = "sequence",
) -> pd.DataFrame:
    """Join a long table, a row per step, to a table: as one column, a sequence in each row.

    Estimators, ``fit`` and ``benchmark`` take such a column as one of sequences by themselves.
    Rows without a sequence, and sequences without a row, are warned of.

    Parameters
    ----------
    table : DataFrame of shape (n_rows, n_columns)
        With a column of ids. Not modified.
    long : DataFrame of shape (n_steps, n_columns)
        A row per step, in any order.
    id, step : str
        Its columns of ids, called so in ``table`` too, and of the steps' order: numbers or dates.
    channels : sequence of str
        Its columns that are channels; all other columns of numbers, if empty.
    slower : DataFrame, optional
        A second long table, measured at other, as a rule fewer, times. Its columns become channels
        too, aligned with the steps of ``long``.
    slower_channels : sequence of str
        Its columns that are channels; all other columns of numbers, if empty.
    align : {"asof", "linear"}, default="asof"
        What ``slower`` says at a step: the last value at or before it; or on a line between the
        values before and after, which looks ahead. Before the first value it is missing; after the
        last one that one stands.
    name : str, default="sequence"
        Of the column made.

    Returns
    -------
    DataFrame of shape (n_rows, n_columns + 1)
        With the rows of ``table``. Each sequence is a float64 array of shape (n_steps, n_channels),
        of no steps where there is none for the row's id.

    Raises
    ------
    DataError
        If a column is missing or holds something else, a step has no id or no place, or the same
        as another one of its id, or no id of the table has a sequence.

    Examples
    --------
    >>> import pandas as pd
    >>> from twostage import attach_sequences
    >>> table = pd.DataFrame({"id": [1, 2]})
    >>> long = pd.DataFrame({"id": [2, 1, 1], "day": [1, 2, 1], "weight": [80.0, 71.0, 70.0]})
    >>> attach_sequences(table, long, id="id", step="day")["sequence"][0].tolist()
    [[70.0], [71.0]]
    """
    layout = LongLayout(id, step, tuple(channels), tuple(slower_channels), align, name)
    joined, _, notes = join_sequences(table, long, slower, layout)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return joined


def join_sequences(
    table: pd.DataFrame, long: pd.DataFrame, slower: pd.DataFrame | None, layout: LongLayout
) -> tuple[pd.DataFrame, LongLayout, list[str]]:
    """Join long tables to a table; see `attach_sequences`.

    Returns
    -------
    table : DataFrame of shape (n_rows, n_columns + 1)
    layout : LongLayout
        With the channels that were found.
    notes : list of str
        On rows without a sequence, sequences without a row, and columns left out.
    """
    if layout.name in table.columns:
        raise DataError(
            f"The table has a column '{layout.name}' already, which the sequences are to be called."
            " Rename it."
        )
    steps = _read(long, "long table", layout, layout.channels)
    slow = None
    if slower is not None:
        slow = _read(slower, "slower table", layout, layout.slower)
        both = [channel for channel in slow.channels if channel in steps.channels]
        if both:
            raise DataError(
                f"Both long tables have a channel '{both[0]}'. Rename it in one, or name channels."
            )
        if slow.order.dtype != steps.order.dtype:
            raise DataError(
                f"Column '{layout.step}' holds dates in one long table and numbers in the other. "
                "Write them the same way in both."
            )
    rows, names = named(require_column(table, layout.id, "id"))
    places = {name: place for place, name in enumerate(names)}
    of_steps = _ordered(steps, places, layout)
    values = of_steps.values
    if slow is not None:
        values = np.hstack([values, _aligned(of_steps, _ordered(slow, places, layout), layout)])
    ends = np.searchsorted(of_steps.codes, np.arange(len(names) + 1))
    cells = np.empty(len(table), object)
    for row, place in enumerate(rows):
        cells[row] = values[ends[place] : ends[place + 1]] if place >= 0 else values[:0]
    n_steps = np.array([len(cell) for cell in cells])
    if not n_steps.any():
        raise DataError(
            f"None of the ids in column '{layout.id}' of the table is in the long table: the first "
            f"are {listed(names[:1])} and {listed(steps.names[:1])}. Write ids alike in both."
        )
    found = replace(layout, channels=steps.channels, slower=() if slow is None else slow.channels)
    notes = [
        *_notes_of_rows(n_steps, table[layout.id], steps, places),
        *_notes_of_columns(steps, "long table"),
        *(_notes_of_columns(slow, "slower table") if slow is not None else ()),
    ]
    return table.assign(**{layout.name: pd.Series(cells, table.index, object)}), found, notes


@dataclass(frozen=True)
class _Long:
    """What a long table says.

    Attributes
    ----------
    rows : int array of shape (n_steps,)
        The place of each step's id in ``names``.
    names : list of str
        The ids.
    order : float64 or int64 array of shape (n_steps,)
        Numbers, or microseconds.
    values : float64 array of shape (n_steps, n_channels)
    channels, left_out : tuple of str
        Columns that are channels, and those that hold no numbers.
    """

    rows: np.ndarray
    names: list[str]
    order: np.ndarray
    values: np.ndarray
    channels: tuple[str, ...]
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Ordered:
    """Steps of ids that rows have, by id and in order.

    Attributes
    ----------
    codes : int array of shape (n_steps,)
        The id's place among those of the table.
    order : array of shape (n_steps,)
    values : float64 array of shape (n_steps, n_channels)
    """

    codes: np.ndarray
    order: np.ndarray
    values: np.ndarray


def _read(long: pd.DataFrame, what: str, layout: LongLayout, wanted: Sequence[str]) -> _Long:
    rows, names = named(_required(long, layout.id, what, "id"))
    if not len(rows):
        raise DataError(f"The {what} of sequences has no rows. Give one with a row per step.")
    _check_given(rows >= 0, what, "id", layout.id)
    steps = _required(long, layout.step, what, "step")
    _check_given(steps.notna().to_numpy(dtype=bool), what, "step", layout.step)
    others = [str(name) for name in long.columns if name not in (layout.id, layout.step)]
    channels = tuple(wanted) or tuple(
        name for name in others if kinds.is_numeric(long[name].dropna())
    )
    if not channels:
        raise DataError(f"The {what} has no column of numbers beside ids and steps. Add channels.")
    columns = [_channel(_required(long, name, what, "channel"), what) for name in channels]
    order = _order_of(steps, what)
    left_out = () if wanted else tuple(name for name in others if name not in channels)
    return _Long(rows, names, order, np.column_stack(columns), channels, left_out)


def _required(long: pd.DataFrame, column: str, what: str, purpose: str) -> pd.Series:
    try:
        return require_column(long, column, purpose)
    except DataError as error:
        raise DataError(f"In the {what} of sequences: {error}") from None


def _check_given(is_given: np.ndarray, what: str, purpose: str, column: str) -> None:
    if not is_given.all():
        row = int(np.argmin(is_given))
        raise DataError(
            f"Row {row + 1} of the {what} of sequences has no {purpose} in column '{column}'. Fill "
            "it in, or leave the row out."
        )


def _channel(values: pd.Series, what: str) -> np.ndarray:
    present = values.dropna()
    if len(present) and not kinds.is_numeric(present):
        raise DataError(
            f"Channel '{values.name}' of the {what} of sequences holds no numbers; the first value "
            f"is {present.iloc[0]!r}. Make it numbers, or name other channels."
        )
    return numbers_in(values)


def _order_of(steps: pd.Series, what: str) -> np.ndarray:
    if kinds.is_numeric(steps):
        return numbers_in(steps)
    try:
        dates = dates_in(steps, None if is_date_type(steps) else format_of(steps))
    except DataError as error:
        raise DataError(
            f"The steps of the {what} of sequences are neither numbers nor dates. {error}"
        ) from None
    return dates.to_numpy().astype("datetime64[us]").astype(np.int64)


def _ordered(long: _Long, places: dict[str, int], layout: LongLayout) -> _Ordered:
    """Return the steps of ids that rows have, sorted.

    Raises
    ------
    DataError
        If an id has a step twice, whether a row has that id or not.
    """
    order = np.lexsort((long.order, long.rows))
    rows, steps = long.rows[order], long.order[order]
    is_twice = (rows[1:] == rows[:-1]) & (steps[1:] == steps[:-1])
    if is_twice.any():
        place = int(np.argmax(is_twice))
        first, second = sorted(order[place : place + 2] + 1)
        raise DataError(
            f"Sequence '{long.names[rows[place]]}' has two values in rows {first} and {second} of "
            f"its long table at the same '{layout.step}' ({int(is_twice.sum()):,} such in all). "
            "Keep one, or take their mean."
        )
    codes = np.array([places.get(name, -1) for name in long.names], np.int64)[rows]
    kept = order[codes >= 0]
    codes = codes[codes >= 0]
    again = np.argsort(codes, kind="stable")
    return _Ordered(codes[again], long.order[kept[again]], long.values[kept[again]])


def _aligned(steps: _Ordered, slow: _Ordered, layout: LongLayout) -> np.ndarray:
    """Return what slower channels say at each step; NaN where they say nothing yet."""
    found = np.empty((len(steps.codes), slow.values.shape[1]))
    at = pd.DataFrame({"code": steps.codes, "order": steps.order, "place": np.arange(len(found))})
    for channel in range(found.shape[1]):
        is_known = ~np.isnan(slow.values[:, channel])
        known = pd.DataFrame(
            {
                "code": slow.codes[is_known],
                "order": slow.order[is_known],
                "since": slow.order[is_known],
                "value": slow.values[is_known, channel],
            }
        )
        before = _nearest(at, known, "backward")
        values = before["value"].to_numpy()
        if layout.align == "linear":
            values = _between(before, _nearest(at, known, "forward"))
        found[before["place"].to_numpy(), channel] = values
    return found


def _nearest(at: pd.DataFrame, known: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Return the last value known at or before each step, or the first one at or after it."""
    return pd.merge_asof(
        at.sort_values("order", kind="stable"),
        known.sort_values("order", kind="stable"),
        on="order",
        by="code",
        direction=direction,  # type: ignore[arg-type]
    )


def _between(before: pd.DataFrame, after: pd.DataFrame) -> np.ndarray:
    """Return values on the lines between those before and after; after the last, that one."""
    start, end = before["value"].to_numpy(), after["value"].to_numpy()
    elapsed = (before["order"] - before["since"]).to_numpy(np.float64)
    gap = (after["since"] - before["since"]).to_numpy(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = start + (end - start) * np.where(gap > 0, elapsed / gap, 0.0)
    return np.where(np.isnan(end), start, values)


def _notes_of_rows(
    n_steps: np.ndarray, ids: pd.Series, steps: _Long, places: dict[str, int]
) -> list[str]:
    notes = []
    without = np.flatnonzero(n_steps == 0)
    if len(without):
        notes.append(
            f"{len(without):,} of {len(n_steps):,} rows have no sequence; first: row "
            f"{without[0] + 1}, {ids.name} {ids.iloc[without[0]]}. They count as sequences of no "
            "steps."
        )
    unused = [name for name in steps.names if name not in places]
    if unused:
        notes.append(
            f"{len(unused):,} of {len(steps.names):,} sequences are of ids that no row has, and "
            f"left out: {listed(unused, most=3)}."
        )
    return notes


def _notes_of_columns(long: _Long, what: str) -> list[str]:
    if not long.left_out:
        return []
    return [f"Of the {what} of sequences, {listed(long.left_out)} is left out: no numbers."]
