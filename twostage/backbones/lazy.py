"""A backbone that is built when it is first needed: a run with nothing to do imports no Keras."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.errors import StoreError
from twostage.fingerprint import hash_file

if TYPE_CHECKING:
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
    """

    def __init__(
        self,
        wanted: BackboneSettings | BackboneSpec,
        device: str,
        batch_size: int | None = None,
    ):
        self.device: str | None = None
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
        _refuse(spec.conflicts(self._settings))
        self._expected = spec
        if not spec.knows_weights_file(self._settings):
            self.get()

    def get(self) -> "Engine":
        """Return the backbone, built at the first call."""
        if self._built is None:
            settings = self._settings_to_build()
            self._built, self.device = build(settings, self._requested_device, self._batch_size)
            log.info("%s runs on %s.", self._built.spec.architecture, self.device)
            if self._expected is not None:
                _refuse(self._expected.differences(self._built.spec))
        return self._built

    def _settings_to_build(self) -> BackboneSettings:
        if self._expected is None:
            return self._settings
        file = self._settings.weights_file
        return self._expected.to_settings(weights=str(file) if file else None)


def build(settings: BackboneSettings, device: str, batch_size: int | None) -> "tuple[Engine, str]":
    """Build a backbone with Keras, and what executes it; return that and where it runs."""
    from twostage.backbones.devices import choose_device
    from twostage.backbones.engines import choose_variant
    from twostage.backbones.network import backend

    settings = settings.with_defaults()
    chosen = choose_device(device)
    variant = choose_variant(
        settings.engine,
        settings.precision,
        architecture=str(settings.backbone),
        is_on_gpu=chosen.is_gpu,
        has_native_bfloat16=_has_native_bfloat16,
    )
    file = settings.weights_file
    file_hash = hash_file(file) if file else None
    engine = _engine(settings, file_hash, chosen.name, variant, batch_size)
    executor = backend() if variant.engine == "keras" else variant.engine
    return engine, f"{executor} in {variant.precision} on {chosen.description}"


@lru_cache(maxsize=2)
def _engine(
    settings: BackboneSettings,
    weights_file_hash: str | None,
    device: str,
    variant: "Variant",
    batch_size: int | None,
) -> "Engine":
    """Build an engine; the last two are kept. The hash of the weights file is a part of the key."""
    from twostage.backbones.network import load_network

    network = load_network(settings, device)
    spec = replace(network.spec, engine=variant.engine, precision=variant.precision)
    if variant.engine == "keras":
        from twostage.backbones.keras_engine import KerasEngine

        return KerasEngine(spec, network.model, device, batch_size)
    from twostage.backbones.openvino_engine import OpenVINOEngine, converted

    return OpenVINOEngine(spec, converted(spec, network.export), batch_size)


def _has_native_bfloat16() -> bool:
    from twostage.backbones.openvino_engine import has_native_bfloat16

    return has_native_bfloat16()


def _refuse(differences: Sequence[str]) -> None:
    if differences:
        raise StoreError(
            f"The embeddings there were made by another backbone: {'; '.join(differences)}. Give "
            "another folder for the store, or ask for the same backbone and the same weights."
        )
