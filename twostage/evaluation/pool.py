"""Cells side by side in processes that share the cores."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import starmap

import joblib

from twostage.errors import UsageError
from twostage.evaluation.arms import Arm
from twostage.evaluation.cells import CellResult, run_cell
from twostage.evaluation.resampling import Fold
from twostage.rows import TrainingRows
from twostage.targets import Target

Work = tuple[Arm, Fold]


def run_cells(
    work: Sequence[Work],
    rows: Mapping[str, TrainingRows],
    target: Target,
    n_permutations: int = 0,
    n_jobs: int | None = None,
) -> Iterator[CellResult]:
    """Yield the results of cells as they are finished.

    Parameters
    ----------
    work : sequence of (Arm, Fold)
        What to compute.
    rows : mapping of str to TrainingRows
        All rows, by the name of the store; those of "" have no images.
    target : Target
        Of all rows.
    n_permutations : int
        For the importance of blocks and columns; none if 0.
    n_jobs : int, optional
        Processes; as many as there are cores, but no more than cells, if None. Each gets its share
        of the cores. What is computed does not depend on it.

    Raises
    ------
    BenchmarkError
        Of the first cell that goes wrong; the others are stopped.
    """
    n_cores = int(joblib.cpu_count())
    if n_jobs is not None and n_jobs < 1:
        raise UsageError(f"The number of jobs is {n_jobs}; give 1 or more.")
    n_jobs = max(1, min(n_jobs or n_cores, len(work)))
    if n_jobs == 1:
        tasks = ((arm, fold, rows[arm.store], target, n_permutations) for arm, fold in work)
        yield from starmap(run_cell, tasks)
        return
    n_threads = max(1, n_cores // n_jobs)
    with joblib.parallel_config("loky", inner_max_num_threads=n_threads):
        # Arrays are shared by memory maps; one task at a time, for cells take seconds each.
        pool = joblib.Parallel(n_jobs, return_as="generator_unordered", batch_size=1)
        yield from pool(
            joblib.delayed(run_cell)(arm, fold, rows[arm.store], target, n_permutations, n_threads)
            for arm, fold in work
        )
