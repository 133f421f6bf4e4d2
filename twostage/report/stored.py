"""What a store adds to a benchmark's rows: embeddings, and images that could not be read."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from twostage.errors import BenchmarkError, TwoStageError, UsageError
from twostage.evaluation.results import differing
from twostage.joins import ImageBlock, image_block, image_names, match_with_store
from twostage.remote import is_url
from twostage.report.evidence import Evidence
from twostage.store.store import EmbeddingStore


@dataclass(frozen=True)
class Stored:
    """The embeddings of a benchmark's rows.

    Attributes
    ----------
    name : str
        Of the store, as the benchmark calls it.
    blocks : dict of str to ImageBlock
        By image column.
    """

    name: str
    blocks: dict[str, ImageBlock]

    @property
    def matrix(self) -> np.ndarray:
        """Embeddings of the first image column; NaN where a row has none."""
        return next(iter(self.blocks.values())).matrix

    @property
    def errors(self) -> list[str | None]:
        """Why an image of the row, the first of those, has no embedding."""
        per_row = zip(*(block.errors for block in self.blocks.values()), strict=True)
        return [next(filter(None, errors), None) for errors in per_row]


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
        # What others wrote down must not make us ask a server: a URL is given with --store.
        if place and not is_url(str(place)) and EmbeddingStore.exists_at(place):
            try:
                return _check_same(EmbeddingStore(place), record["spec"], evidence.path)
            except TwoStageError:
                continue  # another one of that name
    return None


def look_up(
    store: EmbeddingStore, name: str, frame: pd.DataFrame, columns: Sequence[str]
) -> Stored | None:
    """Return what a store has of the images of rows; None if it has nothing of them.

    Parameters
    ----------
    store : EmbeddingStore
        Where to look.
    name : str
        What the benchmark calls it.
    frame : DataFrame of n_rows
        With the image columns.
    columns : sequence of str
        Those of image names.
    """
    blocks = {}
    for column in columns:
        names = image_names(frame[column])
        try:
            key_of, _ = match_with_store(names, store, must_match=False)
        except TwoStageError:
            continue
        blocks[column] = image_block(column, names, store, key_of)
    return Stored(name, blocks) if blocks else None


def _check_same(store: EmbeddingStore, spec: dict[str, object], results: Path) -> EmbeddingStore:
    differences = differing(spec, store.spec)
    if differences:
        raise BenchmarkError(
            f"Store '{store.path}' is not the one that the benchmark in '{results}' used: "
            f"{'; '.join(differences[:3])}. Give that one with --store, or leave it out."
        )
    return store
