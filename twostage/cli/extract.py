"""``twostage extract``: images into a store."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.embedded import asked_of_values, read_values
from twostage.cli.options import (
    A_TABLE,
    IMAGES,
    OF_LONG_TABLES,
    SEED,
    TABLE,
    backbone_options,
    executor_options,
    json_option,
    quiet_option,
    refuse_given,
    run_options,
    sequence_options,
    variant_options,
)
from twostage.cli.output import UNREADABLE, plural, print_json, print_result, told
from twostage.errors import UsageError

if TYPE_CHECKING:
    from twostage.extraction import ExtractionSummary
    from twostage.throughput import Throughput

_LEAST_TO_TELL = 256  # images: fewer say little about a rate


@click.command()
@click.argument("images", type=IMAGES)
@click.option(
    "-o",
    "--output",
    "store",
    required=True,
    metavar="STORE",
    help="Folder of the store, or its URL (s3://bucket/store).",
)
@click.option(
    "--table",
    type=TABLE,
    help=f"Only the images that a table names: {A_TABLE} with a column of paths.",
)
@click.option("--image-col", multiple=True, metavar="COL", help="Its column of paths; repeatable.")
@click.option(
    "--bytes-col",
    "bytes_column",
    metavar="COL",
    help="Of a Parquet file as IMAGES: its column of image bytes, if several could be it.",
)
@click.option(
    "--text-col",
    "text",
    metavar="COL",
    help="Embed the texts of this column: IMAGES is then a CSV or Parquet table, and --backbone "
    "the folder of an encoder that 'twostage finetune --text' made, or "
    "sentence-transformers/NAME.",
)
@click.option(
    "--sequence-col",
    "sequence",
    metavar="COL",
    help="In the same way, embed the sequences of this column; or give --sequences.",
)
@sequence_options
@backbone_options
@variant_options
@click.option(
    "--dtype", type=click.Choice(["float32", "float16"]), help="Of the stored embeddings."
)
@run_options
@executor_options
@click.option(
    "--on-error",
    type=click.Choice(["null", "fail"]),
    default="null",
    show_default=True,
    help="What an unreadable image becomes: a row with an error, or the end of the run.",
)
@click.option("--retry-errors", is_flag=True, help="Try again what could not be decoded.")
@click.option("--verify", is_flag=True, help="Compare all images by their bytes, not their time.")
@click.option(
    "--random-state",
    type=SEED,
    metavar="N",
    help="Seed of random weights.  [default: 0]",
)
@quiet_option
@json_option
@click.pass_context
def extract(
    ctx: click.Context,
    /,
    images: str,
    store: str,
    table: str | None,
    image_col: tuple[str, ...],
    text: str | None,
    sequence: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Embed IMAGES, or the texts or sequences of a table, into a store.

    IMAGES is a folder, walked recursively; or a list of files, a tar or tars
    (shards-{000..012}.tar), a Parquet file with a column of image bytes, or the URL of such
    (s3://bucket/photos). With --table, only those of its images that the table names.
    Each image goes once through a CNN without its top; the embeddings are kept as Parquet.
    Run it again after adding or changing images: only those are computed.
    Any option left out is the store's own, or for a new store the default: mobilenet_v2 with
    ImageNet weights.
    """
    from twostage.extraction import extract as run
    from twostage.extraction import extract_values

    kind, column = asked_of_values(text, sequence, options)
    of_long = {name: options.pop(name) for name in OF_LONG_TABLES}
    with told(quiet, kind) as progress:
        if column is not None:
            refuse_given(ctx, _OF_VALUES, f"embedding {kind}s")
            wanted = {name: value for name, value in options.items() if name in _OF_VALUES}
            values = read_values(images, kind, column, of_long, quiet)
            summary = extract_values(values, store, kind=kind, progress=progress, **wanted)
        else:
            names = _names(table, image_col)
            summary = run(images, store, names=names, progress=progress, **options)
    if as_json:
        print_json(asdict(summary))
    else:
        print_result(describe(summary))
    if summary.n_errors:
        ctx.exit(UNREADABLE)


_OF_VALUES = {
    *("images", "store", "text", "sequence", *OF_LONG_TABLES, "backbone", "dtype", "batch_size"),
    *("device", "on_error", "retry_errors", "verify", "quiet", "as_json"),
}


def describe(summary: "ExtractionSummary") -> str:
    """Put a summary in words."""
    kind = summary.kind
    done = [f"{summary.n_computed:,} embedded now"]
    if summary.n_reused:
        done.append(f"{summary.n_reused:,} taken from {kind}s of equal bytes")
    done.append(f"{summary.n_unchanged:,} unchanged")
    rate = ""
    if summary.n_computed:
        rate = f" ({summary.n_computed / summary.seconds:.0f} {kind}s/s)"
    lines = [
        f"{summary.store}: {plural(summary.n_images, kind)}, {', '.join(done)}; "
        f"{summary.backbone}, {summary.dim} numbers each; {summary.seconds:.1f} s{rate}."
    ]
    if summary.throughput and summary.n_computed >= _LEAST_TO_TELL:
        lines.append(describe_throughput(summary.throughput))
    if summary.note:
        lines.append(summary.note)
    if summary.n_errors:
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in summary.errors.items())
        lines.append(
            f"{plural(summary.n_errors, kind)} could not be used: {reasons}; first: "
            f"'{summary.first_error}'. The store's column 'error' tells of each."
        )
    if summary.n_gone:
        lines.append(f"{plural(summary.n_gone, 'file')} not there any more; embeddings kept.")
    if summary.n_others:
        lines.append(f"The store holds {plural(summary.n_others, kind)} besides these.")
    return "\n".join(lines)


def describe_throughput(found: "Throughput") -> str:
    """Say in words where the time went."""
    line = (
        f"{found.bottleneck}-bound: the model could take {found.model_per_s:,.0f} images/s, "
        f"{plural(found.n_workers, 'worker')} could decode {found.decode_per_s:,.0f}, writing "
        f"could be {found.write_per_s:,.0f}"
    )
    shared = f"sharing {plural(found.n_cores, 'core')}" if found.shares_cores else "side by side"
    return (
        f"{line}; {shared} that allows {found.bound_per_s:,.0f}, and "
        f"{found.reached_per_s:,.0f} were reached."
    ).capitalize()


def _names(table: str | None, columns: tuple[str, ...]) -> list[str] | None:
    """Return the image names of a table, or None if there is no table."""
    if (table is None) != (not columns):
        raise UsageError("--table and --image-col go together: the table, and its column of paths.")
    if table is None:
        return None
    from twostage.joins import image_names
    from twostage.table.files import read_table, require_column

    frame = read_table(table)
    named = (image_names(require_column(frame, column, "image")) for column in columns)
    return [name for rows in named for row in rows for name in row]
