"""Stage two: features and a head. The one path under the command line and the estimators."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import pandas as pd
from sklearn.utils.class_weight import compute_sample_weight

from twostage.blending import blend_weights
from twostage.contents import IMAGE
from twostage.errors import DataError, UsageError, listed
from twostage.fitted import FitSettings, FittedModel, Holdout, Predictor
from twostage.heads import Task, heads_of, name_of, reads_words
from twostage.images.references import EXTENSIONS
from twostage.joins import ImageBlock
from twostage.members import MemberPlan
from twostage.metrics import Score, score_classification, score_regression
from twostage.rows import TrainingRows, row_digests
from twostage.seen import SeenRows
from twostage.splits import holdout, link_groups
from twostage.table.dates import dates_in, format_of
from twostage.table.files import require_column
from twostage.table.numbers import booleans_in, numbers_in
from twostage.table.roles import BOOLEAN, DATE, IGNORED, NUMERIC, TEXT, Column, infer_roles
from twostage.table.tokens import stop_words_of
from twostage.table.word_vectors import check_vectors_file
from twostage.targets import Target
from twostage.tuning import check_tunable, tuned

log = logging.getLogger("twostage")

NOTHING_SEEN = SeenRows()
Model = TypeVar("Model", bound=Predictor)


class Learner(Protocol[Model]):
    """What is fitted twice: on a part of the rows for the score, then on all of them."""

    def fit(self, rows: TrainingRows, target: Target, columns: Sequence[Column]) -> Model:
        """Learn from rows, whose ``blocks`` are their embeddings by the backbone as it came."""
        ...

    def images_of(self, rows: TrainingRows, model: Model) -> Any:
        """Return what a model needs to see of the images of rows."""
        ...


@dataclass(frozen=True)
class StageTwo:
    """Learns encoders and heads, from embeddings that are there.

    Attributes
    ----------
    settings : FitSettings
        How.
    backbone : dict or None
        The spec of the backbone that made the embeddings, for the model to remember.
    """

    settings: FitSettings
    backbone: dict[str, Any] | None = None

    def fit(self, rows: TrainingRows, target: Target, columns: Sequence[Column]) -> FittedModel:
        """Learn from rows."""
        model = fit_model(rows, target, self.settings, columns)
        return replace(model, backbone=self.backbone if model.dims else None)

    def images_of(self, rows: TrainingRows, model: FittedModel) -> Mapping[str, ImageBlock]:
        """Return the embeddings of rows."""
        return rows.blocks


def check_table(frame: pd.DataFrame, settings: FitSettings) -> None:
    """Check a whole table before anything is computed for it.

    Raises
    ------
    DataError
        If a column named in the settings is missing, a column has no values at all, or several
        rows name the same image without a group that keeps them together.
    UsageError
        If there are wishes for texts and no column of them.
    """
    for purpose, names in (
        ("target", [settings.target]),
        ("group", [settings.group] if settings.group else []),
        (settings.embeds, settings.image_columns),
    ):
        for name in names:
            require_column(frame, name, purpose)
    taken = [name for name in settings.reserved() if _is_prediction_column(name)]
    if taken:
        raise DataError(
            f"Column {listed(taken)} bears the name of a column that predictions have. Rename it."
        )
    empty = [name for name in frame.columns if frame[name].isna().all()]
    empty = [name for name in empty if name not in settings.roles.ignore]
    if empty:
        fix = "Fill it in" if empty[0] in settings.reserved() else f"Add --ignore {empty[0]}"
        raise DataError(f"Column {listed(empty)} has no values in any row. {fix}.")
    if settings.features != "table" and settings.embeds == IMAGE:
        check_repeated_images(frame, settings)
    columns = tell_roles(frame, settings)
    _check_there_are_texts(columns, settings)
    for column in columns:
        values = frame[column.name]
        if column.role == NUMERIC:
            numbers_in(values)
        elif column.role == BOOLEAN:
            booleans_in(values)
        elif column.role == DATE:
            dates_in(values, format_of(values))


def check_heads(settings: FitSettings, target: Target) -> None:
    """Check what is asked of the heads before anything is computed for them.

    Raises
    ------
    UsageError
        If a head is not known or can't do the task, a parameter of it or its features can't be as
        asked for, it has no settings to tune, the weights of classes don't fit them, or there are
        word vectors for heads that read no words.
    DataError
        If the file of stop words has none.
    """
    is_classification = target.classes is not None
    _check_texts(settings)
    for head in heads_of(settings.head):
        head.recipe.changed(**settings.recipe)
        head.check_parameters()
        if not (head.can_classify if is_classification else head.can_regress):
            what = "classify" if is_classification else "predict numbers"
            raise UsageError(
                f"The head {head} can't {what}, which the target asks for. Choose another head, "
                f"or another task."
            )
        if settings.n_tuned:
            check_tunable(head)
    if settings.class_weight is not None:
        _check_class_weight(settings.class_weight, target)


def _check_texts(settings: FitSettings) -> None:
    stop_words_of(settings.recipe.get("stop_words"))
    vectors = settings.recipe.get("word_vectors")
    if vectors is None:
        return
    if not reads_words(settings.head):
        raise UsageError(
            f"Word vectors are for heads that read words, and '{settings.head_name}' reads none. "
            "Choose the head joint, or leave word vectors out."
        )
    check_vectors_file(vectors)


def _check_there_are_texts(columns: Sequence[Column], settings: FitSettings) -> None:
    """Refuse wishes for texts where there are none, unless texts are not looked at anyway."""
    wishes = [name for name in ("stop_words", "word_vectors") if name in settings.recipe]
    if wishes and columns and all(column.role != TEXT for column in columns):
        raise UsageError(
            f"There are {' and '.join(wishes).replace('_', ' ')} for texts, and the table has no "
            "column of text. Name one with --text (text=), or leave them out."
        )


def _check_class_weight(class_weight: Any, target: Target) -> None:
    if target.classes is None:
        raise UsageError("Class weights need classes; the target holds numbers to regress on.")
    if not isinstance(class_weight, Mapping):
        if class_weight != "balanced":
            raise UsageError(
                f"class_weight is 'balanced' or a weight for each class; found {class_weight!r}."
            )
        return
    known = set(target.classes.tolist())
    unknown = [label for label in class_weight if label not in known]
    if unknown:
        raise UsageError(
            f"class_weight has {listed(unknown)}, which the target has not. Its classes: "
            f"{listed(sorted(known, key=str))}."
        )
    for label, weight in class_weight.items():
        if not 0 <= float(weight) < np.inf:
            raise UsageError(
                f"The weight of class {label!r} is {weight}; give a number that is not negative."
            )


def _is_prediction_column(name: str) -> bool:
    return name in ("prediction", "n_images", "error") or name.startswith("proba_")


def check_repeated_images(frame: pd.DataFrame, settings: FitSettings) -> None:
    """Refuse rows that share an image and could be split apart: one would tell of the other.

    Raises
    ------
    DataError
        Counting them, and naming the first.
    """
    for column in settings.image_columns:
        is_repeated = frame[column].duplicated(keep="first") & frame[column].notna()
        if settings.group is not None:
            pairs = frame[[column, settings.group]].drop_duplicates()
            is_repeated &= frame[column].isin(pairs[column][pairs[column].duplicated()])
        if is_repeated.any():
            row = int(np.flatnonzero(is_repeated)[0])
            name = frame[column].iloc[row]
            first = int(np.flatnonzero(frame[column] == name)[0])
            raise DataError(
                f"{int(is_repeated.sum())} of {len(frame)} rows name an image that an earlier row "
                f"names too; first: row {row + 1} and row {first + 1}, '{name}'. Remove the "
                "repeated rows, or name a --group column that keeps them together."
            )


def fit_model(
    rows: TrainingRows,
    target: Target,
    settings: FitSettings,
    columns: Sequence[Column] | None = None,
) -> FittedModel:
    """Learn encoders and heads on all rows given.

    Parameters
    ----------
    rows : TrainingRows
        See `training_rows`.
    target : Target
        What ``rows.y`` was made of.
    settings : FitSettings
        How.
    columns : sequence of Column, optional
        The roles of the table's columns, if they are told already, from more rows than these.

    Raises
    ------
    DataError
        If nothing is left to learn from.
    """
    if columns is None:
        columns = tell_roles(rows.frame, settings)
    _check_there_are_texts(columns, settings)
    if not rows.blocks and all(column.role == IGNORED for column in columns):
        raise DataError(_nothing_left_message(columns))
    kept = weighted(rows, target, settings)
    check_blocks(kept, settings.embeds)
    plans = _plans(kept, columns, settings)
    if settings.n_tuned:
        plans = [tuned(plan, kept, settings.n_tuned) for plan in plans]
    weights = blend_weights(plans, kept)
    chosen = [(plan, float(weight)) for plan, weight in zip(plans, weights, strict=True) if weight]
    members = []
    for plan, _ in chosen:
        log.info("Fitting %s to %s rows ...", name_of(plan.head), f"{len(kept):,}")
        members.append(plan.fit(kept))
    return FittedModel(
        settings=replace(settings, task=target.task),
        classes=target.classes,
        columns=list(columns),
        members=members,
        weights=[weight for _, weight in chosen],
        dims={name: block.matrix.shape[1] for name, block in rows.blocks.items()},
        n_rows=len(kept),
        trained_on=record_of(kept, columns),
    )


def training_rows(
    frame: pd.DataFrame,
    blocks: Mapping[str, ImageBlock],
    target: Target,
    settings: FitSettings,
    groups: Iterable[Any] = (),
    sample_weight: np.ndarray | None = None,
) -> TrainingRows:
    """Put together what stage two learns from.

    Parameters
    ----------
    frame : DataFrame of shape (n_rows, n_columns)
        The table; reserved columns may be in it.
    blocks : mapping of str to ImageBlock
        One per image column, aligned with ``frame``.
    target : Target
        Of n_rows.
    settings : FitSettings
        Which of it is used, and the weights of classes.
    groups : iterable of length n_rows, or empty
        Group values; a row without one stands for itself, and images of equal bytes make a group.
    sample_weight : array of shape (n_rows,), optional
        Weights of rows, not negative. Rows of weight 0 teach nothing.

    Raises
    ------
    UsageError
        As `check_heads`.
    DataError
        If all weights are 0, or one is negative.
    """
    check_heads(settings, target)
    if sample_weight is not None:
        check_weights(sample_weight)
    groups = list(groups)
    if groups and len(groups) != len(frame):
        raise DataError(f"There are {len(groups)} groups for {len(frame)} rows. Give one a row.")
    return TrainingRows(
        frame,
        {} if settings.features == "table" else dict(blocks),
        np.log(target.y) if settings.log_target else target.y,
        None if target.classes is None else len(target.classes),
        split_groups(blocks, groups, len(frame)),
        sample_weight,
        np.array([*groups, None], object)[:-1] if groups else None,
    )


def fit_and_score(
    frame: pd.DataFrame,
    blocks: Mapping[str, ImageBlock],
    target: Target,
    settings: FitSettings,
    backbone: dict[str, Any] | None = None,
    seen: SeenRows = NOTHING_SEEN,
) -> FittedModel:
    """Score the recipe on a held-out fifth, then fit it on all rows.

    The fifth is held out by whole groups, and rows with equal images count as one group. Neither
    encoders nor early stopping, tuning or the weights of a blend touch it. The model returned is
    fitted on all rows; the score it carries is that of the model fitted on the other four fifths.
    Rows that the backbone was trained on are not among those, unless ``settings.allow_seen`` lets
    them train; they are never scored, and if there are no others, nothing is.

    Parameters
    ----------
    frame, blocks, target, settings
        As for `training_rows`.
    backbone : dict, optional
        The spec of the backbone that made the embeddings, for the model to remember.
    seen : SeenRows
        What that backbone was trained on.

    Raises
    ------
    DataError
        As `without_seen` and `training_rows`.
    """
    return score_and_fit(StageTwo(settings, backbone), frame, blocks, target, settings, seen)


def score_and_fit(
    learner: Learner[Model],
    frame: pd.DataFrame,
    blocks: Mapping[str, ImageBlock],
    target: Target,
    settings: FitSettings,
    seen: SeenRows = NOTHING_SEEN,
) -> Model:
    """Score whatever learns as `fit_and_score` scores stage two: all that it does is in the fold.

    Parameters
    ----------
    learner : Learner
        What is fitted.
    frame, blocks, target, settings, seen
        As for `fit_and_score`.
    """
    given: Iterable[Any] = frame[settings.group] if settings.group else ()
    rows = training_rows(frame, blocks, target, settings, given)
    is_seen = tell_seen(rows, settings, seen)
    kept = without_seen(is_seen, settings, seen)
    warn_of_lost_classes(target, kept)
    rows, target, is_seen, n_seen = rows.take(kept), target.take(kept), is_seen[kept], is_seen.sum()
    columns = tell_roles(rows.frame, settings)
    score = _score_holdout(learner, rows, target, settings, columns, is_seen)
    model = learner.fit(rows, target, columns)
    return replace(model, holdout=score, n_seen=int(n_seen))


def _score_holdout(
    learner: Learner[Any],
    rows: TrainingRows,
    target: Target,
    settings: FitSettings,
    columns: Sequence[Column],
    is_seen: np.ndarray,
) -> Holdout | None:
    """Score the recipe on a fifth of the rows that the backbone has not seen, if there are any."""
    parts = hold_out_to_score(rows, target, settings, is_seen)
    if parts is None:
        return None
    (train, test), groups = parts, np.asarray(rows.groups)
    scored = learner.fit(rows.take(train), target.take(train), columns)
    held_out = rows.take(test)
    images = learner.images_of(held_out, scored)
    scores = score_model(scored, held_out.frame, images, target.take(test), groups[test])
    return Holdout(len(test), len(np.unique(groups[test])), len(train), scores)


def hold_out_to_score(
    rows: TrainingRows, target: Target, settings: FitSettings, is_seen: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Hold out a fifth of the rows that the backbone has not seen.

    Parameters
    ----------
    rows, target, settings
        As for `training_rows`.
    is_seen : bool array of shape (n_rows,)
        See `tell_seen`.

    Returns
    -------
    train, test : int arrays
        Row numbers; what was seen may train. None if all rows were.
    """
    scorable = np.flatnonzero(~is_seen)
    if not len(scorable):
        return None
    groups = np.asarray(rows.groups)
    train, test = (
        scorable[part]
        for part in holdout(
            target.y[scorable],
            is_classification=target.classes is not None,
            groups=groups[scorable],
            random_state=settings.random_state,
        )
    )
    train = np.union1d(train, np.flatnonzero(is_seen))
    log.info("Holding out %s of %s rows, to score ...", f"{len(test):,}", f"{len(rows):,}")
    return train, test


