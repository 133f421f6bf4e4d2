"""Tables joined with a store, row for row."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from twostage.backbones.spec import BackboneSettings
from twostage.errors import DataError
from twostage.joins import embedding_names, image_block, image_names, match_with_store
from twostage.store.planning import part_name
from twostage.store.schema import embedding_array
from twostage.store.store import EmbeddingStore

UNREADABLE = "a/bad.jpg"
NAMES = ["a/0.jpg", "a/1.jpg", UNREADABLE, "b/0.jpg", "b/1.jpg"]
NAN = np.full(3, np.nan)


def _vector(name):
    """The embedding of an image in the store: its place, times 1, 10 and 100."""
    return NAMES.index(name) * np.array([1, 10, 100], np.float32)


@pytest.fixture(params=[5, 2], ids=["one part", "three parts"])
def store(request, tmp_path, fake_backbone):
    """A store of five images, one unreadable."""
    backbone, _ = fake_backbone(BackboneSettings(), "cpu")
    store = EmbeddingStore.create(tmp_path / "store", backbone.spec.to_dict())
    for number, start in enumerate(range(0, len(NAMES), request.param)):
        names = NAMES[start : start + request.param]
        is_valid = np.array([name != UNREADABLE for name in names])
        matrix = np.array([_vector(name) for name in names])
        columns = {
            "image": names,
            "content_hash": [f"hash of {name}" for name in names],
            "embedding": embedding_array(matrix, is_valid, store.schema),
            "error": [None if fine else "decode: truncated" for fine in is_valid],
            "seen": [False] * len(is_valid),
        }
        rows = [columns.get(name, pa.nulls(len(names))) for name in store.schema.names]
        table = pa.table(rows, names=store.schema.names).cast(store.schema)
        store.write_part(part_name(number), table)
    return store


def _join(values, store, **options):
    names = image_names(pd.Series(values, dtype=object))
    key_of, _ = match_with_store(names, store, **options)
    return image_block("photo", names, store, key_of)


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ("a.jpg", ["a.jpg"]),
        ("a.jpg;b.jpg", ["a.jpg", "b.jpg"]),
        (" a.jpg ; b c.jpg;;", ["a.jpg", "b c.jpg"]),
        (["b.jpg", "a;b.jpg"], ["b.jpg", "a;b.jpg"]),
        (np.array(["b.jpg"]), ["b.jpg"]),
        (17, ["17"]),
        ("", []),
        (" ; ", []),
        (None, []),
        (np.nan, []),
        (pd.NA, []),
        ([], []),
    ],
)
def test_a_cell_names_none_one_or_several_images(value, names):
    assert image_names(pd.Series(["x.jpg", value], dtype=object)) == [["x.jpg"], names]


def test_rows_keep_their_order_with_duplicates(store):
    values = ["b/1.jpg", "a/1.jpg", "b/1.jpg", "a/0.jpg", "a/1.jpg"]
    block = _join(values, store)
    np.testing.assert_array_equal(block.matrix, [_vector(name) for name in values])
    assert block.n_images.tolist() == [1] * 5
    assert block.errors == [None] * 5
    assert block.content_hashes == [[f"hash of {name}"] for name in values]


def test_several_images_of_a_row_are_averaged(store):
    block = _join(["b/0.jpg;a/1.jpg;b/1.jpg", "a/1.jpg"], store)
    mean = np.mean([_vector(name) for name in ("b/0.jpg", "a/1.jpg", "b/1.jpg")], axis=0)
    np.testing.assert_allclose(block.matrix, [mean, _vector("a/1.jpg")], rtol=1e-6)
    assert block.n_images.tolist() == [3, 1]
    assert block.content_hashes[0] == [
        "hash of b/0.jpg",
        "hash of a/1.jpg",
        "hash of b/1.jpg",
    ]


def test_a_row_without_an_image_is_nan_and_no_error(store):
    block = _join([None, "a/1.jpg", ""], store)
    np.testing.assert_array_equal(block.matrix, [NAN, _vector("a/1.jpg"), NAN])
    assert block.n_images.tolist() == [0, 1, 0]
    assert block.errors == [None] * 3
    assert block.content_hashes == [[], ["hash of a/1.jpg"], []]


def test_an_unreadable_image_is_nan_with_its_name_and_error(store):
    block = _join([UNREADABLE, "a/1.jpg"], store)
    np.testing.assert_array_equal(block.matrix, [NAN, _vector("a/1.jpg")])
    assert block.n_images.tolist() == [0, 1]
    assert block.errors == ["'a/bad.jpg': decode: truncated", None]
    assert block.content_hashes[0] == ["hash of a/bad.jpg"]


def test_a_row_with_an_unreadable_image_has_the_mean_of_the_others_and_the_error(store):
    block = _join([f"a/1.jpg;{UNREADABLE};b/0.jpg"], store)
    mean = (_vector("a/1.jpg") + _vector("b/0.jpg")) / 2
    np.testing.assert_array_equal(block.matrix, [mean])
    assert block.n_images.tolist() == [2]
    assert block.errors == ["'a/bad.jpg': decode: truncated"]


def test_a_table_without_any_image_joins_as_nan(store):
    block = _join([None, None], store)
    np.testing.assert_array_equal(block.matrix, [NAN, NAN])
    assert block.n_images.tolist() == [0, 0]


def test_a_block_is_float32_with_a_name_per_feature(store):
    block = _join(["a/0.jpg"], store)
    assert block.matrix.dtype == np.float32
    assert embedding_names("photo", 3) == ["photo_emb_0000", "photo_emb_0001", "photo_emb_0002"]


def test_take_keeps_everything_of_a_row_together(store):
    block = _join(["a/1.jpg", UNREADABLE, None, "b/0.jpg"], store).take(np.array([3, 1, 1]))
    np.testing.assert_array_equal(block.matrix, [_vector("b/0.jpg"), NAN, NAN])
    assert block.n_images.tolist() == [1, 0, 0]
    assert block.errors == [None, *["'a/bad.jpg': decode: truncated"] * 2]
    assert block.content_hashes == [["hash of b/0.jpg"], *[["hash of a/bad.jpg"]] * 2]


def test_names_not_in_the_store_are_refused_with_their_count_and_the_first_three(store):
    values = ["a/0.jpg", "x.jpg", "a/1.jpg;y.jpg;z.jpg", "w.jpg", None]
    message = (
        r"3 of 5 rows name an image that the store '.*' does not hold; first: 'x.jpg' \(row 2\), "
        r"'y.jpg' \(row 3\), 'z.jpg' \(row 3\). It holds 5 images, like 'a/0.jpg'"
    )
    with pytest.raises(DataError, match=message):
        _join(values, store)


def test_names_not_in_the_store_can_be_kept_as_rows_with_an_error(store):
    block = _join(["x.jpg", "x.jpg;a/1.jpg", "b/0.jpg"], store, must_match=False)
    np.testing.assert_array_equal(block.matrix, [NAN, _vector("a/1.jpg"), _vector("b/0.jpg")])
    assert block.n_images.tolist() == [0, 1, 1]
    assert block.errors == [*["'x.jpg' is not in the store"] * 2, None]


def test_at_least_one_name_must_be_in_the_store(store):
    with pytest.raises(DataError, match="2 of 2 rows name an image that the store"):
        _join(["x.jpg", "y.jpg"], store, must_match=False)


def test_an_empty_store_says_that_it_holds_no_image(tmp_path, store):
    empty = EmbeddingStore.create(tmp_path / "empty", store.spec)
    with pytest.raises(DataError, match="It holds 0 images, no image at all"):
        _join(["a/0.jpg"], empty)


@pytest.mark.parametrize(
    ("prefix", "names", "note"),
    [
        ("", ["a/1.jpg", "b/0.jpg"], None),
        ("./", ["a/1.jpg", "b/0.jpg"], None),
        ("/data/photos/", ["a/1.jpg", "b/0.jpg"], "without '/data/photos/'"),
        ("photos/", ["a/1.jpg", "b/0.jpg"], "without 'photos/'"),
    ],
)
def test_a_prefix_that_all_names_share_is_left_out_with_a_note(store, prefix, names, note):
    key_of, found = match_with_store([[prefix + name] for name in names], store)
    assert key_of == {prefix + name: name for name in names}
    assert found == (note and f"Image names matched {note}.")


def test_a_folder_that_all_names_lack_is_added_with_a_note(store):
    key_of, note = match_with_store([["bad.jpg"]], store)
    assert key_of == {"bad.jpg": UNREADABLE}
    assert note == "Image names matched with 'a/' in front."
