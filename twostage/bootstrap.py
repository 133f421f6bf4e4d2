"""Intervals by resampling groups: statistics of row weights in, values with intervals out.

A statistic takes weights of shape (n_resamples, n_rows), how often each row was drawn, and returns
one value per resample, so that a bootstrap is a few matrix operations per block of resamples. What
it can prepare, such as the order of the rows, it prepares once, when it is made.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

N_RESAMPLES = 2000
MIN_GROUPS = 20  # a bootstrap of fewer draws claims a certainty that is not there
LEVEL = 0.95
_ROUNDING = 1e-12  # what a difference of equal scores may leave
_MAX_CELLS = 100_000  # of a weight matrix: what stays in a processor's cache is 3 times as fast

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Score:
    """A value measured on held-out rows, with its interval.

    Attributes
    ----------
    value : float
        On the rows as they are.
    low, high : float
        Ends of the 95% interval, from a bootstrap over groups; NaN under 20 groups.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not self.has_interval:
            return f"{short(self.value)} (too few rows for an interval)"
        return f"{short(self.value)} (95% interval {short(self.low)} to {short(self.high)})"

    @property
    def has_interval(self) -> bool:
        """Whether there were groups enough to tell how sure the value is."""
        return bool(np.isfinite([self.low, self.high]).all())


def short(value: float) -> str:
    """Write a score as people read it: three decimals, none from 100 on, two digits if tiny."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    is_tiny = _ROUNDING < abs(value) < 0.0005  # an error in metres of what is measured in microns
    return f"{value:.2g}" if is_tiny else f"{value:.3f}"


def bootstrap(
    statistics: Mapping[str, Statistic], groups: np.ndarray, random_state: int = 0
) -> dict[str, Score]:
    """Attach to each statistic of the rows the interval that resampled groups give.

    Parameters
    ----------
    statistics : dict of str to Statistic
        Functions of weights of shape (n_resamples, n_rows).
    groups : int array of shape (n_rows,)
        What is drawn: rows of one group are not independent.
    random_state : int
        Of the draws; all statistics see the same ones.

    Returns
    -------
    dict of str to Score
        With expanded percentile intervals, see `interval`.

    References
    ----------
    Efron and Tibshirani (1993), An Introduction to the Bootstrap, chapter 13: percentile interval.
    Davison and Hinkley (1997), Bootstrap Methods and their Application, section 3.8: whole
    clusters are drawn.
    """
    _, number = np.unique(groups, return_inverse=True)
    n_groups = int(number.max()) + 1
    by_row = {name: _of_rows(statistic, number) for name, statistic in statistics.items()}
    return bootstrap_counts(by_row, n_groups, len(number), random_state)


def bootstrap_counts(
    statistics: Mapping[str, Statistic],
    n_groups: int,
    n_rows: int,
    random_state: int = 0,
) -> dict[str, Score]:
    """Do as `bootstrap`, for statistics of how often each group was drawn.

    Parameters
    ----------
    statistics : dict of str to Statistic
        Functions of counts of shape (n_resamples, n_groups).
    n_groups : int
        How many groups there are to draw from.
    n_rows : int
        How many rows a statistic spreads the counts over: it bounds the memory.
    random_state : int
        Of the draws.

    Returns
    -------
    dict of str to Score
    """
    once = np.ones((1, n_groups), np.int64)
    values = {name: float(of(once)[0]) for name, of in statistics.items()}
    if n_groups < MIN_GROUPS:
        return {name: Score(value, np.nan, np.nan) for name, value in values.items()}
    found = _resample(statistics, n_groups, n_rows, random_state)
    return {name: interval(values[name], found[name], n_groups) for name in statistics}


def resample(statistic: Statistic, groups: np.ndarray, random_state: int = 0) -> np.ndarray:
    """Return a statistic of the rows in each resample of the groups.

    Parameters
    ----------
    statistic : Statistic
        May also return several values per resample, of shape (n_resamples, n_values).
    groups, random_state
        As for `bootstrap`.

    Returns
    -------
    array of shape (n_resamples,) or (n_resamples, n_values)
    """
    _, number = np.unique(groups, return_inverse=True)
    by_row = {"": _of_rows(statistic, number)}
    return _resample(by_row, int(number.max()) + 1, len(number), random_state)[""]


def interval(value: float, resampled: np.ndarray, n_groups: int) -> Score:
    """Attach to a value the percentiles of its resamples, widened for the small number of groups.

    Parameters
    ----------
    value : float
        On the rows as they are.
    resampled : array of shape (n_resamples,)
        Resamples in which the value is not defined (NaN) are left out.
    n_groups : int
        How many groups were drawn. A bootstrap has a variance too small by (n - 1) / n and knows
        no Student's t; the levels of the percentiles make up for both.

    Returns
    -------
    Score

    References
    ----------
    Hesterberg (2015), What Teachers Should Know About the Bootstrap, The American Statistician
    69(4), section 5.3: the expanded percentile interval.
    """
    defined = resampled[np.isfinite(resampled)]
    if len(defined) == 0 or not np.isfinite(value):
        return Score(value, float("nan"), float("nan"))
    expanded = np.sqrt(n_groups / (n_groups - 1)) * stdtrit(n_groups - 1, (1 + LEVEL) / 2)
    ends = np.quantile(defined, ndtr([-expanded, expanded]))
    return Score(value, float(ends[0]), float(ends[1]))


def _of_rows(statistic: Statistic, number: np.ndarray) -> Statistic:
    """Turn a statistic of row weights into one of group counts."""
    if np.array_equal(number, np.arange(len(number))):
        return statistic
    return lambda counts: statistic(np.take(counts, number, axis=1))


def _resample(
    statistics: Mapping[str, Statistic], n_groups: int, n_rows: int, random_state: int
) -> dict[str, np.ndarray]:
    parts: dict[str, list[np.ndarray]] = {name: [] for name in statistics}
    for counts in _draw(n_groups, n_rows, random_state):
        for name, of in statistics.items():
            parts[name].append(of(counts))
    return {name: np.concatenate(found) for name, found in parts.items()}


def _draw(n_groups: int, n_rows: int, random_state: int) -> Iterator[np.ndarray]:
    """Yield blocks of how often each group occurs in resamples, of shape (n, n_groups).

    Drawing numbers and counting them is several times faster than multinomial counts.
    """
    rng = np.random.default_rng(random_state)
    step = max(1, min(N_RESAMPLES, _MAX_CELLS // max(n_rows, n_groups)))
    for start in range(0, N_RESAMPLES, step):
        n = min(step, N_RESAMPLES - start)
        drawn = rng.integers(n_groups, size=(n, n_groups))
        drawn += np.arange(n)[:, None] * n_groups
        counts = np.bincount(drawn.ravel(), minlength=n * n_groups)
        yield counts.reshape(n, n_groups)
