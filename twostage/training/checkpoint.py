"""What a killed tuning goes on from: written whole or not at all, after each epoch."""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twostage.errors import FinetuningError
from twostage.opening.files import parse_json, read_arrays
from twostage.opening.records import checked

_FILE = "checkpoint.npz"


@dataclass(frozen=True)
class Checkpoint:
    """A tuning after some epochs.

    Attributes
    ----------
    asked : dict
        What was asked for: it goes on only for the same.
    history : list of dict
        A record for each epoch done, the first for the frozen backbone.
    state : list of arrays
        As `twostage.training.trainer.Trainer.state` gives it.
    best : list of arrays
        Weights of the best epoch.
    """

    asked: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    state: Sequence[np.ndarray]
    best: Sequence[np.ndarray]


@dataclass(frozen=True)
class _Record:
    """What of a checkpoint is JSON."""

    asked: dict[str, Any]
    history: list[dict[str, Any]]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint in a folder.

    Raises
    ------
    FinetuningError
        If the disk does not take it; the one before stays.
    """
    temporary = folder / f"_{_FILE}"
    record = {"asked": dict(checkpoint.asked), "history": list(checkpoint.history)}
    arrays = {"record": np.frombuffer(json.dumps(record).encode(), np.uint8)}
    for name in ("state", "best"):
        arrays |= {f"{name}_{i}": a for i, a in enumerate(getattr(checkpoint, name))}
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / _FILE)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        n_kept = len(checkpoint.history) - 2
        kept = f"epoch {n_kept} is kept" if (folder / _FILE).exists() else "none was kept yet"
        raise FinetuningError(
            f"Can't write a checkpoint to '{folder}' ({error.strerror or error}); {kept}. Free "
            "space there and run the same command again: it goes on from what is kept."
        ) from error


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the checkpoint in a folder; None if there is none.

    Raises
    ------
    FinetuningError
        If it is damaged.
    """
    file = folder / _FILE
    if not file.is_file():
        return None
    try:
        arrays = read_arrays(file)
        record = checked(_Record, parse_json(arrays["record"].tobytes()), "its record")
        state, best = (_numbered(arrays, name) for name in ("state", "best"))
        return Checkpoint(record.asked, record.history, state, best)
    except (OSError, ValueError, KeyError) as error:
        raise FinetuningError(
            f"'{file}' is damaged ({type(error).__name__}). Delete '{folder}' to begin anew."
        ) from error


def _numbered(arrays: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    n = sum(key.startswith(f"{name}_") for key in arrays)
    return [arrays[f"{name}_{i}"] for i in range(n)]
