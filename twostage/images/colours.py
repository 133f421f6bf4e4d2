"""Bring the colours of a decoded image, whatever its mode, to 8 bits of red, green and blue."""

from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from twostage.errors import ImageError

_GREY_STEPS = {"L;2": 85, "L;4": 17}  # of PNGs, in Pillow's words
_WITH_ALPHA = ("RGBA", "LA", "PA", "RGBa", "La")
_WHITES = (1, 255, 65_535, 2**31 - 1, 2**32 - 1)  # of numbers whose format does not say it
_WIDTH, _HEIGHT, _BITS, _PHOTOMETRIC, _PLANES, _SAMPLES = 256, 257, 258, 262, 284, 339  # of TIFF
_WHITE_IS_ZERO, _SEPARATE, _SIGNED = 0, 2, 2


def check_layout(image: ImageFile) -> None:
    """Raise ImageError of an opened image that Pillow would decode to wrong pixels."""
    if image.format != "TIFF":
        return
    boxes = [tile.extents for tile in image.tile if tile.extents is not None]
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    if right < _tag(image, _WIDTH) or bottom < _tag(image, _HEIGHT):
        raise ImageError("decode", "a damaged tiff: a part of the image is missing")
    is_separate = _tag(image, _PLANES) == _SEPARATE and 16 in (_tag(image, _BITS) or ())
    if is_separate and any(tile.codec_name == "raw" for tile in image.tile):
        raise ImageError("decode", "uncompressed 16-bit tiff in separate planes")


def transparent_colour(image: ImageFile) -> Any:
    """Return which colour of an opened image is transparent, as its pixels have it when decoded.

    Pillow leaves it in the depth of the file: a PNG of 2, 4 or 16 bits has pixels of 8.
    """
    key = image.info.get("transparency")
    if key is None or image.format != "PNG" or not image.tile:
        return key
    depth = image.tile[0].args
    if depth in _GREY_STEPS:
        return key * _GREY_STEPS[depth]
    return tuple(value >> 8 for value in key) if depth == "RGB;16B" else key


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image: deep grey is scaled, transparent parts lie on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(image)).convert("RGB")
    if image.mode in _WITH_ALPHA or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")  # convert would copy it


def _to_8_bit(image: Image.Image) -> np.ndarray:
    """Scale deep grey, so that its white becomes 255; Pillow itself would clip what is above."""
    values = np.asarray(image)
    white = None
    if image.mode.startswith("I;16"):
        white = 4095 if _tag(image, _BITS) == (12,) else 65_535
    elif image.mode == "I" and _tag(image, _SAMPLES) != (_SIGNED,):
        values = values.view(np.uint32)
    grey = _scaled(values, white)
    if _tag(image, _PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[values == image.info["transparency"]] = 255
    return grey


def _scaled(values: np.ndarray, white: int | None) -> np.ndarray:
    """Scale to 8 bits; without a known white, by the least usual one that no value exceeds."""
    finite = np.isfinite(values)
    top = float(values.max(where=finite, initial=0))
    if white is None:
        white = next((usual for usual in _WHITES if top <= usual), int(top))
    scaled = values.astype(np.float32)  # then in place: the image may be large
    np.nan_to_num(scaled, copy=False, nan=0, posinf=white, neginf=0)
    with np.errstate(over="ignore"):  # clipped just after
        scaled *= 255
    scaled /= white
    return np.clip(scaled, 0, 255, out=scaled).astype(np.uint8)


def _tag(image: Image.Image, number: int) -> Any:
    """Return what a TIFF file says of itself; None of any other file."""
    return getattr(image, "tag_v2", {}).get(number)
