"""Where words go: results to standard output, everything else to standard error."""

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any, TextIO

import click

if TYPE_CHECKING:
    from twostage.training.epochs import Progress

UNREADABLE = 3
_SECONDS_BETWEEN_LINES = 10.0
# The name of a file must not command the terminal.
_VISIBLE = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)
}
_results: TextIO | None = None


def say(message: str) -> None:
    """Tell the user something that is no result."""
    click.echo(message.translate(_VISIBLE), err=True)


@contextmanager
def results_apart() -> Iterator[None]:
    """Keep standard output for results.

    What libraries print is none: Keras reports its downloads there. It goes to standard error.
    """
    global _results
    before, _results = _results, _results or sys.stdout
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _results = before


def print_result(text: str) -> None:
    """Print a result to standard output."""
    click.echo(text.translate(_VISIBLE), file=_results)


def print_json(record: dict[str, Any]) -> None:
    """Print a summary as one JSON object."""
    click.echo(json.dumps(_without_nan(record), allow_nan=False), file=_results)


def _without_nan(value: Any) -> Any:
    """Replace what JSON has no number for by null."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def plural(n: int, word: str) -> str:
    """Return ``"1 image"`` or ``"1,204 images"``."""
    if n == 1:
        return f"{n:,} {word}"
    return f"{n:,} {word}es" if word.endswith("s") else f"{n:,} {word}s"


class _Echo(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextmanager
def log_shown(quiet: bool) -> Iterator[None]:
    """Show what the library tells of its steps, unless quiet."""
    if quiet:
        yield
        return
    handler = _Echo()
    log = logging.getLogger("twostage")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def told(quiet: bool, kind: str = "image") -> Iterator[Callable[[int, int], None] | None]:
    """Show the library's log, and yield a progress callback; neither if quiet.

    Progress is a bar with rate and remaining time on a terminal, plain lines otherwise; of images,
    or of what else is embedded.
    """
    with log_shown(quiet):
        if quiet:
            yield None
        elif sys.stderr.isatty():
            with _bar(kind) as progress:
                yield progress
        else:
            yield _lines(kind)


@contextmanager
def _bar(kind: str = "image") -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text(f"{task.speed:.0f} {kind}s/s" if task.speed else "")

    columns = (BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    with Progress("Embedding", *columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=None, visible=False)

        def progress(done: int, total: int) -> None:
            if not bar.live.is_started:  # other work, after other words
                bar.reset(task)
                bar.start()
            bar.update(task, completed=done, total=total, visible=True)
            if done == total:
                bar.stop()  # or it would be drawn over what is told next

        yield progress


def _lines(kind: str = "image") -> Callable[[int, int], None]:
    first: tuple[float, int] | None = None  # rates count from here: to build the CNN is no work
    told_at, last = 0.0, 0

    def progress(done: int, total: int) -> None:
        nonlocal first, told_at, last
        now, begins_anew, last = time.monotonic(), done <= last, done
        if first is None or begins_anew:
            first, told_at = (now, done), now
        if now - told_at < _SECONDS_BETWEEN_LINES:
            return
        told_at = now
        rate = max(done - first[1], 1) / (now - first[0])
        say(f"{done:,} of {total:,} {kind}s, {rate:.0f}/s, {(total - done) / rate:.0f} s left")

    return progress


@contextmanager
def epochs_told(
    quiet: bool,
) -> "Iterator[Callable[[Callable[[int, int], None] | None], Progress]]":
    """Yield what makes a progress of tuning that tells of steps and epochs; of nothing if quiet."""
    from twostage.training.epochs import Progress

    def of_nothing(loaded: Callable[[int, int], None] | None) -> Progress:
        return Progress()

    def in_lines(loaded: Callable[[int, int], None] | None) -> Progress:
        return Progress(loaded, _steps(), _tell_epoch)

    yield of_nothing if quiet else in_lines


def _steps() -> Callable[[int, int, int, int, float], None]:
    """Return what tells of steps: a live line on a terminal, else a line now and then."""
    is_terminal = sys.stderr.isatty()
    begun = told_at = time.monotonic()

    def step(epoch: int, n_epochs: int, number: int, n: int, loss: float) -> None:
        nonlocal begun, told_at
        now = time.monotonic()
        if number == 1:
            begun = now
        line = f"epoch {epoch} of {n_epochs}: step {number} of {n}, loss {loss:.3f}"
        if number > 1:
            left = (now - begun) / (number - 1) * (n - number + (n_epochs - epoch) * n)
            line += f", about {_minutes(left)} left"
        if is_terminal:
            click.echo(f"\r{line}\x1b[K", nl=number == n, err=True)
        elif now - told_at >= _SECONDS_BETWEEN_LINES:
            told_at = now
            say(line)

    return step


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _tell_epoch(record: Mapping[str, Any]) -> None:
    line = f"epoch {record['epoch']}"
    for name in ("loss", "validation_loss", "score"):
        if math.isfinite(record[name]):
            line += f", {name.replace('_', ' ')} {record[name]:.3f}"
    say(f"{line}; {record['seconds']:.0f} s")
