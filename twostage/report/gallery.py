"""Which rows are looked at: the worst errors, the most typical, the unreadable, the alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from twostage.evaluation.duplicates import near_pairs
from twostage.joins import image_names
from twostage.report.evidence import ArmPredictions
from twostage.report.stored import Stored
from twostage.report.thumbnails import Thumbnails
from twostage.report.words import number

N_WORST, N_TYPICAL, N_UNREADABLE, N_PAIRS = 12, 6, 12, 6
MOST_CLASSES = 8
_MOST_ROWS_FOR_PAIRS = 20_000


@dataclass(frozen=True)
class Card:
    """A row with its image.

    Attributes
    ----------
    row : int
        Its number in the table, from 0.
    image : str
        Name of its first image; empty if it has none.
    picture : str or None
        Data URI.
    truth, predicted : str
        In words.
    error : float
        How wrong the prediction is.
    note : str
        What else there is to say.
    """

    row: int
    image: str
    picture: str | None
    truth: str
    predicted: str
    error: float
    note: str = ""

    @property
    def file(self) -> str:
        """The image's name without its folders."""
        return self.image.rsplit("/", 1)[-1]

    @property
    def alt(self) -> str:
        """What stands for the picture."""
        return f"{self.image or 'no image'}: truly {self.truth}, predicted {self.predicted}"


@dataclass(frozen=True)
class Cards:
    """Cards under a heading."""

    name: str
    cards: list[Card]
    n_in_all: int = 0


@dataclass
class Album:
    """Makes the cards of an arm's rows.

    Parameters
    ----------
    best : ArmPredictions
        The arm.
    columns : sequence of str
        Image columns.
    pictures : Thumbnails
        Of the images.
    """

    best: ArmPredictions
    columns: Sequence[str]
    pictures: Thumbnails
    _names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        per_column = [image_names(self.best.frame[column]) for column in self.columns]
        rows = range(len(self.best.rows))
        self._names = [next((n for of in per_column for n in of[row][:1]), "") for row in rows]

    def card(self, at: int, note: str = "") -> Card:
        """Return the card of the row at a place in the predictions."""
        best, name = self.best, self._names[at]
        if best.proba is None:
            truth, said = number(float(best.y[at])), number(float(best.predicted[at]))
        else:
            truth, predicted = best.labels[best.y[at]], best.predicted[at]
            said = f"{best.labels[predicted]} ({best.proba[at, predicted]:.2f})"
        return Card(
            int(best.rows[at]),
            name,
            self.pictures.of(name or None),
            truth,
            said,
            float(best.error[at]),
            note,
        )

    def worst(self) -> Cards:
        """Return the rows whose prediction is furthest off; no right ones among them."""
        error = np.nan_to_num(self.best.error, nan=-1.0)
        is_wrong = error > 0
        if self.best.proba is not None:
            is_wrong = self.best.predicted != self.best.y
        order = np.argsort(-np.where(is_wrong, error, -1), kind="stable")
        chosen = [int(at) for at in order[:N_WORST] if is_wrong[at]]
        return Cards("", [self.card(at) for at in chosen], int(is_wrong.sum()))

    def typical(self, stored: Stored | None) -> list[Cards]:
        """Return for each class, or third of a number, the rows nearest its middle.

        By embeddings the middle is their mean. Without them the rows are taken whose class is
        predicted with most certainty, or whose value is nearest the third's median.
        """
        found = []
        for name, members in self._parts():
            if stored is not None:
                members = members[np.isfinite(stored.matrix[members]).all(axis=1)]
            if len(members) == 0:
                continue
            if stored is not None:
                near = stored.matrix[members] - stored.matrix[members].mean(axis=0)
                distance = np.linalg.norm(near, axis=1)
            elif self.best.proba is not None:
                distance = self.best.error[members]
            else:
                distance = np.abs(self.best.y[members] - np.median(self.best.y[members]))
            chosen = members[np.argsort(distance, kind="stable")[:N_TYPICAL]]
            found.append(Cards(name, [self.card(int(at)) for at in chosen], len(members)))
        return found

    def unreadable(self, stored: Stored | None) -> Cards:
        """Return rows with an image that has no embedding, and why."""
        if stored is None:
            return Cards("", [], 0)
        broken = [at for at, error in enumerate(stored.errors) if error is not None]
        cards = [self.card(at, str(stored.errors[at])) for at in broken[:N_UNREADABLE]]
        return Cards("", cards, len(broken))

    def alike(self, stored: Stored | None, threshold: float | None) -> list[tuple[Card, Card]]:
        """Return pairs of rows with nearly equal images of different bytes."""
        if stored is None or threshold is None or len(stored.matrix) > _MOST_ROWS_FOR_PAIRS:
            return []
        pairs: list[tuple[Card, Card]] = []
        for one, other in near_pairs(stored.matrix, threshold):
            if not set(stored.hashes[one]) & set(stored.hashes[other]):
                pairs.append((self.card(int(one)), self.card(int(other))))
            if len(pairs) == N_PAIRS:
                break
        return pairs

    def _parts(self) -> list[tuple[str, np.ndarray]]:
        """Return the rows of each class, the most common ones first, or of each third."""
        if self.best.proba is not None:
            sizes = np.bincount(self.best.y, minlength=len(self.best.labels))
            shown = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CLASSES])
            return [(self.best.labels[k], np.flatnonzero(self.best.y == k)) for k in shown]
        low, high = np.quantile(self.best.y, [1 / 3, 2 / 3])
        y = self.best.y
        parts = (y <= low, (y > low) & (y <= high), y > high)
        names = (
            f"lowest third, up to {number(float(low))}",
            "middle third",
            f"highest third, above {number(float(high))}",
        )
        return [(name, np.flatnonzero(is_in)) for name, is_in in zip(names, parts, strict=True)]
