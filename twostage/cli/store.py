"""``twostage store``: see what a store holds, check it, make it smaller."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from twostage.cli.options import IMAGES, STORE, json_option
from twostage.cli.output import plural, print_json, print_result

if TYPE_CHECKING:
    from twostage.store.inspection import StoreInfo

_AT_FAULT = 1
_N_SHOWN = 10


@click.group()
def store() -> None:
    """See what a store holds, check it, make it smaller.

    A store can be seen, checked and read while an extraction writes it; prune and compact wait for
    no other run, and are refused meanwhile.
    """


@store.command()
@click.argument("store", type=STORE)
@json_option
def info(store: str, as_json: bool) -> None:
    """Say what STORE holds: backbone, rows, errors, size."""
    from twostage.store.store import EmbeddingStore

    found = EmbeddingStore(store).info()
    if as_json:
        print_json(asdict(found))
    else:
        print_result(_in_words(found))


@store.command()
@click.argument("store", type=STORE)
@click.pass_context
def verify(ctx: click.Context, store: str) -> None:
    """Read all of STORE and list its faults; exit 1 if there are any.

    Columns, checksums and backbone of each part, images that are there twice, embeddings that no
    network makes, files that don't belong. Whether images have changed since is what 'twostage
    extract --verify' tells.
    """
    from twostage.contents import kind_of
    from twostage.store.store import EmbeddingStore

    opened = EmbeddingStore(store)
    faults = opened.verify()
    for fault in faults:
        print_result(f"{fault.where}: {fault.what}")
    if faults:
        ctx.exit(_AT_FAULT)
    parts = plural(len(opened.parts()), "part")
    print_result(f"{store}: {plural(len(opened), kind_of(opened.spec))} in {parts}, no fault.")


@store.command()
@click.argument("store", type=STORE)
@click.option(
    "--images", type=IMAGES, help="Folder that the names start from, if they are not absolute."
)
@click.option("--dry-run", is_flag=True, help="Only say which rows would be dropped.")
def prune(store: str, images: str | None, dry_run: bool) -> None:
    """Drop the rows of STORE whose images are gone."""
    from twostage.pruning import gone_images
    from twostage.store.store import EmbeddingStore

    opened = EmbeddingStore(store)
    gone = gone_images(opened, images)
    if dry_run:
        for name in gone[:_N_SHOWN]:
            print_result(name)
        if len(gone) > _N_SHOWN:
            print_result(f"and {len(gone) - _N_SHOWN:,} more")
        print_result(f"{store}: {plural(len(gone), 'row')} would be dropped.")
    else:
        n_dropped = opened.prune(gone)
        left = plural(len(opened), "row")
        print_result(f"{store}: {plural(n_dropped, 'row')} dropped, {left} left.")


@store.command()
@click.argument("store", type=STORE)
@click.option(
    "--rows",
    type=click.IntRange(1),
    metavar="N",
    help="Of a part, at most: a part is written anew where one of its images changes.  "
    "[default: 16384]",
)
def compact(store: str, rows: int | None) -> None:
    """Put the many small parts of STORE together into few."""
    from twostage.store.store import EmbeddingStore

    opened = EmbeddingStore(store)
    done = opened.compact() if rows is None else opened.compact(rows)
    print_result(f"{store}: {plural(done.n_before, 'part')} made into {done.n_after:,}.")


def _in_words(found: "StoreInfo") -> str:
    from twostage.encoders.spec import EncoderSpec, read_spec

    spec = read_spec(found.spec, found.path)
    if isinstance(spec, EncoderSpec):
        source = "as published" if spec.is_pretrained else f"trained on column '{spec.column}'"
        made_of = f"encoder      {spec.name}, of {spec.kind}s, {source}"
    else:
        made_of = (
            f"backbone     {spec.name}, weights {spec.weights}, layer {spec.layer}, "
            f"{spec.input_size_px} px, resize {spec.resize}"
        )
    lines = [
        f"{found.path}: {plural(found.n_rows, spec.kind)} in {plural(found.n_parts, 'part')}, "
        f"{found.size_bytes / 1e6:.1f} MB, format version {found.format_version}",
        f"  {made_of}",
        f"  embeddings   {found.n_embedded:,} of {spec.dim} numbers as {spec.storage_dtype}, by "
        f"{spec.variant}; {found.n_contents:,} different {spec.kind}s",
    ]
    errors = ", ".join(f"{n:,} {kind}" for kind, n in found.n_errors.items())
    lines.append(f"  errors       {errors or 'none'}")
    by_whom = "the encoder" if isinstance(spec, EncoderSpec) else "a tuned backbone"
    lines.append(f"  seen         {found.n_seen:,} by {by_whom}")
    made_by = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    lines.append(f"  made by      {made_by}")
    if found.writer:
        lines.append(f"  written now  by {found.writer}")
    return "\n".join(lines)
