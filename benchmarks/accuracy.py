"""Compare the heads with recipes that a good engineer would write, by repeated cross-validation.

    KERAS_HOME=... python benchmarks/accuracy.py DATA [--only NAME ...] [--repeats N]

DATA holds the folders ham10000, houses, leaf and clothing_reviews. Every image is embedded once, by
frozen MobileNetV2; everything runs on one thread. Results are added to artifacts/accuracy.json and
.md; --only, --head and --recipe run some of them.
"""

import json
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import lightgbm
import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss, r2_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from threadpoolctl import threadpool_limits

from twostage import ImageEmbedder, TwoStageClassifier, TwoStageRegressor

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "tensorflow", "keras", "lightgbm", "scikit-learn", "skrub", "numpy")
HEADS = ("lightgbm", "linear", "keras", "random-forest", "svm", "blend")
N_FOLDS = 5
CORRECTION = 1 / (N_FOLDS - 1)  # test rows by training rows, see `interval`


@dataclass(frozen=True)
class Task:
    """A data set and what to predict in it."""

    name: str
    folder: str
    target: str
    images: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    few: tuple[str, ...] = ()
    many: tuple[str, ...] = ()
    text: tuple[str, ...] = ()
    group: str | None = None
    metric: str = "auc"
    log_target: bool = False
    options: dict[str, Any] = field(default_factory=dict)


HOUSES = {
    "folder": "houses",
    "target": "price",
    "numeric": ("bedrooms", "bathrooms", "area"),
    "many": ("zipcode",),
    "metric": "r2",
    "log_target": True,
}
TASKS = [
    Task(
        "ham10000",
        "ham10000",
        "malignant",
        images=("image",),
        numeric=("age",),
        few=("sex", "site"),
        group="lesion_id",
    ),
    Task("houses, one photo", images=("image",), **HOUSES),
    Task(
        "houses, four photos",
        images=("image", "image_bedroom", "image_bathroom", "image_kitchen"),
        **HOUSES,
    ),
    Task(
        "leaf",
        "leaf",
        "species",
        images=("image",),
        numeric=tuple(
            f"{kind}{i}" for kind in ("margin", "shape", "texture") for i in range(1, 65)
        ),
        metric="log_loss",
    ),
    Task(
        "clothing_reviews",
        "clothing_reviews",
        "recommended_ind",
        numeric=("age", "positive_feedback_count"),
        few=("division_name", "department_name", "class_name"),
        many=("clothing_id",),
        text=("title", "review_text"),
    ),
]


@dataclass
class Data:
    """A task's rows."""

    task: Task
    X: pd.DataFrame
    y: np.ndarray
    groups: np.ndarray
    root: Path
    embeddings: list[np.ndarray]

    @property
    def is_classification(self) -> bool:
        """Whether classes are predicted."""
        return self.task.metric != "r2"


def load(task: Task, data: Path) -> Data:
    """Read a task's table, and embed its images (once: they stay in the cache)."""
    root = data / task.folder
    table = pd.read_csv(root / "table.csv")
    y = table[task.target].to_numpy()
    if task.metric == "r2":
        y = np.log(y)
    groups = pd.factorize(table[task.group])[0] if task.group else np.arange(len(table))
    columns = [*task.images, *task.numeric, *task.few, *task.many, *task.text]
    embedder = ImageEmbedder("mobilenet_v2", image_root=root)
    embeddings = [embedder.fit_transform(table[column]) for column in task.images]
    return Data(task, table[columns], y, groups, root, embeddings)


def ours(data: Data, head: str) -> BaseEstimator:
    """Return one of our estimators, with its defaults."""
    task = data.task
    kind = TwoStageClassifier if data.is_classification else TwoStageRegressor
    return kind(
        task.images or None,
        head,
        image_root=data.root,
        numeric=task.numeric,
        categorical=(*task.few, *task.many),
        text=task.text,
        n_jobs=1,
    )


# What a good engineer would write in 40 lines of scikit-learn.


def trees(data: Data) -> BaseEstimator:
    """Return LightGBM with sensible settings; fewer trees where there is one for each class."""
    n_trees = 60 if data.task.metric == "log_loss" else 300
    settings: dict[str, Any] = {
        "num_leaves": 15,
        "min_child_samples": 10,
        "learning_rate": 0.05,
    }
    if data.task.metric == "log_loss":
        settings["learning_rate"] = 0.1
    kind = lightgbm.LGBMClassifier if data.is_classification else lightgbm.LGBMRegressor
    settings |= {"colsample_bytree": 0.5, "n_jobs": 1, "random_state": 0, "verbose": -1}
    return kind(n_estimators=n_trees, **settings)


