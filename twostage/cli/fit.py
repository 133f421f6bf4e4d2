"""``twostage fit``: a store and a table into a model."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.cluster import check_cluster, cluster_of, fit_cluster_options
from twostage.cli.embedded import check_columns, kind_in, with_embedded
from twostage.cli.options import (
    A_TABLE,
    IMAGES,
    NETWORK,
    PLACES,
    ROLES,
    STORE,
    TABLE,
    allow_seen_option,
    backbone_options,
    class_weight_option,
    group_option,
    image_col_option,
    json_option,
    network_options,
    quiet_option,
    random_state_option,
    recipe_options,
    role_options,
    run_options,
    sequence_options,
    target_from_folder_option,
    task_options,
    tune_option,
    tuning_batch_option,
    tuning_options,
    variant_options,
)
from twostage.cli.output import (
    UNREADABLE,
    log_shown,
    plural,
    print_json,
    print_result,
    say,
    told,
)
from twostage.cli.sequences import join_to_learn, layout_of
from twostage.cli.staging import (
    check_tuning,
    fit_both_stages,
    staging_of,
    tuning_lines,
    tuning_record,
)
from twostage.contents import IMAGE
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.backbones.spec import BackboneSettings
    from twostage.encoders.spec import EncoderSpec
    from twostage.fitted import FitSettings, FittedModel
    from twostage.joins import ImageBlock
    from twostage.staged import AnyModel
    from twostage.store.store import EmbeddingStore
    from twostage.targets import Target

_OF_BACKBONE = (
    *("backbone", "weights", "layer", "pooling", "image_size", "resize", "engine", "precision"),
    "preprocessing",
)


@click.command()
@click.argument("store", type=STORE, required=False)
@click.option("-o", "--output", "model", required=True, metavar="MODEL", help="Folder to make.")
@click.option("--table", type=TABLE, help=f"The rows: {A_TABLE} with the target.")
@click.option("--target", metavar="COL", help="Column to predict.")
@target_from_folder_option
@image_col_option
@click.option("--images", type=IMAGES, help=f"Instead of STORE, {PLACES}.")
@group_option
@click.option(
    "--head",
    metavar="NAME",
    default="lightgbm",
    show_default=True,
    help="lightgbm, keras, linear, random-forest, svm, joint: one network with a branch for each "
    "kind of column, texts and sequences too, trained together with the backbone; or blend: of "
    "linear, lightgbm and, up to 10,000 rows, svm; for more than 20 classes of linear and keras. "
    "Names joined by + are blended.",
)
@network_options
@tune_option
@task_options
@click.option(
    "--features",
    type=click.Choice(["both", "images", "table"]),
    default="both",
    show_default=True,
    help="What the head may see.",
)
@class_weight_option
@allow_seen_option
@click.option(
    "--finetune",
    type=click.Choice(["none", "holdout", "oof-scores", "crossfit", "naive"]),
    default="none",
    show_default=True,
    help="Tune the backbone on these rows too (with --images): on a part of them, the head learns "
    "from the others; out of fold, the head learns from scores; out of fold, a head learns from "
    "each fold, and predictions are averaged; or, to be compared with, all on all.",
)
@click.option(
    "--tuning-folds",
    "n_folds",
    type=click.IntRange(2, 100),
    default=3,
    show_default=True,
    help="Backbones that oof-scores and crossfit tune, each on all rows but a fold.",
)
@click.option(
    "--tuning-share",
    "share",
    type=click.FloatRange(0.05, 0.95),
    default=0.5,
    show_default=True,
    help="Of the rows, those that holdout tunes on.",
)
@tuning_options
@tuning_batch_option
@role_options
@sequence_options
@recipe_options
@backbone_options
@variant_options
@run_options
@fit_cluster_options
@random_state_option
@quiet_option
@json_option
@click.pass_context
def fit(
    ctx: click.Context,
    /,
    store: str | None,
    model: str,
    table: str | None,
    images: str | None,
    target_from_folder: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Train a model on the embeddings in STORE and the columns of a table.

    STORE is of images; or of the texts in --text columns, embedded by an encoder: see 'twostage
    extract --text-col'.

    The score is that of held-out rows, a fifth, which neither training nor early stopping, tuning
    or any encoder saw, nor the tuning of a backbone; the model saved is then trained on all rows.
    """
    from twostage.model import check_destination, write_model

    is_replacing = check_destination(model)
    check_cluster(ctx, options)
    kind = kind_in([store] if store else [], None if images else options["backbone"])
    _check_combination(store, images, table, target_from_folder, options, kind)
    check_tuning(ctx, images, options, kind)
    settings = fit_settings(options, target_from_folder)
    if options["executor"] == "ray":
        fitted, n_unusable = _fit_on_cluster(settings, str(table), store, options, quiet)
    else:
        fitted, n_unusable = _fit_here(
            settings, table, store, images, target_from_folder, kind, options, quiet
        )
    for note in write_model(fitted, model):
        say(note)
    if is_replacing:
        say(f"The older model in '{model}' was replaced.")
    if as_json:
        print_json(_record(fitted, model) | {"n_unusable": n_unusable})
    else:
        print_result(describe(fitted, model))
    if n_unusable:
        what = f"an unusable {fitted.settings.embeds}"
        say(f"{plural(n_unusable, 'row')} with {what}, whose embedding is missing.")
        ctx.exit(UNREADABLE)


