"""One run at a time behind a URL: a lock that its holder renews, and that ends if it does not.

An object store has no locks, but a PUT on the condition that nothing is there, and one clock of
its own, by which it says when a file was written. Who wants the lock writes a file of the next
number on that condition, then lists: any other lock file that is not stale, by the store's clock,
belongs to somebody else, and the own one is taken back. Of two that find the same stale lock, one
gets the next number. Of two with different numbers at least one sees the other, since both list
after they write.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from uuid import uuid4

from twostage.errors import StoreError
from twostage.remote import RemoteFacts
from twostage.store.files import LOCK, is_lease
from twostage.store.holders import in_words, is_alive, machine, myself
from twostage.store.remote_files import RemoteFiles

log = logging.getLogger("twostage")
RENEWED_EVERY_S = 30.0
STALE_AFTER_S = 300.0
_TRUSTED_SHARE = 0.8  # of that: a holder gives its lock up well before others take it
_LOOKED_EVERY_S = 5.0  # by who waits


@contextmanager
def leased(files: RemoteFiles, wait: bool) -> Iterator[None]:
    """Hold a store behind a URL for one run that writes, and renew that until the end.

    Raises
    ------
    StoreError
        If another run holds it, which the message names, or it can't be written.
    """
    lease = _acquired(files, wait)
    keeper = threading.Thread(target=lease.keep, name="twostage-lease", daemon=True)
    keeper.start()
    files.confirm = lease.confirm
    try:
        yield
    finally:
        files.confirm = None
        lease.release()
        keeper.join(timeout=_LOOKED_EVERY_S)


def holder_behind(files: RemoteFiles) -> str | None:
    """Return which run says that it holds the store, in words; None if none does."""
    with suppress(OSError, StoreError):
        now_ns = time.time_ns()  # close enough to say who it is; it decides nothing
        for name, facts in _leases(files).items():
            holder = _read(files, name)
            if holder is not None and not _is_over(holder, facts, now_ns):
                return in_words(holder)
    return None


def mark_behind(files: RemoteFiles) -> str:
    """Return what the latest lock says, which no other run's does; "" if there is none."""
    try:
        return files.read(max(_leases(files), default="")).decode(errors="replace")
    except OSError:
        return ""


class _Lease:
    """A lock file of this run.

    Parameters
    ----------
    files : RemoteFiles
        Of the store.
    name : str
        Of the lock's file.
    """

    def __init__(self, files: RemoteFiles, name: str):
        self._files = files
        self.name = name
        self._token = uuid4().hex
        self._data = json.dumps({**myself(), "machine": machine(), "token": self._token}).encode()
        self._written = _clocks()
        self._ended = threading.Event()
        self._writing = threading.Lock()

    def create(self) -> bool:
        """Write the file, unless there is one of that name; whether it is this run's then."""
        self._written = _clocks()
        try:
            self._files.create(self.name, self._data)
        except FileExistsError:
            # It may be by an attempt of one's own whose answer got lost.
            return (_read(self._files, self.name) or {}).get("token") == self._token
        return True

    def keep(self) -> None:
        """Renew it until the end of the run."""
        while not self._ended.wait(RENEWED_EVERY_S):
            # Not reached now: the next renewal may, and else the next part's confirmation tells.
            with suppress(OSError, StoreError):
                self._renew()

    def confirm(self) -> None:
        """Raise StoreError if another run may hold the store by now."""
        if _elapsed_s(self._written) >= _TRUSTED_SHARE * STALE_AFTER_S:
            raise StoreError(
                f"This run could not renew its lock on the store '{self._files.where}' for "
                f"{_elapsed_s(self._written):.0f} s, so that another one may write it by now. The "
                "store holds all parts written before; run the same command again to continue."
            )

    def release(self) -> None:
        """Delete the file, if it is known to be this run's still."""
        self._ended.set()
        with self._writing, suppress(OSError, StoreError):  # must not hide what went wrong before
            self.confirm()
            self._files.delete([self.name])

    def _renew(self) -> None:
        with self._writing:
            self.confirm()
            if self._ended.is_set():
                return
            started = _clocks()
            self._files.renew(self.name, self._data)
            self.confirm()  # by the time before: what came too late renews nothing
            self._written = started


def _acquired(files: RemoteFiles, wait: bool) -> _Lease:
    while True:
        try:
            found = _try(files)
        except OSError as error:
            raise StoreError(f"Can't write the store '{files.where}': {error.strerror}.") from error
        if isinstance(found, _Lease):
            return found
        if not wait:
            raise StoreError(
                f"Store '{files.where}' is being written by {in_words(found)}. Wait for it to end, "
                "or stop it: what it has committed stays. If it was killed on another machine, its "
                f"lock ends {STALE_AFTER_S / 60:.0f} minutes after."
            )
        log.info("Waiting for %s, which writes '%s'.", in_words(found), files.where)
        time.sleep(_LOOKED_EVERY_S)


def _try(files: RemoteFiles) -> _Lease | dict[str, Any]:
    """Return the lock, or who has it."""
    before = _leases(files)
    last = max((int(name.rpartition("-")[2]) for name in before), default=0)
    lease = _Lease(files, f"{LOCK}-{last + 1:06d}")
    if not lease.create():
        return _read(files, lease.name) or {}
    after = _leases(files)
    mine = after.pop(lease.name, None)
    if mine is None:
        return {}
    for name, facts in after.items():
        holder = _read(files, name)
        if holder is not None and not _is_over(holder, facts, mine.mtime_ns):
            lease.release()
            return holder
    files.delete(after)
    return lease


def _leases(files: RemoteFiles) -> dict[str, RemoteFacts]:
    return {name: facts for name, facts in files.entries().items() if is_lease(name)}


def _is_over(holder: dict[str, Any], facts: RemoteFacts, now_ns: int | None) -> bool:
    """Whether a lock's holder is known to be gone, or was silent for so long that it gave it up."""
    if holder.get("machine") == machine() is not None and not is_alive(holder.get("pid")):
        return True
    if now_ns is None or facts.mtime_ns is None:
        return False
    return now_ns - facts.mtime_ns > STALE_AFTER_S * 1e9


def _read(files: RemoteFiles, name: str) -> dict[str, Any] | None:
    """Return what a lock says of its holder; {} if that is nothing, None if it is gone."""
    try:
        holder = files.read_json(name)
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _clocks() -> tuple[float, float]:
    """Return the time by two clocks: one runs while the machine sleeps, no one sets the other."""
    return time.time(), time.monotonic()


def _elapsed_s(since: tuple[float, float]) -> float:
    return max(now - then for now, then in zip(_clocks(), since, strict=True))
