"""The stage-two learners. A head has scikit-learn's ``fit``, ``predict`` and ``predict_proba``.

A new head is one file and one row here; see `twostage.heads.base.Head` and docs/extending.md.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from sklearn.base import clone

from twostage.errors import UsageError, did_you_mean
from twostage.heads.base import Head, Task
from twostage.heads.blend import Blend
from twostage.recipes import WORDS

OWN_ESTIMATOR = "scikit"  # what a scikit-learn estimator of the user's is called
_CLASSES = {
    "lightgbm": ("lightgbm", "LightGBMHead"),
    "keras": ("keras", "KerasHead"),
    "linear": ("linear", "LinearHead"),
    "random-forest": ("forest", "ForestHead"),
    "svm": ("svm", "SVMHead"),
    "joint": ("joint", "JointHead"),
    OWN_ESTIMATOR: ("scikit", "ScikitHead"),
}
HEADS = ("lightgbm", "keras", "linear", "random-forest", "svm", "joint", "blend")
__all__ = [
    "HEADS",
    "OWN_ESTIMATOR",
    "Blend",
    "Head",
    "Task",
    "head_class",
    "heads_of",
    "make_head",
    "name_of",
    "reads_words",
]


def head_class(name: str) -> Any:
    """Return the class of a head by its name, imported when it is asked for."""
    module, attribute = _CLASSES[name]
    return getattr(import_module(f"twostage.heads.{module}"), attribute)


def make_head(name: str, **parameters: Any) -> Head | Blend:
    """Make an unfitted head from its name; names joined by ``+`` make a blend.

    Parameters
    ----------
    name : str
        Of a head, or several.
    **parameters
        Of those of them that have such parameters.

    Raises
    ------
    UsageError
        If there is no such head, or none of them has such a parameter.
    """
    names = _known(name)
    if parameters:
        parts = [_with_parameters(part, parameters) for part in dict.fromkeys(names)]
        unused = [key for key in parameters if not any(key in used for _, used in parts)]
        if unused:
            raise UsageError(
                f"The head '{name}' does not use {', '.join(unused)}. Choose the head joint, or "
                "leave that out."
            )
        heads = [head for head, _ in parts]
        return heads[0] if len(heads) == 1 else Blend(heads)
    if len(names) > 1:
        return Blend(tuple(dict.fromkeys(names)))
    return Blend() if name == "blend" else head_class(name)()


def _with_parameters(name: str, parameters: Mapping[str, Any]) -> tuple[Any, set[str]]:
    """Make a head with those of the parameters that it has, and tell which."""
    head = Blend() if name == "blend" else head_class(name)()
    used = {key: value for key, value in parameters.items() if key in head.get_params(deep=False)}
    return head.set_params(**used), set(used)


def _known(name: str) -> list[str]:
    """Take names apart that are joined by ``+``, if there are such heads."""
    names = name.split("+")
    for part in names:
        if part == "blend" and len(names) > 1:
            raise UsageError(
                f"'blend' can't be a part of '{name}'. Name its parts: linear+lightgbm+svm, say."
            )
        if part not in HEADS:
            raise UsageError(
                f"Unknown head '{part}'.{did_you_mean(part, HEADS)} Heads: {', '.join(HEADS)}, or "
                "several of them joined by '+', such as linear+lightgbm+keras."
            )
    return names


def heads_of(head: Any, n_rows: int | None = None, n_classes: int | None = None) -> list[Head]:
    """Return the unfitted heads that something asked for as a head consists of.

    Parameters
    ----------
    head : str, Head, Blend or scikit-learn estimator
        A blend consists of several; a scikit-learn estimator is wrapped.
    n_rows, n_classes : int, optional
        From how many rows they are to learn, and how many classes.
    """
    if isinstance(head, str):
        head = make_head(head)
    if isinstance(head, Blend):
        parts = head.parts(n_rows, n_classes)
        if isinstance(parts, str) or not parts:
            raise UsageError(f"A blend needs a list of heads; found {parts!r}.")
        return [member for part in parts for member in heads_of(part)]
    if isinstance(head, Head):
        return [clone(head)]
    if hasattr(head, "fit") and hasattr(head, "get_params") and not isinstance(head, type):
        return [head_class(OWN_ESTIMATOR)(head)]
    raise UsageError(
        f"A head is one of {', '.join(HEADS)}, a head object or a scikit-learn estimator; found "
        f"{head!r}."
    )


def reads_words(head: Any) -> bool:
    """Whether something asked for as a head, or a part of it, reads the words of texts."""
    return any(part.recipe.texts == WORDS for part in heads_of(head))


def name_of(head: Head) -> str:
    """Return the name of a head's kind."""
    for name, (_, attribute) in _CLASSES.items():
        if type(head).__name__ == attribute:
            return name
    raise UsageError(
        f"{type(head).__name__} is no head that twostage knows: a model with it can't be saved. "
        "Add it to twostage/heads/__init__.py, or use joblib."
    )


def __getattr__(name: str) -> Any:
    """Import the class of a head when it is asked for: ``twostage.heads.KerasHead``."""
    for module, attribute in _CLASSES.values():
        if attribute == name:
            return getattr(import_module(f"twostage.heads.{module}"), attribute)
    raise AttributeError(f"module 'twostage.heads' has no attribute {name!r}")
