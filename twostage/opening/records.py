"""What JSON holds, as the types that the reader counts on."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

_LONGEST_SHOWN = 60


def checked(kind: Any, value: Any, where: str = "it") -> Any:
    """Return what JSON holds as a type hint has it: lists as tuples, objects as dataclasses.

    Parameters
    ----------
    kind : type or type hint
        Of bool, int, float, str, None, lists, tuples of any length, dicts by str, unions,
        dataclasses of those, or Any.
    value : object
        As ``json.loads`` gave it.
    where : str
        What it is called in the message.

    Raises
    ------
    ValueError
        If it is something else: says where, what was found and what was expected.
    """
    origin, of = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        return _any_of(of, value, where)
    if is_dataclass(kind) and isinstance(kind, type):
        return _as_dataclass(kind, value, where)
    if origin in (list, tuple) and isinstance(value, list):
        return origin(checked(of[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin in (dict, Mapping) and isinstance(value, dict):
        return {key: checked(of[1], item, f"{where}.{key}") for key, item in value.items()}
    if kind is float and type(value) in (int, float):
        return _as_float(value, where)
    if origin is None and type(value) is (NoneType if kind is None else kind):
        return value
    raise ValueError(f"{where} is {_shown(value)}, not {_named(kind)}")


def _as_float(value: float, where: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{where} is {_shown(value)}, too large for a number") from None


def _any_of(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        try:
            return checked(kind, value, where)
        except ValueError as error:
            reason = error
    raise reason


def _as_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {_shown(value)}, not a {kind.__name__}")
    hints = _hints(kind)
    unknown = sorted(set(value) - set(hints))
    lacking = sorted(_needed(kind) - set(value))
    if unknown or lacking:
        what = f"has an unknown '{unknown[0]}'" if unknown else f"lacks '{lacking[0]}'"
        raise ValueError(f"{where} {what}")
    return kind(**{name: checked(hints[name], v, f"{where}.{name}") for name, v in value.items()})


@cache
def _hints(kind: type) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _needed(kind: Any) -> set[str]:
    return {
        field.name
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING
    }


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**30 else "a huge number"
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 3] + "..."


def _named(kind: Any) -> str:
    return "null" if kind in (None, NoneType) else getattr(kind, "__name__", str(kind))
