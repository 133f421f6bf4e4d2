"""``twostage finetune``: labelled images into a backbone that knows what it has seen."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from math import isfinite
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.fit import listed_images
from twostage.cli.options import (
    IMAGES,
    TABLE,
    backbone_options,
    json_option,
    quiet_option,
    random_state_option,
)
from twostage.cli.output import UNREADABLE, plural, print_json, print_result, say, told
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.finetuning import FinetuningSummary, Progress

_SECONDS_BETWEEN_LINES = 10.0
_SHARE = click.FloatRange(0, 1, max_open=True)
_OF_BACKBONE = (
    *("backbone", "weights", "layer", "pooling", "image_size", "resize", "preprocessing"),
    "random_state",
)
_OF_TUNING = (
    *("epochs", "unfreeze", "gradual", "learning_rate", "lr_decay", "weight_decay", "warmup"),
    *("batch_size", "augment", "randaugment", "mixup", "copies", "loss", "label_smoothing"),
    *("class_weight", "dropout", "patience", "random_state"),
)


@click.command()
@click.argument("images", type=IMAGES)
@click.option("-o", "--output", required=True, metavar="BACKBONE", help="Folder to make.")
@click.option("--table", type=TABLE, help="CSV or Parquet table with the target.")
@click.option("--target", metavar="COL", help="Column to learn; stage two may learn another.")
@click.option(
    "--target-from-folder",
    is_flag=True,
    help="Without a table: the target is the name of the folder an image is in.",
)
@click.option("--image-col", multiple=True, metavar="COL", help="Column of paths; repeatable.")
@click.option("--group", metavar="COL", help="Images of one group are never split apart.")
@click.option(
    "--holdout",
    type=_SHARE,
    default=0.5,
    show_default=True,
    help="Share of the images, by whole groups, that the backbone does not see: stage two is "
    "trained and scored on those. 0 trains on all of them, for a second stage on other images.",
)
@click.option(
    "--task",
    type=click.Choice(["auto", "classification", "regression"]),
    default="auto",
    show_default=True,
    help="What the target is; auto tells it from its values.",
)
@click.option("--log-target", is_flag=True, help="Learn the logarithm of a positive target.")
@backbone_options
@click.option(
    "--epochs", type=click.IntRange(0), default=10, show_default=True, help="Passes, at most."
)
@click.option(
    "--unfreeze",
    metavar="N|all|BLOCK",
    default="all",
    show_default=True,
    help="What is trained: the last N blocks, all, or those from BLOCK on.",
)
@click.option(
    "--gradual", is_flag=True, help="Let blocks join in three steps, the last ones first."
)
@click.option(
    "--lr",
    "learning_rate",
    type=click.FloatRange(0, 1),
    default=1e-4,
    show_default=True,
    help="Learning rate of the top and the last block; it warms up and falls as a cosine.",
)
@click.option(
    "--lr-decay",
    type=click.FloatRange(0, 1),
    default=0.9,
    show_default=True,
    help="Factor on it from each block to the one before.",
)
@click.option(
    "--weight-decay", type=click.FloatRange(0, 1), default=0.01, show_default=True, help="AdamW's."
)
@click.option(
    "--warmup",
    type=click.FloatRange(0, 1),
    default=0.1,
    show_default=True,
    help="Share of the steps in which the learning rate rises.",
)
@click.option(
    "--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Images to a step."
)
@click.option(
    "--augment",
    type=click.Choice(["natural", "medical", "none"]),
    default="natural",
    show_default=True,
    help="How images are changed at each look: photos of things, which have an up and a down and "
    "colours that vary; samples under a lens, which have no up, and colours that tell; not at all.",
)
@click.option("--randaugment", is_flag=True, help="Change them further, by RandAugment; slower.")
@click.option(
    "--mixup",
    type=click.FloatRange(0, 10),
    default=0.0,
    metavar="ALPHA",
    help="Mix pairs of images; 0.2 is usual.",
)
@click.option(
    "--copies",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="With frozen blocks: compute their activations once, for N augmented copies of each "
    "image, and train on those over and over.",
)
@click.option(
    "--loss",
    type=click.Choice(["crossentropy", "focal"]),
    default="crossentropy",
    show_default=True,
    help="Of classes.",
)
@click.option(
    "--label-smoothing",
    type=click.FloatRange(0, 0.99),
    default=0.0,
    help="Share of the truth that is spread over all classes.",
)
@click.option(
    "--class-weight",
    type=click.Choice(["balanced"]),
    help="Let rare classes count as much as common ones.",
)
@click.option(
    "--dropout",
    type=click.FloatRange(0, 0.99),
    default=0.2,
    show_default=True,
    help="Of the embedding, before the top.",
)
@click.option(
    "--patience",
    type=click.IntRange(1),
    default=4,
    show_default=True,
    help="Epochs without a better score after which it ends.",
)
@click.option(
    "--workers", type=click.IntRange(1), help="Threads that decode; one per core by default."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    show_default=True,
    help="Where it is trained.",
)
@random_state_option
@quiet_option
@json_option
@click.pass_context
def finetune(
    ctx: click.Context,
    /,
    images: str,
    output: str,
    table: str | None,
    target: str | None,
    target_from_folder: bool,
    image_col: tuple[str, ...],
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a CNN on labelled images below the folder IMAGES, for 'twostage extract --backbone'.

    Half of the images are held back, for stage two: what a backbone was trained on it embeds with
    too much confidence. The folder remembers what it has seen, the store that it makes does too,
    and 'twostage fit' leaves those rows out.
    Without labels there is nothing to tune by: 'twostage extract' with ImageNet weights is the way.
    A run that was killed goes on where it was: run the same command again.
    """
    from twostage.backbones.spec import BackboneSettings
    from twostage.finetuning import finetune as run

    frame, target, columns = _labels(images, table, target, target_from_folder, image_col)
    how = {name: options[name] for name in _OF_TUNING}
    with told(quiet) as loaded, _epochs_told(quiet) as progress:
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


