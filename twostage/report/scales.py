"""From values to places on a page: axes with round ticks, in percent of the plot's sides."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil, floor, isfinite, log10

import numpy as np

from twostage.report.words import number


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, ``at`` percent from its start."""

    at: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A linear or logarithmic scale.

    Attributes
    ----------
    low, high : float
        Values at its ends.
    ticks : tuple of Tick
        Round values.
    is_log : bool
        Whether equal distances are equal ratios.
    """

    low: float
    high: float
    ticks: tuple[Tick, ...]
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, in percent, cut off at the ends."""
        return float(self.places(np.array([value]))[0])

    def places(self, values: np.ndarray) -> np.ndarray:
        """Return the places of values, in percent, cut off at the ends."""
        low, high = (log10(end) if self.is_log else end for end in (self.low, self.high))
        given = np.log10(np.maximum(values, self.low)) if self.is_log else np.asarray(values)
        share = (given - low) / (high - low)
        return np.asarray(np.round(100 * np.clip(share, 0, 1), 2))


def linear_axis(
    values: Iterable[float], n_ticks: int = 5, bounds: tuple[float, float] | None = None
) -> Axis:
    """Make an axis that holds all finite values, with ticks at round numbers.

    Parameters
    ----------
    values : iterable of float
        What must be on it.
    n_ticks : int
        About how many.
    bounds : (float, float), optional
        Values beyond which it does not go, even if its ends were round there.
    """
    finite = [float(value) for value in values if value is not None and isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 1.0)
    if low == high:
        pad = abs(low) * 0.1 or 0.5
        low, high = low - pad, high + pad
    step = _round_step((high - low) / n_ticks)
    low, high = floor(low / step + 1e-9) * step, ceil(high / step - 1e-9) * step
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    digits = max(0, -floor(log10(step) + 1e-9))
    marks = np.arange(ceil(low / step - 1e-9), floor(high / step + 1e-9) + 1) * step
    span = high - low
    ticks = [
        Tick(round(100 * (mark - low) / span, 2), _label(float(mark), digits)) for mark in marks
    ]
    return Axis(low, high, tuple(ticks))


def log_axis(values: Iterable[float]) -> Axis:
    """Make a logarithmic axis of positive values, with ticks at 1, 2 and 5 of each decade."""
    finite = [value for value in values if isfinite(value) and value > 0]
    low, high = (min(finite), max(finite)) if finite else (1.0, 10.0)
    if low == high:
        low, high = low / 2, high * 2
    low, high = low / (high / low) ** 0.02, high * (high / low) ** 0.02
    decades = range(floor(log10(low)), ceil(log10(high)) + 1)
    several = high / low > 300
    marks = [m * 10.0**d for d in decades for m in ((1,) if several else (1, 2, 5))]
    axis = Axis(low, high, (), True)
    ticks = [Tick(axis.at(mark), short_number(mark)) for mark in marks if low <= mark <= high]
    return Axis(low, high, tuple(ticks), True)


def _round_step(step: float) -> float:
    power = 10.0 ** floor(log10(step))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= step * (1 - 1e-9))


def _label(value: float, digits: int) -> str:
    value = 0.0 if abs(value) < 1e-12 else value
    if abs(value) >= 10_000 and digits == 0:
        return short_number(value)
    return number(value, digits) if abs(value) < 100 else f"{value:,.{digits}f}"


def short_number(value: float) -> str:
    """Write a round number for an axis: ``500k``."""
    for size, unit in ((1e9, "bn"), (1e6, "m"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}".replace("-", "−")
    return f"{value:g}".replace("-", "−")
