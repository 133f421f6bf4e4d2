"""Real Keras networks: our embedding against Keras' own, and what weights files may be."""

import importlib
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from twostage.backbones import lazy, network
from twostage.backbones.catalogue import CATALOGUE, Architecture, find_architecture
from twostage.backbones.conversion import convert
from twostage.backbones.keras_engine import KerasEngine
from twostage.backbones.network import Network, load_network
from twostage.backbones.openvino_engine import OpenVINOEngine
from twostage.backbones.spec import BackboneSettings
from twostage.errors import BackboneError, UsageError

QUICK = ("mobilenet_025", "mobilenet_v2_035")
SLOW = (
    "mobilenet_v3_small",
    "resnet50",
    "efficientnet_b0",
    "mobilenet",
    "mobilenet_v2",
    "mobilenet_v2_140",
    "mobilenet_v3_large",
    "resnet50_v2",
    "efficientnet_b3",
    "efficientnet_v2_b0",
    "efficientnet_v2_s",
    "vgg16",
)
_MODULES = {
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3": "mobilenet_v3",
    "ResNet": "resnet",
    "ResNetV2": "resnet_v2",
    "EfficientNet": "efficientnet",
    "EfficientNetV2": "efficientnet_v2",
    "ConvNeXt": "convnext",
    "DenseNet": "densenet",
    "InceptionV3": "inception_v3",
    "InceptionResNetV2": "inception_resnet_v2",
    "Xception": "xception",
    "NASNet": "nasnet",
    "VGG16": "vgg16",
    "VGG19": "vgg19",
}
ROWS = [
    *(pytest.param(name) for name in QUICK),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
    *(
        pytest.param(name, marks=pytest.mark.nightly)
        for name in CATALOGUE
        if name not in (*QUICK, *SLOW)
    ),
]


def pixels(size_px: int, n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size_px, size_px, 3), np.uint8)


def settle(network: keras.Model, damping: float = 1) -> keras.Model:
    """Give all weights values that leave no layer without effect, batch norm included.

    Some networks need damping: with random weights they grow a rounding error to any size.
    """
    rng = np.random.default_rng(0)
    network.set_weights(
        [
            (w * rng.uniform(1, 1.1, w.shape) + (w.ndim <= 1) * rng.uniform(0, 0.05, w.shape))
            for w in network.get_weights()
        ]
    )
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization) and layer.scale:
            layer.gamma.assign(layer.gamma * damping)
    return network


def keras_own(row: Architecture, file: Path, monkeypatch: pytest.MonkeyPatch) -> keras.Model:
    """Build Keras' network with top, its weights saved to a file, as Keras loads them by name."""
    constructor = getattr(keras.applications, row.constructor)
    damping = 0.8 if row.constructor.startswith("EfficientNetV2") else 1
    settle(constructor(weights=None, **row.options), damping).save_weights(file)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: str(file))
    return constructor(weights="imagenet", **row.options)


def preprocess_input(row: Architecture, batch: np.ndarray) -> np.ndarray:
    stem = max((stem for stem in _MODULES if row.constructor.startswith(stem)), key=len)
    if row.constructor.startswith("ResNet"):
        stem = "ResNetV2" if row.constructor.endswith("V2") else "ResNet"
    module = importlib.import_module(f"keras.applications.{_MODULES[stem]}")
    return module.preprocess_input(batch.astype(np.float32))


def forget() -> None:
    network._load.cache_clear()
    lazy._engine.cache_clear()


def embed(network: Network, batch: np.ndarray, batch_size: int) -> np.ndarray:
    """Embed one batch by the Keras engine."""
    engine = KerasEngine(network.spec, network.model, None, batch_size)
    (embeddings,) = engine.run([batch])
    return embeddings


