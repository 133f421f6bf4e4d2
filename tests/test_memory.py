"""What does not fit into the memory is told before, with its size."""

import numpy as np
import pytest
from stores import write_store

from twostage import joins, memory
from twostage.errors import DataError


@pytest.fixture
def system(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    1000 kB\n")
    return tmp_path


def limit(system, most):
    (system / "memory.max").write_text(most)
    (system / "memory.current").write_text("500")
    (system / "memory.stat").write_text("anon 1\ninactive_file 100\nactive_file 50\n")


def test_the_least_of_machine_and_container_counts(system):
    assert memory.free_bytes() == 1_024_000
    limit(system, "max\n")
    assert memory.free_bytes() == 1_024_000
    limit(system, "2000\n")
    assert memory.free_bytes() == 1650


def test_where_the_system_does_not_tell_nothing_is_refused(system):
    (system / "meminfo").write_text("MemTotal: 9 kB\n")
    assert memory.free_bytes() is None
    memory.check_room(10**9, 10**9, "embeddings")


def test_embeddings_that_do_not_fit_are_told_with_their_size(tmp_path, monkeypatch):
    store = write_store(tmp_path / "store", ["a", "b"], np.ones((2, 4)))
    monkeypatch.setattr(memory, "free_bytes", lambda: 32)
    assert len(joins.image_block("photo", [["a"], ["b"]], store, {"a": "a", "b": "b"}).matrix) == 2
    monkeypatch.setattr(memory, "free_bytes", lambda: 31)
    with pytest.raises(
        DataError, match=r"2 embeddings of 4 numbers take 0\.0 GB .* IncrementalPCA"
    ):
        joins.image_block("photo", [["a"], ["b"]], store, {"a": "a", "b": "b"})


def test_the_message_says_how_much_there_is(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda: 12_300_000_000)
    with pytest.raises(DataError, match=r"10,000,000 .* 51\.2 GB .* 12\.3 GB are free"):
        memory.check_room(10_000_000, 1280, "embeddings")
