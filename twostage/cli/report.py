"""``twostage report``: what a benchmark found, as one page to read and to send."""

from pathlib import Path

import click

from twostage.cli.options import IMAGES, PLACES, STORE, quiet_option
from twostage.cli.output import print_result, say


@click.command()
@click.argument("results", type=click.Path(exists=True, file_okay=False), metavar="RESULTS|MODEL")
@click.option(
    "-o",
    "--output",
    metavar="FILE.html",
    default="report.html",
    show_default=True,
    help="The page: one file, which needs no other and no network.",
)
@click.option("--images", type=IMAGES, help=f"The table's images, for thumbnails: {PLACES}.")
@click.option(
    "--store",
    type=STORE,
    help="The store of embeddings, for the map; found by itself where the benchmark found it.",
)
@click.option(
    "--plots", metavar="DIR", help="Folder to write the plots to as well, as SVG and PNG."
)
@click.option("--title", metavar="TEXT", help="What stands above the page.")
@quiet_option
def report(
    results: str,
    output: str,
    images: str | None,
    store: str | None,
    plots: str | None,
    title: str | None,
    quiet: bool,
) -> None:
    """Write what 'twostage benchmark' found as one HTML file.

    It says whether the images help, compares the arms, shows where the best one errs and which rows
    to look at, and where all of it comes from. Of a MODEL made by 'twostage fit' it is a page with
    its held-out scores, columns and provenance.
    """
    from twostage.report.writing import write_report

    told = None if quiet else say
    written = write_report(
        results, output, images=images, store=store, plots=plots, title=title, told=told
    )
    print_result(f"{written.path}: {_size(written.n_bytes)}.")
    if written.plots:
        print_result(f"{Path(str(plots))}: {len(written.plots)} plot files.")


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"
