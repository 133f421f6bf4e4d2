"""The folder of an encoder: its network, what makes inputs of values, and what it has seen."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from twostage.backbones.spec import STORAGE_DTYPES
from twostage.contents import ENCODER
from twostage.encoders.inputs import Inputs, load_inputs
from twostage.encoders.spec import EncoderSpec
from twostage.errors import BackboneError, UsageError
from twostage.fingerprint import hash_file, hash_json, hash_weights
from twostage.folders import put_in_place
from twostage.opening.files import read_json
from twostage.opening.keras_file import load_network
from twostage.opening.records import checked
from twostage.seen import SeenRows

NETWORK = "encoder.keras"
SEEN = "seen.parquet"
_COPY = "Copy the encoder's folder again, or make it anew."


@dataclass(frozen=True)
class Encoder:
    """An encoder on disk.

    Attributes
    ----------
    folder : Path
        Where it is.
    spec : EncoderSpec
        What it is; its ``weights`` are the network's file there.
    training : dict
        How it was trained.
    digests : dict of str to str
        Of its files.
    """

    folder: Path
    spec: EncoderSpec
    training: dict[str, Any]
    digests: dict[str, str]

    @property
    def files(self) -> list[Path]:
        """Its files: what to copy to have it elsewhere."""
        names = [ENCODER, *self.digests]
        return [file for name in names if (file := self.folder / name).is_file()]

    def seen(self) -> SeenRows:
        """Return what it was trained on; unknown if the file that says it is gone.

        Raises
        ------
        BackboneError
            If that file is another one than was written.
        """
        file = self.folder / SEEN
        return SeenRows.read(self._own(SEEN) if file.is_file() else file)

    def inputs(self) -> Inputs:
        """Return what turns values into inputs of the network.

        Raises
        ------
        BackboneError
            If its files are damaged.
        """
        for name in set(self.digests) - {NETWORK, SEEN}:
            self._own(name)
        try:
            return load_inputs(self.spec.kind, self.folder)
        except Exception as error:  # of what others may have written
            raise self._damaged(error) from error

    def network(self) -> Any:
        """Return the network, a keras.Model from inputs to embeddings.

        Raises
        ------
        BackboneError
            If it can't be opened.
        """
        try:
            return load_network(self._own(NETWORK))
        except (OSError, ValueError) as error:
            raise self._damaged(error) from error

    def _own(self, name: str) -> Path:
        """Return the path of a file; raise BackboneError if it is not the one that was written."""
        file = self.folder / name
        if not file.is_file() or hash_file(file) != self.digests.get(name):
            state = "is not the one that was written" if file.is_file() else "is gone"
            raise BackboneError(f"'{file}' {state}. {_COPY}")
        return file

    def _damaged(self, error: Exception) -> BackboneError:
        said = str(error).strip() or type(error).__name__
        return BackboneError(f"Encoder '{self.folder}' can't be opened ({said:.300}). {_COPY}")


def find_encoder(path: str | os.PathLike[str]) -> Encoder | None:
    """Return the encoder that a folder, or a file in it, is; None if it is none.

    Raises
    ------
    BackboneError
        If its record is damaged.
    """
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    if not (folder / ENCODER).is_file():
        return None
    try:
        record = read_json(folder / ENCODER)
        digests = checked(dict[str, str], record["digests"], "digests")
        training = dict(record["training"])
        spec_record = dict(record["spec"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(f"'{folder / ENCODER}' can't be read ({error}). {_COPY}") from None
    for name in (ENCODER, *digests):
        if Path(name).name != name or (folder / name).is_symlink():
            raise BackboneError(f"Encoder '{folder}' names a file outside itself: '{name}'.")
    spec = EncoderSpec.from_dict(
        spec_record | {"weights": str((folder / NETWORK).resolve())}, folder / ENCODER
    )
    return Encoder(folder, spec, training, digests)


def open_encoder(path: str | os.PathLike[str], dtype: str | None = None) -> Encoder:
    """Open the encoder in a folder that is to be one.

    Parameters
    ----------
    path : path-like
        The folder.
    dtype : {"float32", "float16"}, optional
        Of the embeddings to store.

    Raises
    ------
    UsageError
        If it is none, or the dtype is not known.
    BackboneError
        If it is damaged.
    """
    if dtype not in (None, *STORAGE_DTYPES):
        raise UsageError(f"dtype must be one of {', '.join(STORAGE_DTYPES)}; found {dtype!r}.")
    found = find_encoder(path) if Path(path).exists() else None
    if found is None:
        raise UsageError(
            f"'{path}' is no encoder of texts or sequences: it has no {ENCODER}. Give a folder "
            "that 'twostage finetune' made with --text or --sequence."
        )
    return replace(found, spec=replace(found.spec, storage_dtype=dtype or "float32"))


def files_beside(network: Path) -> list[Path]:
    """Return the files that belong to an encoder's network, if it is one's."""
    found = find_encoder(network) if network.name == NETWORK else None
    return [] if found is None else [file for file in found.files if file.name != NETWORK]


def check_destination(folder: Path) -> None:
    """Raise UsageError if an encoder can't be written there; an older one is replaced."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{folder}' is a file. Give a folder for the encoder.")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    older = find_encoder(folder)
    if older is None or {*folder.iterdir()} - {*older.files}:
        raise UsageError(
            f"'{folder}' is a folder with other files in it than an encoder's. Give a new folder."
        )


def write_encoder(
    folder: Path,
    kind: str,
    column: str,
    network: Any,
    inputs: Inputs,
    seen: SeenRows,
    training: Mapping[str, Any],
) -> Encoder:
    """Write an encoder, whole or not at all; an older one in its place is replaced.

    Parameters
    ----------
    folder : path
        To make.
    kind : {"text", "sequence"}
        What it embeds.
    column : str
        What it was trained on.
    network : keras.Model
        From inputs to embeddings of shape (n, dim).
    inputs : Inputs
        What turns values into the network's inputs.
    seen : SeenRows
        What it was trained on.
    training : mapping
        How.

    Raises
    ------
    BackboneError
        If it can't be written.
    """
    check_destination(folder)
    temporary = folder.absolute().with_name(f"_tmp-{folder.name}-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        inputs.save(temporary)
        of_inputs = {file.name: hash_file(file) for file in sorted(temporary.iterdir())}
        network.save(temporary / NETWORK)
        (temporary / SEEN).write_bytes(seen.to_bytes())
        digests = {file.name: hash_file(file) for file in sorted(temporary.iterdir())}
        weights = ((weight.path, np.asarray(weight)) for weight in network.weights)
        spec = EncoderSpec(
            kind=kind,
            weights=NETWORK,
            weights_digest=hash_weights(weights),
            weights_file_hash=digests[NETWORK],
            inputs_digest=hash_json(of_inputs),
            column=column,
            dim=int(network.output.shape[-1]),
        )
        record = {"spec": spec.to_dict(), "training": dict(training), "digests": digests}
        (temporary / ENCODER).write_text(json.dumps(record, indent=1) + "\n")
        put_in_place(temporary, folder.absolute())
    except OSError as error:
        raise BackboneError(
            f"Can't write the encoder '{folder}': {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_encoder(folder)
