"""The ``twostage`` command: its subcommands, and how errors become exit codes."""

import logging
import os
import warnings
from contextlib import nullcontext
from typing import Any

import click

from twostage import __version__
from twostage.cli.backbones import backbones
from twostage.cli.benchmark import benchmark
from twostage.cli.cache import cache
from twostage.cli.demo import demo
from twostage.cli.evaluate import evaluate
from twostage.cli.extract import extract
from twostage.cli.finetune import finetune
from twostage.cli.fit import fit
from twostage.cli.output import results_apart, say
from twostage.cli.predict import predict
from twostage.cli.report import report
from twostage.errors import TwoStageError

INTERRUPTED = 130


class _Group(click.Group):
    """A group that turns twostage's errors into one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # in the order of the work

    def invoke(self, ctx: click.Context) -> Any:
        asks_for_help = {"-h", "--help"} & {*ctx.args, *ctx._protected_args}
        try:
            with nullcontext() if asks_for_help else results_apart():
                return super().invoke(ctx)
        except TwoStageError as error:
            say(f"Error: {error}")
            ctx.exit(error.exit_code)
        except BrokenPipeError:
            raise  # the reader, `head` say, has enough: click ends without a word
        except OSError as error:
            say(f"Error: {error.strerror or error}: '{error.filename}'. Check path and rights.")
            ctx.exit(TwoStageError.exit_code)
        except KeyboardInterrupt:
            say("Interrupted. Run the same command again: what is finished stays.")
            ctx.exit(INTERRUPTED)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="twostage")
def main() -> None:
    """From photos and a table to a model you can trust.

    \b
    1. twostage extract PHOTOS -o STORE     embed each image once
    2. twostage fit STORE --table T.csv --target COLUMN -o MODEL
    3. twostage predict MODEL --table NEW.csv --images PHOTOS -o PREDICTIONS.csv

    'twostage benchmark' tells what the images add to the table, and which head does best, and
    'twostage report' puts it on a page to read. 'twostage demo' shows
    the whole story in about a minute, without any data.

    \b
    Exit codes: 0 done; 1 the content is wrong; 2 the command is wrong;
    3 done, but some images were unreadable; 130 interrupted.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd files: their rows tell
    logging.getLogger("twostage").setLevel(logging.INFO)


_IN_ORDER = (extract, finetune, fit, predict, evaluate, benchmark, report, demo, backbones, cache)
for _command in _IN_ORDER:
    main.add_command(_command)
