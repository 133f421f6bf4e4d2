"""What a store adds to a benchmark's rows: embeddings, and images that could not be read."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from twostage.errors import BenchmarkError, TwoStageError, UsageError
from twostage.evaluation.results import differing
from twostage.joins import image_block, image_names, match_with_store
from twostage.report.evidence import Evidence
from twostage.store.store import EmbeddingStore


@dataclass(frozen=True)
class Stored:
    """The embeddings of a benchmark's rows.

    Attributes
    ----------
    name : str
        Of the store, as the benchmark calls it.
    matrix : float32 array of shape (n_rows, dim)
        NaN where a row has none.
    errors : list of str or None, length n_rows
        Why an image of the row has no embedding.
    hashes : list of lists of str, length n_rows
        Of the bytes of the row's images.
    """

    name: str
    matrix: np.ndarray
    errors: list[str | None]
    hashes: list[list[str]]


def find_store(
    evidence: Evidence, name: str, given: str | os.PathLike[str] | None
) -> EmbeddingStore | None:
    """Open the store that a benchmark's arm used.

    Parameters
    ----------
    evidence : Evidence
        The benchmark.
    name : str
        Of the store there.
    given : path-like or None
        Where it is; None to look beside the results, and where the benchmark found it.

    Raises
    ------
    UsageError
        If a store is given, and there is none or the benchmark had none.
    BenchmarkError
        If it is another backbone's than the benchmark's.
    """
    record = next((one for one in evidence.run["stores"] if one["name"] == name), None)
    if record is None:
        if given is not None:
            raise UsageError("The benchmark compared no embeddings: leave --store out.")
        return None
    if given is not None:
        return _check_same(EmbeddingStore(given), record["spec"], evidence.path)
    beside = evidence.path.resolve().parent / Path(name).name
    for place in (record.get("path"), name, beside):
        if place and EmbeddingStore.exists_at(place):
            try:
                return _check_same(EmbeddingStore(place), record["spec"], evidence.path)
            except TwoStageError:
                continue  # another one of that name
    return None


def look_up(store: EmbeddingStore, name: str, frame: pd.DataFrame, column: str) -> Stored | None:
    """Return what a store has of the images of rows; None if it has nothing of them.

    Parameters
    ----------
    store : EmbeddingStore
        Where to look.
    name : str
        What the benchmark calls it.
    frame : DataFrame of n_rows
        With the image column.
    column : str
        Of image names.
    """
    names = image_names(frame[column])
    try:
        key_of, _ = match_with_store(names, store, must_match=False)
    except TwoStageError:
        return None
    block = image_block(column, names, store, key_of)
    return Stored(name, block.matrix, block.errors, block.content_hashes)


def _check_same(store: EmbeddingStore, spec: dict[str, object], results: Path) -> EmbeddingStore:
    differences = differing(spec, store.spec)
    if differences:
        raise BenchmarkError(
            f"Store '{store.path}' is not the one that the benchmark in '{results}' used: "
            f"{'; '.join(differences[:3])}. Give that one with --store, or leave it out."
        )
    return store
