"""How a backbone is tuned."""

from dataclasses import dataclass

from twostage.backbones.spec import AUTO, PRECISIONS
from twostage.errors import UsageError

AUGMENTATIONS = ("natural", "medical", "none")
ALL, NONE = "all", "none"  # of what is trained
LOSSES = ("crossentropy", "focal")
CLASS_WEIGHTS = ("balanced",)


@dataclass(frozen=True)
class TuningSettings:
    """How a backbone is tuned.

    Attributes
    ----------
    epochs : int
        Passes over the images at most; 0 trains the top alone, and leaves the backbone as it was.
    unfreeze : int or str
        What is trained: so many last blocks, "all", or the blocks from a name on; "none" or 0,
        for the head joint alone, leaves the backbone as it is.
    gradual : bool
        Whether blocks join in three steps, the last ones first.
    learning_rate : float
        Of the top and the last block, after the warm-up.
    lr_decay : float
        Factor on it from each block to the one before.
    weight_decay : float
        Of AdamW, on kernels.
    warmup : float
        Share of the steps in which the learning rate rises; then it falls, as a cosine, to 0.
    batch_size : int
        Images to a step.
    augment : {"natural", "medical", "none"}
        See `twostage.training.augmentation.augmentation_layers`.
    randaugment : bool
        Whether RandAugment changes images further.
    mixup : float
        Parameter of the beta distribution by which pairs of images are mixed; 0 for none.
    copies : int or None
        Of each image, augmented ones whose activations at the freezing point are computed once and
        kept; 0 computes them anew in each epoch. None keeps 4 where blocks are frozen, and an
        image's activations take less room than its pixels.
    loss : {"crossentropy", "focal"}
        Of classes; values are regressed on by their squared error.
    label_smoothing : float
        Share of the truth that is spread over all classes.
    class_weight : {None, "balanced"}
        "balanced" lets rare classes count as much as common ones.
    dropout : float
        Of the embedding, before a linear top; networks have dropout of their own.
    patience : int
        Epochs without a better score after which it ends. The best one is kept in any case, and
        the last ones, in which the learning rate falls, are often that.
    precision : {"auto", "float32", "bfloat16", "float16"}
        What layers compute in, while weights stay in float32; see
        `twostage.training.placement.training_precision`.
    random_state : int
        Of everything random.
    """

    epochs: int = 10
    unfreeze: int | str = "all"
    gradual: bool = False
    learning_rate: float = 3e-4
    lr_decay: float = 0.9
    weight_decay: float = 0.01
    warmup: float = 0.1
    batch_size: int = 32
    augment: str = "natural"
    randaugment: bool = False
    mixup: float = 0.0
    copies: int | None = None
    loss: str = "crossentropy"
    label_smoothing: float = 0.0
    class_weight: str | None = None
    dropout: float = 0.2
    patience: int = 10
    precision: str = AUTO
    random_state: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("epochs", 0, 10_000),
            ("learning_rate", 0.0, 1.0),
            ("lr_decay", 0.0, 1.0),
            ("weight_decay", 0.0, 1.0),
            ("warmup", 0.0, 1.0),
            ("batch_size", 1, 65_536),
            ("mixup", 0.0, 10.0),
            ("copies", 0, 1000),
            ("label_smoothing", 0.0, 0.99),
            ("dropout", 0.0, 0.99),
            ("patience", 1, 10_000),
            ("random_state", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value <= high:  # NaN too
                raise UsageError(f"{name} must be {low} to {high}; found {value}.")
        for name, choices in (
            ("augment", AUGMENTATIONS),
            ("precision", PRECISIONS),
            ("loss", LOSSES),
            ("class_weight", (None, *CLASS_WEIGHTS)),
        ):
            if getattr(self, name) not in choices:
                known = ", ".join(str(choice) for choice in choices)
                raise UsageError(f"{name} must be one of {known}; found {getattr(self, name)!r}.")
        if self.copies and self.unfreeze == ALL:
            raise UsageError(
                "copies are of activations at the freezing point, and unfreeze='all' has none. "
                "Freeze some blocks, or leave copies out."
            )

    @property
    def is_frozen(self) -> bool:
        """Whether nothing of the backbone is to be trained."""
        return str(self.unfreeze) in ("0", NONE)
