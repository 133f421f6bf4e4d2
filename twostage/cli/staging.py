"""``twostage fit --finetune``: what tuning adds to the command."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.options import TUNING
from twostage.cli.output import epochs_told, plural, say, told
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.backbones.spec import BackboneSettings
    from twostage.fitted import FitSettings
    from twostage.joins import ImageBlock
    from twostage.staged import AnyModel, StagedModel, StagingSettings
    from twostage.store.store import EmbeddingStore
    from twostage.targets import Target

_BATCH = "tuning_batch_size"
_OF_SPLITS = ("share", "n_folds")


def check_tuning(ctx: click.Context, images: str | None, options: dict[str, Any]) -> None:
    """Refuse to tune without images, and options of tuning where nothing is tuned."""
    mode = options["finetune"]
    if mode == "none":
        of_tuning = [
            parameter.opts[0]
            for parameter in ctx.command.params
            if parameter.name in (*TUNING, _BATCH, *_OF_SPLITS)
            and ctx.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
        ]
        if of_tuning:
            raise UsageError(
                f"{', '.join(of_tuning)}: nothing is tuned without --finetune. Choose a mode, such "
                "as --finetune crossfit, or leave this out."
            )
    elif not images:
        raise UsageError(
            f"--finetune {mode} trains on the images themselves: give --images with their folder, "
            "not a STORE, which holds embeddings."
        )
    elif options["features"] == "table":
        raise UsageError(
            f"--finetune {mode} tunes on images, and --features table leaves them out. Leave out "
            "either."
        )


def staging_of(settings: "FitSettings", options: dict[str, Any]) -> "StagingSettings | None":
    """Return how backbones are to be tuned, if they are."""
    from twostage.staged import NAIVE, StagingSettings
    from twostage.training.settings import TuningSettings

    mode = options["finetune"]
    if mode == "none":
        return None
    if mode == "naive":
        say(NAIVE)
    tuning = TuningSettings(
        **{name: options[name] for name in TUNING},
        batch_size=options[_BATCH],
        class_weight=settings.class_weight,
        random_state=settings.random_state,
    )
    return StagingSettings(mode, **{name: options[name] for name in _OF_SPLITS}, tuning=tuning)


def fit_both_stages(
    frame: "pd.DataFrame",
    blocks: "dict[str, ImageBlock]",
    target: "Target",
    settings: "FitSettings",
    how: "StagingSettings",
    held: "EmbeddingStore",
    images: str,
    backbone: "BackboneSettings",
    options: dict[str, Any],
    quiet: bool,
) -> "StagedModel":
    """Score and fit as ever, with the tuning of backbones in it."""
    from twostage.extraction import ExtractionOptions
    from twostage.fitting import score_and_fit
    from twostage.staging import ImageSource, Staging

    with told(quiet) as loaded, epochs_told(quiet) as progress:
        run = ExtractionOptions(
            options["batch_size"],
            options["workers"],
            options["device"],
            progress=loaded,
            max_pixels=options["max_pixels"],
        )
        source = ImageSource(images, backbone, run, progress=progress(loaded))
        learner = Staging(how, settings, source, held.spec)
        return score_and_fit(learner, frame, blocks, target, settings, held.seen)


def tuning_lines(fitted: "AnyModel") -> list[str]:
    """Tell how backbones were tuned, and from what the heads learned; nothing if none was."""
    from twostage.backbones.spec import BackboneSpec
    from twostage.staged import NAIVE, StagedModel

    if not isinstance(fitted, StagedModel):
        return []

    parent = BackboneSpec.from_dict(fitted.parent, "the model").name
    sizes = _counts(fitted.n_tuned)
    rest = _counts([part.n_rows for part in fitted.parts])
    n_names = sum(len(names) for names in fitted.score_names.values())
    line = {
        "holdout": f"{parent} was tuned on {sizes} rows; the head learned from the {rest} others.",
        "crossfit": f"{len(fitted.n_tuned)} of {parent}, tuned on {sizes} rows, each with a head "
        f"that learned from the others ({rest}); their predictions are averaged.",
        "oof-scores": f"{len(fitted.n_tuned)} of {parent}, tuned on {sizes} rows, gave the others "
        f"their scores ({plural(n_names, 'column')}), from which the head learned beside the "
        "embeddings; of new rows their mean is taken.",
        "naive": NAIVE,
    }[fitted.staging.mode]
    return [f"Fine-tuned ({fitted.staging.mode}): {line}"]


def _counts(numbers: Sequence[int]) -> str:
    """Return ``"40, 38 and 42"``."""
    *others, last = (f"{number:,}" for number in numbers)
    return f"{', '.join(others)} and {last}" if others else last


def tuning_record(fitted: "AnyModel") -> dict[str, Any]:
    """Return how backbones were tuned, for --json."""
    from twostage.staged import StagedModel

    if not isinstance(fitted, StagedModel):
        return {"finetune": "none"}
    return {
        "finetune": fitted.staging.mode,
        "finetuning": fitted.staging.options(),
        "n_tuned": fitted.n_tuned,
    }
