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
from twostage.table.text import TextEncoder

TEXTS = ["A red dress", "a blue dress!", None, "The shoes are red", "Ill-fitting blue shoes", ""]


def _fit(values, **options):
    return TextEncoder.fit_transform(pd.Series(values, name="review"), random_state=0, **options)


@pytest.mark.parametrize("dtype", [object, "string", "category", pd.ArrowDtype(pa.string())])
def test_texts_become_components_and_missing_ones_zeros(dtype):
    encoder, components = _fit(pd.Series(TEXTS, dtype=dtype), n_components=3)
    assert components.dtype == np.float32
    assert components.shape == (6, encoder.width) == (6, 3)
    assert not components[[2, 5]].any()
    assert components[[0, 1, 3, 4]].any(axis=1).all()
    np.testing.assert_allclose(
        encoder.transform(pd.Series(TEXTS, dtype=dtype)), components, atol=1e-5
    )


def test_texts_of_alike_words_are_alike():
    encoder, _ = _fit(["red dress", "red dress now", "blue shoes", "blue shoes now"] * 5)
    dress, same, shoes = encoder.transform(pd.Series(["a RED dress", "Red, dress", "blue shoes"]))
    assert np.dot(dress, same) > 10 * abs(np.dot(dress, shoes))


def test_new_words_are_zeros():
    encoder, _ = _fit(TEXTS)
    assert not encoder.transform(pd.Series(["completely unheard-of"])).any()


def test_no_rows_are_no_components():
    encoder, _ = _fit(TEXTS)
    assert encoder.transform(pd.Series([], dtype=object)).shape == (0, encoder.width)


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
    np.testing.assert_array_equal(loaded.transform(values), encoder.transform(values))


def test_a_file_that_holds_something_else_is_refused(tmp_path):
    skops.io.dump([LogisticRegression()], tmp_path / "text-0.skops")
    with pytest.raises(ModelError, match="holds no text encoder"):
        TextEncoder.load(tmp_path, "text-0")


@pytest.mark.realdata
def test_reviews_tell_whether_a_dress_is_recommended():
    table = pd.read_csv(SHARED / "data" / "clothing_reviews" / "table.csv").iloc[:3000]
    train, test = table.iloc[:2000], table.iloc[2000:]
    encoder, components = TextEncoder.fit_transform(
        train["review_text"], random_state=0, n_components=100
    )
    scale = components.std()
    head = LogisticRegression(max_iter=500).fit(components / scale, train["recommended_ind"])
    proba = head.predict_proba(encoder.transform(test["review_text"]) / scale)[:, 1]
    assert roc_auc_score(test["recommended_ind"], proba) > 0.85
