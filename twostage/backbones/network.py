"""Build a Keras network, load its weights, strip its top.

It uses Keras alone, so that every Keras backend will do.
"""

import random
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np

from twostage.backbones.catalogue import Architecture, find_architecture
from twostage.backbones.own_network import load_own_network
from twostage.backbones.quiet_keras import keras, muted_stderr
from twostage.backbones.spec import PENULTIMATE, BackboneSettings, BackboneSpec
from twostage.backbones.trunk import EMBEDDING, Trunk, as_vector
from twostage.errors import BackboneError, UsageError, did_you_mean, first_line
from twostage.fingerprint import hash_file, hash_weights
from twostage.opening.keras_file import check_weights

_IMAGENET_VARIANCE = (0.229, 0.224, 0.225)  # named so by Keras; in truth standard deviations
_SHAPES = re.compile(
    r"variable\.shape=(\(.*?\)), Received: value\.shape=(\(.*?\))\. "
    r"Target variable: <Variable path=([^,]+),"
)


@dataclass(frozen=True)
class Network:
    """A stripped network.

    Attributes
    ----------
    spec : BackboneSpec
        What it is.
    model : keras.Model
        From uint8 pixels of shape (n, size, size, 3) to float32 embeddings of shape (n, dim), not
        L2-normalised.
    """

    spec: BackboneSpec
    model: Any

    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """Embed one batch, without compiling anything: slow."""
        return np.asarray(keras.ops.convert_to_numpy(self.model(pixels, training=False)))

    def export(self, file: str) -> None:
        """Write the network as OpenVINO's .xml and .bin."""
        with muted_stderr():
            self.model.export(file, format="openvino", verbose=False)


def backend() -> str:
    """Return what Keras runs on: "tensorflow", "jax" or "torch"."""
    return str(keras.backend.backend())


def on_device(device: str | None) -> AbstractContextManager[Any]:
    """Return the scope in which Keras runs on a device."""
    scope: Callable[[str], AbstractContextManager[Any]] = keras.device
    return scope(device) if device else nullcontext()


def load_network(settings: BackboneSettings, device: str | None = None) -> Network:
    """Build the backbone that the settings ask for, and resolve its spec; the last two are kept.

    Parameters
    ----------
    settings : BackboneSettings
        Open choices take their defaults; engine and precision are not looked at.
    device : str or None
        As Keras names it ("cpu:0", "gpu:0"); None leaves the choice to the backend.

    Raises
    ------
    BackboneError
        If the weights can't be had or don't fit, or the layer can't be stripped to.
    """
    settings = replace(settings.with_defaults(), engine=None, precision=None)
    file = settings.weights_file
    return _load(settings, hash_file(file) if file else None, device)


@lru_cache(maxsize=2)
def _load(settings: BackboneSettings, weights_file_hash: str | None, device: str | None) -> Network:
    with on_device(device):
        trunk = load_trunk(settings)
        model = _with_preprocessing(trunk)
    spec = BackboneSpec(
        architecture=trunk.architecture,
        weights=settings.provenance,
        weights_digest=trunk.weights_digest,
        weights_file_hash=weights_file_hash,
        layer=str(settings.layer),
        pooling=trunk.pooling,
        dim=int(model.output.shape[-1]),
        input_size_px=int(model.input.shape[1]),
        resize=str(settings.resize),
        preprocessing=trunk.preprocessing,
        storage_dtype=str(settings.dtype),
    )
    return Network(spec, model)


def load_trunk(settings: BackboneSettings) -> Trunk:
    """Build a stripped network anew, for one that will change it; see `load_network`."""
    settings = settings.with_defaults()
    return _from_catalogue(settings) if settings.keras_file is None else load_own_network(settings)


