"""Which shards are left, and which worker has which: decided without any cluster.

A worker that dies gives back what it had. Whatever it was may be to blame, and is tried again
alone. What kills a worker alone is cut in two, again and again, until one image is found. That is
condemned: it gets an error instead of an embedding.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from twostage.errors import ExecutorError

IN_HAND = 2  # shards: one that is worked on, one that waits, so that no worker does
_DEATHS = 2  # by a shard or an image alone, before it is taken for the cause
_MOST_CONDEMNED = 16


class Work(Protocol):
    """A shard: what can be cut."""

    @property
    def images(self) -> Sequence[Any]: ...


S = TypeVar("S", bound=Work)


@dataclass
class _Job(Generic[S]):
    """A shard with what is left of it.

    Attributes
    ----------
    pieces : deque
        What is left, in order. Pieces of one shard are worked on one after the other, since they
        go into one part.
    is_suspect : bool
        Whether a worker died that had it.
    is_cut : bool
        Whether it is known to kill workers, and so was cut.
    n_deaths : int
        Of workers that had nothing but its first piece.
    n_condemnations : int
        How often that piece, an image, was condemned.
    """

    pieces: deque[S]
    is_suspect: bool = False
    is_cut: bool = False
    n_deaths: int = 0
    n_condemnations: int = 0


class Backlog(Generic[S]):
    """The shards that are left.

    Parameters
    ----------
    shards : iterable
        What is to be done.
    split : callable
        Cuts a shard of several images in two.
    condemn : callable
        Takes a shard of one image, and how often that was condemned before; returns a shard whose
        image is not decoded, the second time not even read.

    Attributes
    ----------
    n_done : int
        Images in what is finished.
    n_images : int
        Images in all.
    condemned : list
        The images that were.
    """

    def __init__(
        self,
        shards: Iterable[S],
        split: Callable[[S], tuple[S, S]],
        condemn: Callable[[S, int], S],
    ):
        self._waiting = deque(_Job(deque([shard])) for shard in shards)
        self._suspects: deque[_Job[S]] = deque()
        self._hands: dict[Hashable, deque[_Job[S]]] = {}
        self._split, self._condemn = split, condemn
        self.n_images = sum(len(job.pieces[0].images) for job in self._waiting)
        self.n_done = 0
        self.condemned: list[Any] = []

    @property
    def n_jobs(self) -> int:
        """How many shards are not finished."""
        return self.n_free + sum(map(len, self._hands.values()))

    @property
    def n_free(self) -> int:
        """How many of them no worker has."""
        return len(self._waiting) + len(self._suspects)

    def is_idle(self, worker: Hashable) -> bool:
        """Whether a worker has nothing to do."""
        return not self._hands.get(worker)

    def take(self, worker: Hashable, n_coming: int = 0) -> list[S]:
        """Return what a worker is to get now, in order. Suspects are worked on alone.

        Parameters
        ----------
        worker : hashable
            Which one it is.
        n_coming : int
            Other workers that have nothing yet: a shard for each is left.
        """
        hand = self._hands.setdefault(worker, deque())
        if self._suspects and not hand:
            hand.append(self._suspects.popleft())
            return [hand[0].pieces[0]]
        taken: list[S] = []
        while self._may_have_another(hand, n_coming):
            hand.append(self._waiting.popleft())
            taken.append(hand[-1].pieces[0])
        return taken

    def _may_have_another(self, hand: deque[_Job[S]], n_coming: int) -> bool:
        if not hand:
            return bool(self._waiting)
        is_alone = any(job.is_suspect for job in hand)
        return len(hand) < IN_HAND and not is_alone and len(self._waiting) > n_coming

    def finish(self, worker: Hashable) -> int:
        """Note that a worker has done the first of what it has; return how many images that are."""
        job = self._hands[worker].popleft()
        n_images = len(job.pieces.popleft().images)
        self.n_done += n_images
        if job.pieces:
            job.n_deaths = job.n_condemnations = 0
            self._suspects.appendleft(job)
        return n_images

    def give_back(self, worker: Hashable) -> None:
        """Take back what a worker had that died.

        Raises
        ------
        ExecutorError
            If workers die whatever they are given.
        """
        hand = self._hands.pop(worker, deque())
        for job in hand:
            if len(hand) == 1 and job.is_suspect:
                self._blame(job)
            job.is_suspect = True
            self._suspects.append(job)

    def _blame(self, job: _Job[S]) -> None:
        job.n_deaths += 1
        piece = job.pieces[0]
        if len(piece.images) > 1 and (job.is_cut or job.n_deaths >= _DEATHS):
            job.pieces.popleft()
            job.pieces.extendleft(reversed(self._split(piece)))
            job.is_cut, job.n_deaths = True, 0
        elif len(piece.images) == 1 and job.n_deaths >= _DEATHS:
            job.pieces[0] = self._condemned(piece, job.n_condemnations)
            job.n_condemnations += 1
            job.n_deaths = 0

    def _condemned(self, piece: S, n_before: int) -> S:
        if n_before == 0:
            self.condemned.append(piece.images[0])
        if len(self.condemned) > _MOST_CONDEMNED or n_before > 1:
            raise ExecutorError(
                f"Workers die whatever they are given, {_MOST_CONDEMNED} images and more. Look "
                "for the reason in Ray's logs (/tmp/ray/session_latest/logs on each node); most "
                "often it is memory: take fewer workers per node (--cpus-per-worker), or a smaller "
                "--batch-size."
            )
        return self._condemn(piece, n_before)
