"""What a benchmark found, in plain sentences: what images add, and which head does better."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite

from twostage.bootstrap import short
from twostage.evaluation.arms import BOTH, IMAGES, TABLE, Arm
from twostage.intervals import FoldPrediction, cross_validated_difference
from twostage.metrics import Metric, Score

_RICHEST = (BOTH, IMAGES, TABLE)


@dataclass(frozen=True)
class Finding:
    """A paired difference between two arms.

    Attributes
    ----------
    kind : {"images", "heads", "stores"}
        What the arms differ in.
    arm, against : str
        Names of the arms.
    metric : str
        Of the difference.
    difference : Score
        By how much the score of ``arm`` is above that of ``against``.
    sentence : str
        It in words.
    """

    kind: str
    arm: str
    against: str
    metric: str
    difference: Score
    sentence: str


def find(
    arms: Sequence[Arm], folds: Mapping[str, Sequence[FoldPrediction]], metric: Metric
) -> list[Finding]:
    """Compare arms that differ in one thing.

    Parameters
    ----------
    arms : sequence of Arm
        All of them.
    folds : mapping of str to sequence of FoldPrediction
        By arm.
    metric : Metric
        The main one.
    """
    pairs = [*_images_pairs(arms), *_heads_pairs(arms), *_stores_pairs(arms)]
    is_error = not metric.higher_is_better
    found = []
    for kind, arm, against in pairs:
        score = cross_validated_difference(metric, folds[arm.name], folds[against.name])
        sentence = _SENTENCES[kind](arm, against, metric.label, score, is_error)
        found.append(Finding(kind, arm.name, against.name, metric.name, score, sentence))
    return found


def _images_pairs(arms: Sequence[Arm]) -> list[tuple[str, Arm, Arm]]:
    """Pair each arm that sees images and table, or else images, with its table."""
    tables = {arm.head: arm for arm in arms if arm.features == TABLE}
    heads_with_both = {arm.head for arm in arms if arm.features == BOTH}
    return [
        ("images", arm, tables[arm.head])
        for arm in arms
        if arm.head in tables
        and (arm.features == BOTH or (arm.features == IMAGES and arm.head not in heads_with_both))
    ]


def _heads_pairs(arms: Sequence[Arm]) -> list[tuple[str, Arm, Arm]]:
    """Pair the first head with each other one, where they see the most."""
    those = _richest(arms)
    firsts = {arm.store: arm for arm in those if arm.head == those[0].head}
    return [("heads", firsts[arm.store], arm) for arm in those if arm.head != those[0].head]


def _stores_pairs(arms: Sequence[Arm]) -> list[tuple[str, Arm, Arm]]:
    """Pair the first store with each other one, by head, where heads see the most."""
    those = _richest([arm for arm in arms if arm.store])
    firsts = {arm.head: arm for arm in those if arm.store == those[0].store}
    return [("stores", firsts[arm.head], arm) for arm in those if arm.store != those[0].store]


def _richest(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms that see the most."""
    for features in _RICHEST:
        those = [arm for arm in arms if arm.features == features]
        if those:
            return those
    return []


def _images_sentence(arm: Arm, against: Arm, name: str, score: Score, is_error: bool) -> str:
    is_gain, size = _sized(score, is_error)
    if arm.features == IMAGES:
        what = f"images alone are {'better' if is_gain else 'worse'} than the table by"
        said = f"{what} {short(size.value)} {name}"
    elif is_error:
        what = "lower" if is_gain else "raise"
        said = f"images {what} the table's {name} by {short(size.value)}"
    else:
        what, preposition = ("add", "to") if is_gain else ("take", "from")
        said = f"images {what} {short(size.value)} {name} {preposition} the table"
    return f"With {arm.head}{_of_store(arm)}, {said}{_certainty(size)}"


def _heads_sentence(arm: Arm, against: Arm, name: str, score: Score, is_error: bool) -> str:
    return _versus(arm.head, against.head, f" on {_in_words(arm)}", name, score, is_error)


def _stores_sentence(arm: Arm, against: Arm, name: str, score: Score, is_error: bool) -> str:
    return _versus(arm.store, against.store, f" with {arm.head}", name, score, is_error)


_SENTENCES = {"images": _images_sentence, "heads": _heads_sentence, "stores": _stores_sentence}


def _versus(one: str, other: str, where: str, name: str, score: Score, is_error: bool) -> str:
    is_gain, size = _sized(score, is_error)
    better, worse = (one, other) if is_gain else (other, one)
    said = f"{better} does better than {worse}{where} by {short(size.value)} {name}"
    return f"{said}{_certainty(size)}"


def _sized(score: Score, is_error: bool) -> tuple[bool, Score]:
    """Return whether the first arm is the better one, and by how much the better one is."""
    is_gain = (score.value <= 0) if is_error else (score.value >= 0)
    if score.value >= 0:
        return is_gain, score
    return is_gain, Score(-score.value, -score.high, -score.low)


def _certainty(size: Score) -> str:
    """Return the interval in words, and whether chance alone could do that."""
    if not isfinite(size.low + size.high):
        return "; of one fold there is no interval."
    interval = f" (95% interval {short(size.low)} to {short(size.high)})"
    return f"{interval}: that may be chance." if size.low <= 0 else f"{interval}."


def _of_store(arm: Arm) -> str:
    is_one_of_several = arm.name.endswith(f", {arm.store}")
    return f" by {arm.store}" if is_one_of_several else ""


def _in_words(arm: Arm) -> str:
    seen = {BOTH: "images and table", IMAGES: "images", TABLE: "the table"}[arm.features]
    return f"{seen}{_of_store(arm)}"
