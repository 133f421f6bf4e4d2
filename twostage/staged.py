"""A model whose backbones were tuned on its rows: how it was asked for, and how it predicts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax

from twostage.backbones.tuned import LinearTop
from twostage.contents import IMAGE
from twostage.errors import UsageError, did_you_mean
from twostage.fitted import Blocks, Embed, FitSettings, FittedModel, Predictor
from twostage.heads import heads_of, name_of
from twostage.seen import SeenRows
from twostage.table.roles import IGNORED, Column
from twostage.training.settings import TuningSettings

NAIVE = (
    "Backbone and head learn from the same rows (finetune naive): the head takes the backbone's "
    "word for more than it is worth on new images. This mode is there to be compared with."
)
MODES = ("holdout", "oof-scores", "crossfit", "naive")
JOINT = "joint"
_OF_SPLITS = ("share", "n_folds")


@dataclass(frozen=True)
class StagingSettings:
    """How backbones are tuned within a fit.

    Attributes
    ----------
    mode : {"holdout", "oof-scores", "crossfit", "naive", "joint"}
        See `twostage.staging`; "joint" is that of the head of that name.
    share : float
        Of the rows that "holdout" tunes on; stage two learns from the others.
    n_folds : int
        Backbones of "crossfit" and "oof-scores", each tuned on all rows but a fold.
    tuning : TuningSettings
        How each backbone is tuned.
    """

    mode: str
    share: float = 0.5
    n_folds: int = 3
    tuning: TuningSettings = field(default_factory=TuningSettings)

    def __post_init__(self) -> None:
        if self.mode not in (*MODES, JOINT):
            known = ", ".join(MODES)
            raise UsageError(f"finetune must be None or one of {known}; found {self.mode!r}.")
        if not 0.05 <= self.share <= 0.95:
            raise UsageError(f"share must be 0.05 to 0.95; found {self.share}.")
        if not 2 <= self.n_folds <= 100:
            raise UsageError(f"n_folds must be 2 to 100; found {self.n_folds}.")

    @classmethod
    def chosen(
        cls, mode: str, options: Mapping[str, Any] | None, defaults: Mapping[str, Any]
    ) -> "StagingSettings":
        """Return the settings of options that stand side by side.

        Parameters
        ----------
        mode : str
            See the class.
        options : mapping, optional
            Fields of this class and of `TuningSettings`.
        defaults : mapping
            Fields of `TuningSettings` where the options leave them open.

        Raises
        ------
        UsageError
            If an option is unknown, or has no such value.
        """
        given = dict(options or {})
        known = [*_OF_SPLITS, *(of_tuning.name for of_tuning in fields(TuningSettings))]
        for name in given:
            if name not in known:
                raise UsageError(
                    f"finetuning has no setting {name!r}.{did_you_mean(str(name), known)} It has: "
                    f"{', '.join(known)}."
                )
        of_splits = {name: given.pop(name) for name in _OF_SPLITS if name in given}
        return cls(mode, **of_splits, tuning=TuningSettings(**{**defaults, **given}))

    def options(self) -> dict[str, Any]:
        """Return the options that `chosen` makes these settings of, whatever the defaults."""
        return {name: getattr(self, name) for name in _OF_SPLITS} | asdict(self.tuning)


def is_joint(settings: FitSettings) -> bool:
    """Whether a joint network sees images, and so can be trained with its backbone."""
    if not settings.image_columns or settings.features == "table" or settings.embeds != IMAGE:
        return False
    return [name_of(head) for head in heads_of(settings.head)] == [JOINT]


def check_joint(settings: FitSettings, how: TuningSettings) -> None:
    """Check that a joint network can be trained with its backbone as asked for.

    Raises
    ------
    UsageError
        If pairs of images are to be mixed, or the network sees embeddings otherwise than they are.
    """
    if how.mixup:
        raise UsageError(
            "mixup mixes pairs of images, and the head joint reads columns too, whose categories "
            "and words can't be mixed. Leave it out."
        )
    (head,) = heads_of(settings.head)
    if head.recipe.changed(**settings.recipe).blocks != "raw":
        raise UsageError(
            "The head joint trains the backbone through its embeddings as they are, and image "
            "features are to be others. Leave --image-features (image_features) out, or freeze the "
            "backbone by --unfreeze none."
        )


@dataclass(frozen=True)
class Scorer:
    """A tuned backbone with the top that it was tuned with.

    Attributes
    ----------
    backbone : dict
        Its spec.
    top : LinearTop
        From its embeddings to logits or values.
    """

    backbone: dict[str, Any]
    top: LinearTop

    def scores(self, embeddings: np.ndarray) -> np.ndarray:
        """Return what the second stage sees of its opinion, comparable between backbones.

        Parameters
        ----------
        embeddings : float32 array of shape (n, dim)
            Its own; NaN where there is no image.

        Returns
        -------
        float64 array of shape (n, n_scores)
            Values; of two classes the logit of the second one; of more, the logarithm of the
            probability of each: logits themselves may differ by a constant.
        """
        outputs = self.top.outputs(embeddings).astype(np.float64)
        if outputs.shape[1] == 1:
            return outputs
        if outputs.shape[1] == 2:
            return outputs[:, 1:] - outputs[:, :1]
        return np.asarray(log_softmax(outputs, axis=1))


@dataclass(frozen=True)
class StagedModel(Predictor):
    """Second stages with the backbones that were tuned for them.

    Attributes
    ----------
    settings, classes, holdout, n_seen
        See `Predictor`; ``n_seen`` counts rows that the backbone had seen before it was tuned.
    staging : StagingSettings
        How backbones were tuned.
    parent : dict
        The spec of the backbone that tuning started from.
    columns : list of Column
        The table's columns and their roles.
    parts : list of FittedModel
        Second stages, each with the spec of its backbone; their predictions are averaged.
    n_tuned : list of int
        Rows that each backbone was tuned on.
    n_rows : int
        Rows that either stage was trained on.
    trained_on : DataFrame
        Those rows; see `FittedModel`.
    seen : SeenRows
        What any of the tuned backbones, or their tops, was trained on.
    scorers : list of Scorer
        Of "oof-scores": the mean of their scores joins the table.
    score_names : dict of str to list of str
        By image column, the columns that hold the scores.
    """

    staging: StagingSettings
    parent: dict[str, Any]
    columns: list[Column]
    parts: list[FittedModel]
    n_tuned: list[int]
    n_rows: int
    trained_on: pd.DataFrame
    seen: SeenRows
    scorers: list[Scorer] = field(default_factory=list)
    score_names: dict[str, list[str]] = field(default_factory=dict)

    @property
    def backbones(self) -> list[dict[str, Any]]:
        """The specs of the backbones that it needs embeddings of."""
        return [*(part.backbones[0] for part in self.parts), *(s.backbone for s in self.scorers)]

    @property
    def dims(self) -> dict[str, int]:
        """Length of the embedding of each image column."""
        return self.parts[0].dims

    @property
    def table_columns(self) -> list[str]:
        """The table columns it needs."""
        return [column.name for column in self.columns if column.role != IGNORED]

    def look(self, embed: Embed) -> list[Blocks]:
        """Return the embeddings of rows by each of ``backbones``."""
        return [embed(spec) for spec in self.backbones]

    def looking_at(self, blocks: Blocks) -> list[Blocks]:
        """Return the embeddings, once for each of ``backbones``."""
        return [blocks] * len(self.backbones)

    def blocks_in(self, images: Sequence[Blocks]) -> Blocks:
        """Return the embeddings by the first backbone."""
        return images[0]

    def outputs(self, frame: pd.DataFrame, images: Sequence[Blocks]) -> np.ndarray:
        """Return the mean of what the parts predict."""
        n = len(self.parts)
        given = [
            scores_of(scorer, blocks, self.score_names)
            for scorer, blocks in zip(self.scorers, images[n:], strict=True)
        ]
        if given:
            means = {name: np.mean([one[name] for one in given], axis=0) for name in given[0]}
            frame = frame.assign(**means)
        pairs = zip(self.parts, images[:n], strict=True)
        return np.asarray(np.mean([part.outputs(frame, seen) for part, seen in pairs], axis=0))


AnyModel = FittedModel | StagedModel


def scores_of(
    scorer: Scorer, blocks: Blocks, names: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    """Return the scores of rows by the names of their columns."""
    found: dict[str, np.ndarray] = {}
    for column, of_column in names.items():
        found |= zip(of_column, scorer.scores(blocks[column].matrix).T, strict=True)
    return found


def free_name(name: str, frame: pd.DataFrame) -> str:
    """Return a name that no column of a table bears: this one, or one that begins with it."""
    while name in frame.columns:
        name += "_"
    return name
