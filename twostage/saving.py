"""Write and read what was learned without pickles: JSON, and skops with an exact list of types."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, BadZipFile

import numpy as np
import skops.io

from twostage.errors import ModelError, listed
from twostage.opening.compiled import check_objects, check_schema
from twostage.opening.files import check_zip, parse_json

_SCHEMA = "schema.json"  # of a skops file
# What skops does not trust by itself, and common estimators consist of: holders of numbers, and
# functions of arrays. None runs code that a file brings. Exact names, never a module or a prefix.
TRUSTED = (
    "collections.OrderedDict",
    "lightgbm.basic.Booster",
    "lightgbm.sklearn.LGBMClassifier",
    "lightgbm.sklearn.LGBMRegressor",
    "sklearn.calibration._CalibratedClassifier",
    "sklearn.calibration._SigmoidCalibration",
    "sklearn.calibration._TemperatureScaling",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.feature_selection._univariate_selection.chi2",
    "sklearn.feature_selection._univariate_selection.f_classif",
    "sklearn.feature_selection._univariate_selection.f_regression",
    "sklearn.gaussian_process._gpc._BinaryGaussianProcessClassifierLaplace",
    "sklearn.gaussian_process.kernels.CompoundKernel",
    "sklearn.gaussian_process.kernels.ConstantKernel",
    "sklearn.gaussian_process.kernels.DotProduct",
    "sklearn.gaussian_process.kernels.Matern",
    "sklearn.gaussian_process.kernels.Product",
    "sklearn.gaussian_process.kernels.RBF",
    "sklearn.gaussian_process.kernels.RationalQuadratic",
    "sklearn.gaussian_process.kernels.Sum",
    "sklearn.gaussian_process.kernels.WhiteKernel",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.ManhattanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.model_selection._split.GroupKFold",
    "sklearn.model_selection._split.GroupShuffleSplit",
    "sklearn.model_selection._split.KFold",
    "sklearn.model_selection._split.LeaveOneGroupOut",
    "sklearn.model_selection._split.ShuffleSplit",
    "sklearn.model_selection._split.StratifiedGroupKFold",
    "sklearn.model_selection._split.StratifiedKFold",
    "sklearn.model_selection._split.StratifiedShuffleSplit",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers.SGDOptimizer",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
)


def to_json(record: Any) -> str:
    """Return a record as JSON, NumPy's numbers as plain ones.

    Raises
    ------
    ModelError
        If it holds something that JSON has not.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise ModelError(f"{value!r} can't be saved: settings are numbers, texts and lists.")

    return json.dumps(record, indent=1, default=plain)


def dump(learned: Any, file: Path, trusted: Sequence[str] = ()) -> None:
    """Write an object in skops format, if `load` can read it back.

    Parameters
    ----------
    learned : object
        A fitted estimator, or a dict or list with estimators, arrays and numbers in it.
    file : Path
        To write; left alone if the object is refused.
    trusted : sequence of str
        Full names of types beyond skops' own defaults and `TRUSTED` that may be in it. They must
        be given to `load` again.

    Raises
    ------
    ModelError
        If there are other types in it, or if it can't be read back.
    """
    try:
        data = skops.io.dumps(learned, compression=ZIP_DEFLATED, compresslevel=1)
        unknown = _unknown_in(data, trusted)
        if not unknown:
            _loaded(data, trusted)
    except Exception as error:  # skops runs code of the estimator's authors: anything may come
        raise ModelError(
            f"The model can't be saved without a pickle: {type(learned).__name__}, for "
            f"'{file.name}', can't be written and read back by skops ({type(error).__name__}: "
            f"{error}). Use an estimator without lambdas, open files or functions of a notebook."
        ) from error
    if unknown:
        raise ModelError(
            f"The model can't be saved: '{file.name}' would hold types that twostage does not know "
            f"to be harmless: {listed(unknown, most=20)}. If you trust them, pass "
            f"trusted={unknown!r}, here and when the model is loaded."
        )
    file.write_bytes(data)


def load(file: Path, trusted: Sequence[str] = ()) -> Any:
    """Read what `dump` wrote. Only code of trusted types runs.

    Parameters
    ----------
    file : Path
        Written by `dump`.
    trusted : sequence of str
        As for `dump`.

    Raises
    ------
    ModelError
        If there are other types in it, or if it is damaged.
    """
    data = file.read_bytes()
    try:
        unknown = _unknown_in(data, trusted)
        if not unknown:
            return _loaded(data, trusted)
    except Exception as error:  # skops and scikit-learn make sense of what may be anything
        is_damaged = isinstance(error, (BadZipFile, ValueError))
        hint = "Copy the model again, or refit."
        if not is_damaged:
            hint = "Install the versions that the model's record names, or refit."
        raise ModelError(
            f"'{file}' can't be read ({type(error).__name__}: {error}). {hint}"
        ) from error
    raise ModelError(
        f"'{file}' holds types that twostage does not know to be harmless, and loads only if told "
        f"to: {listed(unknown, most=20)}. If you trust who made it, pass trusted={unknown!r}."
    )


def _unknown_in(data: bytes, trusted: Sequence[str]) -> list[str]:
    """Return the types in a skops file that nobody trusts; no code of it has run by then."""
    with check_zip(io.BytesIO(data)) as archive:
        check_schema(parse_json(archive.read(_SCHEMA)))
    return sorted(set(skops.io.get_untrusted_types(data=data)) - {*TRUSTED, *trusted})


def _loaded(data: bytes, trusted: Sequence[str]) -> Any:
    """Return what a skops file of trusted types holds, if compiled code can follow it."""
    learned = skops.io.loads(data, trusted=[*TRUSTED, *trusted])
    check_objects(learned)
    return learned
