"""The folder of a tuned backbone: the network, where it comes from, and what it has seen."""

import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from twostage.backbones.catalogue import CATALOGUE
from twostage.errors import BackboneError, UsageError, listed
from twostage.fingerprint import hash_file
from twostage.folders import put_in_place
from twostage.opening.files import read_arrays, read_json
from twostage.opening.keras_file import MARK
from twostage.opening.records import checked
from twostage.pixels import PREPROCESSINGS, RESIZE_POLICIES
from twostage.seen import SeenRows

if TYPE_CHECKING:
    from twostage.backbones.spec import BackboneSpec

NETWORK = "backbone.keras"
RECORD = "backbone.json"
SEEN = "seen.parquet"
TOP = "top.npz"
HISTORY = "history.csv"
PLOT = "history.png"
FORMAT_VERSION = 1
_OWN_FILES = {NETWORK, RECORD, SEEN, TOP, HISTORY, PLOT}


@dataclass(frozen=True)
class LinearTop:
    """A dense layer on embeddings.

    Attributes
    ----------
    kernel : float32 array of shape (dim, n_outputs)
        Its weights.
    bias : float32 array of shape (n_outputs,)
        What is added.
    """

    kernel: np.ndarray
    bias: np.ndarray

    def outputs(self, embeddings: np.ndarray) -> np.ndarray:
        """Return logits or values of shape (n, n_outputs)."""
        return np.asarray(embeddings @ self.kernel + self.bias)

    def rescaled(self, mean: float, scale: float) -> "LinearTop":
        """Return the top whose outputs are ``scale`` times these, and ``mean`` more."""
        kernel, bias = self.kernel * scale, self.bias * scale + mean
        return LinearTop(kernel.astype(np.float32), bias.astype(np.float32))

    def to_bytes(self) -> bytes:
        """Return it as a file of NumPy arrays."""
        sink = BytesIO()
        np.savez(sink, kernel=self.kernel, bias=self.bias)
        return sink.getvalue()

    @classmethod
    def read(cls, file: Path) -> "LinearTop":
        """Read what `to_bytes` wrote.

        Raises
        ------
        BackboneError
            If the file is gone or damaged.
        """
        try:
            arrays = read_arrays(file)
            kernel, bias = arrays["kernel"], arrays["bias"]
            if kernel.ndim != 2 or bias.shape != kernel.shape[1:]:
                raise ValueError(f"arrays of shapes {kernel.shape} and {bias.shape}")
            return cls(kernel, bias)
        except (OSError, ValueError, KeyError) as error:
            raise BackboneError(
                f"'{file}', the top that the backbone was tuned with, can't be read "
                f"({type(error).__name__}). Copy the backbone's folder again, or tune it anew."
            ) from error


@dataclass(frozen=True)
class NetworkWeights:
    """What the network of a head became that was trained together with a backbone.

    Attributes
    ----------
    arrays : list of arrays
        As Keras' ``get_weights`` gives them.
    """

    arrays: list[np.ndarray]

    def to_bytes(self) -> bytes:
        """Return it as a file of NumPy arrays."""
        sink = BytesIO()
        named: dict[str, Any] = {f"weight_{i}": array for i, array in enumerate(self.arrays)}
        np.savez(sink, **named)
        return sink.getvalue()

    @classmethod
    def read(cls, file: Path) -> "NetworkWeights":
        """Read what `to_bytes` wrote.

        Raises
        ------
        BackboneError
            If the file is gone or damaged.
        """
        try:
            arrays = read_arrays(file)
            return cls([arrays[f"weight_{i}"] for i in range(len(arrays))])
        except (OSError, ValueError, KeyError) as error:
            raise BackboneError(
                f"'{file}', the network that the backbone was trained with, can't be read "
                f"({type(error).__name__}). Copy the backbone's folder again, or train it anew."
            ) from error


