"""Training: what moves and by how much, in which order, and what is written down of it."""

import errno
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from tuning import SIZE, arrays, n_graphs, small_network

from twostage.errors import FinetuningError, UsageError
from twostage.training.activations import frozen_activations
from twostage.training.augmentation import augmentation_layers
from twostage.training.blocks import BlockedNetwork
from twostage.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from twostage.training.data import Examples, TrainingBatches, array_on_disk, fed, in_batches
from twostage.training.optimizer import BlockwiseAdamW, schedule
from twostage.training.settings import TuningSettings
from twostage.training.standing import DenseTop
from twostage.training.top import LinearTop, linear_tops
from twostage.training.trainer import Trainer

N_ROWS = 24
DIM = 6


def pixels(n: int = N_ROWS) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, SIZE, SIZE, 3), np.uint8)


def examples(n_classes: int = 2) -> Examples:
    y = np.eye(n_classes, dtype=np.float32)[np.arange(N_ROWS) % n_classes]
    return Examples(pixels(), np.arange(N_ROWS), y, np.ones(N_ROWS, np.float32))


def a_top(n_outputs: int = 2) -> LinearTop:
    kernel = np.random.default_rng(1).normal(size=(DIM, n_outputs)).astype(np.float32)
    return LinearTop(kernel, np.zeros(n_outputs, np.float32))


def trainer(model: keras.Model, first: int = 0, **settings: Any) -> Trainer:
    quick = {"epochs": 6, "batch_size": 8, "learning_rate": 1e-2, "augment": "none"}
    how = TuningSettings(**quick | settings)
    network = BlockedNetwork(model)
    return Trainer(
        network,
        first,
        "none",
        DenseTop(a_top()),
        is_classification=True,
        settings=how,
        n_rows=N_ROWS,
    )


def named(model: keras.Model) -> dict[str, np.ndarray]:
    return dict(zip([w.path for w in model.weights], arrays(model.weights), strict=True))


# What moves


def test_batch_norm_is_frozen_and_all_else_is_trained() -> None:
    model = small_network()
    for layer in model.layers:
        layer.trainable = False  # as it may have been saved
    before = named(model)
    told: list[tuple[int, int, float]] = []
    record = trainer(model).run_epoch(0, examples(), lambda *step: told.append(step))
    after = named(model)
    assert [step[:2] for step in told] == [(1, 3), (2, 3), (3, 3)]
    assert record.loss == told[-1][2]
    assert record.nan_step is None
    for path, value in before.items():
        is_norm = "_BN/" in path
        assert np.array_equal(after[path], value) == is_norm, path


def test_no_graph_of_a_training_outlives_it() -> None:
    before = n_graphs()
    trainer(small_network()).run_epoch(0, examples())
    assert n_graphs() <= before


def test_frozen_blocks_do_not_move_by_a_bit() -> None:
    model = small_network()
    before = named(model)
    trainer(model, first=3, weight_decay=1.0).run_epoch(1, examples())
    moved = {
        path for path, value in named(model).items() if not np.array_equal(before[path], value)
    }
    assert {path.split("/")[0] for path in moved} == {
        "block_4_conv",
        "block_5_conv",
    }


def test_gradual_unfreezing_lets_blocks_join_in_three_steps() -> None:
    model = small_network()
    training = trainer(model, gradual=True)
    moved, rates = [], []
    for epoch in range(6):
        before = named(model)
        training.run_epoch(epoch, examples())
        rates.append(float(keras.ops.convert_to_numpy(training.model.optimizer.learning_rate)))
        after = named(model)
        kernels = [path for path in before if path.endswith("kernel")]
        moved.append({p[:7] for p in kernels if not np.array_equal(before[p], after[p])})
    last_two, last_three = {"block_4", "block_5"}, {"block_3", "block_4", "block_5"}
    assert moved[1:4] == [last_two, last_three, last_three]
    assert moved[4] == moved[5] == {f"block_{number}" for number in range(1, 6)}
    whole = schedule(1e-2, 18, 0.1)  # it goes on where the phase before left it
    np.testing.assert_allclose(rates, [float(whole(3 * n)) for n in range(1, 7)], atol=1e-8)


