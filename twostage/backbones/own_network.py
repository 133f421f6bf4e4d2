"""A user's own ``.keras`` file as a backbone: its input, its pixels, its top."""

import logging
from pathlib import Path
from typing import Any

from twostage.backbones.catalogue import CATALOGUE
from twostage.backbones.quiet_keras import keras
from twostage.backbones.rescaling import AS_THEY_ARE, is_scaled, range_of_pixels
from twostage.backbones.spec import (
    KERAS_ARCHITECTURE,
    LARGEST_SIZE_PX,
    PENULTIMATE,
    BackboneSettings,
)
from twostage.backbones.tops import Ending, find_ending
from twostage.backbones.trunk import EMBEDDING, Trunk, as_vector
from twostage.backbones.unrolling import UnrolledNetwork, is_graph
from twostage.errors import BackboneError, UsageError, did_you_mean, first_line, listed
from twostage.opening.keras_file import ForeignCodeError, UnbuildableError, load_network, saved_by

log = logging.getLogger("twostage")

_N_DIGITS = 16
_HOW_TO_PROCEED = (
    "Where you trust the file, rebuild the network without that, from layers of Keras, give it the "
    "weights with new.set_weights(old.get_weights()), and save it with new.save('new.keras'). Or, "
    "if its base is one of 'twostage backbones', save the base's weights alone, with "
    "base.save_weights('base.weights.h5'), and give --backbone NAME --weights base.weights.h5."
)


def load_own_network(settings: BackboneSettings) -> Trunk:
    """Load a Keras file and strip its top.

    Parameters
    ----------
    settings : BackboneSettings
        ``backbone`` is the file.

    Raises
    ------
    BackboneError
        If the file is damaged, holds code, or is no network that embeds images.
    UsageError
        If it does not say what has to be known: the size of images, how their pixels are scaled,
        which layer embeds.
    """
    file = Path(str(settings.keras_file))
    model = _loaded(file)
    network = _unrolled(model, _input_size(model, file, settings.image_size), file)
    preprocessing = _preprocessing(network, file, settings.preprocessing)
    is_tuned = settings.tuned is not None  # it was stripped before it was saved
    found, what = _embedding(network, file, settings, has_top=not is_tuned)
    is_point = settings.layer == PENULTIMATE and tuple(found.shape[1:-1]) == (1, 1)
    vector = keras.layers.Flatten(name=EMBEDDING)(found) if is_point else found
    embedding, pooling = as_vector(vector, settings.pooling, f"'{file}', {what}")
    if str(embedding.dtype) != "float32":
        embedding = keras.ops.cast(embedding, "float32")
    if not is_tuned:
        log.info("%s: the embedding is %s; %d numbers.", file.name, what, embedding.shape[-1])
    return Trunk(
        keras.Model(network.input, embedding),
        KERAS_ARCHITECTURE + network.graph_digest(found)[:_N_DIGITS],
        network.weights_digest(found),
        pooling,
        preprocessing,
    )


def _loaded(file: Path) -> Any:
    try:
        return load_network(file)
    except ForeignCodeError as error:
        raise BackboneError(
            f"'{file}' holds code, which twostage does not run: {error}. {_HOW_TO_PROCEED}"
        ) from error
    except UnbuildableError as error:
        raise BackboneError(
            f"'{file}' can't be loaded ({first_line(error)}). It was saved by Keras "
            f"{saved_by(file)}; this is Keras {keras.version()}. Save it again, with "
            "model.save('my.keras')."
        ) from error
    except (OSError, ValueError) as error:
        raise BackboneError(
            f"'{file}' is not a Keras file, or is damaged ({first_line(error)}). Give one that "
            "model.save('my.keras') wrote."
        ) from error


def _input_size(model: Any, file: Path, asked: int | None) -> int:
    """Return height and width of the images that go in."""
    if not is_graph(model) or not model.built:
        raise BackboneError(
            f"'{file}' holds a network of class {type(model).__name__}, which does not tell its "
            "layers. Give one made by keras.Model(inputs, outputs), or a Sequential with its Input."
        )
    if len(model.inputs) != 1:
        names = listed([tensor.name for tensor in model.inputs])
        raise BackboneError(
            f"'{file}' has {len(model.inputs)} inputs ({names}), and an image is one. Save the "
            "part that sees the image, with keras.Model(image_input, embedding).save('my.keras')."
        )
    (shape,) = (tensor.shape for tensor in model.inputs)
    _check_channels(shape, file)
    fixed = {int(side) for side in shape[1:3] if side is not None}
    if len(fixed) > 1:
        raise BackboneError(
            f"'{file}' takes images of {shape[1]} x {shape[2]} pixels, and a backbone takes "
            "squares. Build it for a square, and save that."
        )
    if not fixed and asked is None:
        raise UsageError(
            f"'{file}' takes images of any size. Say with --image-size N which was that of its "
            "training."
        )
    size_px = next(iter(fixed), asked)
    if size_px is not None and not 1 <= size_px <= LARGEST_SIZE_PX:
        raise BackboneError(
            f"'{file}' takes images of {size_px} pixels, and {LARGEST_SIZE_PX} are the most. Give "
            "another file."
        )
    if asked not in (None, size_px):
        raise UsageError(
            f"'{file}' takes images of {size_px} pixels and of no other size; asked for {asked}. "
            "Leave --image-size out."
        )
    return int(str(size_px))


