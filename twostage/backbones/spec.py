"""What a backbone is: as asked for (`BackboneSettings`), and as resolved (`BackboneSpec`)."""

import os
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, cast

from twostage.backbones.catalogue import CATALOGUE, Architecture, find_architecture
from twostage.backbones.tuned import NETWORK, TunedBackbone, find_tuned
from twostage.contents import ENCODER, IMAGE
from twostage.errors import BackboneError, UsageError
from twostage.fingerprint import hash_file, hash_json
from twostage.opening.records import checked
from twostage.pixels import DECODER, PREPROCESSINGS, RESIZE_FILTER, RESIZE_POLICIES

FORMAT_VERSION = 1
DEFAULT_BACKBONE = "mobilenet_v2"
LARGEST_SIZE_PX = 4096
PENULTIMATE = "penultimate"
POOLINGS = ("avg", "max")
STORAGE_DTYPES = ("float32", "float16")
AUTO = "auto"
ENGINES = (AUTO, "keras", "openvino")
PRECISIONS = (AUTO, "float32", "bfloat16", "float16")
KERAS_FILE = ".keras"
KERAS_ARCHITECTURE = "keras_"  # and a digest of the graph
_LARGEST_DIM = 1 << 20
_RANDOM = re.compile(r"random:\d{1,10}")
NUMERIC_VARIANT = ("engine", "precision", "storage_dtype")