@dataclass(frozen=True)
class TunedBackbone:
    """A tuned backbone on disk.

    Attributes
    ----------
    folder : Path
        Where it is.
    record : dict
        What ``backbone.json`` holds: how its pixels are made, its parent, the training.
    """

    folder: Path
    record: dict[str, Any]

    @classmethod
    def in_folder(cls, folder: Path) -> "TunedBackbone":
        """Read the folder of one that must be there.

        Raises
        ------
        BackboneError
            If it is none, or damaged.
        """
        found = find_tuned(folder)
        if found is None:
            raise BackboneError(f"'{folder}' is no backbone: it has no {RECORD}. Make it again.")
        return found

    def is_whole(self) -> bool:
        """Whether its files are those that were written."""
        digests: dict[str, str] = self.record["digests"]
        files = ((self.folder / name, digest) for name, digest in digests.items())
        return {NETWORK, TOP} <= set(digests) and all(
            file.is_file() and hash_file(file) == digest for file, digest in files
        )

    @property
    def network(self) -> Path:
        """Its ``.keras`` file."""
        return self.folder / NETWORK

    @property
    def preprocessing(self) -> str:
        """What is done to pixels first."""
        return str(self.record["preprocessing"])

    @property
    def resize(self) -> str:
        """How images became squares in its training."""
        return str(self.record["resize"])

    def seen(self) -> SeenRows:
        """Return what it was trained on; unknown if the file that says it is gone.

        Raises
        ------
        BackboneError
            If that file, or the network, is another one than was written.
        """
        self._own(NETWORK)  # another network has seen something else
        return SeenRows.read(self._own(SEEN))

    def top(self) -> LinearTop:
        """Return the top that it was tuned with: it gives logits, or values of the target.

        Raises
        ------
        BackboneError
            If its file is gone, damaged, or another one than was written.
        """
        return LinearTop.read(self._own(TOP))

    def network_weights(self) -> NetworkWeights:
        """Return what a head's network became that was trained with it.

        Raises
        ------
        BackboneError
            If its file is gone, damaged, or another one than was written.
        """
        return NetworkWeights.read(self._own(TOP))

    def _own(self, name: str) -> Path:
        """Return the path of a file; raise BackboneError if another lies there by now."""
        file = self.folder / name
        if file.is_file() and hash_file(file) != self.record["digests"].get(name):
            raise BackboneError(
                f"'{file}' is not the one that 'twostage finetune' wrote. Copy the backbone's "
                f"folder again; without {SEEN}, nothing that the backbone embeds is scored."
            )
        return file


def find_tuned(path: Path) -> TunedBackbone | None:
    """Return the tuned backbone that a folder, or a ``.keras`` file in it, is; None if it is none.

    Raises
    ------
    BackboneError
        If a file was taken out of its folder or is another by now, or the folder's record is
        damaged.
    """
    folder = path if path.is_dir() else path.parent
    is_marked = path.is_file() and _is_marked(path)
    if not (folder / RECORD).is_file():
        if is_marked:
            raise BackboneError(
                f"'{path}' is a backbone that 'twostage finetune' made, without the folder that "
                f"says what it has seen. Give the folder, with its {RECORD} and {SEEN}."
            )
        return None
    if path.is_file() and not is_marked:
        if path.name != NETWORK:
            return None
        raise BackboneError(
            f"'{path}' is not the network that 'twostage finetune' wrote: of another it is not "
            "known what it has seen. Copy the backbone's folder again, or give the other file "
            "from a folder of its own."
        )
    _refuse_links(folder)
    try:
        record = read_json(folder / RECORD)
        found = record["format_version"]
        missing = {"preprocessing", "resize", "parent", "digests"} - set(record)
        if not missing and found == FORMAT_VERSION:
            _check_record(record)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BackboneError(
            f"'{folder / RECORD}' can't be read ({error}). Copy the backbone's folder again."
        ) from None
    if found != FORMAT_VERSION or missing:
        raise BackboneError(
            f"Backbone '{folder}' is of format version {found}; this twostage reads version "
            f"{FORMAT_VERSION}. Use the twostage that wrote it."
        )
    return TunedBackbone(folder, record)


