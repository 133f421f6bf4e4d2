"""Images with labels: each content once, its pixels on disk, and which must not be separated."""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd

from twostage.errors import DataError, ImagesError
from twostage.images.loading import ImageLoader, LoadedImage
from twostage.images.places import open_place
from twostage.images.references import Reference
from twostage.joins import image_names
from twostage.pixels import MAX_PIXELS
from twostage.splits import link_groups
from twostage.table.files import require_column
from twostage.targets import Target
from twostage.throughput import StageClock
from twostage.training.data import array_on_disk

Progress = Callable[[int, int], None]
_IMAGES_AHEAD = 64


@dataclass(frozen=True)
class LabelledImages:
    """Images with labels.

    Attributes
    ----------
    pixels : uint8 array of shape (n, size, size, 3)
        On disk.
    hashes : list of str
        Content hash of each; all differ.
    y : array of shape (n,)
        Class numbers, or values.
    groups : int array of shape (n,)
        Images of equal numbers must not be separated.
    group_values : list of lists of str
        Values of the group column, of the rows that name an image.
    n_rows_left_out : int
        Rows without a usable image.
    first_error : str or None
        Why, of the first unusable image, or else the first row that names none.
    note : str or None
        What was done to the table's image names to find the files.
    """

    pixels: np.ndarray
    hashes: list[str]
    y: np.ndarray
    groups: np.ndarray
    group_values: list[list[Any]]
    n_rows_left_out: int
    first_error: str | None
    note: str | None

    def __len__(self) -> int:
        return len(self.hashes)


@dataclass(frozen=True)
class LoadedPixels:
    """A table's images, decoded.

    Attributes
    ----------
    pixels : uint8 array of shape (n, size, size, 3)
        On disk; each content once.
    rows_of : dict of str to list of int
        By content hash, in the order of ``pixels``, the rows that name the image.
    first_error : str or None
        Why, of the first unusable image.
    note : str or None
        What was done to the table's image names to find the files.
    """

    pixels: np.ndarray
    rows_of: dict[str, list[int]]
    first_error: str | None
    note: str | None


def load_labelled(
    frame: pd.DataFrame,
    image_columns: Sequence[str],
    folder: str | os.PathLike[str],
    target: Target,
    groups: Sequence[Any],
    workspace: Path,
    *,
    size_px: int,
    resize: str,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
) -> LabelledImages:
    """Decode a table's images, and give each the label of its row.

    Parameters
    ----------
    frame : DataFrame of shape (n_rows, n_columns)
        Its image columns name images.
    image_columns : sequence of str
        Their names.
    folder : path-like
        What names start from, or another place that `twostage.images.places.open_place` knows.
    target : Target
        Of n_rows.
    groups : sequence of length n_rows, or empty
        Group values.
    workspace : path
        Where the pixels are kept.
    size_px, resize
        How images become squares.
    workers : int, optional
        Threads that decode; as many as there are cores if None.
    max_pixels : int
        Larger images are not decoded.
    progress : callable, optional
        Called with the number of images done and to do.

    Raises
    ------
    DataError
        If an image has two labels.
    ImagesError
        If none can be used.
    """
    loaded = load_pixels(
        frame,
        image_columns,
        folder,
        workspace,
        size_px=size_px,
        resize=resize,
        workers=workers,
        max_pixels=max_pixels,
        progress=progress,
        target=target,
    )
    rows_by_image = list(loaded.rows_of.values())
    left_out = sorted(set(range(len(frame))).difference(*rows_by_image))
    first_error = loaded.first_error
    if left_out and first_error is None:
        first_error = f"row {left_out[0] + 1} names no image"
    values = [_values(groups, rows) for rows in rows_by_image]
    return LabelledImages(
        loaded.pixels,
        list(loaded.rows_of),
        target.y[[rows[0] for rows in rows_by_image]],
        link_groups(len(rows_by_image), rows_by_image, values),
        values,
        len(left_out),
        first_error,
        loaded.note,
    )


