"""Give twostage's decoder images that are broken in every way: does it stay alive, quick and small?

    python benchmarks/torture_images.py [--number N] [--seed N] [--folder DIR]

Files of every format (image_kinds.py) are mutated: bits flipped, bytes overwritten, ends cut off,
pieces moved within a file or taken from another one. PNGs mostly get right checksums again, so that
what is behind those is reached. A child process
decodes them one by one, as `twostage extract` does; one that dies or takes too long is noted and
replaced by another, which goes on with the next image. Every mutation is made anew from the seed
and its number alone.

Results go to artifacts/torture_images.json and .md.
"""

import json
import platform
import queue
import random
import resource
import subprocess
import sys
import threading
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
from image_kinds import bomb, kinds

from twostage.errors import ImageError
from twostage.images.decoding import decode
from twostage.pixels import MAX_PIXELS

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
NUMBER, LIMIT_S, SIZE_PX = 10_000, 20.0, 224
_PATIENCE = 15  # wall time for one second of a processor, on a busy machine
BYTES_PER_PIXEL = 20  # of an image at the limit, in all copies that its conversion takes
BOMB_PIXELS = MAX_PIXELS // 4
# Channels, and bytes of each; by how much they take, for a process tells its peak alone.
BOMBS = {"grey": (1, 1), "colour": (3, 1), "16-bit grey": (1, 2), "alpha": (4, 1)}
KINDS = {"read", "limit", "decode"}
_ODD = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(number: int, seed: int, files: dict[str, bytes]) -> tuple[str, str, bytes]:
    """Return the name of a file, that of a mutation, and the bytes that it makes of the file."""
    rng = random.Random(f"{seed} {number}")
    names = list(files)
    name = names[number % len(names)]
    data, other = files[name], files[rng.choice(names)]
    mutation = rng.choice(list(MUTATIONS))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = MUTATIONS[mutation](data, other, rng)
    if rng.random() < 0.7:
        data = _with_right_checksums(data)
    return name, mutation, data


def _with_right_checksums(data: bytes) -> bytes:
    """Return a PNG whose chunks Pillow does not refuse for their checksums alone."""
    if not data.startswith(b"\x89PNG"):
        return data
    mended, at = bytearray(data), 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        mended[end : end + 4] = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(mended)


def _position(data: bytes, rng: random.Random) -> int:
    """Return a position; every other one is in the first bytes, where the headers are."""
    return rng.randrange(max(1, min(len(data), rng.choice((64, 400, len(data), len(data))))))


