"""Open ``.keras`` files, and refuse the code that they may hold.

A file says what a network is made of, in JSON. It is read before Keras sees it: what is no part of
Keras, and was not registered by the caller's own program, is refused by name. Then the network is
built without its weights: one that has more of them than the file holds would only fill the memory.
"""

import copy
import warnings
import zipfile
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

from twostage.errors import first_line
from twostage.opening.files import check_zip, parse_json

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
MARK = "twostage.json"  # of a tuned backbone: it may be taken out of its folder
# Parts of Keras that networks are made of. Others open files, or change how files are opened.
_OF_NETWORKS = {
    *("activations", "applications", "constraints", "dtype_policies", "engine", "initializers"),
    *("layers", "models", "ops", "quantizers", "random", "regularizers"),
}
# Parts of Keras that run what is not Keras' own.
_RUN_FOREIGN_CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper"}
_RUN_FOREIGN_CODE |= {"JaxLayer", "FlaxLayer"}
_ONLY_FOR_TRAINING = "compile_config"
_MOST_UNSAVED = 1_000_000  # numbers of a network that no file holds: states, statistics
_LARGEST_TENSOR = 1 << 28  # numbers that one image, or row, may become


class ForeignCodeError(ValueError):
    """A file asks for code that is not Keras' own."""


class UnbuildableError(ValueError):
    """Keras can't build the network of a file, or it is larger than the file."""


def load_network(file: Path) -> Any:
    """Load a network that was saved whole, for inference; no code of the file is run.

    Parameters
    ----------
    file : path
        As ``model.save("my.keras")`` writes it.

    Returns
    -------
    keras.Model

    Raises
    ------
    ForeignCodeError
        If it asks for code that is not Keras' own; says which layer does.
    UnbuildableError
        If Keras can't build it, or it would become more than the file holds.
    OSError, ValueError
        If it is no such file, or damaged.
    """
    from keras import saving

    config, n_stored = _read(file)
    foreign = next(_foreign_code(config), None)
    if foreign is not None:
        raise ForeignCodeError(foreign)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _check_size(config, n_stored)
            return saving.load_model(file, compile=False, safe_mode=True)
        except Exception as error:  # a damaged file makes Keras raise almost anything
            raise UnbuildableError(first_line(error)) from error


def saved_by(file: Path) -> str:
    """Return the version of Keras that saved a file; "?" if it does not say."""
    try:
        with zipfile.ZipFile(file) as archive:
            return str(parse_json(archive.read(_METADATA)).get("keras_version", "?"))
    except Exception:  # of damaged archives, zipfile raises almost anything
        return "?"


def check_weights(file: Path) -> int:
    """Count the numbers of an HDF5 file, or of the one in a ``.keras`` file.

    Raises
    ------
    OSError, ValueError
        If it is none, or leads to other files, or claims more numbers than it holds.
    """
    with open(file, "rb") as opened:
        if not zipfile.is_zipfile(opened):
            return _n_numbers(opened)
        archive = check_zip(opened)
        with archive.open(_of_name(archive, _WEIGHTS)) as weights:
            return _n_numbers(weights)


def _read(file: Path) -> tuple[Any, int]:
    """Return what a network is made of, and how many numbers the file holds of it."""
    with open(file, "rb") as opened:
        archive = check_zip(opened)
        known = {_CONFIG, _METADATA, _WEIGHTS, MARK}
        others = [name for name in archive.namelist() if name not in known]
        if others:
            raise ValueError(f"it brings along '{others[0]}', which no network of images needs")
        for name in (_CONFIG, _METADATA, _WEIGHTS):
            _of_name(archive, name)
        try:
            # Keras would go on without the check where it fails.
            damaged = archive.testzip()
        except Exception as error:  # of damaged archives, zipfile raises almost anything
            raise ValueError(_said_by(error)) from error
        if damaged is not None:
            raise ValueError(f"its '{damaged}' is damaged")
        config = parse_json(archive.read(_CONFIG))
        with archive.open(_WEIGHTS) as weights:
            return config, _n_numbers(weights)


