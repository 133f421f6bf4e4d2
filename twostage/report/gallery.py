"""Which rows are looked at: the worst errors, the most typical, the unreadable, the alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from twostage.evaluation.duplicates import join_groups, pairs_alike
from twostage.joins import image_names
from twostage.report.evidence import ArmPredictions
from twostage.report.stored import Stored
from twostage.report.thumbnails import Thumbnails
from twostage.report.words import number

N_WORST, N_TYPICAL, N_UNREADABLE, N_GROUPS, N_OF_GROUP = 12, 6, 12, 6, 6
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
        damaged = ", damaged" if self.note else ""
        return (
            f"{self.image or 'no image'}{damaged}: truly {self.truth}, predicted {self.predicted}"
        )


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
    arm : ArmPredictions
        Whose predictions they tell.
    columns : sequence of str
        Image columns.
    pictures : Thumbnails
        Of the images.
    """

    arm: ArmPredictions
    columns: Sequence[str]
    pictures: Thumbnails
    _names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        per_column = [image_names(self.arm.frame[column]) for column in self.columns]
        rows = range(len(self.arm.rows))
        self._names = [next((n for of in per_column for n in of[row][:1]), "") for row in rows]

    def of(self, arm: ArmPredictions) -> "Album":
        """Return the album of another arm on the same rows."""
        return Album(arm, self.columns, self.pictures)

    def card(self, at: int, note: str = "") -> Card:
        """Return the card of the row at a place in the predictions.

        With a note on what is wrong with one of its images, the card shows that one.
        """
        arm, name = self.arm, self._names[at]
        if note:
            name = next((one for one in self._all_names(at) if note.startswith(f"'{one}'")), name)
            note = note.removeprefix(f"'{name}': ").removeprefix(f"'{name}' ")
        if arm.proba is None:
            truth, said = number(float(arm.y[at])), number(float(arm.predicted[at]))
        else:
            truth, predicted = arm.labels[arm.y[at]], arm.predicted[at]
            said = f"{arm.labels[predicted]} ({arm.proba[at, predicted]:.2f})"
        return Card(
            int(arm.rows[at]),
            name,
            self.pictures.left_of(name) if note else self.pictures.of(name or None),
            truth,
            said,
            float(arm.error[at]),
            note,
        )

    def worst(self) -> Cards:
        """Return the rows whose prediction is furthest off; no right ones among them."""
        error = np.nan_to_num(self.arm.error, nan=-1.0)
        is_wrong = error > 0
        if self.arm.proba is not None:
            is_wrong = self.arm.predicted != self.arm.y
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
            elif self.arm.proba is not None:
                distance = self.arm.error[members]
            else:
                distance = np.abs(self.arm.y[members] - np.median(self.arm.y[members]))
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

    def alike(self, stored: Stored | None, threshold: float | None) -> tuple[list[Cards], int]:
        """Return the largest groups of rows with nearly equal images of different bytes.

        Each row is nearly equal to another one of its group, not to all. Also return how many
        groups there are.
        """
        if stored is None or threshold is None or len(stored.matrix) > _MOST_ROWS_FOR_PAIRS:
            return [], 0
        pairs = pairs_alike(stored.blocks, threshold)
        number = join_groups(np.arange(len(stored.matrix)), pairs)
        groups = [np.flatnonzero(number == one) for one in np.unique(number[pairs])]
        groups.sort(key=lambda rows: (-len(rows), rows[0]))
        shown = [
            Cards("", [self.card(int(at)) for at in rows[:N_OF_GROUP]], len(rows))
            for rows in groups[:N_GROUPS]
        ]
        return shown, len(groups)

    def _all_names(self, at: int) -> list[str]:
        cells = self.arm.frame.iloc[[at]]
        return [name for column in self.columns for name in image_names(cells[column])[0]]

    def _parts(self) -> list[tuple[str, np.ndarray]]:
        """Return the rows of each class, the most common ones first, or of each third."""
        if self.arm.proba is not None:
            sizes = np.bincount(self.arm.y, minlength=len(self.arm.labels))
            shown = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CLASSES])
            return [(self.arm.labels[k], np.flatnonzero(self.arm.y == k)) for k in shown]
        low, high = np.quantile(self.arm.y, [1 / 3, 2 / 3])
        y = self.arm.y
        parts = (y <= low, (y > low) & (y <= high), y > high)
        names = (
            f"lowest third, up to {number(float(low))}",
            "middle third",
            f"highest third, above {number(float(high))}",
        )
        return [(name, np.flatnonzero(is_in)) for name, is_in in zip(names, parts, strict=True)]
