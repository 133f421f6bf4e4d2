"""What can go wrong, as types. Every message says what, where, what was found, and the fix."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class TwoStageError(Exception):
    """Base of all errors that twostage raises on purpose.

    Attributes
    ----------
    exit_code : int
        What the command line exits with: 1 the content is wrong, 2 the command itself is wrong.
    """

    exit_code = 1


class UsageError(TwoStageError, ValueError):
    """The call itself is wrong: an unknown name, a bad combination, a path that does not exist."""

    exit_code = 2


class DataError(TwoStageError, ValueError):
    """A table, a column or a target does not hold what it must."""


PASSING_KINDS = ("read", "limit")


class ImageError(TwoStageError):
    """One image can't be read or decoded.

    Parameters
    ----------
    kind : {"read", "limit", "decode"}
        ``read``: the bytes can't be had (missing file, permission). ``limit``: the image is larger
        than this run allows. Both are tried again by the next run.
        ``decode``: the bytes are no image the decoder knows.
    reason : str
        Short and free of paths: it is stored beside the image's name.
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(f"{kind}: {reason}")
        self.kind = kind
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.kind, self.reason)  # it may cross processes


class ImagesError(TwoStageError):
    """A folder has no images, or too many of them are unreadable."""


class PlaceError(TwoStageError):
    """A place behind a URL can't be reached, or may not be read."""


class BackboneError(TwoStageError):
    """A backbone can't be built, its weights can't be had or don't fit."""


class VariantError(BackboneError):
    """A backbone can't be executed here in the way asked for.

    Parameters
    ----------
    option : str
        What asks for it, as on the command line.
    reason : str
        Why not.
    fix : str
        What to do.
    """

    def __init__(self, option: str, reason: str, fix: str):
        super().__init__(f"{option}: {reason}. {fix}")
        self.option = option
        self.reason = reason
        self.fix = fix

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:
        return type(self), (self.option, self.reason, self.fix)


class FinetuningError(TwoStageError):
    """The tuning of a backbone went wrong, or can't go on where it stopped."""


class BenchmarkError(TwoStageError):
    """A cell of a benchmark went wrong, or its results folder is another benchmark's."""


class StoreError(TwoStageError):
    """A store is missing, damaged, locked, or made by another backbone."""


class ExecutorError(TwoStageError):
    """A cluster can't be reached, or its workers can't do their work."""


class ModelError(TwoStageError):
    """A model folder is missing, damaged, or not what it says."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    names = list(known)
    longer = [other for other in names if name and other.startswith(name)]
    close = longer or get_close_matches(name, names, n=1)
    return f" Did you mean '{close[0]}'?" if close else ""


def listed(names: Sequence[object], most: int = 5) -> str:
    """Return the names quoted and joined, the rest counted: ``'a', 'b' and 3 more``."""
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error of another library says, or its type."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:400]