def tell_seen(rows: TrainingRows, settings: FitSettings, seen: SeenRows) -> np.ndarray:
    """Tell the rows whose label, or whose group's label, the backbone was trained on.

    Parameters
    ----------
    rows : TrainingRows
        With their groups.
    settings : FitSettings
        Names the column of groups, if they come from one.
    seen : SeenRows
        What the backbone was trained on.

    Returns
    -------
    bool array of shape (n_rows,)
    """
    if not rows.blocks:  # nothing comes from the backbone
        return np.zeros(len(rows), bool)
    column, groups = seen.group_column, rows.group_values
    if column in rows.frame.columns:
        groups = rows.frame[column].to_numpy()
    elif settings.group is not None:
        groups = None  # values of another column
    if seen.groups and groups is None:
        log.warning(
            "The backbone was tuned with groups of '%s', which the table has not: rows are "
            "compared with what it has seen by their images alone.",
            column,
        )
    is_seen = seen.has_seen(_content_hashes(rows.blocks), () if groups is None else groups)
    if rows.groups is None or not is_seen.any():
        return is_seen
    return np.isin(rows.groups, rows.groups[is_seen])


def without_seen(is_seen: np.ndarray, settings: FitSettings, seen: SeenRows) -> np.ndarray:
    """Return the numbers of the rows that may be trained on.

    Raises
    ------
    DataError
        If there are none.
    """
    if settings.allow_seen or not is_seen.any():
        return np.arange(len(is_seen))
    if not is_seen.all():
        return np.flatnonzero(~is_seen)
    if not seen.is_known:
        raise DataError(
            "The backbone was tuned, and its seen.parquet, which says on what, is gone: nothing "
            "that it embeds can be trained or scored on honestly. Put the file back into its "
            "folder, or use --allow-seen: the model is then trained on all rows, without a score."
        )
    raise DataError(
        f"The backbone was tuned on all {len(is_seen)} rows, or on their groups: it embeds them "
        "with too much confidence, and a model trained or scored on them would learn and report a "
        "lie. Tune it with --holdout, give other rows, or use --allow-seen: the model is then "
        "trained on them, without a score."
    )


