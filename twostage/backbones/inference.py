"""A network as one forward needs it: batch norm inside the convolutions, layers in a precision.

By Keras' own means, so that every backend profits: TensorFlow's graph would fold most of it by
itself, JAX and PyTorch would not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twostage.backbones.engines import N_FIRST_IN_FLOAT32
from twostage.backbones.quiet_keras import keras
from twostage.errors import VariantError


@dataclass(frozen=True)
class _Call:
    """One use of a layer in a network.

    Attributes
    ----------
    layer : keras.Operation
        A layer, or an operation without weights.
    inputs, outputs : list of keras.KerasTensor
        What goes in and comes out.
    """

    layer: Any
    inputs: list[Any]
    outputs: list[Any]


def for_inference(model: Any, precision: str) -> Any:
    """Return a network that computes the same embeddings, faster.

    Parameters
    ----------
    model : keras.Model
        From uint8 pixels of shape (n, size, size, 3) to float32 embeddings of shape (n, dim). Stays
        as it is; what does not change is shared with it.
    precision : {"float32", "bfloat16", "float16"}
        What the layers compute in. Preprocessing and the layer that makes the embedding stay in
        float32; of a network with depthwise convolutions, in bfloat16, also the first convolutions
        of each kind, as in OpenVINO's engine: their rounding does the most harm.

    Returns
    -------
    keras.Model
        With the same input and output.

    Raises
    ------
    VariantError
        If a layer can't be made anew in another precision.
    """
    calls = _calls_of(model)
    folds = _folds(calls)
    kept = {id(layer) for layer in _kept_in_float32(calls, precision)}
    copies: list[tuple[Any, Any]] = []

    def rebuilt(layer: Any) -> Any:
        changes: dict[str, Any] = {"use_bias": True} if id(layer) in folds else {}
        if precision != "float32" and id(layer) not in kept and _is_layer(layer):
            changes["dtype"] = f"mixed_{precision}"
        if not changes:
            return layer
        copies.append((layer, _copy(layer, changes)))
        return copies[-1][1]

    norms = {id(norm) for norm in folds.values()}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if id(layer) in norms else layer(*args, **kwargs)

    def not_norms(layer: Any) -> Any:
        return layer if id(layer) in norms else rebuilt(layer)

    network = keras.models.clone_model(
        model, clone_function=not_norms, call_function=call, recursive=True
    )
    for layer, copy in copies:
        _set_weights(copy, _folded(layer, folds.get(id(layer))))
    if network.output.dtype != "float32":
        network = keras.Model(network.input, keras.ops.cast(network.output, "float32"))
    return network


def foldable_norms(model: Any) -> dict[int, Any]:
    """Return, by the id of a convolution, the batch norm that is all that follows it."""
    return _folds(_calls_of(model))


def _calls_of(model: Any) -> list[_Call]:
    """Return every use of a layer, those of nested networks too, in the order of computation."""
    calls = []

    def record(layer: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = layer(*args, **kwargs)
        if not isinstance(layer, keras.Model):
            calls.append(_Call(layer, _tensors((args, kwargs)), _tensors(outputs)))
        return outputs

    keras.models.clone_model(
        model, clone_function=lambda layer: layer, call_function=record, recursive=True
    )
    return calls


def _tensors(structure: Any) -> list[Any]:
    leaves = keras.tree.flatten(structure)
    return [leaf for leaf in leaves if isinstance(leaf, keras.KerasTensor)]


def _folds(calls: Sequence[_Call]) -> dict[int, Any]:
    """Return, by the id of a convolution, the batch norm that is all that follows it."""
    n_calls = Counter(id(call.layer) for call in calls)
    n_uses = Counter(id(tensor) for call in calls for tensor in call.inputs)
    made_by = {id(tensor): call.layer for call in calls for tensor in call.outputs}
    folds = {}
    for call in calls:
        if type(call.layer) is not keras.layers.BatchNormalization or len(call.inputs) != 1:
            continue
        before = made_by.get(id(call.inputs[0]))
        is_only_use = n_uses[id(call.inputs[0])] == n_calls[id(call.layer)] == 1
        if is_only_use and n_calls[id(before)] == 1 and _can_take(before, call.layer):
            folds[id(before)] = call.layer
    return folds


def _can_take(layer: Any, norm: Any) -> bool:
    """Whether a batch norm can be a part of the layer before it."""
    layers = keras.layers
    if type(layer) not in (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D):
        return False
    is_last_axis = norm.axis in (-1, 3) and layer.data_format == "channels_last"
    return is_last_axis and layer.activation is keras.activations.linear


def _kept_in_float32(calls: Sequence[_Call], precision: str) -> list[Any]:
    """Return the layers that do not compute in a reduced precision."""
    used = [call.layer for call in calls if _is_layer(call.layer)]
    dense = [i for i, layer in enumerate(used) if type(layer) is keras.layers.Conv2D]
    depthwise = [layer for layer in used if isinstance(layer, keras.layers.DepthwiseConv2D)]
    if not dense:
        return used[-1:]
    if not depthwise or precision != "bfloat16":
        return [*used[: dense[0]], used[-1]]
    first = [used[i] for i in dense[:N_FIRST_IN_FLOAT32]]
    return [*used[: dense[0]], *first, *depthwise[:N_FIRST_IN_FLOAT32], used[-1]]


def _is_layer(layer: Any) -> bool:
    return isinstance(layer, keras.layers.Layer)


def _copy(layer: Any, changes: dict[str, Any]) -> Any:
    try:
        return type(layer).from_config(layer.get_config() | changes)
    except (NotImplementedError, TypeError, ValueError) as error:
        raise VariantError(
            f"--precision {str(changes.get('dtype')).removeprefix('mixed_')}",
            f"the layer '{layer.name}' can't be made anew in it",
            "Use --precision float32.",
        ) from error


def _set_weights(layer: Any, values: list[np.ndarray]) -> None:
    layer.set_weights(values)
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()  # it computes with copies that set_weights leaves as they were


def _folded(layer: Any, norm: Any | None) -> list[np.ndarray]:
    """Return a layer's weights: the last kernel scaled, and a bias, where a batch norm follows."""
    weights: list[np.ndarray] = layer.get_weights()
    if norm is None:
        return weights
    kernels = weights[:-1] if layer.use_bias else weights
    bias = weights[-1].astype(np.float64) if layer.use_bias else 0.0
    mean, variance = (_values(v) for v in (norm.moving_mean, norm.moving_variance))
    scale = (_values(norm.gamma) if norm.scale else 1.0) / np.sqrt(variance + norm.epsilon)
    shift = (_values(norm.beta) if norm.center else 0.0) + (bias - mean) * scale
    kernel = kernels[-1]
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        scale = scale.reshape(kernel.shape[2:])  # an output channel per input and multiplier
    scaled = kernel * scale
    return [*kernels[:-1], scaled.astype(np.float32), shift.astype(np.float32)]


def _values(variable: Any) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
