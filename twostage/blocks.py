"""Wide blocks as features: as they are, their principal components, a cross-fitted linear probe.

A block is a float32 matrix with a row per table row, NaN where the row has nothing: the embeddings
of an image column, a column of vectors, the components of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.linalg import eigh

from twostage.opening.files import read_arrays
from twostage.opening.records import checked
from twostage.recipes import AUTO, BLOCK_ENCODINGS, Recipe
from twostage.ridge import Folds, is_untaught, linear, outputs_of, squared_errors, sums_by_fold

_MAX_COMPONENTS = 256  # that a probe sees
_CHUNK = 1024  # pieces that stay in the processor's cache
LARGEST_DEVIATION = 10.0
_N_PENALTIES = 12
_LARGEST_WIDTH = 1 << 20
_FILE = "{name}.npz"
NOTHING = ""


def auto_parts(n_rows: int, width: int) -> str:
    """Return what trees should see of a block: all of it only if there are rows enough for that.

    Measured on lesions (more rows than dimensions: all dimensions are best), houses and leaves
    (fewer: components are); the probe's score helps in either case. See artifacts/accuracy.md.
    """
    return "raw+probe" if n_rows >= width else "pca+probe"


@dataclass(frozen=True)
class _Record:
    """What is saved of a block beside its arrays; see `BlockEncoder`."""

    parts: str
    fills_missing: bool
    n_components: int
    has_arrays: bool


@dataclass
class BlockEncoder:
    """What was learned of a block: scale, principal components, linear probe.

    Attributes
    ----------
    parts : str
        Of "raw", "pca", "probe", joined by "+"; "" for none.
    fills_missing : bool
        Whether rows with nothing become the mean, or stay NaN.
    n_components : int
        Principal components that are features.
    arrays : dict of str to array
        ``mean`` and ``scale`` of shape (width,), ``components`` of shape (width, k), ``probe`` of
        shape (k + 1, n_outputs), the last row its intercepts; those that the parts need.
    """

    parts: str
    fills_missing: bool
    n_components: int
    arrays: dict[str, np.ndarray] = field(repr=False)

    @classmethod
    def fit_transform(
        cls,
        matrix: np.ndarray,
        recipe: Recipe,
        y: np.ndarray,
        *,
        n_classes: int | None,
        folds: Folds,
        sample_weight: np.ndarray | None = None,
    ) -> tuple[Self, list[np.ndarray]]:
        """Learn from training rows, and encode them.

        Parameters
        ----------
        matrix : float32 array of shape (n_rows, width)
            NaN in rows that have nothing.
        recipe : Recipe
            What the head wants of a block.
        y : array of shape (n_rows,)
            Class numbers or values.
        n_classes : int or None
            How many classes; None for values.
        folds : sequence of (train, test) row numbers
            In which the probe is cross-fitted, so that no row's score comes from its own label.
        sample_weight : array of shape (n_rows,), optional
            Of the probe.

        Returns
        -------
        encoder : BlockEncoder
        features : list of float32 arrays of shape (n_rows, n_features)
            One for each part. All dimensions as they are are the matrix itself, not a copy.
            None where no row has anything to learn from.
        """
        is_present = ~np.isnan(matrix[:, 0])
        if not is_present.any():  # in a fold, say, of a column that few rows have
            return cls(NOTHING, recipe.fills_missing, 0, {}), []
        parts = recipe.blocks
        if parts == AUTO:
            parts = auto_parts(int(is_present.sum()), matrix.shape[1])
        encoder = cls(parts, recipe.fills_missing, recipe.n_components, {})
        if not encoder._needs_scale():
            return encoder, [matrix]
        mean, scale = _moments(matrix, is_present)
        encoder.arrays |= {"mean": mean, "scale": scale}
        cross_fitted = None
        if encoder._has("pca") or encoder._has("probe"):
            n_wanted = _MAX_COMPONENTS if encoder._has("probe") else recipe.n_components
            encoder.arrays["components"] = _components(matrix, is_present, mean, scale, n_wanted)
        if encoder._has("probe"):
            scores = encoder._projected(matrix, encoder.arrays["components"])
            outputs = outputs_of(y, n_classes)
            weight = is_present * (1.0 if sample_weight is None else sample_weight)
            encoder.arrays["probe"], cross_fitted = _fit_probe(scores, outputs, weight, folds)
        return encoder, encoder._encode(matrix, cross_fitted)

    def transform(self, matrix: np.ndarray) -> list[np.ndarray]:
        """Encode rows; a float32 array of shape (n_rows, n_features) for each part."""
        return self._encode(matrix, None)

    def feature_names(self, names: Sequence[str]) -> list[str]:
        """Return the name of each feature.

        Parameters
        ----------
        names : sequence of str
            Of the block's dimensions; the first one's stem names the others.
        """
        stem = names[0].rsplit("_", 2)[0]
        found = list(names) if self._has("raw") else []
        if self._has("pca"):
            k = min(self.n_components, self.arrays["components"].shape[1])
            found += [f"{stem}_pc_{i:03d}" for i in range(k)]
        if self._has("probe"):
            found += [f"{stem}_probe_{i}" for i in range(self.arrays["probe"].shape[1])]
        return found

    def save(self, folder: Path, name: str) -> dict[str, Any]:
        """Write the arrays, and return what else `load` needs, as JSON."""
        if self.arrays:
            np.savez(folder / _FILE.format(name=name), allow_pickle=False, **self.arrays)
        return {
            "parts": self.parts,
            "fills_missing": self.fills_missing,
            "n_components": self.n_components,
            "has_arrays": bool(self.arrays),
        }

    @classmethod
    def load(cls, folder: Path, name: str, record: dict[str, Any], width: int) -> Self:
        """Read what `save` wrote of a block of so many dimensions.

        Raises
        ------
        ValueError
            If the arrays are not of that width, or do not fit each other.
        """
        saved = checked(_Record, record, f"the record of {name}")
        if not set(saved.parts.split("+")) <= {NOTHING, *BLOCK_ENCODINGS}:
            raise ValueError(f"{name} has unknown parts, {saved.parts!r}")
        if not 1 <= width <= _LARGEST_WIDTH:
            raise ValueError(f"{name} has {width} dimensions")
        arrays = read_arrays(folder / _FILE.format(name=name)) if saved.has_arrays else {}
        encoder = cls(saved.parts, saved.fills_missing, saved.n_components, arrays)
        encoder._check_arrays(width)
        return encoder

    def _check_arrays(self, width: int) -> None:
        """Raise ValueError if there are other arrays than the parts need, or of other shapes."""
        n = self.arrays["components"].shape[-1] if "components" in self.arrays else 0
        n_outputs = self.arrays["probe"].shape[-1] if "probe" in self.arrays else 0
        shapes = {"mean": (width,), "scale": (width,), "components": (width, n)}
        shapes["probe"] = (n + 1, n_outputs)
        for name in self._needed():
            found = self.arrays[name].shape
            if found != shapes[name]:
                raise ValueError(f"the array '{name}' is of shape {found}, not {shapes[name]}")
        if self.n_components < 0:
            raise ValueError(f"a block has {self.n_components} components")

    def _needed(self) -> list[str]:
        has_components = self._has("pca") or self._has("probe")
        return [
            *(("mean", "scale") if self._needs_scale() else ()),
            *(("components",) if has_components else ()),
            *(("probe",) if self._has("probe") else ()),
        ]

    def _has(self, part: str) -> bool:
        return part in self.parts.split("+")

    def _needs_scale(self) -> bool:
        return self.parts not in ("raw", NOTHING) or (self._has("raw") and self.fills_missing)

    def _encode(self, matrix: np.ndarray, cross_fitted: np.ndarray | None) -> list[np.ndarray]:
        """Encode rows; with scores of the probe that did not see their labels, if given."""
        if not self._needs_scale():
            return [matrix] if self._has("raw") else []
        found = [self._raw(matrix)] if self._has("raw") else []
        is_missing = np.isnan(matrix[:, 0])
        if self._has("pca"):
            scores = self._projected(matrix, self.arrays["components"][:, : self.n_components])
            found.append(self._with_missing(scores, is_missing))
        if self._has("probe"):
            probed = self._probed(matrix) if cross_fitted is None else cross_fitted
            found.append(self._with_missing(probed, is_missing))
        return found

    def _raw(self, matrix: np.ndarray) -> np.ndarray:
        if not self.fills_missing:
            return matrix
        return self._standardised(matrix)

    def _with_missing(self, values: np.ndarray, is_missing: np.ndarray) -> np.ndarray:
        values = np.array(values, np.float32)
        if is_missing.any() and not self.fills_missing:
            values[is_missing] = np.nan
        return values

    def _probed(self, matrix: np.ndarray) -> np.ndarray:
        """Return the scores of the probe, straight from the dimensions: components cost more."""
        probe = self.arrays["probe"]
        slopes = self.arrays["components"] @ probe[:-1]
        return np.asarray(self._projected(matrix, slopes) + probe[-1])

    def _projected(self, matrix: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Project standardised rows, those that have nothing being the mean."""
        found = np.empty((len(matrix), directions.shape[1]), np.float32)
        for rows in _chunks(len(matrix)):
            found[rows] = self._standardised(matrix[rows]) @ directions
        return found

    def _standardised(self, matrix: np.ndarray) -> np.ndarray:
        return _standardise(matrix, self.arrays["mean"], self.arrays["scale"])