def _refuse_links(folder: Path) -> None:
    """Raise BackboneError if a file of a backbone's is a link that leads out of its folder."""
    for name in sorted(_OWN_FILES):
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise BackboneError(
                f"'{folder / name}' is a link to a file outside its folder. Copy the backbone with "
                "the files themselves: cp -rL."
            )


def _check_record(record: dict[str, Any]) -> None:
    """Raise ValueError if what is used of a record is not what it must be."""
    digests = checked(dict[str, str], record["digests"], "digests")
    if not set(digests) <= _OWN_FILES:
        raise ValueError(f"it lists files that are no backbone's: {listed(sorted(digests))}")
    for name, choices in (("preprocessing", PREPROCESSINGS), ("resize", RESIZE_POLICIES)):
        if record[name] not in choices:
            raise ValueError(f"{name} is {record[name]!r:.60}")


def files_beside(network: Path) -> list[Path]:
    """Return the files that belong to a ``.keras`` file, if it is a tuned backbone's."""
    tuned = find_tuned(network)
    if tuned is None:
        return []
    return [file for name in (RECORD, SEEN, TOP) if (file := tuned.folder / name).is_file()]


def check_destination(folder: Path) -> None:
    """Raise UsageError if a tuned backbone can't be written there; an older one is replaced."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"'{folder}' is a file. Give a folder for the backbone.")
    if str(folder) in CATALOGUE:
        raise UsageError(
            f"'{folder}' is the name of a backbone that 'twostage backbones' lists, which "
            "--backbone would mean. Give a folder of another name."
        )
    if not folder.is_dir():
        return
    names = set(os.listdir(folder))
    if names and (RECORD not in names or not names <= _OWN_FILES):
        raise UsageError(
            f"'{folder}' is a folder with other files in it than a backbone's. Give a new folder."
        )


def write_tuned(
    folder: Path,
    model: Any,
    spec: "BackboneSpec",
    origin: Mapping[str, Any],
    seen: SeenRows,
    top: LinearTop | NetworkWeights,
    history: Mapping[str, bytes],
) -> None:
    """Write a tuned backbone, whole or not at all; an older one in its place is replaced.

    Parameters
    ----------
    folder : path
        To make.
    model : keras.Model
        From preprocessed pixels to embeddings.
    spec : BackboneSpec
        Of its parent.
    origin : mapping
        How it was trained.
    seen : SeenRows
        What it was trained on.
    top : LinearTop or NetworkWeights
        What it was trained with: from embeddings to logits, or to values of the target (their
        logarithm, if that was learned); or a head's network.
    history : mapping of str to bytes
        Files that tell of the epochs, by their names: `HISTORY`, `PLOT`.

    Raises
    ------
    BackboneError
        If it can't be written.
    """
    temporary = folder.absolute().with_name(f"_tmp-{folder.name}-{os.getpid()}")
    try:
        temporary.mkdir(parents=True)
        model.save(temporary / NETWORK)
        _mark(temporary / NETWORK)
        if seen.is_known:  # without the file, all rows count as seen
            (temporary / SEEN).write_bytes(seen.to_bytes())
        (temporary / TOP).write_bytes(top.to_bytes())
        record = {
            "format_version": FORMAT_VERSION,
            "preprocessing": spec.preprocessing,
            "resize": spec.resize,
            "parent": spec.to_dict(),
            "training": dict(origin),
            "digests": {file.name: hash_file(file) for file in sorted(temporary.iterdir())},
        }
        (temporary / RECORD).write_text(json.dumps(record, indent=1) + "\n")
        for name, data in history.items():
            (temporary / name).write_bytes(data)
        put_in_place(temporary, folder.absolute())
    except OSError as error:
        raise BackboneError(
            f"Can't write the backbone '{folder}': {error.strerror or error}."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _mark(file: Path) -> None:
    """Write into a ``.keras`` file that it belongs to a folder."""
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(MARK, json.dumps({"made_by": "twostage finetune"}))


def _is_marked(file: Path) -> bool:
    try:
        with zipfile.ZipFile(file) as archive:
            return MARK in archive.namelist()
    except Exception:  # of damaged archives, zipfile raises almost anything
        return False
