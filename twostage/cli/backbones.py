"""``twostage backbones``: the catalogue."""

import click

from twostage.cli.output import print_result

_HEADINGS = ("name", "pixels", "dim", "preprocessing", "classifier", "weights")


@click.command()
def backbones() -> None:
    """List the backbones: input size, embedding length, preprocessing, where the top begins.

    The penultimate embedding is what enters the classifier. Where the weights are 'with top',
    that layer is part of the top, so that a no-top file can't give it. A network of your own is a
    backbone too: --backbone FILE.keras.
    """
    from twostage.backbones.catalogue import CATALOGUE

    rows = [
        (
            row.name,
            str(row.input_size_px),
            str(row.dim),
            row.preprocessing,
            row.classifier,
            "with top" if row.needs_top else "any",
        )
        for row in CATALOGUE.values()
    ]
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    for row in (_HEADINGS, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print_result("  ".join(cells).rstrip())