def _flip(data: bytes, other: bytes, rng: random.Random) -> bytes:
    flipped = bytearray(data)
    for _ in range(rng.choice((1, 2, 8, 64))):
        flipped[_position(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(flipped)


def _truncate(data: bytes, other: bytes, rng: random.Random) -> bytes:
    return data[: max(1, _position(data, rng))]


def _overwrite(data: bytes, other: bytes, rng: random.Random) -> bytes:
    n, order = rng.choice((1, 2, 4)), rng.choice(("big", "little"))
    value = (rng.choice(_ODD) & (1 << 8 * n) - 1).to_bytes(n, order)
    at = _position(data, rng)
    return data[:at] + value + data[at + n :]


def _splice(data: bytes, other: bytes, rng: random.Random) -> bytes:
    at, start = _position(data, rng), _position(other, rng)
    piece = other[start : start + rng.choice((4, 64, 1000, len(other)))]
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def _repeat(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start, at = _position(data, rng), _position(data, rng)
    piece = data[start : start + rng.choice((2, 16, 500))] * rng.choice((1, 10, 300))
    return data[:at] + piece + data[at:]


def _cut_out(data: bytes, other: bytes, rng: random.Random) -> bytes:
    start = _position(data, rng)
    return data[:start] + data[start + rng.choice((1, 4, 50, 1000)) :] or b"\0"


Mutation = Callable[[bytes, bytes, random.Random], bytes]
MUTATIONS: dict[str, Mutation] = {
    "flip": _flip,
    "truncate": _truncate,
    "overwrite": _overwrite,
    "splice": _splice,
    "repeat": _repeat,
    "cut out": _cut_out,
}


def decode_all(first: int, last: int, seed: int) -> None:
    """Decode mutated files, and tell of each on a line: what child processes do."""
    warnings.simplefilter("ignore")
    files = _files()
    for number in range(first, last):
        name, mutation, data = mutated(number, seed, files)
        _tell({"number": number, "name": name, "mutation": mutation})
        started = time.process_time()
        try:
            pixels, _, _ = decode(data, SIZE_PX)
            outcome = "decoded" if pixels.shape == (SIZE_PX, SIZE_PX, 3) else "not a square"
        except ImageError as error:
            outcome = str(error)
        except BaseException as error:
            outcome = f"unclassified: {type(error).__name__}: {error}"
        seconds = time.process_time() - started
        _tell({"outcome": outcome, "seconds": seconds, "peak_mb": _peak_mb()})


def decode_bombs() -> None:
    """Decode small files of very many pixels: what a child process does."""
    for name, (channels, bytes_each) in BOMBS.items():
        data = bomb(BOMB_PIXELS, channels, bytes_each)
        started = time.process_time()
        decode(data, SIZE_PX)
        seconds = time.process_time() - started
        _tell({"name": name, "bytes": len(data), "seconds": seconds, "peak_mb": _peak_mb()})


def _files() -> dict[str, bytes]:
    found = kinds().items()
    return {f"{kind}: {name}": file.data for kind, files in found for name, file in files.items()}


def _tell(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


def _peak_mb() -> float:
    """Return the most memory that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


class _Child:
    """A process that decodes, and its lines as they come."""

    def __init__(self, *arguments: object):
        command = [sys.executable, str(Path(__file__).resolve()), *map(str, arguments)]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.printed = ""
        self._is_at_end = False
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._note)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(json.loads(line))
        self._lines.put(None)

    def _note(self) -> None:
        assert self.process.stderr is not None
        self.printed = self.process.stderr.read()

    def line(self, timeout_s: float) -> dict[str, Any] | None:
        """Return the next line, None at the end; raise queue.Empty if it takes too long."""
        line = self._lines.get(timeout=timeout_s)
        self._is_at_end = line is None
        return line

    def end(self) -> int:
        """Stop it, unless it stops by itself, and return its exit code."""
        if not self._is_at_end:
            self.process.kill()
        code = self.process.wait()
        for thread in self._threads:
            thread.join()
        return code


def _records(number: int, seed: int, limit_s: float) -> Iterator[dict[str, Any]]:
    """Yield what became of each image, whatever became of the processes."""
    first = 0
    while first < number:
        child = _Child("--child", first, number, seed)
        current: dict[str, Any] | None = None
        outcome = ""
        try:
            while (line := child.line(_PATIENCE * limit_s)) is not None:
                if "outcome" in line:
                    yield (current or {}) | line
                    first, current = first + 1, None
                else:
                    current = line
        except queue.Empty:
            outcome = "hung"
        finally:
            code = child.end()
        if first < number:
            if current is None:
                raise click.ClickException(f"A child ended by itself: {child.printed[-2000:]}")
            yield current | {"outcome": outcome or f"crashed ({code})", "seconds": limit_s}
            first += 1
        if child.printed.strip():
            yield {"printed": child.printed}


def _bound_mb(n_pixels: int) -> float:
    """Return what an image may take, and the process around it."""
    return 200 + BYTES_PER_PIXEL * n_pixels / 2**20


def _bombs(limit_s: float) -> list[dict[str, Any]]:
    """Return what became of the largest images that are allowed."""
    child = _Child("--bombs")
    found = []
    try:
        while (line := child.line(_PATIENCE * limit_s)) is not None:
            found.append(line)
    finally:
        child.end()
    if len(found) < len(BOMBS):
        raise click.ClickException(f"A bomb was not decoded: {child.printed[-2000:]}")
    return found


def run(
    number: int = NUMBER, seed: int = 0, limit_s: float = LIMIT_S, with_bombs: bool = True
) -> dict[str, Any]:
    """Decode mutated images in child processes, and count what becomes of them.

    Parameters
    ----------
    number : int
        Mutated images.
    seed : int
        What decides them, with their number.
    limit_s : float
        Processor time of one image; more is a hang. Of wall time it gets much more.
    with_bombs : bool
        Whether to decode small files of very many pixels too: takes a gigabyte.

    Returns
    -------
    dict
        ``n``; ``n_decoded``; ``n_errors`` by kind; ``crashes``, ``hangs`` and ``unclassified``:
        the images with their numbers; ``slowest_s``, ``slowest``; ``peak_mb`` of a child and
        ``bound_mb``, what an image at the limit may take; ``bombs``, each with its peak;
        ``printed``: what native libraries wrote to standard error; ``by_format``,
        ``by_mutation``, ``messages`` with counts; ``is_passed``.
    """
    started = time.perf_counter()
    records, printed = [], []
    for record in _records(number, seed, limit_s):
        if "printed" in record:
            printed.append(record["printed"])
        else:
            records.append(record)
    bombs = _bombs(limit_s) if with_bombs else []
    outcomes = [record["outcome"] for record in records]
    errors = [text for text in outcomes if text.partition(":")[0] in KINDS]
    slowest = max(records, key=lambda record: record["seconds"])
    found = {
        "n": len(records),
        "seed": seed,
        "max_pixels": MAX_PIXELS,
        "n_decoded": outcomes.count("decoded"),
        "n_errors": dict(Counter(text.partition(":")[0] for text in errors)),
        "crashes": [r for r in records if r["outcome"].startswith("crashed")],
        "hangs": [r for r in records if r["outcome"] == "hung" or r["seconds"] > limit_s],
        "unclassified": [
            r for r in records if r["outcome"].startswith(("unclassified", "not a square"))
        ],
        "slowest_s": slowest["seconds"],
        "slowest": slowest,
        "limit_s": limit_s,
        "peak_mb": max(record.get("peak_mb", 0) for record in records),
        "bombs": bombs,
        "bound_mb": _bound_mb(MAX_PIXELS),
        "printed": "".join(printed)[:2000],
        "by_format": _counted(records, lambda record: record["name"].partition(":")[0]),
        "by_mutation": _counted(records, lambda record: record["mutation"]),
        "messages": dict(Counter(errors).most_common()),
        "seconds": time.perf_counter() - started,
        "machine": f"{platform.machine()}, {platform.system()}",
        "versions": {name: version(name) for name in ("twostage", "pillow")},
    }
    is_small = found["peak_mb"] < found["bound_mb"] and all(
        each["peak_mb"] < _bound_mb(BOMB_PIXELS) for each in bombs
    )
    wrong = (*found["crashes"], *found["hangs"], *found["unclassified"])
    found["is_passed"] = is_small and not wrong
    return found


def _counted(
    records: list[dict[str, Any]], part: Callable[[dict[str, Any]], str]
) -> dict[str, dict[str, int]]:
    """Count what became of the records, by one of their properties."""
    counts: dict[str, Counter[str]] = {}
    for record in records:
        outcome = record["outcome"].partition(":")[0]
        counts.setdefault(part(record), Counter())[outcome] += 1
    return {name: dict(count) for name, count in counts.items()}


def described(found: dict[str, Any]) -> str:
    """Put what was found in Markdown."""
    errors = ", ".join(f"{n:,} {kind}" for kind, n in sorted(found["n_errors"].items()))
    lines = [
        "# Broken images",
        "",
        f"{found['n']:,} mutated files of every kind, made from seed {found['seed']}, through the "
        f"decoder of `twostage extract` (Pillow {found['versions']['pillow']}), by "
        "`python benchmarks/torture_images.py`.",
        "",
        f"- decoded: {found['n_decoded']:,}; rows with an error: {errors}",
        f"- crashes: {len(found['crashes'])}; over {found['limit_s']:.0f} s: "
        f"{len(found['hangs'])}; errors that are not classified: {len(found['unclassified'])}",
        f"- the slowest took {found['slowest_s']:.2f} s ({found['slowest']['name']}, "
        f"{found['slowest']['mutation']}: {found['slowest']['outcome']})",
        f"- the most memory of the process: {found['peak_mb']:,.0f} MB",
        *(
            f"- {each['name']}, {BOMB_PIXELS:,} pixels in {each['bytes']:,} bytes: "
            f"{each['seconds']:.1f} s, {each['peak_mb']:,.0f} MB"
            for each in found["bombs"]
        ),
        "",
        "| kind | decoded | decode | limit |",
        "|---|---|---|---|",
    ]
    for name, counts in found["by_format"].items():
        cells = " | ".join(f"{counts.get(key, 0):,}" for key in ("decoded", "decode", "limit"))
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--number", type=click.IntRange(1), default=NUMBER, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--limit-s", type=float, default=LIMIT_S, show_default=True, help="Of one image.")
@click.option("--folder", type=click.Path(path_type=Path), default=ARTIFACTS, show_default=True)
@click.option("--with-bombs/--without-bombs", default=True, show_default=True)
@click.option("--bombs", is_flag=True, hidden=True)
@click.option("--child", type=int, nargs=3, hidden=True)
def main(
    number: int,
    seed: int,
    limit_s: float,
    folder: Path,
    with_bombs: bool,
    bombs: bool,
    child: tuple[int, int, int] | None,
) -> None:
    """Mutate image files and decode them."""
    if bombs:
        decode_bombs()
        return
    if child is not None:
        decode_all(*child)
        return
    found = run(number, seed, limit_s, with_bombs)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "torture_images.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "torture_images.md").write_text(described(found))
    click.echo(described(found))
    if not found["is_passed"]:
        raise click.ClickException("Not passed: see torture_images.json.")


if __name__ == "__main__":
    main()
