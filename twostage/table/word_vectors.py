"""Vectors of words, from the files in which others publish them."""

import gzip
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from twostage.errors import DataError, UsageError
from twostage.features import FIRST_WORD
from twostage.table.tokens import normalised

_MOST_NUMBERS = 10_000  # in a vector
_LONGEST_WORD = 10_000  # bytes
_LONGEST_LINE = _LONGEST_WORD + 32 * _MOST_NUMBERS
_PEEK = 1 << 16


def check_vectors_file(file: str | os.PathLike[str]) -> None:
    """Raise UsageError if there is no such file of word vectors."""
    if not Path(file).is_file():
        raise UsageError(f"There is no file of word vectors '{file}'.")


def read_vectors(file: str | os.PathLike[str], words: Sequence[str]) -> np.ndarray:
    """Read the vectors of some words, and keep no others: the file may be larger than the memory.

    Parameters
    ----------
    file : path-like
        Text, a word and its numbers in each line, as GloVe's and fastText's ``.vec`` are, or
        word2vec's binary format; maybe packed (``.gz``).
    words : sequence of str
        As `twostage.table.tokens.words_in` gives them; word i has number i + 2. What the file has
        in capitals or with accents stands for a word that it has in no other way: the first of
        them, which is the most frequent in files as they are published.

    Returns
    -------
    float32 array of shape (len(words) + 2, dim)
        By number; 0 throughout where the file does not know the word.

    Raises
    ------
    UsageError
        If there is no such file.
    DataError
        If it is no such file or damaged, or knows none of the words.
    """
    check_vectors_file(file)
    number_of = {word: number for number, word in enumerate(words, FIRST_WORD)}
    found: dict[int, np.ndarray] = {}
    is_exact = np.zeros(FIRST_WORD + len(words), bool)
    try:
        with _opened(Path(file)) as opened:
            for word, numbers in _entries(opened):
                number = number_of.get(normalised(word))
                if number is None or is_exact[number]:
                    continue
                is_exact[number] = word in number_of
                if number not in found or is_exact[number]:
                    found[number] = _vector(word, numbers)
    except (OSError, EOFError, ValueError) as error:
        raise DataError(
            f"'{file}' can't be read as word vectors: {error}. Give a text file with a word and "
            "its numbers in each line (.vec, .txt), or word2vec's binary format."
        ) from error
    if not found:
        raise DataError(
            f"'{file}' knows none of the {len(words):,} words of the texts. Give word vectors of "
            "their language."
        )
    table = np.zeros((len(is_exact), len(next(iter(found.values())))), np.float32)
    for number, vector in found.items():
        table[number] = vector
    return table


def _opened(file: Path) -> Any:
    return gzip.open(file) if file.suffix == ".gz" else open(file, "rb", buffering=_PEEK)


def _entries(opened: Any) -> Iterator[tuple[str, bytes | np.ndarray]]:
    """Return words, and the numbers of each as a line or an array has them."""
    first = _line(opened)
    fields = first.split()
    if not fields:
        raise ValueError("its first line is empty")
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return _entries_of_text(opened, first, len(fields) - 1)
    n_words, dim = int(fields[0]), int(fields[1])
    if not 1 <= dim <= _MOST_NUMBERS:
        raise ValueError(f"by its first line, its vectors are of {dim:,} numbers")
    if _is_text(opened.peek(_PEEK)):
        return _entries_of_text(opened, _line(opened), dim, n_words)
    return _entries_of_binary(opened, dim, n_words)


def _is_text(data: bytes) -> bool:
    """Whether a file goes on with a word and numbers in letters."""
    line, is_whole, _ = data.partition(b"\n")
    numbers = line.split()[1 : None if is_whole else -1]
    return bool(numbers) and all(_is_number(number) for number in numbers)


def _entries_of_text(
    opened: Any, line: bytes, dim: int, n_promised: int | None = None
) -> Iterator[tuple[str, bytes]]:
    n_words = 0
    while line:
        word, _, numbers = line.rstrip().partition(b" ")
        if numbers.count(b" ") + 1 != dim or not numbers:
            word, numbers = _of_several_parts(line, dim, n_words)
        n_words += 1
        yield word.decode("utf-8", "replace"), numbers
        line = _line(opened)
    if n_promised is not None and n_words != n_promised:
        raise ValueError(f"its first line promises {n_promised:,} words, and it has {n_words:,}")


def _of_several_parts(line: bytes, dim: int, n_before: int) -> tuple[bytes, bytes]:
    """Take a line apart whose word has blanks in it, such as ". . .", if it is one."""
    fields = line.split()
    word, numbers = fields[: len(fields) - dim], fields[len(fields) - dim :]
    if dim < 1 or len(fields) <= dim or any(_is_number(part) for part in word[1:]):
        raise ValueError(
            f"after {n_before:,} words comes a line with {max(0, len(fields) - 1):,} numbers where "
            f"{dim:,} should be"
        )
    return b" ".join(word), b" ".join(numbers)


def _entries_of_binary(opened: Any, dim: int, n_promised: int) -> Iterator[tuple[str, np.ndarray]]:
    for n_words in range(n_promised):
        word = _word(opened)
        numbers = opened.read(4 * dim)
        if len(numbers) < 4 * dim:
            raise ValueError(f"it ends after {n_words:,} of {n_promised:,} words")
        yield word.decode("utf-8", "replace"), np.frombuffer(numbers, "<f4")
    if opened.read(2).strip():
        raise ValueError(f"it goes on after the {n_promised:,} words that its first line promises")


def _word(opened: Any) -> bytes:
    """Read up to a blank."""
    letters = bytearray()
    while (letter := opened.read(1)) not in (b" ", b""):
        letters += letter
        if len(letters) > _LONGEST_WORD:
            raise ValueError("no words are where its first line says")
    return bytes(letters).lstrip(b"\n")


def _line(opened: Any) -> bytes:
    line: bytes = opened.readline(_LONGEST_LINE)
    if len(line) == _LONGEST_LINE:
        raise ValueError(f"it has a line of more than {_LONGEST_LINE:,} bytes")
    return line


def _is_number(field: bytes) -> bool:
    try:
        return bool(np.isfinite(float(field)))
    except ValueError:
        return False


def _vector(word: str, numbers: bytes | np.ndarray) -> np.ndarray:
    fields = numbers.split() if isinstance(numbers, bytes) else numbers
    vector = np.array([float(field) for field in fields], np.float32)
    if not np.isfinite(vector).all():
        raise ValueError(f"the vector of '{word}' is not of finite numbers")
    return vector