def encoded(data: Data, wide: Any, text: Any, *, is_linear: bool) -> ColumnTransformer:
    """Return the encoders of a table whose embeddings are columns emb0_0000 and so on."""
    task = data.task
    one_hot = OneHotEncoder(handle_unknown="ignore", sparse_output=False, min_frequency=2)
    numeric = make_pipeline(SimpleImputer(add_indicator=True), StandardScaler())
    by_target = TargetEncoder(cv=KFold(5, shuffle=True, random_state=0))
    many = make_pipeline(by_target, StandardScaler()) if is_linear else by_target
    steps = [
        ("numeric", numeric if is_linear else "passthrough", list(task.numeric)),
        ("few", one_hot, list(task.few)),
        ("many", many, list(task.many)),
    ]
    if wide is not None:
        for number, embedding in enumerate(data.embeddings):
            names = embedding_columns(number, embedding.shape[1])
            steps.append((f"emb{number}", wide, names))
    if text is not None:
        steps += [(name, text, name) for name in task.text]
    return ColumnTransformer(steps)


def embedding_columns(number: int, width: int) -> list[str]:
    """Return the names of an embedding's columns."""
    return [f"emb{number}_{i:04d}" for i in range(width)]


def words() -> TfidfVectorizer:
    """Return words and pairs of words."""
    return TfidfVectorizer(ngram_range=(1, 2), min_df=3, sublinear_tf=True)


def text_components(n: int) -> Any:
    """Return the first components of words."""
    return make_pipeline(words(), TruncatedSVD(n, random_state=0))


def table_lightgbm(data: Data) -> BaseEstimator:
    """LightGBM on the table alone, columns of many categories encoded by the target."""
    return make_pipeline(encoded(data, None, None, is_linear=False), trees(data))


def raw_lightgbm(data: Data) -> BaseEstimator:
    """LightGBM on the table beside all dimensions of the embeddings."""
    blocks = encoded(data, "passthrough", text_components(100), is_linear=False)
    return make_pipeline(blocks, trees(data))


def pca_lightgbm(data: Data) -> BaseEstimator:
    """LightGBM on the table beside 30 principal components of each embedding."""
    pca = make_pipeline(StandardScaler(), PCA(30, random_state=0))
    return make_pipeline(encoded(data, pca, text_components(30), is_linear=False), trees(data))


def linear_on_everything(data: Data) -> BaseEstimator:
    """Logistic or ridge regression on everything, its penalty chosen by cross-validation."""
    blocks = encoded(data, StandardScaler(), words(), is_linear=True)
    if not data.is_classification:
        return make_pipeline(blocks, RidgeCV(np.logspace(0, 5, 11)))
    search = GridSearchCV(
        LogisticRegression(max_iter=300),
        {"C": [0.001, 0.01, 0.1, 1.0, 10.0]},
        cv=3,
        scoring="neg_log_loss",
    )
    return make_pipeline(blocks, search)


RECIPES: dict[str, Callable[[Data], BaseEstimator]] = {
    "LightGBM, table": table_lightgbm,
    "LightGBM, raw concatenation": raw_lightgbm,
    "LightGBM, PCA 30": pca_lightgbm,
    "logistic or ridge, everything": linear_on_everything,
}


def with_embeddings(data: Data) -> pd.DataFrame:
    """Return the table as the recipes see it: embeddings as columns."""
    wide = [
        pd.DataFrame(embedding, columns=embedding_columns(number, embedding.shape[1]))
        for number, embedding in enumerate(data.embeddings)
    ]
    X = data.X.copy()
    for name in (*data.task.few, *data.task.many):
        X[name] = X[name].astype(object).where(X[name].notna(), "missing").astype(str)
    for name in data.task.text:
        X[name] = X[name].fillna("")
    return pd.concat([X, *wide], axis=1)