def test_dropout_drops_in_training_alone() -> None:
    training = trainer(small_network(), dropout=0.5, learning_rate=0.0)
    model, x = training.model, pixels(1).astype(np.float32)
    in_training = [np.asarray(model(x, training=True)) for _ in range(8)]
    assert len({values.tobytes() for values in in_training}) > 1
    idle = [training.outputs(pixels(1), np.arange(1)) for _ in range(2)]
    np.testing.assert_array_equal(*idle)


def test_the_outputs_are_the_tops_of_the_networks_embeddings() -> None:
    model = small_network()
    found = trainer(model).outputs(pixels(), np.arange(3, 12))
    embeddings = np.asarray(model(pixels()[3:12].astype(np.float32), training=False))
    np.testing.assert_allclose(found, a_top().outputs(embeddings), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("augment", [pytest.param("natural", marks=pytest.mark.slow), "medical"])
def test_a_restored_training_goes_on_as_if_it_had_not_stopped(augment: str) -> None:
    settings = {"augment": augment, "mixup": 0.3, "randaugment": augment == "natural"}
    undisturbed = trainer(small_network(), **settings)
    for epoch in range(3):
        undisturbed.run_epoch(epoch, examples())
        if epoch == 1:
            state = undisturbed.state()
    again = trainer(small_network(), **settings)
    again.prepare(1)
    again.restore(state)
    again.run_epoch(2, examples())
    for a, b in zip(undisturbed.state(), again.state(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loss_that_is_no_number_ends_the_epoch_at_its_step() -> None:
    given = examples()
    batches = TrainingBatches(given, 8, 0.0, np.random.default_rng([0, 0]))
    given.weights[batches._order[8]] = np.nan
    told: list[int] = []
    record = trainer(small_network()).run_epoch(0, given, lambda step, n, loss: told.append(step))
    assert record.nan_step == 2
    assert told == [1]


@pytest.mark.parametrize("loss", ["crossentropy", "focal"])
def test_the_loss_is_the_one_asked_for_and_smooths_labels(loss: str) -> None:
    logits, truth = np.float32([[2, -1]]), np.float32([[1, 0]])
    p = np.exp(2) / (np.exp(2) + np.exp(-1))
    focal = loss == "focal"
    for share in (0.0, 0.2):
        training = trainer(small_network(), loss=loss, label_smoothing=share)
        training.prepare(0)
        wanted = 0.0
        for chance, weight in ((p, 1 - share / 2), (1 - p, share / 2)):
            wanted -= weight * np.log(chance) * (0.25 * (1 - chance) ** 2 if focal else 1)
        assert float(training.model.loss(truth, logits)) == pytest.approx(wanted, rel=1e-4)


# The optimizer


def one_step(optimizer: Any, values: list[np.ndarray], gradients: list[np.ndarray]) -> Any:
    """Return how far an optimizer moves variables in one step."""
    variables = [keras.Variable(value) for value in values]
    optimizer.build(variables)
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)
    return [after - before for after, before in zip(arrays(variables), values, strict=True)]


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def test_each_variable_moves_by_its_factor_times_the_step_of_adamw() -> None:
    values, gradients = [some(3, 4)] * 3, [some(3, 4) + 1] * 3
    (plain,) = one_step(keras.optimizers.AdamW(0.01, weight_decay=0.0), values[:1], gradients[:1])
    ours = one_step(BlockwiseAdamW([1, 0.25, 0], learning_rate=0.01, weight_decay=0.0),
                    values, gradients)  # fmt: skip
    for factor, moved in zip([1, 0.25, 0], ours, strict=True):
        np.testing.assert_allclose(moved, factor * plain, rtol=1e-3, atol=1e-7)


def test_a_matrix_decays_at_the_rate_of_its_block_and_a_vector_not_at_all() -> None:
    values = [some(3, 4), some(3, 4), some(3, 4), some(5)]
    still = [np.zeros_like(value) for value in values]
    optimizer = BlockwiseAdamW([1, 0.5, 0, 1], learning_rate=0.1, weight_decay=0.2)
    ours = one_step(optimizer, values, still)
    for share, value, moved in zip([0.02, 0.01, 0, 0], values, ours, strict=True):
        np.testing.assert_allclose(moved, -share * value, rtol=1e-3, atol=1e-7)
    (plain,) = one_step(keras.optimizers.AdamW(0.1, weight_decay=0.2), values[:1], still[:1])
    np.testing.assert_allclose(ours[0], plain, rtol=1e-4, atol=1e-7)


def test_a_block_far_from_the_top_learns_more_slowly() -> None:
    model = small_network()
    before = named(model)
    trainer(model, lr_decay=0.1, weight_decay=0.0, warmup=0.0, dropout=0.0).run_epoch(1, examples())
    after = named(model)
    moved = [np.abs(after[f"{b}_conv/kernel"] - before[f"{b}_conv/kernel"]).max()
             for b in ("block_1", "block_2", "block_3_a", "block_4", "block_5")]  # fmt: skip
    ratios = np.array(moved[1:]) / moved[:-1]
    assert (ratios > 5).all()
    assert (ratios < 20).all()


def test_layers_of_one_name_in_two_blocks_have_each_its_own_rate() -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    inner_input = keras.Input((SIZE, SIZE, 3))
    inner = keras.Model(inner_input, layers.Conv2D(3, 3, name="twin")(inner_input), name="inner")
    x = layers.Conv2D(DIM, 3, name="twin")(inner(inputs))
    model = keras.Model(inputs, layers.GlobalAveragePooling2D()(x))
    before = arrays(model.weights)
    trainer(model, lr_decay=0.0, warmup=0.0).run_epoch(1, examples())
    is_same = [np.array_equal(a, b) for a, b in zip(before, arrays(model.weights), strict=True)]
    assert is_same == [True, True, False, False]


def test_the_rate_rises_linearly_then_falls_to_0() -> None:
    rates = [float(schedule(0.5, 100, 0.1)(step)) for step in range(101)]
    np.testing.assert_allclose(rates[:11], np.linspace(0, 0.5, 11), atol=1e-6)
    assert (np.diff(rates[10:]) < 0).all()
    assert rates[55] == pytest.approx(0.25)
    assert rates[100] == pytest.approx(0, abs=1e-7)


def test_a_schedule_that_begins_later_goes_on() -> None:
    whole, later = schedule(0.5, 100, 0.1), schedule(0.5, 100, 0.1, begin=30)
    assert [float(later(n)) for n in (0, 5, 70)] == [float(whole(n)) for n in (30, 35, 100)]


# The batches


def batches(given: Examples, size: int = 5, mixup: float = 0.0, seed: int = 0) -> list[Any]:
    one_epoch = TrainingBatches(given, size, mixup, np.random.default_rng(seed))
    return [one_epoch[number] for number in range(len(one_epoch))]


def numbered(n: int = 23) -> Examples:
    """Return examples of which all parts tell their row."""
    rows = np.arange(n) * 2
    x = np.arange(2 * n, dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Examples(x, rows, 3 * rows[:, None].astype(np.float32), 5 * rows.astype(np.float32))


def test_keras_is_fed_the_batches_by_what_does_not_tune_itself() -> None:
    one_epoch = TrainingBatches(numbered(), 5, 0.0, np.random.default_rng(0))
    dataset = fed(one_epoch)
    assert dataset.options().autotune.enabled is False
    assert len(dataset) == len(one_epoch)
    for given, expected in zip(dataset, batches(numbered()), strict=True):
        for one, other in zip(given, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_each_example_comes_at_most_once_with_its_own_label() -> None:
    found = batches(numbered())
    assert [len(x) for x, _, _ in found] == [5] * 4
    seen = np.concatenate([x.ravel() for x, _, _ in found])
    assert len(set(seen.tolist())) == 20
    assert set(seen.tolist()) <= set(range(0, 46, 2))
    for x, y, weights in found:
        np.testing.assert_array_equal(3.0 * x.ravel(), y.ravel())
        np.testing.assert_array_equal(5.0 * x.ravel(), weights)


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    orders = [np.concatenate([x.ravel() for x, _, _ in batches(numbered(), seed=seed)])
              for seed in (0, 0, 1)]  # fmt: skip
    np.testing.assert_array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])


def test_a_batch_may_be_larger_than_the_examples() -> None:
    assert [len(x) for x, _, _ in batches(numbered(3), size=32)] == [3]


def test_mixup_mixes_pixels_labels_and_weights_alike() -> None:
    mixed, plain = batches(numbered(), mixup=0.4), batches(numbered())
    assert any(not np.array_equal(a[0], b[0]) for a, b in zip(mixed, plain, strict=True))
    for x, y, weights in mixed:
        assert x.dtype == y.dtype == np.float32
        np.testing.assert_allclose(3 * x.ravel(), y.ravel(), rtol=1e-5)
        np.testing.assert_allclose(5 * x.ravel(), weights, rtol=1e-5)
        assert x.min() >= 0


def test_rows_come_in_order_and_all_of_them() -> None:
    x = np.arange(20)
    found = list(in_batches(x, np.array([7, 3, 9, 1, 0]), 2))
    assert [batch.tolist() for batch in found] == [[7, 3], [9, 1], [0]]


def test_an_array_on_disk_has_its_space_at_once(tmp_path: Path) -> None:
    array = array_on_disk(tmp_path / "pixels", (100, 64, 64, 3), np.uint8)
    assert (tmp_path / "pixels").stat().st_blocks * 512 >= array.nbytes
    assert array.shape == (100, 64, 64, 3)
    array[7] = 9
    assert array[7].sum() == 9 * 64 * 64 * 3


def test_a_disk_without_room_is_told_before_the_first_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(FinetuningError, match=r"Can't keep 3\.0 GB .*No space left.*Free space"):
        array_on_disk(tmp_path / "pixels", (1_000_000_000, 3), np.uint8)


# The top


@pytest.mark.parametrize("n_classes", [2, 3, None])
def test_the_tops_predict_what_scikit_learn_predicts(n_classes: int | None) -> None:
    rng = np.random.default_rng(0)
    embeddings = (rng.normal(size=(60, 5)) * [1, 5, 2, 1, 1] + 3).astype(np.float32)
    weights = rng.uniform(0.5, 2, 60)
    y = rng.integers(0, n_classes, 60) if n_classes else embeddings @ rng.normal(size=5)
    scaled = StandardScaler().fit_transform(embeddings)
    for c, alpha, top in zip(
        [1e-3, 1e-2, 1e-1, 1], [1e4, 1e3, 1e2, 10], linear_tops(embeddings, y, n_classes, weights),
        strict=True,
    ):  # fmt: skip
        outputs = top.outputs(embeddings)
        if n_classes is None:
            theirs = Ridge(alpha).fit(scaled, y, weights).predict(scaled)
            np.testing.assert_allclose(outputs[:, 0], theirs, rtol=1e-3, atol=1e-4)
            continue
        theirs = LogisticRegression(C=c, max_iter=300).fit(scaled, y, weights)
        ours = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(ours, theirs.predict_proba(scaled), rtol=1e-3, atol=1e-4)


def test_what_hardly_varies_gets_no_huge_weights() -> None:
    """They would blow up the first change of the network."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    embeddings = rng.normal(size=(60, 3)).astype(np.float32)
    embeddings[:, 1] = 2 + 1e-4 * y + 1e-6 * rng.normal(size=60)
    for top in linear_tops(embeddings, y, 2, np.ones(60)):
        assert np.abs(top.kernel).max() < 5


def test_an_embedding_that_never_changes_does_no_harm() -> None:
    embeddings = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    embeddings[:, 1] = 0
    for top in linear_tops(embeddings, np.arange(30) % 2, 2, np.ones(30)):
        assert np.isfinite(top.outputs(embeddings)).all()


# Augmentation


@pytest.mark.parametrize("preset", ["natural", "medical"])
@pytest.mark.parametrize("randaugment", [False, True])
def test_augmentation_changes_images_in_training_alone(preset: str, randaugment: bool) -> None:
    layers_ = augmentation_layers(preset, randaugment=randaugment, seed=3)
    values = given = pixels(4).astype(np.float32)
    idle = given
    for layer in layers_:
        values, idle = layer(values, training=True), layer(idle, training=False)
    changed = np.asarray(keras.ops.convert_to_numpy(values))
    np.testing.assert_array_equal(np.asarray(keras.ops.convert_to_numpy(idle)), given)
    assert changed.shape == given.shape
    assert changed.dtype == np.float32
    assert 0 <= changed.min() < changed.max() <= 255
    assert np.abs(changed - given).mean() > 5


def test_a_medical_image_keeps_its_hue() -> None:
    grey = np.repeat(pixels(4)[..., :1], 3, axis=-1).astype(np.float32)
    for layer in augmentation_layers("medical"):
        grey = layer(grey, training=True)
    found = np.asarray(keras.ops.convert_to_numpy(grey))
    np.testing.assert_allclose(found[..., 0], found[..., 2], atol=1e-2)


def test_no_augmentation_has_no_layers() -> None:
    assert augmentation_layers("none") == []


# Activations of the frozen part


def activations(how: TuningSettings, folder: Path, **more: Any) -> Any:
    network = BlockedNetwork(small_network())
    rows = np.arange(16), np.arange(16, 24)
    found = frozen_activations(network.frozen_part(3), "none", pixels(), *rows, how, folder, **more)
    given = pixels().astype(np.float32)
    wanted = np.asarray(network.frozen_part(3)(given, training=False))
    return *found, wanted


def test_without_augmentation_the_activations_are_those_of_the_frozen_part(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    how = TuningSettings(copies=3, unfreeze=2, augment="none", batch_size=8)
    looks, plain, wanted = activations(how, tmp_path, progress=lambda *done: told.append(done))
    assert len(looks) == 1
    np.testing.assert_allclose(looks[0], wanted[:16], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(plain, wanted[16:], rtol=2e-3, atol=2e-3)
    assert told == [(8, 24), (16, 24), (24, 24)]


def test_each_copy_is_changed_in_its_own_way_and_validation_not(tmp_path: Path) -> None:
    looks, plain, wanted = activations(TuningSettings(copies=2, unfreeze=2, batch_size=8), tmp_path)
    assert len(looks) == 2
    assert np.abs(looks[0].astype(float) - looks[1]).mean() > 1e-3
    assert np.abs(looks[0].astype(float) - wanted[:16]).mean() > 1e-3
    np.testing.assert_allclose(plain, wanted[16:], rtol=2e-3, atol=2e-3)


def test_batch_norm_of_the_frozen_part_is_in_inference_for_augmented_copies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "twostage.training.activations.augmentation_layers",
        lambda *_, **__: [layers.RandomBrightness(0.0, value_range=(0, 255))],
    )
    looks, _, wanted = activations(TuningSettings(copies=1, unfreeze=2, batch_size=8), tmp_path)
    np.testing.assert_allclose(looks[0], wanted[:16], rtol=2e-3, atol=2e-3)


def test_large_activations_are_kept_in_float32(tmp_path: Path) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    frozen = keras.Model(inputs, layers.Rescaling(1e6)(inputs))
    how = TuningSettings(copies=1, unfreeze=1, augment="none")
    rows = np.arange(16), np.arange(16, 24)
    looks, plain = frozen_activations(frozen, "none", pixels(), *rows, how, tmp_path)
    assert looks[0].dtype == plain.dtype == np.float32
    np.testing.assert_allclose(plain, pixels()[16:] * 1e6)


# The checkpoint


def a_checkpoint(n_epochs: int = 1) -> Checkpoint:
    history = [{"epoch": n, "loss": float("nan") if n == 0 else 0.5} for n in range(n_epochs + 1)]
    state = [np.arange(12, dtype=np.float32) * number for number in range(12)]
    return Checkpoint({"settings": {"epochs": 3}}, history, state, [np.float32([n_epochs])])


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, a_checkpoint())
    again = read_checkpoint(tmp_path)
    assert again is not None
    assert again.asked == {"settings": {"epochs": 3}}
    assert np.isnan(again.history[0]["loss"])
    assert again.history[1] == {"epoch": 1, "loss": 0.5}
    for mine, theirs in zip(again.state, a_checkpoint().state, strict=True):
        np.testing.assert_array_equal(mine, theirs)
        assert mine.dtype == theirs.dtype
    assert again.best[0].tolist() == [1]


def test_without_a_file_there_is_no_checkpoint(tmp_path: Path) -> None:
    assert read_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", [lambda data: data[:-100], lambda data: b"", lambda data: b"no"])
def test_a_damaged_checkpoint_is_told(tmp_path: Path, damage: Any) -> None:
    write_checkpoint(tmp_path, a_checkpoint())
    file = tmp_path / "checkpoint.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(FinetuningError, match=r"checkpoint.npz' is damaged .*Delete .* begin anew"):
        read_checkpoint(tmp_path)


def test_a_checkpoint_with_a_flipped_byte_is_told(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, a_checkpoint())
    file = tmp_path / "checkpoint.npz"
    data = bytearray(file.read_bytes())
    where = data.index(np.arange(12, dtype=np.float32).tobytes())
    data[where + 5] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(FinetuningError, match="is damaged"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(("n_epochs", "kept"), [(1, "none was kept yet"), (3, "epoch 2 is kept")])
def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_epochs: int, kept: str
) -> None:
    if n_epochs > 1:
        write_checkpoint(tmp_path, a_checkpoint(n_epochs - 1))

    def full(file: Any, **_: Any) -> None:
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(FinetuningError, match=f"No space left on device.*; {kept}. Free space"):
        write_checkpoint(tmp_path, a_checkpoint(n_epochs))
    again = read_checkpoint(tmp_path)
    assert (again is None) == (n_epochs == 1)
    assert again is None or len(again.history) == n_epochs
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.npz"][: n_epochs - 1]


# The settings


@pytest.mark.parametrize(
    ("name", "value", "range_"),
    [
        ("epochs", -1, "0 to 10000"),
        ("learning_rate", 1.5, "0.0 to 1.0"),
        ("learning_rate", float("nan"), "0.0 to 1.0"),
        ("lr_decay", -0.1, "0.0 to 1.0"),
        ("weight_decay", 2, "0.0 to 1.0"),
        ("warmup", 1.1, "0.0 to 1.0"),
        ("batch_size", 0, "1 to 65536"),
        ("mixup", -1, "0.0 to 10.0"),
        ("copies", -1, "0 to 1000"),
        ("label_smoothing", 1, "0.0 to 0.99"),
        ("dropout", 1, "0.0 to 0.99"),
        ("patience", 0, "1 to 10000"),
        ("random_state", -1, "0 to 4294967295"),
    ],
)
def test_a_setting_out_of_its_range_is_refused(name: str, value: float, range_: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be {range_}; found {value}"):
        TuningSettings(**{name: value})


@pytest.mark.parametrize("name", ["augment", "loss", "class_weight"])
def test_a_setting_of_no_known_choice_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"{name} must be one of .*; found 'other'"):
        TuningSettings(**{name: "other"})


def test_copies_of_nothing_frozen_are_refused() -> None:
    with pytest.raises(UsageError, match=r"unfreeze='all' has none. Freeze some blocks"):
        TuningSettings(copies=2)
