"""What a store holds, and whether it holds what it says."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from twostage.errors import PASSING_KINDS, StoreError, listed
from twostage.store.files import is_leftover, is_ours
from twostage.store.locking import holder_of
from twostage.store.schema import embedding_matrix

if TYPE_CHECKING:
    from twostage.store.store import EmbeddingStore

ERROR_KINDS = (*PASSING_KINDS, "decode")
_HASH = "^[0-9a-f]{32}$"


@dataclass(frozen=True)
class StoreInfo:
    """What a store holds.

    Attributes
    ----------
    path : str
        Its folder or URL.
    spec : dict
        The backbone's record.
    format_version : int
        Of the store.
    versions : dict of str to str
        Of the libraries that made it.
    n_rows : int
        A row per image.
    n_embedded : int
        Rows with an embedding.
    n_contents : int
        Different images among those, by their bytes.
    n_errors : dict of str to int
        Rows without one, by the kind of error.
    n_seen : int
        Rows of images that a tuned backbone was trained on.
    n_parts : int
        Committed parts.
    size_bytes : int
        Of the parts.
    writer : str or None
        The run that is writing it.
    """

    path: str
    spec: dict[str, Any]
    format_version: int
    versions: dict[str, str]
    n_rows: int
    n_embedded: int
    n_contents: int
    n_errors: dict[str, int]
    n_seen: int
    n_parts: int
    size_bytes: int
    writer: str | None


@dataclass(frozen=True)
class Fault:
    """Something that is wrong with a store.

    Attributes
    ----------
    where : str
        The file, or the store's folder.
    what : str
        What was found, and what to do about it.
    """

    where: str
    what: str


def describe(store: "EmbeddingStore") -> StoreInfo:
    """Say what a store holds; it may be written meanwhile."""
    columns = ["content_hash", "error", "seen"]
    parts = store.scan(lambda part: (store.read_part(part, columns), store.files.size_bytes(part)))
    rows = pa.concat_tables([store.schema.empty_table().select(columns), *(p[0] for p in parts)])
    fine = rows.filter(pc.is_null(rows["error"]))
    errors = rows["error"].drop_null().to_pylist()
    versions = store.record.get("versions")
    return StoreInfo(
        path=str(store.path),
        spec=store.spec,
        format_version=store.record["format_version"],
        versions=dict(versions) if isinstance(versions, dict) else {},
        n_rows=len(rows),
        n_embedded=len(fine),
        n_contents=len(pc.unique(fine["content_hash"])),
        n_errors=dict(Counter(error.partition(":")[0] for error in errors).most_common()),
        n_seen=pc.sum(rows["seen"]).as_py() or 0,
        n_parts=len(parts),
        size_bytes=sum(size for _, size in parts),
        writer=holder_of(store.files),
    )


def find_faults(store: "EmbeddingStore") -> list[Fault]:
    """Read all of a store, and say what is wrong with it.

    Parameters
    ----------
    store : EmbeddingStore
        It may be on a disk that can't be written, and it may be written meanwhile.

    Returns
    -------
    list of Fault
        Empty if it holds what it says.
    """
    looked = store.scan(lambda part: _look_at(store, part))
    faults = [fault for found in looked for fault in found.faults]
    return [*faults, *_across_parts(store, looked), *_beside_parts(store)]


@dataclass(frozen=True)
class _Looked:
    """What was found in one part.

    Attributes
    ----------
    part : str
        Its name.
    images : pyarrow.ChunkedArray
        Their names.
    faults : list of Fault
        What is wrong with it.
    contents : pyarrow.Array
        Digests of the images that have an embedding.
    embedding : float32 array of shape (dim,) or None
        Their embedding, if they have all the same.
    """

    part: str
    images: pa.ChunkedArray
    faults: list[Fault]
    contents: pa.Array = field(default_factory=lambda: pa.array([], pa.string()))
    embedding: np.ndarray | None = None


def _look_at(store: "EmbeddingStore", part: str) -> _Looked:
    try:
        rows = store.read_part(part)
    except StoreError as error:
        if not store.has_part(part):
            raise  # put together with others meanwhile: the scan begins anew
        return _Looked(part, pa.chunked_array([], pa.string()), [Fault(part, str(error))])
    is_fine = pc.and_(pc.is_null(rows["error"]), pc.is_valid(rows["embedding"]))
    fine = rows.filter(is_fine)
    matrix = embedding_matrix(fine["embedding"], store.dim)
    is_constant = len(matrix) > 0 and bool((matrix == matrix[0]).all())
    return _Looked(
        part,
        rows["image"],
        [
            Fault(part, what)
            for what in (*_wrong_rows(rows), *_wrong_numbers(fine["image"], matrix))
        ],
        fine["content_hash"].unique(),
        matrix[0] if is_constant else None,
    )


def _wrong_rows(rows: pa.Table) -> Iterator[str]:
    """Say in which rows columns contradict each other."""
    error, content_hash = rows["error"], rows["content_hash"]
    kind = pc.list_element(pc.split_pattern(pc.fill_null(error, ERROR_KINDS[0]), ":"), 0)
    has_error = pc.is_valid(error)
    is_unread = pc.and_(has_error, pc.is_in(kind, pa.array(PASSING_KINDS)))
    wrong = {
        "no name": pc.is_null(rows["image"]),
        "neither an embedding nor an error, or both": pc.equal(
            has_error, pc.is_valid(rows["embedding"])
        ),
        "an error of an unknown kind": pc.invert(pc.is_in(kind, pa.array(ERROR_KINDS))),
        "no digest of their bytes, though they were read": pc.and_(
            pc.invert(is_unread), pc.is_null(content_hash)
        ),
        "something else for a digest": pc.invert(
            pc.fill_null(pc.match_substring_regex(content_hash, _HASH), True)
        ),
    }
    for what, is_wrong in wrong.items():
        found = rows["image"].filter(is_wrong)
        if len(found):
            remedy = "delete the part and extract again"
            yield f"{_counted(found.to_pylist(), f'with {what}')}; {remedy}"


def _wrong_numbers(images: pa.ChunkedArray, matrix: np.ndarray) -> Iterator[str]:
    """Say which embeddings can't be what a network made of an image."""
    is_finite = np.isfinite(matrix).all(axis=1)
    is_flat = (matrix == matrix[:, :1]).all(axis=1) & is_finite & (matrix.shape[1] > 1)
    for what, is_wrong in (
        ("whose embedding holds NaN or infinity", ~is_finite),
        ("whose embedding is one number, repeated", is_flat),
    ):
        if is_wrong.any():
            found = images.filter(pa.array(is_wrong)).to_pylist()
            yield f"{_counted(found, what)}: the backbone or its precision fails on them"


