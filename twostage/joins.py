"""Join a table with a store: one block of embeddings per image column, row for row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pandas as pd

from twostage.errors import DataError
from twostage.images.references import canonical_name, match_names
from twostage.memory import check_room
from twostage.store.holdings import Holdings, holdings_of
from twostage.store.store import EmbeddingStore

AnyStore = EmbeddingStore | Holdings
SEPARATOR = ";"
POOLINGS = ("mean", "max", "first")
_N_SHOWN = 3


@dataclass(frozen=True)
class ImageBlock:
    """The embeddings of one image column, aligned with the table's rows.

    Attributes
    ----------
    column : str
        The image column.
    matrix : float32 array of shape (n_rows, dim)
        The mean (or what else was asked for) of a row's images; NaN in rows without a usable one.
    n_images : int array of shape (n_rows,)
        How many images of the row have an embedding.
    errors : list of str or None, length n_rows
        Why an image of the row has none.
    content_hashes : list of lists of str, length n_rows
        Of the bytes of the row's images.
    """

    column: str
    matrix: np.ndarray
    n_images: np.ndarray
    errors: list[str | None]
    content_hashes: list[list[str]]

    def take(self, rows: np.ndarray) -> "ImageBlock":
        """Return the block of some rows, by number."""
        return ImageBlock(
            self.column,
            self.matrix[rows],
            self.n_images[rows],
            [self.errors[row] for row in rows],
            [self.content_hashes[row] for row in rows],
        )


def embedding_names(column: str, dim: int) -> list[str]:
    """Return the feature names of an image column: ``<column>_emb_0000`` and so on."""
    return [f"{column}_emb_{i:04d}" for i in range(dim)]


def image_names(values: pd.Series) -> list[list[str]]:
    """Return the image names in each row: none, one, or several separated by ``;``."""
    return [_names_in(value) for value in values]


def match_with_store(
    names: Sequence[Sequence[str]], store: AnyStore, *, must_match: bool = True
) -> tuple[dict[str, str], str | None]:
    """Find the store's name of every image that a table names.

    Parameters
    ----------
    names : sequence of sequences of str
        The names in each row.
    store : EmbeddingStore or Holdings
        What to find them in.
    must_match : bool
        Whether every name must be found; at least one must be in any case.

    Returns
    -------
    key_of : dict of str to str
        The store's name for each name found.
    note : str or None
        What was done to the names, if they did not match as they are.

    Raises
    ------
    DataError
        Counting and showing what did not match.
    """
    unique = list(dict.fromkeys(name for row in names for name in row))
    held, canonical = holdings_of(store), [canonical_name(name) for name in unique]
    if held.has_all(canonical):
        return dict(zip(unique, canonical, strict=True)), None
    match = match_names(unique, held.names)
    key_of = {name: key for name, key in zip(unique, match.keys, strict=True) if key is not None}
    if len(key_of) < len(unique) and (must_match or not key_of):
        raise DataError(_unmatched_message(names, key_of, held))
    return key_of, match.note


def image_block(
    column: str,
    names: Sequence[Sequence[str]],
    store: AnyStore,
    key_of: Mapping[str, str],
    pooling: str = "mean",
) -> ImageBlock:
    """Gather the embeddings of an image column.

    Parameters
    ----------
    column : str
        The column's name.
    names : sequence of sequences of str, length n_rows
        The names in each row.
    store : EmbeddingStore or Holdings
        Where the embeddings are.
    key_of : mapping of str to str
        The store's name for each name; a name without one counts as an error.
    pooling : {"mean", "max", "first"}
        What becomes of several images in a row.

    Raises
    ------
    DataError
        If they do not fit into the memory.
    """
    keys = list(dict.fromkeys(key_of[name] for row in names for name in row if name in key_of))
    number_of = {key: number for number, key in enumerate(keys)}
    held = holdings_of(store)
    check_room(len(keys), held.store.dim, "embeddings")
    embeddings = held.embeddings(keys)
    is_usable = ~np.isnan(embeddings).any(axis=1)
    facts = held.facts_of(keys)
    row_numbers: list[int] = []
    key_numbers: list[int] = []
    for row, row_names in enumerate(names):
        row_keys = [key_of[name] for name in row_names if name in key_of]
        usable = [number_of[key] for key in row_keys if is_usable[number_of[key]]]
        row_numbers += [row] * len(usable)
        key_numbers += usable
    errors, hashes = _facts_by_row(names, key_of, facts)
    matrix, n_images = pool_by_row(embeddings, row_numbers, key_numbers, len(names), pooling)
    return ImageBlock(column, matrix, n_images, errors, hashes)


def block_outline(
    column: str,
    names: Sequence[Sequence[str]],
    store: AnyStore,
    key_of: Mapping[str, str],
) -> ImageBlock:
    """Tell of an image column all but its embeddings: the matrix has no columns.

    Parameters
    ----------
    column, names, store, key_of
        As for `image_block`.
    """
    keys = list(dict.fromkeys(key_of.values()))
    facts = holdings_of(store).facts_of(keys)
    keys_by_row = [[key_of[name] for name in row if name in key_of] for row in names]
    n_images = [sum(facts[key][1] is None for key in keys) for keys in keys_by_row]
    errors, hashes = _facts_by_row(names, key_of, facts)
    nothing = np.empty((len(names), 0), np.float32)
    return ImageBlock(column, nothing, np.array(n_images, np.int64), errors, hashes)


def _facts_by_row(
    names: Sequence[Sequence[str]],
    key_of: Mapping[str, str],
    facts: Mapping[str, tuple[str | None, str | None]],
) -> tuple[list[str | None], list[list[str]]]:
    """Return the first error of each row's images, and the content hashes of them all."""
    errors = [_first_error(row_names, key_of, facts) for row_names in names]
    keys_by_row = [[key_of[name] for name in row if name in key_of] for row in names]
    hashes = [[h for h in (facts[key][0] for key in keys) if h is not None] for keys in keys_by_row]
    return errors, hashes


