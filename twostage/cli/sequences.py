"""Sequences on the command line: long tables joined to the table."""

from typing import TYPE_CHECKING, Any

from twostage.cli.output import say
from twostage.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from twostage.fitted import FitSettings
    from twostage.table.long import LongLayout

_ONLY_WITH_LONG = ("sequence_id", "step", "channel", "slower", "slower_channel")


def layout_of(options: dict[str, Any]) -> "LongLayout | None":
    """Return how the long tables that were given hold sequences, if any were.

    Raises
    ------
    UsageError
        If something is said of long tables that are not given, or not enough of those that are.
    """
    from twostage.table.long import LongLayout

    if options["sequences"] is None:
        given = [name for name in _ONLY_WITH_LONG if options[name]]
        if given:
            raise UsageError(
                f"--{given[0].replace('_', '-')} is about a long table: give it as --sequences."
            )
        return None
    if options["sequence_id"] is None or options["step"] is None:
        raise UsageError(
            "--sequences needs --sequence-id, its column of ids, and --step, that of the steps' "
            "order."
        )
    if options["slower_channel"] and options["slower"] is None:
        raise UsageError("--slower-channel is about a second long table: give it as --slower.")
    return LongLayout(
        options["sequence_id"],
        options["step"],
        options["channel"],
        options["slower_channel"],
        options["align"],
    )


def join_to_learn(
    frame: "pd.DataFrame", settings: "FitSettings", options: dict[str, Any], quiet: bool
) -> "tuple[pd.DataFrame, FitSettings]":
    """Join long tables to a table to learn from; the column of ids becomes no feature."""
    from dataclasses import replace

    if settings.sequences is None:
        return frame, settings
    frame, layout = joined(
        frame, settings.sequences, options["sequences"], options["slower"], quiet
    )
    roles = settings.roles
    if roles.role_of(layout.id) is None and layout.id not in settings.reserved():
        roles = replace(roles, ignore=(*roles.ignore, layout.id))
    return frame, replace(settings, sequences=layout, roles=roles)


def join_to_predict(
    frame: "pd.DataFrame",
    settings: "FitSettings",
    sequences: str | None,
    slower: str | None,
    quiet: bool,
) -> "pd.DataFrame":
    """Join long tables to a table to predict for, as those were that the model learned from.

    Raises
    ------
    UsageError
        If the model learned from long tables that are not given, or the other way round.
    """
    layout = settings.sequences
    if layout is None:
        if sequences or slower:
            raise UsageError("The model was not fitted with --sequences: leave them out.")
        return frame
    if sequences is None and layout.name in frame.columns:
        return frame
    if sequences is None:
        raise UsageError(
            f"The model follows sequences: give --sequences with their long table, whose columns "
            f"are '{layout.id}', '{layout.step}' and the channels."
        )
    if layout.slower and not slower:
        raise UsageError("The model was fitted with --slower: give it too.")
    if slower and not layout.slower:
        raise UsageError("The model was fitted without --slower: leave it out.")
    return joined(frame, layout, sequences, slower, quiet)[0]


def joined(
    frame: "pd.DataFrame", layout: "LongLayout", sequences: str, slower: str | None, quiet: bool
) -> "tuple[pd.DataFrame, LongLayout]":
    """Join long tables to a table; also return the layout with the channels that were found."""
    from twostage.table.files import read_table
    from twostage.table.long import join_sequences

    second = None if slower is None else read_table(slower)
    frame, layout, notes = join_sequences(frame, read_table(sequences), second, layout)
    for note in notes if not quiet else ():
        say(note)
    return frame, layout
