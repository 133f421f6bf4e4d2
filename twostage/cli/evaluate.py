"""``twostage evaluate``: a model's scores on labelled rows that nothing in it has seen."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.fit import listed_images
from twostage.cli.options import (
    A_TABLE,
    IMAGES,
    PLACES,
    STORE,
    TABLE,
    json_option,
    long_option,
    quiet_option,
    run_options,
    slower_option,
)
from twostage.cli.output import UNREADABLE, plural, print_json, print_result, say
from twostage.cli.predict import check_source, embed_rows
from twostage.cli.sequences import join_to_predict
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.evaluation.held_out import Evaluation
    from twostage.staged import AnyModel


@click.command()
@click.argument("model", type=click.Path(exists=True, file_okay=False))
@click.option(
    "--table",
    type=TABLE,
    help=f"The rows: {A_TABLE} with the training's columns and the target.",
)
@click.option("--images", type=IMAGES, help=f"The table's images: {PLACES}.")
@click.option("--store", type=STORE, help="Instead of --images: a store that holds them.")
@long_option
@slower_option
@click.option(
    "-o",
    "--output",
    metavar="PREDICTIONS",
    help="File to write predictions of all rows to, with a column that says which are scored.",
)
@run_options
@quiet_option
@json_option
@click.pass_context
def evaluate(
    ctx: click.Context,
    /,
    model: str,
    table: str | None,
    images: str | None,
    store: str | None,
    sequences: str | None,
    slower: str | None,
    output: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Score a MODEL on labelled rows that nothing in it has seen.

    Rows that the model or its backbone was trained on, rows of their groups and rows with an image
    of equal bytes are counted and left out. If none remain, that is an error. A model trained on a
    folder per class needs no table.
    """
    from twostage.evaluation.held_out import score_unseen
    from twostage.model import read_model
    from twostage.seen import SeenRows
    from twostage.sources import check_usable
    from twostage.table.files import check_parent, write_table

    if output is not None:
        check_parent(output)
        if table is not None and Path(output).resolve() == Path(table).resolve():
            raise UsageError(f"'{output}' is the table itself. Give another file.")
    fitted = read_model(model)
    check_source(fitted, model, images, store)
    frame = _read_rows(fitted, table, images, store)
    frame = join_to_predict(frame, fitted.settings, sequences, slower, quiet)
    seen = SeenRows()

    def embed(spec: dict[str, Any]) -> Any:
        nonlocal seen
        blocks, by_this = embed_rows(fitted, spec, frame, images, store, quiet, options)
        seen = seen.union(by_this)
        return blocks

    looked_at: Any = fitted.look(embed)
    n_unusable = check_usable(fitted.blocks_in(looked_at))
    found = score_unseen(fitted, frame, looked_at, seen)
    if output is not None:
        predictions = fitted.prediction_table(frame, looked_at)
        truth = frame[fitted.settings.target].to_numpy()
        write_table(predictions.assign(truth=truth, is_scored=~found.exposure.is_known), output)
    if as_json:
        print_json(_record(found, model) | {"n_unusable": n_unusable, "output": output})
    else:
        print_result(describe(found, fitted, model))
        if output is not None:
            print_result(f"{output}: {plural(len(frame), 'prediction')}.")
    group = fitted.settings.group
    if group is not None and group not in frame.columns and not quiet:
        say(
            f"The table has no column '{group}', the groups of the training: rows of groups that "
            "the model knows can't be told, and are scored."
        )
    if n_unusable:
        what = fitted.settings.embeds
        say(f"{plural(n_unusable, 'row')} with an unusable {what}, whose embedding is missing.")
        ctx.exit(UNREADABLE)


def describe(found: "Evaluation", fitted: "AnyModel", path: str) -> str:
    """Put scores on unseen rows in words."""
    from twostage.evaluation.held_out import reasons

    lines = []
    n_out = found.n_rows - found.n_scored
    if n_out:
        lines.append(
            f"Left out: {n_out:,} of {plural(found.n_rows, 'row')}, which the model has seen: "
            f"{reasons(found.exposure)}."
        )
    kept = "" if found.n_groups == found.n_scored else f" ({plural(found.n_groups, 'group')})"
    lines.append(
        f"Score of {path} on {plural(found.n_scored, 'row')}{kept} that nothing in it has seen:"
    )
    lines += [f"  {name:18}{score}" for name, score in found.scores.items()]
    held_out = fitted.holdout
    if held_out is not None:
        name, score = next(iter(held_out.scores.items()))
        lines.append(f"When it was fitted, held-out rows gave: {name} {score}.")
    return "\n".join(lines)


def _record(found: "Evaluation", path: str) -> dict[str, Any]:
    counts = {name: n for name, n in vars(found.exposure).items() if name != "is_known"}
    return {
        "model": path,
        "n_rows": found.n_rows,
        "n_scored": found.n_scored,
        "n_groups": found.n_groups,
        "left_out": counts,
        "scores": {name: asdict(score) for name, score in found.scores.items()},
    }


def _read_rows(
    fitted: "AnyModel", table: str | None, images: str | None, store: str | None
) -> "pd.DataFrame":
    from twostage.table.files import FOLDER_COLUMN, IMAGE_COLUMN, read_table, table_from_folders

    if table is not None:
        return read_table(table)
    if list(fitted.dims) != [IMAGE_COLUMN] or fitted.settings.target != FOLDER_COLUMN:
        raise UsageError("The model was trained on a table: give --table with labelled rows.")
    return table_from_folders(listed_images(store, images))
