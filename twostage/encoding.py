"""From rows to a head's features, by its recipe: columns, texts, sequences, vectors, embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from twostage.blocks import BlockEncoder
from twostage.errors import DataError
from twostage.features import Features, Steps, Tokens
from twostage.joins import ImageBlock, embedding_names
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.recipes import WORDS, Recipe
from twostage.ridge import outputs_of
from twostage.rows import TrainingRows
from twostage.saving import to_json
from twostage.splits import covering_folds
from twostage.table.encoding import TableEncoder
from twostage.table.roles import SEQUENCE, TEXT, VECTOR, Column
from twostage.table.sequences import StepsEncoder, SummaryEncoder
from twostage.table.text import TextEncoder
from twostage.table.tokens import stop_words_of
from twostage.table.vectors import vectors_in
from twostage.table.words import WordEncoder

_RECORD = "encoding.json"
_TABLE_FOLDER = "table"


@dataclass(frozen=True)
class _Record:
    """What ``encoding.json`` holds; see `FeatureEncoder`."""

    texts: list[str]
    widths: dict[str, int]
    counts: dict[str, str]
    blocks: dict[str, dict[str, Any]]
    words: list[str] = field(default_factory=list)
    summaries: dict[str, SummaryEncoder] = field(default_factory=dict)
    steps: dict[str, StepsEncoder] = field(default_factory=dict)


@dataclass(frozen=True)
class EncodedTable:
    """The columns of training rows, as an encoder must show rows that it learned from.

    Attributes
    ----------
    encoder : TableEncoder
        That learned from them.
    dense : float32 array of shape (n_rows, n_dense)
        Encoded, no row by its own label.
    codes : int32 array of shape (n_rows, n_coded)
        Numbers of the categories left to the head.
    """

    encoder: TableEncoder
    dense: np.ndarray
    codes: np.ndarray

    @classmethod
    def of(
        cls, rows: TrainingRows, columns: Sequence[Column], recipe: Recipe, random_state: int
    ) -> Self:
        """Learn from training rows; see `FeatureEncoder.fit_transform`."""
        return cls(
            *TableEncoder.fit_transform(
                rows.frame,
                columns,
                recipe,
                rows.y,
                is_classification=rows.is_classification,
                random_state=random_state,
                groups=rows.groups,
                sample_weight=rows.sample_weight,
            )
        )

    def take(self, rows: np.ndarray) -> "EncodedTable":
        """Return some rows, by number."""
        return EncodedTable(self.encoder, self.dense[rows], self.codes[rows])


@dataclass
class FeatureEncoder:
    """All that was learned about how rows become features, in training rows alone.

    Attributes
    ----------
    table : TableEncoder
        Of numbers, categories and dates.
    texts : dict of str to TextEncoder
        By column, for heads that see components of texts.
    widths : dict of str to int
        Of each block, by column: images, then vectors, then summaries of sequences, then texts.
    blocks : dict of str to BlockEncoder
        By column, in that order.
    counts : dict of str to str
        Image columns whose number of images is a feature ("n_images"), or whether there is any
        ("has_image"): where that differs between rows.
    words : dict of str to WordEncoder
        By column, for heads that read texts.
    summaries : dict of str to SummaryEncoder
        Of sequences whose head sees numbers that describe them, by column.
    steps : dict of str to StepsEncoder
        Of sequences whose head follows their steps, by column.
    """

    table: TableEncoder
    texts: dict[str, TextEncoder]
    widths: dict[str, int]
    blocks: dict[str, BlockEncoder]
    counts: dict[str, str]
    words: dict[str, WordEncoder] = field(default_factory=dict)
    summaries: dict[str, SummaryEncoder] = field(default_factory=dict)
    steps: dict[str, StepsEncoder] = field(default_factory=dict)

    @classmethod
    def fit_transform(
        cls,
        rows: TrainingRows,
        columns: Sequence[Column],
        recipe: Recipe,
        random_state: int,
        table: EncodedTable | None = None,
    ) -> tuple[Self, Features]:
        """Learn from training rows, and encode them.

        Parameters
        ----------
        rows : TrainingRows
            Of n_rows.
        columns : sequence of Column
            The table's columns and their roles.
        recipe : Recipe
            What the head wants.
        random_state : int
            Of the folds in which target encoders and probes are cross-fitted.
        table : EncodedTable, optional
            Of the rows, by an encoder that learned from more rows than these.

        Returns
        -------
        encoder : FeatureEncoder
        features : Features
            Of n_rows. No row's features come from its own label, nor from that of its group.
        """
        table = table or EncodedTable.of(rows, columns, recipe, random_state)
        counts = _counts(rows.blocks, recipe)
        texts: dict[str, TextEncoder] = {}
        matrices = {name: block.matrix for name, block in rows.blocks.items()}
        matrices |= {
            column.name: vectors_in(rows.frame[column.name], column.n_values or 0)
            for column in columns
            if column.role == VECTOR
        }
        steps, summaries = _sequence_encoders(rows.frame, columns, recipe)
        matrices |= {name: one.transform(rows.frame[name]) for name, one in summaries.items()}
        folds = covering_folds(
            rows.y,
            is_classification=rows.is_classification,
            groups=rows.groups,
            random_state=random_state,
        )
        beside = [table.dense, *_counted(rows.blocks, counts)]
        of_text = [column.name for column in columns if column.role == TEXT]
        reads_words = recipe.texts == WORDS
        stop_words = stop_words_of(recipe.stop_words)
        words, tokens = _fit_words(
            rows.frame[of_text if reads_words else []], stop_words, recipe.word_vectors
        )
        for name in [] if reads_words else of_text:
            texts[name], matrices[name], scores = TextEncoder.fit_transform(
                rows.frame[name],
                outputs_of(rows.y, rows.n_classes),
                folds,
                random_state=random_state,
                sample_weight=rows.sample_weight,
                stop_words=stop_words,
            )
            beside.append(scores)
        blocks: dict[str, BlockEncoder] = {}
        found: list[np.ndarray] = []
        n_each = max(1, recipe.n_components // max(1, len(matrices)))
        for name, matrix in matrices.items():
            blocks[name], block_features = BlockEncoder.fit_transform(
                matrix,
                recipe.changed(n_components=n_each),
                rows.y,
                n_classes=rows.n_classes,
                folds=folds,
                sample_weight=rows.sample_weight,
            )
            found += block_features
        widths = {name: matrix.shape[1] for name, matrix in matrices.items()}
        encoder = cls(table.encoder, texts, widths, blocks, counts, words, summaries, steps)
        return encoder, Features(
            _stacked(beside),
            table.codes,
            table.encoder.cardinalities,
            tuple(found),
            tokens,
            encoder._followed(rows.frame),
        )

    def transform(
        self,
        frame: pd.DataFrame,
        images: Mapping[str, ImageBlock],
        table: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> Features:
        """Encode rows.

        Parameters
        ----------
        frame : DataFrame of shape (n_rows, n_columns)
            With the columns that were learned from, in any order.
        images : mapping of str to ImageBlock
            One per image column, aligned with ``frame``.
        table : (dense, codes), optional
            The table's columns of these rows, encoded already; see `EncodedTable`.
        """
        encoded, codes = table or self.table.transform(frame)
        beside = [encoded, *_counted(images, self.counts)]
        found: list[np.ndarray] = []
        for name, encoder in self.blocks.items():
            if name in self.texts:
                matrix, scores = self.texts[name].transform(frame[name])
                beside.append(scores)
            elif name in images:
                matrix = images[name].matrix
            elif name in self.summaries:
                matrix = self.summaries[name].transform(frame[name])
            else:
                matrix = vectors_in(frame[name], self.widths[name])
            if matrix.shape[1] != self.widths[name]:
                raise DataError(
                    f"Column '{name}' has embeddings of {matrix.shape[1]} numbers; the model was "
                    f"trained on {self.widths[name]}. Give those of the same backbone."
                )
            found += encoder.transform(matrix)
        return Features(
            _stacked(beside),
            codes,
            self.table.cardinalities,
            tuple(found),
            tuple(words.transform(frame[name]) for name, words in self.words.items()),
            self._followed(frame),
        )

    def feature_names(self) -> list[str]:
        """Return the name of each feature, in the order of `Features.matrix`."""
        of_table = self.table.feature_names()
        n_codes = len(self.table.cardinalities)
        n_dense = len(of_table) - n_codes
        names = of_table[:n_dense] + [f"{column}_{what}" for column, what in self.counts.items()]
        for column, text in self.texts.items():
            names += [f"{column}_score_{output}" for output in range(text.n_outputs)]
        names += of_table[n_dense:]
        for column, encoder in self.blocks.items():
            of_block = embedding_names(column, self.widths[column])
            if column in self.summaries:
                of_block = self.summaries[column].feature_names(column)
            names += encoder.feature_names(of_block)
        return names

    def save(self, folder: Path) -> None:
        """Write all that was learned into a folder, without pickles."""
        (folder / _TABLE_FOLDER).mkdir()
        self.table.save(folder / _TABLE_FOLDER)
        for number, text in enumerate(self.texts.values()):
            text.save(folder, f"text-{number}")
        for number, words in enumerate(self.words.values()):
            words.save(folder, f"words-{number}")
        record: dict[str, Any] = {
            "texts": list(self.texts),
            "widths": self.widths,
            "counts": self.counts,
            "blocks": {
                name: encoder.save(folder, f"block-{number}")
                for number, (name, encoder) in enumerate(self.blocks.items())
            },
            "words": list(self.words),
            "summaries": {name: asdict(summary) for name, summary in self.summaries.items()},
            "steps": {name: asdict(steps) for name, steps in self.steps.items()},
        }
        (folder / _RECORD).write_text(to_json(record))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        record = checked(_Record, read_json(folder / _RECORD), _RECORD)
        if list(record.widths) != list(record.blocks):
            raise ValueError(f"{_RECORD} has widths of other columns than it has blocks of")
        for name, summary in record.summaries.items():
            if record.widths.get(name) != len(summary.fills):
                raise ValueError(f"{_RECORD} describes '{name}' by other numbers than its block")
        return cls(
            TableEncoder.load(folder / _TABLE_FOLDER),
            {
                name: TextEncoder.load(folder, f"text-{number}")
                for number, name in enumerate(record.texts)
            },
            record.widths,
            {
                name: BlockEncoder.load(folder, f"block-{number}", saved, record.widths[name])
                for number, (name, saved) in enumerate(record.blocks.items())
            },
            record.counts,
            {
                name: WordEncoder.load(folder, f"words-{number}")
                for number, name in enumerate(record.words)
            },
            record.summaries,
            record.steps,
        )

    def _followed(self, frame: pd.DataFrame) -> tuple[Steps, ...]:
        """Return the sequences whose steps the head follows."""
        return tuple(encoder.transform(frame[name]) for name, encoder in self.steps.items())


def _sequence_encoders(
    frame: pd.DataFrame, columns: Sequence[Column], recipe: Recipe
) -> tuple[dict[str, StepsEncoder], dict[str, SummaryEncoder]]:
    """Learn what a head sees of sequences: their steps, or what describes them."""
    channels = {c.name: c.n_values or 0 for c in columns if c.role == SEQUENCE}
    if recipe.sequences == "steps":
        return {name: StepsEncoder.fit(frame[name], n) for name, n in channels.items()}, {}
    return {}, {name: SummaryEncoder.fit(frame[name], n) for name, n in channels.items()}


def _fit_words(
    frame: pd.DataFrame, stop_words: frozenset[str], vectors: str | None
) -> tuple[dict[str, WordEncoder], tuple[Tokens, ...]]:
    """Learn the words of text columns, and number them."""
    fitted = {
        name: WordEncoder.fit_transform(frame[name], stop_words=stop_words, vectors=vectors)
        for name in frame.columns
    }
    encoders = {name: encoder for name, (encoder, _) in fitted.items()}
    return encoders, tuple(tokens for _, tokens in fitted.values())


def _counts(images: Mapping[str, ImageBlock], recipe: Recipe) -> dict[str, str]:
    """Return which image columns differ in their number of images, and how that is told."""
    counts = {}
    for name, block in images.items():
        if block.n_images.max(initial=0) > 1 and np.ptp(block.n_images) > 0:
            counts[name] = "n_images"
        elif recipe.fills_missing and (block.n_images == 0).any():
            counts[name] = "has_image"
    return counts


def _counted(images: Mapping[str, ImageBlock], counts: Mapping[str, str]) -> list[np.ndarray]:
    """Return how many images each row has, or whether it has any, as columns."""
    return [
        images[name].n_images if what == "n_images" else images[name].n_images > 0
        for name, what in counts.items()
    ]


def _stacked(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Put columns beside the table's, which stay what they are if there are none."""
    if len(columns) == 1:
        return columns[0]
    return np.column_stack(columns).astype(np.float32)
