"""Each row of the tables in docs/images.md: a right embedding, or a row with a classified error."""

import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from twostage.backbones.spec import BackboneSpec
from twostage.cli.main import main
from twostage.errors import ImageError, ImagesError
from twostage.extraction import extract
from twostage.images import loading
from twostage.images.decoding import decode
from twostage.store.store import EmbeddingStore

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "docs" / "images.md").read_text()
ROWS = [
    row
    for row in re.findall(r"^\| ([^|]+?) \|", GUIDE, re.MULTILINE)
    if row != "kind"  # the head of both tables
]
SIZE_PX = 60
ANOTHER_LAYOUT = "decode: a damaged tiff, or of a kind that the decoder does not know"


@cache
def made() -> ModuleType:
    """Load the maker of image files, which the benchmark of broken images has too."""
    path = ROOT / "benchmarks" / "image_kinds.py"
    spec = spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@cache
def kinds() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = made().kinds()
    return found


def expected(truth: np.ndarray, size_px: int = SIZE_PX) -> np.ndarray:
    """Return what the pixels become by Pillow's own resizing of the whole picture."""
    image = Image.fromarray(truth).resize((size_px, size_px), Image.Resampling.BILINEAR)
    return np.asarray(image).astype(float)


def colour_of(file: Any) -> np.ndarray:
    """Return what the fake backbone makes of a picture that is decoded right."""
    return expected(file.truth).mean(axis=(0, 1))


def check_pixels(row: str) -> None:
    """Check that all files of a kind are decoded to the pixels that they show."""
    for name, file in kinds()[row].items():
        pixels, width, height = decode(file.data, SIZE_PX, "squash")
        assert (width, height) == (file.truth.shape[1], file.truth.shape[0]), name
        difference = np.abs(pixels - expected(file.truth)).mean()
        assert difference <= file.tolerance, (name, difference)


def run(
    folder: Path, names: list[str] | None = None, **options: Any
) -> dict[str, tuple[Any, str | None]]:
    """Return embedding and error of each image after an extraction."""
    store = folder.parent / "store"
    extract(folder, store, names=names, image_size=SIZE_PX, resize="squash", **options)
    frame = EmbeddingStore(store).to_pandas().astype({"error": object})
    rows = zip(frame["image"], frame["embedding"], frame["error"], strict=True)
    return {image: (vector, error if error == error else None) for image, vector, error in rows}


