"""Turn the bytes of one image into uint8 pixels of the backbone's input size.

How that is done is recorded in `twostage.pixels`: change both together.
"""

import io
import math
import os
import re
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.ImageFile import ImageFile

from twostage.errors import ImageError
from twostage.images.colours import check_layout, to_rgb, transparent_colour
from twostage.pixels import MAX_PIXELS

# Whatever the name says. Pillow knows more, some of which start other programs (EPS: Ghostscript).
_FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
_ORIENTATION = 0x0112  # the EXIF tag
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_LYING = tuple(_TURNS[orientation] for orientation in (5, 6, 7, 8))  # swap width and height
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_SCAN, _END_OF_IMAGE = b"\xff\xda", b"\xff\xd9"
_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")  # those that are not within a scan
_OF_ONE_FILE = re.compile(r" \(\d+ bytes not processed\)")
_MOST_SCANS = 100  # ten or so are usual
_LARGE_PX = 50_000_000
_ONE_LARGE = threading.Lock()  # a large image takes a gigabyte: never one per thread


class _Limit:
    """Pillow's own limit on pixels, which is one for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n_lifting = 0
        self._was: int | None = None

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Lift it for a while, which may overlap with others' in other threads."""
        with self._lock:
            if self._n_lifting == 0:
                self._was, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            self._n_lifting += 1
        try:
            yield
        finally:
            with self._lock:
                self._n_lifting -= 1
                if self._n_lifting == 0:
                    Image.MAX_IMAGE_PIXELS = self._was


_PILLOWS_LIMIT = _Limit()