def _fit_on_cluster(
    settings: "FitSettings",
    table: str,
    store: str | None,
    options: dict[str, Any],
    quiet: bool,
) -> "tuple[AnyModel, int]":
    """Fit by the workers of a cluster; return the model, and the rows with an unusable image."""
    from twostage.distributed import N_SAMPLED, fit_on_cluster, read_outline

    cluster = cluster_of(options)
    with log_shown(quiet):
        outline = read_outline(table, store, settings)
        _tell_target(outline.target, quiet)
        n_sampled = options["sample_rows"] or N_SAMPLED
        return fit_on_cluster(outline, settings, cluster, n_sampled), outline.n_unusable


def _fit_here(
    settings: "FitSettings",
    table: str | None,
    store: str | None,
    images: str | None,
    target_from_folder: bool,
    kind: str,
    options: dict[str, Any],
    quiet: bool,
) -> "tuple[AnyModel, int]":
    """Fit in this process; return the model, and the rows with an unusable image."""
    from twostage.fitting import NOTHING_SEEN, check_heads, check_table, fit_and_score
    from twostage.sources import check_usable
    from twostage.targets import prepare_target

    how = staging_of(settings, options)
    frame = _read_rows(store, images, table, target_from_folder)
    frame, settings = join_to_learn(frame, settings, options, quiet)
    settings = with_embedded(settings, kind)
    check_table(frame, settings)
    target = prepare_target(frame[settings.target], settings.task, log_target=settings.log_target)
    check_heads(settings, target)
    _tell_target(target, quiet)
    blocks, held = _embed(frame, settings, store, images, options, quiet)
    n_unusable = check_usable(blocks)
    backbone, seen = (None, NOTHING_SEEN) if held is None else (held.spec, held.seen)
    if how is None or held is None:
        with log_shown(quiet):
            return fit_and_score(frame, blocks, target, settings, backbone, seen), n_unusable
    asked = _backbone_settings(options)
    fitted = fit_both_stages(
        frame, blocks, target, settings, how, held, str(images), asked, options, quiet
    )
    return fitted, n_unusable


def _tell_target(target: "Target", quiet: bool) -> None:
    """Tell how the target was taken, and of classes that are too rare."""
    if target.note and not quiet:
        say(f"{target.note} Use --task {target.other_task} for the other.")
    if target.rare_classes and not quiet:
        rare = ", ".join(f"'{label}' ({n})" for label, n in list(target.rare_classes.items())[:5])
        say(
            f"{plural(len(target.rare_classes), 'class')} of fewer rows than folds, too few to be "
            f"learned and scored well: {rare}."
        )


def describe(fitted: "AnyModel", path: str) -> str:
    """Put a fitted model in words."""
    settings, held_out = fitted.settings, fitted.holdout
    told_of_tuning = tuning_lines(fitted)
    lines = [
        f"Target '{settings.target}': {settings.task}{_classes(fitted)}, "
        f"{plural(fitted.n_rows, 'row')}.",
        *_seen_lines(fitted),
        *told_of_tuning,
        *_feature_lines(fitted),
        *(line for part in fitted.parts for line in _head_lines(part)),
    ]
    if held_out is not None:
        blind = "tuning, " if told_of_tuning else ""
        kept = "" if held_out.n_groups == held_out.n_rows else f" ({held_out.n_groups:,} groups)"
        lines.append(
            f"Score on {held_out.n_rows:,} held-out rows{kept}, which {blind}training, early "
            f"stopping and encoders did not see ({held_out.n_training_rows:,} rows did the "
            "training):"
        )
        lines += [f"  {name:18}{score}" for name, score in held_out.scores.items()]
    anew = "trained" if held_out is None else "trained anew"
    lines.append(f"Saved {path}, {anew} on all {fitted.n_rows:,} rows.")
    return "\n".join(lines)