@dataclass(frozen=True)
class BackboneSettings:
    """A backbone as a user asks for it; None stands for "the store's, or else the default".

    Attributes
    ----------
    backbone : str or path-like, default "mobilenet_v2"
        Name in the catalogue; the path of a ``.keras`` file: a network of one's own, whose top is
        stripped; or of a folder that ``twostage finetune`` made.
    weights : str, default "imagenet"
        "imagenet", "random", or the path of a weights file. A ``.keras`` file has its own.
    layer : str, default "penultimate"
        Or the name of any layer.
    pooling : {"avg", "max"} or None
        How a feature map becomes a vector; average where nothing is said.
    image_size : int, default the backbone's own
        Input height and width in pixels.
    resize : {"crop", "squash", "pad"}, default "crop"
        How an image becomes a square.
    dtype : {"float32", "float16"}, default "float32"
        Of the stored embeddings.
    random_state : int, default 0
        Seed of "random" weights.
    engine : {"auto", "keras", "openvino"}, default "auto"
        What executes it; see `twostage.backbones.engines.choose_variant`.
    precision : {"auto", "float32", "bfloat16", "float16"}, default "auto"
        What it computes in.
    preprocessing : {"caffe", "tf", "torch", "unit", "none"}, default the backbone's own
        What is done to pixels first, where a ``.keras`` file does not say it: Keras' own modes
        ("tf": -1 to 1; "torch": 0 to 1, then standardised; "caffe": BGR, less the mean), "unit"
        (0 to 1), or nothing.
    """

    backbone: str | os.PathLike[str] | None = None
    weights: str | None = None
    layer: str | None = None
    pooling: str | None = None
    image_size: int | None = None
    resize: str | None = None
    dtype: str | None = None
    random_state: int | None = None
    engine: str | None = None
    precision: str | None = None
    preprocessing: str | None = None

    def __post_init__(self) -> None:
        _check_choice("resize", self.resize, RESIZE_POLICIES)
        _check_choice("pooling", self.pooling, POOLINGS)
        _check_choice("dtype", self.dtype, STORAGE_DTYPES)
        _check_choice("engine", self.engine, ENGINES)
        _check_choice("precision", self.precision, PRECISIONS)
        _check_choice("preprocessing", self.preprocessing, PREPROCESSINGS)
        if self.keras_file is not None:
            _check_keras_file(self.keras_file, self.weights)
        name, least = str(self.backbone), 1
        if self.keras_file is None:
            name, least = self._architecture.name, self._architecture.min_size_px
        if self.image_size is not None and not least <= self.image_size <= LARGEST_SIZE_PX:
            raise UsageError(
                f"image_size must be {least} to {LARGEST_SIZE_PX} pixels for '{name}'; found "
                f"{self.image_size}."
            )
        if self.weights_file is not None and not self.weights_file.is_file():
            raise UsageError(
                f"There is no weights file '{self.weights}'. Give the path of a .h5, .weights.h5 "
                "or .keras file, 'imagenet' or 'random'."
            )

    @property
    def keras_file(self) -> Path | None:
        """The file that holds the backbone whole, if it is not one of the catalogue."""
        name = os.fspath(self.backbone or "")
        if name and name not in CATALOGUE and Path(name).is_dir():
            return Path(name) / NETWORK
        return Path(name) if name.endswith(KERAS_FILE) else None

    @property
    def tuned(self) -> TunedBackbone | None:
        """The folder that ``twostage finetune`` made of it, if it did."""
        return None if self.keras_file is None else find_tuned(self.keras_file)

    @property
    def weights_file(self) -> Path | None:
        """The file to load weights from, if they are to come from one."""
        if self.keras_file is not None:
            return self.keras_file
        return Path(self.weights) if self.weights not in (None, "imagenet", "random") else None

    @property
    def provenance(self) -> str:
        """Where the weights come from, in a spec's words; with every open choice made."""
        if self.weights == "random":
            return f"random:{self.random_state}"
        return str(self.weights_file.resolve() if self.weights_file else self.weights)

    @property
    def _architecture(self) -> Architecture:
        return find_architecture(os.fspath(self.backbone or DEFAULT_BACKBONE))

    def with_defaults(self) -> "BackboneSettings":
        """Return the settings with every open choice made.

        ``pooling`` stays None where only the built network tells whether there is a feature map.
        """
        settings = replace(
            self,
            layer=self.layer or PENULTIMATE,
            resize=self.resize or "crop",
            dtype=self.dtype or "float32",
            random_state=self.random_state or 0,
            engine=self.engine or AUTO,
            precision=self.precision or AUTO,
        )
        if self.keras_file is None:
            return settings._with_defaults_of(self._architecture)
        tuned = self.tuned
        if tuned is None:
            return settings
        return replace(
            settings,
            resize=self.resize or tuned.resize,
            preprocessing=self.preprocessing or tuned.preprocessing,
        )

    def _with_defaults_of(self, architecture: Architecture) -> "BackboneSettings":
        """Make the choices that depend on an architecture of the catalogue."""
        if self.preprocessing not in (None, architecture.preprocessing):
            raise UsageError(
                f"--preprocessing {self.preprocessing} is wrong for '{architecture.name}', whose "
                f"weights want {architecture.preprocessing}. Leave it out."
            )
        has_feature_map = self.layer == PENULTIMATE and not architecture.needs_top
        return replace(
            self,
            backbone=architecture.name,
            weights=self.weights or "imagenet",
            pooling=self.pooling or ("avg" if has_feature_map else None),
            image_size=self.image_size or architecture.input_size_px,
            preprocessing=architecture.preprocessing,
        )


