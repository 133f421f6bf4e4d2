"""``twostage demo``: the whole story on images it makes itself."""

import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from twostage.cli.options import random_state_option
from twostage.cli.output import print_result
from twostage.errors import UsageError

if TYPE_CHECKING:
    from twostage.metrics import Score

_BACKBONE = "--backbone mobilenet_v2_035 --weights random --image-size 96"
_FIT = "--table {0}/table.csv --image-col photo --target malignant"
_ARMS = {"images": "images alone", "table": "table alone", "both": "both together"}


@click.command()
@click.option(
    "-o",
    "--output",
    default="twostage-demo",
    show_default=True,
    metavar="DIR",
    help="Folder to make.",
)
@random_state_option
@click.pass_context
def demo(ctx: click.Context, output: str, random_state: int) -> None:
    """Show the whole story on images made for it, offline, in about a minute.

    It draws 620 pictures and a table, neither of which tells the whole truth, embeds the pictures
    with a small untrained CNN, compares a model that sees the pictures with one that sees the
    table and one that sees both, and predicts for new rows. It runs the commands that you would.
    """
    started = time.perf_counter()
    folder = Path(output)
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise UsageError(f"'{output}' is not empty. Give a new folder with -o.")
    from twostage.demo import N_IMAGES, make_demo_data
    from twostage.model import read_model

    make_demo_data(folder, random_state)
    here = shlex.quote(output)
    print_result(f"{output}: {N_IMAGES} labelled pictures of moles, and a table of their owners.")
    _run(ctx, f"extract {here} -o {here}/store {_BACKBONE}")
    scores = {}
    for features in _ARMS:
        model = f"{here}/model-{features}"
        fit = _FIT.format(here)
        _run(ctx, f"fit {here}/store {fit} --features {features} -o {model}")
        held_out = read_model(folder / f"model-{features}").holdout
        assert held_out is not None
        scores[features] = held_out.scores["auc"]
    source = f"--table {here}/new.csv --images {here}"
    _run(ctx, f"predict {here}/model-both {source} -o {here}/predictions.csv")
    print_result(f"\nAUC on the same held-out rows:\n{compare(scores)}")
    print_result(f"\nAll that took {time.perf_counter() - started:.0f} s. To continue:")
    print_result(f"  head {here}/predictions.csv")
    print_result("  twostage extract YOUR_PHOTOS -o STORE")


def compare(scores: "dict[str, Score]") -> str:
    """Put the three scores side by side, and say whether both blocks together win."""
    lines = [f"  {_ARMS[features]:15}{score}" for features, score in scores.items()]
    best = max(("images", "table"), key=lambda features: scores[features].value)
    gain = scores["both"].value - scores[best].value
    if gain > 0:
        lines.append(f"Both together beat {_ARMS[best]} by {gain:.3f}.")
    else:
        lines.append(f"Both together do not beat {_ARMS[best]} here ({gain:+.3f}).")
    return "\n".join(lines)


def _run(ctx: click.Context, command: str) -> None:
    """Show a command, and run it as if it had been typed."""
    print_result(f"\n$ twostage {command}")
    root = ctx.find_root().command
    assert isinstance(root, click.Group)
    status = root.main(shlex.split(command), prog_name="twostage", standalone_mode=False)
    if status:
        ctx.exit(status)
