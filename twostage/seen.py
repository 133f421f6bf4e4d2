"""The guard: which rows a backbone was trained on, so that no score is computed on them."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from twostage.errors import BackboneError
from twostage.fingerprint import hash_json
from twostage.opening.files import parse_json
from twostage.opening.records import checked

_SCHEMA = pa.schema({"content_hash": pa.string(), "group": pa.string()})
_GROUP_COLUMN = b"twostage.group_column"


@dataclass(frozen=True)
class SeenRows:
    """What trained a backbone.

    Attributes
    ----------
    content_hashes : frozenset of str
        Of the bytes of its images: copies under other names count as seen.
    groups : frozenset of str
        Values of the group column in its rows.
    group_column : str or None
        That column's name.
    is_known : bool
        False where a backbone was trained, and what it was trained on is lost.
    """

    content_hashes: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    group_column: str | None = None
    is_known: bool = True

    def has_seen(
        self, content_hashes: Sequence[Sequence[str]], groups: Iterable[Any] = ()
    ) -> np.ndarray:
        """Tell rows that it was trained on, or whose group it was.

        Parameters
        ----------
        content_hashes : sequence of sequences of str, length n_rows
            Of the images of each row.
        groups : iterable of length n_rows, or empty
            Values of the group column.

        Returns
        -------
        bool array of shape (n_rows,)
            All True if nothing is known.
        """
        if not self.is_known:
            return np.ones(len(content_hashes), bool)
        by_image = [not self.content_hashes.isdisjoint(row) for row in content_hashes]
        values = pd.Series(list(groups), dtype=object)
        by_group = values.map(as_text, na_action="ignore").isin(self.groups)
        return np.array(by_image, bool) | (by_group.to_numpy() if len(values) else False)

    @property
    def digest(self) -> str:
        """Digest of all of it."""
        lists = [sorted(self.content_hashes), sorted(self.groups)]
        return hash_json([*lists, self.group_column, self.is_known])

    def union(self, other: "SeenRows") -> "SeenRows":
        """Return what either was trained on."""
        return SeenRows(
            self.content_hashes | other.content_hashes,
            self.groups | other.groups,
            self.group_column or other.group_column,
            self.is_known and other.is_known,
        )

    def to_bytes(self) -> bytes:
        """Return it as a Parquet file of the columns ``content_hash`` and ``group``.

        A row has either an image or a group.
        """
        hashes, groups = sorted(self.content_hashes), sorted(self.groups)
        table = pa.table(
            {
                "content_hash": pa.array([*hashes, *[None] * len(groups)], pa.string()),
                "group": pa.array([*[None] * len(hashes), *groups], pa.string()),
            }
        ).replace_schema_metadata({_GROUP_COLUMN: json.dumps(self.group_column)})
        sink = BytesIO()
        pq.write_table(table, sink, compression="zstd")
        return sink.getvalue()

    @classmethod
    def read(cls, file: Path) -> "SeenRows":
        """Read what `to_bytes` wrote; a file that is gone leaves all unknown.

        Raises
        ------
        BackboneError
            If the file is damaged.
        """
        return cls.from_bytes(file.read_bytes(), file) if file.is_file() else cls(is_known=False)

    @classmethod
    def from_bytes(cls, data: bytes, where: object) -> "SeenRows":
        """Read what `to_bytes` returned, from ``where`` (for the message).

        Raises
        ------
        BackboneError
            If it is damaged.
        """
        try:
            table = pq.read_table(pa.BufferReader(data), schema=_SCHEMA)
            metadata = pq.read_schema(pa.BufferReader(data)).metadata or {}
            column = checked(str | None, parse_json(metadata[_GROUP_COLUMN]), "its group column")
            hashes, groups = (table[name].drop_null() for name in _SCHEMA.names)
            return cls(frozenset(hashes.to_pylist()), frozenset(groups.to_pylist()), column)
        except Exception as error:  # of damaged files, pyarrow raises almost anything
            raise BackboneError(
                f"'{where}', which says what the backbone was trained on, can't be read "
                f"({type(error).__name__}). Copy the backbone's folder again; without the file, "
                "nothing that the backbone embeds is scored."
            ) from error


def as_text(value: Any) -> str:
    """Return a group's value as text: 7 and 7.0 are one group."""
    if isinstance(value, (float, np.floating)) and float(value).is_integer():
        return str(int(value))
    return str(value)
