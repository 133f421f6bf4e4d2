"""A backbone that is built when it is first needed: a run with nothing to do imports no Keras."""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.errors import StoreError

if TYPE_CHECKING:
    from twostage.backbones.keras_backbone import KerasBackbone

log = logging.getLogger("twostage")


class LazyBackbone:
    """A backbone as asked for, or as a store or a model has it.

    Parameters
    ----------
    wanted : BackboneSettings or BackboneSpec
        What is asked for. A spec is resolved already: what is built must be the same.
    device : {"auto", "cpu", "gpu"}
        Where it is to run.

    Attributes
    ----------
    device : str or None
        Description of the device, once the backbone is built.
    """

    def __init__(self, wanted: BackboneSettings | BackboneSpec, device: str):
        self.device: str | None = None
        self._settings = BackboneSettings()
        self._expected: BackboneSpec | None = None
        if isinstance(wanted, BackboneSpec):
            self._expected = wanted
        else:
            self._settings = wanted
        self._requested_device = device
        self._built: KerasBackbone | None = None

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

    def get(self) -> "KerasBackbone":
        """Return the backbone, built at the first call."""
        if self._built is None:
            self._built, self.device = build(self._settings_to_build(), self._requested_device)
            log.info("%s runs on %s.", self._built.spec.architecture, self.device)
            if self._expected is not None:
                _refuse(self._expected.differences(self._built.spec))
        return self._built

    def _settings_to_build(self) -> BackboneSettings:
        if self._expected is None:
            return self._settings
        file = self._settings.weights_file
        return self._expected.to_settings(weights=str(file) if file else None)


def build(settings: BackboneSettings, device: str) -> "tuple[KerasBackbone, str]":
    """Build a backbone with Keras; return it and the description of its device."""
    from twostage.backbones.devices import choose_device
    from twostage.backbones.keras_backbone import load_backbone

    chosen = choose_device(device)
    return load_backbone(settings, chosen.name), chosen.description


def _refuse(differences: Sequence[str]) -> None:
    if differences:
        raise StoreError(
            f"The embeddings there were made by another backbone: {'; '.join(differences)}. Give "
            "another folder for the store, or ask for the same backbone and the same weights."
        )
