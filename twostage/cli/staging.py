"""``twostage fit --finetune``: what tuning adds to the command."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.options import TUNING
from twostage.cli.output import epochs_told, plural, say, told
from twostage.contents import IMAGE
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.backbones.spec import BackboneSettings
    from twostage.fitted import FitSettings
    from twostage.joins import ImageBlock
    from twostage.staged import AnyModel, StagedModel, StagingSettings
    from twostage.store.store import EmbeddingStore
    from twostage.targets import Target
    from twostage.training.settings import TuningSettings

BATCH = "tuning_batch_size"
_OF_SPLITS = ("share", "n_folds")
JOINT_NEEDS_IMAGES = (
    "The head joint trains the backbone on the images themselves: give --images with their folder. "
    "On the embeddings in a STORE its network alone can be trained: --unfreeze none."
)


def check_tuning(
    ctx: click.Context, images: str | None, options: dict[str, Any], kind: str
) -> None:
    """Refuse to tune without images, and options of tuning where nothing is tuned."""
    mode, is_joint = options["finetune"], options["head"] == "joint" and kind == IMAGE
    given = given_options(ctx, (*TUNING, BATCH, *_OF_SPLITS))
    if is_joint:
        check_joint(images, options, given, kind)
    elif mode == "none":
        if given:
            raise UsageError(
                f"{', '.join(given)}: nothing is tuned without --finetune or --head joint. Choose "
                "a mode, such as --finetune crossfit, or leave this out."
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


def check_joint(
    images: str | None, options: dict[str, Any], given: Sequence[str], kind: str
) -> None:
    """Refuse what does not go with the head joint, which trains a backbone itself."""
    if options["finetune"] != "none":
        raise UsageError(
            f"--finetune {options['finetune']}: the head joint trains the backbone itself, with "
            "its network. Leave --finetune out; --unfreeze, --epochs and the like say how."
        )
    of_splits = [name for name in given if name in ("--tuning-folds", "--tuning-share")]
    if of_splits:
        raise UsageError(
            f"{', '.join(of_splits)}: the head joint learns from whole rows, and tunes nothing on "
            "a part of them. Leave it out."
        )
    if options["features"] == "table":
        if given:
            raise UsageError(
                f"{', '.join(given)}: with --features table there is no backbone to train. Leave "
                "it out."
            )
    elif not images and not is_frozen(options) and kind == IMAGE:
        raise UsageError(JOINT_NEEDS_IMAGES)


def given_options(ctx: click.Context, names: Sequence[str]) -> list[str]:
    """Return those of some options, by their names in Python, that the command line has."""
    return [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name in names
        and ctx.get_parameter_source(parameter.name) is click.core.ParameterSource.COMMANDLINE
    ]


def is_frozen(options: dict[str, Any]) -> bool:
    """Whether nothing of a backbone is to be trained."""
    return str(options["unfreeze"]) in ("0", "none")


def tuning_of(options: dict[str, Any], class_weight: Any, random_state: int) -> "TuningSettings":
    """Return how backbones are tuned, by the options of a command."""
    from twostage.training.settings import TuningSettings

    return TuningSettings(
        **{name: options[name] for name in TUNING},
        batch_size=options[BATCH],
        class_weight=class_weight,
        random_state=random_state,
    )


def staging_of(settings: "FitSettings", options: dict[str, Any]) -> "StagingSettings | None":
    """Return how backbones are to be tuned, if they are."""
    from twostage.staged import JOINT, NAIVE, StagingSettings, check_joint, is_joint

    mode = options["finetune"]
    if mode == "none" and not is_joint(settings):
        return None
    if mode == "naive":
        say(NAIVE)
    tuning = tuning_of(options, settings.class_weight, settings.random_state)
    if mode == "none":
        if tuning.is_frozen:
            return None
        check_joint(settings, tuning)
        return StagingSettings(JOINT, tuning=tuning)
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
        "joint": f"{parent} and the network were trained together on {sizes} rows.",
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