@contextmanager
def _epochs_told(
    quiet: bool,
) -> "Iterator[Callable[[Callable[[int, int], None] | None], Progress]]":
    """Yield what makes a progress that tells of steps and epochs; of nothing if quiet."""
    from twostage.finetuning import Progress

    def of_nothing(loaded: Callable[[int, int], None] | None) -> Progress:
        return Progress()

    def in_lines(loaded: Callable[[int, int], None] | None) -> Progress:
        return Progress(loaded, _steps(), _tell_epoch)

    yield of_nothing if quiet else in_lines


def _steps() -> Callable[[int, int, int, int, float], None]:
    """Return what tells of steps: a live line on a terminal, else a line now and then."""
    is_terminal = sys.stderr.isatty()
    begun = told_at = time.monotonic()

    def step(epoch: int, n_epochs: int, number: int, n: int, loss: float) -> None:
        nonlocal begun, told_at
        now = time.monotonic()
        if number == 1:
            begun = now
        line = f"epoch {epoch} of {n_epochs}: step {number} of {n}, loss {loss:.3f}"
        if number > 1:
            left = (now - begun) / (number - 1) * (n - number + (n_epochs - epoch) * n)
            line += f", about {_minutes(left)} left"
        if is_terminal:
            click.echo(f"\r{line}\x1b[K", nl=number == n, err=True)
        elif now - told_at >= _SECONDS_BETWEEN_LINES:
            told_at = now
            say(line)

    return step


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _tell_epoch(record: Mapping[str, Any]) -> None:
    line = f"epoch {record['epoch']}"
    for name in ("loss", "validation_loss", "score"):
        if isfinite(record[name]):
            line += f", {name.replace('_', ' ')} {record[name]:.3f}"
    say(f"{line}; {record['seconds']:.0f} s")
