"""Free text as numbers."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skops.io
from conftest import SHARED
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from twostage.errors import DataError, ModelError
from twostage.splits import cross_folds
from twostage.table.text import TextEncoder

TEXTS = ["A red dress", "a blue dress!", None, "The shoes are red", "Ill-fitting blue shoes", ""]


def _fit_with_scores(values, outputs=None, folds=(), **options):
    outputs = np.zeros((len(values), 1)) if outputs is None else outputs
    series = pd.Series(values, name="review")
    return TextEncoder.fit_transform(series, outputs, folds, random_state=0, **options)


def _fit(values, **options):
    return _fit_with_scores(values, **options)[:2]


def _components(encoder, values):
    return encoder.transform(values)[0]


@pytest.mark.parametrize("dtype", [object, "string", "category", pd.ArrowDtype(pa.string())])
def test_texts_become_components_and_missing_ones_zeros(dtype):
    encoder, components = _fit(pd.Series(TEXTS, dtype=dtype), n_components=3)
    assert components.dtype == np.float32
    assert components.shape == (6, encoder.width) == (6, 3)
    assert not components[[2, 5]].any()
    assert components[[0, 1, 3, 4]].any(axis=1).all()
    np.testing.assert_allclose(
        _components(encoder, pd.Series(TEXTS, dtype=dtype)), components, atol=1e-5
    )


def test_texts_of_alike_words_are_alike():
    encoder, _ = _fit(["red dress", "red dress now", "blue shoes", "blue shoes now"] * 5)
    dress, same, shoes = _components(
        encoder, pd.Series(["a RED dress", "Red, dress", "blue shoes"])
    )
    assert np.dot(dress, same) > 10 * abs(np.dot(dress, shoes))


def test_stop_words_are_left_out_alone_and_in_pairs(tmp_path):
    encoder, _ = _fit(TEXTS, stop_words=["a", "the", "are", "dress"])
    words = set(encoder.vectorizer.vocabulary_)
    assert words == {"red", "blue", "shoes", "ill", "fitting"} | {
        *("shoes red", "ill fitting", "fitting blue", "blue shoes")
    }
    encoder.save(tmp_path, "text-0")
    loaded = TextEncoder.load(tmp_path, "text-0")
    texts = pd.Series(["the dress", "the red shoes"])
    np.testing.assert_array_equal(_components(loaded, texts), _components(encoder, texts))
    assert not _components(loaded, texts)[0].any()


def test_new_words_are_zeros():
    encoder, _ = _fit(TEXTS)
    assert not _components(encoder, pd.Series(["completely unheard-of"])).any()


def test_no_rows_are_no_components():
    encoder, _ = _fit(TEXTS)
    assert _components(encoder, pd.Series([], dtype=object)).shape == (0, encoder.width)


@pytest.mark.parametrize("values", [["", None, " "], ["a", "!", "?"]])
def test_a_column_without_words_is_refused(values):
    with pytest.raises(DataError, match="'review' is taken as text, but has no words to learn"):
        _fit(values)


def test_the_same_seed_gives_the_same_components():
    first, again = (_fit(TEXTS)[1] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def test_what_was_saved_encodes_as_before(tmp_path):
    encoder, _ = _fit(TEXTS)
    encoder.save(tmp_path, "text-0")
    assert skops.io.get_untrusted_types(file=tmp_path / "text-0.skops") == []
    loaded = TextEncoder.load(tmp_path, "text-0")
    values = pd.Series(TEXTS)
    for one, other in zip(loaded.transform(values), encoder.transform(values), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    skops.io.dump([LogisticRegression()], tmp_path / "text-0.skops")
    with pytest.raises(ModelError, match="holds no text encoder"):
        TextEncoder.load(tmp_path, "text-0")


def test_the_score_of_a_text_does_not_come_from_its_own_label():
    rng = np.random.default_rng(0)
    values = [f"word{i} of no meaning" for i in range(100)]  # each row has a word of its own
    outputs = rng.integers(0, 2, (100, 1)).astype(float)
    folds = cross_folds(outputs[:, 0].astype(int), is_classification=True)
    encoder, _, scores = _fit_with_scores(values, outputs, folds)
    seen = encoder.transform(pd.Series(values))[1]
    assert np.corrcoef(seen[:, 0], outputs[:, 0])[0, 1] > 0.9
    assert abs(np.corrcoef(scores[:, 0], outputs[:, 0])[0, 1]) < 0.3
    changed = outputs.copy()
    changed[folds[0][1]] = 1 - changed[folds[0][1]]
    again = _fit_with_scores(values, changed, folds[:1])[2]
    np.testing.assert_allclose(
        again[folds[0][1]], _fit_with_scores(values, outputs, folds[:1])[2][folds[0][1]]
    )


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_scores_tell_each_output(n_outputs):
    values = [f"{colour} dress" for colour in ("red", "blue", "green")] * 20
    outputs = np.tile(np.eye(3), (20, 1))[:, :n_outputs]
    folds = cross_folds(np.arange(60) % 3, is_classification=True)
    encoder, _, scores = _fit_with_scores(values, outputs, folds)
    assert scores.shape == (60, n_outputs) == (60, encoder.n_outputs)
    assert all(np.corrcoef(scores[:, k], outputs[:, k])[0, 1] > 0.9 for k in range(n_outputs))


@pytest.mark.realdata
def test_reviews_tell_whether_a_dress_is_recommended():
    table = pd.read_csv(SHARED / "data" / "clothing_reviews" / "table.csv").iloc[:3000]
    train, test = table.iloc[:2000], table.iloc[2000:]
    y = train["recommended_ind"].to_numpy()
    folds = cross_folds(y, is_classification=True)
    encoder, _, _ = _fit_with_scores(train["review_text"].tolist(), y[:, None].astype(float), folds)
    _, scores = encoder.transform(test["review_text"])
    assert roc_auc_score(test["recommended_ind"], scores[:, 0]) > 0.88
