"""A fitted second stage: how it was asked for, what it learned, and how it predicts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from twostage.contents import IMAGE, KINDS
from twostage.errors import DataError, UsageError, did_you_mean, listed
from twostage.heads import heads_of, name_of, reads_words
from twostage.joins import POOLINGS, ImageBlock
from twostage.members import Member
from twostage.metrics import Score
from twostage.table.long import LongLayout
from twostage.table.roles import IGNORED, Column, RoleOverrides
from twostage.targets import TASKS

_LARGEST_LOG = float(np.log(np.finfo(np.float64).max))
FEATURES = ("both", "images", "table")

Blocks = Mapping[str, ImageBlock]
Embed = Callable[[dict[str, Any]], Blocks]  # rows by the backbone of a spec


@dataclass(frozen=True)
class FitSettings:
    """How stage two is fitted.

    Attributes
    ----------
    target : str
        The column to predict.
    head : str, Head, Blend or scikit-learn estimator
        The learner; names joined by "+" are blended.
    task : {"auto", "classification", "regression"}
        What the target is; "auto" tells it from the values.
    features : {"both", "images", "table"}
        What the head may see.
    image_columns : tuple of str
        Columns that name images; or hold what else stage one embeds.
    embeds : {"image", "text", "sequence"}
        What those columns are of.
    group : str or None
        Column whose equal values must not be separated by a split.
    log_target : bool
        Whether to learn the logarithm of a positive target; predictions are in its own unit.
    roles : RoleOverrides
        Roles of table columns that the user decides.
    recipe : dict of str to object
        What the user changes in the heads' recipes; see `twostage.recipes.Recipe`.
    image_pooling : {"mean", "max", "first"}
        What becomes of several images in a row.
    class_weight : {None, "balanced"} or dict
        Weights of classes; "balanced" lets rare ones count as much as common ones.
    n_tuned : int
        Settings of each head to try; the defaults stand if 0.
    allow_seen : bool
        Whether to train on rows that a tuned backbone was trained on; they are never scored.
    sequences : LongLayout or None
        How long tables held the sequences, if those were joined to the table.
    random_state : int
        Of everything random.
    n_jobs : int or None
        Threads of the head; as many as there are cores if None.
    """

    target: str
    head: Any = "lightgbm"
    task: str = "auto"
    features: str = "both"
    image_columns: tuple[str, ...] = ()
    group: str | None = None
    log_target: bool = False
    roles: RoleOverrides = field(default_factory=RoleOverrides)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    image_pooling: str = "mean"
    class_weight: Any = None
    n_tuned: int = 0
    allow_seen: bool = False
    sequences: LongLayout | None = None
    random_state: int = 0
    n_jobs: int | None = None
    embeds: str = IMAGE

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("task", self.task, TASKS),
            ("features", self.features, FEATURES),
            ("image_pooling", self.image_pooling, POOLINGS),
            ("embeds", self.embeds, KINDS),
        ):
            if value not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}; found {value!r}.")
        if self.n_tuned < 0:
            raise UsageError(f"The number of settings to try is {self.n_tuned}; give 0 or more.")

    @property
    def head_name(self) -> str:
        """The head in words: its name, or several joined by "+"."""
        if isinstance(self.head, str):
            return self.head
        return "+".join(name_of(head) for head in heads_of(self.head))

    def record(self) -> dict[str, Any]:
        """Return the settings as JSON can hold them."""
        fields = {name: value for name, value in vars(self).items() if name != "head"}
        weights = self.class_weight
        if isinstance(weights, Mapping):
            weights = [[label, float(weight)] for label, weight in weights.items()]
        return fields | {
            "head": self.head_name,
            "heads": [
                {"name": name_of(head), "parameters": head.parameters()}
                for head in heads_of(self.head)
            ],
            "roles": asdict(self.roles),
            "sequences": None if self.sequences is None else asdict(self.sequences),
            "recipe": dict(self.recipe),
            "class_weight": weights,
        }

    def for_head(self, head: Any) -> "FitSettings":
        """Return the same settings for a head, but wishes that do not concern it."""
        recipe = dict(self.recipe)
        if not reads_words(head):
            recipe.pop("word_vectors", None)
        return replace(self, head=head, recipe=recipe)

    def reserved(self) -> dict[str, str]:
        """Return the columns that never become features, and what they are."""
        group = {self.group: "group"} if self.group else {}
        return group | dict.fromkeys(self.image_columns, self.embeds) | {self.target: "target"}


@dataclass(frozen=True)
class Holdout:
    """The score on rows that nothing of the scored model saw.

    Attributes
    ----------
    n_rows, n_groups : int
        Held out; a group is what the split kept together.
    n_training_rows : int
        What the scored model was trained on.
    scores : dict of str to Score
        By metric, the main one first.
    """

    n_rows: int
    n_groups: int
    n_training_rows: int
    scores: dict[str, Score]


@dataclass(frozen=True)
class Predictor:
    """What models predict, whatever they need to see of a row's images.

    Attributes
    ----------
    settings : FitSettings
        With the task decided.
    classes : array of shape (n_classes,) or None
        Class labels, for classification.
    holdout : Holdout or None
        A score of the same recipe on held-out rows.
    n_seen : int
        Rows given whose label, or whose group's label, a tuned backbone had seen: left out, unless
        ``settings.allow_seen`` is set.
    """

    settings: FitSettings
    classes: np.ndarray | None
    holdout: Holdout | None = field(default=None, kw_only=True)
    n_seen: int = field(default=0, kw_only=True)

    @property
    def is_classification(self) -> bool:
        """Whether it predicts classes."""
        return self.classes is not None

    @property
    def table_columns(self) -> list[str]:
        """The table columns it needs."""
        raise NotImplementedError

    def predict_proba(self, frame: pd.DataFrame, images: Any) -> np.ndarray:
        """Return class probabilities of shape (n_rows, n_classes), in the order of ``classes``."""
        return self.outputs(frame, images)

    def predict(self, frame: pd.DataFrame, images: Any) -> np.ndarray:
        """Return class labels, or values in the target's unit, of shape (n_rows,)."""
        if self.classes is not None:
            return np.asarray(self.classes[self.predict_proba(frame, images).argmax(axis=1)])
        return self.values_of(self.outputs(frame, images))

    def values_of(self, outputs: np.ndarray) -> np.ndarray:
        """Return outputs of a regression in the target's unit."""
        # A line may run to values whose exponential is infinite.
        return np.exp(np.minimum(outputs, _LARGEST_LOG)) if self.settings.log_target else outputs

    def prediction_table(self, frame: pd.DataFrame, images: Any) -> pd.DataFrame:
        """Return one row per row of ``frame``, in order.

        Returns
        -------
        DataFrame
            The image columns and the group as given, ``prediction``, ``proba_<class>`` for each
            class, ``n_images``, ``error``. Predictions are missing where the model saw nothing:
            it looks at images alone, and the row has none.
        """
        named = {self.settings.group}
        if self.settings.embeds == IMAGE:
            named |= {*self.settings.image_columns}
        given = [name for name in frame.columns if name in named]
        table: dict[str, Any] = {name: frame[name].to_numpy() for name in given}
        if self.classes is None:
            table["prediction"] = self.predict(frame, images)
        else:
            proba = self.predict_proba(frame, images)
            table["prediction"] = self.classes[proba.argmax(axis=1)]
            table |= {f"proba_{label}": proba[:, k] for k, label in enumerate(self.classes)}
        used = list(self.blocks_in(images).values())
        table["n_images"] = sum((b.n_images for b in used), np.zeros(len(frame), np.int64))
        if not self.table_columns:
            table = _without_guesses(table, table["n_images"] == 0)
        errors = zip(*(block.errors for block in used), strict=True)
        table["error"] = [_joined(row) for row in errors] or [None] * len(frame)
        return pd.DataFrame(table).astype({"error": "string"})

    def outputs(self, frame: pd.DataFrame, images: Any) -> np.ndarray:
        """Return class probabilities, or values as they were learned."""
        raise NotImplementedError

    def look(self, embed: Embed) -> Any:
        """Return what it needs to see of the images of rows that ``embed`` embeds."""
        raise NotImplementedError

    def looking_at(self, blocks: Blocks) -> Any:
        """Return what it needs to see of images that all its backbones embed like this."""
        raise NotImplementedError

    def blocks_in(self, images: Any) -> Blocks:
        """Return which images rows have, of what `look` gave: the same for all its backbones."""
        raise NotImplementedError


