"""What an encoder of texts or sequences is, as resolved; and any record of stage one."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

from twostage.backbones.spec import NUMERIC_VARIANT, STORAGE_DTYPES, BackboneSpec, Spec
from twostage.contents import IMAGE, SEQUENCE, TEXT, kind_of
from twostage.errors import BackboneError
from twostage.opening.records import checked

FORMAT_VERSION = 1
KERAS, SENTENCES = "keras", "sentence-transformers"
_LARGEST_DIM = 1 << 20


@dataclass(frozen=True)
class EncoderSpec(Spec):
    """An encoder as it was made: everything that decides what an embedding is.

    Attributes
    ----------
    kind : {"text", "sequence"}
        What it embeds.
    weights : str
        Path of its network, or what sentence-transformers calls it. Provenance only.
    weights_digest : str
        Digest of the network's variables.
    weights_file_hash : str or None
        Digest of the network's file, if it is one's.
    inputs_digest : str
        Digest of what turns values into inputs: the vocabulary, or the scaling.
    column : str
        The column that it was trained on; of sentence-transformers, who made it. Provenance only.
    dim : int
        Length of an embedding.
    storage_dtype : {"float32", "float16"}
        Of stored embeddings.
    engine, precision : str
        What executes it, and in what.
    format_version : int
        Of this record.
    """

    _provenance: ClassVar[tuple[str, ...]] = ("weights", "weights_file_hash", "column")

    kind: str
    weights: str
    weights_digest: str
    weights_file_hash: str | None
    inputs_digest: str
    column: str
    dim: int
    storage_dtype: str = "float32"
    engine: str = KERAS
    precision: str = "float32"
    format_version: int = FORMAT_VERSION

    @property
    def name(self) -> str:
        """What to call it before people: the name of its folder."""
        return self.weights if self.is_pretrained else Path(self.weights).parent.name

    @property
    def is_pretrained(self) -> bool:
        """Whether it comes from sentence-transformers, as published."""
        return self.engine == SENTENCES

    @property
    def architecture(self) -> str:
        """What a store in the cache is named by: its kind."""
        return self.kind

    def parameters(self) -> dict[str, Any]:
        """Return the settings that ask for it."""
        folder = self.weights if self.is_pretrained else str(Path(self.weights).parent)
        return {"backbone": folder, "dtype": self.storage_dtype}

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: object) -> "EncoderSpec":
        """Read a record back, from ``where`` (for the message).

        Raises
        ------
        BackboneError
            If it is of another version, or damaged.
        """
        found = record.get("format_version")
        if found != FORMAT_VERSION:
            raise BackboneError(
                f"The encoder in '{where}' is of format version {found}; this twostage reads "
                f"version {FORMAT_VERSION}. Use the twostage that wrote it, or extract again."
            )
        try:
            spec: EncoderSpec = checked(cls, dict(record), "the record")
            spec._check()
        except ValueError as error:
            raise BackboneError(
                f"'{where}' has a damaged record of an encoder: {error}. Copy it again."
            ) from None
        return spec

    def _check(self) -> None:
        for name, choices in (
            ("kind", (TEXT, SEQUENCE)),
            ("storage_dtype", STORAGE_DTYPES),
            ("engine", (KERAS, SENTENCES)),
            ("precision", ("float32",)),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} is {getattr(self, name)!r:.60}")
        if not self.is_pretrained and self.weights_file_hash is None:
            raise ValueError("there is no digest of its network")
        if not 1 <= self.dim <= _LARGEST_DIM:
            raise ValueError(f"dim is {self.dim}")

    def differences(self, other: "AnySpec") -> list[str]:
        """Say where another spec's identity differs from this one's; [] if nowhere."""
        if not isinstance(other, EncoderSpec):
            return [f"it embeds {self.kind}s, not {other.kind}s"]
        names = [
            f.name for f in fields(self) if f.name not in (*NUMERIC_VARIANT, *self._provenance)
        ]
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return [f"{name} is {mine}, not {theirs}" for name, mine, theirs in pairs if mine != theirs]


AnySpec = BackboneSpec | EncoderSpec


def read_spec(record: Mapping[str, Any], where: object) -> AnySpec:
    """Read the record of whatever embeds, of a store or a model, from ``where``.

    Raises
    ------
    BackboneError
        If it is of another version, or damaged.
    """
    if kind_of(record) == IMAGE:
        return BackboneSpec.from_dict(dict(record), where)
    return EncoderSpec.from_dict(record, where)
