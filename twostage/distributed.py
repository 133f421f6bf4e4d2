"""Stage two on a Ray cluster: encoders are learned from a sample of the rows, trees from all.

One process reads of the table what says how rows are to be split: target, group, the names of
images. It draws the sample and learns the encoders from that; each worker then reads its share of
the table's files and of the store, encodes that, and grows the same trees as the others.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from twostage.contents import IMAGE, kind_of
from twostage.encoding import EncodedTable, FeatureEncoder
from twostage.errors import UsageError
from twostage.executors.ray import RayOptions, connected
from twostage.executors.ray_group import Places, run_together
from twostage.features import Features
from twostage.fitted import FitSettings, FittedModel, Holdout
from twostage.fitting import (
    NOTHING_SEEN,
    check_blocks,
    check_heads,
    check_repeated_images,
    check_table,
    digested_columns,
    hold_out_to_score,
    record_with,
    score_outputs,
    tell_roles,
    tell_seen,
    training_rows,
    warn_of_lost_classes,
    weighted,
    without_seen,
)
from twostage.heads import Task, heads_of, name_of
from twostage.heads.lightgbm import LightGBMHead, folds_to_stop_by, most_rows_to_bin_by
from twostage.heads.lightgbm_parallel import (
    N_TRAININGS,
    GrowingPlan,
    LabelledRows,
    Machines,
    Piece,
    grow,
)
from twostage.joins import AnyStore, ImageBlock
from twostage.members import Member, MemberPlan
from twostage.memory import free_bytes
from twostage.rows import TrainingRows, row_digests
from twostage.sources import blocks_from_store, check_usable, outlines_from_store
from twostage.store.holdings import Holdings
from twostage.store.store import EmbeddingStore
from twostage.table.files import check_alike, column_names, read_table, require_column, table_files
from twostage.table.roles import Column
from twostage.targets import Target, prepare_target

log = logging.getLogger("twostage")

N_SAMPLED = 100_000
_MOST_ROWS_OF_TABLE = 2_000_000  # by which its columns' encoders are learned
_MIN_ROWS_OF_WORKER = 50
_LEARNS = "lightgbm"


@dataclass(frozen=True)
class _Source:
    """Where rows are read from, here and on the workers.

    Attributes
    ----------
    store : str or None
        What has the embeddings; None if no images are looked at.
    image_columns : tuple of str
        Columns that name images.
    pooling : str
        What becomes of several images in a row.
    """

    store: str | None
    image_columns: tuple[str, ...]
    pooling: str

    def open(self) -> Holdings | None:
        """Return what the store holds."""
        return None if self.store is None else Holdings(EmbeddingStore(self.store))

    def blocks(self, frame: pd.DataFrame, store: AnyStore | None) -> dict[str, ImageBlock]:
        """Return the embeddings of rows."""
        if store is None:
            return {}
        return blocks_from_store(frame, self.image_columns, store, pooling=self.pooling)[0]


@dataclass(frozen=True)
class Outline:
    """A table in files, of which is in memory what says how its rows are to be split.

    Attributes
    ----------
    files : list of str
        In order.
    starts : int array of shape (n_files + 1,)
        The number of each file's first row, and how many rows there are.
    rows : TrainingRows
        All rows: of their frame the reserved columns, indexed by their numbers; of their images
        all but the embeddings.
    target : Target
        Of all rows.
    head : LightGBMHead
        Unfitted.
    held : EmbeddingStore or None
        What has the embeddings.
    n_unusable : int
        Rows with an unusable image.
    """

    files: list[str]
    starts: np.ndarray
    rows: TrainingRows
    target: Target
    head: LightGBMHead
    held: EmbeddingStore | None
    n_unusable: int

    def by_file(self, numbers: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """Yield files, and which of some rows are in them, by their places there."""
        for i in range(len(self.files)):
            first, last = np.searchsorted(numbers, self.starts[i : i + 2])
            if last > first:
                yield i, numbers[first:last] - self.starts[i]

    def read(self, numbers: np.ndarray) -> pd.DataFrame:
        """Return all columns of some rows, indexed by their numbers, which ascend."""
        found = [read_table(self.files[i]).iloc[places] for i, places in self.by_file(numbers)]
        return pd.concat(found).set_axis(numbers)


@dataclass(frozen=True)
class _FileShare:
    """What a worker does with a file of the table.

    Attributes
    ----------
    file : str
        Where it is.
    first : int
        The number of its first row.
    learned, scored, recorded : int arrays
        Places in it of the rows to learn from, to predict, and to record.
    is_known, dense, codes
        Which of the rows to learn from taught the encoders of the table's columns, and these
        columns of those as `EncodedTable` has them.
    y, weight
        Of the rows to learn from.
    """

    file: str
    first: int
    learned: np.ndarray
    is_known: np.ndarray
    dense: np.ndarray
    codes: np.ndarray
    scored: np.ndarray
    recorded: np.ndarray
    y: np.ndarray
    weight: np.ndarray | None


@dataclass(frozen=True)
class _Share:
    """What a worker works on.

    Attributes
    ----------
    files : list of _FileShare
        Rows that encoders did not learn from.
    sampled : LabelledRows
        Of those that they did: encoded as rows that they know must be.
    is_watched : bool array
        Which of these tell the number of trees.
    n_cpus : int
        Its cores.
    """

    files: list[_FileShare]
    sampled: LabelledRows
    is_watched: np.ndarray
    n_cpus: int


@dataclass(frozen=True)
class _Grown:
    """What a worker gives back.

    Attributes
    ----------
    head : LightGBMHead or None
        From the first of them: all have the same.
    outputs : list of (int array, array)
        Numbers of rows, and what is predicted for them.
    digests : list of (int array, list of str)
        Numbers of rows, and digests of their values.
    """

    head: LightGBMHead | None
    outputs: list[tuple[np.ndarray, np.ndarray]]
    digests: list[tuple[np.ndarray, list[str]]]


@dataclass(frozen=True)
class _Growing:
    """What all workers do; see `twostage.executors.ray_group.run_together`."""

    plan: GrowingPlan
    encoder: FeatureEncoder
    source: _Source
    digested: list[str]

    def __call__(self, share: _Share, places: Places, rank: int) -> _Grown:
        """Grow trees together with the others, and predict with them."""
        store = self.source.open()
        sampled = share.sampled
        pieces = [Piece(lambda: sampled.features, sampled.y, sampled.weight, share.is_watched)]
        for file in share.files:
            if len(file.learned):
                load = partial(self._features, file, store)
                unwatched = np.zeros(len(file.learned), bool)
                pieces.append(Piece(load, file.y, file.weight, unwatched))
        plan = replace(self.plan, task=replace(self.plan.task, n_jobs=share.n_cpus))
        head = grow(plan, pieces, Machines(places, rank))
        member = Member(self.encoder, head)
        outputs, digests = [], []
        for file in share.files:
            frame = read_table(file.file)
            if len(file.scored):
                scored = frame.iloc[file.scored]
                predicted = member.predict(scored, self.source.blocks(scored, store))
                outputs.append((file.first + file.scored, predicted))
            if len(file.recorded):
                recorded = frame[self.digested].iloc[file.recorded]
                digests.append((file.first + file.recorded, row_digests(recorded)))
        return _Grown(head if rank == 0 else None, outputs, digests)

    def _features(self, share: _FileShare, store: Holdings | None) -> Features:
        """Encode rows to learn from: what taught an encoder, out of fold."""
        frame = read_table(share.file).iloc[share.learned]
        dense, codes = self.encoder.table.transform(frame)
        dense[share.is_known], codes[share.is_known] = share.dense, share.codes
        return self.encoder.transform(frame, self.source.blocks(frame, store), (dense, codes))


def fit_on_cluster(
    outline: Outline, settings: FitSettings, cluster: RayOptions, n_sampled: int = N_SAMPLED
) -> FittedModel:
    """Score stage two on a held-out fifth, then fit it on all rows; trees grow on a Ray cluster.

    What `twostage.fitting.fit_and_score` does, for LightGBM and tables of any length: the same rows
    are held out, and nothing of the scored model sees them. What is in the memory of this process
    is of all rows the target, the group and the names of images; of two million rows the table, and
    the sample with its embeddings. A worker has its share of the rows, a byte for each feature, and
    one file of the table.

    Parameters
    ----------
    outline : Outline
        Of the table.
    settings : FitSettings
        How.
    cluster : RayOptions
        Where, and how many workers.
    n_sampled : int
        Rows, whole groups, that encoders of embeddings and texts, bins and the number of trees are
        learned from. Of fewer rows in all, these are learned as they are on one machine.

    Raises
    ------
    DataError
        As `twostage.fitting.fit_and_score`.
    ExecutorError
        If the cluster can't be reached, has no room, or loses workers again and again.
    """
    return _Fitting(outline, settings, cluster, n_sampled).run()


class _Fitting:
    """One fit: what its two stages, scored and final, have in common."""

    def __init__(
        self, outline: Outline, settings: FitSettings, cluster: RayOptions, n_sampled: int
    ):
        self._table, self._settings = outline, settings
        self._held, self._head = outline.held, outline.head
        self._cluster, self._n_sampled = cluster, n_sampled
        held = outline.held
        where = None if held is None else held.files.address
        columns = settings.image_columns if held is not None else ()
        self._source = _Source(where, columns, settings.image_pooling)
        self._ray: Any = None
        self._columns: list[Column] = []
        self._tabled: TrainingRows  # whole rows, but for embeddings
        self._sample: TrainingRows  # some of them, with these

    def run(self) -> FittedModel:
        rows, target, n_seen, is_seen = self._usable()
        self._draw_sample(rows)
        with connected(self._cluster.address) as self._ray:
            score = self._score(rows, target, is_seen)
            log.info("Fitting %s to %s rows ...", _LEARNS, f"{len(rows):,}")
            model, _ = self._fit(rows, target, None)
        return replace(model, holdout=score, n_seen=n_seen)

    def _usable(self) -> tuple[TrainingRows, Target, int, np.ndarray]:
        """Return the rows that may be learned from, and which of those the backbone has seen."""
        seen = NOTHING_SEEN if self._held is None else self._held.seen
        rows, target = self._table.rows, self._table.target
        is_seen = tell_seen(rows, self._settings, seen)
        kept = without_seen(is_seen, self._settings, seen)
        warn_of_lost_classes(target, kept)
        return rows.take(kept), target.take(kept), int(is_seen.sum()), is_seen[kept]

    def _draw_sample(self, rows: TrainingRows) -> None:
        """Read some rows whole, by groups, and tell the roles of their columns."""
        settings, groups = self._settings, np.asarray(rows.groups)
        n_most = max(_MOST_ROWS_OF_TABLE, self._n_sampled)
        tabled = sample_by_groups(groups, n_most, settings.random_state)
        sampled = sample_by_groups(groups, self._n_sampled, settings.random_state)
        log.info(
            "Reading %s of %s rows to learn encoders, %s of them with embeddings ...",
            *(f"{len(some):,}" for some in (tabled, rows, sampled)),
        )
        outline = rows.take(tabled)
        self._tabled = replace(outline, frame=self._table.read(_numbers(outline)))
        check_table(self._tabled.frame, settings)
        self._columns = tell_roles(self._tabled.frame, settings)
        sample = self._tabled.take(np.flatnonzero(np.isin(tabled, sampled)))
        self._sample = replace(sample, blocks=self._source.blocks(sample.frame, self._held))

    def _score(self, rows: TrainingRows, target: Target, is_seen: np.ndarray) -> Holdout | None:
        """Score on a fifth of the rows that the backbone has not seen, if there are any."""
        parts = hold_out_to_score(rows, target, self._settings, is_seen)
        if parts is None:
            return None
        (train, test), groups = parts, np.asarray(rows.groups)
        scored, outputs = self._fit(rows.take(train), target.take(train), _numbers(rows)[test])
        scores = score_outputs(scored, outputs, target.take(test), groups[test])
        return Holdout(len(test), len(np.unique(groups[test])), len(train), scores)

    def _fit(
        self, rows: TrainingRows, target: Target, scored: np.ndarray | None
    ) -> tuple[FittedModel, np.ndarray]:
        """Learn from rows; return what is predicted for others, if numbers of such are given."""
        settings = self._settings
        rows = weighted(rows, target, settings)
        sample = _rows_of(self._sample, rows)
        check_blocks(sample, settings.embeds)
        task = Task(rows.n_classes, settings.random_state)
        recipe = self._head.recipe.changed(**settings.recipe)
        member = MemberPlan(self._head, recipe, self._columns, task)
        tabled = _rows_of(self._tabled, rows)
        table = member.encode_table(tabled)
        of_sample = table.take(np.flatnonzero(np.isin(_numbers(tabled), _numbers(sample))))
        encoder, features = member.encode(sample, of_sample)
        labelled = LabelledRows(features, sample.y, sample.sample_weight)
        plan, is_watched = self._plan(rows, labelled, sample.groups, task)
        names = [] if scored is not None else digested_columns(self._columns, rows.blocks)
        found = run_together(
            self._ray,
            self._cluster,
            _Growing(plan, encoder, self._source, names),
            partial(
                self._divide,
                self._files(rows, _numbers(sample), scored, _numbers(tabled), table),
                labelled,
                is_watched,
            ),
            N_TRAININGS,
            ("LightGBMError",),
        )
        (head,) = (grown.head for grown in found if grown.head is not None)
        outputs = _in_order([pair for grown in found for pair in grown.outputs])
        digests = _in_order([pair for grown in found for pair in grown.digests])
        dims = (
            {} if self._held is None else dict.fromkeys(self._source.image_columns, self._held.dim)
        )
        model = FittedModel(
            settings=replace(settings, task=target.task),
            classes=target.classes,
            columns=self._columns,
            members=[Member(encoder, head)],
            weights=[1.0],
            dims=dims,
            n_rows=len(rows),
            trained_on=record_with(rows, digests.tolist() or [""] * len(rows)),
            backbone=None if self._held is None else self._held.spec,
        )
        return model, outputs

    def _plan(
        self,
        rows: TrainingRows,
        sampled: LabelledRows,
        groups: np.ndarray | None,
        task: Task,
    ) -> tuple[GrowingPlan, np.ndarray]:
        """Return what all workers have alike, and which rows of the sample are watched."""
        folds = folds_to_stop_by(sampled.y, task, groups, is_one=True)
        watched = folds[0][1] if folds else np.empty(0, np.int64)
        features = sampled.features
        most = most_rows_to_bin_by(features.n_features)
        if len(features) > most:
            chosen = np.random.default_rng(task.random_state).choice(len(features), most, False)
            features = features.take(np.sort(chosen))
        n_weighted = len(rows) if rows.sample_weight is None else float(rows.sample_weight.sum())
        plan = GrowingPlan(
            self._head,
            task,
            features,
            sampled.take(watched) if folds else None,
            len(rows),
            n_weighted,
        )
        return plan, np.isin(np.arange(len(sampled.y)), watched)

    def _divide(
        self,
        files: list[_FileShare],
        sampled: LabelledRows,
        is_watched: np.ndarray,
        n_most: int,
        n_cpus: int,
    ) -> list[_Share]:
        """Divide the sample evenly, and the files by their rows."""
        n = max(1, min(n_most, len(sampled.y) // _MIN_ROWS_OF_WORKER))
        hands: list[list[_FileShare]] = [[] for _ in range(n)]
        loads = np.zeros(n)
        for file in sorted(files, key=lambda file: -len(file.learned) - len(file.scored)):
            least = int(loads.argmin())
            hands[least].append(file)
            loads[least] += len(file.learned) + len(file.scored) + 1
        everything = np.arange(len(sampled.y))
        return [
            _Share(hand, sampled.take(everything[i::n]), is_watched[i::n], n_cpus)
            for i, hand in enumerate(hands)
        ]

    def _files(
        self,
        rows: TrainingRows,
        sampled: np.ndarray,
        scored: np.ndarray | None,
        tabled: np.ndarray,
        table: EncodedTable,
    ) -> list[_FileShare]:
        """Return what is to be done with each file, of rows by their numbers."""
        numbers = _numbers(rows)
        is_learned = ~np.isin(numbers, sampled)
        learned, y = numbers[is_learned], rows.y[is_learned]
        weight = None if rows.sample_weight is None else rows.sample_weight[is_learned]
        nothing = np.empty(0, np.int64)
        of = [
            dict(self._table.by_file(which))
            for which in (learned, nothing if scored is None else scored)
        ]
        recorded = dict(self._table.by_file(numbers)) if scored is None else {}
        found = []
        for i, file in enumerate(self._table.files):
            mine, theirs, all_of_it = (places.get(i, nothing) for places in (*of, recorded))
            if len(mine) or len(theirs) or len(all_of_it):
                first = int(self._table.starts[i])
                at = np.searchsorted(learned, mine + first)
                is_known = np.isin(mine + first, tabled)
                known = table.take(np.searchsorted(tabled, mine[is_known] + first))
                found.append(
                    _FileShare(
                        file,
                        first,
                        mine,
                        is_known,
                        known.dense,
                        known.codes,
                        theirs,
                        all_of_it,
                        y[at],
                        None if weight is None else weight[at],
                    )
                )
        return found


def sample_by_groups(groups: np.ndarray, n_most: int, random_state: int) -> np.ndarray:
    """Return the numbers of so many rows or fewer, sorted; rows of a group come together.

    Parameters
    ----------
    groups : int array of shape (n_rows,)
        Of the rows.
    n_most : int
        How many; more if one group has more.
    random_state : int
        Which.
    """
    if len(groups) <= n_most:
        return np.arange(len(groups))
    _, number, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(random_state).permutation(len(sizes))
    n_chosen = max(1, int(np.searchsorted(np.cumsum(sizes[order]), n_most, side="right")))
    return np.flatnonzero(np.isin(number, order[:n_chosen]))


def _numbers(rows: TrainingRows) -> np.ndarray:
    """Return the numbers of rows in the whole table."""
    return np.asarray(rows.frame.index)


def _rows_of(sample: TrainingRows, rows: TrainingRows) -> TrainingRows:
    """Return what of the sample is among some rows, with these rows' weights."""
    numbers = _numbers(rows)
    sample = sample.take(np.flatnonzero(np.isin(_numbers(sample), numbers)))
    if rows.sample_weight is None:
        return sample
    at = np.searchsorted(numbers, _numbers(sample))
    return replace(sample, sample_weight=rows.sample_weight[at])