@dataclass(frozen=True)
class FittedModel(Predictor):
    """A fitted second stage: what it takes to turn rows and embeddings into predictions.

    Attributes
    ----------
    settings, classes, holdout, n_seen
        See `Predictor`.
    columns : list of Column
        The table's columns and their roles.
    members : list of Member
        Fitted heads with the encoders of their features.
    weights : list of float
        Of their predictions, adding up to 1.
    dims : dict of str to int
        Length of the embedding of each image column it uses.
    n_rows : int
        Rows it was trained on.
    trained_on : DataFrame
        ``content_hash`` (list), ``group`` and ``row_digest`` of each of those.
    backbone : dict or None
        The spec of the backbone that made the embeddings.
    """

    columns: list[Column]
    members: list[Member]
    weights: list[float]
    dims: dict[str, int]
    n_rows: int
    trained_on: pd.DataFrame
    backbone: dict[str, Any] | None = None

    @property
    def backbones(self) -> list[dict[str, Any]]:
        """The specs of the backbones that it needs embeddings of."""
        return [self.backbone] if self.dims and self.backbone is not None else []

    @property
    def table_columns(self) -> list[str]:
        """The table columns it needs."""
        return [column.name for column in self.columns if column.role != IGNORED]

    @property
    def parts(self) -> "list[FittedModel]":
        """The second stages whose predictions are averaged: itself."""
        return [self]

    def look(self, embed: Embed) -> Blocks:
        """Return the embeddings of rows."""
        return embed(self.backbones[0]) if self.backbones else {}

    def looking_at(self, blocks: Blocks) -> Blocks:
        """Return the embeddings."""
        return blocks

    def blocks_in(self, images: Blocks) -> Blocks:
        """Return the embeddings, which are all it looks at."""
        return images

    def outputs(self, frame: pd.DataFrame, images: Blocks) -> np.ndarray:
        """Return the weighted mean of what the members predict."""
        missing = [name for name in self.table_columns if name not in frame.columns]
        if missing:
            raise DataError(
                f"The table lacks {listed(missing)}, which the model was trained with. Add "
                f"{'it' if len(missing) == 1 else 'them'}."
                f"{did_you_mean(missing[0], (str(name) for name in frame.columns))}"
            )
        used = {name: images[name] for name in self.dims}
        pairs = zip(self.weights, self.members, strict=True)
        return np.asarray(sum(weight * member.predict(frame, used) for weight, member in pairs))


def _without_guesses(table: dict[str, Any], is_blind: np.ndarray) -> dict[str, Any]:
    """Take back the predictions of rows of which nothing was seen."""
    if not is_blind.any():
        return table
    guesses = [name for name in table if name == "prediction" or name.startswith("proba_")]
    masked = {name: pd.Series(table[name]).convert_dtypes().mask(is_blind) for name in guesses}
    return table | masked


def _joined(errors: Sequence[str | None]) -> str | None:
    present = [error for error in errors if error is not None]
    return "; ".join(present) or None
