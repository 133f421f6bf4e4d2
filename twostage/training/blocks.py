"""A network as a row of blocks: what may be frozen, and what is trained."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from twostage.backbones.quiet_keras import keras
from twostage.backbones.unrolling import Call, UnrolledNetwork
from twostage.errors import UsageError, did_you_mean, listed
from twostage.training.settings import ALL

# What the layers of a block have in common: block_13_expand, conv5_block3_2_conv, conv_pw_13_bn.
_NUMBERED = (
    re.compile(r"(.*?block_?\d+[a-z]?)(?=[_/]|$)"),
    re.compile(r"((?:expanded_)?conv(?:_dw|_pw)?_?\d+|expanded_conv)(?=[_/]|$)"),
)


@dataclass(frozen=True)
class Block:
    """Layers between two points of a network that all its branches meet at.

    Attributes
    ----------
    name : str
        What the names of its layers have in common; or the name of its first one with weights.
    entry : KerasTensor
        The one tensor that enters it.
    layers : tuple of keras.Layer
        Those with weights.
    """

    name: str
    entry: Any
    layers: tuple[Any, ...]


class BlockedNetwork:
    """A network without its top, in blocks.

    Parameters
    ----------
    model : keras.Model
        From preprocessed pixels of shape (n, size, size, 3) to embeddings of shape (n, dim).

    Attributes
    ----------
    blocks : list of Block
        From the pixels on. All weights are in one of them.
    """

    def __init__(self, model: Any):
        self._network = UnrolledNetwork(model, int(model.input.shape[1]))
        (self._embedding,) = self._network.outputs
        calls = self._network.calls_for(self._embedding)
        self.blocks = _blocks(calls, self._network.input, self._embedding)

    def first_trained(self, unfreeze: str | int) -> int:
        """Return the number of the first block to train.

        Parameters
        ----------
        unfreeze : int or str
            How many blocks, counted from the end; "all"; or the name of the first one.

        Raises
        ------
        UsageError
            If there are not so many, or none of that name.
        """
        if unfreeze == ALL:
            return 0
        names = [block.name for block in self.blocks]
        if str(unfreeze).isdecimal():
            if not 1 <= int(unfreeze) <= len(names):
                raise UsageError(
                    f"The backbone has {len(names)} blocks; asked to train {unfreeze}. Give 1 to "
                    f"{len(names)}, 'all', or a block's name: its last ones are "
                    f"{listed(names[-5:])}."
                )
            return len(names) - int(unfreeze)
        if unfreeze in names:
            return names.index(str(unfreeze))
        for number, block in enumerate(self.blocks):
            if any(layer.name == unfreeze for layer in block.layers):
                return number
        raise UsageError(
            f"The backbone has no block '{unfreeze}'.{did_you_mean(str(unfreeze), names)} Its last "
            f"ones are {listed(names[-5:])}."
        )

    def frozen_part(self, first: int) -> Any:
        """Return the model from preprocessed pixels to what enters a block."""
        return keras.Model(self._network.input, self.blocks[first].entry)

    def trained_part(self, first: int) -> Any:
        """Return the model from what enters a block to the embedding."""
        return keras.Model(self.blocks[first].entry, self._embedding)


def _blocks(calls: Sequence[Call], pixels: Any, embedding: Any) -> list[Block]:
    """Cut calls where all branches meet, and where the names say that something new begins."""
    blocks: list[Block] = []
    current: list[Call] = []  # with weights, since the last cut
    key: str | None = None
    entry = cut = pixels
    points = _without_shared(calls, _meeting_points(calls, pixels, embedding))
    for call, met in zip(calls, points, strict=True):
        if _has_weights(call.layer):
            own = _key(call)
            is_new = own != key if own else _has_kernel(call.layer)
            if current and cut is not None and is_new:
                blocks.append(_block(len(blocks), current, entry))
                current, entry = [], cut
            current.append(call)
            key, cut = own or key, None
        if met is not None and current and (cut is None or size_of(met) <= size_of(cut)):
            cut = met
    return [*blocks, _block(len(blocks), current, entry)]


def _meeting_points(calls: Sequence[Call], pixels: Any, embedding: Any) -> list[Any | None]:
    """Return, after each call, the tensor that all the rest is computed from, if it is one."""
    last_use = {id(tensor): number for number, call in enumerate(calls) for tensor in call.inputs}
    last_use[id(embedding)] = len(calls)
    alive = {id(pixels): pixels}
    points: list[Any | None] = []
    for number, call in enumerate(calls):
        alive |= {id(output): output for output in call.outputs}
        alive = {key: one for key, one in alive.items() if last_use.get(key, -1) > number}
        points.append(next(iter(alive.values())) if len(alive) == 1 else None)
    return points


def _without_shared(calls: Sequence[Call], points: Sequence[Any | None]) -> list[Any | None]:
    """Leave out the points between two uses of a layer: its weights can't be frozen and trained."""
    last_use = {id(call.layer): number for number, call in enumerate(calls)}
    kept: list[Any | None] = []
    until = 0
    for number, (call, point) in enumerate(zip(calls, points, strict=True)):
        if _has_weights(call.layer):
            until = max(until, last_use[id(call.layer)])
        kept.append(point if number >= until else None)
    return kept


def _block(number: int, calls: Sequence[Call], entry: Any) -> Block:
    layers = {id(call.layer): call.layer for call in calls}
    names = [_key(call) or call.path for call in calls if not _is_counted(call)]
    return Block(names[0] if names else f"part_{number}", entry, tuple(layers.values()))


def _key(call: Call) -> str | None:
    """Return what a layer's name has in common with others of its block, if anything."""
    found = (pattern.match(call.path) for pattern in _NUMBERED)
    return next((match[1] for match in found if match), None)


def _is_counted(call: Call) -> bool:
    """Whether Keras made the layer's name, by counting."""
    name = call.path.split("/")[-1].replace("_", "")
    return name.rstrip("0123456789") == call.kind.lower().rstrip("0123456789")


def _has_weights(layer: Any) -> bool:
    return bool(getattr(layer, "weights", ()))


def _has_kernel(layer: Any) -> bool:
    """Whether a layer does more than to scale and shift."""
    return any(len(weight.shape) > 1 for weight in layer.weights)


def size_of(tensor: Any) -> int:
    """Return how many numbers a tensor holds for an image."""
    return prod(int(side) for side in tensor.shape[1:])
