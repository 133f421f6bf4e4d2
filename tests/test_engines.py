"""What executes a backbone: the choice, and that all give the same embeddings."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.backbones import engines, keras_engine
from twostage.backbones.engines import Variant, choose_variant
from twostage.backbones.keras_engine import KerasEngine
from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.network import Network, load_network
from twostage.backbones.openvino_engine import OpenVINOEngine, converted, has_native_bfloat16
from twostage.backbones.spec import BackboneSettings
from twostage.errors import BackboneError
from twostage.folders import cache_folder

needs_bfloat16 = pytest.mark.skipif(
    not has_native_bfloat16(), reason="this processor does not compute in bfloat16"
)


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(BackboneSettings("mobilenet_v2_035", weights="random", image_size=64))


@pytest.fixture
def folder(network: Network) -> Path:
    return converted(network.spec, network.export)


def pixels(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 64, 64, 3), np.uint8)


def batches(n: int, size: int) -> list[np.ndarray]:
    return [pixels(size, seed) for seed in range(n)]


def relative_difference(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)


@pytest.mark.parametrize("n_batches", [1, 2, 3, 9])
def test_openvino_gives_kerass_embeddings_in_order(
    network: Network, folder: Path, n_batches: int
) -> None:
    given = [*batches(n_batches - 1, 4), pixels(3, seed=99)]
    theirs = KerasEngine(network.spec, network.model, None, 4).run(given)
    ours = list(OpenVINOEngine(network.spec, folder, 4).run(given))
    assert [len(batch) for batch in ours] == [len(batch) for batch in given]
    for mine, yours in zip(ours, theirs, strict=True):
        assert mine.dtype == np.float32
        assert (relative_difference(mine, yours) < 1e-5).all()


def test_openvino_leaves_the_callers_pixels_alone_and_takes_batches_as_it_goes(
    network: Network, folder: Path
) -> None:
    """Its own request buffers: OpenVINO would share the caller's, and write into it."""
    given = batches(12, 4)
    kept = [batch.copy() for batch in given]
    taken = []

    def feed() -> Iterator[np.ndarray]:
        for number, batch in enumerate(given):
            taken.append(number)
            yield batch

    engine = OpenVINOEngine(network.spec, folder, 4)
    run = engine.run(feed())
    first = next(run)
    assert 1 < len(taken) < 12  # several are under way, not all
    again = next(iter(engine.run([given[0]])))  # beside the one that is not through
    rest = list(run)
    np.testing.assert_array_equal(first, again)
    assert len(rest) == 11
    for before, after in zip(kept, given, strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_run_that_is_given_up_can_be_followed_by_another(network: Network, folder: Path) -> None:
    engine = OpenVINOEngine(network.spec, folder, 4)
    given = batches(6, 4)
    expected = list(engine.run(given))
    abandoned = engine.run(given)
    next(abandoned)
    abandoned.close()
    np.testing.assert_array_equal(np.vstack(list(engine.run(given))), np.vstack(expected))


def test_a_network_is_converted_once(network: Network, folder: Path) -> None:
    assert converted(network.spec, lambda file: pytest.fail("converted again")) == folder
    assert [path.name for path in (cache_folder() / "engines").iterdir()] == [folder.name]


def test_a_conversion_that_fails_leaves_nothing(network: Network) -> None:
    def fail(file: str) -> None:
        Path(file).write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        converted(network.spec, fail)
    assert not list((cache_folder() / "engines").iterdir())


def test_a_batch_too_large_for_the_memory_is_halved_and_the_run_goes_on(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = KerasEngine(network.spec, network.model, None, 8)
    forward, sizes = engine._forward, []

    def small_device(batch: np.ndarray) -> np.ndarray:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise RuntimeError("RESOURCE_EXHAUSTED: failed to allocate memory")
        return forward(batch)

    engine._forward = small_device
    given = batches(2, 8)
    ours = list(engine.run(given))
    assert engine.batch_size == 2
    assert sizes == [8, 4] + [2] * 8
    theirs = KerasEngine(network.spec, network.model, None, 8).run(given)
    for mine, yours in zip(ours, theirs, strict=True):
        assert (relative_difference(mine, yours) < 1e-5).all()


def test_other_errors_of_a_device_are_not_taken_for_a_lack_of_memory(network: Network) -> None:
    engine = KerasEngine(network.spec, network.model, None, 8)

    def broken(batch: np.ndarray) -> np.ndarray:
        raise RuntimeError("the device fell off the bus")

    engine._forward = broken
    with pytest.raises(RuntimeError, match="fell off"):
        list(engine.run(batches(1, 8)))
    assert engine.batch_size == 8


def test_on_other_backends_keras_own_forward_runs(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = KerasEngine(network.spec, network.model, None, 4).run([pixels(4)])
    monkeypatch.setattr(keras_engine, "backend", lambda: "jax")
    plain = KerasEngine(network.spec, network.model, None, 4).run([pixels(4)])
    assert (relative_difference(next(frozen), next(plain)) < 1e-5).all()


CHOICES = [
    # asked for, architecture, on GPU, processor has bfloat16 -> chosen
    ((None, None), "mobilenet_v2", False, True, ("openvino", "bfloat16")),
    (("auto", "auto"), "mobilenet_v2", False, False, ("openvino", "float32")),
    ((None, None), "resnet50", False, True, ("openvino", "float32")),
    ((None, "bfloat16"), "resnet50", False, True, ("openvino", "bfloat16")),
    ((None, None), "mobilenet_v2", True, True, ("keras", "float32")),
    (("keras", None), "mobilenet_v2", False, True, ("keras", "float32")),
    (("openvino", "float32"), "mobilenet_v2", False, True, ("openvino", "float32")),
]


@pytest.mark.parametrize(("asked", "architecture", "on_gpu", "native", "expected"), CHOICES)
def test_what_is_left_open_is_chosen(
    asked: tuple[str | None, str | None],
    architecture: str,
    on_gpu: bool,
    native: bool,
    expected: tuple[str, str],
) -> None:
    chosen = choose_variant(
        *asked,
        architecture=architecture,
        is_on_gpu=on_gpu,
        has_native_bfloat16=lambda: native,
    )
    assert chosen == Variant(*expected)


@pytest.mark.parametrize(
    ("asked", "on_gpu", "native", "installed", "message"),
    [
        (("openvino", None), True, True, True, "runs on CPUs. Use --device cpu"),
        (("openvino", None), False, True, False, "not installed. .*pip install openvino"),
        ((None, "bfloat16"), False, False, True, "this processor does not compute in bfloat16"),
        (("keras", "bfloat16"), False, True, True, "only --engine openvino computes in bfloat16"),
        ((None, "bfloat16"), False, True, False, "only --engine openvino computes in bfloat16"),
    ],
)
def test_what_is_not_to_be_had_is_refused_with_a_way_out(
    monkeypatch: pytest.MonkeyPatch,
    asked: tuple[str | None, str | None],
    on_gpu: bool,
    native: bool,
    installed: bool,
    message: str,
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: name if installed else None)
    with pytest.raises(BackboneError, match=message):
        choose_variant(
            *asked,
            architecture="mobilenet_v2",
            is_on_gpu=on_gpu,
            has_native_bfloat16=lambda: native,
        )


def test_without_openvino_keras_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    chosen = choose_variant(
        None, None, architecture="mobilenet_v2", is_on_gpu=False, has_native_bfloat16=pytest.fail
    )
    assert chosen == Variant("keras", "float32")


def photos(size_px: int) -> np.ndarray:
    """Draw smooth pictures, as photos are: noise would flatter low precision."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (6, 7, 7, 3), np.uint8)
    resized = [
        Image.fromarray(s).resize((size_px, size_px), Image.Resampling.BICUBIC) for s in small
    ]
    return np.stack([np.asarray(picture) for picture in resized])


@needs_bfloat16
@pytest.mark.realdata
def test_bfloat16_keeps_the_direction_of_embeddings() -> None:
    """Depthwise convolutions and the stem stay in float32: without that the median is .98."""
    found = {}
    for precision in ("float32", "bfloat16"):
        settings = BackboneSettings("mobilenet_v2", engine="openvino", precision=precision)
        engine = LazyBackbone(settings, "cpu").get()
        assert engine.spec.precision == precision
        shown = photos(224)
        found[precision] = np.vstack(list(engine.run([shown[:4], shown[4:]])))
    full, reduced = found.values()
    cosines = (full * reduced).sum(axis=1)
    cosines /= np.linalg.norm(full, axis=1) * np.linalg.norm(reduced, axis=1)
    assert np.median(cosines) > 0.998
    assert cosines.min() > 0.99
    assert cosines.max() < 0.999999  # it was not float32 after all
