"""An encoder that is opened when it is first needed: a run with nothing to do imports no Keras."""

import logging
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from twostage.contents import TEXT
from twostage.encoders.folder import NETWORK, Encoder, find_encoder, open_encoder
from twostage.encoders.inputs import Inputs
from twostage.encoders.sentences import SentenceEngine, names_sentences
from twostage.encoders.spec import EncoderSpec
from twostage.errors import BackboneError, DataError, StoreError, UsageError
from twostage.networks.ends import arrays_of
from twostage.seen import SeenRows

log = logging.getLogger("twostage")

_BATCH_SIZE = 256


class LazyEncoder:
    """An encoder as asked for, or as a store or a model has it; see `LazyBackbone`.

    Parameters
    ----------
    kind : {"text", "sequence"}
        What it is to embed.
    wanted : path-like or EncoderSpec, optional
        Its folder, or the spec that it must have; the store's if None.
    dtype : {"float32", "float16"}, optional
        Of stored embeddings; the store's, or float32, if None.
    device : {"auto", "cpu", "gpu"}
        Where it is to run.
    batch_size : int, optional
        Values that go through it at once.

    Attributes
    ----------
    device : str or None
        Description of the device, once the encoder is opened.
    seconds_to_build : float
        What that took.
    """

    def __init__(
        self,
        kind: str,
        wanted: str | os.PathLike[str] | EncoderSpec | None,
        device: str,
        dtype: str | None = None,
        batch_size: int | None = None,
    ):
        self.kind = kind
        self.device: str | None = None
        self.seconds_to_build = 0.0
        self._requested_device = device
        self._dtype = dtype
        self._batch_size = batch_size
        self._built: EncoderEngine | SentenceEngine | None = None
        self._spec: EncoderSpec | None = None
        self._sentences: str | None = None  # asked for by name
        if isinstance(wanted, EncoderSpec):
            self._spec = wanted
        elif wanted is not None and names_sentences(wanted):
            self._sentences = str(wanted)
        elif wanted is not None:
            self._spec = open_encoder(wanted, dtype).spec
        _check_kind(
            self._spec.kind if self._spec else TEXT if self._sentences else kind, kind, wanted
        )

    @property
    def spec(self) -> EncoderSpec:
        """What it is; loads it, if it was asked for by name alone.

        Raises
        ------
        UsageError
            If none was asked for.
        """
        if self._spec is None and self._sentences is not None:
            self._spec = self.get().spec
        if self._spec is None:
            raise UsageError(
                f"A new store of {self.kind}s needs --backbone ENCODER, the folder of an encoder: "
                f"make one with 'twostage finetune --table T --target Y --{self.kind} COL'."
            )
        return self._spec

    def expect(self, spec: EncoderSpec) -> None:
        """Go on with the encoder of a store.

        Raises
        ------
        StoreError
            If something else was asked for; it says what differs.
        """
        mine = self._spec or spec
        differences = spec.differences(mine)
        if self._spec is None and self._sentences not in (None, spec.weights):
            differences.append(f"it is {spec.weights}, asked for {self._sentences}")
        if self._dtype not in (None, spec.storage_dtype):
            differences.append(f"dtype is {spec.storage_dtype}, asked for {self._dtype}")
        _refuse(differences)
        self._spec = replace(spec, weights=mine.weights, weights_file_hash=mine.weights_file_hash)

    def get(self) -> "EncoderEngine | SentenceEngine":
        """Return what embeds, opened at the first call.

        Raises
        ------
        StoreError
            If a model of sentence-transformers is another one by now.
        """
        if self._built is None:
            started_s = time.perf_counter()
            self._built, self.device = self._open()
            self.seconds_to_build = time.perf_counter() - started_s
            log.info("%s runs on %s.", self._built.spec.name, self.device)
        return self._built

    def _open(self) -> "tuple[EncoderEngine | SentenceEngine, str]":
        from twostage.backbones.devices import choose_device

        chosen = choose_device(self._requested_device)
        if self._sentences is None and not self.spec.is_pretrained:
            network = self._folder().folder / NETWORK
            engine = _engine(network, self.spec, chosen.names[0], self._batch_size or _BATCH_SIZE)
            return engine, f"{engine.name} in float32 on {chosen.description}"
        asked = self._sentences if self._spec is None else self._spec.weights
        dtype = self._dtype or ("float32" if self._spec is None else self._spec.storage_dtype)
        sentences = _sentence_engine(str(asked), chosen.names[0], dtype, self._batch_size)
        if self._spec is not None:
            _refuse(self._spec.differences(sentences.spec))
        return sentences, f"sentence-transformers in float32 on {chosen.description}"

    def seen(self) -> SeenRows | None:
        """Return what it was trained on; None if it is as it was published."""
        return None if self.spec.is_pretrained else self._folder().seen()

    def _folder(self) -> Encoder:
        """Return the folder of the very encoder that the spec says."""
        network = Path(self.spec.weights)
        found = find_encoder(network) if network.is_file() else None
        if found is None or found.spec.identity != self.spec.identity:
            raise BackboneError(
                f"The encoder is from '{network.parent}', which "
                f"{'is gone' if found is None else 'holds another one by now'}. Put it back; "
                "'twostage extract' also takes it from another place, with --backbone FOLDER."
            )
        return found


