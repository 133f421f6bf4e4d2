"""A backbone that is built when it is first needed: a run with nothing to do imports no Keras."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.backbones.tuned import find_tuned
from twostage.contents import IMAGE
from twostage.errors import StoreError, VariantError
from twostage.fingerprint import hash_file
from twostage.seen import SeenRows

if TYPE_CHECKING:
    from twostage.backbones.conversion import Converted
    from twostage.backbones.devices import Device
    from twostage.backbones.engines import Engine, Variant

log = logging.getLogger("twostage")


class LazyBackbone:
    """A backbone as asked for, or as a store or a model has it.

    Parameters
    ----------
    wanted : BackboneSettings or BackboneSpec
        What is asked for. A spec is resolved already: what is built must be the same.
    device : {"auto", "cpu", "gpu"}
        Where it is to run.
    batch_size : int, optional
        Images that go through it at once; what suits the engine if None.

    Attributes
    ----------
    device : str or None
        Description of the device, once the backbone is built.
    seconds_to_build : float
        What that took; 0 as long as it is not built.
    """

    kind = IMAGE

    def __init__(
        self,
        wanted: BackboneSettings | BackboneSpec,
        device: str,
        batch_size: int | None = None,
    ):
        self.device: str | None = None
        self.seconds_to_build = 0.0
        self._settings = BackboneSettings()
        self._expected: BackboneSpec | None = None
        if isinstance(wanted, BackboneSpec):
            self._expected = wanted
        else:
            self._settings = wanted
        self._requested_device = device
        self._batch_size = batch_size
        self._built: Engine | None = None

    @property
    def spec(self) -> BackboneSpec:
        """What it is; builds it, if that is not known yet."""
        return self._expected or self.get().spec

    def expect(self, spec: BackboneSpec) -> None:
        """Go on with the backbone of a store.

        Raises
        ------
        StoreError
            If something else was asked for; it says what differs.
        """
        if self._expected is not None:
            _refuse(spec.differences(self._expected))
            mine = self._expected  # a model brings its file along; the cache's may be gone
            spec = replace(spec, weights=mine.weights, weights_file_hash=mine.weights_file_hash)
        _refuse(spec.conflicts(self._settings))
        self._expected = spec
        if not spec.knows_weights_file(self._settings):
            self.get()

    def get(self) -> "Engine":
        """Return the backbone, built at the first call."""
        if self._built is None:
            started_s = time.perf_counter()
            self._built, self.device = self._build()
            self.seconds_to_build = time.perf_counter() - started_s
            log.info("%s runs on %s.", self._built.spec.name, self.device)
            if self._expected is not None:
                _refuse(self._expected.differences(self._built.spec))
        return self._built

    def elsewhere(self, device: str) -> "LazyBackbone":
        """Return the very same backbone, not built, for another process or machine."""
        file = self._settings.weights_file
        other = LazyBackbone(self.spec, device, self._batch_size)
        if file is not None:
            other._settings = BackboneSettings(weights=str(file.resolve()))
        return other

    def seen(self) -> SeenRows | None:
        """Return what it was trained on; None if it is as it was published."""
        file = Path(self.spec.weights)
        if not file.is_file() or hash_file(file) != self.spec.weights_file_hash:
            return None  # what another network has seen says nothing
        tuned = find_tuned(file)
        return None if tuned is None else tuned.seen()

    def _build(self) -> "tuple[Engine, str]":
        try:
            return build(self._settings_to_build(), self._requested_device, self._batch_size)
        except VariantError as error:
            if self._expected is None:
                raise
            made_by = f"The embeddings there were made by {self._expected.variant}"
            fix = f"{error.fix} Or give another folder for the store."
            raise VariantError(made_by, error.reason, fix) from error

    def _settings_to_build(self) -> BackboneSettings:
        if self._expected is None:
            return self._settings
        file = self._settings.weights_file
        return self._expected.to_settings(weights=str(file) if file else None)


def runnable(spec: BackboneSpec, device: str) -> BackboneSpec:
    """Return a spec, or its best numeric variant where its own can't run on this machine.

    Embeddings of another variant mean the same, and differ in their last digits: that is told.
    """
    try:
        _choose(spec.architecture, spec.engine, spec.precision, device)
    except VariantError as error:
        variant = _choose(spec.architecture, None, None, device)[1]
        here = replace(spec, engine=variant.engine, precision=variant.precision)
        log.warning(
            "The model's embeddings were made by %s, which can't run here (%s); %s makes these, "
            "which differ a little.",
            spec.variant,
            error.reason,
            here.variant,
        )
        return here
    return spec


def build(settings: BackboneSettings, device: str, batch_size: int | None) -> "tuple[Engine, str]":
    """Build a backbone with Keras, and what executes it; return that and where it runs."""
    settings = settings.with_defaults()
    chosen, variant = _choose(str(settings.backbone), settings.engine, settings.precision, device)
    file = settings.weights_file
    file_hash = hash_file(file) if file else None
    engine = _engine(settings, file_hash, chosen.names, variant, batch_size)
    return engine, f"{engine.name} in {variant.precision} on {chosen.description}"


def _choose(
    architecture: str, engine: str | None, precision: str | None, device: str
) -> "tuple[Device, Variant]":
    """Choose where and how to run an architecture."""
    from twostage.backbones.devices import choose_device
    from twostage.backbones.engines import choose_variant

    runs_on_cpu = engine == "openvino" and device == "auto"
    chosen = choose_device("cpu" if runs_on_cpu else device)
    variant = choose_variant(
        engine,
        precision,
        architecture=architecture,
        is_on_gpu=chosen.is_gpu,
        has_native_bfloat16=_has_native_bfloat16,
        gpu_capability=chosen.capability,
    )
    return chosen, variant


@lru_cache(maxsize=2)
def _engine(
    settings: BackboneSettings,
    weights_file_hash: str | None,
    devices: tuple[str, ...],
    variant: "Variant",
    batch_size: int | None,
) -> "Engine":
    """Build an engine; the last two are kept. The hash of the weights file is a part of the key."""
    if variant.engine == "openvino":
        return _openvino_engine(settings, variant, batch_size)
    from twostage.backbones.keras_engine import KerasEngine
    from twostage.backbones.network import load_network

    network = load_network(settings, devices[0])
    spec = _as_executed(network.spec, settings, variant)
    return KerasEngine(spec, network.model, devices, batch_size)


def _openvino_engine(
    settings: BackboneSettings, variant: "Variant", batch_size: int | None
) -> "Engine":
    """Build an engine of the converted network; without Keras, if it was converted before."""
    from twostage.backbones.conversion import find_converted
    from twostage.backbones.openvino_engine import OpenVINOEngine

    found = find_converted(settings) or _convert(settings)
    return OpenVINOEngine(_as_executed(found.spec, settings, variant), found.folder, batch_size)


def _convert(settings: BackboneSettings) -> "Converted":
    """Convert a network, and see that it computes what it did before."""
    from twostage.backbones.conversion import check_conversion, convert
    from twostage.backbones.network import load_network
    from twostage.backbones.openvino_engine import OpenVINOEngine

    network = load_network(settings, "cpu:0")
    size_px = network.spec.input_size_px
    noise = np.random.default_rng(0).integers(0, 256, (2, size_px, size_px, 3), np.uint8)

    def check(folder: Path) -> None:
        (ours,) = OpenVINOEngine(network.spec, folder, len(noise)).run([noise])
        check_conversion(network.spec, ours, network.embed(noise))

    return convert(settings, network.spec, network.export, check)


def _as_executed(
    spec: BackboneSpec, settings: BackboneSettings, variant: "Variant"
) -> BackboneSpec:
    """Return the spec with what the built network does not decide."""
    return replace(
        spec,
        weights=settings.provenance,
        storage_dtype=str(settings.dtype),
        engine=variant.engine,
        precision=variant.precision,
    )


def _has_native_bfloat16() -> bool:
    from twostage.backbones.openvino_engine import has_native_bfloat16

    return has_native_bfloat16()


def _refuse(differences: Sequence[str]) -> None:
    if differences:
        raise StoreError(
            f"The embeddings there were made by another backbone: {'; '.join(differences)}. Give "
            "another folder for the store, or ask for the same backbone and the same weights."
        )