def embed_by_openvino(
    network: Network, settings: BackboneSettings, batch: np.ndarray
) -> np.ndarray:
    """Embed one batch by the OpenVINO engine, in float32."""
    how = (network.spec, network.export, lambda folder: None)
    folder = convert(settings.with_defaults(), *how).folder
    (embeddings,) = OpenVINOEngine(network.spec, folder, len(batch)).run([batch])
    return embeddings


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the norm of the difference over the norm, of the worst image."""
    return float((np.linalg.norm(ours - theirs, axis=1) / np.linalg.norm(theirs, axis=1)).max())


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert difference(ours, theirs) <= 1e-5


@pytest.mark.parametrize("name", ROWS)
def test_embedding_is_what_enters_keras_own_classifier(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Callable[[str, object], None],
) -> None:
    """By every engine; benchmarks/golden.py collects the differences recorded here."""
    row = CATALOGUE[name]
    file = tmp_path / "with_top.weights.h5"
    network = keras_own(row, file, monkeypatch)
    classifier = network.get_layer(row.classifier)
    assert isinstance(classifier, (keras.layers.Dense, keras.layers.Conv2D))
    assert network.output_shape == (None, 1000)
    batch = pixels(row.input_size_px)
    before = batch.copy()
    penultimate = keras.Model(
        network.input, keras.layers.Flatten(name="entering")(classifier.input)
    )
    theirs = penultimate.predict(preprocess_input(row, batch), verbose=0)
    del network, classifier, penultimate  # of gigabytes, the largest ones

    settings = BackboneSettings(name, weights=str(file))
    backbone = load_network(settings)
    assert backbone.spec.dim == row.dim
    for engine, ours in (
        ("keras", embed(backbone, batch, 2)),
        ("openvino", embed_by_openvino(backbone, settings, batch)),
    ):
        assert ours.shape == (2, row.dim)
        record_property(engine, difference(ours, theirs))
        assert_close(ours, theirs)
    np.testing.assert_array_equal(batch, before)
    forget()


@pytest.mark.slow
def test_the_first_network_of_a_process_can_have_a_layer_of_any_name() -> None:
    """Keras counts names from the start in each process, and VGG has its own "flatten"."""
    forget()
    keras.utils.clear_session()
    settings = BackboneSettings("vgg16", weights="random", image_size=32)
    assert load_network(settings).spec.dim == 4096


def test_the_catalogue_has_every_architecture_of_keras() -> None:
    constructors = {name for name in dir(keras.applications) if name[0].isupper()}
    assert {row.constructor for row in CATALOGUE.values()} == constructors


@pytest.mark.slow
def test_a_file_by_name_and_by_path_gives_equal_embeddings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "no_top.weights.h5"
    network = keras.applications.EfficientNetB0(weights=None, include_top=False, pooling="avg")
    settle(network).save_weights(file)
    monkeypatch.setattr("keras.src.utils.file_utils.get_file", lambda *args, **kwargs: str(file))
    by_name = load_network(BackboneSettings("efficientnet_b0", weights="imagenet"))
    forget()
    by_path = load_network(BackboneSettings("efficientnet_b0", weights=str(file)))
    batch = pixels(224)
    np.testing.assert_array_equal(embed(by_name, batch, 2), embed(by_path, batch, 2))
    assert by_name.spec.identity == by_path.spec.identity


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Save one small network with its top and without, and another architecture without."""
    folder = tmp_path_factory.mktemp("weights")
    with_top = settle(keras.applications.MobileNetV2(weights=None, alpha=0.35))
    trunk = keras.applications.MobileNetV2(
        weights=None, alpha=0.35, include_top=False, input_shape=(224, 224, 3)
    )
    trunk.set_weights(with_top.get_weights()[:-2])
    small = keras.applications.MobileNetV3Small(
        weights=None, include_top=False, input_shape=(224, 224, 3)
    )
    saved = {"top": with_top, "no_top": trunk, "v3_no_top": settle(small)}
    for name, model in saved.items():
        model.save_weights(folder / f"{name}.weights.h5")
    return {name: folder / f"{name}.weights.h5" for name in saved}


def test_files_with_and_without_top_are_the_same_backbone(files: dict[str, Path]) -> None:
    with_top, without = (
        load_network(BackboneSettings("mobilenet_v2_035", weights=str(files[name])))
        for name in ("top", "no_top")
    )
    assert with_top.spec.weights_digest == without.spec.weights_digest
    assert with_top.spec.identity == without.spec.identity
    assert with_top.spec.weights_file_hash != without.spec.weights_file_hash


@pytest.mark.slow
def test_a_file_of_another_architecture_is_refused(files: dict[str, Path]) -> None:
    settings = BackboneSettings("mobilenet_v2", weights=str(files["no_top"]))
    message = (
        r"does not fit 'mobilenet_v2' \('Conv1/kernel' is of shape \(3, 3, 3, 32\), and in the "
        r"file of shape \(3, 3, 3, 16\)\)\. Give the file of that"
    )
    with pytest.raises(BackboneError, match=message):
        load_network(settings)
    settings = BackboneSettings("resnet50", weights=str(files["no_top"]), image_size=32)
    with pytest.raises(BackboneError, match=r"\(Layer 'conv1_conv' expected 2 variables, but rec"):
        load_network(settings)


def test_a_no_top_file_can_not_give_a_penultimate_layer_in_the_top(
    files: dict[str, Path],
) -> None:
    file = str(files["v3_no_top"])
    with pytest.raises(BackboneError, match=r"belongs to the top: .*--layer"):
        load_network(BackboneSettings("mobilenet_v3_small", weights=file))
    lower = load_network(
        BackboneSettings("mobilenet_v3_small", weights=file, layer="conv_1", pooling="max")
    )
    assert lower.spec.dim == 576


def test_weights_that_can_not_be_downloaded_name_the_ways_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*args: object, **kwargs: object) -> str:
        raise Exception("URL fetch failure on https://example.org: None")  # as Keras does

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", fail)
    with pytest.raises(BackboneError, match=r"--weights FILE.*KERAS_HOME.*--weights random"):
        load_network(BackboneSettings("mobilenet_v2_050"))


