"""Texts as numbers of their words, stop words, and vectors of words from files."""

import gzip

import numpy as np
import pandas as pd
import pytest

from twostage.errors import DataError, UsageError
from twostage.table.tokens import stop_words_of, words_in
from twostage.table.word_vectors import read_vectors
from twostage.table.words import WordEncoder

TEXTS = pd.Series(["a red, RED dress", None, "the dress", "!?"], name="review")


def test_words_have_one_case_and_no_accents():
    assert words_in("Crème-brûlée, DON'T 24h Übergröße") == [
        *("creme", "brulee", "don", "t", "24h", "ubergroße")
    ]
    assert words_in("") == words_in("?! -- ") == []


def test_words_are_numbered_by_frequency_then_by_letters():
    encoder, tokens = WordEncoder.fit_transform(TEXTS)
    assert encoder.words == ["dress", "a", "red", "the"]
    assert tokens.n_words == encoder.n_words == 6
    assert tokens.numbers.dtype == np.int32
    assert tokens.numbers.tolist() == [[3, 4, 4, 2], [0] * 4, [5, 2, 0, 0], [0] * 4]


def test_later_words_are_unknown_and_long_texts_cut():
    encoder, _ = WordEncoder.fit_transform(TEXTS)
    later = encoder.transform(pd.Series(["The green dress is a dress", 3.5, None]))
    assert later.numbers.tolist() == [[5, 1, 2, 1], [1, 1, 0, 0], [0] * 4]
    assert encoder.transform(TEXTS[:0]).numbers.shape == (0, 4)


def test_of_many_texts_words_of_a_single_one_are_unknown():
    texts = pd.Series([f"common word{i}" for i in range(199)] + ["common once once", "word3"])
    encoder, tokens = WordEncoder.fit_transform(texts)
    assert encoder.words == ["common", "word3"]
    assert tokens.numbers[0].tolist() == [2, 1]


def test_the_most_frequent_words_are_kept_and_outliers_do_not_make_texts_long():
    texts = pd.Series(["one two"] * 99 + ["one three " * 300])
    encoder, tokens = WordEncoder.fit_transform(texts, most_words=2)
    assert encoder.words == ["one", "two"]
    assert tokens.numbers.shape == (100, 2)


def test_a_vocabulary_of_one_word_will_do():
    encoder, tokens = WordEncoder.fit_transform(pd.Series(["yes", "", None]))
    assert (encoder.n_words, encoder.length) == (3, 1)
    assert tokens.numbers.tolist() == [[2], [0], [0]]


@pytest.mark.parametrize("texts", [["!", None], [None, ""], ["the", "and"]])
def test_a_column_without_words_is_refused(texts):
    with pytest.raises(DataError, match="Column 'review' is taken as text, but has no words"):
        WordEncoder.fit_transform(
            pd.Series(texts, name="review", dtype=object), stop_words={"the", "and"}
        )


def test_a_saved_encoder_does_the_same(tmp_path):
    encoder, tokens = WordEncoder.fit_transform(TEXTS, stop_words={"a"})
    encoder.save(tmp_path, "words-0")
    loaded = WordEncoder.load(tmp_path, "words-0")
    np.testing.assert_array_equal(loaded.transform(TEXTS).numbers, tokens.numbers)
    assert loaded.stop_words == {"a"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"dress"', '"red"', "one by one"),
        ('"length": 4', '"length": 900000', "words-0.json"),
        ('"length": 4', '"length": "4"', "length is '4', not int"),
    ],
)
def test_a_changed_encoder_is_refused(tmp_path, old, new, said):
    WordEncoder.fit_transform(TEXTS)[0].save(tmp_path, "words-0")
    file = tmp_path / "words-0.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=said):
        WordEncoder.load(tmp_path, "words-0")


def test_stop_words_are_left_out_everywhere(tmp_path):
    assert {"the", "a"} <= stop_words_of("english")
    assert stop_words_of(None) == frozenset()
    (tmp_path / "stop.txt").write_text("The\nA, été\n", encoding="utf-8")
    stop_words = stop_words_of(tmp_path / "stop.txt")
    assert stop_words == {"the", "a", "ete"}
    encoder, tokens = WordEncoder.fit_transform(TEXTS, stop_words=stop_words)
    assert encoder.words == ["dress", "red"]
    assert encoder.transform(pd.Series(["the A red"])).numbers.tolist() == [[3, 0, 0]]
    assert tokens.numbers[2].tolist() == [2, 0, 0]


def test_stop_words_that_are_none_are_refused(tmp_path):
    with pytest.raises(UsageError, match="'english' or a file of words; there is no 'german'"):
        stop_words_of("german")
    (tmp_path / "empty.txt").write_text("...")
    with pytest.raises(DataError, match="has no words to leave out"):
        stop_words_of(tmp_path / "empty.txt")
    (tmp_path / "latin.txt").write_bytes(b"\xe9t\xe9")
    with pytest.raises(DataError, match="can't be read as stop words"):
        stop_words_of(tmp_path / "latin.txt")


