"""Turn the bytes of one image into uint8 pixels of the backbone's input size.

How that is done is recorded in `twostage.pixels`: change both together.
"""

import io
import math
import os
import stat
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from twostage.errors import ImageError

_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
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


def read_bytes(path: str | Path) -> tuple[bytes, os.stat_result]:
    """Read a file and what the file system says of it at that moment.

    Raises
    ------
    ImageError
        Of kind ``read``, if the bytes can't be had.
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
    except OSError as error:
        raise ImageError("read", (error.strerror or str(error)).lower()) from None


def decode(data: bytes, size_px: int, resize: str = "crop") -> tuple[np.ndarray, int, int]:
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

    Returns
    -------
    pixels : uint8 array of shape (size_px, size_px, 3)
        RGB, upright (EXIF orientation applied), transparent parts on white.
    width, height : int
        Of the whole upright image.

    Raises
    ------
    ImageError
        Of kind ``decode``.
    """
    if not data:
        raise ImageError("decode", "the file is empty")
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            width, height = image.size
            scale = _scale(width, height, size_px, resize)
            # A JPEG decodes at 1/2, 1/4 or 1/8 for a fraction of the cost.
            image.draft(None, (math.ceil(width * scale[0]), math.ceil(height * scale[1])))
            image.load()
            turn = _TURNS.get(_orientation(image))
            upright = image if turn is None else image.transpose(turn)
            pixels = _to_square(_to_rgb(upright), size_px, resize)
    except Image.DecompressionBombError:
        raise ImageError("decode", "too many pixels (a decompression bomb?)") from None
    except UnidentifiedImageError:
        raise ImageError("decode", "not an image, or of an unknown format") from None
    except Exception as error:  # decoders raise whatever they like on damaged files
        raise ImageError("decode", _first_line(error)) from None
    if turn in _LYING:
        width, height = height, width
    return np.asarray(pixels), width, height


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


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy it


def _to_8_bit(values: np.ndarray) -> np.ndarray:
    """Scale 16-bit grey to 8 bits; Pillow itself would clip everything above 255 to white."""
    if values.dtype.kind == "f":
        values = np.nan_to_num(values)
        scaled = values * (255 if values.max() <= 1 else 1)
    else:
        scaled = values // 257
    return np.asarray(np.clip(scaled, 0, 255), np.uint8)


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


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:100].lower()
