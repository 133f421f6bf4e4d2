"""Bytes become upright RGB squares, whatever the file; what can't be decoded is an ImageError."""

import io
import os
import struct

import numpy as np
import pytest
from PIL import Image, JpegImagePlugin, PngImagePlugin

from twostage.errors import ImageError
from twostage.images import decoding
from twostage.images.decoding import decode, read_bytes
from twostage.pixels import RESIZE_POLICIES

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
ORIENTATION = 0x0112
# How each EXIF orientation stores an upright image, written without Pillow.
STORED_AS = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def plain(colour, mode="RGB", size=(40, 20)):
    return Image.new(mode, size, colour)


def thirds(size=(90, 30)):
    """Return three colours side by side."""
    image = plain(GREEN, size=size)
    third = (size[0] // 3, size[1])
    image.paste(plain(RED, size=third), (0, 0))
    image.paste(plain(BLUE, size=third), (2 * third[0], 0))
    return image


def textured(width, height):
    """Return a smooth picture without symmetry, noisy enough to tell two decoders apart."""
    y, x = np.mgrid[:height, :width] / max(width, height)
    noise = np.random.default_rng(0).normal(0, 6, (height, width))
    channels = [200 * x + noise, 200 * y - noise, 100 + 80 * np.sin(9 * x * y) + noise]
    return Image.fromarray(np.clip(np.stack(channels, -1), 0, 255).astype(np.uint8))


def only_colour(pixels):
    """Return the one colour of the pixels, which they must have."""
    (colour,) = {tuple(pixel) for pixel in pixels.reshape(-1, 3).tolist()}
    return colour


@pytest.mark.parametrize("resize", RESIZE_POLICIES)
@pytest.mark.parametrize("size", [(40, 20), (20, 40), (32, 32), (7, 300)])
def test_pixels_are_a_uint8_rgb_square_and_the_size_is_the_files(size, resize):
    pixels, width, height = decode(encoded(plain(RED, size=size)), 32, resize)
    assert pixels.shape == (32, 32, 3)
    assert pixels.dtype == np.uint8
    assert (width, height) == size
    assert tuple(pixels[16, 16]) == RED


def test_crop_keeps_the_centre():
    pixels, _, _ = decode(encoded(thirds()), 60, "crop")
    assert only_colour(pixels[:, 1:-1]) == GREEN


def test_squash_keeps_everything():
    pixels, _, _ = decode(encoded(thirds()), 60, "squash")
    assert [only_colour(pixels[:, [column]]) for column in (9, 30, 50)] == [RED, GREEN, BLUE]


def test_pad_keeps_the_proportions_on_black():
    pixels, _, _ = decode(encoded(thirds()), 60, "pad")
    assert only_colour(np.concatenate([pixels[:20], pixels[40:]])) == BLACK
    assert [only_colour(pixels[20:40, [column]]) for column in (9, 30, 50)] == [RED, GREEN, BLUE]


@pytest.mark.parametrize("resize", RESIZE_POLICIES)
def test_width_and_height_are_treated_alike(resize):
    lying, _, _ = decode(encoded(thirds()), 60, resize)
    standing, _, _ = decode(encoded(thirds().transpose(Image.Transpose.TRANSPOSE)), 60, resize)
    assert np.array_equal(standing, lying.transpose(1, 0, 2))


@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_a_line_of_one_pixel_is_an_image(resize):
    pixels, width, height = decode(encoded(plain(RED, size=(1000, 1))), 32, resize)
    assert (width, height) == (1000, 1)
    assert only_colour(pixels) == RED


@pytest.mark.parametrize("resize", RESIZE_POLICIES)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
@pytest.mark.parametrize("orientation", STORED_AS)
def test_every_exif_orientation_comes_out_upright(orientation, kind, resize):
    upright = np.asarray(textured(160, 100))
    stored = Image.fromarray(np.ascontiguousarray(STORED_AS[orientation](upright)))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    data = encoded(stored, kind, exif=exif, **options)
    pixels, width, height = decode(data, 20, resize)
    expected, _, _ = decode(encoded(Image.fromarray(upright), kind, **options), 20, resize)
    assert (width, height) == (160, 100)
    difference = np.abs(pixels.astype(float) - expected)
    assert difference.max() <= (6 if kind == "JPEG" else 0)


@pytest.mark.parametrize("resize", RESIZE_POLICIES)
def test_draft_decoding_is_close_to_full_decoding_but_is_not_it(resize):
    data = encoded(textured(500, 350), "JPEG", quality=92)
    with Image.open(io.BytesIO(data)) as image:
        full = encoded(image, "PNG")
    fast, width, height = decode(data, 64, resize)
    slow, _, _ = decode(full, 64, resize)
    assert (width, height) == (500, 350)
    assert 0 < np.abs(fast.astype(float) - slow).mean() < 1.5


@pytest.mark.parametrize(
    ("resize", "size_px", "expected"),
    [
        ("crop", 100, (400, 100)),
        ("squash", 100, (400, 100)),
        ("pad", 100, (200, 50)),
        ("crop", 101, (800, 200)),
        ("crop", 300, (1600, 400)),
        ("crop", 600, (1600, 400)),
    ],
)
def test_a_jpeg_is_decoded_as_small_as_the_target_allows(monkeypatch, resize, size_px, expected):
    sizes = []
    draft = JpegImagePlugin.JpegImageFile.draft

    def spy(image, mode, size):
        draft(image, mode, size)
        sizes.append(image.size)

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "draft", spy)
    _, width, height = decode(encoded(plain(RED, size=(1600, 400)), "JPEG"), size_px, resize)
    assert sizes == [expected]
    assert (width, height) == (1600, 400)


