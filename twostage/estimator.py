"""scikit-learn estimators over the same code as the command line."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import Tags, assert_all_finite, check_consistent_length, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_feature_names,
    _check_n_features,
    _check_sample_weight,
    check_is_fitted,
    column_or_1d,
    validate_data,
)

from twostage.contents import IMAGE
from twostage.embedder import (
    BackboneParameters,
    PathLike,
    default_names,
    is_table,
    to_pandas,
    warn_of_errors,
)
from twostage.encoders.spec import EncoderSpec, read_spec
from twostage.errors import DataError, UsageError
from twostage.fitted import FitSettings
from twostage.fitting import (
    Learner,
    StageTwo,
    check_heads,
    check_weights,
    tell_roles,
    tell_seen,
    training_rows,
    warn_of_lost_classes,
    without_seen,
)
from twostage.heads import make_head
from twostage.joins import ImageBlock
from twostage.model import read_model, write_model
from twostage.pixels import MAX_PIXELS
from twostage.seen import SeenRows
from twostage.staged import (
    JOINT,
    NAIVE,
    AnyModel,
    StagedModel,
    StagingSettings,
    check_joint,
    free_name,
    is_joint,
)
from twostage.store.store import EmbeddingStore
from twostage.table.roles import LIKE_AN_ID, RoleOverrides
from twostage.targets import Target, prepare_target
from twostage.training.settings import NONE
from twostage.unseen import seen_by_backbones

_ROLES = ("numeric", "categorical", "date", "text", "vector", "sequence", "ignore")


class _TwoStage(BackboneParameters, BaseEstimator):
    """What the classifier and the regressor share."""

    model_: AnyModel
    _task: str

    def __init__(
        self,
        image_columns: Sequence[str] | str | None = None,
        head: Any = "lightgbm",
        *,
        features: str = "both",
        numeric: Sequence[str] = (),
        categorical: Sequence[str] = (),
        date: Sequence[str] = (),
        text: Sequence[str] = (),
        vector: Sequence[str] = (),
        sequence: Sequence[str] = (),
        ignore: Sequence[str] = (),
        scaling: str | None = None,
        categories: str | None = None,
        image_features: str | None = None,
        n_components: int | None = None,
        stop_words: PathLike | None = None,
        word_vectors: PathLike | None = None,
        image_pooling: str = "mean",
        tune: int = 0,
        class_weight: Mapping[Any, float] | str | None = None,
        log_target: bool = False,
        allow_seen: bool = False,
        finetune: str | None = None,
        finetuning: Mapping[str, Any] | None = None,
        backbone: PathLike = "mobilenet_v2",
        weights: str | None = None,
        layer: str | None = None,
        pooling: str | None = None,
        image_size: int | None = None,
        resize: str | None = None,
        image_root: PathLike | None = None,
        engine: str | None = None,
        precision: str | None = None,
        preprocessing: str | None = None,
        batch_size: int | None = None,
        workers: int | None = None,
        max_pixels: int = MAX_PIXELS,
        device: str = "auto",
        cache_dir: PathLike | None = None,
        random_state: int | np.random.RandomState | None = 0,
        n_jobs: int | None = None,
    ):
        self.image_columns = image_columns
        self.head = head
        self.features = features
        self.numeric = numeric
        self.categorical = categorical
        self.date = date
        self.text = text
        self.vector = vector
        self.sequence = sequence
        self.ignore = ignore
        self.scaling = scaling
        self.categories = categories
        self.image_features = image_features
        self.n_components = n_components
        self.stop_words = stop_words
        self.word_vectors = word_vectors
        self.image_pooling = image_pooling
        self.tune = tune
        self.class_weight = class_weight
        self.log_target = log_target
        self.allow_seen = allow_seen
        self.finetune = finetune
        self.finetuning = finetuning
        self.backbone = backbone
        self.weights = weights
        self.layer = layer
        self.pooling = pooling
        self.image_size = image_size
        self.resize = resize
        self.image_root = image_root
        self.engine = engine
        self.precision = precision
        self.preprocessing = preprocessing
        self.batch_size = batch_size
        self.workers = workers
        self.max_pixels = max_pixels
        self.device = device
        self.cache_dir = cache_dir
        self.random_state = random_state
        self.n_jobs = n_jobs

    def set_params(self, **params: Any) -> Self:
        """Set parameters; ``head__...`` are those of the head, also where it is given by name."""
        if isinstance(params.get("head", self.head), str) and any(
            name.startswith("head__") for name in params
        ):
            self.head = make_head(params.pop("head", self.head))
        super().set_params(**params)
        return self

    def fit(self, X: Any, y: Any, *, groups: Any = None, sample_weight: Any = None) -> Self:
        """Embed the images, and learn encoders and head; with ``finetune`` the backbone first.

        Parameters
        ----------
        X : DataFrame or array of shape (n_rows, n_columns)
            The table. Image columns hold paths; several in one cell are separated by ``;``. An
            array is taken as numbers.
        y : array of shape (n_rows,)
            The target.
        groups : array of shape (n_rows,), optional
            Rows of one group stay together in all inner splits.
        sample_weight : array of shape (n_rows,), optional
            Weights of the rows, for the head and its encoders: a backbone is tuned on all rows
            alike. Those of weight 0 are left out of both.

        Raises
        ------
        DataError
            If the target or a column does not hold what it must; it is a ValueError.
        """
        frame = self._to_frame(X, is_fit=True)
        values = self._to_series(y, frame)
        target = self._prepare_target(values)
        settings = self._settings(frame, values, is_table=is_table(X))
        check_heads(settings, target)
        staging = self._staging(settings)
        if groups is not None:
            groups = column_or_1d(groups, dtype=object)
            check_consistent_length(frame, groups)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(
                sample_weight, frame, dtype=np.float64, ensure_non_negative=True
            )
            check_weights(sample_weight)
            kept = np.flatnonzero(sample_weight)
            frame, target, sample_weight = frame.iloc[kept], target.take(kept), sample_weight[kept]
            groups = None if groups is None else groups[kept]
        used = () if settings.features == "table" else settings.image_columns
        blocks, store = self._blocks(frame, used, self._wanted(), self.image_pooling)
        warn_of_errors(blocks)
        rows = training_rows(
            frame, blocks, target, settings, () if groups is None else groups, sample_weight
        )
        seen = SeenRows() if store is None else store.seen
        is_seen = tell_seen(rows, settings, seen)
        kept = without_seen(is_seen, settings, seen)
        warn_of_lost_classes(target, kept)
        _warn_of_seen(is_seen, settings)
        learner = self._learner(settings, staging, store)
        rows, target = rows.take(kept), target.take(kept)
        model = learner.fit(rows, target, tell_roles(rows.frame, settings))
        _warn_of_ids(model)
        self._adopt(replace(model, n_seen=int(is_seen.sum())))
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Predict a class label or a value for each row.

        Parameters
        ----------
        X : DataFrame or array of shape (n_rows, n_columns)
            With the columns of `fit`, in their order.

        Returns
        -------
        array of shape (n_rows,)
        """
        check_is_fitted(self, "model_")
        return self.model_.predict(*self._inputs(X))

    def _score_unseen(
        self, score: Callable[..., float], X: Any, y: Any, sample_weight: Any
    ) -> float:
        """Return a score of the rows that a tuned backbone has not seen."""
        check_is_fitted(self, "model_")
        is_seen = self._seen_in(X)
        if not is_seen.any():
            return float(score(X, y, sample_weight))
        if is_seen.all():
            raise DataError(
                f"The tuned backbone has seen the labels of all {len(is_seen)} rows, or of their "
                "groups: a score on them would be too good. Give other rows."
            )
        warnings.warn(
            f"{int(is_seen.sum())} of {len(is_seen)} rows, or their groups, had been seen by the "
            "tuned backbone with their labels, and are not scored.",
            stacklevel=3,
        )
        kept = np.flatnonzero(~is_seen)
        frame = self._to_frame(X, is_fit=False)
        weights = None if sample_weight is None else np.asarray(sample_weight)[kept]
        return float(score(frame.iloc[kept], np.asarray(y)[kept], weights))

    def save(self, path: PathLike, *, trusted: Sequence[str] = ()) -> None:
        """Write the fitted estimator as a model folder, for `load_model` and ``twostage predict``.

        Parameters
        ----------
        path : path-like
            The folder; an older model in its place is replaced.
        trusted : sequence of str
            Full names of types that may be saved though twostage does not know them: those of an
            estimator of your own as a head.
        """
        check_is_fitted(self, "model_")
        for note in write_model(self.model_, path, trusted):
            warnings.warn(note, stacklevel=2)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags

    def _prepare_target(self, values: pd.Series) -> Target:
        return prepare_target(values, self._task, log_target=self.log_target)

    def _adopt(self, model: AnyModel) -> None:
        self.model_ = model

    def _staging(self, settings: FitSettings) -> StagingSettings | None:
        """Return how backbones are tuned, if they are."""
        joint = is_joint(settings)
        if self.finetune is None and not joint:
            if self.finetuning:
                raise UsageError(
                    "finetuning has settings of a backbone's tuning, and finetune is None. Give "
                    "finetune, or leave finetuning out."
                )
            return None
        if self.finetune is not None and (joint or self.finetune == JOINT):
            raise UsageError(
                f"finetune={self.finetune!r} has a place before the head, and head='joint' trains "
                "the backbone itself. Leave finetune out; finetuning says how, also for the joint "
                "head."
            )
        how = StagingSettings.chosen(
            self.finetune or JOINT,
            self.finetuning,
            {"random_state": settings.random_state}
            | ({"class_weight": "balanced"} if settings.class_weight == "balanced" else {}),
        )
        if joint and how.tuning.is_frozen:
            return None
        if joint:
            check_joint(settings, how.tuning)
            return how
        if settings.embeds != IMAGE:
            raise UsageError(
                f"finetune={self.finetune!r} tunes backbones of images, and the backbone is an "
                f"encoder of {settings.embeds}s. Leave finetune out."
            )
        if not settings.image_columns or settings.features == "table":
            raise UsageError(
                f"finetune={self.finetune!r} tunes a backbone on images, and there are none: give "
                "image_columns, and features other than 'table'; or leave finetune out."
            )
        if self.finetune == "naive":
            warnings.warn(NAIVE, stacklevel=3)
        return how

    def _learner(
        self, settings: FitSettings, how: StagingSettings | None, store: EmbeddingStore | None
    ) -> Learner[Any]:
        """Return what learns from rows."""
        spec = None if store is None else store.spec
        if how is None or spec is None:
            return StageTwo(settings, spec)
        from twostage.staging import ImageSource, Staging  # what trains needs Keras

        images = ImageSource(
            self.image_root or os.curdir,
            self._backbone_settings(),
            self._extraction_options(),
            self.cache_dir,
        )
        return Staging(how, settings, images, spec)

    def _embeds(self) -> str:
        """Return what the image columns hold."""
        wanted = self._wanted() if self.image_columns is not None else None
        return wanted.kind if isinstance(wanted, EncoderSpec) else IMAGE

    def _settings(self, frame: pd.DataFrame, values: pd.Series, is_table: bool) -> FitSettings:
        images = self.image_columns
        numeric = self.numeric if is_table else frame.columns
        return FitSettings(
            target=str(values.name),
            head=self.head,
            features=self.features,
            image_columns=() if images is None else _names(images),
            log_target=self.log_target,
            roles=RoleOverrides(
                numeric=_names(numeric),
                **{name: _names(getattr(self, name)) for name in _ROLES if name != "numeric"},
            ),
            recipe=self._recipe(),
            image_pooling=self.image_pooling,
            class_weight=self.class_weight,
            n_tuned=self.tune,
            allow_seen=self.allow_seen,
            random_state=_seed(self.random_state),
            n_jobs=self.n_jobs,
            embeds=self._embeds(),
        )

    def _recipe(self) -> dict[str, Any]:
        """Return what differs from the head's own recipe."""
        wishes = {
            "scaling": self.scaling,
            "categories": self.categories,
            "many_categories": self.categories,
            "blocks": self.image_features,
            "n_components": self.n_components,
            "stop_words": _as_text(self.stop_words),
            "word_vectors": _as_text(self.word_vectors),
        }
        return {name: wish for name, wish in wishes.items() if wish is not None}

    def _inputs(self, X: Any) -> tuple[pd.DataFrame, Any]:
        frame = self._to_frame(X, is_fit=False)
        images: Any = self.model_.look(lambda spec: self._look(frame, spec)[0])
        warn_of_errors(self.model_.blocks_in(images))
        return frame, images

    def _look(
        self, frame: pd.DataFrame, spec: dict[str, Any]
    ) -> tuple[dict[str, ImageBlock], EmbeddingStore | None]:
        """Return the embeddings of rows by a backbone of the model."""
        wanted = read_spec(spec, "the model")
        pooling = self.model_.settings.image_pooling
        return self._blocks(frame, list(self.model_.dims), wanted, pooling)

    def _seen_in(self, X: Any) -> np.ndarray:
        """Tell the rows that a tuned backbone was trained on."""
        frame = self._to_frame(X, is_fit=False)
        model = self.model_
        if not model.backbones:
            return np.zeros(len(frame), bool)
        blocks, store = self._look(frame, model.backbones[0])
        return seen_by_backbones(model, frame, blocks, SeenRows() if store is None else store.seen)

    def _to_frame(self, X: Any, is_fit: bool) -> pd.DataFrame:
        """Check X and return it as a DataFrame whose columns are named by strings."""
        if is_table(X):
            frame = to_pandas(X)
            if is_fit or hasattr(self, "n_features_in_"):
                _check_feature_names(self, X, reset=is_fit)
                _check_n_features(self, X, reset=is_fit)
            return frame
        least = 2 if is_fit else 1
        values = validate_data(
            self, X, reset=is_fit, ensure_all_finite="allow-nan", ensure_min_samples=least
        )
        return pd.DataFrame(values, columns=default_names("x", values.shape[1]))

    def _to_series(self, y: Any, frame: pd.DataFrame) -> pd.Series:
        """Check y and return it as a named Series."""
        if y is None:
            raise DataError(
                f"This {type(self).__name__} estimator requires y to be passed, but the target y "
                "is None."
            )
        values = y if isinstance(y, pd.Series) else pd.Series(column_or_1d(y, warn=True))
        check_consistent_length(frame, values)
        if values.dtype.kind == "f":
            assert_all_finite(values.to_numpy(), allow_nan=True, input_name="y")
        return values.rename(free_name(str(values.name or "target"), frame))