def load_pixels(
    frame: pd.DataFrame,
    image_columns: Sequence[str],
    folder: str | os.PathLike[str],
    workspace: Path,
    *,
    size_px: int,
    resize: str,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    progress: Progress | None = None,
    target: Target | None = None,
) -> LoadedPixels:
    """Decode a table's images, each content once.

    Parameters
    ----------
    frame, image_columns, folder, workspace, size_px, resize, workers, max_pixels, progress
        As for `load_labelled`.
    target : Target, optional
        Labels of the rows, if an image must not have two.

    Raises
    ------
    DataError
        If an image has two labels.
    ImagesError
        If none can be used.
    """
    rows_of, references, note = _references(frame, image_columns, folder)
    pixels = array_on_disk(workspace / "pixels", (len(references), size_px, size_px, 3), np.uint8)
    found: dict[str, list[int]] = {}
    first_name: dict[str, str] = {}
    first_error = None
    n_threads = workers or joblib.cpu_count()
    clock = StageClock(n_threads, joblib.cpu_count())
    with ImageLoader(size_px, resize, n_threads, _IMAGES_AHEAD, clock, max_pixels) as loader:
        for number, image in enumerate(loader.load(references.values(), known=found)):
            rows = rows_of[image.image]
            if image.error is not None:
                first_error = first_error or f"'{image.image}': {image.error}"
            else:
                if target is not None:
                    _check_label(image, rows, found, first_name, target)
                _note(image, rows, found, first_name, pixels)
            if progress is not None:
                progress(number + 1, len(references))
    if not found:
        raise ImagesError(
            f"None of the {len(references)} images can be used; first: {first_error}. Check the "
            "paths in the table and the folder that they start from."
        )
    return LoadedPixels(pixels[: len(found)], found, first_error, note)


def _values(groups: Sequence[Any], rows: Sequence[int]) -> list[Any]:
    """Return the group values of rows, those that there are."""
    return [groups[row] for row in rows if not pd.isna(groups[row])] if len(groups) else []


def _references(
    frame: pd.DataFrame, image_columns: Sequence[str], folder: str | os.PathLike[str]
) -> tuple[dict[str, list[int]], dict[str, Reference], str | None]:
    """Return by the name of each file the rows that name it, and what is at it."""
    named: dict[str, list[int]] = {}
    for column in image_columns:
        for row, names in enumerate(image_names(require_column(frame, column, "image"))):
            for name in names:
                named.setdefault(name, []).append(row)
    found, note = open_place(folder).find_images(named)
    rows_of: dict[str, list[int]] = {}
    for name, rows in named.items():
        rows_of.setdefault(found[name].image, []).extend(rows)
    if not rows_of:
        raise ImagesError("The table names no image: its image column is empty.")
    return rows_of, {reference.image: reference for reference in found.values()}, note


def _note(
    image: LoadedImage,
    rows: Iterable[int],
    found: dict[str, list[int]],
    first_name: dict[str, str],
    pixels: np.ndarray,
) -> None:
    content_hash = str(image.content_hash)
    if image.pixels is not None and content_hash not in found:
        pixels[len(found)] = image.pixels
    first_name.setdefault(content_hash, image.image)
    found.setdefault(content_hash, []).extend(rows)


def _check_label(
    image: LoadedImage,
    rows: Sequence[int],
    found: dict[str, list[int]],
    first_name: dict[str, str],
    target: Target,
) -> None:
    """Refuse an image that has two labels."""
    before = found.get(str(image.content_hash), [])
    all_rows = [*before, *rows]
    labels = {target.y[row]: row for row in reversed(all_rows)}
    if len(labels) == 1:
        return
    (one, a), (other, b), *_ = sorted(labels.items(), key=lambda item: item[1])
    names = [str(one), str(other)]
    if target.classes is not None:
        names = [str(target.classes[int(label)]) for label in (one, other)]
    copy = first_name.get(str(image.content_hash), image.image)
    copies = "" if copy == image.image else f", a copy of '{copy}',"
    raise DataError(
        f"Image '{image.image}'{copies} has two labels: {names[0]} in row {a + 1}, {names[1]} in "
        f"row {b + 1}. Correct the table: an image can teach only one."
    )
