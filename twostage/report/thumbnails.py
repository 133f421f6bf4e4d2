"""Small pictures of a table's images, to stand in the page itself."""

import base64
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from twostage.errors import ImageError
from twostage.images.decoding import decode
from twostage.images.loading import read
from twostage.images.places import open_place
from twostage.images.references import Reference, reference_to

SIDE_PX = 160
_QUALITY = 62


class Thumbnails:
    """The pictures of images, as far as their files are there.

    Parameters
    ----------
    folder : path-like or None
        What relative names start from, or another place that `twostage.images.places.open_place`
        knows. Without one only absolute names lead to files.
    names : iterable of str
        Names as the table has them: where none is below the folder as it is, one change of prefix
        that serves them is looked for.
    """

    def __init__(self, folder: str | os.PathLike[str] | None, names: Iterable[str]):
        self.folder = folder
        self._references: dict[str, Reference] = {}
        if folder is not None:
            self._references = open_place(folder).find_images(names)[0]
        self._made: dict[tuple[str, bool], str | None] = {}

    def of(self, name: str | None) -> str | None:
        """Return a picture as a data URI, cut square; None if its file is not there or damaged."""
        return None if name is None else self._once(name, False)

    def left_of(self, name: str) -> str | None:
        """Return what can still be seen of a damaged file, as `of` does; None if nothing can."""
        return self._once(name, True)

    def _once(self, name: str, is_damaged: bool) -> str | None:
        key = (name, is_damaged)
        if key not in self._made:
            self._made[key] = self._make(*key)
        return self._made[key]

    def _make(self, name: str, is_damaged: bool) -> str | None:
        from PIL import Image

        reference = self._references.get(name)
        if reference is None and Path(name).is_absolute():
            reference = reference_to("", name)
        if reference is None or reference.size_bytes is None:
            return None
        try:
            data, _, _ = read(reference)
            with _truncated_files_read(is_damaged):
                pixels, _, _ = decode(data, SIDE_PX, "crop")
        except ImageError:
            return None
        if is_damaged and (pixels == pixels[0, 0]).all():
            return None  # the decoder's filling
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "WEBP", quality=_QUALITY, method=4)
        return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


@contextmanager
def _truncated_files_read(is_wanted: bool) -> Iterator[None]:
    """Let Pillow give what it has decoded where a file ends early."""
    from PIL import ImageFile

    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = is_wanted
    try:
        yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before