def warn_of_lost_classes(target: Target, kept: np.ndarray) -> None:
    """Tell of classes whose rows are all among those left out."""
    if target.classes is None:
        return
    lost = target.classes[np.setdiff1d(target.y, target.y[kept])]
    if len(lost):
        log.warning(
            "%d of %d classes are in rows alone that the backbone has seen, and are not learned: "
            "%s. Add other rows of them, or use --allow-seen.",
            len(lost),
            len(target.classes),
            listed(lost.tolist()),
        )


def score_model(
    model: Predictor,
    frame: pd.DataFrame,
    images: Any,
    target: Target,
    groups: np.ndarray,
) -> dict[str, Score]:
    """Score a model on rows it has not seen, with intervals.

    ``images`` are what `Predictor.look` gives. Where the logarithm was learned, ``r2_log`` is that
    of the logarithms, and comes first.
    """
    return score_outputs(model, model.outputs(frame, images), target, groups)


def score_outputs(
    model: Predictor, outputs: np.ndarray, target: Target, groups: np.ndarray
) -> dict[str, Score]:
    """Score what a model put out for rows it has not seen; see `score_model`."""
    seed = model.settings.random_state
    if target.classes is not None:
        return score_classification(target.y, outputs, groups, seed)
    predicted = model.values_of(outputs)
    scores = score_regression(target.y, predicted, groups, seed)
    if model.settings.log_target:
        of_logs = score_regression(np.log(target.y), np.log(predicted), groups, seed)
        scores = {"r2_log": of_logs["r2"], **scores}
    return scores


