"""How a report puts things: metrics, what arms see, numbers."""

from datetime import datetime
from math import isfinite
from typing import Any

from twostage.bootstrap import short
from twostage.metrics import METRICS

_SHORTER = {"r2": "R²", "r2_log": "R² of logs"}
_FEATURES = {"table": "table", "images": "images", "both": "images\u00a0+\u00a0table"}


def metric_name(metric: str) -> str:
    """Return what a metric is called in text."""
    return _SHORTER.get(metric) or METRICS[metric].label


def lower_is_better(metric: str) -> bool:
    """Whether the metric is an error."""
    return not METRICS[metric].higher_is_better


def features_name(features: str) -> str:
    """Return what an arm sees, in text."""
    return _FEATURES.get(features, features)


def number(value: Any, digits: int = 3) -> str:
    """Write a number as people read it; a dash if it is none."""
    if value is None or not isfinite(value):
        return "–"
    if abs(value) >= 100_000:
        return f"{value:,.3g}" if abs(value) >= 1e9 else f"{value:,.0f}"
    if abs(value) >= 100:
        return _with_minus(f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.0f}")
    return _with_minus(short(value) if digits == 3 else f"{value:.{digits}f}")


def signed(value: float) -> str:
    """Write a difference."""
    return f"+{number(value)}" if value > 0 else number(value)


def interval(low: float | None, high: float | None) -> str:
    """Write the ends of an interval; empty if there is none."""
    if low is None or high is None or not (isfinite(low) and isfinite(high)):
        return ""
    return f"{number(low)} to {number(high)}"


def percent(share: float) -> str:
    """Write a share."""
    if not isfinite(share):
        return "–"
    return f"{100 * share:.0f}%" if share in (0, 1) or 0.005 < share < 0.995 else f"{share:.1%}"


def seconds(value: float) -> str:
    """Write a duration."""
    if not isfinite(value):
        return "–"
    return f"{value:.1f} s" if value < 60 else f"{value / 60:.0f} min"


def size(n_bytes: float) -> str:
    """Write a file size."""
    if n_bytes is None or not isfinite(n_bytes):
        return "–"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"


def day(text: str | None) -> str:
    """Write the date of a timestamp; empty if it is none."""
    try:
        when = datetime.fromisoformat(str(text))
    except ValueError:
        return ""
    return f"{when.day} {when:%B %Y}"


def plural(n: int, word: str) -> str:
    """Return ``"1 row"`` or ``"1,204 rows"``."""
    ending = "" if n == 1 else "es" if word.endswith("s") else "s"
    return f"{n:,} {word}{ending}"


def _with_minus(text: str) -> str:
    if not text.strip("-0."):  # no minus before zeros
        text = text.removeprefix("-")
    return text.replace("-", "−")  # as wide as a plus
