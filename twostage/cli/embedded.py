"""What a command's store or encoder embeds: images, or what columns of its table hold."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twostage.contents import IMAGE, TEXT, kind_of
from twostage.errors import UsageError

if TYPE_CHECKING:
    from twostage.fitted import FitSettings


def kind_in(stores: Sequence[str], backbone: str | None = None) -> str:
    """Return what stores hold the embeddings of, or what a backbone embeds: images if neither says.

    Raises
    ------
    UsageError
        If the stores are of different kinds.
    """
    from twostage.encoders.folder import find_encoder
    from twostage.store.store import EmbeddingStore

    kinds = [kind_of(EmbeddingStore(store).spec) for store in stores]
    if len(set(kinds)) > 1:
        said = ", ".join(f"'{s}' of {kind}s" for s, kind in zip(stores, kinds, strict=True))
        raise UsageError(f"The stores are of different kinds: {said}. Give those of one kind.")
    if kinds:
        return kinds[0]
    encoder = find_encoder(backbone) if backbone and Path(backbone).is_dir() else None
    return IMAGE if encoder is None else encoder.spec.kind


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
        of_texts = ""
        if stores and options["text"]:
            of_texts = (
                f" {where} of images; those of texts are made by 'twostage extract TABLE "
                "--text-col COL --backbone ENCODER'."
            )
        raise UsageError(f"Give --image-col, the table's column of image paths.{of_texts}")
    if options["image_col"]:
        raise UsageError(
            f"{where} of {kind}s, not of images. Name their column with --{kind}, and leave "
            "--image-col out."
        )
    if kind == TEXT and not options["text"]:
        raise UsageError(f"{where} of texts. Give --text, the table's column of texts.")


def with_embedded(settings: "FitSettings", kind: str) -> "FitSettings":
    """Return settings in which what was called text or sequence is embedded by stage one."""
    if kind == IMAGE or settings.features == "table":
        return settings
    columns: tuple[str, ...] = getattr(settings.roles, kind)
    if not columns:
        raise UsageError(f"The store is of {kind}s. Name their column with --{kind}.")
    roles = replace(settings.roles, **{kind: ()})
    return replace(settings, image_columns=columns, roles=roles, embeds=kind)
