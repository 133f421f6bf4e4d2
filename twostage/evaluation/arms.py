"""What is compared: each head on each of table, images and both, by each store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twostage.errors import UsageError, listed
from twostage.fitted import FEATURES, FitSettings
from twostage.heads import reads_words

TABLE, IMAGES, BOTH = "table", "images", "both"


@dataclass(frozen=True)
class Arm:
    """A recipe that is scored.

    Attributes
    ----------
    name : str
        Of all of it.
    head : str
        The head's name.
    features : {"table", "images", "both"}
        What the head sees.
    store : str
        Name of the store; empty where it sees no images.
    settings : FitSettings
        How it is fitted.
    """

    name: str
    head: str
    features: str
    store: str
    settings: FitSettings


def make_arms(
    base: FitSettings,
    heads: Mapping[str, Any],
    features: Sequence[str],
    stores: Sequence[str],
) -> list[Arm]:
    """Combine heads, features and stores; what sees no images is there once for all stores.

    Parameters
    ----------
    base : FitSettings
        What all have in common; what concerns some heads only is left out for the others.
    heads : mapping of str to object
        Heads by name.
    features : sequence of {"table", "images", "both"}
        What heads see.
    stores : sequence of str
        Names of the stores.
    """
    for given, known in ((features, FEATURES), (list(heads), None)):
        if not given:
            raise UsageError("There is nothing to compare: give heads and features.")
        unknown = [one for one in given if known is not None and one not in known]
        if unknown:
            raise UsageError(f"Unknown features {listed(unknown)}. They are table, images, both.")
    if "word_vectors" in base.recipe and not any(map(reads_words, heads.values())):
        raise UsageError(
            "Word vectors are for heads that read words, and none of these does. Compare the head "
            "joint too, or leave word vectors out."
        )
    arms = []
    for head, learner in heads.items():
        for what in dict.fromkeys(features):
            for store in [""] if what == TABLE else stores:
                name = f"{head}, {what}" + (f", {store}" if store and len(stores) > 1 else "")
                settings = replace(base.for_head(learner), features=what)
                arms.append(Arm(name, head, what, store, settings))
    return arms
