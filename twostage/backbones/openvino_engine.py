"""Execute a backbone with OpenVINO: asynchronous requests on CPU streams, uint8 in."""

import os
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import openvino

from twostage.backbones.conversion import MODEL, WEIGHTS
from twostage.backbones.engines import N_FIRST_IN_FLOAT32
from twostage.backbones.spec import BackboneSpec

_BATCH_SIZE = 4  # activations of so few images stay in the processor's cache
_IN_FLOAT32 = {"name": "precise", "version": "0"}


def has_native_bfloat16() -> bool:
    """Whether the processor has instructions for bfloat16 (AVX512-BF16 or AMX)."""
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "BF16" in capabilities


class OpenVINOEngine:
    """A converted network, compiled for this processor.

    Parameters
    ----------
    spec : BackboneSpec
        What it is; its precision decides how it is compiled.
    folder : path
        Where the converted network is; see `twostage.backbones.conversion`.
    batch_size : int, optional
        4 if None.
    """

    def __init__(self, spec: BackboneSpec, folder: Path, batch_size: int | None = None):
        self.spec = spec
        self.name = "openvino"
        self.is_on_cpu = True
        self.batch_size = batch_size or _BATCH_SIZE
        core = openvino.Core()
        model = _read(core, folder, spec.precision)
        model.reshape([self.batch_size, spec.input_size_px, spec.input_size_px, 3])
        n_threads = joblib.cpu_count()
        options = {
            "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[spec.precision],
            "NUM_STREAMS": str(n_threads),
            "INFERENCE_NUM_THREADS": str(n_threads),
            # Processes that share a machine would all bind their threads to its first cores.
            "ENABLE_CPU_PINNING": "YES" if n_threads == os.cpu_count() else "NO",
        }
        self._compiled = core.compile_model(model, "CPU", options)
        self._n_in_flight = n_threads + 1  # one waits, so that no stream does

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Embed batches; see `Engine.run`. Each is filled up to the batch size."""
        free = [_Request(self._compiled) for _ in range(self._n_in_flight)]
        waiting: deque[_Request] = deque()
        try:
            for batch in batches:
                if not free:
                    done = waiting.popleft()
                    yield done.result()
                    free.append(done)
                request = free.pop()
                request.start(batch)
                waiting.append(request)
            while waiting:
                yield waiting.popleft().result()
        finally:
            for request in waiting:
                request.abandon()


class _Request:
    """One request, whose input buffer is its own: OpenVINO would write into the caller's."""

    def __init__(self, compiled: Any):
        self._request = compiled.create_infer_request()
        self._pixels = self._request.get_input_tensor().data
        self._n = 0

    def start(self, batch: np.ndarray) -> None:
        self._n = len(batch)
        self._pixels[: self._n] = batch
        self._pixels[self._n :] = 0
        self._request.start_async()

    def result(self) -> np.ndarray:
        self._request.wait()
        embeddings: np.ndarray = self._request.get_output_tensor().data[: self._n].copy()
        return embeddings

    def abandon(self) -> None:
        """Wait for what is under way: a request must not be freed before."""
        self._request.wait()


def _read(core: openvino.Core, folder: Path, precision: str) -> openvino.Model:
    """Read the network; for bfloat16, mark what has to stay in float32."""
    if precision == "float32":
        return core.read_model(folder / MODEL, folder / WEIGHTS)
    tree = ET.parse(folder / MODEL)
    for layer in _kept_in_float32(tree.getroot().findall("layers/layer")):
        _mark(layer)
    weights = np.fromfile(folder / WEIGHTS, np.uint8)
    return core.read_model(ET.tostring(tree.getroot()), openvino.Tensor(weights))


def _kept_in_float32(layers: Sequence[ET.Element]) -> list[ET.Element]:
    """Choose the layers whose rounding harms embeddings most: the first of each kind.

    Their errors go through the whole network, and depthwise convolutions sum few products, of
    values that range widely from channel to channel. Measured by benchmarks/fidelity.py; networks
    without depthwise convolutions were not.
    """
    depthwise, dense = _convolutions(layers, "GroupConvolution"), _convolutions(layers)
    return [*depthwise[:N_FIRST_IN_FLOAT32], *dense[:N_FIRST_IN_FLOAT32]] if depthwise else []


def _convolutions(layers: Sequence[ET.Element], kind: str = "Convolution") -> list[ET.Element]:
    return [layer for layer in layers if layer.get("type") == kind]


def _mark(layer: ET.Element) -> None:
    """Tell OpenVINO to compute a layer in float32."""
    notes = layer.find("rt_info")
    if notes is None:
        notes = ET.Element("rt_info")
        layer.insert(1 if layer.find("data") is not None else 0, notes)
    ET.SubElement(notes, "attribute", _IN_FLOAT32)
