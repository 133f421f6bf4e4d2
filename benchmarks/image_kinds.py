"""Image files of every kind that twostage meets, each with the pixels that it should become.

What Pillow does not write is put together from its parts here: interlaced PNGs, PNGs of 16 bits,
TIFFs of deep or reversed grey.
"""

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

SIZE = WIDTH, HEIGHT = 120, 90
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2))
_ADAM7 = (*_ADAM7, (0, 1, 1, 2))  # first column and row, steps in both
_ORIENTATION = 0x0112


class Kind(NamedTuple):
    """An image file, and the upright RGB pixels that it shows."""

    data: bytes
    truth: np.ndarray
    tolerance: float = 0.5  # grey levels, on average


def picture() -> Image.Image:
    """Return a smooth picture without symmetry, with some noise."""
    y, x = np.mgrid[:HEIGHT, :WIDTH] / WIDTH
    noise = np.random.default_rng(0).normal(0, 6, (HEIGHT, WIDTH))
    channels = [200 * x + noise, 200 * y - noise, 100 + 80 * np.sin(9 * x * y) + noise]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Return the bytes of a file that Pillow writes."""
    sink = io.BytesIO()
    if more := options.get("append_images"):
        options["append_images"] = [frame.copy() for frame in more]
    if kind == "AVIF":
        options["speed"] = 10
    image.copy().save(sink, kind, **options)  # of copies: to save an image leaves traces in it
    return sink.getvalue()


def png(values: np.ndarray, depth: int, colour: int, key: Sequence[int] = ()) -> bytes:
    """Return a PNG of values of shape (height, width, channels); ``key`` is transparent."""
    height, width, channels = values.shape
    bits = np.unpackbits(values.astype(">u2").view(np.uint8).reshape(height, width * channels, 2))
    bits = bits.reshape(height, width * channels, 16)[..., 16 - depth :]
    rows = np.packbits(bits.reshape(height, -1), axis=1)
    chunks = _chunk(b"tRNS", struct.pack(f">{len(key)}H", *key)) if key else b""
    return _png((width, height), depth, colour, 0, rows, chunks)


def interlaced_png(pixels: np.ndarray) -> bytes:
    """Return a PNG of 8-bit RGB pixels in Adam7's seven passes."""
    passes = [pixels[row::down, column::right] for column, row, right, down in _ADAM7]
    lines = [line.reshape(-1) for rows in passes for line in rows]
    return _png((pixels.shape[1], pixels.shape[0]), 8, 2, 1, lines)


def bomb(n_pixels: int, channels: int, bytes_each: int = 1) -> bytes:
    """Return a small PNG of many pixels, all of them zero."""
    side = int(n_pixels**0.5)
    packer = zlib.compressobj(1)
    row = bytes(1 + side * channels * bytes_each)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return _png_of((side, side), 8 * bytes_each, colour, 0, data)


def _png(
    size: Any, depth: int, colour: int, interlace: int, rows: Any, extra: bytes = b""
) -> bytes:
    data = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return _png_of(size, depth, colour, interlace, data, extra)


def _png_of(
    size: Any, depth: int, colour: int, interlace: int, data: bytes, extra: bytes = b""
) -> bytes:
    header = struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace)
    chunks = _chunk(b"IHDR", header) + extra + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(values: np.ndarray, photometric: int = 1, planar: bool = False, bits: int = 0) -> bytes:
    """Return an uncompressed TIFF of values of shape (height, width, channels).

    Parameters
    ----------
    values : array
        In the byte order of the file.
    photometric : int
        0 white is zero, 1 black is zero, 2 RGB, 5 CMYK.
    planar : bool
        Whether each channel stands for itself.
    bits : int
        Of a value, where they are packed already: of 12 bits, two in three bytes.
    """
    height, width, channels = values.shape
    order = ">" if values.dtype.byteorder == ">" else "<"
    planes = [values[..., i].tobytes() for i in range(channels)] if planar else [values.tobytes()]
    width = width * 8 * values.itemsize // bits if bits else width
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags: dict[int, tuple[str, list[int]]] = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [bits or 8 * values.itemsize] * channels),
        259: ("H", [1]),
        262: ("H", [photometric]),
        273: ("I", [0] * len(planes)),
        277: ("H", [channels]),
        278: ("H", [height]),
        279: ("I", [len(plane) for plane in planes]),
        284: ("H", [2 if planar else 1]),
        339: ("H", [kind] * channels),
    }
    start = 10 + 12 * len(tags) + 4
    for _ in range(2):  # the second knows where the pixels are
        entries, beside = b"", b""
        for tag, (letter, numbers) in tags.items():
            value = struct.pack(f"{order}{len(numbers)}{letter}", *numbers)
            if len(value) > 4:
                value, beside = struct.pack(order + "I", start + len(beside)), beside + value
            field = {"H": 3, "I": 4}[letter]
            entries += struct.pack(order + "HHI", tag, field, len(numbers)) + value.ljust(4, b"\0")
        first = start + len(beside)
        tags[273] = ("I", [first + sum(map(len, planes[:i])) for i in range(len(planes))])
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return head + entries + struct.pack(order + "I", 0) + beside + b"".join(planes)


