"""``twostage finetune``: labelled images into a backbone that knows what it has seen."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.embedded import asked_of_values, read_table_of
from twostage.cli.fit import listed_images
from twostage.cli.options import (
    A_TABLE,
    IMAGES,
    OF_LONG_TABLES,
    TABLE,
    TUNING,
    backbone_options,
    class_weight_option,
    decoding_options,
    image_col_option,
    json_option,
    network_options,
    quiet_option,
    random_state_option,
    refuse_given,
    sequence_options,
    target_from_folder_option,
    task_options,
    text_options,
    tuning_options,
)
from twostage.cli.output import (
    UNREADABLE,
    epochs_told,
    log_shown,
    plural,
    print_json,
    print_result,
    say,
    told,
)
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.finetuning import FinetuningSummary
    from twostage.pretraining import EncoderSummary

_SHARE = click.FloatRange(0, 1, max_open=True)
_OF_BACKBONE = (
    *("backbone", "weights", "layer", "pooling", "image_size", "resize", "preprocessing"),
    "random_state",
)
_OF_TUNING = (*TUNING, "batch_size", "class_weight", "precision", "random_state")


@click.command()
@click.argument("images", type=IMAGES, required=False)
@click.option("-o", "--output", required=True, metavar="BACKBONE", help="Folder to make.")
@click.option(
    "--text",
    metavar="COL",
    help="Train an encoder of this column of texts instead: no IMAGES are needed then.",
)
@click.option("--sequence", metavar="COL", help="In the same way, of this column of sequences.")
@sequence_options
@network_options
@text_options
@click.option("--table", type=TABLE, help=f"The rows: {A_TABLE} with the target.")
@click.option("--target", metavar="COL", help="Column to learn; stage two may learn another.")
@target_from_folder_option
@image_col_option
@click.option("--group", metavar="COL", help="Images of one group are never split apart.")
@click.option(
    "--holdout",
    type=_SHARE,
    default=0.5,
    show_default=True,
    help="Share of the images, by whole groups, that the backbone does not see: stage two is "
    "trained and scored on those. 0 trains on all of them, for a second stage on other images.",
)
@task_options
@backbone_options
@tuning_options
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images to a step."
)
@class_weight_option
@decoding_options
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where it is trained; on all GPUs there are.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
    default="auto",
    show_default=True,
    help="What it is trained in; auto takes a reduced one where a GPU is faster in it.",
)
@random_state_option
@quiet_option
@json_option
@click.pass_context
def finetune(
    ctx: click.Context,
    /,
    images: str | None,
    output: str,
    table: str | None,
    target: str | None,
    target_from_folder: bool,
    image_col: tuple[str, ...],
    text: str | None,
    sequence: str | None,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a CNN on the labelled images in IMAGES, for 'twostage extract --backbone'.

    Half of the images are held back, for stage two: what a backbone was trained on it embeds with
    too much confidence. The folder remembers what it has seen, the store that it makes does too,
    and 'twostage fit' leaves those rows out.
    Without labels there is nothing to tune by: 'twostage extract' with ImageNet weights is the way.
    A run that was killed goes on where it was: run the same command again.
    With --text, an encoder of texts is trained in the same way, for 'twostage extract --text-col'.
    """
    from twostage.backbones.spec import BackboneSettings
    from twostage.finetuning import finetune as run

    kind, column = asked_of_values(text, sequence, options)
    if column is not None:
        refuse_given(ctx, _OF_ENCODER, f"an encoder of {kind}s")
        trained = _train_encoder(output, table, target, kind, column, options, quiet)
        if as_json:
            print_json(asdict(trained))
        else:
            print_result(describe_encoder(trained))
        return
    if images is None:
        raise UsageError(
            "Give IMAGES, what image names start from; or --text or --sequence, a column."
        )
    frame, target, columns = _labels(images, table, target, target_from_folder, image_col)
    how = {name: options[name] for name in _OF_TUNING}
    with told(quiet) as loaded, epochs_told(quiet) as progress:
        summary = run(
            images,
            output,
            table=frame,
            target=target,
            image_columns=columns,
            group=options["group"],
            holdout=options["holdout"],
            task=options["task"],
            log_target=options["log_target"],
            backbone=BackboneSettings(**{name: options[name] for name in _OF_BACKBONE}),
            workers=options["workers"],
            max_pixels=options["max_pixels"],
            device=options["device"],
            progress=progress(loaded),
            **how,
        )
    if as_json:
        print_json(asdict(summary) | {"history": summary.history.to_dict("records")})
    else:
        print_result(describe(summary))
    if summary.n_rows_left_out:
        say(
            f"{plural(summary.n_rows_left_out, 'row')} without a usable image; first: "
            f"{summary.first_error}."
        )
        ctx.exit(UNREADABLE)