def _across_parts(store: "EmbeddingStore", looked: list[_Looked]) -> Iterator[Fault]:
    where = str(store.path)
    images = [chunk for found in looked for chunk in found.images.chunks]
    counts = pc.value_counts(pa.chunked_array(images, pa.string()))
    doubled = counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()
    if doubled:
        parts = [found.part for found in looked if doubled[0] in found.images.to_pylist()]
        what = _counted(doubled, "in more than one row")
        yield Fault(where, f"{what}, in {listed(parts)}; move the part away that is wrong")
    filled = [found for found in looked if len(found.contents)]
    contents = pc.unique(pa.chunked_array([found.contents for found in filled], pa.string()))
    if len(contents) > 1 and _are_one([found.embedding for found in filled]):
        yield Fault(
            where,
            f"all {len(contents):,} different images have the same embedding: the backbone or its "
            "precision fails on them",
        )
    if not store.seen.is_known:
        yield Fault(
            where,
            "the list of what its backbone was trained on is lost or damaged; 'twostage extract' "
            "with the same --backbone brings it back",
        )


def _are_one(embeddings: list[np.ndarray | None]) -> bool:
    first = embeddings[0]
    return first is not None and all(
        other is not None and bool((other == first).all()) for other in embeddings
    )


def _beside_parts(store: "EmbeddingStore") -> Iterator[Fault]:
    """Say which files don't belong into the folder."""
    for part in store.replaced_parts():
        yield Fault(part, "its rows are in another part: a killed 'compact' left it; run it again")
    is_held = holder_of(store.files) is not None
    for name in sorted(store.files.names()):
        if is_leftover(name) and not is_held:
            yield Fault(name, "left half-written by a killed run; the next run removes it")
        elif not is_ours(name) and name[0] not in "._":
            yield Fault(name, "is no part of the store, and others would read it as one; move it")


def _counted(names: list[str], what: str) -> str:
    n = f"{len(names):,} image" + ("s" if len(names) > 1 else "")
    return f"{n} {what}; first: {str(names[0])!r}"
