"""Images are loaded in order, ahead of their reader but not too far; errors are data."""

import os
import threading

import pytest

from twostage.fingerprint import hash_bytes
from twostage.images import loading
from twostage.images.loading import ImageLoader
from twostage.images.manifest import list_images
from twostage.images.references import reference_to
from twostage.throughput import StageClock

NOW = 1_700_000_000_000_000_000
SECOND = 1_000_000_000


def load(references, known=(), *, n_threads=2, n_ahead=4):
    with ImageLoader(32, "crop", n_threads, n_ahead, StageClock(2, 2)) as loader:
        return list(loader.load(references, known))


@pytest.fixture
def n_decoded(monkeypatch):
    """Return a list that grows by one at every decoding."""
    calls = []
    decode = loading.decode
    monkeypatch.setattr(loading, "decode", lambda *arguments: calls.append(1) or decode(*arguments))
    return calls


@pytest.mark.parametrize("n_threads", [1, 3])
@pytest.mark.parametrize("n_ahead", [1, 2, 100])
def test_every_reference_comes_out_in_order_with_its_own_pixels(photos, n_threads, n_ahead):
    references = list_images(photos)
    images = load(references, n_threads=n_threads, n_ahead=n_ahead)
    assert [image.image for image in images] == [ref.image for ref in references]
    colours = [tuple(image.pixels[0, 0].tolist()) for image in images]
    assert colours == [(10 * i, 0, 100) for i in range(3)] + [(10 * i, 200, 0) for i in range(3)]


def test_the_order_is_kept_when_the_first_image_is_the_slowest(photos, monkeypatch):
    last_is_done = threading.Event()
    read_bytes = loading.read_bytes

    def read_first_one_last(path):
        if path.endswith(os.path.join("cats", "0.png")):
            assert last_is_done.wait(timeout=20)
        elif path.endswith(os.path.join("dogs", "2.png")):
            last_is_done.set()
        return read_bytes(path)

    monkeypatch.setattr(loading, "read_bytes", read_first_one_last)
    references = list_images(photos)
    images = load(references, n_ahead=len(references))
    assert [image.image for image in images] == [ref.image for ref in references]


def test_an_image_carries_what_its_row_needs(photo, tmp_path):
    path = photo(tmp_path / "a.png", (1, 2, 3), (50, 40))
    os.utime(path, ns=(NOW, NOW))
    (image,) = load([reference_to(tmp_path, "a.png")])
    assert image.image == "a.png"
    assert image.content_hash == hash_bytes(path.read_bytes())
    assert (image.size_bytes, image.mtime_ns) == (path.stat().st_size, NOW)
    assert (image.width, image.height) == (50, 40)
    assert image.pixels.shape == (32, 32, 3)
    assert image.error is None


def test_a_known_hash_is_not_decoded(photos, n_decoded):
    references = list_images(photos)
    known = {hash_bytes((photos / "cats" / "1.png").read_bytes())}
    images = load(references, known)
    assert [image.pixels is None for image in images] == [False, True, False, False, False, False]
    assert images[1].content_hash in known
    assert (images[1].width, images[1].error) == (None, None)
    assert len(n_decoded) == 5


@pytest.mark.parametrize(
    ("mtime_ns", "expected"),
    [
        (NOW - 3 * SECOND, NOW - 3 * SECOND),
        (NOW - 2 * SECOND, NOW - 2 * SECOND),
        (NOW - 2 * SECOND + 1, None),
        (NOW, None),
        (NOW + 3600 * SECOND, None),
        (0, None),
    ],
)
def test_a_time_that_cannot_vouch_for_the_bytes_is_not_kept(
    photo, tmp_path, monkeypatch, mtime_ns, expected
):
    os.utime(photo(tmp_path / "a.png"), ns=(NOW, mtime_ns))
    monkeypatch.setattr(loading.time, "time_ns", lambda: NOW)
    (image,) = load([reference_to(tmp_path, "a.png")])
    assert image.mtime_ns == expected


def test_size_and_time_are_those_of_the_bytes_read_not_of_the_listing(photo, tmp_path):
    path = photo(tmp_path / "a.png", size=(40, 40))
    reference = reference_to(tmp_path, "a.png")
    photo(path, size=(400, 300))
    os.utime(path, ns=(NOW, NOW))
    (image,) = load([reference])
    assert image.size_bytes == path.stat().st_size != reference.size_bytes
    assert image.mtime_ns == NOW


def test_unreadable_images_are_data_between_the_others(photo, tmp_path):
    photo(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    os.utime(tmp_path / "2.png", ns=(NOW, NOW))
    names = ["0.png", "1.png", "2.png"]
    missing, fine, broken = load([reference_to(tmp_path, name) for name in names])
    assert missing.error == "read: no such file"
    assert (missing.content_hash, missing.size_bytes, missing.mtime_ns) == (None, None, None)
    assert fine.error is None
    assert broken.error == "decode: not an image, or of an unknown format"
    assert broken.content_hash == hash_bytes(b"no image")
    assert (broken.size_bytes, broken.mtime_ns) == (8, NOW)
    assert missing.pixels is None
    assert broken.pixels is None


@pytest.mark.parametrize("n_ahead", [1, 3])
def test_no_more_images_wait_than_allowed(photos, n_ahead):
    taken = []

    def references():
        for reference in list_images(photos):
            taken.append(reference)
            yield reference

    with ImageLoader(32, "crop", 2, n_ahead, StageClock(2, 2)) as loader:
        for n_read, _ in enumerate(loader.load(references(), ()), start=1):
            assert len(taken) == min(n_read + n_ahead, 6)
    assert n_read == 6


def test_leaving_early_loads_no_more(photos, monkeypatch):
    may_go_on = threading.Event()
    n_read = []
    read_bytes = loading.read_bytes

    def read_slowly(path):
        n_read.append(path)
        if len(n_read) == 2:
            assert may_go_on.wait(timeout=20)
        return read_bytes(path)

    monkeypatch.setattr(loading, "read_bytes", read_slowly)
    with ImageLoader(32, "crop", 1, 100, StageClock(2, 2)) as loader:
        images = loader.load(list_images(photos), ())
        next(images)
        images.close()
        may_go_on.set()
    assert len(n_read) <= 2
