"""Read a user's own ``.keras`` file, and refuse the code that it may hold.

A file says what a network is made of, in JSON. It is read before Keras sees it: what is no part of
Keras, and was not registered by the caller's own program, is refused by name.
"""

import json
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from twostage.backbones.quiet_keras import keras
from twostage.errors import BackboneError, first_line

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
# Parts of Keras that networks are made of. Others open files, or change how files are opened.
_OF_NETWORKS = {
    *("activations", "applications", "constraints", "dtype_policies", "engine", "initializers"),
    *("layers", "models", "ops", "quantizers", "random", "regularizers"),
}
# Parts of Keras that run what is not Keras' own.
_RUN_FOREIGN_CODE = {"Lambda", "__lambda__", "TFSMLayer", "TorchModuleWrapper"}
_RUN_FOREIGN_CODE |= {"JaxLayer", "FlaxLayer"}
_ONLY_FOR_TRAINING = "compile_config"
_HOW_TO_PROCEED = (
    "Where you trust the file, rebuild the network without that, from layers of Keras, give it the "
    "weights with new.set_weights(old.get_weights()), and save it with new.save('new.keras'). Or, "
    "if its base is one of 'twostage backbones', save the base's weights alone, with "
    "base.save_weights('base.weights.h5'), and give --backbone NAME --weights base.weights.h5."
)


def load_keras_file(file: Path) -> Any:
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
    BackboneError
        If it is no such file, is damaged, or asks for code that is not Keras' own.
    """
    config, version = _read(file)
    foreign = next(_foreign_code(config), None)
    if foreign is not None:
        raise BackboneError(
            f"'{file}' holds code, which twostage does not run: {foreign}. {_HOW_TO_PROCEED}"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return keras.saving.load_model(file, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file makes Keras raise almost anything
        raise BackboneError(
            f"'{file}' can't be loaded ({first_line(error)}). It was saved by Keras {version}; "
            f"this is Keras {keras.version()}. Save it again, with model.save('my.keras')."
        ) from error


def _read(file: Path) -> tuple[Any, str]:
    """Return what the network is made of, and the version of Keras that saved it."""
    try:
        with zipfile.ZipFile(file) as archive:
            config = json.loads(archive.read(_CONFIG))
            metadata = json.loads(archive.read(_METADATA))
            archive.getinfo(_WEIGHTS)
            return config, str(metadata.get("keras_version", "?"))
    except (zipfile.BadZipFile, KeyError, ValueError, AttributeError, OSError) as error:
        raise BackboneError(
            f"'{file}' is not a Keras file, or is damaged ({first_line(error)}). Give one that "
            "model.save('my.keras') wrote."
        ) from error


def _foreign_code(config: Any, layer: str = "the network") -> Iterator[str]:
    """Yield what a network would run that is not Keras' own, with the layer that asks for it."""
    if isinstance(config, list):
        for item in config:
            yield from _foreign_code(item, layer)
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
        if key != _ONLY_FOR_TRAINING:
            yield from _foreign_code(value, layer)


def _is_known(config: dict[str, Any]) -> bool:
    """Whether a class is a part of Keras, or was registered by the program that runs."""
    module = str(config.get("module", "keras"))  # without a module: the old way of Keras' own
    package, *_ = module.removeprefix("keras.src.").removeprefix("keras.").split(".")
    if module in ("keras", "builtins") or (module != package and package in _OF_NETWORKS):
        return True
    return keras.saving.get_registered_object(_registered_name(config)) is not None


def _registered_name(config: dict[str, Any]) -> str:
    return str(config.get("registered_name") or config["class_name"])


def _layer_name(config: dict[str, Any]) -> str | None:
    name = config.get("name")
    if name is None and isinstance(config.get("config"), dict):
        name = config["config"].get("name")
    return f"layer '{name}'" if name else None