def _from_catalogue(settings: BackboneSettings) -> Trunk:
    """Load the weights into the first variant of the network that has the layer and takes them."""
    architecture = find_architecture(str(settings.backbone))
    failures: list[str] = []
    for has_top in _variants(architecture, settings):
        network = _construct(architecture, settings, has_top)
        try:
            _load_weights(network, architecture, settings, has_top)
        except (ValueError, OSError, KeyError) as error:
            failures.append(_what_differs(error))
            continue
        if has_top and settings.layer == PENULTIMATE and not architecture.needs_top:
            network, has_top = _without_top(network, architecture, settings), False
        embedding, pooling = _embedding_of(network, architecture, settings, has_top)
        model = keras.Model(network.input, embedding)
        return Trunk(
            model,
            architecture.name,
            hash_weights(_arrays(model)),
            pooling,
            architecture.preprocessing,
        )
    raise BackboneError(_misfit_message(architecture, settings, failures))


def _without_top(network: Any, architecture: Architecture, settings: BackboneSettings) -> Any:
    """Return the network as it is built without top, with the weights of one that has it."""
    trunk = _construct(architecture, settings, has_top=False)
    _set_weights(trunk, network.get_weights()[: len(trunk.weights)])
    return trunk


def _set_weights(network: Any, values: list[np.ndarray]) -> None:
    network.set_weights(values)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies that set_weights leaves as they were


def _variants(architecture: Architecture, settings: BackboneSettings) -> list[bool]:
    """Return which variants of the network, with top or without, hold the layer asked for."""
    if settings.layer == PENULTIMATE:
        if not architecture.needs_top:
            return [False, True]
        if settings.pooling is not None:
            raise UsageError(
                f"--pooling does not apply to the penultimate layer of '{architecture.name}', "
                "which is a vector. Name a feature map with --layer, or leave --pooling out."
            )
        return [True]
    has_layer = {
        has_top: settings.layer in _layer_names(architecture, settings, has_top)
        for has_top in (False, True)
    }
    if not any(has_layer.values()):
        known = _layer_names(architecture, settings, True)
        raise UsageError(
            f"'{architecture.name}' has no layer '{settings.layer}'."
            f"{did_you_mean(str(settings.layer), known)} Its last ones are {', '.join(known[-5:])}."
        )
    return [has_top for has_top, holds in has_layer.items() if holds]


def _layer_names(
    architecture: Architecture, settings: BackboneSettings, has_top: bool
) -> list[str]:
    return [layer.name for layer in _construct(architecture, settings, has_top).layers]


def _construct(architecture: Architecture, settings: BackboneSettings, has_top: bool) -> Any:
    """Construct the network with seeded random weights, the same in every process."""
    constructor = getattr(keras.applications, architecture.constructor)
    size_px = settings.image_size
    with _seeded(settings.random_state or 0):
        network = constructor(
            weights=None,
            include_top=has_top,
            pooling=None if has_top else settings.pooling or "avg",
            input_shape=(size_px, size_px, 3),
            **architecture.options,
        )
    return _with_imagenet_rescaling(network) if architecture.imagenet_rescaling else network


def _load_weights(
    network: Any, architecture: Architecture, settings: BackboneSettings, has_top: bool
) -> None:
    if settings.weights == "random":
        return
    if settings.weights_file is not None:
        _load_file(network, str(settings.weights_file))
        return
    constructor = getattr(keras.applications, architecture.constructor)
    try:
        # Keras' own loading, at its own size; the weights serve at any size.
        source = constructor(
            weights="imagenet",
            include_top=has_top,
            pooling=None if has_top else "avg",
            input_shape=(architecture.input_size_px,) * 2 + (3,),
            **architecture.options,
        )
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise BackboneError(_no_weights_message(architecture, error)) from error
    _set_weights(network, source.get_weights())


def _load_file(network: Any, file: str) -> None:
    """Load a file's weights, and make sure that it had them all.

    Raises
    ------
    ValueError
        If it lacks some: Keras only warns where a part of the file is missing.
    """
    check_weights(Path(file))
    drawn = dict(_arrays(network))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.load_weights(file)
    for path, array in _arrays(network):
        # Vectors may stay what they were: batch norm starts with ones and zeros.
        if array.ndim > 1 and np.array_equal(drawn[path], array):
            raise ValueError(f"it has no weights for '{path}'")


