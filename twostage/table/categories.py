"""Categorical columns: a column for each category, their order, the target, or bare numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, KFold
from sklearn.preprocessing import TargetEncoder

from twostage.table.leaves import load_leaf, save_leaf
from twostage.table.part import Part, Training
from twostage.table.scaling import NumberScaler, standard_unless_none
from twostage.table.vocabulary import OTHER, Vocabulary

_N_FOLDS = 5


@dataclass(frozen=True)
class CategoryNumbers(Part):
    """Categories as numbers, for heads that encode them on their own.

    Attributes
    ----------
    names : list of str
        The columns.
    vocabularies : list of Vocabulary
        One for each.
    """

    names: list[str]
    vocabularies: list[Vocabulary]

    @classmethod
    def fit_transform(cls, training: Training, names: Sequence[str]) -> tuple[Self, np.ndarray]:
        """Learn the vocabularies of the columns named; int32 numbers come out."""
        vocabularies = []
        numbers = np.empty((len(training.frame), len(names)), np.int32)
        for place, name in enumerate(names):
            vocabulary, numbers[:, place] = Vocabulary.fit_transform(
                training.frame[name], merges_rare=name in training.many
            )
            vocabularies.append(vocabulary)
        return cls(list(names), vocabularies), numbers

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Return category numbers; int32 of shape (n_rows, n_columns)."""
        numbers = np.empty((len(frame), len(self.names)), np.int32)
        for place, (name, vocabulary) in enumerate(self.items()):
            numbers[:, place] = vocabulary.transform(frame[name])
        return numbers

    def items(self) -> list[tuple[str, Vocabulary]]:
        """Return the columns with their vocabularies."""
        return list(zip(self.names, self.vocabularies, strict=True))

    def feature_names(self) -> list[str]:
        """Return the names of the columns."""
        return list(self.names)

    def save(self, folder: Path) -> dict[str, Any]:
        """Return all that `load` needs: there is no file."""
        return {name: vocabulary.record() for name, vocabulary in self.items()}

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        return cls(list(record), [Vocabulary(**saved) for saved in record.values()])