VECTORS = {"Red": [9, 9], "red": [0.5, -1], "Dress": [2, 3], "dréss": [8, 8], "sea": [4, 5]}


def _write(file, kind, vectors=None, header=None):
    """Write word vectors, in the file's own way; the header may lie."""
    vectors = VECTORS if vectors is None else vectors
    first = header or f"{len(vectors)} 2"
    if kind == "binary":
        data = [word.encode() + b" " + np.array(v, "<f4").tobytes() for word, v in vectors.items()]
        content = first.encode() + b"\n" + b"\n".join(data) + b"\n"
    else:
        lines = [f"{word} {' '.join(map(str, v))}" for word, v in vectors.items()]
        content = "\n".join([first] * (kind == "vec") + lines).encode()
    file.write_bytes(gzip.compress(content) if file.suffix == ".gz" else content)
    return file


@pytest.mark.parametrize("kind", ["glove", "vec", "binary"])
@pytest.mark.parametrize("name", ["v.txt", "v.gz"])
def test_vectors_of_the_words_asked_for_are_read(tmp_path, kind, name):
    found = read_vectors(_write(tmp_path / name, kind), ["dress", "red", "green"])
    assert found.dtype == np.float32
    # 'red' as it is; of 'dress' only other cases are there, of which the first counts
    assert found.tolist() == [[0, 0], [0, 0], [2, 3], [0.5, -1], [0, 0]]


def test_a_word_of_several_parts_is_read(tmp_path):
    file = _write(tmp_path / "v.txt", "glove", {"red": [1, 2], ". .": [3, 4], "sea": [5, 6]})
    assert read_vectors(file, ["sea"])[2].tolist() == [5, 6]


@pytest.mark.parametrize(
    ("kind", "change", "said"),
    [
        ("glove", {"vectors": {"red": [1, 2], "sea": [1]}}, "after 1 words .* 1 numbers where 2"),
        ("glove", {"vectors": {"red": [1, 2], "sea": [1, 2, 3]}}, "3 numbers where 2 should be"),
        ("vec", {"header": "5 3"}, "after 0 words comes a line with 2 numbers where 3"),
        ("vec", {"header": "6 2"}, "promises 6 words, and it has 5"),
        ("vec", {"header": "5 0"}, "by its first line, its vectors are of 0 numbers"),
        ("vec", {"header": "5 99999999"}, "vectors are of 99,999,999 numbers"),
        ("binary", {"header": "6 2"}, "ends after 5 of 6 words"),
        ("binary", {"header": "4 2"}, "goes on after the 4 words"),
        ("glove", {"vectors": {"red": ["x", 2]}}, "could not convert string to float"),
        ("glove", {"vectors": {"red": ["nan", 2]}}, "'red' is not of finite numbers"),
        ("binary", {"vectors": {"red": [np.inf, 2]}}, "'red' is not of finite numbers"),
        ("glove", {"vectors": {}}, "first line is empty"),
    ],
)
def test_a_damaged_file_of_vectors_is_refused(tmp_path, kind, change, said):
    file = _write(tmp_path / "v.txt", kind, **change)
    with pytest.raises(DataError, match=f"can't be read as word vectors: .*{said}"):
        read_vectors(file, ["red", "dress"])


def test_a_truncated_binary_file_is_refused(tmp_path):
    file = _write(tmp_path / "v.bin", "binary")
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(DataError, match="ends after 4 of 5 words"):
        read_vectors(file, ["red"])
    packed = _write(tmp_path / "v.gz", "binary")
    packed.write_bytes(packed.read_bytes()[:-9])
    with pytest.raises(DataError, match="can't be read as word vectors"):
        read_vectors(packed, ["red"])


def test_a_binary_file_whose_first_line_lies_about_numbers_is_refused(tmp_path):
    file = _write(tmp_path / "v.bin", "binary", header="5 3")
    with pytest.raises(DataError):
        read_vectors(file, ["red"])


def test_vectors_of_another_language_are_refused(tmp_path):
    with pytest.raises(DataError, match="knows none of the 2 words of the texts"):
        read_vectors(_write(tmp_path / "v.txt", "vec"), ["rouge", "robe"])


def test_vectors_that_are_not_there_are_refused(tmp_path):
    with pytest.raises(UsageError, match="There is no file of word vectors"):
        read_vectors(tmp_path / "none.vec", ["red"])


def test_other_words_do_not_fill_the_memory(tmp_path):
    """A line of endless letters ends where a vector can't be any longer."""
    (tmp_path / "v.txt").write_bytes(b"x" * 2_000_000)
    with pytest.raises(DataError, match="a line of more than"):
        read_vectors(tmp_path / "v.txt", ["red"])
