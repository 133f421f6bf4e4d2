"""Stores whose embeddings a test decides."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from twostage.backbones.spec import BackboneSpec
from twostage.seen import SeenRows
from twostage.store.schema import embedding_array
from twostage.store.store import EmbeddingStore

SPEC = {"architecture": "fake", "dim": 3, "storage_dtype": "float32"}


def rows(store: EmbeddingStore, **embeddings: Sequence[float] | None) -> pa.Table:
    """Make rows from ``image=embedding``; an image without one has an error."""
    is_valid = np.array([vector is not None for vector in embeddings.values()])
    matrix = np.array([vector or [np.nan] * 3 for vector in embeddings.values()], np.float32)
    n = len(embeddings)
    columns = {
        "image": list(embeddings),
        "content_hash": [f"hash of {image}" for image in embeddings],
        "size_bytes": [5] * n,
        "mtime_ns": [None] * n,
        "width": [40] * n,
        "height": [30] * n,
        "embedding": embedding_array(matrix, is_valid, store.schema),
        "error": [None if fine else "decode: broken" for fine in is_valid],
        "seen": [False] * n,
    }
    return pa.table(columns, schema=store.schema)


def write_store(
    folder: Path,
    images: Sequence[str],
    matrix: np.ndarray,
    hashes: Sequence[str] | None = None,
    seen: SeenRows | None = None,
) -> EmbeddingStore:
    """Make a store of images with these embeddings; image number i has the hash ``h<i>``."""
    n, dim = matrix.shape
    spec = BackboneSpec(
        architecture="mobilenet_v2",
        weights="imagenet",
        weights_digest="digest",
        weights_file_hash=None,
        layer="penultimate",
        pooling="avg",
        dim=dim,
        input_size_px=96,
        resize="crop",
        preprocessing="tf",
        storage_dtype="float32",
        engine="keras",
        precision="float32",
    )
    store = EmbeddingStore.create(folder, spec.to_dict(), spec.identity, seen)
    usable = np.isfinite(matrix).all(axis=1)
    columns = {
        "image": list(images),
        "content_hash": list(hashes or [f"h{i}" for i in range(n)]),
        "size_bytes": [1] * n,
        "mtime_ns": [None] * n,
        "width": [9] * n,
        "height": [9] * n,
        "embedding": embedding_array(matrix.astype(np.float32), usable, store.schema),
        "error": [None if fine else "decode: no image" for fine in usable],
        "seen": [False] * n,
    }
    store.write_part("part-000000.parquet", pa.table(columns, schema=store.schema))
    return EmbeddingStore(folder)
