"""``twostage benchmark``: which head, and do the images help?"""

import shlex
import sys
from dataclasses import asdict
from math import isnan
from typing import TYPE_CHECKING, Any

import click

from twostage.cli.embedded import check_columns, kind_in, with_embedded
from twostage.cli.fit import asked_of_networks, listed_images
from twostage.cli.live import cells_told
from twostage.cli.options import (
    A_TABLE,
    IMAGES,
    NETWORK,
    PLACES,
    STORE,
    TABLE,
    TUNING,
    allow_seen_option,
    class_weight_option,
    group_option,
    image_col_option,
    json_option,
    network_options,
    quiet_option,
    random_state_option,
    recipe_options,
    role_options,
    sequence_options,
    target_from_folder_option,
    task_options,
    tune_option,
    tuning_batch_option,
    tuning_options,
)
from twostage.cli.output import UNREADABLE, plural, print_json, print_result, say
from twostage.cli.sequences import join_to_learn
from twostage.cli.staging import BATCH, given_options, tuning_of
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.benchmarking import Benchmark


@click.command()
@click.argument("stores", type=STORE, nargs=-1, metavar="STORE...")
@click.option(
    "-o",
    "--output",
    required=True,
    metavar="RESULTS",
    help="Folder to make, or to go on with: results.parquet, oof.parquet, importance.parquet, "
    "run.json.",
)
@click.option("--table", type=TABLE, help=f"The rows: {A_TABLE} with the target.")
@click.option("--target", metavar="COL", help="Column to predict.")
@target_from_folder_option
@image_col_option
@click.option(
    "--heads",
    metavar="NAMES",
    default="lightgbm,keras",
    show_default=True,
    help="Heads to compare, with commas between; each as for --head of fit. With --images, joint "
    "trains the backbone in each fold, joint:BLOCK from that block on, joint:none leaves it as it "
    "is; linear:crossfit tunes it as fit --finetune does.",
)
@click.option(
    "--images", type=IMAGES, help=f"For heads that train a backbone, beside STORE: {PLACES}."
)
@network_options
@click.option(
    "--features",
    metavar="NAMES",
    help="What they see: some of table,images,both; by default all that there is.",
)
@click.option(
    "--metrics",
    metavar="NAMES",
    help="With commas between; the first is the main one. By default all that fit the target.",
)
@click.option(
    "--folds",
    "n_folds",
    type=click.IntRange(2),
    metavar="N",
    help="Folds; of --time the steps after the first part.  [default: 5]",
)
@click.option(
    "--repeats",
    "n_repeats",
    type=click.IntRange(1),
    metavar="N",
    default=1,
    show_default=True,
    help="How often the rows are cut into folds anew.",
)
@group_option
@click.option(
    "--time",
    "time_column",
    metavar="COL",
    help="Train on the past, test on what follows: a column of dates or numbers.",
)
@click.option(
    "--split",
    metavar="COL",
    help="A column of fold names, or of 'train' and 'test', instead of folds by chance.",
)
@click.option(
    "--near-duplicates",
    metavar="COSINE|off",
    default="0.95",
    show_default=True,
    help="Rows whose images' embeddings, less their mean, are this much alike stay in one fold. "
    "Rows with images of equal bytes always do.",
)
@task_options
@class_weight_option
@tune_option
@allow_seen_option
@click.option(
    "--importance/--no-importance",
    default=True,
    show_default=True,
    help="Tell what the images as a block and each column are worth to heads that see the table: "
    "by how much scores drop if test rows get another row's.",
)
@click.option(
    "--n-jobs",
    type=click.IntRange(1),
    metavar="N",
    help="Processes, which share the cores; one per core by default. Scores do not depend on it.",
)
@tuning_options
@tuning_batch_option
@role_options
@sequence_options
@recipe_options
@random_state_option
@quiet_option
@json_option
@click.pass_context
def benchmark(
    ctx: click.Context,
    /,
    stores: tuple[str, ...],
    output: str,
    table: str | None,
    target_from_folder: bool,
    quiet: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare heads on the table, the images and both, on the same folds.

    Everything is learned inside the fold, as 'twostage fit' learns it. Each finished cell is
    written at once: run the same command again to go on after an interruption. STORE is made by
    'twostage extract'; several are compared.
    """
    from twostage.benchmarking import benchmark as compare
    from twostage.cli.fit import fit_settings
    from twostage.table.files import read_table, table_from_folders

    kind = kind_in(stores)
    _check_combination(stores, table, target_from_folder, options, kind)
    if target_from_folder:
        frame = table_from_folders(listed_images(stores[0], None))
    else:
        frame = read_table(str(table))
    common = options | _AS_IN_FIT | dict.fromkeys(NETWORK)
    frame, chosen = join_to_learn(frame, fit_settings(common, target_from_folder), options, quiet)
    chosen = with_embedded(chosen, kind)
    settings = dict(vars(chosen))
    told_of_tuning = given_options(ctx, (*TUNING, BATCH))
    tuning = tuning_of(options, options["class_weight"], options["random_state"])
    for name in ("head", "features", "n_jobs"):
        del settings[name]
    given = [name for name in (options["features"] or "").split(",") if name]
    with cells_told(quiet) as progress:
        found = compare(
            stores,
            output,
            table=frame,
            heads=_heads(options),
            features=given or None,
            metrics=_names(options["metrics"] or ""),
            n_folds=options["n_folds"] or 5,
            n_repeats=options["n_repeats"],
            time_column=options["time_column"],
            split=options["split"],
            near_duplicates=_threshold(options["near_duplicates"]),
            images=options["images"],
            finetuning=asdict(tuning) if options["images"] or told_of_tuning else None,
            importance=options["importance"],
            n_jobs=options["n_jobs"],
            command=shlex.join(["twostage", *sys.argv[1:]]),
            progress=progress,
            told=None if quiet else say,
            **settings,
        )
    if as_json:
        print_json(_record(found))
    else:
        print_result(describe(found, frame))
    n_unusable = found.run["counts"]["n_unreadable"]
    if n_unusable:
        say(f"{plural(n_unusable, 'row')} with an unusable image, whose embedding is missing.")
        ctx.exit(UNREADABLE)


_N_TOP = 5
_AS_IN_FIT = {"head": "lightgbm", "features": "both"}  # of the settings that arms have in common


def describe(found: "Benchmark", frame: "pd.DataFrame") -> str:
    """Put a benchmark in words: its rows, a line per arm, and what follows."""
    lines = [*_row_lines(found), "", *_arm_lines(found), ""]
    lines += [finding.sentence for finding in found.findings]
    lines += _importance_lines(found)
    cells = len(found.run["arms"]) * len(found.run["folds"])
    was_there = cells - found.n_computed
    rest = f" ({was_there} of {cells} cells were there)" if was_there else ""
    lines.append(f"Saved {found.path}{rest}: {found.run['seconds']:.0f} s.")
    return "\n".join(lines)


def _row_lines(found: "Benchmark") -> list[str]:
    """Tell which rows are scored, and which are not."""
    run, counts = found.run, found.run["counts"]
    how = run["identity"]["resampling"]
    n_folds = len(run["folds"])
    cut = f"in {plural(n_folds, 'fold')}"
    if how["n_repeats"] > 1:
        cut = f"in {how['n_repeats']} times {n_folds // how['n_repeats']} folds"
    if how["time"]:
        cut += f", each after what trains ('{how['time']}')"
    if how["split"]:
        cut += f" by '{how['split']}'"
    target, rows = run["identity"]["settings"]["target"], plural(counts["n_rows"], "row")
    if counts["n_groups"] < counts["n_rows"]:
        rows += f" in {plural(counts['n_groups'], 'group')}"
    lines = [f"Target '{target}': {run['task']}, {rows}; {counts['n_scored']:,} scored {cut}."]
    if counts["n_rows_with_equal_images"]:
        lines.append(
            f"{plural(counts['n_rows_with_equal_images'], 'row')} share images of equal bytes with "
            "another row; those stay in one fold."
        )
    if counts["n_near_duplicate_pairs"]:
        kept = "those stay in one fold" if counts["near_duplicates_joined"] else "not kept together"
        lines.append(
            f"{plural(counts['n_near_duplicate_pairs'], 'pair')} of rows with nearly equal images; "
            f"{kept}."
        )
    if counts["n_seen"]:
        lines.append(
            f"{plural(counts['n_seen'], 'row')} that a tuned backbone has seen, or their group's: "
            "not scored."
        )
    if counts["n_kin_left_out"]:
        lines.append(
            f"{plural(counts['n_kin_left_out'], 'training row')} left out, whose groups are "
            "tested in the same fold."
        )
    n_untested = counts["n_rows"] - counts["n_seen"] - counts["n_scored"]
    if n_untested and not (how["time"] or how["split"]):
        lines.append(
            f"{plural(n_untested, 'row')} not scored: their class is in one group, and training "
            "would not know it."
        )
    if counts["n_unlearnable"]:
        lines.append(
            f"{plural(counts['n_unlearnable'], 'row')} not scored: of classes that are not in "
            "what trains."
        )
    return lines


def _arm_lines(found: "Benchmark") -> list[str]:
    """Return a table of the arms: score, interval, costs."""
    from twostage.bootstrap import short

    summary = found.summary
    metric = str(summary["metric"].iloc[0])
    header = ["arm", metric, "95% interval", "fit", "predict/row", "model"]
    rows = [header]
    for arm in summary.to_dict("records"):
        low, high = arm["low"], arm["high"]
        interval = "of one fold" if isnan(low) else f"{short(low)} to {short(high)}"
        cost = (f"{arm['fit_seconds']:.1f} s", f"{arm['predict_us_per_row']:.0f} us")
        size = _size(arm["model_bytes"])
        rows.append([arm["arm"], short(arm["value"]), interval, *cost, size])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return ["  ".join(cells) for cells in padded]


def _importance_lines(found: "Benchmark") -> list[str]:
    """Tell what is worth the most to the first head, where it sees the most."""
    from twostage.bootstrap import short

    told = found.importance
    first = [arm for arm in found.run["arms"] if arm["head"] == found.run["arms"][0]["head"]]
    richest = sorted(first, key=lambda arm: arm["features"] != "both")
    names = [arm["name"] for arm in richest if (told["arm"] == arm["name"]).any()]
    if not names:
        return []
    of_arm = told[told["arm"] == names[0]].to_dict("records")
    metric = str(found.summary["metric"].iloc[0])
    parts = [f"{one['name']} {short(one['value'])}{_within(one)}" for one in of_arm[:_N_TOP]]
    more = f"; {len(of_arm) - _N_TOP} more in importance.parquet" if len(of_arm) > _N_TOP else ""
    line = f"Worth to '{names[0]}', in {metric}: {', '.join(parts)}{more}."
    how = found.run["permutations"]
    if how["made"] < how["asked"]:
        line += f" Of {plural(how['made'], 'permutation')} in place of {how['asked']}"
        left_out = how["largest_share_of_rows_left_out"]
        line += f", of {1 - left_out:.0%} of the rows" if left_out else ""
        line += ", which keeps it cheap."
    return [line]


def _within(one: dict[str, Any]) -> str:
    from twostage.bootstrap import short

    return "" if isnan(one["low"]) else f" ({short(one['low'])} to {short(one['high'])})"


def _size(n_bytes: float) -> str:
    if isnan(n_bytes):
        return "-"
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 1e6 else f"{n_bytes / 1e3:.0f} kB"


def _record(found: "Benchmark") -> dict[str, Any]:
    return {
        "results": str(found.path),
        "arms": found.summary.to_dict("records"),
        "scores": found.scores.to_dict("records"),
        "findings": [asdict(finding) for finding in found.findings],
        "importance": found.importance.to_dict("records"),
        "counts": found.run["counts"],
        "n_cells_computed": found.n_computed,
        "seconds": found.run["seconds"],
    }


def _heads(options: dict[str, Any]) -> dict[str, Any]:
    """Return heads by name, those that are networks of several inputs as asked for in detail."""
    from twostage.evaluation.arms import Trained
    from twostage.heads import make_head

    asked, names = asked_of_networks(options), _names(options["heads"])
    if not asked:
        return dict(zip(names, names, strict=True))
    networks = [name for name in names if "joint" in name.partition(":")[0].split("+")] or names
    made: dict[str, Any] = {}
    for name in names:
        own, colon, how = name.partition(":")
        head = make_head(own, **asked) if name in networks else own
        made[name] = Trained(head, how) if colon else head
    return made


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _threshold(text: str) -> float | None:
    if text == "off":
        return None
    try:
        return float(text)
    except ValueError:
        raise UsageError(
            f"--near-duplicates is a cosine such as 0.95, or off; found '{text}'."
        ) from None


def _check_combination(
    stores: tuple[str, ...],
    table: str | None,
    target_from_folder: bool,
    options: dict[str, Any],
    kind: str,
) -> None:
    is_table_alone = options["features"] == "table"
    if not stores and not is_table_alone:
        raise UsageError("Give a STORE made by 'twostage extract', or --features table.")
    if options["split"] and (options["n_folds"] or options["n_repeats"] > 1):
        raise UsageError("--split says which folds there are; leave --folds and --repeats out.")
    if target_from_folder:
        if table or options["target"] or options["image_col"] or options["sequences"]:
            raise UsageError(
                "--target-from-folder goes without --table, --target, --image-col, --sequences."
            )
        return
    if not table or not options["target"]:
        raise UsageError("Give --table and --target, or --target-from-folder without a table.")
    if not is_table_alone:
        check_columns(kind, options, stores)
