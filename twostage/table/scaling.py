"""Numbers as a head wants them: scaled, missing ones filled in, bent by splines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.preprocessing import (
    MinMaxScaler,
    QuantileTransformer,
    SplineTransformer,
    StandardScaler,
)

from twostage.table.leaves import load_leaf, save_leaf

_LEAF_TYPES = {
    "standard": "StandardScaler",
    "minmax": "MinMaxScaler",
    "robust": "SquashingScaler",
    "quantile": "QuantileTransformer",
}
_MOST_QUANTILES = 1000
_FAR = 1024  # ranges from 0: float32 has 24 bits, and should have 14 left
_N_KNOTS, _FEWEST_TO_BEND, _MOST_COLUMNS_TO_BEND = 5, 10, 50


class NumberScaler:
    """Makes columns of numbers ready for a head.

    Scaled by scikit-learn or skrub; then missing ones get the median, and each column that had
    any at fit another column that says so; then splines, in which a linear head bends. Written
    here is what scikit-learn lacks: medians by weight, and columns without any value.

    Parameters
    ----------
    names : sequence of str
        Of the columns, k.
    scaling : {"standard", "minmax", "robust", "quantile", "none"}
        As `twostage.recipes.Recipe` says.
    scaler : fitted transformer or None
        Of the columns in ``seen``.
    seen : sequence of int
        Columns that had values at fit: nothing can be learned from others.
    fills : sequence of float or None
        What missing values become in each column, after scaling; None to leave them.
    indicators : mapping of str to int
        Columns whose missing values are told of, by the name of the column that tells.
    knots : mapping of str to sequence of float
        Columns that are bent, by number as text (so is JSON's way), and the knots of the splines.
    origins : sequence of float, optional
        What is subtracted from columns that are not scaled: features are float32, in which seconds
        since 1970, say, would run together.
    """

    def __init__(
        self,
        names: Sequence[str],
        scaling: str,
        scaler: Any,
        seen: Sequence[int],
        fills: Sequence[float] | None,
        indicators: Mapping[str, int],
        knots: Mapping[str, Sequence[float]],
        origins: Sequence[float] | None = None,
    ):
        self.names = list(names)
        self.scaling = scaling
        self.scaler = scaler
        self.seen = list(seen)
        self.fills = None if fills is None else list(fills)
        self.indicators = dict(indicators)
        self.knots = {column: list(values) for column, values in knots.items()}
        self.origins = None if origins is None else list(origins)
        self._splines = _spline_transformer(self.knots)

    @classmethod
    def fit_transform(
        cls,
        matrix: np.ndarray,
        names: Sequence[str],
        *,
        scaling: str,
        fills_missing: bool,
        has_splines: bool = False,
        random_state: int = 0,
        sample_weight: np.ndarray | None = None,
        indicators: Mapping[str, int] | None = None,
        has_origins: bool = False,
    ) -> tuple["NumberScaler", np.ndarray]:
        """Learn from training rows, and make them ready.

        Parameters
        ----------
        matrix : float64 array of shape (n_rows, k)
            NaN where missing. Not modified.
        names : sequence of str
            Of the columns.
        scaling, fills_missing, has_splines
            As `twostage.recipes.Recipe` says. Columns of ten values or more are bent, where there
            are no more than fifty columns.
        random_state : int
            Of the rows whose quantiles are looked at, where there are many.
        sample_weight : array of shape (n_rows,), optional
            They act on means, deviations and medians as repeated rows would.
        indicators : mapping of str to int, optional
            Columns whose missing values may be told of, and under which name; all if not given.
        has_origins : bool
            Whether columns far from 0 that are not scaled may be counted from their least value.

        Returns
        -------
        scaler : NumberScaler
        numbers : float64 array of shape (n_rows, n_features)
        """
        seen = np.flatnonzero(~np.isnan(matrix).all(axis=0)).tolist()
        scaler = _fit_scaler(scaling, matrix[:, seen], random_state, sample_weight)
        origins = _origins(matrix, seen) if has_origins and scaling == "none" else None
        plain = cls(names, scaling, scaler, seen, None, {}, {}, origins)
        scaled = plain._scale(matrix)
        if not fills_missing:
            return plain, scaled
        fills = _medians(scaled, seen, sample_weight)
        if indicators is None:
            indicators = {f"{name}_is_missing": i for i, name in enumerate(names)}
        indicators = {name: i for name, i in indicators.items() if np.isnan(matrix[:, i]).any()}
        knots = {}
        if has_splines and matrix.shape[1] <= _MOST_COLUMNS_TO_BEND:
            knots = _knots(scaled)
        fitted = cls(names, scaling, scaler, seen, fills, indicators, knots, origins)
        return fitted, fitted._finish(scaled)

    def transform(self, matrix: np.ndarray) -> np.ndarray:
        """Make rows ready; float64 of shape (n_rows, n_features)."""
        return self._finish(self._scale(matrix))

    def feature_names(self) -> list[str]:
        """Return the name of each feature."""
        bent = [
            f"{self.names[int(column)]}_spline_{i}"
            for column in self.knots
            for i in range(self._n_splines())
        ]
        return [*self.names, *bent, *self.indicators]

    def save(self, folder: Path, name: str) -> dict[str, Any]:
        """Write the scaler, and return what else `load` needs, as JSON."""
        if self.scaler is not None:
            save_leaf(self.scaler, folder, name)
        return {
            "names": self.names,
            "scaling": self.scaling,
            "seen": self.seen,
            "fills": self.fills,
            "indicators": self.indicators,
            "knots": self.knots,
            "origins": self.origins,
        }

    @classmethod
    def load(cls, folder: Path, name: str, record: Mapping[str, Any]) -> "NumberScaler":
        """Read what `save` wrote."""
        scaler = None
        if record["scaling"] != "none" and record["seen"]:
            scaler = load_leaf(folder, name, _LEAF_TYPES[record["scaling"]])
        return cls(**record, scaler=scaler)

    def _scale(self, matrix: np.ndarray) -> np.ndarray:
        if self.scaling == "none":
            return matrix if self.origins is None else matrix - self.origins
        scaled = np.full(matrix.shape, np.nan)
        if self.scaler is not None and len(matrix):
            scaled[:, self.seen] = self.scaler.transform(matrix[:, self.seen])
        return scaled

    def _finish(self, scaled: np.ndarray) -> np.ndarray:
        if self.fills is None:
            return scaled
        is_missing = np.isnan(scaled)
        filled = np.where(is_missing, self.fills, scaled)
        parts = [filled]
        if self._splines is not None and len(filled):
            parts.append(self._splines.transform(filled[:, [int(i) for i in self.knots]]))
        elif self._splines is not None:
            parts.append(np.empty((0, len(self.knots) * self._n_splines())))
        if self.indicators:
            parts.append(is_missing[:, list(self.indicators.values())].astype(np.float64))
        return np.hstack(parts)

    def _n_splines(self) -> int:
        return 0 if self._splines is None else self._splines.n_features_out_ // len(self.knots)


def standard_unless_none(scaling: str) -> str:
    """Return how numbers are scaled that have no outliers to speak of."""
    return "none" if scaling == "none" else "standard"


def _fit_scaler(
    scaling: str, matrix: np.ndarray, random_state: int, sample_weight: np.ndarray | None
) -> Any:
    if scaling == "none" or matrix.shape[1] == 0:
        return None
    if scaling == "standard":
        return StandardScaler().fit(matrix, sample_weight=sample_weight)
    if scaling == "minmax":
        return MinMaxScaler().fit(matrix)
    if scaling == "quantile":
        return QuantileTransformer(
            n_quantiles=min(_MOST_QUANTILES, len(matrix)),
            output_distribution="normal",
            random_state=random_state,
        ).fit(matrix)
    from skrub import SquashingScaler  # takes 2 s

    return SquashingScaler().fit(matrix)


def _origins(matrix: np.ndarray, seen: Sequence[int]) -> list[float] | None:
    """Return the least value of each column that lies far from 0 for its range, else 0."""
    origins = np.zeros(matrix.shape[1])
    least, most = np.nanmin(matrix[:, seen], axis=0), np.nanmax(matrix[:, seen], axis=0)
    is_far = np.minimum(abs(least), abs(most)) > _FAR * (most - least)
    origins[seen] = np.where(is_far & (most > least), least, 0.0)
    return origins.tolist() if origins.any() else None


def _medians(
    matrix: np.ndarray, seen: Sequence[int], sample_weight: np.ndarray | None
) -> list[float]:
    """Return the median of each column, 0 where it has no values."""
    weight = np.ones(len(matrix)) if sample_weight is None else np.asarray(sample_weight)
    medians = np.zeros(matrix.shape[1])
    for column in seen:
        medians[column] = _median(matrix[:, column], weight)
    return medians.tolist()


def _median(values: np.ndarray, weight: np.ndarray) -> float:
    """Return the median that the values would have, each repeated ``weight`` times."""
    is_present = ~np.isnan(values)
    order = np.argsort(values[is_present], kind="stable")
    values, below = values[is_present][order], np.cumsum(weight[is_present][order])
    half = below[-1] / 2
    lower = values[np.searchsorted(below, half * (1 - 1e-12))]
    upper = values[np.searchsorted(below, half * (1 + 1e-12), side="right")]
    return float((lower + upper) / 2)


def _knots(scaled: np.ndarray) -> dict[str, list[float]]:
    """Return evenly spaced knots for each column that has enough different values to bend."""
    knots = {}
    for column, values in enumerate(scaled.T):
        different = np.unique(values[~np.isnan(values)])
        if len(different) < _FEWEST_TO_BEND:
            continue
        positions = np.linspace(different[0], different[-1], _N_KNOTS)
        if (np.diff(positions) > 0).all():  # rounding may not leave room for knots
            knots[str(column)] = positions.tolist()
    return knots


def _spline_transformer(knots: Mapping[str, Sequence[float]]) -> SplineTransformer | None:
    """Make splines from their knots alone: they need no other learning, nor a file."""
    if not knots:
        return None
    positions = np.array(list(knots.values())).T
    return SplineTransformer(
        degree=3, knots=positions, extrapolation="linear", include_bias=False
    ).fit(positions)
