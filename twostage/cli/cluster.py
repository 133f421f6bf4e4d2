"""``twostage fit --executor ray``: what a cluster adds to the command."""

from typing import TYPE_CHECKING, Any

import click

from twostage.cli.options import ROLES, cluster_options, executor_option, refuse_given, together

if TYPE_CHECKING:
    from twostage.executors.ray import RayOptions

_OF_CLUSTER = ("address", "ray_workers", "cpus_per_worker", "sample_rows")
_ALLOWED = {
    *("store", "table", "target", "image_col", "group", "model", "head", "task", "log_target"),
    *("features", "class_weight", "allow_seen", "image_pooling", "scaling", "categories"),
    *("image_features", "components", "stop_words", "random_state", "quiet", "as_json", "executor"),
    *ROLES,
    *_OF_CLUSTER,
}

fit_cluster_options = together(
    executor_option("trees grow, with --head lightgbm"),
    cluster_options,
    click.option(
        "--sample-rows",
        type=click.IntRange(100),
        metavar="N",
        help="With --executor ray: rows whose embeddings and texts are read to learn how these are "
        "encoded, and the number of trees; trees grow on all. By default 100,000.",
    ),
)


def check_cluster(ctx: click.Context, options: dict[str, Any]) -> None:
    """Refuse options of a cluster without one, and those that are of no use on one."""
    if options["executor"] == "ray":
        refuse_given(ctx, _ALLOWED, "a fit on a Ray cluster, which reads a store and a table")
        return
    from twostage.executors.ray import refuse_without_cluster

    refuse_without_cluster(name for name in _OF_CLUSTER if options[name] is not None)


def cluster_of(options: dict[str, Any]) -> "RayOptions":
    """Return where to fit; raise ExecutorError if it can't be reached."""
    from twostage.executors.ray import RayOptions, check_ready

    check_ready(options["address"])
    return RayOptions(options["address"], options["ray_workers"], options["cpus_per_worker"])
