"""`ImageEmbedder`: from columns of image paths to embeddings, anywhere in a pipeline."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
import pandas as pd
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import (
    _check_feature_names,
    _check_feature_names_in,
    _check_n_features,
    check_is_fitted,
)

from twostage.backbones.spec import BackboneSettings, BackboneSpec
from twostage.cache import embed_through_cache
from twostage.encoders.lazy import find_spec
from twostage.encoders.spec import AnySpec, EncoderSpec
from twostage.errors import DataError, ImagesError
from twostage.extraction import ExtractionOptions
from twostage.joins import ImageBlock, embedding_names
from twostage.pixels import MAX_PIXELS
from twostage.sources import blocks_from_files
from twostage.store.store import EmbeddingStore

PathLike = str | os.PathLike[str]


class BackboneParameters:
    """The parameters that say which backbone embeds images, and how it is run."""

    backbone: PathLike
    weights: str | None
    layer: str | None
    pooling: str | None
    image_size: int | None
    resize: str | None
    image_root: PathLike | None
    engine: str | None
    precision: str | None
    preprocessing: str | None
    batch_size: int | None
    workers: int | None
    max_pixels: int
    device: str
    cache_dir: PathLike | None
    random_state: int | np.random.RandomState | None

    def _backbone_settings(self) -> BackboneSettings:
        seed = self.random_state
        return BackboneSettings(
            backbone=self.backbone,
            weights=self.weights,
            layer=self.layer,
            pooling=self.pooling,
            image_size=self.image_size,
            resize=self.resize,
            random_state=int(seed) if isinstance(seed, Integral) else None,
            engine=self.engine,
            precision=self.precision,
            preprocessing=self.preprocessing,
        )

    def _wanted(self) -> BackboneSettings | EncoderSpec:
        """Return what is to embed: a backbone, or the encoder whose folder it is."""
        found = find_spec(self.backbone, self.device)
        return self._backbone_settings() if found is None else found

    def _blocks(
        self,
        frame: pd.DataFrame,
        columns: Sequence[str],
        wanted: BackboneSettings | AnySpec,
        pooling: str = "mean",
    ) -> tuple[dict[str, ImageBlock], EmbeddingStore | None]:
        """Return the embeddings of image columns, and the store that they are from."""
        if not columns:
            return {}, None
        root = self.image_root or os.curdir
        return blocks_from_files(
            frame, columns, root, wanted, self._extraction_options(), self.cache_dir, pooling
        )

    def _extraction_options(self) -> ExtractionOptions:
        return ExtractionOptions(
            self.batch_size, self.workers, self.device, max_pixels=self.max_pixels
        )


class ImageEmbedder(BackboneParameters, TransformerMixin, BaseEstimator):
    """Turn columns of image paths into embeddings.

    Embeddings come from the cache on disk, so that a cross-validation embeds no image twice.

    Parameters
    ----------
    backbone : str or path-like, default="mobilenet_v2"
        Name in the catalogue (``twostage backbones`` lists it), or a ``.keras`` file: a network
        of your own, whose top is stripped.
    weights : str, optional
        "imagenet" (which None stands for), "random", or the path of a weights file. A ``.keras``
        file has its own.
    layer : str, optional
        Name of a layer, if not the penultimate one.
    pooling : {"avg", "max"}, optional
        How a feature map becomes a vector.
    image_size : int, optional
        Input size in pixels, if not the backbone's own.
    resize : {"crop", "squash", "pad"}, optional
        How an image becomes a square; "crop" if None.
    image_root : path-like, optional
        What relative paths start from; the current folder if None. It may also be a list of files,
        a tar, a Parquet file with the bytes of images, or the URL of such.
    on_error : {"null", "fail"}, default="null"
        Whether an unreadable image becomes a row of NaN or an error.
    engine : {"auto", "keras", "openvino"}, optional
        What executes the backbone; the fastest there is if None.
    precision : {"auto", "float32", "bfloat16", "float16"}, optional
        What it computes in; bfloat16 only where embeddings stay what they are if None.
    preprocessing : {"caffe", "tf", "torch", "unit", "none"}, optional
        What is done to pixels first, for a ``.keras`` file that does not say it: Keras' own modes
        ("tf": -1 to 1; "torch": 0 to 1, then standardised; "caffe": BGR, less the mean), "unit"
        (0 to 1), or nothing. Backbones of the catalogue know theirs.
    batch_size : int, optional
        Images that go through the backbone at once; what suits the engine if None.
    workers : int, optional
        Threads that decode; as many as there are cores if None.
    max_pixels : int, default=200_000_000
        Of width times height: a larger image counts as unreadable, for a small file may fill the
        memory.
    device : {"auto", "cpu", "gpu"}, default="auto"
        Where the backbone runs.
    cache_dir : path-like, optional
        Where the cache is; ``TWOSTAGE_CACHE`` or the user's cache folder if None.
    random_state : int, default=0
        Seed of "random" weights.

    Attributes
    ----------
    n_features_in_ : int
        Number of image columns.
    feature_names_in_ : array of str
        Their names, if ``X`` was a DataFrame.
    image_columns_ : list of str
        Names of the image columns, "image" where ``X`` gave none.
    spec_ : twostage.backbones.spec.BackboneSpec
        The backbone; ``spec_.dim`` is the length of an embedding.

    Examples
    --------
    >>> from twostage import ImageEmbedder
    >>> embedder = ImageEmbedder("mobilenet_v2", image_root="photos")
    >>> embedder.fit_transform(["a.jpg", "b.jpg"]).shape  # doctest: +SKIP
    (2, 1280)
    """

    def __init__(
        self,
        backbone: PathLike = "mobilenet_v2",
        *,
        weights: str | None = None,
        layer: str | None = None,
        pooling: str | None = None,
        image_size: int | None = None,
        resize: str | None = None,
        image_root: PathLike | None = None,
        on_error: str = "null",
        engine: str | None = None,
        precision: str | None = None,
        preprocessing: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        device: str = "auto",
        cache_dir: PathLike | None = None,
        random_state: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.image_size = image_size
        self.resize = resize
        self.image_root = image_root
        self.on_error = on_error
        self.engine = engine
        self.precision = precision
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.workers = workers
        self.max_pixels = max_pixels
        self.device = device
        self.cache_dir = cache_dir
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Build the backbone; nothing is learned from ``X``.

        Parameters
        ----------
        X : Series, list, or DataFrame or array of shape (n_rows, n_image_columns)
            Paths; several in one cell are separated by ``;``.
        y : ignored
        """
        frame = _image_frame(X)
        if 0 in frame.shape:
            raise DataError(
                f"Found array with {len(frame)} sample(s) and {frame.shape[1]} feature(s) "
                f"(shape={frame.shape}) while a minimum of 1 is required."
            )
        _check_feature_names(self, X, reset=True)
        _check_n_features(self, frame, reset=True)
        options = replace(self._extraction_options(), on_error=self.on_error)
        store = embed_through_cache([], self._backbone_settings(), options, self.cache_dir)
        self.spec_ = BackboneSpec.from_dict(store.spec, store.path)
        self.image_columns_ = list(frame.columns)
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the embeddings.

        Parameters
        ----------
        X : as for `fit`
            Paths.

        Returns
        -------
        float32 array of shape (n_rows, n_image_columns * dim)
            NaN in rows without a readable image.
        """
        check_is_fitted(self, "spec_")
        frame = _image_frame(X)
        _check_feature_names(self, X, reset=False)
        _check_n_features(self, frame, reset=False)
        blocks, _ = self._blocks(frame, list(frame.columns), self.spec_)
        if self.on_error == "fail":
            _raise_first_error(blocks)
        warn_of_errors(blocks)
        return np.hstack([block.matrix for block in blocks.values()])

    def get_feature_names_out(self, input_features: Any = None) -> np.ndarray:
        """Return ``<image column>_emb_0000`` and so on.

        Parameters
        ----------
        input_features : array of str, optional
            Names of the image columns, which must be those of `fit`.
        """
        check_is_fitted(self, "spec_")
        _check_feature_names_in(self, input_features)
        names = [embedding_names(column, self.spec_.dim) for column in self.image_columns_]
        return np.array([name for of_column in names for name in of_column], dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32 whatever names them
        return tags


def _image_frame(X: Any) -> pd.DataFrame:
    """Return paths, in whatever they come, as a DataFrame of named columns."""
    if is_table(X):
        return to_pandas(X)
    if hasattr(X, "to_pandas") and hasattr(X, "name"):  # a Series of another library
        X = X.to_pandas()
    if isinstance(X, pd.Series):
        return X.to_frame("image" if X.name in (None, "") else str(X.name))
    if issparse(X):
        raise DataError("X is a sparse matrix, which is not supported: give image paths.")
    values = np.asarray(X, dtype=object)
    if values.ndim == 0 or any(isinstance(value, complex) for value in values.ravel()):
        raise DataError("Complex data not supported: X holds no image paths.")
    values = values.reshape(len(values), -1)
    return pd.DataFrame(values, columns=default_names("image", values.shape[1]))


def is_table(X: Any) -> bool:
    """Whether X is a DataFrame, of pandas or of another library that turns into pandas.

    Raises
    ------
    DataError
        If it is a table that is yet to be computed.
    """
    if type(X).__name__ == "LazyFrame":
        raise DataError("X is a LazyFrame, which holds no rows yet. Give X.collect().")
    return isinstance(X, pd.DataFrame) or (hasattr(X, "to_pandas") and hasattr(X, "columns"))


def to_pandas(X: Any) -> pd.DataFrame:
    """Return a table as pandas', its columns named by strings, each once."""
    frame = X if isinstance(X, pd.DataFrame) else X.to_pandas()
    if isinstance(frame.columns, pd.MultiIndex):
        raise DataError("X has columns of several levels. Give each column one name.")
    frame = frame.rename(columns=str)
    if not frame.columns.is_unique:
        repeated = frame.columns[frame.columns.duplicated()][0]
        raise DataError(f"X has two columns '{repeated}'. Rename one.")
    return frame


def default_names(stem: str, n: int) -> list[str]:
    """Return names for the columns of an array, which has none."""
    return [stem] if n == 1 and stem == "image" else [f"{stem}{i}" for i in range(n)]


def _raise_first_error(blocks: Mapping[str, ImageBlock]) -> None:
    for block in blocks.values():
        bad = [(row, error) for row, error in enumerate(block.errors) if error is not None]
        if bad:
            row, error = bad[0]
            raise ImagesError(
                f"{len(bad)} of {len(block.errors)} rows have an unreadable image; first: row "
                f"{row + 1}, {error}. Fix the paths, or use on_error='null'."
            )


def warn_of_errors(blocks: Mapping[str, ImageBlock]) -> None:
    """Warn of rows whose embedding is missing because an image is unusable."""
    bad = [error for block in blocks.values() for error in block.errors if error is not None]
    if bad:
        is_all = all(error is not None for block in blocks.values() for error in block.errors)
        hint = ". No image is usable: is image_root right?" if is_all else ""
        warnings.warn(
            f"{len(bad)} rows have an unusable image, whose embedding is missing; first: "
            f"{bad[0]}{hint}",
            stacklevel=3,
        )