@pytest.fixture
def folder(tmp_path: Path, fake_backbone: Any) -> Path:
    """Return a folder with a good picture in it, whose embedding must be right in the end."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "good.png").write_bytes(kinds()["PNG"]["colour"].data)
    return tmp_path / "photos"


def check_good(found: dict[str, tuple[Any, str | None]]) -> None:
    embedding, error = found["good.png"]
    assert error is None
    assert np.abs(embedding - colour_of(kinds()["PNG"]["colour"])).max() < 0.5


def check_errors(folder: Path, files: dict[str, bytes], error: str, **options: Any) -> None:
    """Check that files become rows with an error (a pattern), and the others an embedding."""
    for name, data in files.items():
        (folder / name).write_bytes(data)
    found = run(folder, **options)
    check_good(found)
    for name in files:
        embedding, said = found[name]
        assert embedding is None
        assert re.fullmatch(error, str(said)), (name, said)


def another_layout(folder: Path) -> None:
    tiff, values = made().tiff, np.full((8, 8, 3), 0.5)
    files = {
        "float colour.tif": tiff(values.astype("<f4"), 2),
        "float 64.tif": tiff(values[..., :1].astype("<f8")),
        "float 16.tif": tiff(values[..., :1].astype("<f2")),
        "grey and alpha.tif": tiff(np.full((8, 8, 2), 9, "<u2")),
    }
    check_errors(folder, files, ANOTHER_LAYOUT)
    planes = {"planes.tif": tiff(np.full((8, 8, 3), 9, "<u2"), 2, planar=True)}
    check_errors(folder, planes, "decode: uncompressed 16-bit tiff in separate planes")


def cut_in_header(folder: Path) -> None:
    data = bytearray(kinds()["TIFF"]["planes"].data)
    height = data.index(struct.pack("<HHI", 257, 3, 1)) + 8
    data[height : height + 2] = struct.pack("<H", 900)
    check_errors(folder, {"a.tif": bytes(data)}, "decode: a damaged tiff: a part of .* is missing")


def heic(folder: Path) -> None:
    data = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
    reason = "decode: heic, which the decoder does not know; save it as jpeg or avif"
    check_errors(folder, {"phone.jpg": data}, reason)


def another_format(folder: Path) -> None:
    image = made().picture()
    files = {f"{kind}.jpg": made().encoded(image, kind) for kind in ("EPS", "PPM", "ICO", "PCX")}
    files |= {"a.png": b"%PDF-1.4\n" + bytes(99), "b.png": b"<svg xmlns='x'></svg>"}
    check_errors(folder, files, "decode: not an image, or of an unknown format")


def wrong_extension(folder: Path) -> None:
    files = {"a.jpg": kinds()["PNG"]["colour"], "b.png": kinds()["WebP"]["lossless"]}
    files |= {"c.gif": kinds()["JPEG"]["colour"], "D.JPEG": kinds()["TIFF"]["tiff_lzw"]}
    for name, file in files.items():
        (folder / name).write_bytes(file.data)
    found = run(folder)
    for name, file in files.items():
        assert np.abs(found[name][0] - colour_of(file)).max() < 2, name


def truncated(folder: Path) -> None:
    whole = {kind: kinds()[kind] for kind in ("JPEG", "PNG", "WebP", "AVIF", "BMP", "TIFF")}
    files = {f"{kind}.jpg": next(iter(by_name.values())).data for kind, by_name in whole.items()}
    files["gif.jpg"] = kinds()["Palette"]["GIF"].data
    halves = {name: data[: len(data) * 2 // 3] for name, data in files.items()}
    check_errors(folder, halves, "decode: [a-z].*[a-z)]")


def damaged_png(folder: Path) -> None:
    data = bytearray(kinds()["PNG"]["colour"].data)
    data[len(data) // 2] ^= 1
    check_errors(folder, {"a.png": bytes(data)}, r"decode: .*\bpng.*")


def damaged_jpeg(folder: Path) -> None:
    file = kinds()["JPEG"]["colour"]
    middle = len(file.data) // 2
    damaged = file.data[:middle] + b"\x55" * 20 + file.data[middle + 20 :]
    pixels, _, _ = decode(damaged, SIZE_PX, "squash")
    difference = np.abs(pixels - expected(file.truth)).mean(axis=(1, 2))
    assert difference[: SIZE_PX // 4].max() < 2  # what comes before is right
    assert difference[SIZE_PX // 2 :].max() > 2


def too_many_pixels(folder: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    bomb = kinds()["PNG"]["colour"].data
    bomb = bomb[:16] + header + struct.pack(">I", zlib.crc32(b"IHDR" + header)) + bomb[33:]
    limit = "limit: 3,600,000,000 pixels; max-pixels allows 200,000,000"
    check_errors(folder, {"bomb.png": bomb}, limit)
    with pytest.raises(ImageError, match="limit: 10,800 pixels; max-pixels allows 10,799"):
        decode(kinds()["JPEG"]["colour"].data, SIZE_PX, max_pixels=10_799)


def too_large_a_file(folder: Path) -> None:
    assert loading._LEAST_BYTES == 64 << 20
    with open(folder / "large.tif", "wb") as file:
        file.truncate((1 << 20) + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "_LEAST_BYTES", 1 << 20)
        found = run(folder, max_pixels=20_000)
    check_good(found)
    limit = "limit: a file of 1,048,577 bytes; max-pixels allows 1,048,576"
    assert found["large.tif"] == (None, limit)
    assert run(folder)["large.tif"][1] == "decode: not an image, or of an unknown format"


def many_scans(folder: Path) -> None:
    data = kinds()["JPEG"]["progressive"].data
    last = data[data.rindex(b"\xff\xda") : -2]
    reason = "decode: a jpeg of more scans than any camera or program writes"
    check_errors(folder, {"a.jpg": data[:-2] + last * 100 + data[-2:]}, reason)
    several = made().encoded(
        made().picture(), "MPO", progressive=True, save_all=True, append_images=[made().picture()]
    )
    end = several.index(b"\xff\xd9\xff\xd8")
    check_errors(folder, {"b.jpg": several[:end] + last * 100 + several[end:]}, reason)
    after_its_end = data + b"\xff\xda" * 200  # a film, say, that a phone writes behind
    assert np.array_equal(decode(after_its_end, 32)[0], decode(data, 32)[0])


def folder_like_an_image(folder: Path) -> None:
    (folder / "x.jpg").mkdir()
    (folder / "x.jpg" / "in.png").write_bytes(kinds()["PNG"]["grey"].data)
    (folder / "empty.jpg").mkdir()
    found = run(folder)
    assert set(found) == {"good.png", "x.jpg/in.png"}
    assert np.abs(found["x.jpg/in.png"][0] - colour_of(kinds()["PNG"]["grey"])).max() < 0.5
    named = run(folder, ["good.png", "x.jpg"])
    assert named["x.jpg"] == (None, "read: a folder or a device, not a file")


def dangling_link(folder: Path) -> None:
    (folder / "a.jpg").symlink_to("nowhere.jpg")
    found = run(folder)
    check_good(found)
    assert found["a.jpg"] == (None, "read: no such file")


def looping_link(folder: Path) -> None:
    (folder / "a.jpg").symlink_to("a.jpg")
    (folder / "b.jpg").symlink_to("c.jpg")
    (folder / "c.jpg").symlink_to("b.jpg")
    (folder / "below").symlink_to(".")
    found = run(folder)
    check_good(found)
    assert set(found) == {"good.png", "a.jpg", "b.jpg", "c.jpg"}
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        assert found[name] == (None, "read: too many levels of symbolic links")


def pipe_or_device(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zeros.jpg").symlink_to("/dev/zero")
    found = run(folder)
    check_good(found)
    for name in ("pipe.jpg", "zeros.jpg"):
        assert found[name] == (None, "read: a folder or a device, not a file")


@contextmanager
def as_a_user() -> Iterator[None]:
    """Drop the rights of root, which may read everything."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65_534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


