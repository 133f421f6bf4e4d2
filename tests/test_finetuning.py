"""Tuning a backbone: what it learns from, what it remembers, and how it goes on."""

import gc
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from test_training_blocks import nested
from tuning import QUICK, SIZE, save_pixels, save_small_network, small_network, write_photos

from twostage import finetuning
from twostage.backbones.network import load_network, load_trunk
from twostage.backbones.spec import BackboneSettings
from twostage.backbones.tuned import find_tuned
from twostage.errors import (
    BackboneError,
    DataError,
    FinetuningError,
    ImagesError,
    UsageError,
)
from twostage.finetuning import FinetuningSummary, finetune
from twostage.fingerprint import hash_file
from twostage.seen import SeenRows
from twostage.training.blocks import BlockedNetwork
from twostage.training.epochs import Progress, n_copies
from twostage.training.plot import plot_history
from twostage.training.settings import TuningSettings
from twostage.training.trainer import EpochRecord, Trainer

HOW = QUICK | {"epochs": 3, "mixup": 0.2}
Tune = Callable[..., FinetuningSummary]


@dataclass
class Data:
    """Photos, their table, and a network to start from."""

    folder: Path
    table: pd.DataFrame
    network: Path

    def tune(self, output: Path, **changes: Any) -> FinetuningSummary:
        """Tune the network on the photos, for three epochs if nothing else is said."""
        asked = {
            "table": self.table,
            "target": "label",
            "image_columns": "image",
            "group": "patient",
            "backbone": self.network,
        }
        asked |= HOW | changes
        if not isinstance(asked["backbone"], BackboneSettings):
            asked["backbone"] = BackboneSettings(asked["backbone"], engine="keras")
        return finetune(self.folder, output, **asked)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("data")
    table = write_photos(folder / "photos")
    save_pixels(folder / "photos" / "not_in_the_table.png", np.zeros((SIZE, SIZE, 3)))
    return Data(folder / "photos", table, save_small_network(folder))


@pytest.fixture(scope="module")
def tuned(data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FinetuningSummary]:
    """Return a tuned backbone and what was told of it."""
    folder = tmp_path_factory.mktemp("tuned") / "backbone"
    return folder, data.tune(folder)


def weights_in(folder: Path) -> list[np.ndarray]:
    model = load_trunk(BackboneSettings(folder, engine="keras")).model
    return [np.array(weight) for weight in model.get_weights()]


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def hashes(data: Data, images: Any) -> set[str]:
    return {hash_file(data.folder / image) for image in images}


def plain(history: pd.DataFrame) -> pd.DataFrame:
    return history.drop(columns="seconds")


def scripted(monkeypatch: pytest.MonkeyPatch, *scores: float) -> None:
    """Let the frozen backbone and the epochs have given scores; that of the best top is first."""
    given = iter([scores[0]] * 4 + list(scores[1:]))
    monkeypatch.setattr(finetuning, "main_score", lambda *_: next(given))


class Killed(KeyboardInterrupt):
    """Stands for the end of a process."""


def killed_in(epoch: int) -> Progress:
    """Return a progress that ends the run at the first step of an epoch."""

    def step(number: int, *_: Any) -> None:
        if number == epoch:
            raise Killed

    return Progress(step=step)


# What is written


def test_the_folder_holds_the_network_its_record_and_what_it_has_seen(
    tuned: tuple[Path, FinetuningSummary],
) -> None:
    folder, summary = tuned
    names = ["backbone.json", "backbone.keras", "history.csv", "seen.parquet", "top.npz"]
    assert [name for name in files(folder) if name != "history.png"] == names  # if it can be drawn
    assert files(folder.parent) == ["backbone"]  # the workspace is gone
    record = json.loads((folder / "backbone.json").read_text())
    assert record["preprocessing"] == "none"
    assert record["parent"]["input_size_px"] == SIZE
    training = record["training"]
    assert training["target"] == "label"
    assert training["classes"] == ["class_0", "class_1"]
    assert training["settings"]["epochs"] == 3
    assert training["best_epoch"] == summary.best_epoch
    history = pd.read_csv(folder / "history.csv")
    assert history["epoch"].tolist() == [0, 1, 2, 3]
    assert list(history) == ["epoch", "loss", "validation_loss", "score", "seconds"]


