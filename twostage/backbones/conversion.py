"""Networks converted to OpenVINO's format, kept in the cache: the next run needs no Keras."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import openvino

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.errors import BackboneError
from twostage.fingerprint import hash_file, hash_json
from twostage.folders import conversions_folder

MODEL, WEIGHTS = "network.xml", "network.bin"
_RECORD = "converted.json"
_LONGEST_NAME = 60
_MOST_DIFFERENCE = 1e-3  # float32 rounding makes 1e-6


@dataclass(frozen=True)
class Converted:
    """A converted network.

    Attributes
    ----------
    spec : BackboneSpec
        What it is; engine and precision are those of the network it was made from.
    folder : pathlib.Path
        Where its files are.
    """

    spec: BackboneSpec
    folder: Path


def find_converted(settings: BackboneSettings) -> Converted | None:
    """Return the network that the settings ask for, if the cache has it, undamaged.

    Parameters
    ----------
    settings : BackboneSettings
        With every open choice made. It is the same network as long as settings, weights and the
        versions of Keras and OpenVINO are.
    """
    folder = _folder_of(settings)
    try:
        record = json.loads((folder / _RECORD).read_text())
        is_whole = record.pop("digest") == hash_json(record) and record["files"] == _digests(folder)
        is_current = is_whole and not _changed(record["sources"])
        spec = BackboneSpec.from_dict(record["spec"], folder)
    except (OSError, ValueError, KeyError, TypeError, BackboneError):
        return None
    return Converted(spec, folder) if is_current else None


def convert(
    settings: BackboneSettings,
    spec: BackboneSpec,
    export: Callable[[str], None],
    check: Callable[[Path], None],
) -> Converted:
    """Convert a network and keep it in the cache, whole or not at all.

    Parameters
    ----------
    settings : BackboneSettings
        With every open choice made; what `find_converted` will be asked for.
    spec : BackboneSpec
        What the network is.
    export : callable
        Writes OpenVINO's files, given the name of the .xml.
    check : callable
        Raises if the files in a folder are not what they should be.

    Raises
    ------
    BackboneError
        If OpenVINO can't take it.
    """
    folder = _folder_of(settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="_", dir=folder.parent))
    try:
        try:
            export(str(scratch / MODEL))
        except (RuntimeError, NotImplementedError, ImportError) as error:
            raise BackboneError(_unconvertible(spec, str(error).strip().splitlines()[0])) from error
        _keep_embedding(scratch, spec)
        check(scratch)
        record = {"spec": spec.to_dict(), "files": _digests(scratch), "sources": _sources(settings)}
        with_digest = record | {"digest": hash_json(record)}
        (scratch / _RECORD).write_text(json.dumps(with_digest, indent=1))
        _move(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return Converted(spec, folder)


def _keep_embedding(folder: Path, spec: BackboneSpec) -> None:
    """Take away outputs that are none of the network's: Keras' swish leaves one at each use."""
    network = openvino.Core().read_model(folder / MODEL, folder / WEIGHTS)
    if len(network.outputs) == 1:
        return
    outputs = [
        output
        for output in network.outputs
        if len(output.partial_shape) == 2 and output.partial_shape[1] == spec.dim
    ]
    if len(outputs) != 1:
        raise BackboneError(_unconvertible(spec, f"{len(outputs)} outputs may be the embedding"))
    kept = openvino.Model([outputs[0].node.input_value(0)], network.get_parameters())
    openvino.save_model(kept, folder / "kept.xml", compress_to_fp16=False)
    del network  # it has the files open
    for name in (MODEL, WEIGHTS):
        (folder / "kept").with_suffix(Path(name).suffix).replace(folder / name)


def _unconvertible(spec: BackboneSpec, reason: str) -> str:
    return f"OpenVINO can't take '{spec.name}' ({reason}). Use --engine keras."


def check_conversion(spec: BackboneSpec, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Make sure that a converted network gives the embeddings of the one it was made from.

    Parameters
    ----------
    spec : BackboneSpec
        What they are.
    ours, theirs : float32 arrays of shape (n, dim)
        Embeddings of the same pixels, by OpenVINO in float32 and by Keras.

    Raises
    ------
    BackboneError
        If they differ by more than rounding explains.
    """
    difference = np.linalg.norm(ours - theirs) / max(np.linalg.norm(theirs), np.finfo("f").tiny)
    if not difference <= _MOST_DIFFERENCE:
        reason = f"its embeddings differ from Keras' own by {difference:.2g} of their norm"
        raise BackboneError(_unconvertible(spec, reason))


def _move(scratch: Path, folder: Path) -> None:
    """Put a folder in its place, for one that is stale; another process may have been quicker."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        scratch.rename(folder)
    except OSError:
        if not (folder / _RECORD).exists():
            raise


def _folder_of(settings: BackboneSettings) -> Path:
    asked = asdict(replace(settings, engine=None, precision=None, dtype=None))
    file = settings.weights_file
    if file is not None:
        asked["backbone" if settings.keras_file else "weights"] = hash_file(file)
    if settings.weights == "imagenet":
        asked["weights"] = f"imagenet in {_keras_models()}"
    key = hash_json([asked, version("keras"), openvino.__version__])
    name = settings.keras_file.stem[:_LONGEST_NAME] if settings.keras_file else settings.backbone
    return conversions_folder() / f"{name}-{key}"


def _digests(folder: Path) -> dict[str, str]:
    return {name: hash_file(folder / name) for name in (MODEL, WEIGHTS)}


def _sources(settings: BackboneSettings) -> dict[str, list[int]]:
    """Return size and time of the files that Keras may have loaded ImageNet weights from.

    Keras names a file by its architecture and trusts what lies there under that name.
    """
    if settings.weights != "imagenet" or not _keras_models().is_dir():
        return {}
    return {str(file): _stamp(file) for file in sorted(_keras_models().iterdir())}


def _changed(sources: dict[str, list[int]]) -> bool:
    """Whether a file is another one now; one that was deleted changes nothing."""
    return any(
        _stamp(Path(file)) != stamp for file, stamp in sources.items() if Path(file).exists()
    )


def _stamp(file: Path) -> list[int]:
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _keras_models() -> Path:
    """Return the folder where Keras keeps downloaded weights."""
    home = os.environ.get("KERAS_HOME") or Path("~", ".keras").expanduser()
    return Path(home).absolute() / "models"
