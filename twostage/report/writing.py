"""From a results folder to a file that can be sent: read, analyse, render, write."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from twostage.errors import BenchmarkError, TwoStageError, UsageError, first_line
from twostage.report.analysis import MOST_ARMS, Analysis, analyse
from twostage.report.evidence import predictions_of, read_evidence
from twostage.report.gallery import Album
from twostage.report.model_page import is_model, make_model_page
from twostage.report.page import import_jinja, make_page
from twostage.report.plots import check_matplotlib, write_plots
from twostage.report.stored import Stored, find_store, look_up
from twostage.report.thumbnails import Thumbnails
from twostage.store.files import replace_file

PathLike = str | os.PathLike[str]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes
    ----------
    path : Path
        The page.
    n_bytes : int
        Its size.
    plots : list of Path
        Files of plots.
    """

    path: Path
    n_bytes: int
    plots: list[Path]


def write_report(
    results: PathLike,
    output: PathLike,
    *,
    images: PathLike | None = None,
    store: PathLike | None = None,
    plots: PathLike | None = None,
    title: str | None = None,
    told: Callable[[str], None] | None = None,
) -> Written:
    """Write the report of a benchmark, or the shorter one of a model, as one HTML file.

    Parameters
    ----------
    results : path-like
        A results folder, as `twostage.benchmark` writes it, or a model's folder.
    output : path-like
        The file; it is written whole or not at all.
    images : path-like, optional
        Folder of the images, for thumbnails.
    store : path-like, optional
        The store of embeddings, for the map; where the benchmark found it, or beside the results,
        it is found without.
    plots : path-like, optional
        Folder for the plots as SVG and PNG files.
    title : str, optional
        In place of the question about the target.
    told : callable, optional
        Is given notes about what is left out.

    Returns
    -------
    Written

    Raises
    ------
    UsageError
        If Jinja2, or for plots matplotlib, is not installed, or a path can't be used.
    BenchmarkError
        If the folder holds no finished benchmark.
    ModelError
        If it holds a model that is damaged.
    """
    import_jinja()
    check_output(output)
    if is_model(results):
        if images is not None or store is not None or plots is not None:
            raise UsageError(
                f"'{results}' is a model, of which there are neither pictures nor plots: leave "
                "--images, --store and --plots out. With RESULTS of 'twostage benchmark' they work."
            )
        page = make_model_page(results, title)
        write_page(page, output)
        return Written(Path(output), len(page), [])
    if plots is not None:
        check_matplotlib()
    with _damage_told(results):
        analysis, album = _analyse(results, images, store)
        for note in _notes(analysis, album):
            if told is not None:
                told(note)
        made = _write_plots(analysis, plots)
        page = make_page(analysis, album, title)
    write_page(page, output)
    return Written(Path(output), len(page), made)


@contextmanager
def _damage_told(results: PathLike) -> Iterator[None]:
    """Raise BenchmarkError where records and tables of results do not fit each other."""
    try:
        yield
    except TwoStageError:
        raise
    except Exception as error:  # from whatever is computed and drawn from them
        raise BenchmarkError(
            f"The results in '{results}' can't be shown: their files do not fit each other "
            f"({type(error).__name__}: {first_line(error)}). Run the benchmark again into a new "
            "folder."
        ) from error


def check_output(output: PathLike) -> None:
    """Raise UsageError if a file can't be written there."""
    path = Path(output)
    if path.is_dir():
        raise UsageError(f"'{output}' is a folder. Give a file, such as report.html.")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"The folder of '{output}' does not exist. Make it first.")


def write_page(page: bytes, output: PathLike) -> None:
    """Write a page whole or not at all."""
    try:
        replace_file(Path(output).absolute(), page)
    except OSError as error:
        raise UsageError(
            f"Can't write '{output}': {error.strerror or error}. Give another file."
        ) from error


def _analyse(
    results: PathLike, images: PathLike | None, store: PathLike | None
) -> tuple[Analysis, Album]:
    evidence = read_evidence(results)
    ranked = evidence.ranked()
    arms = [predictions_of(evidence, str(arm)) for arm in ranked["arm"].iloc[:MOST_ARMS]]
    best = arms[0]
    columns = [name for name in evidence.settings.get("image_columns") or [] if name in best.frame]
    names = [str(name) for column in columns for name in best.frame[column].dropna()]
    pictures = Thumbnails(images, names)
    # The best arm may see no images: then the first store tells about them.
    stores = [one["name"] for one in evidence.run["stores"]]
    name = str(ranked["store"].iloc[0]) or (stores[0] if stores else "")
    opened = find_store(evidence, name, store)
    stored: Stored | None = None
    if opened is not None and columns:
        stored = look_up(opened, name, best.frame, columns)
        if stored is None and store is not None:
            raise UsageError(
                f"Store '{store}' holds no image of the benchmark's rows. Give the one that the "
                "benchmark was run on."
            )
    return analyse(evidence, ranked, arms, stored), Album(best, columns, pictures)


def _notes(analysis: Analysis, album: Album) -> list[str]:
    if not album.columns:
        return []
    notes = []
    if analysis.stored is None and analysis.evidence.run["stores"]:
        notes.append("The store was not found: no map of the embeddings. Give it with --store.")
    if not any(card.picture for card in album.worst().cards):
        notes.append("No image files were found: no thumbnails. Give their folder with --images.")
    return notes


def _write_plots(analysis: Analysis, folder: PathLike | None) -> list[Path]:
    if folder is None:
        return []
    try:
        return write_plots(analysis, Path(folder))
    except OSError as error:
        raise UsageError(
            f"Can't write plots to '{folder}': {error.strerror or error}. Give another folder."
        ) from error
