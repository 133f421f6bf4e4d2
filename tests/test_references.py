"""Images are found below a folder, and table names matched with them, without guessing."""

import os
import sys

import pytest

from twostage.errors import ImagesError, UsageError
from twostage.images.manifest import list_images
from twostage.images.references import (
    canonical_name,
    check_folder,
    find_images,
    match_names,
    reference_to,
)

ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="file names are text elsewhere")


def names_in(folder):
    return [reference.image for reference in list_images(folder)]


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345")
    return path


def test_images_are_listed_recursively_and_sorted_by_name(tmp_path):
    for name in ("b/2.png", "b.png", "a/z/1.jpg", "a/10.jpg", "c.png"):
        touch(tmp_path / name)
    assert names_in(tmp_path) == ["a/10.jpg", "a/z/1.jpg", "b.png", "b/2.png", "c.png"]


@pytest.mark.parametrize(
    "name", ["x.JPG", "x.jpeg", "x.PnG", "x.tif", "x.webp", "x.avif", "x.JFIF", "x.heic"]
)
def test_extensions_count_in_any_case(tmp_path, name):
    touch(tmp_path / name)
    assert names_in(tmp_path) == [name]


@pytest.mark.parametrize(
    "name", ["notes.txt", "jpg", "x.jpg.part", ".hidden.jpg", ".cache/x.jpg", "._x.jpg"]
)
def test_other_and_hidden_files_are_passed_over(tmp_path, name):
    touch(tmp_path / "seen.jpg")
    touch(tmp_path / name)
    assert names_in(tmp_path) == ["seen.jpg"]


def test_a_folder_that_vanishes_meanwhile_has_no_images(tmp_path, monkeypatch):
    touch(tmp_path / "a" / "1.jpg")
    touch(tmp_path / "b" / "1.jpg")
    stat = os.stat

    def stat_when_gone(path, **options):
        if str(path).endswith("/b"):
            raise FileNotFoundError
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", stat_when_gone)
    assert names_in(tmp_path) == ["a/1.jpg"]


@ON_LINUX
def test_two_files_that_would_have_one_name_are_named(tmp_path):
    touch(tmp_path / "caf%E9.png")
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(ImagesError, match=r"Two files in '.*' would be 'caf%E9\.png' in a store"):
        names_in(tmp_path)


def test_a_folder_named_like_an_image_is_walked(tmp_path):
    touch(tmp_path / "album.jpg" / "1.jpg")
    assert names_in(tmp_path) == ["album.jpg/1.jpg"]


def test_the_given_folder_itself_may_be_hidden(tmp_path):
    touch(tmp_path / ".photos" / "1.jpg")
    assert names_in(tmp_path / ".photos") == ["1.jpg"]


def test_linked_folders_are_followed_each_once(tmp_path):
    touch(tmp_path / "elsewhere" / "1.jpg")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "linked").symlink_to(tmp_path / "elsewhere")
    (photos / "linked-again").symlink_to(tmp_path / "elsewhere")
    (photos / "itself").symlink_to(photos)
    (name,) = names_in(photos)
    assert name.endswith("/1.jpg")


