"""Who holds a store: what a run says of itself, and whether it is gone."""

import os
import platform
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any


def myself() -> dict[str, str | int]:
    """Return what a lock says of the run that holds it."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    return {"pid": os.getpid(), "host": platform.node(), "since": since}


def in_words(holder: Mapping[str, Any]) -> str:
    """Say who holds a store, by what its lock says."""
    if not {"pid", "host", "since"} <= holder.keys():
        return "another run"
    return f"process {holder['pid']} on {holder['host']} since {holder['since']}"


def is_alive(pid: object) -> bool:
    """Whether a process of this machine is alive; what is no number may be."""
    if not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's, or no number of a process
        return True
    return True


def machine() -> str | None:
    """Return what tells this machine, or container, since its start from all others, if known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return None
