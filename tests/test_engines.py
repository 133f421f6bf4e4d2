"""What executes a backbone: the choice, and that all give the same embeddings."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Event

import joblib
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
from twostage.errors import BackboneError, VariantError
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


@pytest.mark.parametrize("n_others", [0, 1])
def test_threads_are_bound_to_cores_only_by_a_process_that_has_them_all(
    network: Network, folder: Path, monkeypatch: pytest.MonkeyPatch, n_others: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1 + n_others)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    compiled = OpenVINOEngine(network.spec, folder, 4)._compiled
    assert compiled.get_property("ENABLE_CPU_PINNING") is (n_others == 0)


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


@pytest.mark.slow
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


@pytest.mark.slow
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


def on_small_device(engine: KerasEngine, most: int) -> list[int]:
    """Let the device of an engine hold some images at once; return a list of what it is given."""
    (replica,) = engine._replicas
    start, sizes = replica._start, []

    def start_if_it_fits(batch: np.ndarray) -> Callable[[], np.ndarray]:
        sizes.append(len(batch))
        if len(batch) <= most:
            return start(batch)
        raise RuntimeError("RESOURCE_EXHAUSTED: failed to allocate memory")

    replica._start = start_if_it_fits
    return sizes


@pytest.mark.parametrize("is_late", [False, True])
def test_a_batch_too_large_for_the_memory_is_halved_and_the_run_goes_on(
    network: Network, is_late: bool
) -> None:
    """Also where the backend finds out when it fetches: it computes asynchronously."""
    engine = KerasEngine(network.spec, network.model, None, 8)
    sizes = on_small_device(engine, 2)
    (replica,) = engine._replicas
    early = replica._start
    if is_late:
        replica._start = lambda batch: lambda: early(batch)()
    given = batches(4, 8)
    ours = list(engine.run(given))
    assert engine.batch_size == 2
    assert [size for size in sizes if size <= 2] == [2] * 16
    theirs = KerasEngine(network.spec, network.model, None, 8).run(given)
    for mine, yours in zip(ours, theirs, strict=True):
        assert (relative_difference(mine, yours) < 1e-5).all()
    sizes.clear()
    list(engine.run(batches(2, 2)))
    assert sizes == [2, 2]  # it has learned


def test_what_does_not_fit_one_by_one_is_an_error_with_a_way_out(network: Network) -> None:
    engine = KerasEngine(network.spec, network.model, None, 4)
    on_small_device(engine, 0)
    message = (
        r"memory does not hold 'mobilenet_v2_035' with one image of 64 pixels "
        r"\(RESOURCE_EXHAUSTED.*smaller --backbone or --image-size"
    )
    with pytest.raises(BackboneError, match=message):
        list(engine.run(batches(2, 4)))


def test_a_network_that_does_not_fit_at_all_is_an_error_with_a_way_out(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(model: object, device: str) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")

    monkeypatch.setattr(keras_engine, "compile_forward", fail)
    with pytest.raises(BackboneError, match=r"machine's memory does not hold .* Tried to allocate"):
        KerasEngine(network.spec, network.model, ["cpu:0"])


def test_other_errors_of_a_device_are_not_taken_for_a_lack_of_memory(network: Network) -> None:
    engine = KerasEngine(network.spec, network.model, None, 8)

    def broken(batch: np.ndarray) -> Callable[[], np.ndarray]:
        raise RuntimeError("the device fell off the bus")

    engine._replicas[0]._start = broken
    with pytest.raises(RuntimeError, match="fell off"):
        list(engine.run(batches(5, 8)))
    assert engine.batch_size == 8


def test_keras_takes_batches_as_it_goes_and_can_be_given_up(network: Network) -> None:
    given = batches(12, 4)
    taken = []

    def feed() -> Iterator[np.ndarray]:
        for number, batch in enumerate(given):
            taken.append(number)
            yield batch

    engine = KerasEngine(network.spec, network.model, None, 4)
    run = engine.run(feed())
    first = next(run)
    assert 1 < len(taken) < 6  # some are under way, not all
    run.close()
    np.testing.assert_array_equal(first, next(iter(engine.run(given))))


def test_a_fetch_waits_while_the_next_batch_is_computed(network: Network) -> None:
    """Two are under way on a device: the second starts before the first is fetched."""
    engine = KerasEngine(network.spec, network.model, None, 4)
    (replica,) = engine._replicas
    start, second_started = replica._start, Event()
    started = []

    def watched(batch: np.ndarray) -> Callable[[], np.ndarray]:
        started.append(len(batch))
        fetch = start(batch)
        if len(started) == 2:
            second_started.set()

        def late() -> np.ndarray:
            assert second_started.wait(timeout=60)
            return fetch()

        return late

    replica._start = watched
    assert len(list(engine.run(batches(3, 4)))) == 3


def test_the_automatic_batch_is_larger_on_a_gpu(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keras_engine, "compile_forward", lambda model, device: device)
    monkeypatch.setattr(keras_engine, "on_device", lambda device: nullcontext())
    sizes = [
        KerasEngine(network.spec, network.model, devices, asked).batch_size
        for devices, asked in ((("cpu:0",), None), (("gpu:0", "gpu:1"), None), (("gpu:0",), 5))
    ]
    assert sizes == [32, 128, 5]


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.0])
def test_what_float16_can_not_hold_is_refused(network: Network, value: float) -> None:
    engine = KerasEngine(replace(network.spec, precision="float16"), network.model, None, 2)
    embeddings = np.ones((2, 1280), np.float32)
    embeddings[1] = value
    engine._replicas[0]._start = lambda batch: lambda: embeddings
    with pytest.raises(BackboneError, match=r"too small for float16\. Use --precision"):
        list(engine.run([pixels(2)]))


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
        (
            (None, "float16"),
            False,
            True,
            True,
            r"only GPUs compute in float16\. Use --precision bfloat16 or float32",
        ),
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


@pytest.mark.parametrize(
    ("precision", "capability", "expected"),
    [
        (None, (9, 0), "float32"),  # nothing was measured on a GPU
        ("auto", (7, 5), "float32"),
        ("bfloat16", (8, 0), "bfloat16"),
        ("float16", (7, 0), "float16"),
        ("float16", (9, 0), "float16"),  # a store that an older GPU began goes on
    ],
)
def test_a_gpu_computes_in_what_it_has(
    precision: str | None, capability: tuple[int, int], expected: str
) -> None:
    chosen = choose_variant(
        None,
        precision,
        architecture="mobilenet_v2",
        is_on_gpu=True,
        has_native_bfloat16=pytest.fail,
        gpu_capability=capability,
    )
    assert chosen == Variant("keras", expected)


@pytest.mark.parametrize(
    ("precision", "capability", "message"),
    [
        ("bfloat16", (7, 5), r"is 7\.5, and bfloat16 takes 8\.0\. Use --precision float16 or"),
        ("float16", (6, 1), r"is 6\.1, and float16 takes 7\.0\. Use --precision float32\."),
        ("bfloat16", None, r"no CUDA compute capability .*\. Use --precision float32\."),
    ],
)
def test_what_a_gpu_lacks_is_refused_with_what_it_has(
    precision: str, capability: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(VariantError, match=f"--precision {precision}: .*{message}"):
        choose_variant(
            "keras",
            precision,
            architecture="mobilenet_v2",
            is_on_gpu=True,
            has_native_bfloat16=pytest.fail,
            gpu_capability=capability,
        )


def test_without_openvino_keras_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    chosen = choose_variant(
        None, None, architecture="mobilenet_v2", is_on_gpu=False, has_native_bfloat16=pytest.fail
    )
    assert chosen == Variant("keras", "float32")


@pytest.mark.parametrize(
    ("installed", "backend"), [({"openvino"}, "jax"), ({"openvino", "tensorflow"}, "torch")]
)
def test_where_keras_can_not_convert_keras_runs(
    monkeypatch: pytest.MonkeyPatch, installed: set[str], backend: str
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(engines, "current_backend", lambda: backend)
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
