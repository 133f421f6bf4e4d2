"""Stage one of texts and sequences, trained: a column and a target into an encoder.

`train_encoder` shows it whole: split -> a network of this column alone -> its penultimate layer, in
a folder, with what it has seen.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_sample_weight

from twostage.contents import SEQUENCE, TEXT
from twostage.encoders.folder import check_destination, write_encoder
from twostage.encoders.inputs import Inputs, StepInputs, WordInputs, features_of
from twostage.encoders.values import names_of, references_to
from twostage.errors import DataError, UsageError
from twostage.features import Features
from twostage.heads import Task
from twostage.metrics import main_score
from twostage.seen import SeenRows, as_text
from twostage.splits import hold_back, link_groups
from twostage.table.files import require_column
from twostage.table.sequences import StepsEncoder, count_channels
from twostage.table.tokens import stop_words_of
from twostage.table.words import WordEncoder
from twostage.targets import Target, prepare_target

if TYPE_CHECKING:
    from twostage.heads.joint import JointHead

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class EncoderSummary:
    """What the training of an encoder did.

    Attributes
    ----------
    encoder : str
        The folder.
    kind : {"text", "sequence"}
        What it embeds.
    column : str
        What it was trained on.
    dim : int
        Length of an embedding.
    task : str
        What the target is.
    metric : str
        What ``score`` is: "auc" or "r2".
    n_trained, n_held_back : int
        Rows that it learned from, or that chose the epoch, and rows that it has not seen.
    n_rows_left_out : int
        Rows without a text or sequence.
    n_epochs : int
        Passes over the rows that it was trained for.
    score : float or None
        Of the network that it was a part of, on the rows held back; None without any.
    seconds : float
        Wall time.
    notes : list of str
        What the user should know.
    """

    encoder: str
    kind: str
    column: str
    dim: int
    task: str
    metric: str
    n_trained: int
    n_held_back: int
    n_rows_left_out: int
    n_epochs: int
    score: float | None
    seconds: float
    notes: list[str] = field(default_factory=list)


def train_encoder(
    output: PathLike,
    *,
    table: pd.DataFrame,
    target: str,
    text: str | None = None,
    sequence: str | None = None,
    group: str | None = None,
    holdout: float = 0.5,
    task: str = "auto",
    log_target: bool = False,
    class_weight: str | None = None,
    stop_words: str | None = None,
    word_vectors: str | None = None,
    random_state: int = 0,
    **settings: Any,
) -> EncoderSummary:
    """Train an encoder of texts or sequences on a target, and write it with what it has seen.

    A network of this column alone is trained as `twostage.heads.joint.JointHead` is, and its top is
    stripped. It embeds the rows that it was trained on with too much confidence, so a part of the
    rows is held back for stage two, and the others are remembered.

    Parameters
    ----------
    output : path-like
        Folder to make; an older encoder in its place is replaced.
    table : DataFrame of shape (n_rows, n_columns)
        With the target and the column.
    target : str
        Column to learn; the second stage may learn another.
    text, sequence : str
        The column: one of the two.
    group : str, optional
        Column whose equal values are not to be separated; equal texts never are.
    holdout : float, default=0.5
        Share of the rows, by whole groups, that the encoder does not see; 0 to train on all.
    task : {"auto", "classification", "regression"}
        What the target is.
    log_target : bool
        Whether to learn the logarithm of a positive target.
    class_weight : {None, "balanced"}
        Whether rare classes count as much as common ones.
    stop_words : "english", path or None
        Words that texts are read without; see `twostage.table.tokens.stop_words_of`.
    word_vectors : path or None
        A file of what words mean; see `twostage.table.word_vectors.read_vectors`.
    random_state : int
        Of everything random.
    **settings
        Parameters of `twostage.heads.joint.JointHead`; of one member, unless they say otherwise.

    Returns
    -------
    EncoderSummary

    Raises
    ------
    UsageError
        If not one column is given, or an option has no such value.
    DataError
        If the table does not hold what it must.
    BackboneError
        If the encoder can't be written.
    """
    started = time.perf_counter()
    if (text is None) == (sequence is None):
        raise UsageError("Give one column: text, or sequence.")
    if not 0 <= holdout < 1:
        raise UsageError(f"holdout must be 0 or more, and less than 1; found {holdout}.")
    kind, column = (TEXT, text) if text is not None else (SEQUENCE, sequence)
    folder = Path(output)
    check_destination(folder)
    truth = prepare_target(require_column(table, target, "target"), task, log_target=log_target)
    if class_weight is not None and truth.classes is None:
        raise UsageError("Class weights need classes; the target holds numbers to regress on.")
    head = _head(settings)
    rows = _rows(table, str(column), kind, truth, group, log_target)
    taught, held_back = hold_back(
        rows.y,
        is_classification=truth.classes is not None,
        groups=rows.groups,
        share=holdout,
        random_state=random_state,
    )
    truth.check_taught(rows.y[taught], "row")
    how = {"stop_words": stop_words_of(stop_words), "vectors": word_vectors}
    inputs, features = _learn_inputs(rows.values.iloc[taught], kind, how)
    weight = None
    if class_weight is not None:
        weight = compute_sample_weight(class_weight, rows.y[taught])
    n_classes = None if truth.classes is None else len(truth.classes)
    head.fit(features, rows.y[taught], Task(n_classes, random_state), rows.groups[taught], weight)
    score = _score(head, inputs, rows, held_back) if len(held_back) else None
    training = {
        "target": target,
        "task": truth.task,
        "classes": None if truth.classes is None else truth.classes.tolist(),
        "log_target": log_target,
        "group": group,
        "holdout": holdout,
        "n_trained": len(taught),
        "head": head.parameters(),
    }
    seen = rows.seen(taught, group)
    written = write_encoder(folder, kind, str(column), _stripped(head), inputs, seen, training)
    return EncoderSummary(
        encoder=str(output),
        kind=kind,
        column=str(column),
        dim=written.spec.dim,
        task=truth.task,
        metric="r2" if truth.classes is None else "auc",
        n_trained=len(taught),
        n_held_back=len(held_back),
        n_rows_left_out=len(table) - len(rows.y),
        n_epochs=head.n_epochs_,
        score=score,
        seconds=time.perf_counter() - started,
        notes=[truth.note] if truth.note else [],
    )


@dataclass(frozen=True)
class _Rows:
    """The rows that have a text or a sequence.

    Attributes
    ----------
    values : Series of length n
        What is in the column.
    hashes : list of str
        Digests of their bytes.
    y : array of shape (n,)
        Class numbers, or values.
    groups : int array of shape (n,)
        Rows of equal numbers must not be separated.
    group_values : list of object
        Of the group column, of length n or empty.
    """

    values: pd.Series
    hashes: list[str]
    y: np.ndarray
    groups: np.ndarray
    group_values: list[Any]

    def seen(self, taught: np.ndarray, group: str | None) -> SeenRows:
        """Return what the encoder has seen."""
        values = [self.group_values[row] for row in taught] if group is not None else []
        present = [value for value in values if not pd.isna(value)]
        return SeenRows(
            frozenset(self.hashes[row] for row in taught), frozenset(map(as_text, present)), group
        )


def _rows(
    table: pd.DataFrame,
    column: str,
    kind: str,
    truth: Target,
    group: str | None,
    log_target: bool,
) -> _Rows:
    """Return the rows that have something in a column, and which belong together."""
    values = require_column(table, column, kind)
    names = names_of(references_to(values, kind))
    kept = np.array([row for row, named in enumerate(names) if named], np.int64)
    if not len(kept):
        raise DataError(f"Column '{column}' holds no {kind} in any row. Give another column.")
    of_groups = [] if group is None else list(require_column(table, group, "group").iloc[kept])
    by_value: Sequence[Sequence[Any]] = [[] if pd.isna(one) else [one] for one in of_groups]
    by_content = [names[row] for row in kept]
    return _Rows(
        values.iloc[kept],
        [names[row][0] for row in kept],
        np.log(truth.y[kept]) if log_target else truth.y[kept],
        link_groups(len(kept), by_content, by_value),
        of_groups,
    )


def _head(settings: dict[str, Any]) -> "JointHead":
    """Return the head that the encoder is a part of, untrained."""
    from twostage.heads.joint import JointHead

    try:
        head = JointHead(**{"n_members": 1, **settings})
    except TypeError as error:
        raise UsageError(f"An encoder has no such setting: {error}.") from None
    head.check_parameters()
    return head


def _learn_inputs(values: pd.Series, kind: str, how: dict[str, Any]) -> tuple[Inputs, Features]:
    """Learn what turns values into inputs, and return those of the rows given."""
    if kind == SEQUENCE:
        inputs = StepInputs(StepsEncoder.fit(values, count_channels(values)))
        return inputs, inputs.features(values)
    words, tokens = WordEncoder.fit_transform(values, **how)
    return WordInputs(words), features_of(len(values), texts=(tokens,))


def _score(head: "JointHead", inputs: Inputs, rows: _Rows, held_back: np.ndarray) -> float:
    """Score the whole network on the rows that were held back."""
    features = inputs.features(rows.values.iloc[held_back])
    predict = head.predict_proba if head.task_.is_classification else head.predict
    return main_score(rows.y[held_back], predict(features))


def _stripped(head: "JointHead") -> Any:
    """Return the network without its top: to what the outputs are made of."""
    from keras import Model, layers

    from twostage.networks.builder import PENULTIMATE, outputs_of_branch

    found = outputs_of_branch(head.network_, PENULTIMATE)
    output = layers.Concatenate()(found) if len(found) > 1 else found[0]
    return Model(head.network_.inputs, output)
