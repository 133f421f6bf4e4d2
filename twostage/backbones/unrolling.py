"""A network as a flat list of calls, whatever models are nested in it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from twostage.backbones.quiet_keras import keras
from twostage.fingerprint import hash_json, hash_weights

# Layers that hand on what they get, except in training. Tests hold Keras to it.
IDLE_IN_INFERENCE = frozenset(
    {
        *("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise"),
        *("Identity", "SpatialDropout2D", "StochasticDepth"),
        *("AugMix", "CutMix", "MixUp", "RandAugment", "RandomBrightness"),
        *(
            "RandomColorDegeneration",
            "RandomColorJitter",
            "RandomContrast",
            "RandomElasticTransform",
        ),
        *("RandomErasing", "RandomFlip", "RandomGaussianBlur", "RandomGrayscale", "RandomHue"),
        *("RandomInvert", "RandomPerspective", "RandomPosterization", "RandomRotation"),
        *("RandomSaturation", "RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom"),
    }
)
# What of a layer's settings does not change what it computes.
_IDLE_SETTINGS = ("name", "module", "build_config", "trainable")
_IDLE_ENDINGS = ("_initializer", "_regularizer", "_constraint")


@dataclass(frozen=True, eq=False)
class Call:
    """One use of a layer.

    Attributes
    ----------
    path : str
        Name of the layer, after the names of the models that it is nested in, joined by ``/``.
    layer : keras.Layer or keras.Operation
        What was called.
    arguments : tuple of (list, dict)
        What it was called with.
    outputs : list of KerasTensor
        What it gave.
    """

    path: str
    layer: Any
    arguments: tuple[Sequence[Any], dict[str, Any]]
    outputs: list[Any]

    @property
    def kind(self) -> str:
        """Name of the layer's class."""
        return type(self.layer).__name__

    @property
    def inputs(self) -> list[Any]:
        """The tensors among the arguments."""
        return _tensors(self.arguments)