def _standardise(matrix: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Return deviations from the mean in standard deviations, 0 where a row has nothing.

    A dimension that was nearly dead in training may come alive in a new row: no deviation counts
    for more than 10.
    """
    found: np.ndarray = (matrix - mean) / scale
    np.clip(found, -LARGEST_DEVIATION, LARGEST_DEVIATION, out=found)
    np.nan_to_num(found, copy=False, nan=0.0)
    return found


def _chunks(n_rows: int) -> list[slice]:
    """Return pieces of the rows: whole matrices are never copied."""
    return [slice(start, start + _CHUNK) for start in range(0, n_rows, _CHUNK)]


def _moments(matrix: np.ndarray, is_present: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each dimension; 1 where it does not vary."""
    n = int(is_present.sum())
    total = np.zeros(matrix.shape[1])
    squares = np.zeros(matrix.shape[1])
    for rows in _chunks(len(matrix)):
        total += matrix[rows][is_present[rows]].sum(axis=0, dtype=np.float64)
    mean = total / n
    for rows in _chunks(len(matrix)):
        squares += ((matrix[rows][is_present[rows]] - mean) ** 2).sum(axis=0)
    scale = np.sqrt(squares / n)
    scale[scale <= 1e-6 * np.maximum(np.abs(mean), 1e-6)] = (
        1.0  # it does not vary, but for rounding
    )
    return mean.astype(np.float32), scale.astype(np.float32)


def _components(
    matrix: np.ndarray, is_present: np.ndarray, mean: np.ndarray, scale: np.ndarray, n_wanted: int
) -> np.ndarray:
    """Return the first principal directions of the standardised rows, of shape (width, k).

    By the smaller of the two Gram matrices, summed piece by piece.
    """
    n, width = int(is_present.sum()), matrix.shape[1]
    k = max(1, min(n_wanted, n - 1, width))
    if n >= width:
        gram = np.zeros((width, width))
        for rows in _chunks(len(matrix)):
            piece = _standardise(matrix[rows][is_present[rows]], mean, scale)
            gram += piece.T @ piece
        _, directions = eigh(gram, subset_by_index=[width - k, width - 1], check_finite=False)
    else:
        present = _standardise(matrix[is_present], mean, scale).astype(np.float64)
        _, left = eigh(present @ present.T, subset_by_index=[n - k, n - 1], check_finite=False)
        directions = present.T @ left
        norms = np.linalg.norm(directions, axis=0)
        directions /= np.maximum(norms, 1e-12 * max(1.0, float(norms.max())))
    directions = directions[:, ::-1]
    largest = np.abs(directions).argmax(axis=0)  # a sign is arbitrary: make it always the same
    directions = directions * np.sign(directions[largest, np.arange(k)] + 1e-300)
    return np.ascontiguousarray(directions, np.float32)


def _fit_probe(
    scores: np.ndarray, outputs: np.ndarray, weight: np.ndarray, folds: Folds
) -> tuple[np.ndarray, np.ndarray]:
    """Fit a ridge regression, and predict each row by one that did not see its fold.

    Parameters
    ----------
    scores : float32 array of shape (n_rows, k)
        Principal components.
    outputs : array of shape (n_rows, n_outputs)
        What to predict.
    weight : array of shape (n_rows,)
        0 for rows to leave out.
    folds : sequence of (train, test) row numbers
        The tests share no row.

    Returns
    -------
    coefficients : float32 array of shape (k + 1, n_outputs)
        Fitted on all rows, the last row the intercepts. Constant, like the scores, where folds
        can't teach an output.
    cross_fitted : float32 array of shape (n_rows, n_outputs)
    """
    everything, of_trains = sums_by_fold(scores, outputs, weight, folds)
    penalties = np.logspace(0, 7, _N_PENALTIES)
    taught = [
        (sums, test)
        for sums, (train, test) in zip(of_trains, folds, strict=True)
        if weight[train].any()
    ]
    paths = [sums.ridge(penalties) for sums, _ in taught]
    errors = np.zeros(_N_PENALTIES)
    for path, (_, test) in zip(paths, taught, strict=True):
        errors += squared_errors(scores, outputs, weight, path, test)
    best = int(np.argmin(errors))
    mean = np.average(outputs, axis=0, weights=weight)
    cross_fitted = np.tile(mean, (len(scores), 1))
    for path, (_, test) in zip(paths, taught, strict=True):
        cross_fitted[test] = linear(scores[test], path[best])
    coefficients = everything.ridge(penalties[best : best + 1])[0]
    is_constant = is_untaught(outputs, weight, folds)
    cross_fitted[:, is_constant] = mean[is_constant]
    coefficients[:-1, is_constant], coefficients[-1, is_constant] = 0, mean[is_constant]
    return coefficients.astype(np.float32), cross_fitted.astype(np.float32)
