"""Options that several commands share."""

from collections.abc import Callable
from typing import Any

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

IMAGES = click.Path(exists=True, file_okay=False)
TABLE = click.Path(exists=True, dir_okay=False)
STORE = click.Path(exists=True, file_okay=False)
SEED = click.IntRange(0, 2**32 - 1)


def together(*decorators: Decorator) -> Decorator:
    """Make one decorator of several, in the order that --help shows."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


backbone_options = together(
    click.option(
        "--backbone",
        metavar="NAME|FOLDER|FILE.keras",
        help="CNN that embeds: one that 'twostage backbones' lists, the FOLDER of one that "
        "'twostage finetune' made, or a network of your own, whose top is stripped.",
    ),
    click.option(
        "--weights",
        metavar="imagenet|random|FILE",
        help="Where its weights come from: Keras' ImageNet weights, random, or a file. A .keras "
        "file has its own.",
    ),
    click.option("--layer", metavar="NAME", help="Layer to embed with, if not the penultimate."),
    click.option(
        "--pooling", type=click.Choice(["avg", "max"]), help="How a feature map becomes a vector."
    ),
    click.option(
        "--image-size", type=int, metavar="N", help="Input size in pixels, if not its own."
    ),
    click.option(
        "--preprocessing",
        type=click.Choice(["tf", "unit", "torch", "caffe", "none"]),
        help="How pixels are scaled, where a .keras file does not say it: to -1..1, to 0..1, to "
        "0..1 and then standardised, BGR less the mean, or not at all.",
    ),
    click.option(
        "--resize",
        type=click.Choice(["crop", "squash", "pad"]),
        help="How an image becomes a square: cut its centre, change its aspect ratio, add black.",
    ),
)

variant_options = together(
    click.option(
        "--engine",
        type=click.Choice(["auto", "keras", "openvino"]),
        help="What executes the backbone; auto takes the fastest there is.",
    ),
    click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16", "float16"]),
        help="What it computes in; auto takes bfloat16 only where embeddings stay what they are.",
    ),
)

run_options = together(
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        help="Images that go through the backbone at once; by default what suits the engine.",
    ),
    click.option(
        "--workers", type=click.IntRange(1), help="Threads that decode; one per core by default."
    ),
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "gpu"]),
        default="auto",
        show_default=True,
        help="Where the backbone runs.",
    ),
)

role_options = together(
    click.option("--numeric", multiple=True, metavar="COL", help="Take the column as a number."),
    click.option("--categorical", multiple=True, metavar="COL", help="Take it as a category."),
    click.option("--date", multiple=True, metavar="COL", help="Take it as a date."),
    click.option("--text", multiple=True, metavar="COL", help="Take it as text."),
    click.option(
        "--vector", multiple=True, metavar="COL", help="Take it as ready vectors: lists of numbers."
    ),
    click.option("--ignore", multiple=True, metavar="COL", help="Leave it out."),
)

recipe_options = together(
    click.option(
        "--scaling",
        type=click.Choice(["standard", "minmax", "robust", "quantile", "none"]),
        help="Of numbers; by default what suits the head.",
    ),
    click.option(
        "--categories",
        type=click.Choice(["onehot", "ordinal", "target", "native"]),
        help="How categories are encoded; by default as suits the head and their number.",
    ),
    click.option(
        "--image-features",
        metavar="raw|pca|probe",
        help="What the head sees of embeddings, texts and vectors, several joined by +; by default "
        "what suits the head.",
    ),
    click.option(
        "--components",
        type=click.IntRange(1),
        metavar="N",
        help="Principal components, of pca, of all image columns together.",
    ),
    click.option(
        "--image-pooling",
        type=click.Choice(["mean", "max", "first"]),
        default="mean",
        show_default=True,
        help="What becomes of several images in a row.",
    ),
)

random_state_option = click.option(
    "--random-state",
    type=SEED,
    default=0,
    show_default=True,
    help="Seed of everything random.",
)
json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print the summary as one JSON object."
)
quiet_option = click.option(
    "--quiet", is_flag=True, help="No progress and no notes, only the result."
)
