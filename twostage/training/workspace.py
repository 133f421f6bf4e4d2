"""The folder beside a backbone where an unfinished training keeps what it needs."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from twostage.errors import FinetuningError, UsageError
from twostage.training.checkpoint import read_checkpoint

_NAME = "{name}.unfinished"
_LOCK = "_lock"
_KEPT_THERE = re.compile(r"pixels|plain|look_\d+|_?checkpoint\.npz|_lock")


@contextmanager
def workspace_of(output: Path) -> Iterator[Path]:
    """Make the folder where an unfinished run keeps what it needs; it goes when the run is done."""
    workspace = output.absolute().with_name(_NAME.format(name=output.absolute().name))
    if workspace.is_dir() and not all(map(_KEPT_THERE.fullmatch, os.listdir(workspace))):
        raise UsageError(
            f"'{workspace}', where the run would keep what it needs and delete it when it is done, "
            "has other files in it. Give another -o."
        )
    try:
        workspace.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FinetuningError(f"Can't write '{workspace}': {error.strerror}.") from error
    with _held(workspace):
        had_checkpoint = read_checkpoint(workspace) is not None
        try:
            yield workspace
        except BaseException:
            if not had_checkpoint and read_checkpoint(workspace) is None:
                shutil.rmtree(workspace, ignore_errors=True)  # there is nothing to go on from
            raise
        shutil.rmtree(workspace, ignore_errors=True)


@contextmanager
def _held(workspace: Path) -> Iterator[None]:
    """Hold the folder for one run."""
    lock = FileLock(workspace / _LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise FinetuningError(
            f"'{workspace}' is being written by another run. Wait for it to end, or give another "
            "-o."
        ) from None
    try:
        yield
    finally:
        (workspace / _LOCK).unlink(missing_ok=True)
        lock.release()
