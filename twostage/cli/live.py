"""A benchmark while it runs: a live table on a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from twostage.cli.output import log_shown, say

if TYPE_CHECKING:
    from rich.table import Table

    from twostage.benchmarking import CellDone

_SECONDS_BETWEEN_LINES = 10.0


class _Watched:
    """The cells that are finished so far, by arm.

    Attributes
    ----------
    last : CellDone or None
        The latest.
    """

    def __init__(self) -> None:
        self.last: CellDone | None = None
        self.scores: dict[str, list[float]] = {}
        self.seconds: dict[str, list[float]] = {}
        self.started = time.monotonic()
        self.n_there = 0

    def add(self, cell: "CellDone") -> None:
        """Take note of a finished cell."""
        self.last = cell
        self.n_there += cell.was_there
        self.scores.setdefault(cell.arm, []).append(cell.score)
        self.seconds.setdefault(cell.arm, []).append(cell.fit_seconds)

    def progress(self) -> str:
        """Return how far it is, in words."""
        if self.last is None:
            return "starting ..."
        done, total = self.last.n_done, self.last.n_cells
        words = f"{done} of {total} cells"
        n_computed = done - self.n_there
        if n_computed and done < total:
            left = (time.monotonic() - self.started) / n_computed * (total - done)
            words += f", about {left:.0f} s left"
        return words

    def table(self) -> "Table":
        """Return a line per arm."""
        from rich.table import Table

        table = Table(title=self.progress())
        table.add_column("arm")
        for name in ("folds", "score so far", "fit"):
            table.add_column(name, justify="right")
        for arm, scores in self.scores.items():
            defined = [score for score in scores if score == score]
            mean = f"{sum(defined) / len(defined):.3f}" if defined else "-"
            seconds = sum(self.seconds[arm]) / len(scores)
            table.add_row(arm, str(len(scores)), mean, f"{seconds:.1f} s")
        return table


@contextmanager
def cells_told(quiet: bool) -> Iterator[Callable[["CellDone"], None] | None]:
    """Yield what is to be called with each finished cell; None if quiet."""
    with log_shown(quiet):
        if quiet:
            yield None
        elif sys.stderr.isatty():
            with _live() as watch:
                yield watch
        else:
            yield _lines()


@contextmanager
def _live() -> Iterator[Callable[["CellDone"], None]]:
    from rich.console import Console
    from rich.live import Live

    watched = _Watched()
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:

        def watch(cell: "CellDone") -> None:
            watched.add(cell)
            live.update(watched.table(), refresh=True)

        yield watch


def _lines() -> Callable[["CellDone"], None]:
    watched = _Watched()
    told_at = time.monotonic()

    def watch(cell: "CellDone") -> None:
        nonlocal told_at
        watched.add(cell)
        now = time.monotonic()
        if now - told_at >= _SECONDS_BETWEEN_LINES:
            told_at = now
            where = f"{cell.arm}, fold {cell.fold + 1}: {cell.score:.3f}"
            say(f"{watched.progress()}; {where}")

    return watch
