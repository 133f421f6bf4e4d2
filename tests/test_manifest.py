"""A manifest is a sequence of references that it keeps as columns."""

import pickle

import numpy as np
import pytest

from twostage.images import manifest as manifest_module
from twostage.images.files import LocalFile
from twostage.images.manifest import Manifest
from twostage.images.references import Reference
from twostage.images.tars import TarSource

TAR = LocalFile("/shards/a.tar", 9_000, 3)
REFERENCES = [
    Reference("a/1.jpg", "photos/a/1.jpg", 10, 1),
    Reference("%E9.jpg", "photos/\udce9.jpg", 20, None),
    Reference("b.jpg", "/elsewhere/b.jpg", None, None),
    Reference("in.jpg", "/shards/a.tar/in.jpg", 30, 3, TarSource(TAR, 512, 30)),
    Reference("ü.jpg", "photos/ü.jpg", 0, 0),
]


@pytest.fixture(params=[1, 2, 100])
def manifest(request, monkeypatch):
    monkeypatch.setattr(manifest_module, "_AT_ONCE", request.param)
    return Manifest.of(iter(REFERENCES), "photos")


def test_it_gives_back_what_it_was_made_of(manifest):
    assert list(manifest) == REFERENCES
    assert [manifest[i] for i in range(-5, 5)] == REFERENCES * 2
    assert list(manifest[3:0:-2]) == REFERENCES[3:0:-2]
    assert len(manifest) == 5
    with pytest.raises(IndexError):
        manifest[5]


def test_a_name_below_the_root_is_kept_once(manifest):
    assert manifest.columns["path"].is_null().to_pylist() == [True, False, False, False, True]


def test_some_rows_are_a_manifest_of_their_own(manifest):
    rows = np.array([3, 1])
    sent = pickle.loads(pickle.dumps(manifest.take(rows)))
    assert list(sent) == [REFERENCES[row] for row in rows]


def test_some_rows_are_sent_without_the_others():
    all_rows = Manifest.of(Reference(f"{i:06d}.jpg", f"{i:06d}.jpg", 1, 1) for i in range(50_000))
    for some in (all_rows.take(np.arange(1000)), all_rows[:1000]):
        assert len(pickle.dumps(some)) < 60_000


def test_rows_are_found_by_name(manifest):
    found = manifest.rows_of(manifest.columns["image"].take([4, 0]))
    assert found.tolist() == [4, 0]


def test_nothing_is_an_empty_manifest():
    assert list(Manifest.of([])) == []
    assert list(Manifest.of([]).take(np.arange(0))) == []
    assert not Manifest.of([])