class TwoStageClassifier(ClassifierMixin, _TwoStage):
    """Classify rows of a table, some of whose columns may name images.

    Images are embedded once, through the cache on disk; the embeddings and the scaled and encoded
    columns of the table train the head. Without image columns it is an ordinary tabular
    estimator.

    Parameters
    ----------
    image_columns : str or sequence of str, optional
        Columns of ``X`` that hold image paths.
    head : str, Head, Blend or scikit-learn estimator, default="lightgbm"
        The learner: "lightgbm", "keras", "linear", "random-forest", "svm", "joint" (one network
        with a branch for each kind of column, see `JointHead`, trained together with the backbone,
        as ``finetuning`` says), "blend" (the weighted mean of some that suit the data, see
        `Blend`), names joined by "+" (blended), a head with settings of your own such as
        ``LightGBMHead(num_leaves=31)``, or any estimator.
        ``head__...`` are its parameters in a search.
    features : {"both", "images", "table"}, default="both"
        What the head may see.
    numeric, categorical, date, text, vector, sequence, ignore : sequence of str
        Columns taken as such, whatever they look like. A vector column holds a list of numbers
        in each row, of one length; a sequence column one of any length, a number per step, or a
        list of steps that are lists of numbers, one per channel: see `attach_sequences`.
    scaling : {"standard", "minmax", "robust", "quantile", "none"}, optional
        Of numbers; what suits the head if None.
    categories : {"onehot", "ordinal", "target", "native"}, optional
        How categories are encoded; by their number and the head if None.
    image_features : str, optional
        What the head sees of embeddings, texts and vectors: "raw", "pca", "probe" or several
        joined by "+"; what suits the head if None.
    n_components : int, optional
        Principal components, where they are used; several image columns share them.
    stop_words : "english" or path-like, optional
        Words that texts are read without: scikit-learn's English list, or those of a file.
    word_vectors : path-like, optional
        A file of what words mean, for heads that read words to start from: text (GloVe, ``.vec``)
        or word2vec's binary format, maybe packed.
    image_pooling : {"mean", "max", "first"}, default="mean"
        What becomes of several images in a row.
    tune : int, default=0
        Settings of the head to try in the training rows.
    class_weight : {"balanced"} or dict, optional
        Weights of the classes, by label; "balanced" lets rare ones count as much as common ones.
        For the classifier only.
    log_target : bool, default=False
        Whether to learn the logarithm of a positive target. For the regressor only.
    allow_seen : bool, default=False
        Whether to train on rows whose label, or whose group's label, a tuned backbone was trained
        on; they are left out otherwise, with a warning, and `score` leaves them out in any case.
    finetune : {None, "holdout", "crossfit", "oof-scores", "naive"}, default=None
        Whether the backbone is tuned on the rows of `fit`, and by which split of them, so that the
        head learns from no row by what has seen its label. "holdout" tunes it on half of the rows,
        and the head learns from the others; "crossfit" tunes backbones on all rows but a fold,
        from which a head learns, and averages the predictions of the heads; "oof-scores" tunes
        them likewise, and each gives its fold scores for one head to see beside the embeddings;
        "naive" uses all rows for both, to be compared with. Each backbone is tuned once and kept
        in the cache: a search over the head's settings tunes none anew. The cache must stay: use
        `save` for a model that brings its backbones along.
    finetuning : dict, optional
        How: fields of `twostage.training.settings.TuningSettings`, such as ``{"epochs": 5}``, and
        ``share``, of the rows that "holdout" tunes on, and ``n_folds`` of the two others. Of a
        ``class_weight`` "balanced" stage one takes note too, unless it is told otherwise. Also
        how a joint head trains the backbone: ``{"unfreeze": "none"}`` leaves that as it is.
    backbone, weights, layer, pooling, image_size, resize, image_root, engine, \
precision, preprocessing, batch_size, workers, max_pixels, device, cache_dir
        See `ImageEmbedder`.
    random_state : int, RandomState or None, default=0
        Of everything random; None draws anew at each fit.
    n_jobs : int, optional
        Threads of the head; as many as there are cores if None.

    Attributes
    ----------
    classes_ : array of shape (n_classes,)
        Class labels, sorted.
    model_ : twostage.fitted.FittedModel or twostage.staged.StagedModel
        Encoders, heads and their weights, columns and their roles; with ``finetune`` one of those
        for each backbone that was tuned.
    n_features_in_ : int
        Number of columns.
    feature_names_in_ : array of str
        Their names, if ``X`` was a DataFrame.

    Examples
    --------
    >>> import pandas as pd
    >>> from twostage import TwoStageClassifier
    >>> table = pd.DataFrame({"age": [20, 25, 30, 60, 65, 70] * 5, "site": ["arm", "leg"] * 15})
    >>> model = TwoStageClassifier().fit(table, [0, 0, 0, 1, 1, 1] * 5)
    >>> model.predict(table[:6]).tolist()
    [0, 0, 0, 1, 1, 1]
    """

    _task = "classification"

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on rows that a tuned backbone has not seen.

        Parameters
        ----------
        X : as for `predict`
        y : array of shape (n_rows,)
            True classes.
        sample_weight : array of shape (n_rows,), optional
            Weights of the rows.

        Raises
        ------
        DataError
            If the backbone was trained on all of them.
        """
        return self._score_unseen(super().score, X, y, sample_weight)  # the mixin's

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return class probabilities.

        Parameters
        ----------
        X : as for `predict`

        Returns
        -------
        array of shape (n_rows, n_classes)
            In the order of ``classes_``.
        """
        check_is_fitted(self, "model_")
        return self.model_.predict_proba(*self._inputs(X))

    def _prepare_target(self, values: pd.Series) -> Target:
        if not values.isna().any():
            check_classification_targets(values.to_numpy())
        return super()._prepare_target(values)

    def _adopt(self, model: AnyModel) -> None:
        super()._adopt(model)
        self.classes_ = model.classes


