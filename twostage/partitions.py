"""Predictions for a table in many files: each file is a unit of work, here or on a Ray cluster."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twostage.errors import DataError, ExecutorError, StoreError, UsageError, listed
from twostage.executors.local import LocalExecutor
from twostage.executors.ray import Progress, RayExecutor, RayOptions, ReadyWorker
from twostage.model import read_model
from twostage.sources import blocks_from_store, check_usable
from twostage.staged import AnyModel
from twostage.store.holdings import Holdings
from twostage.store.store import EmbeddingStore
from twostage.table.files import is_hidden, read_table, table_files, write_table


@dataclass(frozen=True)
class Partition:
    """A file of the table.

    Attributes
    ----------
    table : str
        The file.
    output : str
        Where its predictions go.
    """

    table: str
    output: str

    @property
    def images(self) -> tuple[str]:
        """What is counted, and not divided: the file."""
        return (self.table,)


@dataclass(frozen=True)
class PartitionRecord:
    """What was predicted for a file.

    Attributes
    ----------
    output : str
        Where the predictions are.
    n_rows, n_errors : int
        Rows, and those with an unusable image.
    first_error : str or None
        Of the first of those.
    """

    output: str
    n_rows: int
    n_errors: int
    first_error: str | None


@dataclass(frozen=True)
class PredictionRecipe:
    """Makes what predicts for files, wherever it is called.

    Attributes
    ----------
    model : str
        The model's folder.
    store : str or None
        The store that has the embeddings; None if the model looks at no images.
    """

    model: str
    store: str | None

    def __call__(self, progress: Progress) -> ReadyWorker[Partition, PartitionRecord]:
        """Open the model and the store."""
        model = read_model(self.model)
        store = None if self.store is None else Holdings(EmbeddingStore(self.store))

        def run(partitions: Iterable[Partition]) -> Iterator[PartitionRecord]:
            for partition in partitions:
                yield _predict(model, store, partition)

        return ReadyWorker(run, "CPU")


def find_partitions(table: Path, output: Path) -> list[Partition]:
    """List the files of a table, and where the predictions of each go: to a file of its name.

    Raises
    ------
    UsageError
        If the folder for the predictions holds anything else.
    DataError
        If the table has no files.
    """
    names = [file.relative_to(table) for file in table_files(table)]
    if output.exists() and not output.is_dir():
        raise UsageError(f"'{output}' is a file. Give a folder for the predictions of '{table}'.")
    others = {file.relative_to(output) for file in output.rglob("*") if file.is_file()}
    strange = sorted(str(name) for name in others - set(names) if not is_hidden(name))
    if strange or output.resolve() == table.resolve():
        found = listed(strange) if strange else "the table itself"
        raise UsageError(f"'{output}' holds {found}. Give a new folder for the predictions.")
    return [Partition(os.path.abspath(table / n), os.path.abspath(output / n)) for n in names]


def predict_partitions(
    model: str,
    store: str | None,
    partitions: list[Partition],
    cluster: RayOptions | None = None,
    progress: Progress | None = None,
) -> list[PartitionRecord]:
    """Predict for each file of a table; each file of predictions is written whole or not at all.

    Parameters
    ----------
    model : str
        The model's folder.
    store : str or None
        The store, a folder or URL, that has the embeddings.
    partitions : list of Partition
        See `find_partitions`.
    cluster : RayOptions, optional
        The Ray cluster whose workers predict; this process if None.
    progress : callable, optional
        Called with the number of files done and the number to do.

    Raises
    ------
    StoreError
        If the store's backbone is another one than the model's.
    ExecutorError
        If the cluster's workers can't work, or write where this process can't see it.
    """
    for partition in partitions:
        Path(partition.output).parent.mkdir(parents=True, exist_ok=True)
    where = None if store is None else EmbeddingStore(store).files.address
    recipe = PredictionRecipe(os.path.abspath(model), where)
    records: list[PartitionRecord] = []
    for record in _run(recipe, partitions, cluster):
        if not Path(record.output).is_file():
            raise ExecutorError(
                f"A worker wrote '{record.output}', and it is not there. Give a folder that all "
                "nodes share for the predictions."
            )
        records.append(record)
        if progress is not None:
            progress(len(records), len(partitions))
    return records


def _run(
    recipe: PredictionRecipe, partitions: list[Partition], cluster: RayOptions | None
) -> Iterator[PartitionRecord]:
    if cluster is None:
        return LocalExecutor().run(recipe(lambda n, of: None).run, partitions)
    executor: RayExecutor[Partition, PartitionRecord] = RayExecutor(cluster, _split, _condemn)
    return executor.run(recipe, partitions)


def _predict(model: AnyModel, store: Holdings | None, partition: Partition) -> PartitionRecord:
    """Predict for one file. An error says which one it was."""
    try:
        frame = read_table(partition.table)
        seen: Any = model.look(lambda spec: _blocks(model, store, frame))
        check_usable(model.blocks_in(seen))
        predictions = model.prediction_table(frame, seen)
        write_table(predictions, partition.output)
    except DataError as error:
        raise DataError(f"{partition.table}: {error}") from error
    errors = predictions["error"].dropna()
    first = None if errors.empty else str(errors.iloc[0])
    return PartitionRecord(partition.output, len(predictions), len(errors), first)


def _blocks(model: AnyModel, store: Holdings | None, frame: Any) -> Any:
    if store is None:
        raise StoreError("The model looks at images: give the store that has them.")
    pooling = model.settings.image_pooling
    return blocks_from_store(frame, list(model.dims), store, must_match=False, pooling=pooling)[0]


def _split(partition: Partition) -> tuple[Partition, Partition]:
    raise AssertionError("a file is one, and not divided")


def _condemn(partition: Partition, _n_before: int) -> Partition:
    raise ExecutorError(
        f"'{partition.table}' kills the workers that predict for it; most often it is too large "
        "for their memory. Write the table in smaller files."
    )
