"""Where the top of a network begins that is in no catalogue."""

from dataclasses import dataclass
from math import prod
from typing import Any

from twostage.backbones.unrolling import Call, UnrolledNetwork

_FLATTENING = {"Flatten", "Reshape", "Squeeze", "Permute"}
_POOLING = {
    *(f"Global{how}Pooling2D" for how in ("Average", "Max")),
    *(f"{how}Pooling2D" for how in ("Average", "Max")),
    "Mean",
    "Max",
}
_NORMALISING = {
    "BatchNormalization",
    "LayerNormalization",
    "GroupNormalization",
    "UnitNormalization",
    "Normalize",
}
_CASTING = {"Cast"}
_ACTIVATING = {
    "Activation",
    "Softmax",
    "LogSoftmax",
    "Sigmoid",
    "ReLU",
    "Relu",
    "LeakyReLU",
    "PReLU",
    "ELU",
    "Gelu",
    "Silu",
    "HardSilu",
    "Tanh",
}
_AFTER_A_CLASSIFIER = _FLATTENING | _POOLING | _NORMALISING | _CASTING | _ACTIVATING
_OF_CLASSES = {"softmax", "logsoftmax", "sigmoid"}
_OF_HIDDEN_LAYERS = {
    *("relu", "relu6", "leakyrelu", "prelu", "elu", "selu", "celu", "gelu"),
    *("silu", "swish", "hardsilu", "hardswish", "mish"),
}


@dataclass(frozen=True)
class Ending:
    """How a network ends.

    Attributes
    ----------
    embedding : KerasTensor
        What enters the classifier, or the output where there is none.
    classifier : Call or None
        The last dense layer or 1x1 convolution; None where the network was saved without top.
    """

    embedding: Any
    classifier: Call | None


def find_ending(network: UnrolledNetwork) -> Ending | None:
    """Tell how a network ends; None if that is not clear.

    The classifier is the last dense layer or 1x1 convolution, with nothing after it but
    activations, pooling and changes of shape: the one way to the output leads through it. A
    squeeze-and-excite block, or a hidden layer, has other layers after it. A network has no top if
    what it ends in is not for classes: a feature map, or a vector that was pooled, normalised, or
    activated as hidden layers are.
    """
    (output,) = network.outputs
    tail, last = _walk_back(network, output)
    activation = _last_activation(tail, last)
    is_for_classes = activation in _OF_CLASSES
    is_normed = any(call.kind in _NORMALISING for call in tail)
    is_map = _n_pixels(output) > 1
    if last is not None and _is_dense(last) and not is_normed and not is_map:
        is_pooled = next((call.kind in _POOLING for call in tail if _computes(call)), False)
        is_alone = last.outputs[0].shape[-1] == 1  # a single number is no embedding
        if is_for_classes or is_alone or (activation is None and not is_pooled):
            return Ending(last.inputs[0], last)
    if is_for_classes:
        return None
    has_had_a_map = any(_n_pixels(call.inputs[0]) > 1 for call in tail)
    is_vector_of_features = activation in _OF_HIDDEN_LAYERS or is_normed or activation is None
    is_from_features = has_had_a_map or (last is not None and _is_dense(last))
    if is_map or (is_vector_of_features and is_from_features):
        return Ending(output, None)
    return None


def _walk_back(network: UnrolledNetwork, tensor: Any) -> tuple[list[Call], Call | None]:
    """Return the calls that may follow a classifier, last first, and the one before them."""
    tail: list[Call] = []
    call = network.maker(tensor)
    while call is not None and call.kind in _AFTER_A_CLASSIFIER:
        tail.append(call)
        call = network.maker(call.inputs[0])
    return tail, call


def _last_activation(tail: list[Call], last: Call | None) -> str | None:
    """Return the name of the last activation, in small letters; None if there is none."""
    names = (_activation_of(call) for call in [*tail, *([last] if last else [])])
    return next((name for name in names if name is not None), None)


def _activation_of(call: Call) -> str | None:
    activation = getattr(call.layer, "activation", None)
    if activation is not None:
        name = getattr(activation, "__name__", type(activation).__name__)
    elif call.kind in _ACTIVATING:
        name = call.kind
    else:
        return None
    name = name.lower().replace("_", "")
    return None if name == "linear" else name


def _is_dense(call: Call) -> bool:
    """Whether it is a dense layer or a 1x1 convolution."""
    if call.kind == "Dense":
        return True
    is_convolution = call.kind == "Conv2D" and call.layer.groups == 1
    return is_convolution and tuple(call.layer.kernel_size) == (1, 1)


def _n_pixels(tensor: Any) -> int:
    """Return height times width of a feature map; 1 of a vector."""
    return prod(tensor.shape[1:3]) if len(tensor.shape) == 4 else 1


def _computes(call: Call) -> bool:
    return call.kind not in _FLATTENING | _CASTING
