"""A member of a fitted model: a head, and the encoder of the features that its recipe asks for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import clone
from threadpoolctl import threadpool_limits

from twostage.encoding import EncodedTable, FeatureEncoder
from twostage.errors import DataError
from twostage.features import Features
from twostage.heads import Head, Task, head_class, name_of
from twostage.joins import ImageBlock
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.recipes import Recipe
from twostage.rows import TrainingRows
from twostage.saving import to_json
from twostage.table.roles import Column

_MIN_CELLS_FOR_THREADS = 20_000_000
_RECORD = "member.json"


@dataclass(frozen=True)
class _Record:
    """What ``member.json`` holds: the head's name, and what it was made with."""

    head: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class MemberPlan:
    """How a member is fitted.

    Attributes
    ----------
    head : Head
        Unfitted.
    recipe : Recipe
        Of its features.
    columns : sequence of Column
        The table's columns and their roles.
    task : Task
        What the head is fitted for.
    """

    head: Head
    recipe: Recipe
    columns: Sequence[Column]
    task: Task

    def fit(self, rows: TrainingRows) -> "Member":
        """Learn encoder and head from training rows."""
        with _few_threads(rows):
            encoder, features = self.encode(rows)
            head = clone(self.head)
            head.fit(features, rows.y, self.task, rows.groups, rows.sample_weight)
        return Member(encoder, head)

    def encode_table(self, rows: TrainingRows) -> EncodedTable:
        """Learn how columns of the table are encoded, alone."""
        with _few_threads(rows):
            return EncodedTable.of(rows, self.columns, self.recipe, self.task.random_state)

    def encode(
        self, rows: TrainingRows, table: EncodedTable | None = None
    ) -> tuple[FeatureEncoder, Features]:
        """Learn the encoder alone, and return what it makes of the rows.

        Parameters
        ----------
        rows : TrainingRows
            To learn from.
        table : EncodedTable, optional
            Of the rows, if columns of the table are encoded already.

        Raises
        ------
        DataError
            If there is nothing to learn from.
        """
        with _few_threads(rows):
            encoder, features = FeatureEncoder.fit_transform(
                rows, self.columns, self.recipe, self.task.random_state, table
            )
        if features.is_empty:
            raise DataError("There are no features to learn from.")
        return encoder, features


def _few_threads(rows: TrainingRows) -> threadpool_limits:
    """On small matrices threads wait for each other, all the more beside other processes."""
    width = len(rows.frame.columns) + sum(b.matrix.shape[1] for b in rows.blocks.values())
    is_small = len(rows) * width < _MIN_CELLS_FOR_THREADS
    return threadpool_limits(1 if is_small else None, user_api="blas")


@dataclass(frozen=True)
class Member:
    """A fitted head and the encoder of its features.

    Attributes
    ----------
    encoder : FeatureEncoder
        From rows to features.
    head : Head
        From features to predictions.
    """

    encoder: FeatureEncoder
    head: Head

    def predict(self, frame: pd.DataFrame, images: Mapping[str, ImageBlock]) -> np.ndarray:
        """Predict rows.

        Returns
        -------
        float64 array of shape (n_rows,) or (n_rows, n_classes)
            Values, or class probabilities.
        """
        return self._predict(self.encoder.transform(frame, images))

    def check_codes(self, frame: pd.DataFrame, images: Mapping[str, ImageBlock]) -> None:
        """Predict rows of the last categories and words; raise something if there are fewer."""
        encoded = self.encoder.transform(frame, images)
        last = np.array(encoded.cardinalities, np.int32) - 1
        codes = np.tile(last, (len(encoded), 1))
        texts = tuple(
            replace(text, numbers=np.full_like(text.numbers, text.n_words - 1))
            for text in encoded.texts
        )
        self._predict(replace(encoded, codes=codes, texts=texts))

    def _predict(self, features: Features) -> np.ndarray:
        if self.head.task_.is_classification:
            return np.asarray(self.head.predict_proba(features), np.float64)
        return np.asarray(self.head.predict(features), np.float64)

    def save(self, folder: Path, trusted: Sequence[str] = ()) -> None:
        """Write head and encoder into a folder, without pickles; see `Head.save`."""
        self.encoder.save(folder)
        self.head.save(folder, trusted)
        record = {"head": name_of(self.head), "parameters": self.head.parameters()}
        (folder / _RECORD).write_text(to_json(record))

    @classmethod
    def load(cls, folder: Path, task: Task, trusted: Sequence[str] = ()) -> "Member":
        """Read what `save` wrote; see `Head.load`."""
        record = checked(_Record, read_json(folder / _RECORD), _RECORD)
        head = head_class(record.head)(**record.parameters)
        head.check_parameters()
        return cls(FeatureEncoder.load(folder), head.load(folder, task, trusted))
