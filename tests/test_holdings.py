"""What a store holds, looked up in columns: the same as asking the store, with less reading."""

from pathlib import Path

import numpy as np
import pytest
from stores import SPEC, rows

from twostage.store.holdings import Holdings, holdings_of
from twostage.store.store import EmbeddingStore


@pytest.fixture
def store(tmp_path: Path) -> EmbeddingStore:
    """Return a store of three parts; the image ``bad`` has no embedding."""
    store = EmbeddingStore.create(tmp_path / "S", SPEC, "identity")
    store.write_part("part-000000.parquet", rows(store, a=[1, 1, 1], bad=None))
    store.write_part("part-000001.parquet", rows(store, c=[3, 3, 3]))
    store.write_part("part-000002.parquet", rows(store, d=[4, 4, 4]))
    return store


def test_names_facts_and_embeddings_are_those_of_the_store(store: EmbeddingStore) -> None:
    held = Holdings(store)
    assert holdings_of(held) is held
    assert list(held.names) == ["a", "bad", "c", "d"]
    assert len(held) == 4
    assert held.has_all(["d", "a", "a"])
    assert not held.has_all(["a", "e"])
    assert not held.has_all(["\udcff"])
    assert held.facts_of(["d", "bad"]) == {
        "d": ("hash of d", None),
        "bad": ("hash of bad", "decode: broken"),
    }
    np.testing.assert_array_equal(
        held.embeddings(["d", "bad", "a"]), [[4, 4, 4], [np.nan] * 3, [1, 1, 1]]
    )
    assert held.embeddings([]).shape == (0, 3)


def test_no_other_part_is_read_than_those_that_have_the_images(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = Holdings(store)
    opened: list[str] = []
    original = store._opened

    def recorded(part: str) -> object:
        opened.append(part)
        return original(part)

    monkeypatch.setattr(store, "_opened", recorded)
    held.embeddings(["c", "c"])
    assert opened == ["part-000001.parquet"]


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "rewritten"])
def test_images_that_stand_elsewhere_by_now_are_found(store: EmbeddingStore, is_gone: bool) -> None:
    held = Holdings(store)
    store.write_part("part-000003.parquet", rows(store, c=[3, 3, 3]))
    old = Path(store.path) / "part-000001.parquet"
    old.unlink()
    if not is_gone:
        store.write_part(old.name, rows(store, e=[5, 5, 5]))
    np.testing.assert_array_equal(held.embeddings(["c", "a"]), [[3, 3, 3], [1, 1, 1]])


def test_an_empty_store_holds_nothing(tmp_path: Path) -> None:
    held = Holdings(EmbeddingStore.create(tmp_path / "S", SPEC, "identity"))
    assert len(held) == 0
    assert not held.has_all(["a"])
    assert held.has_all([])
    assert held.facts_of([]) == {}
