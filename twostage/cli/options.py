"""Options that several commands share."""

from collections.abc import Callable, Collection
from typing import Any

import click

from twostage.errors import UsageError
from twostage.images.patterns import is_pattern
from twostage.pixels import MAX_PIXELS
from twostage.remote import is_url

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class ImagesType(click.ParamType[str]):
    """Where images live: what exists on this machine, a pattern of files, or a URL."""

    name = "images"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is, if it may exist."""
        if is_url(value) or is_pattern(value):
            return str(value)
        return str(click.Path(exists=True).convert(value, param, ctx))


class StoreType(click.ParamType[str]):
    """Where a store is: a folder of this machine, or a URL."""

    name = "store"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return it as it is, if it may exist."""
        if is_url(value):
            return str(value)
        return str(click.Path(exists=True, file_okay=False).convert(value, param, ctx))


IMAGES = ImagesType()
PLACES = "a folder, a list of files, a tar, a Parquet file of their bytes, or a URL of such"
TABLE = click.Path(exists=True)
A_TABLE = "a CSV or Parquet table, or a folder of Parquet files,"
STORE = StoreType()
SEED = click.IntRange(0, 2**32 - 1)


def together(*decorators: Decorator) -> Decorator:
    """Make one decorator of several, in the order that --help shows."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def refuse_given(ctx: click.Context, allowed: Collection[str], what: str) -> None:
    """Raise UsageError if an option is given that is of no use there.

    Parameters
    ----------
    ctx : click.Context
        Of the command.
    allowed : collection of str
        Parameters that may be given.
    what : str
        What the others are of no use for, in words.
    """
    given = [
        parameter.opts[0]
        for parameter in ctx.command.params
        if parameter.name not in allowed
        and ctx.get_parameter_source(str(parameter.name)) is click.core.ParameterSource.COMMANDLINE
    ]
    if given:
        them = "it" if len(given) == 1 else "them"
        raise UsageError(f"{', '.join(given)}: of no use for {what}. Leave {them} out.")


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

decoding_options = together(
    click.option(
        "--workers", type=click.IntRange(1), help="Threads that decode; one per core by default."
    ),
    click.option(
        "--max-pixels",
        type=click.IntRange(1),
        default=MAX_PIXELS,
        show_default=True,
        metavar="N",
        help="Of width times height: a larger image counts as unreadable, for a small file may "
        "fill the memory.",
    ),
)
run_options = together(
    click.option(
        "--batch-size",
        type=click.IntRange(1),
        help="Images that go through the backbone at once; by default what suits the engine.",
    ),
    decoding_options,
    click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "gpu"]),
        default="auto",
        show_default=True,
        help="Where the backbone runs.",
    ),
)


def executor_option(what: str) -> Decorator:
    """Return an option for where something happens."""
    return click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help=f"Where {what}: in this process, or by the workers of a Ray cluster.",
    )


cluster_options = together(
    click.option(
        "--address",
        metavar="HOST:PORT",
        help="Of the Ray cluster: also ray://HOST:PORT, or auto for the one that this machine is "
        "a node of. By default that of RAY_ADDRESS, or else a cluster of this machine alone.",
    ),
    click.option(
        "--ray-workers",
        type=click.IntRange(1),
        metavar="N",
        help="Workers in the cluster, at most; those without room are waited for. By default as "
        "many as there is room for.",
    ),
    click.option(
        "--cpus-per-worker",
        type=click.IntRange(1),
        metavar="N",
        help="Cores of one of them; by default all of the smallest node, up to 8.",
    ),
)

executor_options = together(
    executor_option("images are embedded"),
    cluster_options,
    click.option(
        "--gpus-per-worker",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        help="GPUs of one of them; by default none.",
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
    click.option(
        "--sequence",
        multiple=True,
        metavar="COL",
        help="Take it as sequences: lists of numbers, or of steps of several.",
    ),
    click.option("--ignore", multiple=True, metavar="COL", help="Leave it out."),
)
ROLES = ("numeric", "categorical", "date", "text", "vector", "sequence", "ignore")

long_option = click.option(
    "--sequences",
    type=TABLE,
    metavar="FILE",
    help="A long table, CSV or Parquet, with a row per step: joined to the table as a column of "
    "sequences.",
)
slower_option = click.option(
    "--slower",
    type=TABLE,
    metavar="FILE",
    help="A second long table, measured less often: its columns become channels, aligned in time.",
)
OF_LONG_TABLES = (
    *("sequences", "sequence_id", "step", "channel", "slower", "slower_channel", "align"),
)  # what `sequence_options` are called in Python
sequence_options = together(
    long_option,
    click.option(
        "--sequence-id", metavar="COL", help="Its column of ids, called so in the table too."
    ),
    click.option("--step", metavar="COL", help="Its column of the steps' order: numbers or dates."),
    click.option(
        "--channel",
        multiple=True,
        metavar="COL",
        help="Its columns that are channels; by default all others of numbers.",
    ),
    slower_option,
    click.option(
        "--slower-channel",
        multiple=True,
        metavar="COL",
        help="Columns of that which are channels; by default all others of numbers.",
    ),
    click.option(
        "--align",
        type=click.Choice(["asof", "linear"]),
        default="asof",
        show_default=True,
        help="What it says at a step: its last value by then, or what is on the line to the next.",
    ),
)

NETWORK = ("fusion", "text_encoder", "sequence_encoder")  # parameters of the head joint
network_options = together(
    click.option(
        "--fusion",
        type=click.Choice(["concat", "repeat", "attention"]),
        help="How the head joint lets sequences meet the other columns: side by side (its "
        "default); what comes of the others repeated at each step; or attention on the steps, with "
        "the others as its context.",
    ),
    click.option(
        "--text-encoder",
        type=click.Choice(["average", "lstm"]),
        help="What the head joint makes of the words of a text: the average of their vectors, and "
        "the maximum (its default), or what a bidirectional LSTM reads.",
    ),
    click.option(
        "--sequence-encoder",
        type=click.Choice(["lstm", "gru", "cnn"]),
        help="What the head joint reads sequences with; lstm by default.",
    ),
)

text_options = together(
    click.option(
        "--stop-words",
        metavar="english|FILE",
        help="Words that texts are read without: scikit-learn's English list, or those of a text "
        "file; by default none.",
    ),
    click.option(
        "--word-vectors",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="What words mean, for the head joint to start from: a text file with a word and its "
        "numbers in each line (GloVe, .vec), or word2vec's binary format, maybe packed (.gz).",
    ),
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
    text_options,
    click.option(
        "--image-pooling",
        type=click.Choice(["mean", "max", "first"]),
        default="mean",
        show_default=True,
        help="What becomes of several images in a row.",
    ),
)

TUNING = (
    *("epochs", "unfreeze", "gradual", "learning_rate", "lr_decay", "weight_decay", "warmup"),
    *("augment", "randaugment", "mixup", "copies", "loss", "label_smoothing", "dropout"),
    "patience",
)  # what `tuning_options` are called in Python
tuning_options = together(
    click.option(
        "--epochs", type=click.IntRange(0), default=10, show_default=True, help="Passes, at most."
    ),
    click.option(
        "--unfreeze",
        metavar="N|all|BLOCK|none",
        default="all",
        show_default=True,
        help="What is trained: the last N blocks, all, or those from BLOCK on; with --head joint "
        "also none.",
    ),
    click.option(
        "--gradual", is_flag=True, help="Let blocks join in three steps, the last ones first."
    ),
    click.option(
        "--lr",
        "learning_rate",
        type=click.FloatRange(0, 1),
        default=3e-4,
        show_default=True,
        help="Learning rate of the top and the last block; it warms up and falls as a cosine.",
    ),
    click.option(
        "--lr-decay",
        type=click.FloatRange(0, 1),
        default=0.9,
        show_default=True,
        help="Factor on it from each block to the one before.",
    ),
    click.option(
        "--weight-decay",
        type=click.FloatRange(0, 1),
        default=0.01,
        show_default=True,
        help="AdamW's.",
    ),
    click.option(
        "--warmup",
        type=click.FloatRange(0, 1),
        default=0.1,
        show_default=True,
        help="Share of the steps in which the learning rate rises.",
    ),
    click.option(
        "--augment",
        type=click.Choice(["natural", "medical", "none"]),
        default="natural",
        show_default=True,
        help="How images are changed at each look: photos of things, which have an up and a down "
        "and colours that vary; samples under a lens, which have no up, and colours that tell; not "
        "at all.",
    ),
    click.option(
        "--randaugment", is_flag=True, help="Change them further, by RandAugment; slower."
    ),
    click.option(
        "--mixup",
        type=click.FloatRange(0, 10),
        default=0.0,
        metavar="ALPHA",
        help="Mix pairs of images; 0.2 is usual.",
    ),
    click.option(
        "--copies",
        type=click.IntRange(0),
        metavar="N",
        help="With frozen blocks: compute their activations once, for N augmented copies of each "
        "image, and train on those over and over; by default 4, where they take less room than "
        "pixels. 0 computes them at each look.",
    ),
    click.option(
        "--loss",
        type=click.Choice(["crossentropy", "focal"]),
        default="crossentropy",
        show_default=True,
        help="Of classes.",
    ),
    click.option(
        "--label-smoothing",
        type=click.FloatRange(0, 0.99),
        default=0.0,
        help="Share of the truth that is spread over all classes.",
    ),
    click.option(
        "--dropout",
        type=click.FloatRange(0, 0.99),
        default=0.2,
        show_default=True,
        help="Of the embedding, before a linear top; the head joint has its own.",
    ),
    click.option(
        "--patience",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        help="Epochs without a better score after which it ends.",
    ),
)

tuning_batch_option = click.option(
    "--tuning-batch-size",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Images to a step of tuning.",
)
target_from_folder_option = click.option(
    "--target-from-folder",
    is_flag=True,
    help="Without a table: the target is the name of the folder an image is in.",
)
image_col_option = click.option(
    "--image-col", multiple=True, metavar="COL", help="Column of paths; repeatable."
)
task_options = together(
    click.option(
        "--task",
        type=click.Choice(["auto", "classification", "regression"]),
        default="auto",
        show_default=True,
        help="What the target is; auto tells it from its values.",
    ),
    click.option("--log-target", is_flag=True, help="Learn the logarithm of a positive target."),
)
group_option = click.option(
    "--group", metavar="COL", help="Rows of one group are never split apart."
)
class_weight_option = click.option(
    "--class-weight",
    type=click.Choice(["balanced"]),
    help="Let rare classes count as much as common ones, wherever anything is trained.",
)
tune_option = click.option(
    "--tune",
    type=click.IntRange(0),
    metavar="N",
    default=0,
    help="Try N settings of a head, each time in those rows alone that it is trained on.",
)
allow_seen_option = click.option(
    "--allow-seen",
    is_flag=True,
    help="Train also on rows that a tuned backbone was trained on; they are never scored.",
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