def folds(data: Data, repeat: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield training and test rows; groups are kept together."""
    if data.is_classification:
        splitter = StratifiedGroupKFold(N_FOLDS, shuffle=True, random_state=repeat)
        yield from splitter.split(data.X, data.y, data.groups)
    else:
        yield from KFold(N_FOLDS, shuffle=True, random_state=repeat).split(data.X)


def score(data: Data, model: BaseEstimator, X: pd.DataFrame, y: np.ndarray) -> float:
    """Score predictions by the task's metric; the log loss is negative, so that more is better."""
    if data.task.metric == "r2":
        return float(r2_score(y, model.predict(X)))
    proba = model.predict_proba(X)
    if data.task.metric == "auc":
        return float(roc_auc_score(y, proba[:, 1]))
    return -float(log_loss(y, proba, labels=model.classes_))


def measure(
    data: Data, repeats: int, heads: tuple[str, ...], recipes: tuple[str, ...]
) -> dict[str, Any]:
    """Score every recipe and head on every fold, one after the other."""
    wide = with_embeddings(data)
    makers: dict[str, tuple[Callable[[], BaseEstimator], pd.DataFrame, bool]] = {
        name: (lambda make=RECIPES[name]: make(data), wide, False) for name in recipes
    }
    makers |= {head: (lambda head=head: ours(data, head), data.X, True) for head in heads}
    results: dict[str, Any] = {
        name: {"scores": [], "fit_s": [], "predict_s": []} for name in makers
    }
    for repeat in range(repeats):
        for train, test in folds(data, repeat):
            for name, (make, X, is_ours) in makers.items():
                model = make()
                extra = {"groups": data.groups[train]} if is_ours else {}
                started = time.perf_counter()
                model.fit(X.iloc[train], data.y[train], **extra)
                fitted = time.perf_counter()
                value = score(data, model, X.iloc[test], data.y[test])
                results[name]["scores"].append(value)
                results[name]["fit_s"].append(fitted - started)
                results[name]["predict_s"].append(time.perf_counter() - fitted)
                click.echo(
                    f"{data.task.name}: {name}: {value:.4f}, {fitted - started:.1f} s", err=True
                )
    return {"metric": data.task.metric, "n_rows": len(data.y), "results": results}


def interval(scores: list[float]) -> float:
    """Return half the width of a 95% interval of the mean.

    Folds share training rows, so that the usual standard error is too small; Nadeau and Bengio
    (2003) correct it by the share of test rows.
    """
    from scipy.stats import t

    n = len(scores)
    spread = float(np.std(scores, ddof=1)) * np.sqrt(1 / n + CORRECTION)
    return float(t.ppf(0.975, n - 1) * spread)


def as_markdown(record: dict[str, Any]) -> str:
    """Return the tables, one for each data set."""
    lines = [
        "# Accuracy of the heads and of recipes written by hand",
        "",
        "By `benchmarks/accuracy.py`: frozen MobileNetV2 (ImageNet), repeated 5-fold "
        "cross-validation, defaults everywhere. ± is half a 95% interval of the mean (Nadeau and "
        "Bengio's correction); SE the plain standard error over folds; the seconds are medians of "
        "a fold's. The difference is to the best of the table, by fold.",
    ]
    for name, result in record["results"].items():
        best = max(result["results"].values(), key=lambda r: np.mean(r["scores"]))["scores"]
        n_folds = len(best)
        metric = {"r2": "R2 of the log price", "auc": "AUC", "log_loss": "minus the log loss"}
        lines += [
            "",
            f"## {name}: {metric[result['metric']]}, {result['n_rows']:,} rows, {n_folds} folds",
            "",
            "| | score | ± | SE | to the best | fit s | predict s |",
            "|---|---|---|---|---|---|---|",
        ]
        for recipe, found in result["results"].items():
            scores = found["scores"]
            gap = float(np.mean(np.subtract(scores, best)))
            standard_error = float(np.std(scores, ddof=1) / np.sqrt(n_folds))
            label = recipe if recipe in RECIPES else f"`{recipe}`"
            lines.append(
                f"| {label} | {np.mean(scores):.4f} | {interval(scores):.4f} | "
                f"{standard_error:.4f} | {gap:+.4f} | {np.median(found['fit_s']):.1f} | "
                f"{np.median(found['predict_s']):.2f} |"
            )
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {versions}.", ""])


def add_to_artifact(name: str, measured: dict[str, Any]) -> dict[str, Any]:
    """Add what was measured to the artifact as it is now, and return all of it."""
    path = ARTIFACTS / "accuracy.json"
    record = json.loads(path.read_text()) if path.exists() else {"results": {}}
    record["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record["versions"] = {library: version(library) for library in LIBRARIES}
    known = record["results"].setdefault(name, measured)
    known["results"] |= measured["results"]
    order = [task.name for task in TASKS]
    record["results"] = {key: record["results"][key] for key in order if key in record["results"]}
    path.write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "accuracy.md").write_text(as_markdown(record))
    return record


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--only", multiple=True, help="Data sets to run; all by default.")
@click.option("--head", "heads", multiple=True, help="Heads to run; all by default, or none.")
@click.option("--recipe", "recipes", multiple=True, help="Recipes to run; all by default, or none.")
@click.option("--repeats", default=2, show_default=True, help="Of the five folds.")
def main(
    data: Path,
    only: tuple[str, ...],
    heads: tuple[str, ...],
    recipes: tuple[str, ...],
    repeats: int,
) -> None:
    """Measure, and add the results to the artifact."""
    warnings.filterwarnings("ignore", "X does not have valid feature names")
    chosen = () if recipes == ("none",) else recipes or tuple(RECIPES)
    with threadpool_limits(1):
        for task in TASKS:
            if not only or task.name in only:
                named = () if heads == ("none",) else heads or HEADS
                found = measure(load(task, data), repeats, named, chosen)
                click.echo(as_markdown(add_to_artifact(task.name, found)))


if __name__ == "__main__":
    main()
