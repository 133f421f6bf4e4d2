"""Find rows with equal or nearly equal images, which must not be on both sides of a fold."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from twostage.joins import ImageBlock
from twostage.splits import link_groups

# Cosine of embeddings less their mean, without which an untrained network finds all images alike.
# House photos taken twice from one place: 0.967 to 0.988. Most alike of different ones: 0.77; of
# 2,328 skin lesions: 0.81. MobileNetV2, ImageNet weights.
NEARLY_EQUAL = 0.95
MOST_ROWS = 100_000  # every pair is looked at: a minute or so
MOST_PAIRS = 2_000_000  # beyond which likeness tells nothing, and pairs would fill the memory
_BLOCK = 2048  # rows: 16 MB of similarities at once


@dataclass(frozen=True)
class Duplicates:
    """Rows that show the same.

    Attributes
    ----------
    groups : int array of shape (n_rows,)
        The groups given, joined where rows of two are duplicates.
    n_equal_rows : int
        Rows that share an image's bytes with another row.
    n_near_pairs, n_near_rows : int
        Pairs of rows with nearly equal images, of different bytes, and the rows in them.
    is_joined : bool
        Whether near-duplicates are in one group now.
    note : str or None
        Why they were not joined or looked for.
    """

    groups: np.ndarray
    n_equal_rows: int
    n_near_pairs: int = 0
    n_near_rows: int = 0
    is_joined: bool = False
    note: str | None = None


def join_duplicates(
    blocks: Mapping[str, ImageBlock], groups: np.ndarray, threshold: float | None, n_folds: int
) -> Duplicates:
    """Join the groups of rows with nearly equal images.

    Parameters
    ----------
    blocks : mapping of str to ImageBlock
        One per image column; images are compared within a column.
    groups : int array of shape (n_rows,)
        Rows with images of equal bytes are one group already.
    threshold : float or None
        Cosine of the centred embeddings from which on images are nearly equal; None to join none.
    n_folds : int
        A group larger than a fold is no likeness, but a backbone that can't tell images apart.
    """
    n_equal = _count_equal(blocks, len(groups))
    if threshold is None or not blocks:
        return Duplicates(groups, n_equal)
    if len(groups) > MOST_ROWS:
        note = f"Near-duplicates are looked for among up to {MOST_ROWS:,} rows; there are more."
        return Duplicates(groups, n_equal, note=note)
    pairs = pairs_alike(blocks, threshold)
    if not len(pairs):
        return Duplicates(groups, n_equal)
    n_pairs, n_near = len(pairs), len(np.unique(pairs))
    if n_pairs >= MOST_PAIRS:
        note = (
            f"More than {MOST_PAIRS:,} pairs of images are nearly equal: the backbone hardly tells "
            "them apart. They were not joined. Raise the threshold (--near-duplicates), or use "
            "trained weights."
        )
        return Duplicates(groups, n_equal, n_pairs, n_near, False, note)
    joined = join_groups(groups, pairs)
    largest, before = (int(np.bincount(one).max()) for one in (joined, groups))
    if largest > max(len(groups) / n_folds, before):
        note = (
            f"Nearly equal images would make one group of {largest:,} of {len(groups):,} rows, "
            "which no fold can hold: the backbone hardly tells these images apart. They were not "
            "joined. Raise the threshold (--near-duplicates), or use trained weights."
        )
        return Duplicates(groups, n_equal, n_pairs, n_near, False, note)
    return Duplicates(joined, n_equal, n_pairs, n_near, True)


def join_groups(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Join the groups of the two rows of each pair; return the groups' new numbers."""
    labels: list[list[int]] = [[] for _ in groups]
    for number, pair in enumerate(pairs):
        for row in pair:
            labels[row].append(number)
    return link_groups(len(groups), [[group] for group in groups.tolist()], labels)


def pairs_alike(blocks: Mapping[str, ImageBlock], threshold: float) -> np.ndarray:
    """Find the pairs of rows with nearly equal images of different bytes, up to `MOST_PAIRS`.

    Of rows with images of equal bytes the first stands for all.

    Parameters
    ----------
    blocks : mapping of str to ImageBlock
        One per image column; images are compared within a column.
    threshold : float
        Least cosine of the centred embeddings.

    Returns
    -------
    int array of shape (n_pairs, 2)
        The smaller row number first.
    """
    found = [_pairs_of_contents(block, threshold) for block in blocks.values()]
    pairs = np.unique(np.concatenate(found), axis=0)
    hashes = {int(row): _hashes(blocks, row) for row in np.unique(pairs)}
    is_other = [hashes[one].isdisjoint(hashes[other]) for one, other in pairs.tolist()]
    return np.asarray(pairs[np.array(is_other, bool)])


def _pairs_of_contents(block: ImageBlock, threshold: float) -> np.ndarray:
    """Find the pairs in a column, of which rows of equal bytes would make a great many."""
    first_of: dict[tuple[str, ...], int] = {}
    for row, hashes in enumerate(block.content_hashes):
        first_of.setdefault(tuple(hashes), row)
    rows = np.fromiter(first_of.values(), np.int64, len(first_of))
    return np.asarray(rows[near_pairs(block.matrix[rows], threshold)])


def near_pairs(matrix: np.ndarray, threshold: float) -> np.ndarray:
    """Find the pairs of rows whose embeddings point the same way.

    Parameters
    ----------
    matrix : float32 array of shape (n_rows, dim)
        Embeddings; rows with NaN are like none. The mean is taken off.
    threshold : float
        Least cosine.

    Returns
    -------
    int array of shape (n_pairs, 2)
        The smaller row number first; no more than `MOST_PAIRS`.
    """
    rows = np.flatnonzero(np.isfinite(matrix).all(axis=1))
    if len(rows) < 2:
        return np.empty((0, 2), np.int64)
    directions = matrix[rows] - matrix[rows].mean(axis=0, dtype=np.float64).astype(np.float32)
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    directions /= np.maximum(lengths, np.finfo(np.float32).tiny)
    found: list[np.ndarray] = []
    for pairs in _pairs_by_block(directions, threshold):
        found.append(pairs)
        if sum(map(len, found)) >= MOST_PAIRS:
            break
    return np.asarray(rows[np.concatenate(found)[:MOST_PAIRS]])


def _pairs_by_block(directions: np.ndarray, threshold: float) -> Iterator[np.ndarray]:
    starts = range(0, len(directions), _BLOCK)
    for first in starts:
        for second in starts[first // _BLOCK :]:
            cosines = directions[first : first + _BLOCK] @ directions[second : second + _BLOCK].T
            is_near = cosines >= threshold
            if first == second:
                is_near = np.triu(is_near, 1)
            yield np.argwhere(is_near) + np.array([first, second])


def _hashes(blocks: Mapping[str, ImageBlock], row: int) -> set[str]:
    return {h for block in blocks.values() for h in block.content_hashes[row]}


def _count_equal(blocks: Mapping[str, ImageBlock], n_rows: int) -> int:
    hashes = [_hashes(blocks, row) for row in range(n_rows)]
    counts = Counter(h for row in hashes for h in row)
    return sum(any(counts[h] > 1 for h in row) for row in hashes)
