"""What a part of a store looks like."""

import json
from typing import Any

import numpy as np
import pyarrow as pa

SPEC_KEY = b"twostage.spec"
REPLACES_KEY = b"twostage.replaces"  # names of the parts whose rows are here now
INDEX_COLUMNS = (
    "image",
    "content_hash",
    "size_bytes",
    "mtime_ns",
    "width",
    "height",
    "error",
)


def part_schema(spec: dict[str, Any]) -> pa.Schema:
    """Return the schema of a part; its metadata holds the backbone's spec.

    Columns
    -------
    image : string
        Relative POSIX path or URI; bytes of a name that are no text are percent-encoded.
    content_hash : string
        BLAKE2b digest of the file's bytes, null if they could not be read.
    size_bytes, mtime_ns : int64
        Of the file when it was read; null where they can't vouch for its content.
    width, height : int32
        Pixels of the whole upright image, null if it could not be decoded.
    embedding : fixed_size_list<float32 or float16>[dim]
        Null if unreadable.
    error : string
        Kind and short reason, null if fine.
    seen : bool
        Whether a tuned backbone was trained on the image.
    """
    value_type = pa.float16() if spec["storage_dtype"] == "float16" else pa.float32()
    fields = [
        ("image", pa.string()),
        ("content_hash", pa.string()),
        ("size_bytes", pa.int64()),
        ("mtime_ns", pa.int64()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("embedding", pa.list_(value_type, spec["dim"])),
        ("error", pa.string()),
        ("seen", pa.bool_()),
    ]
    return pa.schema(fields, metadata={SPEC_KEY: json.dumps(spec).encode()})


def embedding_array(matrix: np.ndarray, is_valid: np.ndarray, schema: pa.Schema) -> pa.Array:
    """Turn a matrix into the embedding column.

    Parameters
    ----------
    matrix : float32 array of shape (n, dim)
        One row per image; rows that are not valid are ignored.
    is_valid : bool array of shape (n,)
        False where the embedding is null.
    """
    kind = schema.field("embedding").type
    values = pa.array(matrix.astype(kind.value_type.to_pandas_dtype()).ravel())
    return pa.FixedSizeListArray.from_arrays(values, type=kind, mask=pa.array(~is_valid))


def embedding_matrix(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """Turn an embedding column into a float32 matrix of shape (n, dim), NaN where it is null."""
    array = column.combine_chunks()
    matrix = np.full((len(array), dim), np.nan, np.float32)
    # flatten(), unlike .values, respects slices, and leaves nulls out.
    valid = array.is_valid().to_numpy(zero_copy_only=False)
    matrix[valid] = array.flatten().to_numpy(zero_copy_only=False).reshape(-1, dim)
    return matrix
