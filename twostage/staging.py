"""Both stages in one fit: which rows tune a backbone, and which ones the second stage learns from.

`Staging.fit` shows the modes. In all of them but "naive" the second stage learns from a row by what
has not seen its label, nor its group's:

- "holdout": a backbone is tuned on a part of the rows, the second stage learns from the others.
- "crossfit": a backbone is tuned on all rows but a part, for each part, from which a second stage
  learns; their predictions are averaged.
- "oof-scores": backbones tuned on all rows but a fold give the fold's rows scores, by their tops.
  These join the table, beside embeddings by the backbone as it came; new rows get their mean.
- "naive": both stages learn from all rows. It is there to be compared with.
- "joint": a network is fitted on the embeddings of a backbone as it came, then both are trained
  together, by whole rows: there is no second stage that could learn from what the first has seen.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.backbones.tuned import TunedBackbone, find_tuned
from twostage.cache import place_for_backbone
from twostage.cotraining import Cotraining, cotrain
from twostage.errors import BackboneError, DataError
from twostage.extraction import ExtractionOptions
from twostage.finetuning import finetune
from twostage.fingerprint import hash_file, hash_json
from twostage.fitted import FitSettings, FittedModel
from twostage.fitting import fit_model, record_of, tell_seen, weights_of, without_seen
from twostage.joins import ImageBlock
from twostage.rows import TrainingRows
from twostage.seen import SeenRows
from twostage.sources import blocks_from_files, check_usable
from twostage.splits import covering_folds, holdout, partition
from twostage.staged import JOINT, Scorer, StagedModel, StagingSettings, free_name, scores_of
from twostage.store.store import EmbeddingStore
from twostage.table.roles import NUMERIC, Column
from twostage.targets import Target
from twostage.training.epochs import NOBODY, Progress

log = logging.getLogger("twostage")

PathLike = str | os.PathLike[str]
_KEY_VERSION = 1
_VALIDATION = 0.2  # of the rows of a joint network


@dataclass(frozen=True)
class ImageSource:
    """Where the images of rows are, and how they become embeddings.

    Attributes
    ----------
    folder : path-like
        What image names start from.
    backbone : BackboneSettings
        What tuning starts from.
    options : ExtractionOptions
        How backbones are run.
    cache_dir : path-like or None
        Where embeddings and tuned backbones are kept; see `twostage.folders.cache_folder`.
    progress : Progress
        Whom to tell how far a tuning is.
    """

    folder: PathLike
    backbone: BackboneSettings
    options: ExtractionOptions
    cache_dir: PathLike | None = None
    progress: Progress = NOBODY

    def embed(
        self, frame: pd.DataFrame, columns: Sequence[str], wanted: Any, pooling: str
    ) -> tuple[dict[str, ImageBlock], EmbeddingStore]:
        """Return the embeddings of a table's images, and the cache's store that they are from."""
        return blocks_from_files(
            frame, columns, self.folder, wanted, self.options, self.cache_dir, pooling
        )


@dataclass(frozen=True)
class Staging:
    """Tunes backbones and fits second stages; a `twostage.fitting.Learner`.

    Attributes
    ----------
    how : StagingSettings
        The mode, and how backbones are tuned.
    settings : FitSettings
        How second stages are fitted.
    images : ImageSource
        Where the images are.
    parent : dict
        The spec of the backbone that tuning starts from, which made the embeddings of the rows.
    """

    how: StagingSettings
    settings: FitSettings
    images: ImageSource
    parent: dict[str, Any]

    def fit(self, rows: TrainingRows, target: Target, columns: Sequence[Column]) -> StagedModel:
        """Tune and fit.

        Parameters
        ----------
        rows : TrainingRows
            With embeddings by the backbone as it came. Their weights are for the second stage.
        target : Target
            Of these rows.
        columns : sequence of Column
            The table's columns and their roles.

        Returns
        -------
        StagedModel

        Raises
        ------
        DataError
            If no image is usable, an image has two labels, or there are too few rows or groups.
        """
        check_usable(rows.blocks)
        work = _Work(self, rows, target, columns)
        if self.how.mode == JOINT:
            return work.joint()
        _check_labels(rows, target)
        if self.how.mode == "naive":
            return work.naive()
        if self.how.mode == "holdout":
            return work.holdout()
        if self.how.mode == "crossfit":
            return work.crossfit()
        return work.oof_scores()

    def images_of(self, rows: TrainingRows, model: StagedModel) -> list[Mapping[str, ImageBlock]]:
        """Return the embeddings of rows by all backbones of a model."""

        def embed(spec: dict[str, Any]) -> Mapping[str, ImageBlock]:
            return self.embed(rows, BackboneSpec.from_dict(spec, "the model"))[0]

        return model.look(embed)

    def embed(
        self, rows: TrainingRows, wanted: BackboneSettings | BackboneSpec
    ) -> tuple[dict[str, ImageBlock], EmbeddingStore]:
        """Return the embeddings of rows by a backbone."""
        return self.images.embed(rows.frame, list(rows.blocks), wanted, self.settings.image_pooling)


@dataclass(frozen=True)
class _Work:
    """One fit: what each mode does with which rows."""

    staging: Staging
    rows: TrainingRows
    target: Target
    columns: Sequence[Column]

    def naive(self) -> StagedModel:
        everything = np.arange(len(self.rows))
        tuned = self._tune(everything)
        part = self._stage_two(tuned, everything, allow_seen=True)
        return self._model([part], [everything], tuned.seen())

    def holdout(self) -> StagedModel:
        others, tuned_on = self._cut(self.staging.how.share)
        tuned = self._tune(tuned_on)
        return self._model([self._stage_two(tuned, others)], [tuned_on], tuned.seen())

    def crossfit(self) -> StagedModel:
        everything = np.arange(len(self.rows))
        cut = self._parts()
        parts, tuned_on, seen = [], [], SeenRows()
        for number, part in enumerate(cut):
            tuned_on.append(np.setdiff1d(everything, part))
            tuned = self._tune(tuned_on[-1], f"{number + 1} of {len(cut)}")
            parts.append(self._stage_two(tuned, part))
            seen = seen.union(tuned.seen())
        return self._model(parts, tuned_on, seen)

    def oof_scores(self) -> StagedModel:
        names, folds = self._score_names(), self._folds()
        scores = {name: np.full(len(self.rows), np.nan) for of in names.values() for name in of}
        scorers, seen = [], SeenRows()
        for number, (train, test) in enumerate(folds):
            tuned = self._tune(train, f"{number + 1} of {len(folds)}")
            blocks, spec = self._embed(self.rows.take(test), tuned)
            scorers.append(Scorer(spec, tuned.top()))
            seen = seen.union(tuned.seen())
            for name, values in scores_of(scorers[-1], blocks, names).items():
                scores[name][test] = values
        rows = replace(self.rows, frame=self.rows.frame.assign(**scores))
        columns = [*self.columns, *(Column(name, NUMERIC, "float64") for name in scores)]
        part = fit_model(rows, self.target, self.staging.settings, columns)
        part = replace(part, backbone=self.staging.parent)
        return self._model([part], [train for train, _ in folds], seen, scorers, names)

    def joint(self) -> StagedModel:
        train, validation = self._cut(_VALIDATION)
        settings, everything = self.staging.settings, np.arange(len(self.rows))
        log.info("Network: fitted on embeddings by the backbone as it came ...")
        start = fit_model(self.rows.take(train), self.target.take(train), settings, self.columns)
        tuned = self._cotrained(start, train, validation)
        n_images = np.sum([block.n_images for block in self.rows.blocks.values()], axis=0)
        _, spec = self._embed(self.rows.take(np.flatnonzero(n_images)[:1]), tuned)
        if _stayed(tuned):
            part = fit_model(self.rows, self.target, settings, self.columns)
        else:
            start.members[0].head.network_.set_weights(tuned.network_weights().arrays)
            record = record_of(self.rows, self.columns)
            part = replace(start, n_rows=len(self.rows), trained_on=record)
        return self._model([replace(part, backbone=spec)], [everything], tuned.seen())

    def _cotrained(
        self, start: FittedModel, train: np.ndarray, validation: np.ndarray
    ) -> TunedBackbone:
        """Return the backbone of a joint network, from the cache if it was trained before."""
        staging, rows = self.staging, self.rows
        images, settings = staging.images, staging.settings
        weights = weights_of(rows, self.target, settings)
        weights = np.ones(len(rows)) if weights is None else weights / weights.mean()
        (member,) = start.members
        what = Cotraining(
            images.folder,
            images.backbone,
            member,
            rows,
            weights,
            train,
            validation,
            settings.image_pooling,
            staging.how.tuning,
        )
        with place_for_backbone(self._joint_key(what), images.cache_dir) as folder:
            tuned = _kept(folder)
            if tuned is not None:
                log.info("Both were trained together on these rows before.")
                return tuned
            cotrain(
                folder,
                what,
                target=settings.target,
                group=_group_of(rows, settings),
                workers=images.options.workers,
                max_pixels=images.options.max_pixels,
                device=images.options.device,
                progress=images.progress,
            )
            return TunedBackbone.in_folder(folder)

    def _cut(self, share: float) -> tuple[np.ndarray, np.ndarray]:
        """Return two parts of the rows, the second of about a share; no group is in both."""
        larger, smaller = holdout(
            self.target.y,
            is_classification=self.rows.is_classification,
            groups=self.rows.groups,
            fraction=min(share, 1 - share),
            random_state=self.staging.settings.random_state,
        )
        return (larger, smaller) if share <= 0.5 else (smaller, larger)

    def _parts(self) -> list[np.ndarray]:
        """Return the rows in parts that share no group."""
        return partition(
            self.target.y,
            is_classification=self.rows.is_classification,
            groups=self.rows.groups,
            n_parts=self.staging.how.n_folds,
            random_state=self.staging.settings.random_state,
        )

    def _folds(self) -> list[tuple[np.ndarray, np.ndarray]]:
        folds = covering_folds(
            self.target.y,
            is_classification=self.rows.is_classification,
            groups=self.rows.groups,
            n_folds=self.staging.how.n_folds,
            random_state=self.staging.settings.random_state,
        )
        if not folds:
            raise DataError(
                f"The {len(self.rows)} rows are too few, or of too few groups, to score any of "
                "them by a backbone that has not seen them. Add rows of other groups."
            )
        return folds

    def _tune(self, which: np.ndarray, number: str = "") -> TunedBackbone:
        """Return a backbone tuned on some rows, from the cache if it was tuned on them before."""
        staging, rows, target = self.staging, self.rows.take(which), self.target.take(which)
        images, settings = staging.images, staging.settings
        log.info("Backbone %s: to be tuned on %s rows ...", number or "1 of 1", f"{len(rows):,}")
        with place_for_backbone(self._key_of(rows, target), images.cache_dir) as folder:
            tuned = _kept(folder)
            if tuned is not None:
                log.info("It was tuned on these rows before.")
            else:
                table, label, group = _as_table(rows, target, settings)
                done = finetune(
                    images.folder,
                    folder,
                    table=table,
                    target=label,
                    image_columns=list(rows.blocks),
                    group=group,
                    holdout=0,
                    task=target.task,
                    log_target=settings.log_target,
                    backbone=images.backbone,
                    workers=images.options.workers,
                    max_pixels=images.options.max_pixels,
                    device=images.options.device,
                    progress=images.progress,
                    **asdict(staging.how.tuning),
                )
                if done.stopped:
                    log.info("Ended early: %s.", done.stopped)
                tuned = TunedBackbone.in_folder(folder)
        _stayed(tuned)
        return tuned

    def _key_of(self, rows: TrainingRows, target: Target, joint: Any = None) -> str:
        """Return a digest of all that makes a tuned backbone what it is."""
        groups = rows.group_values
        more = {} if joint is None else {"joint": joint}
        return hash_json(
            more
            | {
                "version": _KEY_VERSION,
                "parent": BackboneSpec.from_dict(self.staging.parent, "the cache").key,
                "tuning": asdict(self.staging.how.tuning),
                "log_target": self.staging.settings.log_target,
                "classes": None if target.classes is None else [str(c) for c in target.classes],
                "y": target.y.tolist(),
                "groups": None if groups is None else [str(value) for value in groups],
                "images": [block.content_hashes for block in rows.blocks.values()],
            }
        )

    def _joint_key(self, what: Cotraining) -> str:
        """Return a digest of all that makes a backbone that is trained with a network."""
        settings, head = self.staging.settings, what.member.head
        recipe = dict(settings.recipe)
        if recipe.get("word_vectors") is not None:
            recipe["word_vectors"] = hash_file(Path(recipe["word_vectors"]))
        more = {
            "table": record_of(what.rows, self.columns)["row_digest"].tolist(),
            "columns": [asdict(column) for column in self.columns],
            "recipe": recipe,
            "head": head.parameters(),
            "network": [list(array.shape) for array in head.network_.get_weights()],
            "pooling": what.pooling,
            "weights": what.weights.tolist(),
            "train": what.train.tolist(),
        }
        return self._key_of(what.rows, self.target, more)

    def _embed(
        self, rows: TrainingRows, tuned: TunedBackbone
    ) -> tuple[dict[str, ImageBlock], dict[str, Any]]:
        """Return the embeddings of rows by a tuned backbone, run as its parent is, and its spec."""
        asked = self.staging.images.backbone
        wanted = BackboneSettings(tuned.folder, engine=asked.engine, precision=asked.precision)
        blocks, store = self.staging.embed(rows, wanted)
        # The store may be of the same network from elsewhere: one that no epoch made better.
        file = {"weights": str(tuned.network), "weights_file_hash": hash_file(tuned.network)}
        return blocks, store.spec | file

    def _stage_two(
        self, tuned: TunedBackbone, which: np.ndarray, allow_seen: bool = False
    ) -> FittedModel:
        """Fit a second stage to some rows, by embeddings that know nothing of their labels."""
        settings = self.staging.settings
        settings = replace(settings, allow_seen=settings.allow_seen or allow_seen)
        rows = self.rows.take(which)
        blocks, spec = self._embed(rows, tuned)
        rows, seen = replace(rows, blocks=blocks), tuned.seen()
        is_seen = tell_seen(rows, settings, seen)
        kept = without_seen(is_seen, settings, seen)
        target = self.target.take(which[kept])
        model = fit_model(rows.take(kept), target, settings, self.columns)
        return replace(model, backbone=spec, n_seen=int(is_seen.sum()))

    def _score_names(self) -> dict[str, list[str]]:
        """Return, by image column, names of columns for scores that the table has not yet."""
        classes = self.target.classes
        labels = [""] if classes is None else [f"_{label}" for label in classes]
        labels = labels[1:] if len(labels) == 2 else labels
        return {
            column: [free_name(f"{column}_cnn{label}", self.rows.frame) for label in labels]
            for column in self.rows.blocks
        }

    def _model(
        self,
        parts: list[FittedModel],
        tuned_on: Sequence[np.ndarray],
        seen: SeenRows,
        scorers: Sequence[Scorer] = (),
        score_names: Mapping[str, list[str]] | None = None,
    ) -> StagedModel:
        return StagedModel(
            settings=replace(self.staging.settings, task=self.target.task),
            classes=self.target.classes,
            staging=self.staging.how,
            parent=self.staging.parent,
            columns=list(self.columns),
            parts=parts,
            n_tuned=[len(which) for which in tuned_on],
            n_rows=len(self.rows),
            trained_on=record_of(self.rows, self.columns),
            seen=seen,
            scorers=list(scorers),
            score_names=dict(score_names or {}),
        )


def _kept(folder: Path) -> TunedBackbone | None:
    """Return the backbone in a folder of the cache; None if there is none, or it is damaged."""
    try:
        tuned = find_tuned(folder)
    except BackboneError:
        return None
    return tuned if tuned is not None and tuned.is_whole() else None


def _stayed(tuned: TunedBackbone) -> bool:
    """Whether no epoch was better than the backbone as it came; if so, tell it."""
    if tuned.record["training"]["best_epoch"]:
        return False
    log.info("No epoch was better than the backbone as it came: it stays that.")
    return True


def _as_table(
    rows: TrainingRows, target: Target, settings: FitSettings
) -> tuple[pd.DataFrame, str, str | None]:
    """Return what tuning learns from: images, labels and groups, and the names of the latter."""
    table = rows.frame[list(rows.blocks)].reset_index(drop=True)
    table[settings.target] = target.y if target.classes is None else target.classes[target.y]
    group = _group_of(rows, settings)
    if group is not None:
        table[group] = rows.group_values
    return table, settings.target, group


def _group_of(rows: TrainingRows, settings: FitSettings) -> str | None:
    """Return the name of the groups' column, if there are groups."""
    if rows.group_values is None:
        return None
    return settings.group or free_name("group", rows.frame)


def _check_labels(rows: TrainingRows, target: Target) -> None:
    """Refuse images that have two labels, by the numbers of their rows."""
    row_of: dict[str, int] = {}
    for block in rows.blocks.values():
        for row, hashes in enumerate(block.content_hashes):
            for content_hash in hashes:
                first = row_of.setdefault(content_hash, row)
                if target.y[first] != target.y[row]:
                    names = [rows.frame[block.column].iloc[number] for number in (first, row)]
                    raise DataError(
                        f"'{names[0]}' and '{names[1]}' are the same image with two labels. "
                        "Correct the table: an image can teach a backbone only one."
                    )