@lru_cache(maxsize=2)
def _engine(network: Path, spec: EncoderSpec, device: str, batch_size: int) -> "EncoderEngine":
    """Open an encoder; the last two are kept: folds of a cross-validation share one."""
    return EncoderEngine(open_encoder(network.parent), spec, device, batch_size)


@lru_cache(maxsize=1)
def _sentence_engine(asked: str, device: str, dtype: str, batch_size: int | None) -> SentenceEngine:
    return SentenceEngine(asked, device, dtype, batch_size)


class EncoderEngine:
    """An encoder's network, compiled for batches of one size.

    Parameters
    ----------
    encoder : Encoder
        Its folder.
    spec : EncoderSpec
        What it is.
    device : str
        As Keras names it.
    batch_size : int
        Values that go through it at once.
    """

    def __init__(self, encoder: Encoder, spec: EncoderSpec, device: str, batch_size: int):
        from twostage.backbones.network import backend, on_device

        self.spec = spec
        self.name = backend()
        self.batch_size = batch_size
        self.is_on_cpu = not device.startswith("gpu")
        self._inputs: Inputs = encoder.inputs()
        self._device = device
        self._on_device = on_device
        with on_device(device):
            self._network = encoder.network()
        if tuple(self._network.output_shape) != (None, spec.dim):
            raise BackboneError(
                f"Encoder '{encoder.folder}' is damaged: its network gives arrays of shape "
                f"{self._network.output_shape}, not of {spec.dim} numbers. Make it anew."
            )

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the embeddings of batches of values, in order.

        Parameters
        ----------
        batches : iterable of object arrays of shape (n,)
            Texts or sequences.
        """
        for batch in batches:
            parts = [batch[i : i + self.batch_size] for i in range(0, len(batch), self.batch_size)]
            yield np.concatenate([self._embed(part) for part in parts])

    def _embed(self, values: np.ndarray) -> np.ndarray:
        """Embed a batch, filled up: compiled for one shape, and the same whatever is beside it."""
        try:
            features = self._inputs.features(pd.Series(values, dtype=object))
        except DataError as error:
            raise DataError(f"Encoder '{self.spec.name}' was made for others: {error}") from None
        arrays = [_filled(array, self.batch_size) for array in arrays_of(features)]
        with self._on_device(self._device):
            embeddings: Any = self._network.predict_on_batch(arrays)
        return np.asarray(embeddings, np.float32)[: len(values)]


def find_spec(backbone: object, device: str = "auto") -> EncoderSpec | None:
    """Return the encoder that a backbone is; None if it is none, and so one of images.

    Parameters
    ----------
    backbone : str, path-like or None
        As asked for: the folder of an encoder, or a model of sentence-transformers, which is then
        loaded.
    device : {"auto", "cpu", "gpu"}
        Where that is to run.
    """
    if backbone is None:
        return None
    if names_sentences(backbone):
        return LazyEncoder(TEXT, str(backbone), device).spec
    found = find_encoder(str(backbone)) if Path(str(backbone)).is_dir() else None
    return None if found is None else found.spec


def _filled(array: np.ndarray, size: int) -> np.ndarray:
    filler = np.zeros((size - len(array), *array.shape[1:]), array.dtype)
    return np.concatenate([array, filler])


def _check_kind(found: str, kind: str, wanted: object) -> None:
    if found != kind:
        asked = Path(wanted.weights).parent if isinstance(wanted, EncoderSpec) else wanted
        raise UsageError(
            f"'{asked}' is an encoder of {found}s, and {kind}s are to be embedded. Give an encoder "
            f"of {kind}s."
        )


def _refuse(differences: list[str]) -> None:
    if differences:
        raise StoreError(
            f"The embeddings there were made by another encoder: {'; '.join(differences)}. Give "
            "another folder for the store, or ask for the encoder that made it."
        )
