"""A table's embeddings from a store or through the cache, and the cache itself."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBuilder

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.cache import cached_stores, clear_cache
from twostage.errors import ImagesError, StoreError, UsageError
from twostage.extraction import ExtractionOptions, extract
from twostage.folders import cache_folder
from twostage.sources import blocks_from_files, blocks_from_store, check_usable
from twostage.store.store import EmbeddingStore

SETTINGS = BackboneSettings("resnet50")
OPTIONS = ExtractionOptions(batch_size=4)


@pytest.fixture
def table(photos: Path, fake_backbone: FakeBuilder) -> pd.DataFrame:
    names = ["dogs/1.png", "cats/2.png;cats/0.png", None, "./dogs/1.png", "lost.png"]
    return pd.DataFrame({"photo": names})


def test_store_and_files_give_the_same_block(
    photos: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    extract(photos, tmp_path / "S", names=["dogs/1.png", "cats/2.png", "cats/0.png", "lost.png"])
    from_store, _ = blocks_from_store(table, ["photo"], EmbeddingStore(tmp_path / "S"))
    from_files, _ = blocks_from_files(table, ["photo"], photos, SETTINGS, OPTIONS)
    expected = [[10, 200, 0], [10, 0, 100], [np.nan] * 3, [10, 200, 0], [np.nan] * 3]
    for blocks in (from_store, from_files):
        np.testing.assert_array_equal(blocks["photo"].matrix, expected)
        assert blocks["photo"].n_images.tolist() == [1, 2, 0, 1, 0]
        assert blocks["photo"].errors == [None] * 4 + ["'lost.png': read: no such file"]


def test_the_cache_has_a_store_per_backbone_and_computes_nothing_twice(
    photos: Path, table: pd.DataFrame, fake_backbone: FakeBuilder, own_cache: Path
) -> None:
    for _ in range(2):
        blocks_from_files(table, ["photo"], photos, SETTINGS, OPTIONS)
    assert fake_backbone.n_embedded == 3
    other = BackboneSettings("resnet50", resize="pad")
    blocks_from_files(table, ["photo"], photos, other, OPTIONS)
    assert fake_backbone.n_embedded == 6
    assert [store.n_images for store in cached_stores()] == [4, 4]
    assert len(clear_cache()) == 2
    assert cached_stores() == []
    assert list(own_cache.glob("mobilenet*")) == []


def test_a_copy_elsewhere_is_not_computed_again(
    photos: Path, fake_backbone: FakeBuilder, photo: Callable[..., Path], tmp_path: Path
) -> None:
    frame = pd.DataFrame({"photo": ["dogs/1.png"]})
    first, _ = blocks_from_files(frame, ["photo"], photos, SETTINGS, OPTIONS)
    photos.rename(tmp_path / "moved")
    second, _ = blocks_from_files(frame, ["photo"], tmp_path / "moved", SETTINGS, OPTIONS)
    assert fake_backbone.n_embedded == 1
    np.testing.assert_array_equal(first["photo"].matrix, second["photo"].matrix)


def test_a_missing_file_is_never_replaced_by_another_of_its_name(
    photos: Path, fake_backbone: FakeBuilder
) -> None:
    frame = pd.DataFrame({"photo": ["1.png"]})
    blocks, _ = blocks_from_files(frame, ["photo"], photos, SETTINGS, OPTIONS)
    assert blocks["photo"].errors == ["'1.png': read: no such file"]
    with pytest.raises(ImagesError, match=r"None of the table's images is usable; first: '1\.png'"):
        check_usable(blocks)


def test_absolute_names_below_the_folder_are_found(
    photos: Path, fake_backbone: FakeBuilder
) -> None:
    frame = pd.DataFrame({"photo": [str(photos / "dogs" / "1.png"), "dogs/2.png"]})
    blocks, _ = blocks_from_files(frame, ["photo"], photos, SETTINGS, OPTIONS)
    np.testing.assert_array_equal(blocks["photo"].matrix, [[10, 200, 0], [20, 200, 0]])
    assert check_usable(blocks) == 0


def test_a_name_that_is_no_text_works_through_the_cache(
    photos: Path, fake_backbone: FakeBuilder
) -> None:
    path = os.fsdecode(os.fsencode(photos) + b"/\xe9.png")
    os.rename(photos / "dogs" / "1.png", path)
    frame = pd.DataFrame({"photo": ["%E9.png"]})
    blocks, _ = blocks_from_files(frame, ["photo"], photos, SETTINGS, OPTIONS)
    np.testing.assert_array_equal(blocks["photo"].matrix, [[10, 200, 0]])


def test_a_backbone_that_is_not_the_models_own_is_refused(
    photos: Path, table: pd.DataFrame
) -> None:
    _, store = blocks_from_files(table, ["photo"], photos, SETTINGS, OPTIONS)
    spec = BackboneSpec.from_dict(store.spec, store.path)
    other = replace(spec, weights_digest="of other weights")
    with pytest.raises(StoreError, match="weights_digest is of other weights"):
        blocks_from_files(table, ["photo"], photos, other, OPTIONS)


def test_what_is_cached_needs_no_backbone(
    photos: Path, table: pd.DataFrame, fake_backbone: FakeBuilder
) -> None:
    _, store = blocks_from_files(table, ["photo"], photos, SETTINGS, OPTIONS)
    n_built = len(fake_backbone.built)
    spec = BackboneSpec.from_dict(store.spec, store.path)
    blocks_from_files(table, ["photo"], photos, spec, OPTIONS)
    assert len(fake_backbone.built) == n_built


def test_clearing_the_cache_leaves_other_stores_and_damaged_ones_go(
    photos: Path, table: pd.DataFrame, own_cache: Path
) -> None:
    extract(photos, own_cache / "my-store")
    _, store = blocks_from_files(table, ["photo"], photos, SETTINGS, OPTIONS)
    (store.path / "part-000000.parquet").write_bytes(b"junk")
    assert [cached.n_images for cached in cached_stores()] == [None]
    assert len(clear_cache()) == 1
    assert sorted(path.name for path in own_cache.iterdir()) == ["engines", "my-store"]
    assert len(EmbeddingStore(own_cache / "my-store")) == 6


def test_a_folder_that_is_not_there_is_an_error(table: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        blocks_from_files(table, ["photo"], tmp_path / "nowhere", SETTINGS, OPTIONS)


def test_the_cache_is_where_it_was_asked_to_be(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert cache_folder(tmp_path / "mine") == tmp_path / "mine"
    monkeypatch.setenv("TWOSTAGE_CACHE", str(tmp_path / "env"))
    assert cache_folder() == tmp_path / "env"
    monkeypatch.delenv("TWOSTAGE_CACHE")
    assert cache_folder().name == "twostage"
