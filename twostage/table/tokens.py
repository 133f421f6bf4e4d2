"""Texts taken apart into words, and words that say nothing."""

import os
import re
import unicodedata
from pathlib import Path

import pandas as pd

from twostage.errors import DataError, UsageError

ENGLISH = "english"
_WORD = re.compile(r"\w+")
_LARGEST_LIST = 10_000_000  # bytes


def words_in(text: str) -> list[str]:
    """Take a text apart: letters and digits, in lower case, without accents."""
    return _WORD.findall(normalised(text))


def normalised(text: str) -> str:
    """Return a text in lower case, without accents."""
    if text.isascii():
        return text.lower()
    apart = unicodedata.normalize("NFKD", text.lower())
    return "".join(letter for letter in apart if not unicodedata.combining(letter))


def texts_in(values: pd.Series) -> list[str]:
    """Return the texts of a column, empty where they are missing."""
    return values.astype(object).where(values.notna(), "").astype(str).tolist()


def stop_words_of(asked: str | os.PathLike[str] | None) -> frozenset[str]:
    """Return the words that texts are to be read without.

    Parameters
    ----------
    asked : "english", path-like or None
        scikit-learn's English list, or a text file of words with blanks or lines between.

    Raises
    ------
    UsageError
        If there is no such file.
    DataError
        If it can't be read, or has no words.
    """
    if asked is None:
        return frozenset()
    if asked == ENGLISH:
        from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

        return frozenset(word for entry in ENGLISH_STOP_WORDS for word in words_in(entry))
    file = Path(asked)
    if not file.is_file():
        raise UsageError(f"Stop words are '{ENGLISH}' or a file of words; there is no '{asked}'.")
    try:
        if file.stat().st_size > _LARGEST_LIST:
            raise ValueError("it is too large for a list of words")
        found = frozenset(words_in(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(
            f"'{asked}' can't be read as stop words: {error}. Give a text file (UTF-8) of words."
        ) from error
    if not found:
        raise DataError(f"'{asked}' has no words to leave out. Give a text file of words.")
    return found