def split_groups(
    blocks: Mapping[str, ImageBlock], groups: Iterable[Any], n_rows: int
) -> np.ndarray:
    """Return the group of each row for splits: equal group value, or an image of equal bytes.

    Parameters
    ----------
    blocks : mapping of str to ImageBlock
        One per image column.
    groups : iterable of length n_rows, or empty
        Group values; a row without one stands for itself.
    n_rows : int
        Number of rows.

    Returns
    -------
    int array of shape (n_rows,)
    """
    by_value = [[] if pd.isna(value) else [value] for value in groups]
    return link_groups(n_rows, _content_hashes(blocks), by_value)


def tell_roles(frame: pd.DataFrame, settings: FitSettings) -> list[Column]:
    """Tell the roles of a table's columns, once for all that is fitted on parts of it."""
    if settings.features == "images":
        return []
    settings.roles.check(frame.columns)
    return infer_roles(frame, settings.roles, settings.reserved(), EXTENSIONS)


def _plans(
    rows: TrainingRows, columns: Sequence[Column], settings: FitSettings
) -> list[MemberPlan]:
    """Return how each head that was asked for is to be fitted."""
    task = Task(rows.n_classes, settings.random_state, settings.n_jobs)
    return [
        MemberPlan(head, head.recipe.changed(**settings.recipe), columns, task)
        for head in heads_of(settings.head, len(rows), rows.n_classes)
    ]