def _in_order(found: Sequence[tuple[np.ndarray, Any]]) -> np.ndarray:
    """Put what was found of rows in the order of their numbers."""
    if not found:
        return np.empty(0)
    numbers = np.concatenate([each for each, _ in found])
    return np.concatenate([np.asarray(values) for _, values in found])[np.argsort(numbers)]


def read_outline(table: str, store: str | None, settings: FitSettings) -> Outline:
    """Read of a table what says how its rows are to be split, and check that.

    Parameters
    ----------
    table : str
        A CSV or Parquet file, or a folder of Parquet files, which all nodes see.
    store : str or None
        The store, a folder or URL which all nodes see; None if no images are looked at.
    settings : FitSettings
        Whose head is ``lightgbm``.

    Raises
    ------
    UsageError
        If the head needs all rows in one memory, or the store is not of images.
    DataError
        If the table lacks a column, its files differ, or images are not in the store.
    """
    held = None if store is None or settings.features == "table" else EmbeddingStore(store)
    _check_kind(held)
    files = table_files(table)
    check_alike(files)
    known = pd.DataFrame(columns=column_names(table))
    for name, purpose in settings.reserved().items():
        require_column(known, name, purpose)
    frames = [read_table(file, list(settings.reserved())) for file in files]
    starts = np.cumsum([0, *map(len, frames)])
    frame = pd.concat(frames, ignore_index=True)
    target = prepare_target(frame[settings.target], settings.task, log_target=settings.log_target)
    check_heads(settings, target)
    head = _shared_head(settings, len(frame), 0 if held is None else held.dim)
    blocks: dict[str, ImageBlock] = {}
    if held is not None:
        check_repeated_images(frame, settings)
        blocks, notes = outlines_from_store(frame, settings.image_columns, held)
        for note in notes:
            log.info("%s", note)
    groups = frame[settings.group] if settings.group else ()
    return Outline(
        [os.path.abspath(file) for file in files],
        starts,
        training_rows(frame, blocks, target, settings, groups),
        target,
        head,
        held,
        check_usable(blocks),
    )