@pytest.fixture(scope="module")
def small() -> Network:
    return load_network(BackboneSettings("mobilenet_v2_035", weights="random", image_size=96))


def test_random_weights_follow_the_seed(small: Network) -> None:
    settings = {"backbone": "mobilenet_v2_035", "weights": "random", "image_size": 96}
    forget()
    again = load_network(BackboneSettings(**settings, random_state=0))
    other = load_network(BackboneSettings(**settings, random_state=1))
    assert again.spec == small.spec
    assert other.spec.weights_digest != small.spec.weights_digest
    assert other.spec.weights == "random:1"


def test_building_a_backbone_leaves_the_callers_random_numbers_alone() -> None:
    import random

    random.seed(5)
    expected = random.random()
    random.seed(5)
    load_network(
        BackboneSettings("mobilenet_v2_035", weights="random", image_size=64, random_state=9)
    )
    assert random.random() == expected


def test_a_short_batch_gives_the_embeddings_of_a_full_one(small: Network) -> None:
    batch = pixels(96, n=4)
    np.testing.assert_array_equal(embed(small, batch, 4)[:1], embed(small, batch[:1], 4))


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_a_feature_map_is_pooled(small: Network, pooling: str) -> None:
    settings = BackboneSettings(
        "mobilenet_v2_035",
        weights="random",
        image_size=96,
        layer="block_3_expand_relu",
        pooling=pooling,
    )
    backbone = load_network(settings)
    trunk = small.model.layers[-1]
    feature_map = keras.Model(trunk.input, trunk.get_layer("block_3_expand_relu").output)
    values = feature_map.predict(pixels(96).astype(np.float32) / 127.5 - 1, verbose=0)
    pooled = values.mean(axis=(1, 2)) if pooling == "avg" else values.max(axis=(1, 2))
    assert_close(embed(backbone, pixels(96), 2), pooled)
    assert backbone.spec.pooling == pooling


def test_an_unknown_layer_is_refused_with_the_closest() -> None:
    settings = BackboneSettings(
        "mobilenet_v2_035", weights="random", image_size=96, layer="block_3_expand_rel"
    )
    with pytest.raises(UsageError, match="Did you mean 'block_3_expand_relu'"):
        load_network(settings)


def test_an_architecture_whose_embedding_needs_its_top_takes_other_sizes() -> None:
    backbone = load_network(BackboneSettings("mobilenet_v3_small", weights="random", image_size=96))
    assert embed(backbone, pixels(96), 2).shape == (2, 1024)


def test_an_unknown_backbone_is_refused_with_the_closest() -> None:
    with pytest.raises(UsageError, match="Did you mean 'efficientnet_b0'"):
        find_architecture("efficientnt_b0")


@pytest.mark.slow
def test_max_pooling_is_the_same_from_a_file_with_top(files: dict[str, Path]) -> None:
    with_top, without, average = (
        load_network(BackboneSettings("mobilenet_v2_035", weights=str(files[name]), pooling=how))
        for name, how in (("top", "max"), ("no_top", "max"), ("top", "avg"))
    )
    batch = pixels(224)
    np.testing.assert_array_equal(embed(with_top, batch, 2), embed(without, batch, 2))
    assert with_top.spec.identity == without.spec.identity != average.spec.identity
    assert not np.allclose(embed(with_top, batch, 2), embed(average, batch, 2))


def test_average_pooling_is_one_identity_said_or_not(files: dict[str, Path]) -> None:
    said, unsaid = (
        load_network(BackboneSettings("mobilenet_v2_035", weights=str(files["top"]), pooling=how))
        for how in ("avg", None)
    )
    assert said is unsaid


def test_a_vector_is_not_pooled() -> None:
    settings = BackboneSettings(
        "efficientnet_b0", weights="random", image_size=64, layer="avg_pool", pooling="max"
    )
    with pytest.raises(UsageError, match=r"Layer 'avg_pool': a tensor .* can't be pooled"):
        load_network(settings)


def test_a_weights_file_that_changed_is_loaded_again(
    files: dict[str, Path], tmp_path: Path
) -> None:
    file = tmp_path / "w.weights.h5"
    file.write_bytes(files["no_top"].read_bytes())
    settings = BackboneSettings("mobilenet_v2_035", weights=str(file))
    first = load_network(settings)
    settle(
        keras.applications.MobileNetV2(
            weights=None, alpha=0.35, include_top=False, input_shape=(224, 224, 3)
        )
    ).save_weights(file)
    assert load_network(settings).spec.weights_digest != first.spec.weights_digest


def test_an_image_size_the_architecture_can_not_take_names_the_least() -> None:
    with pytest.raises(UsageError, match=r"75 to 4096 pixels for 'inception_v3'; found 64\."):
        BackboneSettings("inception_v3", image_size=64)
    assert BackboneSettings("inception_v3", image_size=75).image_size == 75
