"""Names of several files in one: ``shards-{000..012}.tar``, ``shards/*.tar``."""

import re

from twostage.errors import UsageError

_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_WILDCARD = re.compile(r"[*?\[]")
_MOST_FILES = 1_000_000


def is_pattern(text: str) -> bool:
    """Whether a name may stand for several files."""
    return has_wildcard(text) or bool(_BRACES.search(text))


def has_wildcard(text: str) -> bool:
    """Whether files have to be looked for."""
    return bool(_WILDCARD.search(text))


def fixed_part(pattern: str) -> str:
    """Return the folder that all files of a pattern lie below, with its slash."""
    starts = [
        match.start() for match in (_WILDCARD.search(pattern), _BRACES.search(pattern)) if match
    ]
    fixed = pattern[: min(starts)]
    return fixed[: fixed.rfind("/") + 1]


def expand_braces(pattern: str) -> list[str]:
    """Write out braces: ``{000..012}`` counts, with as many digits; ``{a,b}`` lists.

    Raises
    ------
    UsageError
        If that is more than a million names.
    """
    match = _BRACES.search(pattern)
    if match is None:
        return [pattern]
    bounds = _RANGE.fullmatch(match[1])
    if bounds:
        first, last = int(bounds[1]), int(bounds[2])
        if last - first >= _MOST_FILES:
            raise UsageError(f"'{pattern}' stands for more than {_MOST_FILES:,} files.")
        pieces = [f"{number:0{len(bounds[1])}d}" for number in range(first, last + 1)]
    else:
        pieces = match[1].split(",")
    rest = expand_braces(pattern[match.end() :])
    if len(pieces) * len(rest) > _MOST_FILES:
        raise UsageError(f"'{pattern}' stands for more than {_MOST_FILES:,} files.")
    return [pattern[: match.start()] + piece + end for piece in pieces for end in rest]