def unreadable_folder(folder: Path) -> None:
    (folder / "secret").mkdir()
    (folder / "secret").chmod(0)
    open_to_all(folder)
    with as_a_user(), pytest.raises(ImagesError, match=r"secret' can't be listed: Permission"):
        run(folder)
    (folder / "secret").chmod(0o700)


def open_to_all(folder: Path) -> None:
    """Let other users into a folder of this test."""
    for place in (folder, *folder.parents):
        if place.stat().st_uid == os.getuid() and len(place.parts) > 2:
            place.chmod(0o777)


def unreadable_file(folder: Path) -> None:
    (folder / "secret.jpg").write_bytes(kinds()["JPEG"]["colour"].data)
    (folder / "secret.jpg").chmod(0)
    open_to_all(folder)
    with as_a_user():
        found = run(folder)
    check_good(found)
    assert found["secret.jpg"] == (None, "read: permission denied")


def vanishing_file(folder: Path) -> None:
    read_bytes = loading.read_bytes

    def read_when_gone(path: str) -> Any:
        if path.endswith("brief.png"):
            Path(path).unlink()
        return read_bytes(path)

    (folder / "brief.png").write_bytes(kinds()["PNG"]["colour"].data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "read_bytes", read_when_gone)
        found = run(folder)
    check_good(found)
    assert found["brief.png"] == (None, "read: no such file")


def odd_name(folder: Path) -> None:
    names = ["with space.png", "two\nlines.png", "'quotes'\".png", "ünï😀.png", "-o.png"]
    names += ["100%.png", "a;b.png", "\x1b[31mred.png", "*?[x].png", "x" * 251 + ".png"]
    for name in names:
        (folder / name).write_bytes(kinds()["PNG"]["grey"].data)
    found = run(folder)
    check_good(found)
    assert set(found) == {"good.png", *names}
    for name in names:
        assert np.abs(found[name][0] - colour_of(kinds()["PNG"]["grey"])).max() < 0.5


def name_that_is_no_text(folder: Path) -> None:
    path = os.fsencode(folder) + b"/caf\xe9 \xff.png"
    with open(path, "wb") as file:
        file.write(kinds()["PNG"]["grey"].data)
    found = run(folder)
    check_good(found)
    assert found["caf%E9 %FF.png"][1] is None
    assert run(folder)["caf%E9 %FF.png"][1] is None
    found = run(folder, ["caf%E9 %FF.png"])
    assert found["caf%E9 %FF.png"][1] is None


def errors_of(files: dict[str, bytes], error: str) -> Callable[[Path], None]:
    return lambda folder: check_errors(folder, files, error)