class UnrolledNetwork:
    """A network whose layers were called one by one on images of one size, for inference.

    Layers that are idle in inference are left out: augmentation, dropout.

    Parameters
    ----------
    model : keras.Model
        A Sequential or Functional model, with any nested in it, of one input.
    size_px : int
        Height and width of the images.

    Attributes
    ----------
    input : KerasTensor
        Pixels, float32.
    outputs : list of KerasTensor
        What the network gives.
    calls : list of Call
        In an order in which they can be made.
    """

    def __init__(self, model: Any, size_px: int):
        self.input = keras.Input((size_px, size_px, 3))
        self.calls: list[Call] = []
        self._outputs_of: dict[str, list[list[Any]]] = {}
        self._maker: dict[int, Call] = {}
        self._layer_named: dict[str, Any] = {}
        self.outputs = _tensors(self._run(model, [self.input], ""))

    @property
    def layer_paths(self) -> list[str]:
        """Paths of all layers and nested models."""
        return list(self._outputs_of)

    def maker(self, tensor: Any) -> Call | None:
        """Return the call that gave a tensor; None for the input."""
        return self._maker.get(id(tensor))

    def outputs_of(self, path: str) -> list[list[Any]]:
        """Return what a layer or nested model gave, each time that it was called."""
        return self._outputs_of[path]

    def calls_for(self, tensor: Any) -> list[Call]:
        """Return the calls that a tensor needs, in order."""
        needed, found = {id(tensor)}, []
        for call in reversed(self.calls):
            if any(id(output) in needed for output in call.outputs):
                needed.update(map(id, call.inputs))
                found.append(call)
        return found[::-1]

    def graph_digest(self, tensor: Any) -> str:
        """Return the digest of what is computed up to a tensor, but for weights and names."""
        reference = {id(self.input): "input"}
        record = []
        for number, call in enumerate(self.calls_for(tensor)):
            arguments = keras.tree.map_structure(
                lambda value: reference.get(id(value)) or _plain(value), call.arguments
            )
            record.append([call.kind, _settings(_plain(call.layer)), arguments])
            for position, output in enumerate(call.outputs):
                reference[id(output)] = f"{number}:{position}"
        return hash_json([record, reference[id(tensor)]])

    def weights_digest(self, tensor: Any) -> str:
        """Return the digest of the weights that a tensor needs, whatever they are named."""
        layers = {id(call.layer): call.layer for call in self.calls_for(tensor)}
        return hash_weights(
            (f"{number}/{weight.name}", np.asarray(keras.ops.convert_to_numpy(weight)))
            for number, layer in enumerate(layers.values())
            for weight in getattr(layer, "weights", ())
        )

    def _run(self, model: Any, inputs: Sequence[Any], prefix: str) -> Any:
        """Call the layers of a model on tensors, and return its outputs."""
        if isinstance(model, keras.Sequential):
            (tensor,) = inputs
            for layer in model.layers:
                tensor = self._call(layer, prefix, (tensor,), {})
            return tensor
        # Keras hands out a model's calls only as it copies it: ours go along with the copy's.
        stand_ins = keras.tree.map_structure(
            lambda given: keras.Input(batch_shape=given.shape, dtype=given.dtype), model.input
        )
        ours = dict(zip(map(id, _tensors(stand_ins)), inputs, strict=True))

        def along(layer: Any, *args: Any, **kwargs: Any) -> Any:
            copied = layer(*args, **kwargs)
            given, named = keras.tree.map_structure(
                lambda value: ours.get(id(value), value), (args, kwargs)
            )
            outputs = self._call(layer, prefix, given, named)
            ours.update(zip(map(id, _tensors(copied)), _tensors(outputs), strict=True))
            return copied

        copy = keras.models.clone_model(
            model, stand_ins, clone_function=lambda layer: layer, call_function=along
        )
        return keras.tree.map_structure(lambda output: ours[id(output)], copy.output)

    def _call(self, layer: Any, prefix: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Call a layer or, one by one, the layers of a nested model."""
        path = prefix + layer.name
        given = _tensors((args, kwargs))
        if is_graph(layer):
            outputs = self._run(layer, given, f"{path}/")
        elif type(layer).__name__ in IDLE_IN_INFERENCE:
            (outputs,) = given
        else:
            outputs = self._under_its_own_name(layer, path)(*args, **kwargs)
            call = Call(path, layer, (args, kwargs), _tensors(outputs))
            self.calls.append(call)
            self._maker.update({id(output): call for output in call.outputs})
        self._outputs_of.setdefault(path, []).append(_tensors(outputs))
        return outputs

    def _under_its_own_name(self, layer: Any, path: str) -> Any:
        """Return the layer, renamed if another layer has its name: Keras refuses two."""
        name = layer.name
        while self._layer_named.setdefault(name, layer) is not layer:
            name = path.replace("/", ".") if name == layer.name != path else f"{name}_"
        layer.name = name
        return layer


def is_graph(layer: Any) -> bool:
    """Whether it is a model whose layers can be told: Sequential, or Functional."""
    return isinstance(layer, keras.Sequential) or type(layer).__name__ == "Functional"


def _tensors(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, keras.KerasTensor)]


def _plain(value: Any) -> Any:
    """Return a layer or an argument as plain values."""
    return keras.saving.serialize_keras_object(value)


def _settings(record: Any) -> Any:
    """Return of a layer's record what changes what it computes.

    What is not set is left out: a later Keras may know more settings.
    """
    if isinstance(record, list):
        return [_settings(item) for item in record]
    if not isinstance(record, dict):
        return record
    if record.get("class_name") == "DTypePolicy":
        return record["config"]["name"]
    return {
        key: _settings(value)
        for key, value in record.items()
        if value is not None and key not in _IDLE_SETTINGS and not key.endswith(_IDLE_ENDINGS)
    }