def _arrays(network: Any) -> list[tuple[str, np.ndarray]]:
    """Return path and value of each variable, in their order."""
    return [(w.path, keras.ops.convert_to_numpy(w)) for w in network.weights]


def _with_imagenet_rescaling(network: Any) -> Any:
    """Add the rescaling that Keras adds to EfficientNet only under ``weights="imagenet"``.

    References
    ----------
    ``keras/src/applications/efficientnet.py``; tensorflow issue 49930.
    """

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if isinstance(layer, keras.layers.Normalization):
            scale = [1 / sqrt(variance) for variance in _IMAGENET_VARIANCE]
            outputs = keras.layers.Rescaling(scale)(outputs)
        return outputs

    return keras.models.clone_model(network, clone_function=lambda layer: layer, call_function=call)


def _embedding_of(
    network: Any, architecture: Architecture, settings: BackboneSettings, has_top: bool
) -> tuple[Any, str | None]:
    """Return the tensor that becomes the embedding, of shape (n, dim), and how it was pooled."""
    if settings.layer == PENULTIMATE and not has_top:
        return network.output, settings.pooling
    if settings.layer == PENULTIMATE:
        entering = network.get_layer(architecture.classifier).input
        return keras.layers.Flatten(name=EMBEDDING)(entering), None
    return as_vector(
        network.get_layer(settings.layer).output, settings.pooling, f"Layer '{settings.layer}'"
    )


def preprocessed(pixels: Any, preprocessing: str) -> Any:
    """Return pixels, float32 tensors of 0 to 255, as a network wants them."""
    if preprocessing == "unit":
        return pixels / 255.0
    if preprocessing == "none":
        return pixels
    preprocess = keras.applications.imagenet_utils.preprocess_input
    return preprocess(pixels, data_format="channels_last", mode=preprocessing)


def _with_preprocessing(trunk: Trunk) -> Any:
    """Put the cast from uint8 and Keras' preprocessing in front of the network."""
    pixels = keras.Input(trunk.model.input.shape[1:], dtype="uint8")
    values = preprocessed(keras.ops.cast(pixels, "float32"), trunk.preprocessing)
    return keras.Model(pixels, trunk.model(values, training=False))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed Keras' initialisers, which draw their seeds from ``random``, and nothing else."""
    state = random.getstate()
    random.seed(seed)
    try:
        yield
    finally:
        random.setstate(state)


def _no_weights_message(architecture: Architecture, error: Exception) -> str:
    return (
        f"ImageNet weights of '{architecture.name}' are not here and can't be downloaded "
        f"({first_line(error)}). Connect to the network once, or give a file with --weights FILE, "
        "or set KERAS_HOME to a folder whose models/ holds Keras' file, or try --weights random."
    )


def _what_differs(error: Exception) -> str:
    """Say what does not fit, of all that Keras says; its first line is a number of objects."""
    text = str(error)
    shapes = _SHAPES.search(text)
    if shapes:
        ours, theirs, path = shapes.groups()
        return f"'{path}' is of shape {ours}, and in the file of shape {theirs}"
    _, _, example = text.partition("Example error message")
    return first_line(ValueError(example.partition("\n\n")[2])) if example else first_line(error)


def _misfit_message(
    architecture: Architecture, settings: BackboneSettings, failures: list[str]
) -> str:
    said = "; or ".join(dict.fromkeys(failures))
    if settings.weights_file is None:
        return f"The weights do not fit '{architecture.name}' at {settings.image_size} px ({said})."
    fix = "Give the file of that architecture"
    if architecture.needs_top and settings.layer == PENULTIMATE:
        fix = (
            f"The penultimate layer of '{architecture.name}' belongs to the top: give a file with "
            "top, or name a layer below it with --layer"
        )
    return f"'{settings.weights}' does not fit '{architecture.name}' ({said}). {fix}."
