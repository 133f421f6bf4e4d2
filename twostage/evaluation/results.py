"""A benchmark's folder: what it is of, its finished cells, and the tables made of them."""

import io
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from twostage.errors import BenchmarkError, UsageError, first_line
from twostage.evaluation.cells import CellResult
from twostage.evaluation.importance import CellImportance
from twostage.opening.files import parse_json, read_json
from twostage.opening.records import checked
from twostage.saving import to_json
from twostage.store.files import remove_leftovers, replace_file

FORMAT_VERSION = 1
RUN, RESULTS, OOF = "run.json", "results.parquet", "oof.parquet"
IMPORTANCE = "importance.parquet"
_CELLS, _LOCK = "_cells", "_lock"
_FACTS = b"twostage.cell"
_N_SHOWN = 5
_DIGEST = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class _Facts:
    """What is kept of a cell beside its predictions; see `CellResult`."""

    arm: str
    fit_seconds: float
    predict_us_per_row: float
    model_bytes: float
    n_train: int
    ndim: int
    importance: CellImportance | None = None


class ResultsFolder:
    """A folder that a benchmark is written to, cell by cell.

    Parameters
    ----------
    path : path-like
        The folder; `open` makes it.

    Notes
    -----
    A cell is committed when its file is there under its final name. ``run.json`` says what the
    cells are of: a folder of another data set or of other settings is refused.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)

    def check(self) -> None:
        """Raise UsageError if the folder holds anything but a benchmark."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"'{self.path}' is a file. Give a folder for the results.")
        if not self.path.is_dir() or (self.path / RUN).is_file():
            return
        others = [name for name in os.listdir(self.path) if not name.startswith("_")]
        if others:
            raise UsageError(
                f"'{self.path}' is a folder with other files in it than a benchmark's. Give a new "
                "folder."
            )

    @contextmanager
    def opened(self, identity: Mapping[str, Any]) -> Iterator[None]:
        """Hold the folder for one run.

        Parameters
        ----------
        identity : mapping of str to object
            What the benchmark is of, as JSON can hold it.

        Raises
        ------
        BenchmarkError
            If it is another benchmark's, which the message compares, or another run's.
        """
        self.check()
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            (self.path / _CELLS).mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise BenchmarkError(
                f"Another run writes to '{self.path}'. Wait for it to end, or give another folder."
            ) from None
        except OSError as error:
            raise _unwritable(self.path, error) from error
        try:
            remove_leftovers(self.path)
            remove_leftovers(self.path / _CELLS)
            self._claim(json.loads(to_json(identity)))
            yield
        finally:
            lock.release()

    def _claim(self, identity: dict[str, Any]) -> None:
        """Write what the benchmark is of, or compare it with what is written."""
        if (self.path / RUN).is_file():
            differences = differing(self.read_run().get("identity", {}), identity)
            if differences:
                rest = len(differences) - _N_SHOWN
                more = f"; and {rest} more" if rest > 0 else ""
                raise BenchmarkError(
                    f"'{self.path}' holds the results of another benchmark: "
                    f"{'; '.join(differences[:_N_SHOWN])}{more}. Give a new folder for this one."
                )
            return
        self.write_run({"identity": identity})

    def read_run(self) -> dict[str, Any]:
        """Return what run.json says.

        Raises
        ------
        BenchmarkError
            If there is none, or it can't be read.
        """
        try:
            record = read_json(self.path / RUN)
            version = record["format_version"]
            checked(dict[str, Any], record.get("identity", {}), "identity")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise BenchmarkError(
                f"'{self.path}' holds no results: it has no readable {RUN}. Give a folder made by "
                "'twostage benchmark'."
            ) from None
        if version != FORMAT_VERSION:
            raise BenchmarkError(
                f"The results in '{self.path}' are of format version {version}; this twostage "
                f"reads version {FORMAT_VERSION}. Run the benchmark again into a new folder."
            )
        return dict(record)

    def write_run(self, record: Mapping[str, Any]) -> None:
        """Write run.json, whole or not at all."""
        self._write(self.path / RUN, to_json({"format_version": FORMAT_VERSION, **record}).encode())

    def write_cell(self, number: int, cell: CellResult) -> None:
        """Commit a finished cell.

        Parameters
        ----------
        number : int
            Of its arm.
        cell : CellResult
            What was computed.
        """
        wide = cell.predicted.reshape(len(cell.rows), -1)
        columns = {"row": cell.rows} | {f"p{k}": wide[:, k] for k in range(wide.shape[1])}
        scalars = ("arm", "fit_seconds", "predict_us_per_row", "model_bytes", "n_train")
        facts = {name: getattr(cell, name) for name in scalars} | {"ndim": cell.predicted.ndim}
        if cell.importance is not None:
            facts["importance"] = cell.importance.record()
        table = pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(facts)})
        self._write(self._cell_file(number, cell.repeat, cell.fold), _parquet(table))

    def read_cell(self, number: int, repeat: int, fold: int) -> CellResult | None:
        """Return a finished cell; None if it is not there, or damaged."""
        try:
            table = _read_table(self._cell_file(number, repeat, fold))
            facts = checked(_Facts, parse_json(table.schema.metadata[_FACTS]), "a cell")
            columns = [table[name].to_numpy().astype(float) for name in table.column_names[1:]]
            rows = table["row"].cast(pa.int64()).to_numpy()
            predicted = columns[0] if facts.ndim == 1 else np.column_stack(columns)
        except Exception:  # of damaged files, pyarrow raises almost anything
            return None
        known = {name: value for name, value in vars(facts).items() if name != "ndim"}
        return CellResult(repeat=repeat, fold=fold, rows=rows, predicted=predicted, **known)

    def read_table(self, name: str) -> pd.DataFrame:
        """Read one of the tables.

        Raises
        ------
        BenchmarkError
            If it is gone or damaged.
        """
        try:
            frame: pd.DataFrame = _read_table(self.path / name).to_pandas()
        except Exception as error:  # of damaged files, pyarrow raises almost anything
            raise BenchmarkError(
                f"The results in '{self.path}' are damaged: {name} can't be read "
                f"({first_line(error)}). Run the benchmark's command again: what is finished stays."
            ) from None
        return frame

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write one of the tables, whole or not at all."""
        table = pa.Table.from_pandas(frame, preserve_index=False)
        self._write(self.path / name, _parquet(table))

    def _cell_file(self, number: int, repeat: int, fold: int) -> Path:
        return self.path / _CELLS / f"arm-{number:03d}-repeat-{repeat:03d}-fold-{fold:03d}.parquet"

    def _write(self, path: Path, data: Any) -> None:
        try:
            replace_file(path, data)
        except OSError as error:
            raise _unwritable(self.path, error) from error


def differing(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Put in words what differs between two records: ``"folds was 5, is now 3"``."""
    found = []
    for name in dict.fromkeys([*old, *new]):
        before, now, path = old.get(name), new.get(name), f"{prefix}{name}"
        if before == now:
            continue
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differing(before, now, f"{path}: ")
        else:
            found.append(_difference(path, before, now))
    return found


def _difference(path: str, before: Any, now: Any) -> str:
    if path == "table: digest" and before and now:
        return "table: other values"  # a digest tells people nothing
    return f"{path} was {_short(before)}, is now {_short(now)}"


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(_DIGEST.fullmatch(value))


def _short(value: Any) -> str:
    if _is_digest(value):
        return str(value)[:8]
    text = "absent" if value is None else json.dumps(value).strip('"')
    return text if len(text) <= 60 else text[:57] + "..."


def _parquet(table: pa.Table) -> Any:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    return sink.getvalue()


def _read_table(file: Path) -> pa.Table:
    return pq.read_table(file, page_checksum_verification=True)


def _unwritable(path: Path, error: OSError) -> BenchmarkError:
    return BenchmarkError(
        f"Can't write the results '{path}': {error.strerror or error}. Finished cells are kept: "
        "run the same command again to continue."
    )
