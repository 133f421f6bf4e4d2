"""Columns that hold a sequence of steps in each row, and what heads see of them."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd

from twostage.errors import DataError
from twostage.features import Steps
from twostage.table.numbers import LARGEST
from twostage.table.vectors import is_list_type

MOST_STEPS = 1000
SUMMARIES = ("mean", "sd", "min", "max", "first", "last", "slope", "missing")
_USUAL, _MOST_TIMES_USUAL = 0.95, 2
_LARGEST_DEVIATION = 10.0
_MOST_CHANNELS = 1 << 16
_FEW = 100
_FIX = (
    "A sequence is a list of numbers, one per step, or a list of steps that are lists of numbers, "
    "one per channel; or leave it missing."
)


@dataclass(frozen=True)
class Sequences:
    """The sequences of a column, one after the other.

    Attributes
    ----------
    flat : float64 array of shape (n_steps, n_channels)
        The steps of all rows, in order; NaN where a value is missing.
    lengths : int array of shape (n_rows,)
        How many of them each row has.
    """

    flat: np.ndarray
    lengths: np.ndarray


def sequences_in(values: pd.Series, n_channels: int) -> Sequences:
    """Return what a column of sequences holds.

    Parameters
    ----------
    values : Series of length n_rows
        Lists or arrays of numbers, one per step; or of lists, one per step, of numbers, one per
        channel. Sequences, steps and numbers may be missing: a missing sequence has no steps.
    n_channels : int
        How many channels each has.

    Raises
    ------
    DataError
        Naming the first row whose sequence has other channels, or holds something that is no
        number or is infinite or beyond 1e30.
    """
    cells = [_steps_of(cell, values.name, row) for row, cell in enumerate(values)]
    for row, cell in enumerate(cells):
        if len(cell) and cell.shape[1] != n_channels:
            raise DataError(
                f"Column '{values.name}' holds sequences of {_channels(n_channels)}, but that of "
                f"row {row + 1} has {cell.shape[1]}. Give all the same channels; a single number "
                "may be missing."
            )
    lengths = np.array([len(cell) for cell in cells], np.int64)
    flat = np.concatenate([np.empty((0, n_channels)), *(cell for cell in cells if len(cell))])
    is_bad = np.abs(flat) > LARGEST
    if is_bad.any():
        step = int(np.argmax(is_bad.any(axis=1)))
        row = int(np.searchsorted(np.cumsum(lengths), step, side="right"))
        raise DataError(
            f"Column '{values.name}' holds a sequence with an infinite or too large number in row "
            f"{row + 1}: {flat[step][is_bad[step]][0]:g}. Replace the number, or leave it missing."
        )
    return Sequences(flat, lengths)


def count_channels(values: pd.Series) -> int:
    """Return how many channels the sequences of a column have, and check that all have so many.

    Raises
    ------
    DataError
        As `sequences_in`, or if no row has a step.
    """
    for row, cell in enumerate(values):
        steps = _steps_of(cell, values.name, row)
        if len(steps):
            if steps.shape[1] == 0:
                raise DataError(f"Column '{values.name}' holds steps without channels. Ignore it.")
            sequences_in(values, steps.shape[1])
            return int(steps.shape[1])
    raise DataError(f"Column '{values.name}' holds no sequence of any step. Ignore it.")


def holds_sequences(present: pd.Series) -> bool:
    """Whether values, none of them missing, are lists of lists of numbers: nothing else is that."""
    if isinstance(present.dtype, pd.ArrowDtype):
        arrow = present.dtype.pyarrow_dtype
        return is_list_type(arrow) and is_list_type(arrow.value_type)
    if not isinstance(present.dtype, np.dtype) or present.dtype != object:
        return False
    for cell in present.iloc[:_FEW]:
        if isinstance(cell, np.ndarray) and cell.ndim == 2:
            return cell.dtype.kind in "fiub"
        if not _is_list(cell):
            return False
        if len(cell):
            return _is_list(cell[0])
    return False


@dataclass(frozen=True)
class StepsEncoder:
    """Scales the steps of sequences, and pads them to one length, for networks.

    The length is that of the longest sequence of the training rows, but at most twice the length
    that 95 % of them do not exceed, and at most 1,000. Of longer sequences, the last steps are
    kept: what came last tells the most.

    Attributes
    ----------
    length : int
        Steps of all rows, padding included.
    means, scales : tuple of float
        Of each channel, over all steps of the training rows.
    has_gaps : tuple of bool
        Channels that lack some values in the training rows: another channel tells where.
    """

    length: int
    means: tuple[float, ...]
    scales: tuple[float, ...]
    has_gaps: tuple[bool, ...]

    def __post_init__(self) -> None:
        n = len(self.means)
        if not 1 <= n <= _MOST_CHANNELS or len(self.scales) != n or len(self.has_gaps) != n:
            raise ValueError("sequences have scales of other channels than they have")
        if not 1 <= self.length <= MOST_STEPS:
            raise ValueError(f"sequences are of {self.length} steps")
        if not (np.abs(self.means) <= LARGEST).all() or not (np.array(self.scales) > 0).all():
            raise ValueError("sequences have scales that are no scales")

    @classmethod
    def fit(cls, values: pd.Series, n_channels: int) -> Self:
        """Learn length and scales from training rows; see `sequences_in` for what they hold."""
        found = sequences_in(values, n_channels)
        is_there = ~np.isnan(found.flat)
        n = np.maximum(is_there.sum(axis=0), 1)
        means = np.where(is_there, found.flat, 0.0).sum(axis=0) / n
        deviations = np.where(is_there, found.flat - means, 0.0)
        scales = np.sqrt((deviations**2).sum(axis=0) / n)
        scales[scales <= 1e-6 * np.maximum(np.abs(means), 1e-6)] = 1.0  # it does not vary
        has_gaps = ~is_there.all(axis=0) & is_there.any(axis=0)
        return cls(
            _length_for(found.lengths),
            tuple(means.tolist()),
            tuple(scales.tolist()),
            tuple(has_gaps.tolist()),
        )

    @property
    def n_channels(self) -> int:
        """Of the sequences as they are given."""
        return len(self.means)

    def transform(self, values: pd.Series) -> Steps:
        """Return rows as a network reads them: ``length`` steps of the channels and indicators."""
        found = sequences_in(values, self.n_channels)
        gaps = np.flatnonzero(self.has_gaps)
        scaled = (found.flat - np.array(self.means)) / np.array(self.scales)
        np.clip(scaled, -_LARGEST_DEVIATION, _LARGEST_DEVIATION, out=scaled)
        channels = np.hstack([np.nan_to_num(scaled, nan=0.0), np.isnan(scaled[:, gaps])])
        rows, steps = _places(found.lengths)
        # The last steps of what is too long.
        steps = steps - np.maximum(found.lengths - self.length, 0)[rows]
        is_kept = steps >= 0
        padded = np.zeros((len(values), self.length, channels.shape[1]), np.float32)
        padded[rows[is_kept], steps[is_kept]] = channels[is_kept]
        return Steps(padded, np.minimum(found.lengths, self.length).astype(np.int32))


@dataclass(frozen=True)
class SummaryEncoder:
    """Numbers that describe each channel of a sequence, and its length, for heads that see columns.

    Of each channel the mean, standard deviation, least, greatest, first and last value, the slope
    of a line by steps, and the share of values missing. What a row has no values for (a channel
    that is missing throughout; all channels where there are no steps) is as on average: the share
    missing, and the length, say so.

    Attributes
    ----------
    fills : tuple of float
        The averages, of the training rows.
    """

    fills: tuple[float, ...]

    def __post_init__(self) -> None:
        n_described = len(self.fills) - 1
        is_odd = n_described % len(SUMMARIES) or not (0 < n_described <= 8 * _MOST_CHANNELS)
        if is_odd or not (np.abs(self.fills) <= LARGEST).all():
            raise ValueError("sequences are described by other numbers than there are")

    @classmethod
    def fit(cls, values: pd.Series, n_channels: int) -> Self:
        """Learn averages from training rows; see `sequences_in` for what they hold."""
        described = _described(sequences_in(values, n_channels))
        is_there = ~np.isnan(described)
        total = np.where(is_there, described, 0.0).sum(axis=0)
        return cls(tuple((total / np.maximum(is_there.sum(axis=0), 1)).tolist()))

    @property
    def n_channels(self) -> int:
        """Of the sequences."""
        return len(self.fills) // len(SUMMARIES)

    def transform(self, values: pd.Series) -> np.ndarray:
        """Return the descriptions; float32 of shape (n_rows, 8 n_channels + 1), finite."""
        described = _described(sequences_in(values, self.n_channels))
        return np.where(np.isnan(described), self.fills, described).astype(np.float32)

    def feature_names(self, column: str) -> list[str]:
        """Return the name of each number."""
        channels = range(self.n_channels)
        of_channels = [f"{column}_{channel}_{what}" for channel in channels for what in SUMMARIES]
        return [*of_channels, f"{column}_length"]


def plain(cell: Any) -> Any:
    """Return a cell of a table, lists and arrays of numbers as one float64 array of two axes."""
    if not (isinstance(cell, np.ndarray) or _is_list(cell)):
        return cell
    try:
        return _steps_of(cell, "", 0)
    except DataError:
        return cell


def _steps_of(cell: Any, column: object, row: int) -> np.ndarray:
    """Return the sequence in a cell as a float64 array of shape (n_steps, n_channels)."""
    if isinstance(cell, np.ndarray) and cell.dtype.kind in "fiub" and cell.ndim in (1, 2):
        return np.asarray(cell if cell.ndim == 2 else cell[:, None], np.float64)
    if isinstance(cell, (list, tuple, np.ndarray)):
        return _steps_of_list(list(cell), column, row)
    if pd.isna(cell):
        return np.empty((0, 1))
    raise DataError(
        f"Column '{column}' is to hold sequences, but row {row + 1} holds {cell!r}. {_FIX}"
    )


def _steps_of_list(steps: list[Any], column: object, row: int) -> np.ndarray:
    is_step = [_is_list(step) for step in steps]
    if any(is_step):
        steps = _of_one_width(steps, is_step, column, row)
    try:
        found = np.asarray(steps, np.float64)
    except (ValueError, TypeError):
        found = np.empty((0, 0, 0))
    if found.ndim not in (1, 2):
        raise DataError(
            f"Column '{column}' is to hold sequences, but that of row {row + 1} is not made of "
            f"numbers: {str(steps)[:60]}. {_FIX}"
        )
    return found if found.ndim == 2 else found[:, None]


def _of_one_width(
    steps: list[Any], is_step: list[bool], column: object, row: int
) -> list[list[float | None]]:
    """Return steps, missing ones as steps of missing numbers."""
    first = is_step.index(True)
    width = len(steps[first])
    found = []
    for number, step in enumerate(steps):
        if not is_step[number]:
            step = [step] * width if step is None or step != step else [step]  # NaN
        if len(step) != width:
            raise DataError(
                f"Column '{column}', row {row + 1}: step {first + 1} has {_channels(width)}, step "
                f"{number + 1} has {len(step)}. Give all steps the same channels; a single number "
                "may be missing."
            )
        found.append(list(step))
    return found


def _is_list(cell: Any) -> bool:
    return isinstance(cell, (list, tuple)) or (isinstance(cell, np.ndarray) and cell.ndim == 1)


def _channels(n: int) -> str:
    return f"{n} channel" if n == 1 else f"{n} channels"


def _length_for(lengths: np.ndarray) -> int:
    present = lengths[lengths > 0]
    if not len(present):
        return 1
    usual = int(np.quantile(present, _USUAL, method="inverted_cdf"))
    return int(min(present.max(), _MOST_TIMES_USUAL * usual, MOST_STEPS))


def _places(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row of each step, and which of the row's steps it is."""
    rows = np.repeat(np.arange(len(lengths)), lengths)
    return rows, np.arange(len(rows)) - (np.cumsum(lengths) - lengths)[rows]