def _shared_head(settings: FitSettings, n_rows: int, dim: int) -> LightGBMHead:
    """Return the head, if several workers can fit it together."""
    heads = heads_of(settings.head)
    if settings.n_tuned:
        raise UsageError(
            "Settings of heads are tuned on one machine. Leave --tune out, or --executor ray."
        )
    if len(heads) == 1 and isinstance(heads[0], LightGBMHead):
        return heads[0]
    other = next(name_of(head) for head in heads if not isinstance(head, LightGBMHead))
    width = dim * len(settings.image_columns)
    needed, free = 4 * n_rows * width, free_bytes()
    size = f"{n_rows:,} rows of {width:,} numbers take {needed / 1e9:,.1f} GB"
    there = "" if free is None else f", and {free / 1e9:,.1f} GB are free here"
    raise UsageError(
        f"The head '{other}' needs all rows in one memory; workers of a cluster can fit lightgbm "
        f"alone. {size}{there}. Choose --head lightgbm; leave --executor ray out, on a machine "
        "that has the memory; or make the embeddings shorter first: docs/scale.md shows how, with "
        "IncrementalPCA and float16."
    )


def _check_kind(held: EmbeddingStore | None) -> None:
    if held is not None and kind_of(held.spec) != IMAGE:
        raise UsageError(
            f"The store is of {kind_of(held.spec)}s, and a cluster fits on images alone. Leave "
            "--executor ray out."
        )
