"""Whether a matrix fits into the memory, asked before: Linux ends those who find out later."""

from pathlib import Path

from twostage.errors import DataError

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def check_room(n_rows: int, width: int, what: str) -> None:
    """Raise DataError if a float32 matrix of so many rows and numbers can't be held.

    Parameters
    ----------
    n_rows, width : int
        Its shape.
    what : str
        What its rows are, for the message.
    """
    needed, free = 4 * n_rows * width, free_bytes()
    if free is not None and needed > free:
        raise DataError(
            f"{n_rows:,} {what} of {width:,} numbers take {needed / 1e9:,.1f} GB of memory, "
            f"and {free / 1e9:,.1f} GB are free. Fit on fewer rows or on a larger machine, or make "
            "the embeddings shorter first, part by part: docs/scale.md shows how, with "
            "IncrementalPCA and --vector."
        )


def free_bytes() -> int | None:
    """Return what memory this process can still have; None where the system does not tell."""
    known = [free for free in (_free_of_machine(), _free_of_group()) if free is not None]
    return min(known, default=None)


def _free_of_machine() -> int | None:
    try:
        lines = _MEMINFO.read_text().splitlines()
        (kb,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(kb) * 1024
    except (OSError, ValueError):
        return None


def _free_of_group() -> int | None:
    """Return what is left of a container's limit; what its files' cache holds counts as free."""
    try:
        most = int((_CGROUP / "memory.max").read_text())  # "max" where there is none
        used = int((_CGROUP / "memory.current").read_text())
        facts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        return most - used + int(facts["inactive_file"]) + int(facts["active_file"])
    except (OSError, ValueError, KeyError):
        return None