def _of_name(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    try:
        return archive.getinfo(name)
    except KeyError as error:
        raise ValueError(str(error).strip("\"'")) from None


def _n_numbers(opened: Any) -> int:
    """Count the numbers of an open HDF5 file; see `check_weights`."""
    import h5py

    try:
        with h5py.File(opened, "r") as file:
            return sum(_n_in_group(file, set()))
    except ValueError:
        raise
    except Exception as error:  # HDF5 has errors of many types
        raise ValueError(_said_by(error)) from error


def _n_in_group(group: Any, met: set[int]) -> Iterator[int]:
    """Yield how many numbers each array has that a group holds, and the groups in it hold."""
    import h5py

    for name in group:
        link = group.get(name, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"'{name}' in it leads elsewhere")
        member = group[name]
        address = h5py.h5o.get_info(member.id).addr
        if address in met:  # groups of links to groups of links would take years to walk
            raise ValueError(f"'{name}' in it stands there twice")
        met.add(address)
        if isinstance(member, h5py.Group):
            yield from _n_in_group(member, met)
            continue
        if not isinstance(member, h5py.Dataset) or member.external or member.is_virtual:
            raise ValueError(f"'{name}' in it is no array of its own")
        if member.nbytes > max(_MOST_UNSAVED, 100 * member.id.get_storage_size()):
            raise ValueError(f"'{name}' in it claims {member.nbytes:,} bytes that are not there")
        yield int(member.size)


def _check_size(config: Any, n_stored: int) -> None:
    """Build a network without its weights; raise ValueError if it is larger than its file."""
    from keras import StatelessScope
    from keras.saving import deserialize_keras_object
    from keras.src.backend.common import global_state as state

    made_outside = state.get_global_attribute("uninitialized_variables", [])
    state.set_global_attribute("uninitialized_variables", [])
    try:
        with StatelessScope(initialize_variables=False):
            network = deserialize_keras_object(
                copy.deepcopy(config) | {_ONLY_FOR_TRAINING: None}, safe_mode=True
            )
    finally:  # Keras would initialise them after its next scope
        state.set_global_attribute("uninitialized_variables", made_outside)
    n_wanted = sum(prod(variable.shape) for variable in network.variables)
    if n_wanted > n_stored + _MOST_UNSAVED:
        raise ValueError(f"it has {n_wanted:,} weights, and the file holds {n_stored:,} numbers")
    for layer in getattr(network, "layers", ()):
        for tensor in _outputs(layer):
            if prod(side or 1 for side in tensor.shape) > _LARGEST_TENSOR:
                raise ValueError(f"'{layer.name}' would make a tensor of shape {tensor.shape}")


def _outputs(layer: Any) -> list[Any]:
    return [tensor for node in layer._inbound_nodes for tensor in node.output_tensors]


def _said_by(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _foreign_code(config: Any, layer: str = "the network", depth: int = 0) -> Iterator[str]:
    """Yield what a network would run that is not Keras' own, with the layer that asks for it."""
    if isinstance(config, list):
        for item in config:
            yield from _foreign_code(item, layer, depth + 1)
    if not isinstance(config, dict):
        return
    name = config.get("class_name")
    if isinstance(name, str):
        layer = _layer_name(config) or layer
        if name in _RUN_FOREIGN_CODE:
            yield f"{layer} is a {name.strip('_')}"
        elif not _is_known(config):
            yield f"{layer} is of a class that is not Keras' own, '{_registered_name(config)}'"
    for key, value in config.items():
        if key != _ONLY_FOR_TRAINING or depth > 0:
            yield from _foreign_code(value, layer, depth + 1)


def _is_known(config: dict[str, Any]) -> bool:
    """Whether a class is a part of Keras, or was registered by the program that runs."""
    from keras.saving import get_registered_object

    module = str(config.get("module", "keras"))  # without a module: the old way of Keras' own
    package, *_ = module.removeprefix("keras.src.").removeprefix("keras.").split(".")
    if module in ("keras", "builtins") or (module != package and package in _OF_NETWORKS):
        return True
    return get_registered_object(_registered_name(config)) is not None


def _registered_name(config: dict[str, Any]) -> str:
    return str(config.get("registered_name") or config["class_name"])


def _layer_name(config: dict[str, Any]) -> str | None:
    name = config.get("name")
    if name is None and isinstance(config.get("config"), dict):
        name = config["config"].get("name")
    return f"layer '{name}'" if name else None