@dataclass(frozen=True)
class OneHot(Part):
    """A column for each category, missing values among them.

    Unseen categories are rows of zeros; where rare ones were put together at fit, these have a
    column of their own, and unseen ones go there too.

    Attributes
    ----------
    categories : CategoryNumbers
        Of the columns.
    """

    categories: CategoryNumbers

    @classmethod
    def fit_transform(cls, training: Training, names: Sequence[str]) -> tuple[Self, np.ndarray]:
        """Learn from the columns named, and encode them."""
        categories, numbers = CategoryNumbers.fit_transform(training, names)
        encoder = cls(categories)
        return encoder, encoder._encode(numbers)

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Encode rows; float32 of shape (n_rows, n_features)."""
        return self._encode(self.categories.transform(frame))

    def feature_names(self) -> list[str]:
        """Return the name of each feature, such as ``site_back``."""
        names = []
        for column, vocabulary in self.categories.items():
            names += [f"{column}_is_rare"] if vocabulary.has_rare else []
            names += [f"{column}_{name}" for name in vocabulary.names]
            names += [f"{column}_is_missing"] if vocabulary.has_missing else []
        return names

    def save(self, folder: Path) -> dict[str, Any]:
        """Return all that `load` needs: there is no file."""
        return self.categories.save(folder)

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        return cls(CategoryNumbers.load(folder, record))

    def _encode(self, numbers: np.ndarray) -> np.ndarray:
        features = np.zeros((len(numbers), len(self.feature_names())), np.float32)
        start = 0
        for place, vocabulary in enumerate(self.categories.vocabularies):
            first = OTHER if vocabulary.has_rare else OTHER + 1
            rows = np.flatnonzero(numbers[:, place] >= first)
            features[rows, start + numbers[rows, place] - first] = 1
            start += vocabulary.cardinality - first
        return features


@dataclass(frozen=True)
class Ordinal(Part):
    """The numbers of categories as one numeric column each; unseen and rare ones are missing.

    Attributes
    ----------
    categories : CategoryNumbers
        Of the columns.
    scaler : NumberScaler
        Of their numbers.
    """

    categories: CategoryNumbers
    scaler: NumberScaler

    @classmethod
    def fit_transform(cls, training: Training, names: Sequence[str]) -> tuple[Self, np.ndarray]:
        """Learn from the columns named, and encode them."""
        categories, numbers = CategoryNumbers.fit_transform(training, names)
        scaler, features = NumberScaler.fit_transform(
            _without_other(numbers),
            names,
            scaling=standard_unless_none(training.recipe.scaling),
            fills_missing=training.recipe.fills_missing,
            sample_weight=training.sample_weight,
        )
        return cls(categories, scaler), features

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Encode rows; float64 of shape (n_rows, n_features)."""
        return self.scaler.transform(_without_other(self.categories.transform(frame)))

    def feature_names(self) -> list[str]:
        """Return the name of each feature."""
        return self.scaler.feature_names()

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the scaler, and return what else `load` needs."""
        return {
            "categories": self.categories.save(folder),
            "scaler": self.scaler.save(folder, "ordinal-scaler"),
        }

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        scaler = NumberScaler.load(folder, "ordinal-scaler", record["scaler"])
        return cls(CategoryNumbers.load(folder, record["categories"]), scaler)


@dataclass(frozen=True)
class ByTarget(Part):
    """What the target was like in each category: its mean, drawn towards that of all.

    Training rows are encoded by what was learned without their fold: none sees its own target,
    nor that of its group. Weights make no difference to it: scikit-learn's encoder takes none.

    Attributes
    ----------
    categories : CategoryNumbers
        Of the columns.
    encoder : TargetEncoder
        Fitted on their numbers.
    scaler : NumberScaler
        Of what comes out.

    References
    ----------
    Micci-Barreca (2001), as in ``sklearn.preprocessing.TargetEncoder``.
    """

    categories: CategoryNumbers
    encoder: TargetEncoder
    scaler: NumberScaler

    @classmethod
    def fit_transform(cls, training: Training, names: Sequence[str]) -> tuple[Self, np.ndarray]:
        """Learn from the columns named, and encode each row without its own fold."""
        categories, numbers = CategoryNumbers.fit_transform(training, names)
        encoder = TargetEncoder(
            target_type=_target_type(training.y, training.is_classification),
            cv=_folds(len(numbers), training.groups, training.random_state),
        )
        encoded = encoder.fit_transform(numbers, training.y)
        encoder.set_params(cv=_N_FOLDS)  # the folds have done their work
        scaler, features = NumberScaler.fit_transform(
            encoded,
            [str(name) for name in encoder.get_feature_names_out(list(names))],
            scaling=standard_unless_none(training.recipe.scaling),
            fills_missing=False,
            sample_weight=training.sample_weight,
        )
        return cls(categories, encoder, scaler), features

    def transform(self, frame: pd.DataFrame) -> np.ndarray:
        """Encode rows; float64 of shape (n_rows, n_features)."""
        numbers = self.categories.transform(frame)
        if len(numbers) == 0:  # which scikit-learn refuses
            return np.empty((0, len(self.scaler.names)))
        return self.scaler.transform(self.encoder.transform(numbers))

    def feature_names(self) -> list[str]:
        """Return the name of each feature: of the column, and of the class if there are many."""
        return self.scaler.feature_names()

    def save(self, folder: Path) -> dict[str, Any]:
        """Write encoder and scaler, and return what else `load` needs."""
        save_leaf(self.encoder, folder, "target")
        return {
            "categories": self.categories.save(folder),
            "scaler": self.scaler.save(folder, "target-scaler"),
        }

    @classmethod
    def load(cls, folder: Path, record: Mapping[str, Any]) -> Self:
        """Read what `save` wrote."""
        encoder = load_leaf(folder, "target", "TargetEncoder")
        _check_encodings(encoder)
        return cls(
            CategoryNumbers.load(folder, record["categories"]),
            encoder,
            NumberScaler.load(folder, "target-scaler", record["scaler"]),
        )


def _check_encodings(encoder: TargetEncoder) -> None:
    """Raise ValueError if an encoder has not a number for each of its categories and classes."""
    n_categories = [len(values) for values in encoder.categories_]
    n_outputs = len(encoder.classes_) if encoder.target_type_ == "multiclass" else 1
    wanted = [n for n in n_categories for _ in range(n_outputs)]
    found = [len(values) for values in encoder.encodings_]
    if found != wanted:
        raise ValueError(f"a target encoder has {found} numbers for {wanted} categories")


def _without_other(numbers: np.ndarray) -> np.ndarray:
    return np.where(numbers == OTHER, np.nan, numbers)


def _target_type(y: np.ndarray, is_classification: bool) -> str:
    if not is_classification:
        return "continuous"
    return "binary" if len(np.unique(y)) == 2 else "multiclass"


def _folds(n_rows: int, groups: np.ndarray | None, random_state: int) -> list[Any]:
    """Return the folds in which rows are encoded: by whole groups, where there are two at least."""
    rows = np.empty(n_rows)
    n_groups = 0 if groups is None else len(np.unique(groups))
    if n_groups < 2:
        splitter = KFold(min(_N_FOLDS, n_rows), shuffle=True, random_state=random_state)
    else:
        splitter = GroupKFold(min(_N_FOLDS, n_groups), shuffle=True, random_state=random_state)
    return list(splitter.split(rows, rows, groups))
