"""Content digests: one hash function for image bytes, weights, files and settings."""

import json
import re
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

DIGEST_BYTES = 16
_AUTOMATIC_COUNTER = re.compile(r"_\d+(?=/|$)")


def hash_bytes(data: bytes) -> str:
    """Return the BLAKE2b digest of ``data`` as 32 hexadecimal characters."""
    return blake2b(data, digest_size=DIGEST_BYTES).hexdigest()


def hash_json(value: Any) -> str:
    """Return the digest of a JSON-able value, whatever the order of its keys."""
    return hash_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


def hash_file(path: Path) -> str:
    """Return the digest of a file's bytes, read in pieces."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def hash_weights(weights: Iterable[tuple[str, np.ndarray]]) -> str:
    """Return the digest of named arrays in their order.

    File bytes won't do: the same weights saved twice differ, and files with and without the top
    hold the same backbone.

    Parameters
    ----------
    weights : iterable of (path, array)
        Variable paths such as ``"stem_conv/kernel"``. Counters that Keras appends to automatic
        names (``normalization_1``) are left out: they count what the process built before.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    for path, array in weights:
        header = [_AUTOMATIC_COUNTER.sub("", path), list(array.shape), str(array.dtype)]
        digest.update(json.dumps(header).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