def describe(summary: "FinetuningSummary") -> str:
    """Put a summary in words."""
    trained = f"{summary.n_blocks_trained} of {summary.n_blocks} blocks"
    lines = [
        *summary.notes,
        f"{summary.backbone}: {summary.parent}, {trained} trained on "
        f"{plural(summary.n_trained, 'image')} ({summary.task}); "
        f"{summary.n_validation:,} more chose the epoch, {summary.n_held_back:,} were held back; "
        f"{summary.seconds:.0f} s.",
    ]
    metric = {"auc": "AUC", "r2": "R2"}[summary.metric]
    if summary.stopped:
        lines.append(f"Ended early: {summary.stopped}.")
    if len(summary.history) == 1:
        lines.append("Of no epochs: the backbone is as it was.")
    elif summary.best_epoch == 0:
        lines.append(
            f"No epoch was better than the frozen backbone ({metric} {summary.frozen_score:.3f} on "
            "the images that chose): its weights were kept as they were."
        )
    else:
        lines.append(
            f"Kept epoch {summary.best_epoch}: {metric} {summary.score:.3f} on the images that "
            f"chose it, {summary.frozen_score:.3f} with the frozen backbone. (They chose it: the "
            "score of 'twostage fit' is the one to believe.)"
        )
    lines.append(f"Next: twostage extract IMAGES -o STORE --backbone {summary.backbone}")
    return "\n".join(lines)


_SETTINGS = {
    *("group", "holdout", "task", "log_target", "class_weight", "random_state", "stop_words"),
    *("word_vectors", "text_encoder", "sequence_encoder"),
}
_OF_ENCODER = {
    *("output", "text", "sequence", "table", "target", "quiet", "as_json"),
    *_SETTINGS,
    *OF_LONG_TABLES,
}


def _train_encoder(
    output: str,
    table: str | None,
    target: str | None,
    kind: str,
    column: str,
    options: dict[str, Any],
    quiet: bool,
) -> "EncoderSummary":
    from twostage.pretraining import train_encoder

    if not table or not target:
        raise UsageError(f"Give --table and --target: an encoder of {kind}s is taught by a target.")
    settings: dict[str, Any] = {
        name: options[name] for name in _SETTINGS if options[name] is not None
    }
    frame = read_table_of(table, options, quiet)
    with log_shown(quiet):
        return train_encoder(output, table=frame, target=target, **settings | {kind: column})


def describe_encoder(summary: "EncoderSummary") -> str:
    """Put the training of an encoder in words."""
    metric = {"auc": "AUC", "r2": "R2"}[summary.metric]
    left_out = ""
    if summary.n_rows_left_out:
        rows = plural(summary.n_rows_left_out, "row")
        left_out = f" {rows} without a {summary.kind} were left out."
    lines = [
        *summary.notes,
        f"{summary.encoder}: an encoder of {summary.kind}s into {summary.dim} numbers, trained on "
        f"column '{summary.column}' of {plural(summary.n_trained, 'row')} ({summary.task}), "
        f"{plural(summary.n_epochs, 'epoch')}; {summary.n_held_back:,} were held back; "
        f"{summary.seconds:.0f} s.{left_out}",
    ]
    if summary.score is not None:
        lines.append(
            f"The network that it was a part of: {metric} {summary.score:.3f} on the rows held "
            "back, which it has not seen."
        )
    lines.append(
        f"Next: twostage extract TABLE --{summary.kind}-col {summary.column} --backbone "
        f"{summary.encoder} -o STORE"
    )
    return "\n".join(lines)


def _labels(
    images: str,
    table: str | None,
    target: str | None,
    target_from_folder: bool,
    image_col: tuple[str, ...],
) -> "tuple[pd.DataFrame, str, list[str]]":
    """Return the table, its target and its image columns."""
    from twostage.table.files import (
        FOLDER_COLUMN,
        IMAGE_COLUMN,
        read_table,
        table_from_folders,
    )

    if target_from_folder:
        if table or target or image_col:
            raise UsageError("--target-from-folder goes without --table, --target, --image-col.")
        return table_from_folders(listed_images(None, images)), FOLDER_COLUMN, [IMAGE_COLUMN]
    if not table or not target:
        raise UsageError(
            "Give --table and --target, or --target-from-folder without a table. Without labels, "
            "'twostage extract' with ImageNet weights is the way."
        )
    if not image_col:
        raise UsageError("Give --image-col, the table's column of image paths.")
    return read_table(table), target, list(image_col)
