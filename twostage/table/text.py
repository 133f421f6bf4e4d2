"""Free text as numbers: words and pairs of words, weighted, and their principal components."""

from collections.abc import Collection
from pathlib import Path
from types import NoneType

import numpy as np
import pandas as pd
from scipy.sparse import csr_array
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import Ridge

from twostage.errors import DataError, ModelError
from twostage.ridge import Folds, is_untaught
from twostage.saving import dump, load
from twostage.table.tokens import texts_in

_N_COMPONENTS = 200
_MAX_FEATURES = 20_000  # as good as 50,000 on reviews, and 60 % smaller to store
_FEW_TEXTS = 200
_PENALTIES = (1.0, 3.0, 10.0, 30.0)


class TextEncoder:
    """TF-IDF of a text column's words and pairs of words, reduced by a truncated SVD.

    Beside the components it gives the score of a ridge regression on all words, which knows what
    200 components lose. That is cross-fitted: no training row's score comes from its own label.

    Parameters
    ----------
    vectorizer : fitted TfidfVectorizer
    svd : fitted TruncatedSVD
    probe : fitted Ridge
        From words to the target, or to indicators of the classes.

    References
    ----------
    Deerwester et al. (1990), latent semantic analysis, as ``sklearn.decomposition.TruncatedSVD``.
    """

    def __init__(self, vectorizer: TfidfVectorizer, svd: TruncatedSVD, probe: Ridge):
        self.vectorizer = vectorizer
        self.svd = svd
        self.probe = probe

    @classmethod
    def fit_transform(
        cls,
        values: pd.Series,
        outputs: np.ndarray,
        folds: Folds,
        *,
        random_state: int,
        sample_weight: np.ndarray | None = None,
        stop_words: Collection[str] = (),
        n_components: int = _N_COMPONENTS,
    ) -> tuple["TextEncoder", np.ndarray, np.ndarray]:
        """Learn words and components from training rows, and encode them.

        Parameters
        ----------
        values : Series of length n_rows
            Texts; a missing one counts as empty.
        outputs : array of shape (n_rows, n_outputs)
            What the probe predicts; see `twostage.ridge.outputs_of`.
        folds : sequence of (train, test) row numbers
            In which the probe is cross-fitted.
        random_state : int
            Of the SVD.
        sample_weight : array of shape (n_rows,), optional
            Of the probe.
        stop_words : collection of str
            Words to leave out, as `twostage.table.tokens.words_in` gives them.
        n_components : int
            At most so many.

        Returns
        -------
        encoder : TextEncoder
        components : float32 array of shape (n_rows, n_components)
            Zeros where no known word occurs.
        scores : float32 array of shape (n_rows, n_outputs)
            Of the probe, each row's by one that did not see its fold.

        Raises
        ------
        DataError
            If there are no words.
        """
        vectorizer = _vectorizer(2 if len(values) >= _FEW_TEXTS else 1, stop_words)
        try:
            words = vectorizer.fit_transform(texts_in(values))
        except ValueError as error:
            raise DataError(
                f"Column '{values.name}' is taken as text, but has no words to learn from. Give it "
                "another role, or ignore it."
            ) from error
        k = max(1, min(n_components, min(words.shape) - 1))
        svd = TruncatedSVD(k, n_iter=3, random_state=random_state)
        components = np.asarray(svd.fit_transform(words), np.float32)
        probe, scores = _fit_probe(words, outputs, folds, sample_weight)
        return cls(vectorizer, svd, probe), components, scores

    @property
    def width(self) -> int:
        """Number of components."""
        return int(self.svd.components_.shape[0])

    @property
    def n_outputs(self) -> int:
        """Number of scores of the probe."""
        return int(np.atleast_2d(self.probe.coef_).shape[0])

    def transform(self, values: pd.Series) -> tuple[np.ndarray, np.ndarray]:
        """Return components and scores of texts.

        Returns
        -------
        components : float32 array of shape (n_rows, width)
        scores : float32 array of shape (n_rows, n_outputs)
        """
        if len(values) == 0:  # which scikit-learn refuses
            return np.empty((0, self.width), np.float32), np.empty((0, self.n_outputs), np.float32)
        words = self.vectorizer.transform(texts_in(values))
        return np.asarray(self.svd.transform(words), np.float32), _scores(self.probe, words)

    def save(self, folder: Path, name: str) -> None:
        """Write what was learned."""
        dump([self.vectorizer, self.svd, self.probe], folder / f"{name}.skops")

    @classmethod
    def load(cls, folder: Path, name: str) -> "TextEncoder":
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If the file holds something else.
        """
        parts = load(folder / f"{name}.skops")
        kinds = (TfidfVectorizer, TruncatedSVD, Ridge)
        if not isinstance(parts, list) or tuple(map(type, parts)) != kinds:
            raise ModelError(f"'{folder / name}.skops' holds no text encoder. Refit.")
        encoder = cls(*parts)
        encoder._check()
        return encoder

    def _check(self) -> None:
        """Raise ValueError if the parts do not fit each other, or texts would be taken apart anew.

        A pattern may take years to match, and the number of a word is a place in memory.
        """
        stop_words = self.vectorizer.stop_words
        if not isinstance(stop_words, (list, NoneType)):
            raise ValueError("the words left out of texts are no list")
        ours, theirs = (v.get_params() for v in (_vectorizer(1, stop_words or ()), self.vectorizer))
        odd = [name for name in ours if name != "min_df" and ours[name] != theirs[name]]
        if odd:
            raise ValueError(f"texts are taken apart in another way: {odd[0]}")
        words = self.vectorizer.vocabulary_
        n = len(words)
        if sorted(words.values()) != list(range(n)) or self.vectorizer.idf_.shape != (n,):
            raise ValueError("the words of texts are not numbered one by one")
        if self.svd.components_.shape[1:] != (n,) or np.atleast_2d(self.probe.coef_).shape[1] != n:
            raise ValueError("components or scores are of other words than the texts have")


def _vectorizer(min_df: int, stop_words: Collection[str]) -> TfidfVectorizer:
    # It knows no words of one letter, and warns of those that it is to leave out.
    return TfidfVectorizer(
        ngram_range=(1, 2),
        min_df=min_df,
        stop_words=sorted(word for word in stop_words if len(word) > 1) or None,
        sublinear_tf=True,
        strip_accents="unicode",
        max_features=_MAX_FEATURES,
        dtype=np.float32,
    )


def _fit_probe(
    words: csr_array, outputs: np.ndarray, folds: Folds, sample_weight: np.ndarray | None
) -> tuple[Ridge, np.ndarray]:
    """Fit a ridge regression, and score each row by one that did not see its fold.

    Scores are constant where folds can't teach an output; see `twostage.ridge.is_untaught`.
    """
    weight = np.ones(len(outputs)) if sample_weight is None else sample_weight
    mean = np.average(outputs, axis=0, weights=weight)
    best, best_error, scores = _PENALTIES[-1], np.inf, np.tile(mean, (len(outputs), 1))
    for penalty in _PENALTIES if len(folds) else ():
        found = np.tile(mean, (len(outputs), 1))
        for train, test in folds:
            model = _ridge(penalty).fit(words[train], outputs[train], weight[train])
            found[test] = _scores(model, words[test])
        error = float(weight @ ((found - outputs) ** 2).sum(axis=1))
        if error < best_error:
            best, best_error, scores = penalty, error, found
    probe = _ridge(best).fit(words, outputs, weight)
    is_constant = is_untaught(outputs, weight, folds)
    scores[:, is_constant] = mean[is_constant]
    probe.coef_ = np.where(is_constant[:, None], 0.0, np.atleast_2d(probe.coef_))
    probe.intercept_ = np.where(is_constant, mean, probe.intercept_)
    return probe, scores.astype(np.float32)


def _ridge(penalty: float) -> Ridge:
    return Ridge(penalty, solver="sparse_cg", tol=1e-3)


def _scores(probe: Ridge, words: csr_array) -> np.ndarray:
    found = np.asarray(probe.predict(words), np.float32)
    return found.reshape(len(found), -1)
