"""A text as numbers of its words, for networks that read them."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from twostage.errors import DataError
from twostage.features import FIRST_WORD, NO_WORD, UNKNOWN, Tokens
from twostage.opening.files import read_json
from twostage.opening.records import checked
from twostage.saving import to_json
from twostage.table.tokens import texts_in, words_in
from twostage.table.word_vectors import read_vectors

_MOST_WORDS = 20_000
_LONGEST = 400
_SHARE_READ_WHOLE = 0.98  # of the texts: the longest of all would make all others long
_FEW_TEXTS = 200


class WordEncoder:
    """The words of a text column, by number, and how many of a text are read.

    Parameters
    ----------
    words : sequence of str
        Word i has number i + 2. Others have number 1; 0 is none.
    length : int
        So many words of each text are read, the first ones.
    stop_words : collection of str
        Words that are left out.
    """

    def __init__(self, words: Sequence[str], length: int, stop_words: Collection[str] = ()):
        self.words = list(words)
        self.length = length
        self.stop_words = frozenset(stop_words)
        self._number_of = {word: n for n, word in enumerate(self.words, FIRST_WORD)}

    @classmethod
    def fit_transform(
        cls,
        values: pd.Series,
        *,
        stop_words: Collection[str] = (),
        vectors: str | None = None,
        most_words: int = _MOST_WORDS,
    ) -> tuple["WordEncoder", Tokens]:
        """Learn the words of training rows, and number them.

        Of at least 200 texts, words that occur in a single one are left to number 1, as words are
        that come later.

        Parameters
        ----------
        values : Series of length n_rows
            Texts; a missing one counts as empty.
        stop_words : collection of str
            Words to leave out.
        vectors : path-like, optional
            A file of what words mean; see `twostage.table.word_vectors.read_vectors`.
        most_words : int
            How many words have a number, the most frequent ones.

        Returns
        -------
        encoder : WordEncoder
        tokens : Tokens
            Of n_rows.

        Raises
        ------
        DataError
            If there are no words, or the file of vectors can't be read or knows none of them.
        """
        stop_words = frozenset(stop_words)
        texts = [_without(stop_words, words_in(text)) for text in texts_in(values)]
        n_texts_with = Counter(word for text in texts for word in set(text))
        if not n_texts_with:
            raise DataError(
                f"Column '{values.name}' is taken as text, but has no words to learn from. Give it "
                "another role, or ignore it."
            )
        least = 2 if len(texts) >= _FEW_TEXTS else 1
        known = [word for word, n in n_texts_with.items() if n >= least]
        known.sort(key=lambda word: (-n_texts_with[word], word))
        lengths = [len(text) for text in texts if text]
        length = int(np.ceil(np.quantile(lengths, _SHARE_READ_WHOLE)))
        encoder = cls(known[:most_words], min(length, _LONGEST), stop_words)
        tokens = encoder._numbered(texts)
        if vectors is not None:
            tokens = replace(tokens, vectors=read_vectors(vectors, encoder.words))
        return encoder, tokens

    @property
    def n_words(self) -> int:
        """How many numbers there are, 0 and 1 included."""
        return FIRST_WORD + len(self.words)

    def transform(self, values: pd.Series) -> Tokens:
        """Number the words of texts."""
        return self._numbered(
            _without(self.stop_words, words_in(text)) for text in texts_in(values)
        )

    def save(self, folder: Path, name: str) -> None:
        """Write what was learned."""
        record = {
            "words": self.words,
            "length": self.length,
            "stop_words": sorted(self.stop_words),
        }
        (folder / f"{name}.json").write_text(to_json(record), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, name: str) -> "WordEncoder":
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file holds something else.
        """
        file = folder / f"{name}.json"
        record = checked(dict[str, Any], read_json(file), file.name)
        words = checked(list[str], record["words"], "words")
        length = checked(int, record["length"], "length")
        if len(set(words)) < len(words) or not 1 <= length <= _LONGEST:
            raise ValueError(f"{file.name} does not number words one by one, or none of a text")
        return cls(words, length, checked(list[str], record["stop_words"], "stop_words"))

    def _numbered(self, texts: Iterable[Sequence[str]]) -> Tokens:
        rows = [
            [self._number_of.get(word, UNKNOWN) for word in text[: self.length]] for text in texts
        ]
        numbers = np.full((len(rows), self.length), NO_WORD, np.int32)
        for row, found in zip(numbers, rows, strict=True):
            row[: len(found)] = found
        return Tokens(numbers, self.n_words)


def _without(stop_words: frozenset[str], words: list[str]) -> list[str]:
    return [word for word in words if word not in stop_words] if stop_words else words
