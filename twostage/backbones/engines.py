"""What executes a backbone, and at which precision: decided once, from what the machine has."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from twostage.backbones.spec import AUTO, BackboneSpec
from twostage.errors import VariantError

# Where bfloat16 was measured on real photos with ImageNet weights to keep the direction of
# embeddings: a median cosine to float32 of at least .998, and none below .99. See docs/engines.md.
FAITHFUL_IN_BFLOAT16 = frozenset({"mobilenet_v2"})


class Engine(Protocol):
    """Executes a backbone.

    Attributes
    ----------
    spec : BackboneSpec
        What it executes, and how.
    name : str
        For people: "openvino", or what Keras runs on.
    is_on_cpu : bool
        Whether it runs on the cores that decode.
    batch_size : int
        Images that it likes to get at once.
    """

    spec: BackboneSpec
    name: str
    is_on_cpu: bool
    batch_size: int

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Embed batches of uint8 pixels, of shape (n, size, size, 3).

        It may take several batches before it gives the first embeddings back: pixels of later
        batches are made while earlier ones are embedded.

        Yields
        ------
        float32 array of shape (n, dim)
            For each batch, in order.
        """


@dataclass(frozen=True)
class Variant:
    """How a backbone is executed: it changes the last digits of an embedding, not its meaning."""

    engine: str
    precision: str


def choose_variant(
    engine: str | None,
    precision: str | None,
    *,
    architecture: str,
    is_on_gpu: bool,
    has_native_bfloat16: Callable[[], bool],
) -> Variant:
    """Choose engine and precision, where they are left open.

    Parameters
    ----------
    engine : {"auto", "keras", "openvino"} or None
        None stands for "auto": OpenVINO on a CPU, if it is installed, else Keras.
    precision : {"auto", "float32", "bfloat16"} or None
        None stands for "auto": bfloat16 where the processor has it and the architecture was shown
        to keep its embeddings, else float32.
    architecture : str
        Name in the catalogue.
    is_on_gpu : bool
        Whether the backbone runs on a GPU.
    has_native_bfloat16 : callable
        Whether the processor computes in bfloat16; called only where OpenVINO is.

    Raises
    ------
    VariantError
        If what was asked for is not to be had here.
    """
    has_openvino = find_spec("openvino") is not None
    asked = f"--engine {engine}"
    if engine == "openvino" and is_on_gpu:
        raise VariantError(asked, "it runs on CPUs only", "Use --device cpu, or --engine keras.")
    if engine == "openvino" and not has_openvino:
        fix = "Install it with pip install openvino, or use --engine keras."
        raise VariantError(asked, "OpenVINO is not installed", fix)
    if engine in (None, AUTO):
        engine = "openvino" if has_openvino and not is_on_gpu else "keras"
    is_capable = engine == "openvino" and has_native_bfloat16()
    if precision == "bfloat16" and not is_capable:
        is_openvino = engine == "openvino"
        lacking = "this processor does not compute in bfloat16"
        reason = lacking if is_openvino else "only --engine openvino computes in bfloat16"
        raise VariantError("--precision bfloat16", reason, "Use --precision float32.")
    if precision in (None, AUTO):
        is_faithful = architecture in FAITHFUL_IN_BFLOAT16
        precision = "bfloat16" if is_capable and is_faithful else "float32"
    return Variant(str(engine), str(precision))
