"""From rows to a head's features, by its recipe: table columns, texts, vectors and embeddings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from twostage.blocks import BlockEncoder
from twostage.errors import DataError
from twostage.features import Features, Tokens
from twostage.joins import ImageBlock, embedding_names
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.recipes import WORDS, Recipe
from twostage.ridge import outputs_of
from twostage.rows import TrainingRows
from twostage.saving import to_json
from twostage.splits import covering_folds
from twostage.table.encoding import TableEncoder
from twostage.table.roles import TEXT, VECTOR, Column
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
        Of each block, by column: images, then vectors, then texts.
    blocks : dict of str to BlockEncoder
        By column, in that order.
    counts : dict of str to str
        Image columns whose number of images is a feature ("n_images"), or whether there is any
        ("has_image"): where that differs between rows.
    words : dict of str to WordEncoder
        By column, for heads that read texts.
    """

    table: TableEncoder
    texts: dict[str, TextEncoder]
    widths: dict[str, int]
    blocks: dict[str, BlockEncoder]
    counts: dict[str, str]
    words: dict[str, WordEncoder]

    @classmethod
    def fit_transform(
        cls, rows: TrainingRows, columns: Sequence[Column], recipe: Recipe, random_state: int
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

        Returns
        -------
        encoder : FeatureEncoder
        features : Features
            Of n_rows. No row's features come from its own label, nor from that of its group.
        """
        table, encoded, codes = TableEncoder.fit_transform(
            rows.frame,
            columns,
            recipe,
            rows.y,
            is_classification=rows.is_classification,
            random_state=random_state,
            groups=rows.groups,
            sample_weight=rows.sample_weight,
        )
        counts = _counts(rows.blocks, recipe)
        texts: dict[str, TextEncoder] = {}
        matrices = {name: block.matrix for name, block in rows.blocks.items()}
        matrices |= {
            column.name: vectors_in(rows.frame[column.name], column.n_values or 0)
            for column in columns
            if column.role == VECTOR
        }
        folds = covering_folds(
            rows.y,
            is_classification=rows.is_classification,
            groups=rows.groups,
            random_state=random_state,
        )
        beside = [encoded, *_counted(rows.blocks, counts)]
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
        encoder = cls(table, texts, widths, blocks, counts, words)
        features = Features(_stacked(beside), codes, table.cardinalities, tuple(found), tokens)
        return encoder, features

    def transform(self, frame: pd.DataFrame, images: Mapping[str, ImageBlock]) -> Features:
        """Encode rows.

        Parameters
        ----------
        frame : DataFrame of shape (n_rows, n_columns)
            With the columns that were learned from, in any order.
        images : mapping of str to ImageBlock
            One per image column, aligned with ``frame``.
        """
        encoded, codes = self.table.transform(frame)
        beside = [encoded, *_counted(images, self.counts)]
        found: list[np.ndarray] = []
        for name, encoder in self.blocks.items():
            if name in self.texts:
                matrix, scores = self.texts[name].transform(frame[name])
                beside.append(scores)
            elif name in images:
                matrix = images[name].matrix
            else:
                matrix = vectors_in(frame[name], self.widths[name])
            if matrix.shape[1] != self.widths[name]:
                raise DataError(
                    f"Column '{name}' has embeddings of {matrix.shape[1]} numbers; the model was "
                    f"trained on {self.widths[name]}. Give those of the same backbone."
                )
            found += encoder.transform(matrix)
        tokens = tuple(words.transform(frame[name]) for name, words in self.words.items())
        return Features(_stacked(beside), codes, self.table.cardinalities, tuple(found), tokens)

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
            names += encoder.feature_names(embedding_names(column, self.widths[column]))
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
        }
        (folder / _RECORD).write_text(to_json(record))

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what `save` wrote."""
        record = checked(_Record, read_json(folder / _RECORD), _RECORD)
        if list(record.widths) != list(record.blocks):
            raise ValueError(f"{_RECORD} has widths of other columns than it has blocks of")
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
        )


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