@pytest.mark.parametrize(
    ("image", "kind", "expected"),
    [
        (plain((200, 100, 50)).convert("CMYK"), "JPEG", (200, 100, 50)),
        (plain((200, 100, 50)).convert("CMYK"), "TIFF", (200, 100, 50)),
        (plain((204, 102, 51)).convert("P"), "PNG", (204, 102, 51)),
        (plain(90, "L"), "JPEG", (90, 90, 90)),
        (plain(90, "L"), "PNG", (90, 90, 90)),
        (plain(1, "1"), "PNG", WHITE),
        (plain((200, 100, 50)), "BMP", (200, 100, 50)),
        (plain((90, 255), "LA"), "PNG", (90, 90, 90)),
    ],
)
def test_every_colour_mode_becomes_rgb(image, kind, expected):
    colour = only_colour(decode(encoded(image, kind), 32)[0])
    assert np.abs(np.subtract(colour, expected)).max() <= 1


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (plain((255, 0, 0, 0), "RGBA"), {}, WHITE),
        (plain((255, 0, 0, 102), "RGBA"), {}, (255, 153, 153)),
        (plain((0, 102), "LA"), {}, (153, 153, 153)),
        (plain(7, "L"), {"transparency": 7}, WHITE),
        (plain(RED).convert("P"), {"transparency": bytes([102] * 256)}, (255, 153, 153)),
    ],
)
def test_transparent_parts_lie_on_white(image, options, expected):
    assert only_colour(decode(encoded(image, **options), 32)[0]) == expected


def test_a_transparent_palette_entry_is_white_and_the_others_stay():
    image = thirds().quantize(4)
    transparent = image.getpixel((0, 0))
    pixels, _, _ = decode(encoded(image, transparency=transparent), 60, "squash")
    assert [only_colour(pixels[:, [column]]) for column in (9, 30, 50)] == [WHITE, GREEN, BLUE]


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (0x0101, 1), (0x8080, 128), (0xFFFF, 255)])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_not_clipped(value, grey, kind):
    image = Image.fromarray(np.full((20, 40), value, np.uint16))
    assert only_colour(decode(encoded(image, kind), 32)[0]) == (grey,) * 3


@pytest.mark.parametrize(("values", "grey"), [((0.0, 0.5, 1.0), 127), ((0.0, 90.0, 255.0), 90)])
def test_floating_point_grey_is_read_from_0_to_1_or_to_255(values, grey):
    image = Image.fromarray(np.repeat(np.float32([values]), 20, axis=0).repeat(10, axis=1))
    pixels, _, _ = decode(encoded(image, "TIFF"), 30, "squash")
    assert only_colour(pixels[:, [15]]) == (grey,) * 3


def test_an_animation_is_its_first_frame():
    frames = {"save_all": True, "append_images": [plain(BLUE), plain(GREEN)]}
    assert only_colour(decode(encoded(plain(RED), "GIF", **frames), 32)[0]) == RED


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_a_truncated_file_is_a_decode_error(kind):
    data = encoded(textured(120, 90), kind)
    with pytest.raises(ImageError, match=r"^decode: \w") as caught:
        decode(data[: len(data) // 2], 32)
    assert caught.value.kind == "decode"
    assert len(caught.value.reason.splitlines()) == 1


def test_a_png_with_a_damaged_chunk_is_a_decode_error():
    data = encoded(textured(300, 300), compress_level=0)
    chunk = data.rindex(b"IDAT")
    with pytest.raises(ImageError, match=r"^decode: broken png file"):
        decode(data[:chunk] + b"\0\0\0\0" + data[chunk + 4 :], 32)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"<html>404</html>", "not an image, or of an unknown format"),
        (b"\x00" * 5000, "not an image, or of an unknown format"),
        (b"\xff\xd8\xff", "a damaged jpeg, or of a kind that the decoder does not know"),
    ],
)
def test_no_image_is_a_decode_error_that_says_so(data, reason):
    with pytest.raises(ImageError, match=f"^decode: {reason}$"):
        decode(data, 32)


