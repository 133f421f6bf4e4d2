"""What executes a backbone, and at which precision: decided once, from what the machine has."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Protocol

import numpy as np

from twostage.backbones.backend import current_backend
from twostage.backbones.spec import AUTO, BackboneSpec
from twostage.errors import VariantError

# Where bfloat16 was measured on real photos with ImageNet weights to keep the direction of
# embeddings: a median cosine to float32 of at least .998, and none below .99. See docs/engines.md.
FAITHFUL_IN_BFLOAT16 = frozenset({"mobilenet_v2"})
# Convolutions of each kind, dense and depthwise, that stay in float32 where the others compute in
# bfloat16, in networks that have both: what rounding does to the first ones does the harm.
N_FIRST_IN_FLOAT32 = 3

# The CUDA compute capability from which a GPU has it in hardware: Ampere's, and Volta's. What is
# measured on a CPU says nothing of a GPU's: there, "auto" stays with float32.
_LEAST_CAPABILITY = {"bfloat16": (8, 0), "float16": (7, 0)}
REDUCED = tuple(_LEAST_CAPABILITY)


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
    gpu_capability: tuple[int, int] | None = None,
) -> Variant:
    """Choose engine and precision, where they are left open.

    Parameters
    ----------
    engine : {"auto", "keras", "openvino"} or None
        None stands for "auto": OpenVINO on a CPU, if it is installed, else Keras.
    precision : {"auto", "float32", "bfloat16", "float16"} or None
        None stands for "auto": on a CPU, bfloat16 where the processor has it and the architecture
        was shown to keep its embeddings; else float32.
    architecture : str
        Name in the catalogue.
    is_on_gpu : bool
        Whether the backbone runs on a GPU.
    has_native_bfloat16 : callable
        Whether the processor computes in bfloat16; called only where OpenVINO is.
    gpu_capability : tuple of int, optional
        CUDA compute capability of the GPU, major and minor; None if it is not known.

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
        is_openvino = has_openvino and not is_on_gpu and _can_convert()
        engine = "openvino" if is_openvino else "keras"
    why_not = _why_not(str(engine), is_on_gpu, gpu_capability, has_native_bfloat16)
    if precision in REDUCED and (reason := why_not(str(precision))) is not None:
        others = [name for name in REDUCED if name != precision and why_not(name) is None]
        fix = f"Use --precision {' or '.join([*others, 'float32'])}."
        raise VariantError(f"--precision {precision}", reason, fix)
    if precision in (None, AUTO):
        is_faithful = not is_on_gpu and architecture in FAITHFUL_IN_BFLOAT16
        precision = "bfloat16" if is_faithful and why_not("bfloat16") is None else "float32"
    return Variant(str(engine), str(precision))


def _can_convert() -> bool:
    """Whether Keras can write a network for OpenVINO: it goes by TensorFlow, and not by PyTorch."""
    return find_spec("tensorflow") is not None and current_backend() != "torch"


def _why_not(
    engine: str,
    is_on_gpu: bool,
    gpu_capability: tuple[int, int] | None,
    has_native_bfloat16: Callable[[], bool],
) -> Callable[[str], str | None]:
    """Return what says why a reduced precision is not to be had here; None if it is."""

    def on_gpu(precision: str) -> str | None:
        least = _LEAST_CAPABILITY[precision]
        if gpu_capability is None:
            return "this GPU has no CUDA compute capability to tell whether it has it"
        if gpu_capability < least:
            found = f"this GPU's CUDA compute capability is {_dotted(gpu_capability)}"
            return f"{found}, and {precision} takes {_dotted(least)}"
        return None

    def on_cpu(precision: str) -> str | None:
        if precision == "float16":
            return "only GPUs compute in float16"
        if engine != "openvino":
            return "only --engine openvino computes in bfloat16 on a CPU"
        return None if has_native_bfloat16() else "this processor does not compute in bfloat16"

    return on_gpu if is_on_gpu else on_cpu


def _dotted(capability: tuple[int, int]) -> str:
    return f"{capability[0]}.{capability[1]}"