class Spec:
    """What the records of backbones and of encoders share; both are dataclasses."""

    _provenance: ClassVar[tuple[str, ...]] = ("weights", "weights_file_hash")

    engine: str
    precision: str

    @property
    def identity(self) -> str:
        """Digest of all that gives an embedding its meaning: not the numeric variant."""
        return hash_json(self._without(*NUMERIC_VARIANT, *self._provenance))

    @property
    def key(self) -> str:
        """Digest of the identity and the numeric variant: names a cache."""
        return hash_json(self._without(*self._provenance))

    @property
    def variant(self) -> str:
        """Engine and precision, for people."""
        return f"{self.engine} in {self.precision}"

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON-able values."""
        return asdict(cast(Any, self))

    def _without(self, *names: str) -> dict[str, Any]:
        return {name: value for name, value in self.to_dict().items() if name not in names}


@dataclass(frozen=True)
class BackboneSpec(Spec):
    """A backbone as resolved once: everything that decides what an embedding is.

    Attributes
    ----------
    architecture : str
        Name in the catalogue; of a ``.keras`` file "keras_" and a digest of its graph.
    layer, pooling, input_size_px, resize, preprocessing
        See `BackboneSettings` and `twostage.backbones.catalogue.Architecture`.
    weights : str
        Where they came from: "imagenet", "random:SEED" or a file's path. Provenance only.
    weights_digest : str
        Digest of the stripped backbone's variables.
    weights_file_hash : str or None
        Digest of the weights file's bytes, to recognise it without building the network.
    dim : int
        Length of an embedding.
    resize_filter, decoder : str
        How pixels are made.
    augmentation : str
        Test-time augmentation; "none".
    engine, precision, storage_dtype : str
        The numeric variant: it changes the last digits, not what an embedding means.
    format_version : int
        Of this record and of the store that holds it.
    """

    architecture: str
    weights: str
    weights_digest: str
    weights_file_hash: str | None
    layer: str
    pooling: str | None
    dim: int
    input_size_px: int
    resize: str
    preprocessing: str
    storage_dtype: str
    resize_filter: str = RESIZE_FILTER
    decoder: str = DECODER
    augmentation: str = "none"
    engine: str = "keras"
    precision: str = "float32"
    format_version: int = FORMAT_VERSION

    @property
    def name(self) -> str:
        """What to call it before people: its architecture, or the name of its ``.keras`` file."""
        file = Path(self.weights)
        of_file = file.parent.name if file.name == NETWORK else file.name
        return of_file if self.is_keras_file else self.architecture

    @property
    def kind(self) -> str:
        """What it embeds."""
        return IMAGE

    @property
    def is_keras_file(self) -> bool:
        """Whether it came whole from a ``.keras`` file."""
        return self.architecture.startswith(KERAS_ARCHITECTURE)

    @classmethod
    def from_dict(cls, record: dict[str, Any], where: object) -> "BackboneSpec":
        """Read a record back, from ``where`` (for the message)."""
        found = record.get("format_version")
        if found != FORMAT_VERSION:
            raise BackboneError(
                f"'{where}' is of format version {found}; this twostage reads version "
                f"{FORMAT_VERSION}. Use the twostage that wrote it, or extract again."
            )
        names = {field.name for field in fields(cls)}
        if set(record) != names:
            wrong = sorted(names ^ set(record))
            raise BackboneError(f"'{where}' has a damaged backbone record (see {wrong}).")
        try:
            spec: BackboneSpec = checked(cls, record, "the record")
            spec._check()
        except ValueError as error:
            raise BackboneError(
                f"'{where}' has a damaged backbone record: {error}. Copy it again."
            ) from None
        return spec

    def _check(self) -> None:
        """Raise ValueError if a field has no such value, or the weights are of any file."""
        for name, choices in (
            ("resize", RESIZE_POLICIES),
            ("pooling", (None, *POOLINGS)),
            ("preprocessing", PREPROCESSINGS),
            ("storage_dtype", STORAGE_DTYPES),
            ("engine", ENGINES[1:]),
            ("precision", PRECISIONS[1:]),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r:.60}")
        for name, most in (("input_size_px", LARGEST_SIZE_PX), ("dim", _LARGEST_DIM)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}")
        is_file = self.weights != "imagenet" and not _RANDOM.fullmatch(self.weights)
        if is_file and self.weights_file_hash is None:  # any file of that path would be taken
            raise ValueError(f"there is no digest of its weights, '{self.weights}'")

    def to_settings(self, weights: str | None = None) -> BackboneSettings:
        """Return the settings that resolve to this spec again.

        Parameters
        ----------
        weights : str, optional
            Where its weights are now, if not where they came from.

        Raises
        ------
        BackboneError
            If they came from a file that is gone, or another one by now.
        """
        if weights is None and self.weights_file_hash is not None:
            self._check_file()
        return BackboneSettings(**self.parameters(weights))

    def parameters(self, weights: str | None = None) -> dict[str, Any]:
        """Return the fields of the settings that resolve to this spec again, unchecked."""
        name, _, seed = self.weights.partition(":")
        is_random = name == "random" and seed.isdecimal()
        source = weights or (name if is_random else self.weights)
        return {
            "backbone": source if self.is_keras_file else self.architecture,
            "weights": None if self.is_keras_file else source,
            "layer": self.layer,
            "pooling": self.pooling,
            "image_size": self.input_size_px,
            "resize": self.resize,
            "dtype": self.storage_dtype,
            "random_state": int(seed) if is_random else None,
            "engine": self.engine,
            "precision": self.precision,
            "preprocessing": self.preprocessing if self.is_keras_file else None,
        }

    def conflicts(self, settings: BackboneSettings) -> list[str]:
        """Say where settings ask for something else than this spec; [] if nowhere.

        A file whose bytes are unknown is no conflict yet: only the built network tells.
        """
        is_file_too = self.is_keras_file and settings.keras_file is not None
        asked = {
            "backbone": (None if is_file_too else settings.backbone, self.name),
            "weights": (self._weights_asked_for(settings), self.weights),
            "layer": (settings.layer, self.layer),
            "pooling": (settings.pooling, self.pooling),
            "image_size": (settings.image_size, self.input_size_px),
            "resize": (settings.resize, self.resize),
            "dtype": (settings.dtype, self.storage_dtype),
            "engine": (_named(settings.engine), self.engine),
            "precision": (_named(settings.precision), self.precision),
            "preprocessing": (settings.preprocessing, self.preprocessing),
        }
        return [
            f"{name} is {mine}, asked for {theirs}"
            for name, (theirs, mine) in asked.items()
            if theirs is not None and theirs != mine
        ]

    def knows_weights_file(self, settings: BackboneSettings) -> bool:
        """Whether the weights file asked for, if any, is the one this spec was made from."""
        file = settings.weights_file
        return file is None or hash_file(file) == self.weights_file_hash

    def differences(self, other: "BackboneSpec") -> list[str]:
        """Say where another spec's identity differs from this one's; [] if nowhere."""
        if other.kind != self.kind:
            return [f"it embeds {self.kind}s, not {other.kind}s"]
        mine, theirs = self._without(*NUMERIC_VARIANT), other._without(*NUMERIC_VARIANT)
        return [
            f"{name} is {mine[name]}, not {theirs[name]}"
            for name in mine
            if mine[name] != theirs[name] and name not in self._provenance
        ]

    def _check_file(self) -> None:
        """Raise BackboneError if the file that it came from is not there as it was."""
        file = Path(self.weights)
        if file.is_file() and hash_file(file) == self.weights_file_hash:
            return
        option = "backbone" if self.is_keras_file else "weights"
        raise BackboneError(
            f"The backbone is from the file '{file}', which "
            f"{'holds other bytes by now' if file.is_file() else 'is gone'}. Put it back; "
            f"'twostage extract' also takes it from another place, with --{option} FILE."
        )

    def _weights_asked_for(self, settings: BackboneSettings) -> str | None:
        """Return the provenance that settings ask for; None if they leave it open."""
        if self.is_keras_file:
            return settings.weights
        if settings.weights_file is not None:
            return None
        name, _, seed = self.weights.partition(":")
        if name == "random" and settings.weights in (None, "random"):
            return f"random:{seed if settings.random_state is None else settings.random_state}"
        if settings.weights == "random":
            return f"random:{settings.random_state or 0}"
        return settings.weights


def _named(choice: str | None) -> str | None:
    return None if choice == AUTO else choice


def _check_choice(name: str, value: str | None, choices: tuple[str, ...]) -> None:
    if value is not None and value not in choices:
        raise UsageError(f"{name} must be one of {', '.join(choices)}; found {value!r}.")


def _check_keras_file(file: Path, weights: str | None) -> None:
    if file.name == NETWORK and (file.parent / ENCODER).is_file():
        raise UsageError(
            f"'{file.parent}' is an encoder of texts or sequences, and images are to be embedded. "
            "Name the column of those (extract: --text-col or --sequence-col; fit: --text or "
            "--sequence), or give a backbone of images."
        )
    if file.name == NETWORK and file.parent.is_dir() and not file.is_file():
        raise UsageError(
            f"'{file.parent}' is no backbone: it has no {NETWORK}. Give a folder that 'twostage "
            "finetune' made, a .keras file, or a name that 'twostage backbones' lists."
        )
    if not file.is_file():
        raise UsageError(
            f"There is no file '{file}'. Give the path of one that model.save('my.keras') wrote, "
            "or a name that 'twostage backbones' lists."
        )
    if weights is not None:
        raise UsageError(f"'{file}' brings its own weights: leave --weights {weights} out.")
