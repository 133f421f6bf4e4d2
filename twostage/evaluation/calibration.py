"""Whether probabilities mean what they say: reliability curve and expected calibration error."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from twostage.bootstrap import LEVEL, MIN_GROUPS, Score, resample
from twostage.errors import DataError

N_BINS = 10


@dataclass(frozen=True)
class Calibration:
    """Said probabilities against what came true.

    Attributes
    ----------
    curve : DataFrame
        A row per bin, from low to high probabilities: ``n_rows``, ``said`` (the mean probability),
        ``came_true`` (the share), ``low`` and ``high`` (its 95% interval).
    error : Score
        The expected calibration error: the distance between said and came true, averaged over
        rows.
    by_chance : float
        The error that probabilities which mean what they say would show on average in as many rows,
        if these were independent: no model gets 0.
    """

    curve: pd.DataFrame
    error: Score
    by_chance: float


def calibrate(
    y: np.ndarray,
    proba: np.ndarray,
    groups: np.ndarray,
    n_bins: int = N_BINS,
    random_state: int = 0,
) -> Calibration:
    """Compare probabilities with what came true, in bins of about equally many rows.

    Parameters
    ----------
    y : int array of shape (n_rows,)
        Class numbers, 0 to n_classes - 1.
    proba : array of shape (n_rows, n_classes)
        Predicted probabilities. Of two classes the second's is looked at; of several that of the
        predicted class, and whether it was right (top-label calibration).
    groups : int array of shape (n_rows,)
        Rows of one group are not independent.
    n_bins : int
        How many bins. Equal probabilities share one, so that there may be fewer.
    random_state : int
        Of the bootstrap.

    Returns
    -------
    Calibration

    Raises
    ------
    DataError
        If there are no rows, or a probability is NaN.

    Notes
    -----
    A bin's interval is Wilson's, with the effective number of rows that the groups leave. The
    error is biased upwards, because gaps that chance makes do not cancel, and in resamples once
    more, so that a percentile interval would shut out 0 even for a perfect model. Its interval
    holds the errors under which the one found is not surprising: gaps that are the same in all
    bins, or of the shape found, of any size, with the noise of the bootstrap over groups.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks.
    Nixon et al. (2019), Measuring Calibration in Deep Learning: bins of equal count.
    Korn and Graubard (1998), Confidence Intervals for Proportions with Small Expected Number of
    Positive Counts Estimated from Survey Data: effective numbers of rows.
    Carpenter (1999), Test inversion bootstrap confidence intervals, Journal of the Royal
    Statistical Society B 61.
    Cowan, Cranmer, Gross and Vitells (2011), Power-Constrained Limits: no upper end of an error so
    small that chance hardly makes it is below that of the median one.
    """
    said, is_true = _looked_at(y, proba)
    bins = _bins_of_equal_count(said, n_bins)
    error = _expected_error(said, is_true, bins, groups, random_state)
    return Calibration(_curve(said, is_true, bins, groups), error, _error_by_chance(said, bins))


def _looked_at(y: np.ndarray, proba: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability that is looked at, and whether it came true."""
    if len(y) == 0:
        raise DataError("There are no rows to calibrate on. Give labelled rows with probabilities.")
    is_nan = np.isnan(proba).any(axis=1)
    if is_nan.any():
        raise DataError(
            f"The probabilities of {is_nan.sum()} of {len(y)} rows are NaN; first: row "
            f"{int(np.argmax(is_nan))}. Leave those rows out, or find out why."
        )
    if proba.shape[1] == 2:
        return proba[:, 1], y == 1
    return proba.max(axis=1), proba.argmax(axis=1) == y


def _bins_of_equal_count(said: np.ndarray, n_bins: int) -> np.ndarray:
    """Number the bin of each row, from 0 on, without gaps."""
    edges = np.quantile(said, np.linspace(0, 1, n_bins + 1)[1:-1])
    return np.unique(np.searchsorted(edges, said, side="left"), return_inverse=True)[1]