def check_weights(sample_weight: np.ndarray) -> None:
    """Check the weights of rows.

    Raises
    ------
    DataError
        If one is negative or no number, or all are 0.
    """
    is_bad = ~((sample_weight >= 0) & (sample_weight < np.inf))
    if is_bad.any():
        row = int(np.argmax(is_bad))
        raise DataError(
            f"The sample weight of row {row + 1} is {sample_weight[row]}. Weights are numbers that "
            "are not negative."
        )
    if not sample_weight.any():
        raise DataError("All sample weights are 0: no row is left to learn from.")


def weights_of(rows: TrainingRows, target: Target, settings: FitSettings) -> np.ndarray | None:
    """Return the weights of rows, multiplied with those of their classes; None if all are equal."""
    weight = rows.sample_weight
    if settings.class_weight is None:
        return weight
    labels = np.asarray(target.classes)[rows.y]
    of_class = np.asarray(compute_sample_weight(settings.class_weight, labels), np.float64)
    return of_class if weight is None else weight * of_class


def weighted(rows: TrainingRows, target: Target, settings: FitSettings) -> TrainingRows:
    """Return the rows that count, with their weights and those of their classes multiplied.

    A weight counts as so many equal rows do; but where weights are small throughout, shares of 1
    say, heads would take them for few rows: they are then on average 1.
    """
    weight = weights_of(rows, target, settings)
    if weight is None:
        return rows
    check_weights(weight)
    weight = weight / min(1.0, float(weight[weight > 0].mean()))
    return replace(rows, sample_weight=weight).take(np.flatnonzero(weight))


