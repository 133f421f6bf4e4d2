"""A user's own ``.keras`` file as a backbone: real Keras networks, saved and stripped."""

import importlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from test_backbones import assert_close, embed, forget, pixels, settle

from twostage import ImageEmbedder
from twostage.backbones.lazy import LazyBackbone
from twostage.backbones.network import Network, load_network
from twostage.backbones.spec import BackboneSettings
from twostage.backbones.unrolling import IDLE_IN_INFERENCE
from twostage.errors import BackboneError, UsageError

SIZE = 32
Tensor = Any
Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Return a function that gives a network lively weights and saves it."""

    def save(model: keras.Model, name: str = "mine.keras") -> Path:
        settle(model).save(tmp_path / name)
        return tmp_path / name

    return save


def load(file: Path, **settings: Any) -> Network:
    forget()
    return load_network(BackboneSettings(file, **settings))


def values(inputs: Tensor, tensor: Tensor, batch: np.ndarray) -> np.ndarray:
    """Compute a tensor of a network from pixels as they are."""
    found = keras.Model(inputs, tensor)(batch.astype(np.float32), training=False)
    return np.asarray(keras.ops.convert_to_numpy(found))


def scaled_input(size_px: int | None = SIZE) -> tuple[Tensor, Tensor]:
    inputs = keras.Input((size_px, size_px, 3))
    return inputs, layers.Rescaling(1 / 127.5, offset=-1)(inputs)


def feature_map(tensor: Tensor, n_filters: int = 6) -> Tensor:
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(tensor)
    return layers.Activation("relu")(layers.BatchNormalization()(layers.Conv2D(n_filters, 3)(x)))


def small_network(n_classes: int = 3, size_px: int | None = SIZE) -> keras.Model:
    inputs, x = scaled_input(size_px)
    x = layers.GlobalAveragePooling2D()(feature_map(x))
    return keras.Model(inputs, layers.Dense(n_classes, activation="softmax")(x))


@pytest.mark.parametrize(
    ("constructor", "module", "size_px", "preprocessing", "options"),
    [
        ("MobileNet", "mobilenet", 64, "tf", {"alpha": 0.25}),
        ("MobileNetV2", "mobilenet_v2", 96, "tf", {"alpha": 0.35}),
        pytest.param("MobileNetV3Small", "mobilenet_v3", 96, None, {}, marks=pytest.mark.slow),
        pytest.param("EfficientNetB0", "efficientnet", 64, None, {}, marks=pytest.mark.slow),
        pytest.param("ResNet50", "resnet", 64, "caffe", {}, marks=pytest.mark.slow),
        pytest.param("DenseNet121", "densenet", 64, "torch", {}, marks=pytest.mark.slow),
        pytest.param("ConvNeXtTiny", "convnext", 64, None, {}, marks=pytest.mark.slow),
        pytest.param("EfficientNetV2B0", "efficientnet_v2", 64, None, {}, marks=pytest.mark.slow),
        pytest.param("NASNetMobile", "nasnet", 64, "tf", {}, marks=pytest.mark.nightly),
        pytest.param("InceptionResNetV2", "inception_resnet_v2", 96, "tf", {},
                     marks=pytest.mark.nightly),
    ],
)  # fmt: skip
def test_the_embedding_is_what_enters_the_classifier_of_keras_own_network(
    save: Save,
    constructor: str,
    module: str,
    size_px: int,
    preprocessing: str | None,
    options: dict[str, Any],
) -> None:
    build = getattr(keras.applications, constructor)
    file = save(build(weights=None, classes=5, input_shape=(size_px, size_px, 3), **options))
    model = keras.saving.load_model(file)
    dense = [
        layer
        for layer in model.layers
        if isinstance(layer, layers.Dense)
        or (isinstance(layer, layers.Conv2D) and layer.output.shape[-1] == 5)
    ][-1]
    prepare = importlib.import_module(f"keras.applications.{module}").preprocess_input
    theirs = values(
        model.input,
        layers.Flatten()(dense.input),
        prepare(pixels(size_px).astype(np.float32)),
    )

    network = load(file, preprocessing=preprocessing)

    assert_close(embed(network, pixels(size_px), 2), theirs)
    assert network.spec.input_size_px == size_px
    assert network.spec.preprocessing == (preprocessing or "none")


def mobilenet() -> keras.Model:
    return keras.applications.MobileNetV2(
        weights=None, alpha=0.35, include_top=False, input_shape=(SIZE, SIZE, 3)
    )


def small_base() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, feature_map(inputs), name="base")


def nested(build_base: Callable[[], keras.Model] = mobilenet) -> tuple[keras.Model, Tensor]:
    """Build the transfer learning of the tutorials; what enters the classifier is wanted."""
    inputs = keras.Input((SIZE, SIZE, 3))
    augmentation = keras.Sequential(
        [layers.RandomFlip(), layers.RandomRotation(0.4), layers.RandomContrast(0.9)]
    )
    x = keras.applications.mobilenet_v2.preprocess_input(augmentation(inputs))
    x = layers.GlobalAveragePooling2D()(build_base()(x, training=False))
    wanted = layers.Dropout(0.9)(x)
    return keras.Model(inputs, layers.Dense(1, activation="sigmoid")(wanted)), wanted


def sequential() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    base = keras.Model(inputs, feature_map(x))
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            base,
            layers.GlobalMaxPooling2D(),
            layers.Dense(8, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
            layers.Softmax(),
        ]
    )
    return model, model.layers[-3].output


def hidden_layer() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = layers.Dense(20, activation="relu")(layers.Flatten()(feature_map(x)))
    wanted = layers.Dense(10, activation="relu")(x)
    return keras.Model(inputs, layers.Activation("softmax")(layers.Dense(3)(wanted))), wanted


def logits() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    wanted = layers.GlobalAveragePooling2D()(feature_map(x))
    return keras.Model(inputs, layers.Dense(3)(wanted)), wanted


def a_number_that_can_not_be_negative() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    wanted = layers.GlobalAveragePooling2D()(feature_map(x))
    return keras.Model(inputs, layers.Dense(1, activation="relu")(wanted)), wanted


def convolution_after_pooling() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    wanted = layers.GlobalAveragePooling2D(keepdims=True)(feature_map(x))
    x = layers.Conv2D(3, 1)(layers.Dropout(0.5)(wanted))
    x = layers.Softmax()(layers.Flatten()(x))
    return keras.Model(inputs, x), layers.Flatten()(wanted)


def convolution_before_pooling() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    wanted = feature_map(x)
    x = layers.Conv2D(3, 1, activation="relu")(wanted)
    x = layers.Activation("softmax")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x), layers.GlobalAveragePooling2D()(wanted)


def squeeze_and_excite() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = feature_map(x)
    gate = layers.Dense(2, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Multiply()([x, layers.Dense(6, activation="sigmoid")(gate)])
    wanted = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(wanted)), wanted


def training_that_goes_on() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x, norm = feature_map(x), layers.BatchNormalization()
    wanted = layers.GlobalAveragePooling2D()(norm(x))
    x = layers.GlobalAveragePooling2D()(norm(x, training=True))
    x = layers.Dropout(0.5)(x, training=True)
    return keras.Model(inputs, layers.Dense(2, activation="softmax")(x)), wanted


WITH_TOP = [
    nested,
    sequential,
    hidden_layer,
    logits,
    a_number_that_can_not_be_negative,
    convolution_after_pooling,
    convolution_before_pooling,
    squeeze_and_excite,
    training_that_goes_on,
]


@pytest.mark.parametrize("build", WITH_TOP, ids=lambda build: build.__name__)
def test_the_last_classifier_alone_is_stripped(
    save: Save, build: Callable[[], tuple[keras.Model, Tensor]]
) -> None:
    model, wanted = build()
    network = load(save(model))
    theirs = values(model.inputs[0], wanted, pixels(SIZE))
    assert_close(embed(network, pixels(SIZE), 2), theirs)
    assert network.spec.preprocessing == "none"
    assert network.spec.pooling == ("avg" if build is convolution_before_pooling else None)


def a_map() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = layers.Conv2D(5, 1)(feature_map(x))
    return keras.Model(inputs, x), layers.GlobalAveragePooling2D()(x)


def a_pooled_map() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(5, 1)(feature_map(x)))
    return keras.Model(inputs, x), x


def a_pooled_map_normalised() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(feature_map(x)))
    return keras.Model(inputs, x), x


def a_map_laid_flat() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = layers.Flatten()(feature_map(x))
    return keras.Model(inputs, x), x


def a_hidden_layer() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = layers.Dense(9, activation="relu")(layers.GlobalMaxPooling2D()(feature_map(x)))
    return keras.Model(inputs, layers.Dropout(0.5)(x)), x


def a_vector_of_length_one() -> tuple[keras.Model, Tensor]:
    inputs, x = scaled_input()
    x = layers.Dense(9)(layers.GlobalMaxPooling2D()(feature_map(x)))
    x = layers.UnitNormalization()(x)
    return keras.Model(inputs, x), x


def gated() -> tuple[keras.Model, Tensor]:
    model, wanted = squeeze_and_excite()
    return keras.Model(model.input, wanted), wanted


WITHOUT_TOP = [
    a_map,
    a_pooled_map,
    a_pooled_map_normalised,
    a_map_laid_flat,
    a_hidden_layer,
    a_vector_of_length_one,
    gated,
]


@pytest.mark.parametrize("build", WITHOUT_TOP, ids=lambda build: build.__name__)
def test_of_a_network_saved_without_top_the_output_is_the_embedding(
    save: Save, build: Callable[[], tuple[keras.Model, Tensor]], caplog: pytest.LogCaptureFixture
) -> None:
    model, wanted = build()
    caplog.set_level("INFO", "twostage")
    network = load(save(model))
    theirs = values(model.inputs[0], wanted, pixels(SIZE))
    assert_close(embed(network, pixels(SIZE), 2), theirs)
    assert "mine.keras: the embedding is its output, for it has no top; " in caplog.text


def classes_of_pixels() -> keras.Model:
    inputs, x = scaled_input()
    return keras.Model(inputs, layers.Conv2D(3, 1, activation="softmax")(feature_map(x)))


def two_vectors_joined() -> keras.Model:
    inputs, x = scaled_input()
    x = feature_map(x)
    pools = [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]
    return keras.Model(inputs, layers.Concatenate(name="both")(pools))


def classifiers_added() -> keras.Model:
    inputs, x = scaled_input()
    x = layers.GlobalMaxPooling2D()(feature_map(x))
    x = layers.Add(name="sum")([layers.Dense(3)(x), layers.Dense(3)(x)])
    return keras.Model(inputs, layers.Softmax()(x))


@pytest.mark.parametrize("build", [classes_of_pixels, two_vectors_joined, classifiers_added])
def test_an_ending_that_could_be_either_is_asked_for(
    save: Save, build: Callable[[], keras.Model]
) -> None:
    with pytest.raises(
        UsageError, match=r"tells no classifier .* and no embedding\. Say with --la"
    ):
        load(save(build()))


def test_a_layer_named_is_taken_as_it_is(save: Save) -> None:
    model = two_vectors_joined()
    network = load(save(model), layer="both")
    assert_close(embed(network, pixels(SIZE), 2), values(model.input, model.output, pixels(SIZE)))


def test_a_layer_of_a_nested_model_goes_by_its_name_or_its_path(save: Save) -> None:
    model, _ = nested(small_base)
    file = save(model)
    base = model.get_layer("base")
    name = base.layers[1].name
    theirs = values(base.input, base.layers[1].output, pixels(SIZE) / np.float32(127.5) - 1)
    by_name = load(file, layer=name, pooling="max")
    by_path = load(file, layer=f"base/{name}", pooling="max")
    assert_close(embed(by_name, pixels(SIZE), 2), theirs.max(axis=(1, 2)))
    np.testing.assert_array_equal(embed(by_path, pixels(SIZE), 2), embed(by_name, pixels(SIZE), 2))
    whole = load(file, layer="base")
    assert_close(embed(whole, pixels(SIZE), 2), embed(load(file), pixels(SIZE), 2))
    with pytest.raises(UsageError, match=r"no layer 'bas'\. Did you mean 'base.*Its last ones are"):
        load(file, layer="bas")


def test_layers_of_one_name_in_several_models_are_told_apart(save: Save) -> None:
    """Keras refuses two layers of one name in a model, and they do meet in a stripped one."""

    def part(n_channels: int, n_filters: int) -> keras.Model:
        inputs = keras.Input((None, None, n_channels))
        x = layers.BatchNormalization(name="norm")(inputs)
        x = layers.Conv2D(n_filters, 3, name="conv")(x)
        return keras.Model(inputs, keras.ops.relu(x + keras.ops.abs(x)))

    inputs, x = scaled_input()
    x = layers.BatchNormalization(name="norm")(x)
    x = part(4, 5)(part(3, 4)(x))
    wanted = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, activation="softmax")(wanted))
    file = save(model)
    network = load(file)
    assert_close(embed(network, pixels(SIZE), 2), values(inputs, wanted, pixels(SIZE)))
    with pytest.raises(UsageError, match=r"has 3 layers 'norm': 'norm', 'functional.*/norm'"):
        load(file, layer="norm")
    with pytest.raises(UsageError, match=r"has 2 layers 'conv': .*Give one as it is here"):
        load(file, layer="conv")


def test_a_layer_used_twice_is_no_embedding(save: Save) -> None:
    inputs, x = scaled_input()
    twice = layers.Conv2D(3, 3, padding="same", name="twice")
    x = layers.GlobalAveragePooling2D()(twice(twice(x)))
    file = save(keras.Model(inputs, layers.Dense(2)(x)))
    assert load(file).spec.dim == 3
    with pytest.raises(UsageError, match=r"Layer 'twice' .* gives 2 tensors"):
        load(file, layer="twice")


def test_a_network_of_any_size_asks_for_one(save: Save) -> None:
    model = small_network(size_px=None)
    file = save(model)
    with pytest.raises(UsageError, match=r"images of any size\. Say with --image-size N"):
        load(file)
    network = load(file, image_size=48)
    penultimate = model.layers[-1].input
    assert_close(embed(network, pixels(48), 2), values(model.input, penultimate, pixels(48)))
    assert network.spec.input_size_px == 48
    with pytest.raises(BackboneError, match="can't take images of 4 pixels"):
        load(file, image_size=4)


def test_a_network_of_one_size_takes_no_other(save: Save) -> None:
    file = save(small_network())
    assert load(file, image_size=SIZE).spec == load(file).spec
    with pytest.raises(UsageError, match="takes images of 32 pixels and of no other size; asked f"):
        load(file, image_size=48)


def of_shape(*shape: int | None, **options: Any) -> keras.Model:
    inputs = keras.Input(shape)
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(2, 3, **options)(x) if len(shape) == 3 else x
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


def two_inputs() -> keras.Model:
    image, age = keras.Input((SIZE, SIZE, 3), name="image"), keras.Input((1,), name="age")
    x = layers.GlobalMaxPooling2D()(layers.Rescaling(1 / 255)(image))
    return keras.Model([image, age], layers.Dense(2)(layers.Concatenate()([x, age])))


def two_outputs() -> keras.Model:
    inputs, x = scaled_input()
    x = layers.GlobalMaxPooling2D(name="pool")(feature_map(x))
    return keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(1)(x)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: of_shape(SIZE, 48, 3), "takes images of 32 x 48 pixels, and a backbone takes sq"),
        (lambda: of_shape(SIZE, SIZE, 4), r"takes an input of shape \(32, 32, 4\), and images are"),
        (lambda: of_shape(10), r"takes an input of shape \(10,\), and images are of shape"),
        (lambda: of_shape(SIZE, SIZE, 1), r"grey images, .*keras\.ops\.image\.rgb_to_grayscale"),
        (lambda: of_shape(3, SIZE, SIZE), "channels come first. Build it with data_format"),
        (two_inputs, r"has 2 inputs \('image', 'age'\), and an image is one. Save the part"),
    ],
)
def test_a_network_that_takes_no_rgb_squares_is_refused(
    save: Save, build: Callable[[], keras.Model], message: str
) -> None:
    with pytest.raises(BackboneError, match=message):
        load(save(build()))


def test_a_network_for_grey_images_becomes_one_for_rgb_as_the_message_says(save: Save) -> None:
    model = of_shape(SIZE, SIZE, 1)
    save(model)
    rgb = keras.Input((SIZE, SIZE, 3))
    file = save(keras.Model(rgb, model(keras.ops.image.rgb_to_grayscale(rgb))))
    grey = pixels(SIZE) @ np.array([0.2989, 0.587, 0.114])
    theirs = values(model.input, model.layers[-1].input, grey[..., None])
    assert_close(embed(load(file), pixels(SIZE), 2), theirs)


def test_a_network_that_does_not_tell_its_layers_is_refused(tmp_path: Path) -> None:
    keras.Sequential([layers.Rescaling(1 / 255), layers.Flatten()]).save(tmp_path / "mine.keras")
    with pytest.raises(BackboneError, match="class Sequential, which does not tell its layers"):
        load(tmp_path / "mine.keras")


def test_a_vector_is_not_pooled(save: Save) -> None:
    with pytest.raises(
        UsageError, match=r"what enters its classifier, the dense layer 'dense.*can"
    ):
        load(save(small_network()), pooling="max")


def test_of_several_outputs_the_layer_is_asked_for(save: Save) -> None:
    file = save(two_outputs())
    with pytest.raises(UsageError, match=r"has 2 outputs\. Say with --layer which layer embeds"):
        load(file)
    assert load(file, layer="pool").spec.dim == 6


@pytest.mark.parametrize(
    ("mode", "scale"),
    [
        ("tf", lambda x: x / 127.5 - 1),
        ("unit", lambda x: x / 255),
        ("torch", lambda x: (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("caffe", lambda x: x[..., ::-1] - [103.939, 116.779, 123.68]),
        ("none", lambda x: x),
    ],
)
def test_preprocessing_is_done_as_asked_for(
    save: Save, mode: str, scale: Callable[[np.ndarray], np.ndarray]
) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    wanted = layers.GlobalAveragePooling2D()(feature_map(layers.RandomFlip()(inputs)))
    file = save(keras.Model(inputs, layers.Dense(2)(wanted)))
    network = load(file, preprocessing=mode)
    assert network.spec.preprocessing == mode
    theirs = values(inputs, wanted, scale(pixels(SIZE).astype(np.float64)))
    assert_close(embed(network, pixels(SIZE), 2), theirs)


def test_preprocessing_that_the_file_does_not_tell_is_asked_for(save: Save) -> None:
    top = [layers.GlobalAveragePooling2D(), layers.Dense(2)]
    file = save(keras.Sequential([keras.Input((SIZE, SIZE, 3)), mobilenet(), *top]))
    message = (
        r"does not scale its pixels itself, and .* --preprocessing: tf .*"
        r"preprocess_input for 'mobilenetv2_0\.35_32' is tf\."
    )
    with pytest.raises(UsageError, match=message):
        load(file)


def test_a_normalisation_learned_from_scaled_pixels_is_not_taken_for_scaling(save: Save) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Normalization(mean=[0.5] * 3, variance=[0.06] * 3)(inputs)
    file = save(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(feature_map(x)))))
    with pytest.raises(UsageError, match=r"of 0 to 255 it makes -2\.04\d to 1039"):
        load(file)
    assert load(file, preprocessing="unit").spec.preprocessing == "unit"


@pytest.mark.parametrize("module", ["mobilenet_v2", "densenet", "resnet"])
def test_a_network_that_scales_its_pixels_itself_is_left_to_it(save: Save, module: str) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    preprocess = importlib.import_module(f"keras.applications.{module}").preprocess_input
    wanted = layers.GlobalAveragePooling2D()(feature_map(preprocess(inputs)))
    file = save(keras.Model(inputs, layers.Dense(2)(wanted)))
    network = load(file)
    assert network.spec.preprocessing == "none"
    assert_close(embed(network, pixels(SIZE), 2), values(inputs, wanted, pixels(SIZE)))
    assert load(file, preprocessing="none").spec == network.spec
    with pytest.raises(UsageError, match="scales its pixels itself, and --preprocessing tf would"):
        load(file, preprocessing="tf")


def test_a_backbone_of_the_catalogue_knows_its_own_preprocessing() -> None:
    settings = {"backbone": "mobilenet_v2_035", "weights": "random", "image_size": 64}
    same, unsaid = (
        load_network(BackboneSettings(**settings, preprocessing=mode)) for mode in ("tf", None)
    )
    assert same is unsaid
    with pytest.raises(UsageError, match="--preprocessing caffe is wrong for 'mobilenet_v2_035'"):
        load_network(BackboneSettings(**settings, preprocessing="caffe"))


def test_half_precision_inside_gives_float32_embeddings(save: Save) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        file = save(small_network())
    finally:
        keras.config.set_dtype_policy("float32")
    assert embed(load(file), pixels(SIZE), 2).dtype == np.float32


@pytest.mark.parametrize("kind", sorted(IDLE_IN_INFERENCE - {"StochasticDepth"}))
def test_layers_left_out_are_idle_in_inference(kind: str) -> None:
    if not hasattr(layers, kind):
        pytest.skip("this Keras does not have it")
    make = getattr(layers, kind)
    known = make.__init__.__code__.co_varnames[: make.__init__.__code__.co_argcount]
    wanted = dict.fromkeys(("rate", "stddev", "factor", "height_factor", "width_factor"), 0.5)
    wanted["factor"] = 4 if kind == "RandomPosterization" else 0.5
    layer = make(**{name: value for name, value in wanted.items() if name in known})
    batch = pixels(SIZE).astype(np.float32)
    handed_on = keras.ops.convert_to_numpy(layer(batch, training=False))
    np.testing.assert_array_equal(handed_on, batch)


def with_lambda() -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = mobilenet()(layers.Lambda(lambda x: x / 127.5 - 1, name="scale")(inputs))
    return keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))


def test_code_in_a_file_is_refused_and_the_way_out_works(save: Save, tmp_path: Path) -> None:
    model = with_lambda()
    file = save(model)
    with pytest.raises(
        BackboneError, match=r"holds code.* layer 'scale' is a Lambda\. .*--weights"
    ):
        load(file)
    weights = tmp_path / "base.weights.h5"
    model.get_layer("mobilenetv2_0.35_32").save_weights(weights)
    forget()
    network = load_network(
        BackboneSettings("mobilenet_v2_035", weights=str(weights), image_size=SIZE)
    )
    theirs = values(model.input, model.layers[-1].input, pixels(SIZE))
    assert_close(embed(network, pixels(SIZE), 2), theirs)

    inputs, x = scaled_input()
    x = layers.Dense(2)(layers.GlobalAveragePooling2D()(model.get_layer("mobilenetv2_0.35_32")(x)))
    rebuilt = keras.Model(inputs, x)
    rebuilt.set_weights(model.get_weights())
    rebuilt.save(file)
    assert_close(embed(load(file), pixels(SIZE), 2), theirs)


class Scale(layers.Layer):
    """A layer that Keras does not know."""

    def call(self, pixels: Tensor) -> Tensor:
        return pixels / 255.0


def test_a_class_of_ones_own_is_refused_unless_the_program_registered_it(save: Save) -> None:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = feature_map(Scale(name="mine")(inputs))
    file = save(keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x))))
    with pytest.raises(
        BackboneError, match="layer 'mine' is of a class that is not Keras' own, 'S"
    ):
        load(file)
    with keras.saving.custom_object_scope({"Scale": Scale}):
        assert load(file).spec.preprocessing == "none"


def change_config(file: Path, change: Callable[[dict], dict]) -> None:
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = json.dumps(change(json.loads(parts["config.json"]))).encode()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in parts.items():
            archive.writestr(name, data)


@pytest.mark.parametrize("kind", ["TFSMLayer", "TorchModuleWrapper", "Lambda"])
def test_a_layer_that_loads_code_from_elsewhere_is_refused(save: Save, kind: str) -> None:
    def put_in(config: dict) -> dict:
        layer = {"module": "keras.layers", "class_name": kind, "config": {"name": "sly"}}
        config["config"]["layers"].insert(1, layer)
        return config

    file = save(small_network())
    change_config(file, put_in)
    with pytest.raises(BackboneError, match=f"layer 'sly' is a {kind}"):
        load(file)


@pytest.mark.parametrize("module", ["keras.config", "keras.src.utils.file_utils", "os", "layers"])
def test_a_call_of_what_is_no_part_of_networks_is_refused(save: Save, module: str) -> None:
    def put_in(config: dict) -> dict:
        function = "enable_unsafe_deserialization"
        call = {"module": module, "class_name": "function", "config": function}
        config["config"]["layers"][1]["config"]["scale"] = call | {"registered_name": function}
        return config

    file = save(small_network())
    change_config(file, put_in)
    with pytest.raises(BackboneError, match="not Keras' own, 'enable_unsafe_deserialization'"):
        load(file)


def test_how_a_network_was_trained_does_not_matter(save: Save) -> None:
    model = small_network()
    model.compile(loss=lambda true, predicted: keras.ops.mean(predicted), optimizer="adam")
    assert load(save(model)).spec.dim == 6


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file: file.write_bytes(b"no zip"), "is not a Keras file, or is damaged"),
        (lambda file: file.write_bytes(file.read_bytes()[:5000]), "is not a Keras file, or is dam"),
        (lambda file: change_config(file, lambda config: []), r"can't be loaded .* this is Keras"),
        (
            lambda file: change_config(file, lambda c: c | {"class_name": "Sideways"}),
            r"can't be loaded \(.*\)\. It was saved by Keras .* Save it again",
        ),
    ],
)
def test_a_damaged_file_is_refused(
    save: Save, spoil: Callable[[Path], object], message: str
) -> None:
    file = save(small_network())
    spoil(file)
    with pytest.raises(BackboneError, match=message):
        load(file)


def test_a_file_without_its_weights_is_refused(save: Save) -> None:
    file = save(small_network())
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name in ("metadata.json", "config.json"):
            archive.writestr(name, parts[name])
    with pytest.raises(BackboneError, match=r"is damaged \(.*no item named 'model\.weights\.h5'"):
        load(file)


def test_what_is_no_keras_file_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(
        UsageError, match=r"There is no file '.*gone\.keras'\. Give the path of one"
    ):
        BackboneSettings(tmp_path / "gone.keras")
    with pytest.raises(
        UsageError, match=r"Unknown backbone 'm\.h5'.* A network of your own is a \."
    ):
        BackboneSettings("m.h5")


def test_a_file_brings_its_own_weights(save: Save) -> None:
    file = save(small_network())
    with pytest.raises(UsageError, match="brings its own weights: leave --weights random out"):
        BackboneSettings(file, weights="random")


def test_the_same_network_saved_again_is_the_same_backbone(save: Save, tmp_path: Path) -> None:
    model, _ = nested(small_base)
    first = load(save(model))
    again = tmp_path / "again.keras"
    keras.saving.load_model(tmp_path / "mine.keras").save(again)
    assert again.read_bytes() != (tmp_path / "mine.keras").read_bytes()
    assert load(again).spec.identity == first.spec.identity

    other_names, _ = nested(small_base)
    other_names.set_weights(model.get_weights())
    other_names.get_layer("base").trainable = False
    other_names.save(again)
    assert load(again).spec.identity == first.spec.identity


def test_networks_with_and_without_top_or_size_are_the_same_backbone(
    save: Save, tmp_path: Path
) -> None:
    model = small_network()
    with_top = load(save(model))
    of_any_size = small_network(size_px=None)
    of_any_size.set_weights(model.get_weights())
    headless = keras.Model(of_any_size.input, of_any_size.layers[-1].input)
    headless.save(tmp_path / "headless.keras")
    without = load(tmp_path / "headless.keras", image_size=SIZE)
    assert without.spec.identity == with_top.spec.identity


def network_of(
    activation: str = "relu", strides: int = 1, divisor: float = 255.0, seed: int = 0
) -> keras.Model:
    inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.Conv2D(4, 3, strides=strides, activation=activation)(inputs / divisor)
    model = keras.Model(inputs, layers.Dense(2)(layers.GlobalAveragePooling2D()(x)))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(size=w.shape) for w in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"activation": "tanh"}, "architecture"),
        ({"strides": 2}, "architecture"),
        ({"divisor": 127.5}, "architecture"),
        ({"seed": 1}, "weights_digest"),
    ],
)
def test_another_graph_or_other_weights_are_another_backbone(
    tmp_path: Path, change: dict[str, Any], differs: str
) -> None:
    specs = []
    for settings in ({}, change):
        network_of(**settings).save(tmp_path / "one.keras")
        specs.append(load(tmp_path / "one.keras").spec)
    assert specs[0].identity != specs[1].identity
    (difference,) = specs[0].differences(specs[1])
    assert difference.startswith(f"{differs} is ")


@pytest.mark.slow
def test_both_engines_give_the_same_embeddings(save: Save) -> None:
    model, wanted = nested()
    file = save(model)
    theirs = values(model.inputs[0], wanted, pixels(SIZE))
    for engine in ("keras", "openvino"):
        built = LazyBackbone(BackboneSettings(file, engine=engine), "cpu").get()
        assert built.spec.precision == "float32"
        assert_close(np.vstack(list(built.run([pixels(SIZE)]))), theirs)


def test_the_embedder_takes_a_file(save: Save, photos: Path) -> None:
    file = save(small_network())
    embedder = ImageEmbedder(file, image_root=photos)
    assert embedder.fit_transform(["cats/0.png", "dogs/1.png"]).shape == (2, 6)
    assert embedder.spec_.name == "mine.keras"


def test_a_layer_is_not_taken_for_a_nested_one_of_its_name(save: Save) -> None:
    inner_input, inputs = keras.Input((SIZE, SIZE, 3)), keras.Input((SIZE, SIZE, 3))
    inner = keras.Model(inner_input, layers.Conv2D(3, 3, name="twin")(inner_input), name="base")
    x = layers.Conv2D(3, 3, name="twin")(inner(layers.Rescaling(1 / 255)(inputs)))
    wanted = layers.GlobalAveragePooling2D()(x)
    file = save(keras.Model(inputs, layers.Dense(2, activation="softmax")(wanted)))
    model = keras.saving.load_model(file)
    theirs = values(model.input, model.layers[-1].input, pixels(SIZE))
    assert_close(embed(load(file), pixels(SIZE), 2), theirs)