def _curve(
    said: np.ndarray, is_true: np.ndarray, bins: np.ndarray, groups: np.ndarray
) -> pd.DataFrame:
    rows = []
    for number in range(int(bins.max()) + 1):
        is_in = bins == number
        low, high = share_interval(is_true[is_in], groups[is_in])
        share = is_true[is_in].mean()
        rows.append((int(is_in.sum()), said[is_in].mean(), share, low, high))
    return pd.DataFrame(rows, columns=["n_rows", "said", "came_true", "low", "high"])


def share_interval(is_true: np.ndarray, groups: np.ndarray) -> tuple[float, float]:
    """Return the 95% interval of a share of rows in groups.

    Parameters
    ----------
    is_true : bool array of shape (n_rows,)
        What is counted.
    groups : int array of shape (n_rows,)
        Rows of one group are not independent.

    Returns
    -------
    low, high : float
        Wilson's interval for as many independent rows as would leave the same variance; where all
        rows agree, for as many as there are groups.
    """
    _, number = np.unique(groups, return_inverse=True)
    n_rows, n_groups = len(is_true), int(number.max()) + 1
    share = is_true.mean()
    sums = np.bincount(number, is_true - share)
    variance = (sums**2).sum() / n_rows**2 * n_groups / max(n_groups - 1, 1)
    n = min(share * (1 - share) / variance, n_rows) if variance > 1e-12 else n_groups
    z2 = ndtri((1 + LEVEL) / 2) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * share * (1 - share) / n + z2**2 / (4 * n**2)) / (1 + z2 / n)
    return float(max(middle - half, 0)), float(min(middle + half, 1))


def _expected_error(
    said: np.ndarray, is_true: np.ndarray, bins: np.ndarray, groups: np.ndarray, random_state: int
) -> Score:
    """Return the sum of the bins' gaps, each weighted by its share of the rows."""
    in_bin = bins[:, None] == np.arange(bins.max() + 1)
    gap_in = np.where(in_bin, (is_true - said)[:, None], 0)
    gaps = gap_in.mean(axis=0)
    value = float(np.abs(gaps).sum())
    if len(np.unique(groups)) < MIN_GROUPS:
        return Score(value, np.nan, np.nan)
    resampled = resample(
        lambda weights: weights @ gap_in / weights.sum(axis=1, keepdims=True), groups, random_state
    )
    shapes = [in_bin.mean(axis=0)] + [gaps / value] * (value > 0)
    ends = np.array([_inverted(value, shape, resampled - gaps) for shape in shapes])
    return Score(value, float(ends[:, 0].min()), float(ends[:, 1].max()))


def _inverted(value: float, shape: np.ndarray, noise: np.ndarray) -> tuple[float, float]:
    """Return the ends of the errors under which the value is in the middle 95%.

    Parameters
    ----------
    value : float
        The error found.
    shape : array of shape (n_bins,)
        Gaps whose absolute values add up to 1.
    noise : array of shape (n_resamples, n_bins)
        How gaps vary.
    """
    by_noise = np.abs(noise).sum(axis=1)
    at_least = max(value, float(np.median(by_noise)))  # for the upper end
    errors = np.linspace(0, min(value + 2 * by_noise.max(), 1), 200)
    ends = np.array(
        [
            np.quantile(
                np.abs(error * shape + noise).sum(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
            )
            for error in errors
        ]
    )
    low = errors[np.argmax(ends[:, 1] >= value)]
    high = errors[np.flatnonzero(ends[:, 0] <= at_least)[-1]]
    return float(low), float(high)


def _error_by_chance(said: np.ndarray, bins: np.ndarray) -> float:
    """Return the mean of the error of binomial counts, which are about normal."""
    variances = np.bincount(bins, said * (1 - said))
    return float(np.sqrt(2 / np.pi * variances).sum() / len(said))
