"""One embedding for equal bytes, also where two workers computed it at the same time."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twostage.store.schema import embedding_array, embedding_matrix
from twostage.store.store import EmbeddingStore


def settle(store: EmbeddingStore) -> int:
    """Give images of equal bytes, in different parts, one embedding; to be called under the lock.

    On processors of one kind they are equal already; on others, they differ in the last digits.

    Returns
    -------
    int
        How many parts were written anew.
    """
    index = store.index(["content_hash", "error"])
    fine = index.filter(pc.is_null(index["error"]))
    part = fine["part"].combine_chunks()
    fine = pa.table({"content_hash": fine["content_hash"], "part": part.indices})
    counts = fine.group_by("content_hash").aggregate([("part", "count_distinct")])
    shared = counts.filter(pc.greater(counts["part_count_distinct"], 1))["content_hash"]
    if not len(shared):
        return 0
    agreed = store.known(shared.to_pylist())
    is_shared = pc.is_in(fine["content_hash"], value_set=shared.combine_chunks())
    numbers = fine.filter(is_shared)["part"].unique()
    parts = part.dictionary.take(numbers).to_pylist()
    return sum(_settle_part(store, name, agreed) for name in parts)


def _settle_part(store: EmbeddingStore, part: str, agreed: dict[str, np.ndarray]) -> bool:
    """Write a part anew if its embeddings are not those agreed on; whether it was."""
    rows = store.read_part(part)
    is_valid = rows["error"].combine_chunks().is_null().to_numpy(zero_copy_only=False)
    matrix = embedding_matrix(rows["embedding"], store.dim)
    before = matrix.copy()
    hashes = rows["content_hash"].to_pylist()
    for row in np.flatnonzero(is_valid):
        matrix[row] = agreed.get(hashes[row], matrix[row])
    if np.array_equal(before, matrix, equal_nan=True):
        return False
    column = rows.schema.get_field_index("embedding")
    embeddings = embedding_array(matrix, is_valid, store.schema)
    store.put_part(part, rows.set_column(column, rows.schema.field(column), embeddings))
    return True