def test_more_pixels_than_allowed_are_an_error_of_their_own_kind(monkeypatch):
    data = encoded(plain(RED))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)  # Pillow's own does not count
    assert decode(data, 32, max_pixels=800)[1:] == (40, 20)
    with pytest.raises(ImageError, match=r"^limit: 800 pixels; max-pixels allows 799$"):
        decode(data, 32, max_pixels=799)
    assert Image.MAX_IMAGE_PIXELS == 1


def test_too_little_memory_is_no_fault_of_the_file(monkeypatch):
    def load(image):
        raise MemoryError

    monkeypatch.setattr(JpegImagePlugin.JpegImageFile, "load", load)
    with pytest.raises(ImageError, match=r"^limit: not enough memory$"):
        decode(encoded(plain(RED), "JPEG"), 32)


@pytest.mark.parametrize(("large_px", "is_alone"), [(799, True), (800, False)])
def test_a_large_image_is_decoded_alone(monkeypatch, large_px, is_alone):
    monkeypatch.setattr(decoding, "_LARGE_PX", large_px)
    load, alone = PngImagePlugin.PngImageFile.load, []

    def spy(image):
        alone.append(decoding._ONE_LARGE.locked())
        return load(image)

    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", spy)
    decode(encoded(plain(RED, size=(40, 20))), 32)
    assert alone[0] is is_alone
    assert not decoding._ONE_LARGE.locked()


def test_read_bytes_returns_what_the_file_holds_and_its_status(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"123")
    data, status = read_bytes(path)
    assert data == b"123"
    assert (status.st_size, status.st_ino) == (3, path.stat().st_ino)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jpg", "no such file"),
        ("", "a folder or a device, not a file"),
        (os.devnull, "a folder or a device, not a file"),
        ("a\0b.jpg", "not a possible path"),
        ("a" * 300, "file name too long"),
    ],
)
def test_bytes_that_cannot_be_had_are_a_read_error(tmp_path, name, reason):
    with pytest.raises(ImageError, match=f"^read: {reason}$") as caught:
        read_bytes(os.path.join(tmp_path, name))
    assert caught.value.kind == "read"


def exif_of(*entries):
    body = b"".join(struct.pack("<HHI4s", *entry) for entry in entries)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(20)


def test_odd_exif_beside_the_orientation_does_not_matter():
    exif = exif_of((0x0112, 3, 1, b"\6\0\0\0"), (0x011A, 2, 2, b"a\0\0\0"))
    _, width, height = decode(encoded(plain((200, 0, 0)), "JPEG", exif=exif), 32)
    assert (width, height) == (20, 40)


def test_a_damaged_file_is_an_image_or_a_decode_error_and_nothing_else():
    noise = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
    errors = 0
    for kind in ("AVIF", "JPEG", "PNG", "WEBP", "GIF", "TIFF"):
        data = encoded(Image.fromarray(noise), kind)
        for seed in range(60):
            rng = np.random.default_rng(seed)
            damaged = bytearray(data)
            damaged[rng.integers(len(damaged))] = rng.integers(256)
            try:
                decode(bytes(damaged), 32)
            except ImageError as error:
                assert error.kind == "decode" or "pixels; max-pixels allows" in error.reason
                errors += 1
    assert errors > 50


def test_a_tiff_lying_on_its_side_reports_its_upright_size():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(plain((1, 2, 3)), "TIFF", exif=exif), 32)[1:] == (20, 40)


def test_a_colour_key_in_rgb_is_transparent():
    data = encoded(plain((1, 2, 3)), transparency=(1, 2, 3))
    assert only_colour(decode(data, 32)[0]) == (255, 255, 255)


def test_a_line_of_one_pixel_padded_is_not_all_black():
    assert decode(encoded(plain((255, 0, 0), size=(1000, 1))), 32, "pad")[0].max() == 255


def test_nan_does_not_darken_a_float_image():
    values = np.full((20, 40), 0.5, np.float32)
    values[0, 0] = np.nan
    assert decode(encoded(Image.fromarray(values), "TIFF"), 32)[0][16, 16, 0] == 127


def test_a_pipe_is_a_read_error_and_does_not_block(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    with pytest.raises(ImageError, match="read: a folder or a device"):
        read_bytes(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["EPS", "PCX", "PPM", "ICO"])
def test_formats_that_are_not_listed_are_not_opened(kind):
    with pytest.raises(ImageError, match="unknown format"):
        decode(encoded(plain((1, 2, 3), size=(64, 64)), kind), 32)