def _check_channels(shape: tuple[int | None, ...], file: Path) -> None:
    if len(shape) == 4 and shape[-1] == 3:
        return
    found = f"'{file}' takes an input of shape {shape[1:]}"
    if len(shape) == 4 and shape[-1] == 1:
        raise BackboneError(
            f"{found}: grey images, and a backbone gets RGB. Put the conversion in front: rgb = "
            f"keras.Input({(*shape[1:3], 3)}); keras.Model(rgb, "
            "model(keras.ops.image.rgb_to_grayscale(rgb))).save('rgb.keras')."
        )
    if len(shape) == 4 and shape[1] == 3:
        raise BackboneError(
            f"{found}: channels come first. Build it with data_format='channels_last', give it "
            "the same weights, and save that."
        )
    raise BackboneError(f"{found}, and images are of shape (height, width, 3). Give another file.")


def _unrolled(model: Any, size_px: int, file: Path) -> UnrolledNetwork:
    try:
        return UnrolledNetwork(model, size_px)
    except (ValueError, TypeError) as error:
        raise BackboneError(
            f"'{file}' can't take images of {size_px} pixels ({first_line(error)}). Give the size "
            "of its training with --image-size."
        ) from error


def _preprocessing(network: UnrolledNetwork, file: Path, asked: str | None) -> str:
    """Return what has to be done to pixels before the network sees them."""
    pixels = range_of_pixels(network)
    if is_scaled(pixels):
        if asked not in (None, "none"):
            raise UsageError(
                f"'{file}' scales its pixels itself, and --preprocessing {asked} would do it "
                "again. Leave it out."
            )
        return "none"
    if asked is not None:
        return asked
    low, high = pixels
    made = "" if pixels == AS_THEY_ARE else f" (of 0 to 255 it makes {low:.4g} to {high:.4g})"
    raise UsageError(
        f"'{file}' does not scale its pixels itself{made}, and does not say how its training did. "
        "Say it with --preprocessing: tf (-1 to 1), unit (0 to 1), torch (0 to 1, then "
        "standardised), caffe (BGR, less the mean) or none (0 to 255)."
        f"{_hint(network)}"
    )


def _hint(network: UnrolledNetwork) -> str:
    """Say which preprocessing belongs to a network of Keras that is a part of this one."""
    for path in network.layer_paths:
        name = path.rpartition("/")[2].replace("_", "").lower()
        rows = [row for row in CATALOGUE.values() if name.startswith(row.constructor.lower())]
        if rows:
            row = max(rows, key=lambda row: len(row.constructor))
            return f" Keras' own preprocess_input for '{path}' is {row.preprocessing}."
    return ""


def _embedding(
    network: UnrolledNetwork, file: Path, settings: BackboneSettings, has_top: bool
) -> tuple[Any, str]:
    """Return the tensor to embed with, and what it is."""
    if settings.layer != PENULTIMATE:
        return _output_of(network, file, str(settings.layer)), f"layer '{settings.layer}'"
    if not has_top:
        return network.outputs[0], "its output"
    if len(network.outputs) != 1:
        raise UsageError(
            f"'{file}' has {len(network.outputs)} outputs. Say with --layer which layer embeds; "
            f"its last ones are {listed(network.layer_paths[-5:])}."
        )
    ending = find_ending(network)
    if ending is None:
        raise UsageError(
            f"'{file}' ends in {_last_kinds(network)}, which tells no classifier (a dense layer or "
            "a 1x1 convolution) and no embedding. Say with --layer which layer embeds; its last "
            f"ones are {listed(network.layer_paths[-5:])}."
        )
    return ending.embedding, _described(ending)


def _output_of(network: UnrolledNetwork, file: Path, name: str) -> Any:
    paths = network.layer_paths
    found = [path for path in paths if path == name or path.endswith(f"/{name}")]
    if not found:
        raise UsageError(
            f"'{file}' has no layer '{name}'.{did_you_mean(name, paths)} Its last ones are "
            f"{listed(paths[-5:])}."
        )
    if len(found) > 1:
        raise UsageError(
            f"'{file}' has {len(found)} layers '{name}': {listed(found)}. Give one as it is here."
        )
    outputs = network.outputs_of(found[0])
    if [len(given) for given in outputs] != [1]:
        raise UsageError(
            f"Layer '{name}' of '{file}' gives {sum(map(len, outputs))} tensors, and an embedding "
            "is one. Name another."
        )
    return outputs[0][0]


def _described(ending: Ending) -> str:
    if ending.classifier is None:
        return "its output, for it has no top"
    kind = "dense layer" if ending.classifier.kind == "Dense" else "1x1 convolution"
    return f"what enters its classifier, the {kind} '{ending.classifier.path}'"


def _last_kinds(network: UnrolledNetwork) -> str:
    return " and ".join(call.kind for call in network.calls[-2:])