def read_bytes(path: str | Path) -> tuple[bytes, os.stat_result]:
    """Read a file and what the file system says of it at that moment.

    Raises
    ------
    ImageError
        Of kind ``read``, if the bytes can't be had; of kind ``limit``, if they fill the memory.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # to open a pipe would wait for ever
            raise ImageError("read", "a folder or a device, not a file")
        with open(path, "rb") as file:
            return file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        raise ImageError("read", "no such file") from None
    except ValueError:
        raise ImageError("read", "not a possible path") from None
    except MemoryError:
        raise ImageError("limit", "not enough memory") from None
    except OSError as error:
        raise ImageError("read", (error.strerror or str(error)).lower()) from None


def decode(
    data: bytes, size_px: int, resize: str = "crop", max_pixels: int = MAX_PIXELS
) -> tuple[np.ndarray, int, int]:
    """Decode an image and bring it to a square of ``size_px``.

    Parameters
    ----------
    data : bytes
        A whole JPEG, PNG, GIF, WebP, BMP, TIFF or AVIF file; of several frames the first counts.
    size_px : int
        Height and width of the result.
    resize : {"crop", "squash", "pad"}
        ``crop`` scales the shorter side and cuts the centre, ``squash`` changes the aspect ratio,
        ``pad`` scales the longer side and fills with black.
    max_pixels : int
        Larger images are not decoded. Pillow's own limit does not count meanwhile.

    Returns
    -------
    pixels : uint8 array of shape (size_px, size_px, 3)
        RGB, upright (EXIF orientation applied), transparent parts on white.
    width, height : int
        Of the whole upright image.

    Raises
    ------
    ImageError
        Of kind ``limit`` if it is too large for ``max_pixels`` or for the memory, else of kind
        ``decode``.
    """
    if not data:
        raise ImageError("decode", "the file is empty")
    try:
        with _PILLOWS_LIMIT.lifted(), Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            return _decode(image, data, size_px, resize, max_pixels)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("limit", "not enough memory") from None
    except UnidentifiedImageError:
        raise ImageError("decode", _what_it_may_be(data)) from None
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise ImageError("decode", _reason(error, data)) from None


def _decode(
    image: ImageFile, data: bytes, size_px: int, resize: str, max_pixels: int
) -> tuple[np.ndarray, int, int]:
    width, height = image.size
    _check_costs(image, data, max_pixels)
    check_layout(image)
    scale = _scale(width, height, size_px, resize)
    # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the cost.
    image.draft(None, (math.ceil(width * scale[0]), math.ceil(height * scale[1])))
    key = transparent_colour(image)
    is_large = math.prod(image.size) > _LARGE_PX or "progressive" in image.info
    with _ONE_LARGE if is_large and width * height > _LARGE_PX else nullcontext():
        image.load()
        if key is not None:
            image.info["transparency"] = key
        turn = _TURNS.get(_orientation(image))
        rgb = to_rgb(image)
        pixels = _to_square(rgb if turn is None else rgb.transpose(turn), size_px, resize)
    if turn in _LYING:
        width, height = height, width
    return np.asarray(pixels), width, height


def _check_costs(image: Image.Image, data: bytes, max_pixels: int) -> None:
    """Raise ImageError of an opened image that takes more memory or time than is sane."""
    n_pixels = math.prod(image.size)
    if n_pixels == 0:
        raise ImageError("decode", "an image without pixels")
    if n_pixels > max_pixels:
        raise ImageError("limit", f"{n_pixels:,} pixels; max-pixels allows {max_pixels:,}")
    if image.format in ("JPEG", "MPO") and _has_too_many_scans(data):
        raise ImageError("decode", "a jpeg of more scans than any camera or program writes")


def _has_too_many_scans(data: bytes) -> bool:
    """Whether a JPEG goes over its pixels again and again: kilobytes that take hours."""
    if data.count(_SCAN) <= _MOST_SCANS:  # most often: that is quick
        return False
    position, n_scans = 2, 0
    while (marker := _MARKER.search(data, position)) is not None:
        if marker[0] == _END_OF_IMAGE:
            break
        n_scans += marker[0] == _SCAN
        length = int.from_bytes(data[marker.end() : marker.end() + 2], "big")
        position = marker.end() + length  # what a thumbnail or a film in it has does not count
    return n_scans > _MOST_SCANS


def _scale(width: int, height: int, size_px: int, resize: str) -> tuple[float, float]:
    """Return the factors on width and height that the resize policy applies."""
    if resize == "squash":
        return size_px / width, size_px / height
    side = min(width, height) if resize == "crop" else max(width, height)
    return size_px / side, size_px / side


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1, upright, where the EXIF data is damaged."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # as with damaged pixels
        return 1


def _to_square(image: Image.Image, size_px: int, resize: str) -> Image.Image:
    size = (size_px, size_px)
    if resize == "pad":
        return _pad(image, size_px)
    if resize == "squash":
        return image.resize(size, Image.Resampling.BILINEAR)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(size, Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))


def _pad(image: Image.Image, size_px: int) -> Image.Image:
    scale = size_px / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    square = Image.new("RGB", (size_px, size_px))
    small = image.resize((width, height), Image.Resampling.BILINEAR)
    square.paste(small, (round((size_px - width) / 2), round((size_px - height) / 2)))
    return square


def _what_it_may_be(data: bytes) -> str:
    """Say what the first bytes promise, of a file that Pillow opens as no image."""
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS:
        return "heic, which the decoder does not know; save it as jpeg or avif"
    promised = _promised_format(data)
    if promised is None:
        return "not an image, or of an unknown format"
    return f"a damaged {promised}, or of a kind that the decoder does not know"


def _promised_format(data: bytes) -> str | None:
    Image.init()  # else Pillow knows a format only after a file of it
    for name in _FORMATS:
        accepts = Image.OPEN[name][1] if name in Image.OPEN else None
        if accepts is not None and accepts(data[:16]):
            return name.lower()
    return None


def _reason(error: Exception, data: bytes) -> str:
    """Return what a decoder says, without the numbers of the one file, and of which format."""
    promised = _promised_format(data) or "image"
    if (
        not isinstance(error, (OSError, ValueError, SyntaxError, RuntimeError))
        or not str(error).strip()
    ):
        return f"a damaged {promised} ({type(error).__name__})"
    said = _OF_ONE_FILE.sub("", str(error).strip().splitlines()[0][:100]).lower()
    return said if promised in said else f"{said} ({promised})"