HELD_BY: dict[str, Callable[[Path], None]] = {
    "TIFF of another layout": another_layout,
    "HEIC": heic,
    "Another format": another_format,
    "Wrong extension": wrong_extension,
    "Empty file": errors_of({"a.jpg": b""}, "decode: the file is empty"),
    "No image": errors_of(
        {"a.jpg": b"<html>404</html>", "b.png": b"a,b\n1,2\n", "c.gif": bytes(range(256)) * 9},
        "decode: not an image, or of an unknown format",
    ),
    "Truncated file": truncated,
    "TIFF without all its parts": cut_in_header,
    "Damaged PNG": damaged_png,
    "Damaged JPEG": damaged_jpeg,
    "Too many pixels": too_many_pixels,
    "Too large a file": too_large_a_file,
    "JPEG of over 100 scans": many_scans,
    "Folder named like an image": folder_like_an_image,
    "Dangling link": dangling_link,
    "Looping link": looping_link,
    "Pipe or device": pipe_or_device,
    "Unreadable folder": unreadable_folder,
    "Unreadable file": unreadable_file,
    "File that vanishes": vanishing_file,
    "Odd name": odd_name,
    "Name that is no text": name_that_is_no_text,
}


@pytest.mark.parametrize("row", ROWS)
def test_the_guide_to_images_tells_the_truth(row: str, folder: Path) -> None:
    if row in HELD_BY:
        HELD_BY[row](folder)
    else:
        check_pixels(row)  # a row that neither of them knows fails


def test_the_guide_to_images_leaves_nothing_out() -> None:
    assert set(ROWS) == set(HELD_BY) | set(kinds())
    assert len(ROWS) == len(set(ROWS))


def test_a_folder_of_every_kind_is_embedded_in_one_run(folder: Path) -> None:
    files = {
        f"{kind}, {name}.jpg": file
        for kind, named in kinds().items()
        for name, file in named.items()
    }
    for name, file in files.items():
        (folder / name).write_bytes(file.data)
    (folder / "empty.jpg").touch()
    found = run(folder)
    assert found["empty.jpg"] == (None, "decode: the file is empty")
    for name, file in files.items():
        embedding, error = found[name]
        assert error is None, (name, error)
        assert np.abs(embedding - colour_of(file)).max() <= file.tolerance + 0.5, name
    assert len(found) == len(files) + 2


def test_a_large_image_is_tried_again_under_another_limit(folder: Path, fake_backbone: Any) -> None:
    Image.new("RGB", (300, 200), (9, 8, 7)).save(folder / "large.png")
    assert run(folder, max_pixels=20_000)["large.png"] == (
        None,
        "limit: 60,000 pixels; max-pixels allows 20,000",
    )
    assert run(folder, max_pixels=30_000)["large.png"][0] is None
    assert fake_backbone.n_embedded == 1
    assert run(folder)["large.png"][0].tolist() == [9, 8, 7]
    assert run(folder, max_pixels=20_000, verify=True)["large.png"][0].tolist() == [9, 8, 7]
    assert fake_backbone.n_embedded == 2


def test_the_limit_is_no_part_of_a_backbone() -> None:
    assert not [name for name in BackboneSpec.__dataclass_fields__ if "pixels" in name]


def test_a_name_does_not_command_the_terminal(folder: Path, tmp_path: Path) -> None:
    (folder / "\x1b[2J\x07.jpg").touch()
    result = CliRunner().invoke(main, ["extract", str(folder), "-o", str(tmp_path / "store")])
    assert r"first: '\x1b[2J\x07.jpg'" in result.output


def test_the_command_line_has_the_limit(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), (9, 8, 7)).save(folder / "large.png")
    command = ["extract", str(folder), "-o", str(tmp_path / "store"), "--max-pixels", "20000"]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 3
    assert "1 image could not be used: 1 limit: 60,000 pixels; max-pixels allows 20,000" in (
        result.output
    )
    for name in ("extract", "fit", "predict", "evaluate", "finetune"):
        said = " ".join(CliRunner().invoke(main, [name, "--help"]).output.split())
        assert "--max-pixels" in said, name
        assert "default: 200000000" in said, name


@pytest.mark.slow
def test_broken_images_neither_crash_nor_hang_nor_fill_the_memory(tmp_path: Path) -> None:
    script = ROOT / "benchmarks" / "torture_images.py"
    command = [sys.executable, str(script), "--number", "600", "--seed", "1", "--without-bombs"]
    done = subprocess.run(
        [*command, "--folder", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "torture_images.json").read_text())
    assert found["is_passed"]
    assert found["n"] == 600
    assert found["n_decoded"] > 60
    assert found["n_errors"]["decode"] > 200
