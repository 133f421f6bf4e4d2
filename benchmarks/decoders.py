"""Compare JPEG decoders: processor time per photo to 224 pixels, and how far pixels go astray.

    python benchmarks/decoders.py [PHOTOS]

Each decodes at a reduced size, cuts the centre square and resizes with an antialiased bilinear
filter; what is not installed is left out (opencv-python-headless, simplejpeg, pyvips). The
reference is full decoding and the same resize, by Pillow. Rounds are interleaved, one thread each.
Results go to artifacts/decoders.json and .md.
"""

import io
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import click
import numpy as np
from PIL import Image

from twostage.images.decoding import decode

os.environ.setdefault("VIPS_CONCURRENCY", "1")
ROOT = Path(__file__).parents[1]
ARTIFACTS = ROOT / "artifacts"
SIZE_PX, N_ROUNDS = 224, 5
PACKAGES = {"opencv": "opencv-python-headless", "simplejpeg": "simplejpeg", "pyvips": "pyvips"}
Decoder = Callable[[bytes], np.ndarray]


def to_square(pixels: np.ndarray) -> np.ndarray:
    """Cut the centre square and resize it."""
    image = Image.fromarray(pixels)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(image.resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR, box=box))


def full(data: bytes) -> np.ndarray:
    """Decode the whole photo."""
    return to_square(np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def twostage(data: bytes) -> np.ndarray:
    """Decode as twostage does: Pillow, at 1/2, 1/4 or 1/8."""
    return decode(data, SIZE_PX)[0]


def opencv(data: bytes) -> np.ndarray:
    """Decode with OpenCV, at 1/2, 1/4 or 1/8."""
    import cv2

    cv2.setNumThreads(1)
    times = min(Image.open(io.BytesIO(data)).size) // SIZE_PX
    flags = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}
    flag = flags.get(max((t for t in (1, 2, 4) if t <= times), default=1), cv2.IMREAD_COLOR)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    return to_square(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB))


def simplejpeg(data: bytes) -> np.ndarray:
    """Decode with libjpeg-turbo by simplejpeg, at any eighth, by its fast paths."""
    import simplejpeg as decoder

    height, width, _, _ = decoder.decode_jpeg_header(data)
    scale = min(1.0, SIZE_PX / min(width, height))
    least = {"min_height": int(np.ceil(height * scale)), "min_width": int(np.ceil(width * scale))}
    return to_square(decoder.decode_jpeg(data, "RGB", fastdct=True, fastupsample=True, **least))


def pyvips(data: bytes) -> np.ndarray:
    """Decode and resize with libvips, at 1/2, 1/4 or 1/8."""
    import pyvips as vips

    vips.cache_set_max(0)
    image = vips.Image.new_from_buffer(data, "")
    shrink = max(
        (s for s in (1, 2, 4, 8) if min(image.width, image.height) >= s * SIZE_PX), default=1
    )
    image = vips.Image.new_from_buffer(data, "", shrink=shrink, access="sequential")
    side = min(image.width, image.height)
    corner = (image.width - side) // 2, (image.height - side) // 2
    factor = side / SIZE_PX
    return image.crop(*corner, side, side).reduce(factor, factor, kernel="linear").numpy()


def measure(photos: list[bytes], decoders: dict[str, Decoder]) -> dict[str, dict[str, float]]:
    """Return ms of processor time per photo, and the mean difference in grey levels."""
    reference = [full(data).astype(int) for data in photos]
    seconds: dict[str, list[float]] = {name: [] for name in decoders}
    found: dict[str, dict[str, float]] = {}
    for _ in range(N_ROUNDS):
        for name, decoder in decoders.items():
            started = time.process_time()
            pixels = [decoder(data) for data in photos]
            seconds[name].append(time.process_time() - started)
            pairs = zip(pixels, reference, strict=True)
            found[name] = {"difference": float(np.mean([np.abs(a - b).mean() for a, b in pairs]))}
    for name, values in seconds.items():
        found[name]["ms"] = median(values) / len(photos) * 1e3
    return found


@click.command()
@click.argument(
    "photos",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=ROOT.parent / "shared" / "data" / "photos_original",
)
def main(photos: Path) -> None:
    """Compare JPEG decoders on a folder of photos."""
    import PIL

    data = [file.read_bytes() for file in sorted(photos.glob("*.jpg"))]
    modules = {"opencv": "cv2", "simplejpeg": "simplejpeg", "pyvips": "pyvips"}
    decoders: dict[str, Decoder] = {"full": full, "twostage": twostage}
    decoders |= {
        function.__name__: function
        for function in (opencv, simplejpeg, pyvips)
        if find_spec(modules[function.__name__])
    }
    versions = {"pillow": PIL.__version__}
    for name in decoders:
        try:
            versions[name] = version(PACKAGES.get(name, name))
        except PackageNotFoundError:
            continue
    found = measure(data, decoders)
    machine = f"{platform.system()} {platform.machine()}"
    record = {"machine": machine, "versions": versions, "n": len(data), "decoders": found}
    (ARTIFACTS / "decoders.json").write_text(json.dumps(record, indent=1) + "\n")
    size_kb = np.mean([len(photo) for photo in data]) / 1e3
    lines = [
        "# JPEG decoders",
        "",
        f"By `benchmarks/decoders.py`: {len(data)} photos of {size_kb:.0f} kB, to 224 pixels; "
        "medians of interleaved rounds on one thread. The difference is that to "
        "full decoding, in grey levels of 255.",
        "",
        "| decoder | ms of processor time per photo | by twostage's | mean difference |",
        "|---|---|---|---|",
    ]
    for name, row in found.items():
        ratio = row["ms"] / found["twostage"]["ms"]
        lines.append(f"| {name} | {row['ms']:.2f} | {ratio:.2f} | {row['difference']:.2f} |")
    made = ", ".join(f"{name} {found}" for name, found in versions.items())
    (ARTIFACTS / "decoders.md").write_text("\n".join([*lines, "", f"{machine}; {made}.", ""]))
    click.echo((ARTIFACTS / "decoders.md").read_text())


if __name__ == "__main__":
    main()
