"""What executes a backbone: the choice, and that all give the same embeddings."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from twostage.backbones import engines, keras_engine, lazy
from twostage.backbones.conversion import convert, find_converted
from twostage.backbones.engines import Variant, choose_variant
from twostage.backbones.keras_engine import KerasEngine
from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.network import Network, load_network
from twostage.backbones.openvino_engine import OpenVINOEngine, has_native_bfloat16
from twostage.backbones.spec import BackboneSettings
from twostage.errors import BackboneError
from twostage.folders import cache_folder

needs_bfloat16 = pytest.mark.skipif(
    not has_native_bfloat16(), reason="this processor does not compute in bfloat16"
)


SMALL = BackboneSettings("mobilenet_v2_035", weights="random", image_size=64).with_defaults()


def trust(folder: Path) -> None:
    """Don't check a conversion."""


@pytest.fixture(scope="module")
def network() -> Network:
    return load_network(SMALL)


@pytest.fixture(autouse=True)
def own_conversions(own_cache: Path) -> None:
    """Give each test a cache that has no converted network yet."""
    (own_cache / "engines").unlink()


@pytest.fixture(scope="module")
def conversion(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TWOSTAGE_CACHE", str(tmp_path_factory.mktemp("converted")))
        return convert(SMALL, network.spec, network.export, trust).folder


@pytest.fixture
def folder(conversion: Path) -> Path:
    """Return the folder of the small network, converted, in the test's own cache."""
    return Path(shutil.copytree(conversion, cache_folder() / "engines" / conversion.name))


def copy_of(conversion: Path) -> Callable[[str], None]:
    """Return what exports a network that was exported before."""

    def export(file: str) -> None:
        shutil.copytree(conversion, Path(file).parent, dirs_exist_ok=True)

    return export


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


def test_a_converted_network_is_found_again(network: Network, folder: Path) -> None:
    for settings in (
        SMALL,
        replace(SMALL, engine="openvino", precision="float32", dtype="float16"),
    ):
        found = find_converted(settings)
        assert found is not None
        assert found.folder == folder
        assert found.spec == network.spec
    assert [path.name for path in (cache_folder() / "engines").iterdir()] == [folder.name]


@pytest.mark.parametrize(
    "other", [{"random_state": 1}, {"image_size": 96}, {"pooling": "max"}, {"layer": "Conv_1"}]
)
def test_another_network_is_not_taken_for_it(folder: Path, other: dict[str, object]) -> None:
    assert find_converted(replace(SMALL, **other)) is None


def test_another_version_of_keras_converts_anew(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twostage.backbones.conversion.version", lambda name: "99.0")
    assert find_converted(SMALL) is None


@pytest.mark.parametrize("name", ["network.xml", "network.bin", "converted.json"])
@pytest.mark.parametrize("harm", ["flip", "cut", "delete"])
def test_a_damaged_conversion_is_made_anew(
    network: Network, conversion: Path, folder: Path, name: str, harm: str
) -> None:
    file = folder / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x55
    file.write_bytes(data if harm == "flip" else data[:-20])
    if harm == "delete":
        file.unlink()
    assert find_converted(SMALL) is None
    assert convert(SMALL, network.spec, copy_of(conversion), trust).folder == folder
    assert find_converted(SMALL) is not None


def test_imagenet_weights_that_change_on_disk_are_converted_anew(
    network: Network, conversion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keras takes the file that lies there under the name it looks for."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    models = tmp_path / "models"
    models.mkdir()
    (models / "weights.h5").write_bytes(b"one")
    imagenet = replace(SMALL, weights="imagenet")
    convert(imagenet, network.spec, copy_of(conversion), trust)
    assert find_converted(imagenet) is not None
    (models / "another_network.h5").write_bytes(b"downloaded later")
    assert find_converted(imagenet) is not None
    (models / "weights.h5").write_bytes(b"two!")
    assert find_converted(imagenet) is None
    (models / "weights.h5").unlink()  # to free the disk
    assert find_converted(imagenet) is not None
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "other"))
    assert find_converted(imagenet) is None


def test_a_conversion_that_fails_leaves_nothing(network: Network) -> None:
    def fail(file: str) -> None:
        Path(file).write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        convert(SMALL, network.spec, fail, trust)
    assert not list((cache_folder() / "engines").iterdir())


def test_a_conversion_that_computes_something_else_is_refused_and_not_kept(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrongly(self: Network, file: str) -> None:
        other = load_network(replace(SMALL, random_state=1))
        other.model.export(file, format="openvino", verbose=False)

    lazy._engine.cache_clear()
    monkeypatch.setattr(Network, "export", wrongly)
    with pytest.raises(BackboneError, match=r"differ from Keras' own by .* Use --engine keras"):
        LazyBackbone(SMALL, "cpu").get()
    assert find_converted(SMALL) is None


def test_a_network_that_openvino_can_not_take_is_refused(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Network, file: str) -> None:
        raise RuntimeError("no conversion rule for SomeOp\nlong story")

    lazy._engine.cache_clear()
    monkeypatch.setattr(Network, "export", fail)
    message = r"can't take 'mobilenet_v2_035' \(no conversion rule for SomeOp\). Use --engine keras"
    with pytest.raises(BackboneError, match=message):
        LazyBackbone(SMALL, "cpu").get()
    assert not list((cache_folder() / "engines").iterdir())


def test_outputs_that_are_none_of_the_networks_are_taken_away() -> None:
    """Keras' swish has a gradient of its own, which shows in the converted network."""
    settings = BackboneSettings(
        "efficientnet_b0", weights="random", image_size=32, engine="openvino"
    )
    given = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    (ours,) = LazyBackbone(settings, "cpu").get().run([given])
    theirs = load_network(settings).embed(given)
    assert (relative_difference(ours, theirs) < 1e-5).all()


def test_a_converted_network_needs_no_keras(folder: Path) -> None:
    code = (
        "import sys, numpy as np\n"
        "from twostage.backbones.lazy import LazyBackbone\n"
        "from twostage.backbones.spec import BackboneSettings\n"
        "settings = BackboneSettings('mobilenet_v2_035', weights='random', image_size=64)\n"
        "engine = LazyBackbone(settings, 'cpu').get()\n"
        "(embedded,) = engine.run([np.zeros((1, 64, 64, 3), np.uint8)])\n"
        "assert embedded.shape == (1, 1280) and embedded.any()\n"
        "assert not {'keras', 'tensorflow'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
        (("openvino", None), True, True, True, "it runs on CPUs only. Use --device cpu"),
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
    """The first convolutions stay in float32: without that the median is .98."""
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