def test_the_summary_counts_the_images_once(
    data: Data, tuned: tuple[Path, FinetuningSummary]
) -> None:
    summary = tuned[1]
    assert summary.n_held_back == 20
    assert summary.n_trained + summary.n_validation == 20
    assert summary.n_rows_left_out == 0
    assert (summary.n_blocks, summary.n_blocks_trained) == (5, 5)
    assert (summary.task, summary.metric) == ("classification", "auc")
    assert summary.stopped is None


def test_it_has_seen_what_it_learned_from_and_nothing_that_was_held_back(
    data: Data, tuned: tuple[Path, FinetuningSummary]
) -> None:
    seen = SeenRows.read(tuned[0] / "seen.parquet")
    is_seen = data.table["patient"].isin(seen.groups)
    assert is_seen.sum() == 20
    assert seen.content_hashes == hashes(data, data.table["image"][is_seen])
    assert seen.group_column == "patient"


def test_no_group_is_parted(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    lesson = finetuning._lesson
    monkeypatch.setattr(
        finetuning, "_lesson", lambda *a: found.append((a[0], lesson(*a))) or found[-1][1]
    )
    table = data.table.assign(patient=[f"P{i // 4}" for i in range(40)])
    data.tune(tmp_path / "out", table=table, epochs=0)
    ((labelled, parts),) = found
    groups = [{labelled.group_values[row][0] for row in rows}
              for rows in (parts.train, parts.validation, parts.held_back)]  # fmt: skip
    assert [len(rows) for rows in groups] == [4, 1, 5]
    assert not groups[0] & groups[1] | groups[0] & groups[2] | groups[1] & groups[2]


def test_the_written_network_embeds_as_that_of_the_best_epoch(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.5, 0.7, 0.6)
    after: list[list[np.ndarray]] = []
    run_epoch = Trainer.run_epoch

    def spy(trainer: Trainer, *arguments: Any) -> EpochRecord:
        done = run_epoch(trainer, *arguments)
        after.append(trainer._network.trained_part(0).get_weights())
        return done

    monkeypatch.setattr(Trainer, "run_epoch", spy)
    summary = data.tune(tmp_path / "out", epochs=2)
    assert (summary.best_epoch, summary.score, summary.frozen_score) == (1, 0.7, 0.5)
    network = load_network(BackboneSettings(tmp_path / "out", engine="keras"))
    best = small_network()
    best.set_weights(after[0])
    pixels = np.random.default_rng(0).integers(0, 256, (5, SIZE, SIZE, 3), np.uint8)
    wanted = np.asarray(best(pixels.astype(np.float32), training=False))
    np.testing.assert_allclose(network.embed(pixels), wanted, rtol=1e-5, atol=1e-6)
    best.set_weights(after[1])
    other = np.asarray(best(pixels.astype(np.float32), training=False))
    assert np.abs(other - wanted).max() > 1e-3


def test_without_epochs_the_backbone_stays_as_it_was(data: Data, tmp_path: Path) -> None:
    summary = data.tune(tmp_path / "out", epochs=0)
    assert summary.best_epoch == 0
    assert len(summary.history) == 1
    for mine, theirs in zip(weights_in(tmp_path / "out"), small_weights(data), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def small_weights(data: Data) -> list[np.ndarray]:
    return [np.array(weight) for weight in keras.saving.load_model(data.network).get_weights()]


def test_if_nothing_is_held_back_all_is_seen(data: Data, tmp_path: Path) -> None:
    summary = data.tune(tmp_path / "out", epochs=0, holdout=0.0)
    assert summary.n_held_back == 0
    seen = SeenRows.read(tmp_path / "out" / "seen.parquet")
    assert seen.content_hashes == hashes(data, data.table["image"])


def test_more_than_half_may_be_held_back(data: Data, tmp_path: Path) -> None:
    summary = data.tune(tmp_path / "out", epochs=0, holdout=0.75)
    assert (summary.n_held_back, summary.n_trained + summary.n_validation) == (30, 10)


def test_a_network_with_layers_of_one_name_comes_back(data: Data, tmp_path: Path) -> None:
    nested().save(tmp_path / "nested.keras")
    backbone = BackboneSettings(tmp_path / "nested.keras", preprocessing="tf", engine="keras")
    data.tune(tmp_path / "out", epochs=0, backbone=backbone)
    pixels = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    before = load_network(backbone).embed(pixels)
    after = load_network(BackboneSettings(tmp_path / "out", engine="keras")).embed(pixels)
    np.testing.assert_allclose(after, before, rtol=1e-6)


def test_an_older_backbone_is_replaced(data: Data, tmp_path: Path) -> None:
    data.tune(tmp_path / "out", epochs=0)
    data.tune(tmp_path / "out", epochs=0, holdout=0.0)
    assert len(SeenRows.read(tmp_path / "out" / "seen.parquet").content_hashes) == 40
    assert files(tmp_path) == ["out"]


# What it learns


@pytest.mark.parametrize(
    ("target", "task", "classes", "more"),
    [
        ("value", "regression", None, {}),
        ("value", "regression", None, {"log_target": True}),
        ("site", "classification", ["a", "b", "c"], {"class_weight": "balanced", "loss": "focal"}),
    ],
)
def test_it_learns_values_and_many_classes(
    data: Data, tmp_path: Path, target: str, task: str, classes: Any, more: Any
) -> None:
    table = data.table.assign(site=[*"abc"] * 13 + ["a"])
    summary = data.tune(tmp_path / "out", table=table, target=target, group=None, epochs=1, **more)
    assert (summary.task, len(summary.history)) == (task, 2)
    assert np.isfinite(summary.history["validation_loss"]).all()
    assert np.isfinite(summary.history["score"]).all()
    record = json.loads((tmp_path / "out" / "backbone.json").read_text())
    assert record["training"]["classes"] == classes


def test_values_are_learned(data: Data, tmp_path: Path) -> None:
    summary = data.tune(tmp_path / "out", target="value", group=None, epochs=0)
    assert summary.frozen_score > 0.5
    assert summary.history["validation_loss"][0] < 1  # of values in units of their deviation


def test_frozen_blocks_stay_where_copies_of_their_activations_are_trained_on(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.1, 0.2, 0.3, 0.4)
    summary = data.tune(
        tmp_path / "out", unfreeze="block_4", copies=2, gradual=True, augment="medical"
    )
    assert (summary.n_blocks_trained, summary.best_epoch) == (2, 3)
    before, after = small_weights(data), weights_in(tmp_path / "out")
    is_same = [np.array_equal(a, b) for a, b in zip(before, after, strict=True)]
    n_frozen = 4 * 5  # four convolutions, each with the four arrays of its norm
    assert is_same[:n_frozen] == [True] * n_frozen
    assert not is_same[n_frozen]
    assert not is_same[-5]
    assert files(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("unfreeze", "copies"),
    [("block_5", 4), ("block_2", 4), ("all", 0)],  # what enters block_2 is smaller than pixels
)
def test_copies_are_kept_by_default_where_blocks_are_frozen(
    data: Data, tmp_path: Path, unfreeze: str, copies: int
) -> None:
    data.tune(tmp_path / "out", unfreeze=unfreeze, epochs=1)
    record = json.loads((tmp_path / "out" / "backbone.json").read_text())
    assert record["training"]["settings"]["copies"] == copies


def test_activations_larger_than_pixels_are_not_kept_unasked(tmp_path: Path) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    wide = keras.layers.Conv2D(8, 3, padding="same", name="block_1_conv")(inputs)
    last = keras.layers.Conv2D(4, 3, strides=2, name="block_2_conv")(wide)
    network = BlockedNetwork(
        keras.Model(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(last))
    )
    assert n_copies(network, TuningSettings(unfreeze=1)) == 0
    assert n_copies(network, TuningSettings(unfreeze=1, copies=3)) == 3


@pytest.mark.slow
def test_a_catalogue_network_is_trained_from_a_block_on(data: Data, tmp_path: Path) -> None:
    backbone = BackboneSettings("mobilenet_v2_035", "random", image_size=SIZE, engine="keras")
    summary = data.tune(tmp_path / "out", backbone=backbone, unfreeze=2, epochs=1)
    assert (summary.parent, summary.n_blocks_trained) == ("mobilenet_v2_035", 2)
    tuned = find_tuned(tmp_path / "out")
    assert tuned is not None
    assert tuned.preprocessing == "tf"
    assert load_network(BackboneSettings(tmp_path / "out", engine="keras")).spec.dim == 1280


# Images and rows


def test_copies_of_an_image_are_one_image(data: Data, tmp_path: Path) -> None:
    folder = shutil.copytree(data.folder, tmp_path / "photos")
    shutil.copyfile(folder / "000.png", folder / "copy.png")
    copy = pd.DataFrame({"image": ["copy.png"], "patient": ["P99"], "label": ["class_0"]})
    table = pd.concat([data.table, copy], ignore_index=True)
    mine = Data(folder, table, data.network)
    summary = mine.tune(tmp_path / "out", epochs=0, holdout=0.0)
    assert summary.n_trained + summary.n_validation == 40
    seen = SeenRows.read(tmp_path / "out" / "seen.parquet")
    assert {"P0", "P99"} <= seen.groups


def test_an_image_of_two_labels_is_refused_by_both_names(data: Data, tmp_path: Path) -> None:
    folder = shutil.copytree(data.folder, tmp_path / "photos")
    shutil.copyfile(folder / "000.png", folder / "copy.png")
    copy = pd.DataFrame({"image": ["copy.png"], "patient": ["P0"], "label": ["class_1"]})
    table = pd.concat([data.table, copy], ignore_index=True)
    with pytest.raises(
        DataError,
        match=r"'copy.png', a copy of '000.png', has two labels: class_0 in row 1, class_1 in row "
        r"41. Correct the table",
    ):
        Data(folder, table, data.network).tune(tmp_path / "out")
    assert files(tmp_path) == ["photos"]


def test_rows_of_several_images_teach_with_each_and_are_not_parted(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    lesson = finetuning._lesson
    monkeypatch.setattr(
        finetuning, "_lesson", lambda *a: found.append((a[0], lesson(*a))) or found[-1][1]
    )
    images = data.table["image"]
    table = pd.DataFrame(
        {
            "front": images[0::2].to_numpy() + ";",
            "back": [f"{image}; {image}" for image in images[1::2]],
            "label": data.table["label"][0::2].to_numpy(),
        }
    )
    summary = data.tune(
        tmp_path / "out", table=table, image_columns=["front", "back"], group=None, epochs=0
    )
    assert summary.n_trained + summary.n_validation + summary.n_held_back == 40
    ((labelled, parts),) = found
    row_of = {
        h: number // 2 for number, h in enumerate(map(hash_file, map(data.folder.joinpath, images)))
    }
    sides = [{row_of[labelled.hashes[i]] for i in rows}
             for rows in (parts.train, parts.validation, parts.held_back)]  # fmt: skip
    assert sum(map(len, sides)) == 20


def test_rows_without_a_usable_image_are_left_out_and_counted(data: Data, tmp_path: Path) -> None:
    folder = shutil.copytree(data.folder, tmp_path / "photos")
    (folder / "003.png").write_bytes(b"no image")
    table = data.table.copy()
    table.loc[7, "image"] = None
    summary = Data(folder, table, data.network).tune(tmp_path / "out", epochs=0)
    assert summary.n_rows_left_out == 2
    assert "'003.png': decode:" in str(summary.first_error)
    assert summary.n_trained + summary.n_validation + summary.n_held_back == 38


def test_a_row_that_names_no_image_is_told_as_such(data: Data, tmp_path: Path) -> None:
    table = data.table.copy()
    table.loc[7, "image"] = None
    summary = data.tune(tmp_path / "out", table=table, epochs=0)
    assert (summary.n_rows_left_out, summary.first_error) == (1, "row 8 names no image")


def test_a_class_of_one_image_is_learned_from(data: Data, tmp_path: Path) -> None:
    table = data.table.assign(label=["rare", *data.table["label"][1:]])
    summary = data.tune(tmp_path / "out", table=table, epochs=0, group=None)
    assert np.isfinite(summary.history["score"]).all()
    seen = SeenRows.read(tmp_path / "out" / "seen.parquet")
    assert hashes(data, ["000.png"]) <= seen.content_hashes


# What is refused, before the disk is touched or with nothing left on it


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"unfreeze": "block_6"}, UsageError, "no block 'block_6'. Did you mean"),
        ({"unfreeze": 9}, UsageError, "has 5 blocks; asked to train 9"),
        ({"holdout": 1.0}, UsageError, "holdout must be 0 or more, and less than 1; found 1.0"),
        ({"holdout": float("nan")}, UsageError, "holdout must be .* found nan"),
        ({"target": "labell"}, DataError, "labell"),
        ({"group": "site"}, DataError, "site"),
        ({"image_columns": ["photo"]}, DataError, "photo"),
        ({"target": "value", "class_weight": "balanced"}, UsageError, "Class weights need classes"),
        ({"log_target": True}, UsageError, "--log-target needs a regression"),
        ({"epochs": -1}, UsageError, "epochs must be"),
        ({"device": "tpu"}, UsageError, "device must be one of auto, cpu, gpu; found 'tpu'"),
    ],
)  # fmt: skip
def test_a_wrong_call_is_refused(
    data: Data, tmp_path: Path, changes: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        data.tune(tmp_path / "out", **changes)
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"patient": "all"}, DataError, "1 groups are too few"),
        ({"image": [f"{i}.jpg" for i in range(40)]}, ImagesError, "None of the 40 images can be"),
        ({"image": None}, ImagesError, "names no image"),
    ],
)
def test_a_table_that_can_teach_nothing_is_refused(
    data: Data, tmp_path: Path, changes: Any, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        data.tune(tmp_path / "out", table=data.table.assign(**changes))
    assert files(tmp_path) == []


def test_a_class_that_is_held_back_whole_is_refused(data: Data, tmp_path: Path) -> None:
    table = data.table.assign(label=["rare", *data.table["label"][1:]])
    with pytest.raises(DataError, match=r"1 of 3 classes have no image left .* first: 'rare'"):
        data.tune(tmp_path / "out", table=table, group=None, holdout=0.75)
    assert files(tmp_path) == []


@pytest.mark.parametrize("name", ["mobilenet_v2", "other", "file", "."])
def test_a_destination_that_can_not_be_one_is_refused(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match=f"'{name}' is"):
        data.tune(Path(name))
    assert files(tmp_path) == ["file", "other"]


def test_a_folder_of_others_is_no_workspace(data: Data, tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "thesis.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"out.unfinished'.*has other files in it. Give another"):
        data.tune(tmp_path / "out")
    assert files(tmp_path / "out.unfinished") == ["thesis.txt"]


def test_a_folder_may_end_as_a_keras_file_does(data: Data, tmp_path: Path) -> None:
    data.tune(tmp_path / "mine.keras", epochs=0)
    assert load_network(BackboneSettings(tmp_path / "mine.keras", engine="keras")).spec.dim == 6


# Runs that end early


def test_a_killed_run_goes_on_with_an_equal_result(
    data: Data, tmp_path: Path, tuned: tuple[Path, FinetuningSummary]
) -> None:
    with pytest.raises(Killed):
        data.tune(tmp_path / "out", progress=killed_in(3))
    assert files(tmp_path) == ["out.unfinished"]
    told: list[int] = []
    again = data.tune(
        tmp_path / "out", progress=Progress(epoch=lambda record: told.append(record["epoch"]))
    )
    assert told == [3]
    pd.testing.assert_frame_equal(plain(again.history), plain(tuned[1].history))
    for mine, theirs in zip(weights_in(tmp_path / "out"), weights_in(tuned[0]), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert files(tmp_path) == ["out"]


@pytest.mark.slow
@pytest.mark.parametrize("epoch", [2, 4])
def test_a_killed_run_of_everything_goes_on_with_an_equal_result(
    data: Data, tmp_path: Path, epoch: int
) -> None:
    how = {"epochs": 6, "gradual": True, "copies": 2, "unfreeze": 4, "augment": "natural",
           "randaugment": True, "patience": 10}  # fmt: skip
    whole = data.tune(tmp_path / "whole", **how)
    with pytest.raises(Killed):
        data.tune(tmp_path / "out", progress=killed_in(epoch), **how)
    again = data.tune(tmp_path / "out", **how)
    pd.testing.assert_frame_equal(plain(again.history), plain(whole.history))
    for mine, theirs in zip(
        weights_in(tmp_path / "out"), weights_in(tmp_path / "whole"), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_nothing(
    data: Data, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        data.tune(tmp_path / "out", progress=killed_in(1))
    assert files(tmp_path) == []


def test_a_second_run_of_the_same_output_is_refused(data: Data, tmp_path: Path) -> None:
    told: list[int] = []

    def second(*_: Any) -> None:
        told.append(1)
        with pytest.raises(FinetuningError, match=r"out.unfinished' is being written by another"):
            data.tune(tmp_path / "out", progress=Progress())

    data.tune(tmp_path / "out", epochs=1, progress=Progress(epoch=second))
    assert told == [1]
    assert files(tmp_path) == ["out"]


def test_an_unfinished_run_of_something_else_is_refused(data: Data, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        data.tune(tmp_path / "out", progress=killed_in(2))
    with pytest.raises(
        FinetuningError,
        match=r"out.unfinished' holds an unfinished run of something else: learning_rate was "
        r"0.001, now 0.002; the images, their labels or what is held back are others. Ask for the "
        r"same to go on with it, or delete it",
    ):
        data.tune(tmp_path / "out", learning_rate=0.002, table=data.table[:-4])
    (tmp_path / "other").mkdir()
    keras.utils.set_random_seed(1)
    other = small_network()
    other.save(tmp_path / "other" / "other.keras")
    with pytest.raises(FinetuningError, match=r"something else: the backbone is another. Ask"):
        data.tune(tmp_path / "out", backbone=tmp_path / "other" / "other.keras")
    assert files(tmp_path / "out.unfinished") == ["checkpoint.npz", "pixels"]


def test_a_damaged_checkpoint_is_refused_and_kept(data: Data, tmp_path: Path) -> None:
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished" / "checkpoint.npz").write_bytes(b"")
    with pytest.raises(FinetuningError, match=r"is damaged .*Delete"):
        data.tune(tmp_path / "out")
    assert files(tmp_path / "out.unfinished") == ["checkpoint.npz"]


def test_a_loss_that_is_no_number_ends_the_run_with_the_best_epoch(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.5, 0.7)
    run_epoch = Trainer.run_epoch

    def fails_in_the_second(trainer: Trainer, epoch: int, *more: Any) -> EpochRecord:
        done = run_epoch(trainer, epoch, *more)
        return EpochRecord(float("nan"), 2) if epoch == 1 else done

    monkeypatch.setattr(Trainer, "run_epoch", fails_in_the_second)
    summary = data.tune(tmp_path / "out")
    assert summary.stopped == "the loss was no number at step 2 of epoch 2"
    assert (summary.best_epoch, summary.score, len(summary.history)) == (1, 0.7, 3)
    assert np.isnan(summary.history["score"].iloc[2])
    assert files(tmp_path) == ["out"]


def test_an_epoch_after_which_nothing_is_a_number_is_not_kept(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Trainer, "outputs", lambda self, x, rows: np.full((len(rows), 2), np.nan, np.float32)
    )
    summary = data.tune(tmp_path / "out")
    assert summary.stopped == "the network gave no numbers after epoch 1"
    assert summary.best_epoch == 0
    for mine, theirs in zip(weights_in(tmp_path / "out"), small_weights(data), strict=True):
        np.testing.assert_array_equal(mine, theirs)


@pytest.mark.slow
def test_it_ends_when_epochs_get_no_better_also_if_it_has_to_write_again(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, 0.5, 0.7, 0.6, 0.6, *[0.5] * 4)

    def full(*_: Any) -> None:
        raise BackboneError("Can't write the backbone")

    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "write_tuned", full)
        with pytest.raises(BackboneError, match="Can't write"):
            data.tune(tmp_path / "out", epochs=9, patience=2)
    summary = data.tune(tmp_path / "out", epochs=9, patience=2)
    assert summary.stopped == "2 epochs without a better score"
    assert (summary.best_epoch, len(summary.history)) == (1, 4)


def test_a_full_disk_keeps_the_checkpoint_before(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    savez, n_written = np.savez, []

    def full_at_the_second(*arguments: Any, **arrays: Any) -> None:
        n_written.append(1)
        if len(n_written) > 1:
            raise OSError(28, "No space left on device")
        savez(*arguments, **arrays)

    monkeypatch.setattr(np, "savez", full_at_the_second)
    with pytest.raises(FinetuningError, match=r"No space left on device.*epoch 1 is kept"):
        data.tune(tmp_path / "out")
    assert files(tmp_path) == ["out.unfinished"]


# Of a backbone that was tuned before


def test_what_the_parent_has_seen_the_child_has_seen(
    data: Data, tmp_path: Path, tuned: tuple[Path, FinetuningSummary]
) -> None:
    is_seen = data.table["patient"].isin(SeenRows.read(tuned[0] / "seen.parquet").groups)
    rest = data.table[~is_seen].assign(patient=None)
    data.tune(tmp_path / "child", backbone=tuned[0], table=rest, holdout=0.0, group=None, epochs=0)
    seen = SeenRows.read(tmp_path / "child" / "seen.parquet")
    assert seen.content_hashes == hashes(data, data.table["image"])
    assert seen.group_column == "patient"


def test_groups_of_another_column_than_the_parents_are_told(
    data: Data,
    tmp_path: Path,
    tuned: tuple[Path, FinetuningSummary],
    caplog: pytest.LogCaptureFixture,
) -> None:
    table = data.table.assign(clinic=data.table["patient"])
    data.tune(tmp_path / "child", backbone=tuned[0], table=table, group="clinic", epochs=0)
    assert "with groups of 'patient', now with those of 'clinic'" in caplog.text


def test_of_a_parent_that_forgot_the_child_knows_nothing_either(
    data: Data, tmp_path: Path, tuned: tuple[Path, FinetuningSummary]
) -> None:
    parent = shutil.copytree(tuned[0], tmp_path / "parent")
    (parent / "seen.parquet").unlink()
    data.tune(tmp_path / "child", backbone=parent, epochs=0)
    child = find_tuned(tmp_path / "child")
    assert child is not None
    assert not child.seen().is_known


def test_a_parent_whose_memory_was_changed_is_refused_before_the_training(
    data: Data, tmp_path: Path, tuned: tuple[Path, FinetuningSummary]
) -> None:
    parent = shutil.copytree(tuned[0], tmp_path / "parent")
    (parent / "seen.parquet").write_bytes(SeenRows().to_bytes())
    with pytest.raises(BackboneError, match="is not the one that 'twostage finetune' wrote"):
        data.tune(tmp_path / "child", backbone=parent, progress=killed_in(1))
    assert files(tmp_path) == ["parent"]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not tell")
def test_the_pixels_of_a_tuning_take_no_disk_once_it_is_done(data: Data, tmp_path: Path) -> None:
    """A deleted file takes its space as long as anything holds it."""
    data.tune(tmp_path / "backbone")
    gc.collect()
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_the_picture_names_the_epoch_that_was_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal scores it need not be the first."""
    drawn: list[str] = []
    monkeypatch.setattr(
        "matplotlib.axes.Axes.set_title", lambda self, label, **how: drawn.append(label)
    )
    history = pd.DataFrame(
        {"epoch": range(3), "loss": 0.5, "validation_loss": [0.3, 0.2, 0.1], "score": 1.0}
    )
    picture = plot_history(history, "auc", 2)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert drawn == ["kept: epoch 2, 1.000"]
