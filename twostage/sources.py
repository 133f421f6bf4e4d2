"""Where the embeddings of a table's images come from: a store, or files through the cache."""

import os
from collections.abc import Mapping, Sequence

import pandas as pd

from twostage.backbones.lazy import runnable
from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.cache import embed_through_cache, embed_values_through_cache
from twostage.contents import IMAGE, kind_of
from twostage.encoders.spec import EncoderSpec
from twostage.encoders.values import names_of, references_to
from twostage.errors import DataError, ImagesError
from twostage.extraction import ExtractionOptions
from twostage.images.listing import Place, absolute
from twostage.images.places import open_place
from twostage.images.references import Reference
from twostage.joins import (
    AnyStore,
    ImageBlock,
    block_outline,
    image_block,
    image_names,
    match_with_store,
)
from twostage.store.holdings import holdings_of
from twostage.store.store import EmbeddingStore
from twostage.table.files import require_column

PathLike = str | os.PathLike[str]


def blocks_from_store(
    frame: pd.DataFrame,
    image_columns: Sequence[str],
    store: AnyStore,
    *,
    must_match: bool = True,
    pooling: str = "mean",
) -> tuple[dict[str, ImageBlock], list[str]]:
    """Take the embeddings of a table's images from a store; or of its texts or sequences.

    Parameters
    ----------
    frame : DataFrame of shape (n_rows, n_columns)
        Its image columns name images, as a rule relative to the extracted folder; or hold what a
        store of texts or sequences is of.
    image_columns : sequence of str
        Their names.
    store : EmbeddingStore or Holdings
        What holds the embeddings; of several tables, its holdings spare reading the index anew.
    must_match : bool
        Whether every image must be in the store.
    pooling : {"mean", "max", "first"}
        What becomes of several images in a row.

    Returns
    -------
    blocks : dict of str to ImageBlock
        One per image column, aligned with the rows.
    notes : list of str
        What was done to match names.

    Raises
    ------
    DataError
        If a column is missing, or images are not in the store.
    """
    held = holdings_of(store)
    kind = kind_of(held.store.spec)
    if kind != IMAGE:
        return _blocks_of_values(frame, image_columns, held, kind, must_match), []
    blocks, notes = {}, []
    for column, names in _names_by_column(frame, image_columns).items():
        key_of, note = match_with_store(names, held, must_match=must_match)
        blocks[column] = image_block(column, names, held, key_of, pooling)
        notes += [note] if note else []
    return blocks, notes


def outlines_from_store(
    frame: pd.DataFrame, image_columns: Sequence[str], store: AnyStore
) -> tuple[dict[str, ImageBlock], list[str]]:
    """Tell of a table's images all that a store knows but the embeddings; else `blocks_from_store`.

    Every image must be in the store.
    """
    held = holdings_of(store)
    blocks, notes = {}, []
    for column, names in _names_by_column(frame, image_columns).items():
        key_of, note = match_with_store(names, held)
        blocks[column] = block_outline(column, names, held, key_of)
        notes += [note] if note else []
    return blocks, notes


