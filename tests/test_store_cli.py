"""`twostage store`: what one types and sees."""

import json
import subprocess
import sys

import pytest
from click.testing import CliRunner

from twostage.cli.main import main
from twostage.store.store import EmbeddingStore


@pytest.fixture
def run():
    """Return a function that runs a command line in this process."""
    return lambda *arguments: CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def store(run, photos, tmp_path, fake_backbone, monkeypatch):
    """Return a store of six photos, one of them broken, in three parts."""
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", 2)
    (photos / "cats" / "1.png").write_bytes(b"no image")
    assert run("extract", photos, "-o", tmp_path / "store").exit_code == 3
    return tmp_path / "store"


def test_info_says_what_the_store_holds(run, store):
    said = run("store", "info", store)
    assert said.exit_code == 0
    for words in (
        f"{store}: 6 images in 3 parts, 0.0 MB, format version 2",
        "mobilenet_v2, weights imagenet, layer penultimate, 224 px, resize crop",
        "5 of 3 numbers as float32, by keras in float32; 5 different images",
        "errors       1 decode",
        "seen         0 by a tuned backbone",
    ):
        assert words in said.stdout
    found = json.loads(run("store", "info", store, "--json").stdout)
    assert (found["n_rows"], found["n_errors"], found["n_parts"]) == (6, {"decode": 1}, 3)


def test_verify_exits_1_and_lists_faults(run, store):
    said = run("store", "verify", store)
    assert (said.exit_code, said.stdout) == (0, f"{store}: 6 images in 3 parts, no fault.\n")
    part = store / "part-000001.parquet"
    part.write_bytes(part.read_bytes()[:-100])
    (store / "notes.txt").touch()
    said = run("store", "verify", store)
    assert said.exit_code == 1
    first, second = said.stdout.splitlines()
    assert first.startswith("part-000001.parquet: Part")
    assert second.startswith("notes.txt: is no part of the store")


def test_prune_drops_what_is_gone_after_a_dry_run(run, store, photos):
    (photos / "cats" / "0.png").unlink()
    (photos / "dogs" / "2.png").unlink()
    said = run("store", "prune", store, "--images", photos, "--dry-run")
    assert said.stdout == f"cats/0.png\ndogs/2.png\n{store}: 2 rows would be dropped.\n"
    assert len(EmbeddingStore(store)) == 6
    said = run("store", "prune", store, "--images", photos)
    assert said.stdout == f"{store}: 2 rows dropped, 4 rows left.\n"
    assert len(EmbeddingStore(store)) == 4
    assert run("store", "prune", store).exit_code == 2


def test_compact_makes_few_parts_of_many(run, store):
    said = run("store", "compact", store, "--rows", "4")
    assert said.stdout == f"{store}: 3 parts made into 2.\n"
    assert run("store", "compact", store).stdout == f"{store}: 2 parts made into 1.\n"
    assert len(EmbeddingStore(store)) == 6


def test_an_extraction_goes_on_with_a_compacted_store(run, store, photos, photo):
    assert run("store", "compact", store).exit_code == 0
    photo(photos / "cats" / "3.png", (1, 2, 3))
    photo(photos / "cats" / "1.png", (4, 5, 6))
    said = run("extract", photos, "-o", store, "--json")
    assert json.loads(said.stdout)["n_computed"] == 2
    assert EmbeddingStore(store).parts() == ["part-000000-000002.parquet", "part-000003.parquet"]
    assert run("store", "verify", store).exit_code == 0


@pytest.mark.parametrize("command", ["info", "verify", "prune", "compact"])
def test_what_is_no_store_is_refused(run, tmp_path, command):
    said = run("store", command, tmp_path)
    assert said.exit_code == 1
    assert "is not a store" in said.stderr
    assert run("store", command, tmp_path / "nowhere").exit_code == 2


def test_the_commands_import_neither_keras_nor_scikit_learn(store, photos):
    code = f"""
import sys
from twostage.cli.main import main
from twostage.errors import StoreError
for command in (["info"], ["verify"], ["prune", "--images", {str(photos)!r}], ["compact"]):
    main([ "store", command[0], {str(store)!r}, *command[1:]], standalone_mode=False)
heavy = ("keras", "tensorflow", "sklearn", "lightgbm")
print([name for name in heavy if name in sys.modules])
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("is_ignored", [False, True])
def test_sigterm_ends_a_run_as_ctrl_c_does_unless_it_is_ignored(photos, tmp_path, is_ignored):
    code = f"""
import signal, sys
from twostage.backbones import lazy
from twostage.cli.main import main
from twostage.errors import StoreError

def stop(*_):
    signal.raise_signal(signal.SIGTERM)
    raise StoreError("went on")

def handler(*_):
    sys.exit("the handler of before was called")

lazy.build = stop
wanted = signal.SIG_IGN if {is_ignored} else handler
signal.signal(signal.SIGTERM, wanted)
try:
    main(["extract", {str(photos)!r}, "-o", {str(tmp_path / "S")!r}])
finally:
    assert signal.getsignal(signal.SIGTERM) is wanted
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == (1 if is_ignored else 130), said.stderr
    assert ("went on" if is_ignored else "Run the same command again") in said.stderr
