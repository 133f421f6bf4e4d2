"""Measure what an embedding takes in a store, in float32 and float16, as Parquet compresses it.

    python benchmarks/storage.py STORE...

Each store, of real photos and in float32, is written again in parts of 1,024 rows by each dtype.
``split`` is what Parquet's encoding BYTE_STREAM_SPLIT would make of the same column, which twostage
does not use. Results go to artifacts/storage.json and .md.
"""

import json
import platform
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import pyarrow as pa
import pyarrow.parquet as pq

from twostage.store.planning import SHARD_SIZE, part_name
from twostage.store.store import EmbeddingStore

ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
DTYPES = ("float32", "float16")
LIBRARIES = ("twostage", "pyarrow")


def measure(store: EmbeddingStore, dtype: str, scratch: Path) -> dict[str, Any]:
    """Write a store anew, and return the bytes that an image takes."""
    rows = pa.concat_tables([store.read_part(part) for part in store.parts()])
    again = EmbeddingStore.create(scratch / dtype, {**store.spec, "storage_dtype": dtype})
    for number, start in enumerate(range(0, len(rows), SHARD_SIZE)):
        again.put_part(part_name(number), _as(rows.slice(start, SHARD_SIZE), again.schema))
    parts = [again.path / part for part in again.parts()]
    column = rows.schema.names.index("embedding")
    groups = [pq.read_metadata(part).row_group(0) for part in parts]
    width = store.dim * (4 if dtype == "float32" else 2)
    return {
        "dtype": dtype,
        "rows": len(rows),
        "dim": store.dim,
        "raw": width,
        "embedding": sum(group.column(column).total_compressed_size for group in groups)
        / len(rows),
        "all": sum(part.stat().st_size for part in parts) / len(rows),
        "split": _split_bytes(again) / len(rows),
        "zeros": float(_share_of_zeros(rows)),
    }


def _as(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Cast embeddings; pyarrow has no cast between lists of these types."""
    kind = schema.field("embedding").type
    at = rows.schema.names.index("embedding")
    column = rows["embedding"].combine_chunks()
    values = column.flatten().cast(kind.value_type)
    lists = pa.FixedSizeListArray.from_arrays(values, type=kind)
    return rows.set_column(at, schema.field("embedding"), lists)


def _share_of_zeros(rows: pa.Table) -> float:
    return float((rows["embedding"].combine_chunks().flatten().to_numpy() == 0).mean())


def _split_bytes(store: EmbeddingStore) -> int:
    total = 0
    for part in store.parts():
        sink = pa.BufferOutputStream()
        pq.write_table(
            store.read_part(part, ["embedding"]),
            sink,
            compression="zstd",
            use_dictionary=False,
            use_byte_stream_split=True,
        )
        total += sink.getvalue().size
    return total


def as_markdown(record: dict[str, Any]) -> str:
    """Return the results as a table."""
    lines = [
        "# What an embedding takes in a store",
        "",
        "By `benchmarks/storage.py`, in parts of 1,024 rows as `extract` writes them (zstd), bytes "
        "per image. `split` is the column by Parquet's BYTE_STREAM_SPLIT, which is not used.",
        "",
        "| photos | architecture | dtype | images | numbers | zeros | raw | column | of raw | all "
        "columns | split, of raw |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['photos']} | {row['architecture']} | {row['dtype']} | {row['rows']:,} | "
            f"{row['dim']:,} | {row['zeros']:.0%} | {row['raw']:,} | {row['embedding']:,.0f} | "
            f"{row['embedding'] / row['raw']:.2f} | {row['all']:,.0f} | "
            f"{row['split'] / row['raw']:.2f} |"
            for row in record["results"]
        ),
    ]
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(stores: tuple[Path, ...]) -> None:
    """Measure stores, each named for its photos."""
    results = []
    for path in stores:
        store = EmbeddingStore(path)
        names = {"photos": path.name, "architecture": store.spec["architecture"]}
        with tempfile.TemporaryDirectory() as scratch:
            results += [names | measure(store, dtype, Path(scratch)) for dtype in DTYPES]
    record: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: version(name) for name in LIBRARIES},
        "results": results,
    }
    (ARTIFACTS / "storage.json").write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "storage.md").write_text(as_markdown(record))
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