def check_blocks(rows: TrainingRows, kind: str) -> None:
    """Raise DataError if a column of images has none that can be used."""
    for name, block in rows.blocks.items():
        if np.isnan(block.matrix[:, 0]).all():
            raise DataError(f"Column '{name}' has no usable {kind} in any row to learn from.")


def _nothing_left_message(columns: Sequence[Column]) -> str:
    why = "; ".join(f"'{column.name}': {column.reason}" for column in columns)
    return (
        f"The table has no column left to learn from ({why or 'it has no other columns'}). Name "
        "columns to use with --numeric or --categorical, or add images."
    )


def record_of(rows: TrainingRows, columns: Sequence[Column]) -> pd.DataFrame:
    """Record rows that were trained on, so that an evaluation can leave them out."""
    digests = row_digests(rows.frame[digested_columns(columns, rows.blocks)])
    return record_with(rows, digests)


def digested_columns(columns: Sequence[Column], image_columns: Iterable[str]) -> list[str]:
    """Return the columns whose values tell rows apart."""
    return [*(column.name for column in columns if column.role != IGNORED), *image_columns]


def record_with(rows: TrainingRows, digests: Sequence[str]) -> pd.DataFrame:
    """Record rows of these digests; see `record_of`."""
    values = pd.Series(rows.group_values, rows.frame.index, object)
    return pd.DataFrame(
        {
            "content_hash": _content_hashes(rows.blocks) or [[] for _ in range(len(rows))],
            "group": values.where(values.notna(), None).map(str, na_action="ignore"),
            "row_digest": digests,
        }
    ).reset_index(drop=True)


def _content_hashes(blocks: Mapping[str, ImageBlock]) -> list[list[str]]:
    """Return the content hashes of all images of each row; [] if there are no blocks."""
    per_column = [block.content_hashes for block in blocks.values()]
    return [sorted({h for hashes in row for h in hashes}) for row in zip(*per_column, strict=True)]