def _seen_lines(fitted: "AnyModel") -> list[str]:
    """Tell of rows that a tuned backbone was trained on."""
    if not fitted.n_seen:
        return []
    if not fitted.settings.allow_seen:
        return [
            f"Left out: {plural(fitted.n_seen, 'row')} that the tuned backbone has seen with their "
            "labels, or their groups'."
        ]
    none = "" if fitted.holdout else " Nothing is left to score."
    return [
        f"Seen by the tuned backbone, with their labels or their groups': {fitted.n_seen:,} of "
        f"these rows; trained on (--allow-seen), not scored.{none}"
    ]


def _head_lines(fitted: "FittedModel") -> list[str]:
    """Tell of heads that are not simply the one that was asked for."""
    from twostage.heads import heads_of, name_of

    lines = []
    if len(fitted.members) > 1 or len(heads_of(fitted.settings.head)) > 1:
        weighted = [
            f"{weight:.2f} {name_of(member.head)}"
            for weight, member in zip(fitted.weights, fitted.members, strict=True)
        ]
        n_classes = None if fitted.classes is None else len(fitted.classes)
        asked = [name_of(head) for head in heads_of(fitted.settings.head, fitted.n_rows, n_classes)]
        left_out = Counter(asked) - Counter(name_of(member.head) for member in fitted.members)
        rest = f" ({', '.join(left_out)} got no weight)" if left_out else ""
        lines.append(f"Blend: {' + '.join(weighted)}{rest}.")
    if fitted.settings.n_tuned:
        lines += [f"Tuned: {member.head}." for member in fitted.members]
    return lines


def _feature_lines(fitted: "AnyModel") -> list[str]:
    kind, maker = fitted.settings.embeds.capitalize(), _backbone_name(fitted)
    lines = [
        f"{kind} column '{column}': {dim} numbers from {maker}."
        for column, dim in fitted.dims.items()
    ]
    by_role: dict[str, list[str]] = {}
    for column in fitted.columns:
        reason = f" ({column.reason})" if column.reason else ""
        count = f" ({column.n_values:,})" if column.n_values else ""
        by_role.setdefault(column.role, []).append(column.name + count + reason)
    for role, columns in sorted(by_role.items(), reverse=True):
        lines.append(f"{role.capitalize()}: {', '.join(columns)}.")
    return lines


def _backbone_name(fitted: "AnyModel") -> str:
    from twostage.encoders.spec import read_spec

    if len(fitted.backbones) > 1 and len(fitted.parts) > 1:
        return "each backbone"
    if not fitted.backbones:
        return "a store"
    return read_spec(fitted.backbones[0], "the model").name


def _classes(fitted: "AnyModel") -> str:
    if fitted.classes is None:
        return ""
    names = [str(label) for label in fitted.classes]
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f" into {len(names)} classes ({shown})"


def _record(fitted: "AnyModel", path: str) -> dict[str, Any]:
    weights = [part.weights for part in fitted.parts]
    return {
        "model": path,
        "settings": fitted.settings.record(),
        "classes": None if fitted.classes is None else fitted.classes.tolist(),
        "columns": [asdict(column) for column in fitted.columns],
        "image_columns": fitted.dims,
        "weights": weights if len(weights) > 1 else weights[0],
        "n_rows": fitted.n_rows,
        "n_seen": fitted.n_seen,
        **tuning_record(fitted),
        "holdout": None if fitted.holdout is None else asdict(fitted.holdout),
    }


def _check_combination(
    store: str | None,
    images: str | None,
    table: str | None,
    target_from_folder: bool,
    options: dict[str, Any],
    kind: str,
) -> None:
    if store and images:
        raise UsageError("Give STORE or --images, not both.")
    if not store and not images and options["features"] != "table" and kind == IMAGE:
        raise UsageError("Give a STORE made by 'twostage extract', or --images with their folder.")
    if target_from_folder:
        if table or options["target"] or options["image_col"]:
            raise UsageError("--target-from-folder goes without --table, --target, --image-col.")
        if options["features"] == "table" or options["sequences"]:
            raise UsageError(
                "--target-from-folder has no table; leave --features table and --sequences out."
            )
        return
    if not table or not options["target"]:
        raise UsageError("Give --table and --target, or --target-from-folder without a table.")
    if options["features"] != "table":
        check_columns(kind, options, [store] if store else [])