def test_a_link_to_nowhere_is_an_image_without_a_file(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing.jpg")
    (reference,) = list_images(tmp_path)
    assert (reference.image, reference.size_bytes, reference.mtime_ns) == ("gone.jpg", None, None)


def test_a_reference_carries_size_and_time(tmp_path):
    os.utime(touch(tmp_path / "a.jpg"), ns=(7, 1_234_567_890_123_456_789))
    reference = reference_to(tmp_path, "a.jpg")
    assert reference.path == str(tmp_path / "a.jpg")
    assert (reference.size_bytes, reference.mtime_ns) == (5, 1_234_567_890_123_456_789)


@ON_LINUX
def test_bytes_that_are_no_text_are_percent_encoded_and_still_found(tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.jpg")
    with open(path, "wb") as file:
        file.write(b"123")
    (reference,) = list_images(tmp_path)
    assert reference.image == "caf%E9.jpg"
    assert reference.size_bytes == 3
    assert os.fsencode(reference.path) == path


def test_text_names_are_kept_as_they_are(tmp_path):
    touch(tmp_path / "café 50%.jpg")
    assert names_in(tmp_path) == ["café 50%.jpg"]


def test_a_folder_without_images_says_which_endings_count(tmp_path):
    touch(tmp_path / "notes.txt")
    with pytest.raises(ImagesError, match=r"No images in '.*no file below it ends in \.jpg"):
        list_images(tmp_path)


@pytest.mark.parametrize("look", [check_folder, list_images, lambda path: find_images(path, ["a"])])
def test_a_path_that_is_no_folder_is_a_usage_error(tmp_path, look):
    with pytest.raises(UsageError, match=r"nowhere' does not exist\. Check the path"):
        look(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"a\.jpg' is not a folder\. Give the folder"):
        look(touch(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a/1.jpg", "a/1.jpg"),
        ("./a/1.jpg", "a/1.jpg"),
        ("a//./b/../1.jpg", "a/1.jpg"),
        ("  a.jpg ", "a.jpg"),
        ("../a.jpg", "../a.jpg"),
        ("/photos/a/1.jpg", "a/1.jpg"),
        ("/photos2/1.jpg", "/photos2/1.jpg"),
        ("/other/1.jpg", "/other/1.jpg"),
    ],
)
def test_names_come_to_the_form_a_store_uses(tmp_path, name, expected):
    root = tmp_path / "photos"
    name = name.replace("/photos", str(root)) if name.startswith("/photos") else name
    expected = expected.replace("/photos2", str(root) + "2")
    assert canonical_name(name, root) == expected


def test_a_relative_folder_takes_absolute_names_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = str(tmp_path / "photos" / "a.jpg")
    assert canonical_name(name, type(tmp_path)("photos")) == "a.jpg"


def test_find_images_keeps_the_order_and_the_writing_of_the_names(tmp_path):
    for name in ("a.jpg", "b.jpg"):
        touch(tmp_path / name)
    names = ["./b.jpg", "a.jpg", "missing.jpg", "b.jpg", str(tmp_path / "a.jpg"), "a.jpg"]
    found, note = find_images(tmp_path, names)
    assert list(found) == ["./b.jpg", "a.jpg", "missing.jpg", "b.jpg", str(tmp_path / "a.jpg")]
    images = [reference.image for reference in found.values()]
    assert images == ["b.jpg", "a.jpg", "missing.jpg", "b.jpg", "a.jpg"]
    assert found["missing.jpg"].size_bytes is None
    assert note is None


def test_find_images_takes_files_outside_the_folder_by_absolute_name(tmp_path):
    (tmp_path / "photos").mkdir()
    path = str(touch(tmp_path / "other" / "a.jpg"))
    found, _ = find_images(tmp_path / "photos", [path])
    assert found[path].image == path
    assert found[path].size_bytes == 5


@pytest.mark.parametrize(
    ("prefix", "file", "note"),
    [
        ("/cluster/data/", "a/1.jpg", "Image names matched without '/cluster/data/'."),
        ("photos/", "a/1.jpg", "Image names matched without 'photos/'."),
        ("", "images/a/1.jpg", "Image names matched with 'images/' in front."),
    ],
)
def test_find_images_changes_one_prefix_for_all_names_and_says_so(tmp_path, prefix, file, note):
    touch(tmp_path / file)
    touch(tmp_path / file.replace("1.jpg", "2.jpg"))
    names = [prefix + "a/1.jpg", prefix + "a/2.jpg", prefix + "a/3.jpg"]
    found, said = find_images(tmp_path, names)
    assert said == note
    assert [found[name].image for name in names[:2]] == [file, file.replace("1.jpg", "2.jpg")]
    assert [found[name].size_bytes for name in names] == [5, 5, None]


def test_names_without_any_file_stay_as_they_are(tmp_path):
    touch(tmp_path / "a.jpg")
    found, note = find_images(tmp_path, ["x.jpg", "y.jpg"])
    assert [(ref.image, ref.size_bytes) for ref in found.values()] == [
        ("x.jpg", None),
        ("y.jpg", None),
    ]
    assert note is None


def test_match_names_prefers_names_as_they_are():
    match = match_names(["./a.jpg", "b.jpg", "x/a.jpg"], ["a.jpg", "b.jpg"])
    assert match.keys == ["a.jpg", "b.jpg", None]
    assert match.note is None


def test_a_matching_file_name_in_another_folder_is_no_match():
    known = {"cats/1.jpg", "dogs/1.jpg", "cats/2.jpg"}
    assert match_names(["cats/1.jpg", "1.jpg", "birds/1.jpg"], known).keys == [
        "cats/1.jpg",
        None,
        None,
    ]


def test_equal_file_names_in_two_folders_are_not_mistaken_for_each_other():
    known = ["a/1.jpg", "b/1.jpg"]
    match = match_names(["/old/b/1.jpg", "/old/a/1.jpg", "/old/c/1.jpg"], known)
    assert match.keys == ["b/1.jpg", "a/1.jpg", None]


@pytest.mark.parametrize(
    ("names", "known", "expected"),
    [
        (["/data/xa.jpg"], {"a.jpg"}, [None]),
        (["a.jpg"], {"xa.jpg", "b/xa.jpg"}, [None]),
        (["/old/1.jpg", "/old/2.jpg", "/new/1.jpg"], {"1.jpg", "2.jpg"}, ["1.jpg", "2.jpg", None]),
    ],
)
def test_only_whole_folders_are_dropped_or_added_and_the_same_for_all(names, known, expected):
    assert match_names(names, known).keys == expected


def test_absolute_names_are_matched_although_relative_ones_match_as_they_are():
    match = match_names(["a.jpg", "/data/b.jpg"], {"a.jpg", "b.jpg"})
    assert match.keys == ["a.jpg", "b.jpg"]
    assert match.note == "Image names matched without '/data/'."


def test_the_prefix_that_serves_most_names_wins():
    known = {"train/1.jpg", "train/2.jpg", "test/1.jpg"}
    match = match_names(["1.jpg", "2.jpg"], known)
    assert match.keys == ["train/1.jpg", "train/2.jpg"]
    assert match.note == "Image names matched with 'train/' in front."


def test_an_ambiguous_prefix_is_refused_naming_the_candidates():
    with pytest.raises(ImagesError, match=r"'1\.jpg' may be any of '[ab]/1\.jpg', '[ab]/1\.jpg'"):
        match_names(["1.jpg"], {"a/1.jpg", "b/1.jpg"})


def test_no_names_match_nothing():
    assert match_names([], {"a.jpg"}).keys == []


def test_a_link_to_itself_does_not_stop_the_listing(photos):
    (photos / "loop").symlink_to(photos / "loop")
    assert len(list_images(photos)) == 6


def test_a_percent_encoded_name_finds_its_file(photos):
    with open(os.fsencode(photos) + b"/\xe9.png", "wb") as file:
        file.write(b"1")
    references, _ = find_images(photos, ["%E9.png"])
    assert references["%E9.png"].size_bytes == 1
    assert references["%E9.png"].image == "%E9.png"
