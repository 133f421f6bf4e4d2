"""Small pictures of a table's images, to stand in the page itself."""

import base64
import io
import os
from collections.abc import Iterable
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
        self._made: dict[str, str | None] = {}

    def of(self, name: str | None) -> str | None:
        """Return a picture as a data URI, cut square; None if its file is not there or damaged."""
        if name is None:
            return None
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    @property
    def n_bytes(self) -> int:
        """Of all pictures made so far."""
        return sum(len(uri) for uri in self._made.values() if uri)

    def _make(self, name: str) -> str | None:
        from PIL import Image

        reference = self._references.get(name)
        if reference is None and Path(name).is_absolute():
            reference = reference_to("", name)
        if reference is None or reference.size_bytes is None:
            return None
        try:
            data, _, _ = read(reference)
            pixels, _, _ = decode(data, SIDE_PX, "crop")
        except ImageError:
            return None
        sink = io.BytesIO()
        Image.fromarray(pixels).save(sink, "WEBP", quality=_QUALITY, method=4)
        return "data:image/webp;base64," + base64.b64encode(sink.getvalue()).decode("ascii")