def _names_in(value: Any) -> list[str]:
    if isinstance(value, dict) and value.get("path"):  # Hugging Face's struct of bytes and path
        value = value["path"]
    if isinstance(value, (bytes, dict)):
        raise DataError(
            "The image column holds the bytes of images, not their names. Give the column of their "
            "names; 'twostage extract TABLE.parquet' reads the bytes."
        )
    if isinstance(value, (list, tuple, np.ndarray)):
        names = [str(name) for name in value if not pd.isna(name)]
    else:
        names = [] if pd.isna(value) else _split(str(value))
    return [name.strip() for name in names if name.strip()]


def _split(cell: str) -> list[str]:
    """Split a cell into names, unless a piece has no ending: then the ``;`` belongs to a name."""
    pieces = [piece for piece in cell.split(SEPARATOR) if piece.strip()]
    return pieces if all(PurePosixPath(piece.strip()).suffix for piece in pieces) else [cell]


def _first_error(
    names: Sequence[str],
    key_of: Mapping[str, str],
    facts: Mapping[str, tuple[str | None, str | None]],
) -> str | None:
    for name in names:
        if name not in key_of:
            return f"'{name}' is not in the store"
        error = facts[key_of[name]][1]
        if error is not None:
            return f"'{name}': {error}"
    return None


def pool_by_row(
    embeddings: np.ndarray, rows: Sequence[int], keys: Sequence[int], n_rows: int, pooling: str
) -> tuple[np.ndarray, np.ndarray]:
    """Pool the embeddings of each row; NaN where it has none.

    Parameters
    ----------
    embeddings : float32 array of shape (n_embeddings, dim)
        Of images.
    rows, keys : sequences of int of length n
        Which row shows which image; the rows ascend.
    n_rows : int
        How many there are.
    pooling : {"mean", "max", "first"}
        What becomes of several images in a row.

    Returns
    -------
    matrix : float32 array of shape (n_rows, dim)
    n_images : int array of shape (n_rows,)
    """
    row_numbers, key_numbers = np.array(rows, np.int64), np.array(keys, np.int64)
    n_images = np.bincount(row_numbers, minlength=n_rows)
    is_one_to_one = len(row_numbers) == n_rows == len(embeddings)
    if is_one_to_one and (row_numbers == key_numbers).all():
        return embeddings, n_images  # a row per image, in order: nothing to copy
    matrix = np.full((n_rows, embeddings.shape[1]), np.nan, np.float32)
    if len(row_numbers):
        starts = np.flatnonzero(np.diff(row_numbers, prepend=-1))
        present = row_numbers[starts]
        if pooling == "first" or len(starts) == len(row_numbers):
            matrix[present] = embeddings[key_numbers[starts]]
        elif pooling == "max":
            matrix[present] = np.maximum.reduceat(embeddings[key_numbers], starts, axis=0)
        else:
            sums = np.add.reduceat(embeddings[key_numbers], starts, axis=0)
            matrix[present] = sums / n_images[present, None]
    return matrix, n_images


def _unmatched_message(
    names: Sequence[Sequence[str]],
    key_of: Mapping[str, str],
    held: Holdings,
) -> str:
    left = [(row, name) for row, named in enumerate(names) for name in named if name not in key_of]
    n_rows = len({row for row, _ in left})
    shown = ", ".join(f"'{name}' (row {row + 1})" for row, name in left[:_N_SHOWN])
    has = f"like '{next(iter(held.names))}'" if len(held) else "no image at all"
    return (
        f"{n_rows} of {len(names)} rows name an image that the store '{held.store.path}' does not "
        f"hold; first: {shown}. It holds {len(held)} images, {has}. Extract the missing ones "
        "into it, or write the names relative to the extracted folder."
    )
