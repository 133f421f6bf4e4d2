"""How the features of a head are made: its recipe, which the user may change."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from twostage.errors import UsageError

SCALINGS = ("standard", "minmax", "robust", "quantile", "none")
CATEGORY_ENCODINGS = ("onehot", "ordinal", "target", "native")
BLOCK_ENCODINGS = ("raw", "pca", "probe")
COMPONENTS, WORDS = "components", "words"
TEXT_ENCODINGS = (COMPONENTS, WORDS)
SEQUENCE_ENCODINGS = ("summary", "steps")
AUTO = "auto"


@dataclass(frozen=True)
class Recipe:
    """How table columns, embeddings and other wide blocks become the features of a head.

    Attributes
    ----------
    scaling : {"standard", "minmax", "robust", "quantile", "none"}
        Of numbers. "robust" centres by the median, divides by the range of the middle half and
        bends outliers towards 3; "quantile" makes a normal distribution of ranks.
    fills_missing : bool
        Whether missing numbers become the median, with an indicator column, and rows without an
        image the mean; left missing otherwise, for heads that know what to do with them.
    categories, many_categories : {"onehot", "ordinal", "target", "native"}
        Of columns of up to ``few`` categories, and of more. "native" hands the head their numbers.
    blocks : str
        What a head sees of a block: "raw", "pca", "probe" or several joined by "+"; "auto" is
        what was measured to serve the head best.
    n_components : int
        Most principal components, where they are used: of all blocks together, which share them.
    few : int
        Columns of up to so many categories count as of few.
    has_splines : bool
        Whether numbers enter as splines too, which let a linear head bend.
    texts : {"components", "words"}
        What a head sees of a text: its components, a block, and their score; or its words.
    sequences : {"summary", "steps"}
        What a head sees of a sequence: numbers that describe each channel, a block; or its steps.
    stop_words : "english", path or None
        Words that texts are read without; see `twostage.table.tokens.stop_words_of`.
    word_vectors : path or None
        A file of what words mean, for heads that read words; see `twostage.table.word_vectors`.
    """

    scaling: str = "none"
    fills_missing: bool = False
    categories: str = "onehot"
    many_categories: str = "target"
    blocks: str = AUTO
    n_components: int = 30
    few: int = 30
    has_splines: bool = False
    texts: str = COMPONENTS
    sequences: str = "summary"
    stop_words: str | None = None
    word_vectors: str | None = None

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("scaling", self.scaling, SCALINGS),
            ("categories", self.categories, CATEGORY_ENCODINGS),
            ("many_categories", self.many_categories, CATEGORY_ENCODINGS),
            ("texts", self.texts, TEXT_ENCODINGS),
            ("sequences", self.sequences, SEQUENCE_ENCODINGS),
        ):
            if value not in choices:
                raise UsageError(f"{name} must be one of {', '.join(choices)}; found {value!r}.")
        if self.blocks != AUTO and not _is_some_of(BLOCK_ENCODINGS, self.blocks.split("+")):
            raise UsageError(
                f"What a head sees of images is 'auto', or some of {', '.join(BLOCK_ENCODINGS)} "
                f"joined by '+'; found {self.blocks!r}."
            )
        if self.n_components < 1:
            raise UsageError(f"n_components must be at least 1; found {self.n_components}.")

    def changed(self, **wishes: Any) -> "Recipe":
        """Return the recipe with those wishes that are not None."""
        return replace(self, **{name: wish for name, wish in wishes.items() if wish is not None})


def _is_some_of(choices: Sequence[str], parts: Sequence[str]) -> bool:
    return set(parts) <= set(choices) and len(set(parts)) == len(parts)
