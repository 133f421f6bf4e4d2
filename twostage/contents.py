"""What stage one embeds, in words: images, texts, sequences."""

from collections.abc import Mapping
from typing import Any

IMAGE, TEXT, SEQUENCE = "image", "text", "sequence"
KINDS = (IMAGE, TEXT, SEQUENCE)
ENCODER = "encoder.json"  # the file that makes a folder one of an encoder of texts or sequences


def kind_of(spec: Mapping[str, Any]) -> str:
    """Return what the backbone or encoder of a record embeds; records of backbones don't say it."""
    return str(spec.get("kind", IMAGE))