class TwoStageRegressor(RegressorMixin, _TwoStage):
    """Predict a number for rows of a table, some of whose columns may name images.

    Parameters and attributes are those of `TwoStageClassifier`, but ``classes_``.

    Examples
    --------
    >>> import pandas as pd
    >>> from twostage import TwoStageRegressor
    >>> table = pd.DataFrame({"area": [float(area) for area in range(50, 150)]})
    >>> model = TwoStageRegressor().fit(table, table["area"] * 1000)
    >>> bool(abs(model.predict(table[50:51])[0] - 100_000) < 5_000)
    True
    """

    _task = "regression"

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the R2 on rows that a tuned backbone has not seen.

        Parameters
        ----------
        X : as for `predict`
        y : array of shape (n_rows,)
            True values.
        sample_weight : array of shape (n_rows,), optional
            Weights of the rows.

        Raises
        ------
        DataError
            If the backbone was trained on all of them.
        """
        return self._score_unseen(super().score, X, y, sample_weight)  # the mixin's


def load_model(
    path: PathLike,
    *,
    image_root: PathLike | None = None,
    cache_dir: PathLike | None = None,
    trusted: Sequence[str] = (),
) -> TwoStageClassifier | TwoStageRegressor:
    """Load a model folder, made by ``twostage fit`` or ``save``, as a fitted estimator.

    Nothing in the folder is run as code, and each file is compared with its digest.

    Parameters
    ----------
    path : path-like
        The folder.
    image_root : path-like, optional
        What relative image paths start from, as for `ImageEmbedder`; the current folder if None.
    cache_dir : path-like, optional
        Where embeddings are cached; see `ImageEmbedder`.
    trusted : sequence of str
        As for ``save``. Code of these types does run.

    Returns
    -------
    TwoStageClassifier or TwoStageRegressor
        Columns are taken by name; further ones do not matter.

    Raises
    ------
    UsageError
        If there is no such folder.
    ModelError
        If it is no model, of another version, or damaged.
    """
    model = read_model(path, trusted)
    kind = TwoStageClassifier if model.is_classification else TwoStageRegressor
    settings = model.settings
    recipe = dict(settings.recipe)
    estimator = kind(
        settings.image_columns,
        settings.head,
        features=settings.features,
        **{name: getattr(settings.roles, name) for name in _ROLES},
        scaling=recipe.get("scaling"),
        categories=recipe.get("categories"),
        image_features=recipe.get("blocks"),
        n_components=recipe.get("n_components"),
        stop_words=recipe.get("stop_words"),
        word_vectors=recipe.get("word_vectors"),
        image_pooling=settings.image_pooling,
        tune=settings.n_tuned,
        class_weight=settings.class_weight,
        log_target=settings.log_target,
        allow_seen=settings.allow_seen,
        image_root=image_root,
        cache_dir=cache_dir,
        random_state=settings.random_state,
        n_jobs=settings.n_jobs,
    )
    backbone = model.backbones[0] if model.backbones else None
    if isinstance(model, StagedModel):
        backbone = model.parent
        mode = None if model.staging.mode == JOINT else model.staging.mode
        estimator.set_params(finetune=mode, finetuning=model.staging.options())
    elif is_joint(settings):
        estimator.set_params(finetuning={"unfreeze": NONE})
    if backbone is not None:
        asked = read_spec(backbone, path).parameters()
        chosen = {name: asked[name] for name in asked if name in estimator.get_params(deep=False)}
        estimator.set_params(**chosen | {"random_state": settings.random_state})
    estimator._adopt(model)
    return estimator


def _as_text(path: PathLike | None) -> str | None:
    return None if path is None else os.fspath(path)


def _names(columns: Any) -> tuple[str, ...]:
    return (columns,) if isinstance(columns, str) else tuple(str(name) for name in columns)


def _warn_of_seen(is_seen: np.ndarray, settings: FitSettings) -> None:
    if is_seen.any():
        done = "trained on all the same" if settings.allow_seen else "left out"
        warnings.warn(
            f"{int(is_seen.sum())} of {len(is_seen)} rows, or their groups, had been seen by the "
            f"tuned backbone with their labels: {done}. A score on such rows is too good.",
            stacklevel=3,
        )


def _warn_of_ids(model: AnyModel) -> None:
    for column in model.columns:
        if column.reason == LIKE_AN_ID:
            warnings.warn(
                f"Column '{column.name}' is left out: {column.reason}. Name it in numeric or "
                "categorical to use it.",
                stacklevel=3,
            )


def _seed(random_state: int | np.random.RandomState | None) -> int:
    if isinstance(random_state, (int, np.integer)):
        if not 0 <= random_state < 2**32:
            raise UsageError(f"random_state must be 0 to 2**32 - 1; found {random_state}.")
        return int(random_state)
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