def _read_rows(
    store: str | None, images: str | None, table: str | None, target_from_folder: bool
) -> "pd.DataFrame":
    from twostage.table.files import read_table, table_from_folders

    if table is not None and not target_from_folder:
        return read_table(table)
    return table_from_folders(listed_images(store, images))


def listed_images(store: str | None, images: str | None) -> list[str]:
    """Return the names of all images in a store or another place."""
    from twostage.images.places import open_place
    from twostage.store.store import EmbeddingStore

    if store is not None:
        return sorted(EmbeddingStore(store).index()["image"].to_pylist())
    return [reference.image for reference in open_place(str(images)).list_images()]


def fit_settings(options: dict[str, Any], target_from_folder: bool) -> "FitSettings":
    """Return how stage two is fitted, by the options of a command."""
    from twostage.fitted import FitSettings
    from twostage.table.files import FOLDER_COLUMN, IMAGE_COLUMN
    from twostage.table.roles import RoleOverrides

    return FitSettings(
        target=FOLDER_COLUMN if target_from_folder else options["target"],
        image_columns=(IMAGE_COLUMN,) if target_from_folder else options["image_col"],
        group=options["group"],
        head=_head(options),
        task=options["task"],
        features=options["features"],
        log_target=options["log_target"],
        roles=RoleOverrides(**{name: options[name] for name in ROLES}),
        recipe=_recipe(options),
        image_pooling=options["image_pooling"],
        class_weight=options["class_weight"],
        n_tuned=options["tune"],
        allow_seen=options["allow_seen"],
        sequences=layout_of(options),
        random_state=options["random_state"],
    )


def _head(options: dict[str, Any]) -> Any:
    """Return the head by name, or as it was asked for in detail."""
    from twostage.heads import make_head

    asked = asked_of_networks(options)
    return make_head(options["head"], **asked) if asked else options["head"]


def asked_of_networks(options: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of networks of several inputs that were given."""
    return {name: options[name] for name in NETWORK if options[name] is not None}


def _recipe(options: dict[str, Any]) -> dict[str, Any]:
    wishes = {
        "scaling": options["scaling"],
        "categories": options["categories"],
        "many_categories": options["categories"],
        "blocks": options["image_features"],
        "n_components": options["components"],
        "stop_words": options["stop_words"],
        "word_vectors": options["word_vectors"],
    }
    return {name: wish for name, wish in wishes.items() if wish is not None}


def _backbone_settings(options: dict[str, Any]) -> "BackboneSettings":
    from twostage.backbones.spec import BackboneSettings

    chosen = {name: options[name] for name in _OF_BACKBONE}
    return BackboneSettings(**chosen, random_state=options["random_state"])


def _wanted(settings: "FitSettings", options: dict[str, Any]) -> "BackboneSettings | EncoderSpec":
    from twostage.encoders.lazy import find_spec

    if settings.embeds != IMAGE:
        given = [f"--{name.replace('_', '-')}" for name in _OF_BACKBONE[1:] if options[name]]
        if given:
            raise UsageError(f"{', '.join(given)}: of no use for an encoder of {settings.embeds}s.")
    return find_spec(options["backbone"], options["device"]) or _backbone_settings(options)


def _embed(
    frame: "pd.DataFrame",
    settings: "FitSettings",
    store: str | None,
    images: str | None,
    options: dict[str, Any],
    quiet: bool,
) -> "tuple[dict[str, ImageBlock], EmbeddingStore | None]":
    """Return the embeddings of the table's images, and the store that they are from."""
    from twostage.extraction import ExtractionOptions
    from twostage.sources import blocks_from_files, blocks_from_store
    from twostage.store.store import EmbeddingStore

    if store is None and images is None and settings.embeds == IMAGE:
        return {}, None
    if store is not None:
        given = [f"--{name.replace('_', '-')}" for name in _OF_BACKBONE if options[name]]
        if given:
            raise UsageError(f"{', '.join(given)}: the store has its backbone already.")
        held = EmbeddingStore(store)
        blocks, notes = blocks_from_store(
            frame, settings.image_columns, held, pooling=settings.image_pooling
        )
        for note in notes:
            say(note)
        return blocks, held
    with told(quiet, settings.embeds) as progress:
        how = ExtractionOptions(
            options["batch_size"],
            options["workers"],
            options["device"],
            progress=progress,
            max_pixels=options["max_pixels"],
        )
        blocks, cached = blocks_from_files(
            frame,
            settings.image_columns,
            str(images),
            _wanted(settings, options),
            how,
            pooling=settings.image_pooling,
        )
    return blocks, cached
