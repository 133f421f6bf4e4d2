"""Fitted encoders of skrub and scikit-learn as files: skops, with an exact list of types."""

from pathlib import Path
from typing import Any

from twostage.errors import ModelError
from twostage.saving import dump, load

# What the encoders here consist of beyond what is trusted anyway. Only exact names.
TRUSTED = (
    "skrub._datetime_encoder.DatetimeEncoder",
    "skrub._squashing_scaler.SquashingScaler",
    "skrub._squashing_scaler._MinMaxScaler",
)


def save_leaf(leaf: Any, folder: Path, name: str) -> None:
    """Write a fitted encoder as ``name.skops``.

    Raises
    ------
    ModelError
        If it holds a type that `load_leaf` would refuse.
    """
    dump(leaf, folder / f"{name}.skops", TRUSTED)


def load_leaf(folder: Path, name: str, type_name: str) -> Any:
    """Read a fitted encoder that `save_leaf` wrote.

    Parameters
    ----------
    folder : Path
        Where it is.
    name : str
        Of the encoder.
    type_name : str
        The class that it must be of.

    Raises
    ------
    ModelError
        If it can't be read, holds a type that is not trusted, or is of another class.
    """
    file = folder / f"{name}.skops"
    leaf = load(file, TRUSTED)
    if type(leaf).__name__ != type_name:
        raise ModelError(
            f"Encoder '{file}' is a {type(leaf).__name__}, but the model says {type_name}. Copy "
            "the model again, or refit."
        )
    return leaf