def blocks_from_files(
    frame: pd.DataFrame,
    image_columns: Sequence[str],
    folder: PathLike,
    wanted: BackboneSettings | BackboneSpec | EncoderSpec,
    options: ExtractionOptions,
    cache_dir: PathLike | None = None,
    pooling: str = "mean",
) -> tuple[dict[str, ImageBlock], EmbeddingStore]:
    """Embed a table's images, texts or sequences, those that the cache does not hold.

    Parameters
    ----------
    frame, image_columns
        As for `blocks_from_store`; names are relative to ``folder``, absolute, or URLs.
    folder : path-like
        What names start from; or any other place that `twostage.images.places.open_place` knows.
    wanted : BackboneSettings, BackboneSpec or EncoderSpec
        The backbone; of a spec, that very one, or its variant that runs here. An encoder
        embeds what the columns hold.
    options : ExtractionOptions
        How to run it.
    cache_dir : path-like, optional
        See `twostage.folders.cache_folder`.
    pooling : {"mean", "max", "first"}
        What becomes of several images in a row.

    Returns
    -------
    blocks : dict of str to ImageBlock
        One per image column, aligned with the rows.
    store : EmbeddingStore
        The cache's store that they came from.

    Raises
    ------
    StoreError
        If the backbone that can be built is not the one wanted.
    """
    if isinstance(wanted, EncoderSpec):
        return _blocks_of_encoder(frame, image_columns, wanted, options, cache_dir)
    if isinstance(wanted, BackboneSpec):
        wanted = runnable(wanted, options.device)
    names = _names_by_column(frame, image_columns)
    files = _locate(names, open_place(folder))
    store = embed_through_cache(list(files.values()), wanted, options, cache_dir)
    key_of = {name: reference.image for name, reference in files.items()}
    blocks = {
        column: image_block(column, in_rows, store, key_of, pooling)
        for column, in_rows in names.items()
    }
    return blocks, store


def _blocks_of_encoder(
    frame: pd.DataFrame,
    columns: Sequence[str],
    encoder: EncoderSpec,
    options: ExtractionOptions,
    cache_dir: PathLike | None,
) -> tuple[dict[str, ImageBlock], EmbeddingStore]:
    """Embed texts or sequences, those that the cache does not hold."""
    found = {
        name: references_to(require_column(frame, name, encoder.kind), encoder.kind)
        for name in columns
    }
    references = [ref for of_column in found.values() for ref in of_column if ref is not None]
    store = embed_values_through_cache(references, encoder, options, cache_dir)
    return _blocks_of_values(frame, columns, store, encoder.kind, must_match=True), store


def _blocks_of_values(
    frame: pd.DataFrame,
    columns: Sequence[str],
    store: AnyStore,
    kind: str,
    must_match: bool,
) -> dict[str, ImageBlock]:
    """Take the embeddings of what columns hold from a store, by the digests of their bytes."""
    held = holdings_of(store)
    known = held.names.keys()
    blocks = {}
    for column in columns:
        names = names_of(references_to(require_column(frame, column, kind), kind))
        lacking = [row for row, named in enumerate(names) if not known >= set(named)]
        if lacking and (must_match or len(lacking) == sum(map(len, names))):
            shown = str(frame[column].iloc[lacking[0]])
            raise DataError(
                f"{len(lacking)} of {len(names)} rows of column '{column}' hold a {kind} that the "
                f"store '{held.store.path}' does not; first: row {lacking[0] + 1}, '{shown:.40}'. "
                f"Extract them into it: twostage extract TABLE --{kind}-col {column} -o STORE."
            )
        key_of = {name: name for named in names for name in named if name in known}
        blocks[column] = image_block(column, names, held, key_of)
    return blocks


def check_usable(blocks: Mapping[str, ImageBlock]) -> int:
    """Count the rows in which an image is unusable.

    Raises
    ------
    ImagesError
        If images are named, and none of them is usable.
    """
    errors = [error for block in blocks.values() for error in block.errors if error is not None]
    if errors and not any(block.n_images.any() for block in blocks.values()):
        raise ImagesError(
            f"None of the table's images is usable; first: {errors[0]}. Check the paths in the "
            "table and the folder that they start from."
        )
    rows = zip(*(block.errors for block in blocks.values()), strict=True)
    return sum(any(error is not None for error in row) for row in rows)


def _names_by_column(
    frame: pd.DataFrame, image_columns: Sequence[str]
) -> dict[str, list[list[str]]]:
    return {name: image_names(require_column(frame, name, "image")) for name in image_columns}


def _locate(names: Mapping[str, list[list[str]]], place: Place) -> dict[str, Reference]:
    """Return the file of every image named: that one or none, never another of like name."""
    found = place.exactly(name for rows in names.values() for row in rows for name in row)
    return {name: absolute(reference) for name, reference in found.items()}
