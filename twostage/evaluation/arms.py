"""What is compared: each head on each of table, images and both, by each store."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from twostage.errors import UsageError, listed
from twostage.fitted import FEATURES, FitSettings
from twostage.heads import heads_of, name_of, reads_words
from twostage.staged import JOINT, MODES, StagingSettings, check_joint, is_joint
from twostage.training.settings import ALL

TABLE, IMAGES, BOTH = "table", "images", "both"


@dataclass(frozen=True)
class Pictures:
    """The images of a store, to train its backbone on.

    Attributes
    ----------
    folder : path-like
        What their names start from.
    spec : dict
        Of the store's backbone.
    """

    folder: str | os.PathLike[str]
    spec: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A head, and how a backbone is trained for it: as a string, "linear:crossfit".

    Attributes
    ----------
    head : str, Head, Blend or scikit-learn estimator
        The head.
    how : str
        Of the head joint, what of the backbone is trained: "none", "all", so many last blocks, or
        those from a name on. Of others a mode of `twostage.staging`.
    """

    head: Any
    how: str


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
    staging : StagingSettings or None
        How the backbone is trained with it, anew in each fold; None if embeddings are as they came.
    pictures : Pictures or None
        What it is trained on.
    """

    name: str
    head: str
    features: str
    store: str
    settings: FitSettings
    staging: StagingSettings | None = None
    pictures: Pictures | None = None


def make_arms(
    base: FitSettings,
    heads: Mapping[str, Any],
    features: Sequence[str],
    stores: Sequence[str],
    joint: StagingSettings | None = None,
    pictures: Mapping[str, Pictures] | None = None,
) -> list[Arm]:
    """Combine heads, features and stores; what sees no images is there once for all stores.

    Parameters
    ----------
    base : FitSettings
        What all have in common; what concerns some heads only is left out for the others.
    heads : mapping of str to object
        Heads by name, or `Trained`.
    features : sequence of {"table", "images", "both"}
        What heads see.
    stores : sequence of str
        Names of the stores.
    joint : StagingSettings, optional
        How joint networks train their backbone, where they are not told otherwise: "joint:none"
        leaves it frozen, "joint:block_13" trains it from that block on. "linear:crossfit" tunes
        backbones for another head in that mode, likewise.
    pictures : mapping of str to Pictures, optional
        By store, what backbones are trained on.

    Raises
    ------
    UsageError
        If there is nothing to compare, or there are no images to train a backbone on.
    """
    for given, known in ((features, FEATURES), (list(heads), None)):
        if not given:
            raise UsageError("There is nothing to compare: give heads and features.")
        unknown = [one for one in given if known is not None and one not in known]
        if unknown:
            raise UsageError(f"Unknown features {listed(unknown)}. They are table, images, both.")
    parted = {name: _parted(head, joint or StagingSettings(JOINT)) for name, head in heads.items()}
    if "word_vectors" in base.recipe and not any(reads_words(own) for own, _ in parted.values()):
        raise UsageError(
            "Word vectors are for heads that read words, and none of these does. Compare the head "
            "joint too, or leave word vectors out."
        )
    arms = []
    for head, (learner, staging) in parted.items():
        for what in dict.fromkeys(features):
            for store in [""] if what == TABLE else stores:
                name = f"{head}, {what}" + (f", {store}" if store and len(stores) > 1 else "")
                settings = replace(base.for_head(learner), features=what)
                if not store or not _is_trained(settings, staging):
                    arms.append(Arm(name, head, what, store, settings))
                    continue
                if not pictures:
                    raise UsageError(
                        f"The head {head} trains the backbone on the images themselves, and "
                        "stores hold embeddings. Give images (--images) too, what their names "
                        "start from; or take joint:none, which leaves the backbone as it is."
                    )
                arms.append(Arm(name, head, what, store, settings, staging, pictures[store]))
    return arms


def _is_trained(settings: FitSettings, staging: StagingSettings) -> bool:
    """Whether a backbone is trained for a head that sees images."""
    if staging.mode != JOINT:
        return True
    if not is_joint(settings) or staging.tuning.is_frozen:
        return False
    check_joint(settings, staging.tuning)
    return True


def _parted(head: Any, joint: StagingSettings) -> tuple[Any, StagingSettings]:
    """Return a head by itself, and how a backbone is trained for it."""
    if isinstance(head, str) and ":" in head:
        head = Trained(*head.split(":", 1))
    if not isinstance(head, Trained):
        return head, joint
    own, how = head.head, head.how
    if [name_of(one) for one in heads_of(own)] != [JOINT]:
        if how not in MODES:
            raise UsageError(
                f"'{own}:{how}' names no way to tune a backbone for {own}. They are "
                f"{listed(MODES)}; {own} alone takes embeddings as they came."
            )
        return own, replace(joint, mode=how)
    copies = None if how == ALL else joint.tuning.copies  # nothing is frozen to be copied
    return own, replace(joint, tuning=replace(joint.tuning, unfreeze=how, copies=copies))