def _described(found: Sequences) -> np.ndarray:
    """Return what describes each row, NaN where nothing is known: (n_rows, 8 n_channels + 1)."""
    n_channels = found.flat.shape[1]
    parts = np.full((len(found.lengths), n_channels, len(SUMMARIES)), np.nan)
    parts[:, :, SUMMARIES.index("missing")] = 1.0
    has_steps = found.lengths > 0
    if has_steps.any():
        parts[has_steps] = _descriptions(found.flat, found.lengths[has_steps])
    described = np.column_stack([parts.reshape(len(parts), -1), found.lengths])
    # Slopes of the largest numbers are larger.
    return np.asarray(np.clip(described, -LARGEST, LARGEST))


def _descriptions(flat: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Describe the channels of rows that have steps: (n_rows, n_channels, 8)."""
    rows, steps = _places(lengths)
    starts = np.cumsum(lengths) - lengths
    is_there = ~np.isnan(flat)
    step = np.where(is_there, steps[:, None], 0.0)
    n = np.add.reduceat(is_there.astype(np.float64), starts)

    def mean(values: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.asarray(np.add.reduceat(np.where(is_there, values, 0.0), starts) / n)

    means = mean(flat)
    deviations = flat - means[rows]
    variances = mean(deviations**2)
    offsets = step - mean(step)[rows]
    spread = mean(offsets**2)
    slopes = mean(offsets * deviations) / np.where(spread > 0, spread, 1.0)
    first = np.minimum.reduceat(np.where(is_there, steps[:, None], len(flat)), starts)
    last = np.maximum.reduceat(np.where(is_there, steps[:, None], -1), starts)
    ends = [
        np.take_along_axis(flat, np.clip(starts[:, None] + place, 0, len(flat) - 1), axis=0)
        for place in (first, last)
    ]
    described = [
        means,
        np.sqrt(variances),
        np.fmin.reduceat(flat, starts),
        np.fmax.reduceat(flat, starts),
        *(np.where(n > 0, end, np.nan) for end in ends),
        slopes,
        1 - n / lengths[:, None],
    ]
    return np.stack(described, axis=2)