def on_white(rgba: Image.Image) -> np.ndarray:
    """Return the pixels of a picture with alpha before white, computed by hand."""
    values = np.asarray(rgba).astype(float)
    alpha = values[..., 3:] / 255
    return np.rint(values[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


def kinds() -> dict[str, dict[str, Kind]]:
    """Return files that can be decoded, by the kind that docs/images.md names and a short name."""
    image = picture()
    rgb, grey = np.asarray(image), np.asarray(image.convert("L"))
    grey_rgb = np.repeat(grey[..., None], 3, axis=2)
    other = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    clear = image.convert("RGBA")
    clear.putalpha(
        Image.fromarray(np.repeat(np.linspace(0, 255, WIDTH)[None], HEIGHT, 0)).convert("L")
    )
    palette = image.quantize(64)
    in_palette = np.asarray(palette.convert("RGB"))
    keyed = palette.copy()
    keyed.info["transparency"] = 5
    without_5 = in_palette.copy()
    without_5[np.asarray(palette) == 5] = 255
    frames: dict[str, Any] = {"save_all": True, "append_images": [other]}
    deep, deep_rgb = grey[..., None].astype(np.uint16) * 257, rgb.astype(np.uint16) * 257
    cmyk = image.convert("CMYK")
    adobe = encoded(cmyk, "JPEG", quality=95)
    marker = adobe.index(b"\xff\xee")
    turned = {}
    for kind in ("JPEG", "PNG", "WEBP", "AVIF", "TIFF"):
        for orientation in range(1, 9):
            turned[f"{kind} {orientation}"] = _turned(rgb, kind, orientation)
    return {
        "JPEG": {
            "colour": Kind(encoded(image, "JPEG", quality=95, subsampling=0), rgb, 1),
            "subsampled": Kind(encoded(image, "JPEG", quality=95), rgb, 2),
            "progressive": Kind(encoded(image, "JPEG", quality=95, progressive=True), rgb, 2),
            "grey": Kind(encoded(image.convert("L"), "JPEG", quality=95), grey_rgb, 1),
        },
        "JPEG in CMYK": {
            "as Adobe writes it, reversed": Kind(adobe, rgb, 1),
            "without a word of Adobe": Kind(adobe[:marker] + adobe[marker + 16 :], rgb, 1),
        },
        "JPEG of several pictures": {
            "MPO": Kind(encoded(image, "MPO", quality=95, **frames), rgb, 2)
        },
        "PNG": {
            "colour": Kind(encoded(image, "PNG"), rgb),
            "grey": Kind(encoded(image.convert("L"), "PNG"), grey_rgb),
            "interlaced": Kind(interlaced_png(rgb), rgb),
            "2 bits": Kind(png(grey[..., None] >> 6, 2, 0), (grey_rgb >> 6) * 85),
            "1 bit": Kind(png(grey[..., None] >> 7, 1, 0), (grey_rgb >> 7) * 255),
        },
        "Palette": {
            "PNG": Kind(encoded(palette, "PNG"), in_palette),
            "GIF": Kind(encoded(palette, "GIF"), in_palette),
            "BMP": Kind(encoded(palette, "BMP"), in_palette),
            "TIFF": Kind(encoded(palette, "TIFF"), in_palette),
        },
        "Transparent parts": {
            "alpha, PNG": Kind(encoded(clear, "PNG"), on_white(clear)),
            "alpha, WebP": Kind(encoded(clear, "WEBP", lossless=True, exact=True), on_white(clear)),
            "alpha, AVIF": Kind(encoded(clear, "AVIF", quality=95), on_white(clear), 2),
            "alpha, TIFF": Kind(encoded(clear, "TIFF"), on_white(clear)),
            "an entry of a palette, PNG": Kind(encoded(keyed, "PNG", transparency=5), without_5),
            "an entry of a palette, GIF": Kind(encoded(keyed, "GIF", transparency=5), without_5),
            "a grey of 2 bits": Kind(png(*_keyed_grey(grey, 2)), _greys_but_one(grey, 2)),
            "a grey of 4 bits": Kind(png(*_keyed_grey(grey, 4)), _greys_but_one(grey, 4)),
            "a grey of 16 bits": Kind(png(*_keyed_grey(grey, 16)), _greys_but_one(grey, 16)),
            "a colour of 16 bits": Kind(
                png(deep_rgb, 16, 2, deep_rgb[0, 0].tolist()),
                np.where((rgb == rgb[0, 0]).all(-1, keepdims=True), 255, rgb).astype(np.uint8),
            ),
        },
        "PNG of 16 bits": {
            "grey": Kind(png(deep, 16, 0), grey_rgb),
            "colour": Kind(png(deep_rgb, 16, 2), rgb),
            "grey with alpha": Kind(
                png(np.concatenate([deep, np.full_like(deep, 65_535)], -1), 16, 4), grey_rgb
            ),
        },
        "Animation": {
            "GIF": Kind(encoded(palette, "GIF", save_all=True, append_images=[other]), in_palette),
            "PNG": Kind(encoded(image, "PNG", **frames), rgb),
            "WebP": Kind(encoded(image, "WEBP", lossless=True, **frames), rgb),
            "AVIF": Kind(encoded(image, "AVIF", quality=95, **frames), rgb, 2),
        },
        "WebP": {
            "lossy": Kind(encoded(image, "WEBP", quality=95), rgb, 2),
            "lossless": Kind(encoded(image, "WEBP", lossless=True), rgb),
        },
        "AVIF": {"colour": Kind(encoded(image, "AVIF", quality=95), rgb, 2)},
        "BMP": {
            "colour": Kind(encoded(image, "BMP"), rgb),
            "grey": Kind(encoded(image.convert("L"), "BMP"), grey_rgb),
        },
        "TIFF": {
            name: Kind(encoded(image, "TIFF", compression=name), rgb, 2 if name == "jpeg" else 0.5)
            for name in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd")
        }
        | {
            "fax": Kind(
                encoded(image.convert("1"), "TIFF", compression="group4"),
                np.asarray(image.convert("1").convert("RGB")),
            ),
            "CMYK": Kind(encoded(cmyk, "TIFF"), rgb),
            "planes": Kind(tiff(rgb, 2, planar=True), rgb),
        },
        "TIFF of several pages": {"three": Kind(encoded(image, "TIFF", **frames), rgb)},
        "TIFF of 12 or 16 bits": {
            "16, Intel": Kind(tiff(deep.astype("<u2")), grey_rgb),
            "16, Motorola": Kind(tiff(deep.astype(">u2")), grey_rgb),
            "16, colour": Kind(tiff(deep_rgb.astype("<u2"), 2), rgb),
            "12": Kind(tiff(_packed_12(grey), bits=12), grey_rgb, 1),
        },
        "TIFF of 32-bit numbers": {
            "floats to 1": Kind(tiff((grey[..., None] / 255).astype("<f4")), grey_rgb, 1),
            "floats to 255": Kind(tiff(_full(grey, 1).astype(">f4")), _full(grey_rgb, 1)),
            "floats to 65,535": Kind(tiff(_full(grey, 257).astype("<f4")), _full(grey_rgb, 1)),
            "integers to 255": Kind(tiff(_full(grey, 1).astype("<u4")), _full(grey_rgb, 1)),
            "integers to 4,294,967,295": Kind(
                tiff(_full(grey, 1).astype("<u4") * 0x1010101), _full(grey_rgb, 1), 1
            ),
        },
        "TIFF whose white is zero": {
            "1 bit": Kind(
                tiff(np.packbits(grey[..., None] < 128, axis=1), 0, bits=1),
                (grey_rgb >> 7) * 255,
            ),
            "8 bits": Kind(tiff(255 - grey[..., None], 0), grey_rgb),
            "16 bits": Kind(tiff(65_535 - deep, 0), grey_rgb),
            "floats": Kind(tiff((1 - grey[..., None] / 255).astype("<f4"), 0), grey_rgb, 1),
        },
        "EXIF orientation": turned,
        "Colour profile": {
            "JPEG": Kind(encoded(image, "JPEG", quality=95, icc_profile=b"x" * 300), rgb, 2),
        },
    }


def _full(grey: np.ndarray, factor: int) -> np.ndarray:
    """Return greys of which one is as white as can be, so that the white can be told."""
    whole = grey.reshape(*grey.shape[:2], -1).copy()
    whole[0, 0] = 255
    return whole * np.uint32(factor) if factor > 1 else whole


def _packed_12(grey: np.ndarray) -> np.ndarray:
    values = grey.astype(np.uint32) * 4095 // 255
    first, second = values[:, ::2], values[:, 1::2]
    packed = [first >> 4, (first & 15) << 4 | second >> 8, second & 255]
    return np.stack(packed, -1).astype(np.uint8).reshape(len(grey), -1, 1)


def _keyed_grey(grey: np.ndarray, depth: int) -> tuple[np.ndarray, int, int, list[int]]:
    values = grey[..., None].astype(np.uint16) * 257 >> 16 - depth
    return values, depth, 0, [int(values[HEIGHT // 2, WIDTH // 2, 0])]


def _greys_but_one(grey: np.ndarray, depth: int) -> np.ndarray:
    values, _, _, (key,) = _keyed_grey(grey, depth)
    eight = np.where(values == key, 255, values.astype(int) * 255 // (2**depth - 1))
    return np.repeat(eight, 3, axis=2).astype(np.uint8)


def _turned(upright: np.ndarray, kind: str, orientation: int) -> Kind:
    stored = {
        1: upright,
        2: np.fliplr(upright),
        3: np.rot90(upright, 2),
        4: np.flipud(upright),
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    options = {} if kind in ("PNG", "TIFF") else {"quality": 95}
    image = Image.fromarray(np.ascontiguousarray(stored))
    return Kind(encoded(image, kind, exif=exif, **options), upright, 2 if options else 0.5)
