"""Images that are gone are told from those that can't be looked at."""

import os

import pytest
from stores import SPEC, rows

from twostage.errors import StoreError, UsageError
from twostage.pruning import gone_images
from twostage.store.store import EmbeddingStore


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in (b"a.png", b"b.png", b"c\xe9.png"):
        (folder / os.fsdecode(name)).write_bytes(b"x")
    return folder


def store_of(folder, *names):
    store = EmbeddingStore.create(folder, SPEC)
    store.write_part("part-000000.parquet", rows(store, **dict.fromkeys(names)))
    return store


def test_files_that_are_not_there_are_gone(tmp_path, photos):
    store = store_of(tmp_path / "store", "a.png", "gone.png", "a.png/no.png", "c%E9.png")
    assert gone_images(store, photos) == ["gone.png", "a.png/no.png"]
    assert store.prune(gone_images(store, photos)) == 2
    assert gone_images(store, photos) == []


def test_absolute_names_need_no_folder(tmp_path, photos):
    names = [str(photos / "a.png"), str(photos / "gone.png")]
    assert gone_images(store_of(tmp_path / "store", *names)) == names[1:]


def test_relative_names_need_one(tmp_path):
    with pytest.raises(UsageError, match=r"relative to a folder\. Say where"):
        gone_images(store_of(tmp_path / "store", "a.png"))


def test_a_folder_with_none_of_the_images_is_rather_the_wrong_one(tmp_path, photos):
    store = store_of(tmp_path / "store", "x.png", "y.png")
    with pytest.raises(StoreError, match=r"None of the 2 images .* first: '.*x\.png'\. Give the"):
        gone_images(store, photos)
    with pytest.raises(UsageError, match="does not exist"):
        gone_images(store, photos / "nowhere")


def test_a_file_that_can_not_be_looked_at_is_not_gone(tmp_path, photos):
    (photos / "loop.png").symlink_to("loop.png")
    store = store_of(tmp_path / "store", "a.png", "loop.png", "gone.png")
    assert gone_images(store, photos) == ["gone.png"]


def test_what_is_behind_a_url_is_not_gone(tmp_path, photos):
    names = [str(photos / "a.png"), str(photos / "gone.png"), "s3://bucket/a.png"]
    assert gone_images(store_of(tmp_path / "store", *names)) == names[1:2]


def test_what_is_within_a_tar_is_not_gone(tmp_path, photos):
    (photos / "a.tar").write_bytes(b"")
    assert gone_images(store_of(tmp_path / "S", "a.png", "a.tar/b.png"), photos) == []
