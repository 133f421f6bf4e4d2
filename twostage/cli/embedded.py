"""What a command's store or encoder embeds: images, or what columns of its table hold."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from twostage.cli.sequences import joined, layout_of
from twostage.contents import IMAGE, SEQUENCE, TEXT, kind_of
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.fitted import FitSettings

LONG_COLUMN = "sequence"  # as `twostage.table.long.LongLayout` names it


def kind_in(stores: Sequence[str], backbone: str | None = None) -> str:
    """Return what stores hold the embeddings of, or what a backbone embeds: images if neither says.

    Raises
    ------
    UsageError
        If the stores are of different kinds.
    """
    from twostage.encoders.lazy import find_spec

    kinds = [_kind_of(store) for store in stores]
    if len(set(kinds)) > 1:
        said = ", ".join(f"'{s}' of {kind}s" for s, kind in zip(stores, kinds, strict=True))
        raise UsageError(f"The stores are of different kinds: {said}. Give those of one kind.")
    if kinds:
        return kinds[0]
    encoder = find_spec(backbone)
    return IMAGE if encoder is None else encoder.kind


def _kind_of(store: str) -> str:
    """Return what a store is of; of what is none, the command tells when it opens it."""
    from twostage.store.store import EmbeddingStore

    return kind_of(EmbeddingStore(store).spec) if EmbeddingStore.exists_at(store) else IMAGE


def check_columns(kind: str, options: dict[str, Any], stores: Sequence[str]) -> None:
    """Check that the columns are named of which the store, or the encoder, is.

    Raises
    ------
    UsageError
        If they are not, or those of another kind are.
    """
    where = f"Store '{stores[0]}' holds embeddings" if stores else "The backbone is an encoder"
    if kind == IMAGE:
        if options["image_col"]:
            return
        others = [name for name in (TEXT, SEQUENCE) if options[name]] if stores else []
        hint = ""
        if others:
            hint = (
                f" {where} of images; those of {others[0]}s are made by 'twostage extract TABLE "
                f"--{others[0]}-col COL --backbone ENCODER'."
            )
        raise UsageError(f"Give --image-col, the table's column of image paths.{hint}")
    if options["image_col"]:
        raise UsageError(
            f"{where} of {kind}s, not of images. Name their column with --{kind}, and leave "
            "--image-col out."
        )
    if not options[kind] and not (kind == SEQUENCE and options["sequences"]):
        raise UsageError(f"{where} of {kind}s. Give --{kind}, the table's column of {kind}s.")


def with_embedded(settings: "FitSettings", kind: str) -> "FitSettings":
    """Return settings in which what was called text or sequence is embedded by stage one."""
    if kind == IMAGE or settings.features == "table":
        return settings
    columns: tuple[str, ...] = getattr(settings.roles, kind)
    if kind == SEQUENCE and settings.sequences is not None:
        columns = (*columns, settings.sequences.name)
    roles = replace(settings.roles, **{kind: ()})
    return replace(settings, image_columns=columns, roles=roles, embeds=kind)


def asked_of_values(
    text: str | None, sequence: str | None, options: dict[str, Any]
) -> tuple[str, str | None]:
    """Return what is to be embedded or learned from, and its column; None for images.

    Raises
    ------
    UsageError
        If several columns are given.
    """
    if options["sequences"] is not None:
        if sequence is not None:
            raise UsageError("Give sequences as a column, or by --sequences, not both.")
        sequence = LONG_COLUMN
    if text is not None and sequence is not None:
        raise UsageError("Give a column of texts or one of sequences, not both.")
    return (TEXT, text) if text is not None else (SEQUENCE if sequence else IMAGE, sequence)


def read_table_of(table: str, options: dict[str, Any], quiet: bool) -> "pd.DataFrame":
    """Read a table, with a column of the sequences of a long table if one is given."""
    from twostage.table.files import read_table

    layout = layout_of(options)
    frame = read_table(table)
    if layout is None:
        return frame
    return joined(frame, layout, options["sequences"], options["slower"], quiet)[0]


def read_values(
    table: str, kind: str, column: str, options: dict[str, Any], quiet: bool
) -> "pd.Series":
    """Read the texts or sequences of a table's column."""
    from twostage.table.files import require_column

    return require_column(read_table_of(table, options, quiet), column, kind)
