"""Count how often intervals hold what they promise, where the truth is known.

    python benchmarks/coverage.py [--runs N] [--only PART ...] [--setting NAME ...]

- rows: 2,000 samples of rows in groups from a population whose scores are known; how often does
  the bootstrap's 95% interval contain them?
- chance: 1,000 small data sets (seeds 0 to 999) in which the labels tell nothing, cross-validated;
  how often does the 95% interval of a learner contain chance, and that of the difference of two
  equally useless learners 0?
- signal: the same where there is something to learn; how often does the interval contain the mean
  score of models trained on as many rows, which 5,000 further rows tell?

Beside the method of `twostage.intervals` (corrected) stand the bootstrap that takes the models as
given, so that folds are independent (uncorrected), the same of all rows pooled where twostage
averages over folds (pooled), and the corrected resampled t of Nadeau and Bengio (t); with repeats
also the corrected bootstrap of the mean over repeats (joint). Chance is an AUC and an accuracy of
0.5, a correlation of 0, and the R2 of predicting the training rows' mean.

Results go to artifacts/coverage.json and .md, each setting's when it is done.
"""

import json
import platform
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
from scipy.stats import norm
from scipy.stats import t as student
from sklearn.base import BaseEstimator, is_classifier
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier

from twostage import intervals
from twostage.intervals import FoldPrediction, cross_validated_difference, cross_validated_score
from twostage.metrics import METRICS, Metric, Score, score

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "numpy", "scipy", "scikit-learn")
N_ROWS_RUNS = 2000
Found = dict[str, list[tuple[float, float, float]]]  # value, low, high of each run, by method


@dataclass(frozen=True)
class Setting:
    """A small cross-validation, to be run many times."""

    name: str
    n_rows: int
    n_features: int
    learner: str = "logistic"
    n_folds: int = 5
    n_repeats: int = 1
    rows_per_group: int = 1
    signal: float = 0.0
    metrics: tuple[str, ...] = ("auc", "accuracy")


CHANCE = {"auc": 0.5, "accuracy": 0.5, "balanced_accuracy": 0.5, "r2": 0.0, "spearman": 0.0}
LEARNERS: dict[str, Callable[[], BaseEstimator]] = {
    "logistic": LogisticRegression,
    "tree": lambda: DecisionTreeClassifier(max_depth=4, random_state=0),
    "neighbours": KNeighborsClassifier,
    "ridge": lambda: RidgeCV(np.logspace(0, 5, 11)),
}
NULL = (
    Setting("100 rows", 100, 10),
    Setting("300 rows", 300, 10),
    Setting("100 rows, 50 features", 100, 50),
    Setting("100 rows, 10 folds", 100, 10, n_folds=10),
    Setting("100 rows, 3 repeats", 100, 10, n_repeats=3),
    Setting("200 rows, 40 groups", 200, 10, rows_per_group=5),
    Setting("100 rows, tree", 100, 10, "tree"),
    Setting("100 rows, neighbours", 100, 10, "neighbours"),
    Setting("100 rows, ridge", 100, 10, "ridge", metrics=("r2", "spearman")),
    Setting("200 rows, ridge, 40 groups", 200, 10, "ridge", 5, 1, 5, metrics=("r2", "spearman")),
)
SIGNAL = (
    Setting("100 rows", 100, 10, signal=1.0),
    Setting("300 rows, 3 repeats", 300, 10, n_repeats=3, signal=1.0),
    Setting("200 rows, 40 groups", 200, 10, rows_per_group=5, signal=1.0),
    Setting("100 rows, ridge", 100, 10, "ridge", signal=1.0, metrics=("r2", "spearman")),
)
PARTS = ("rows", "chance", "signal")


def draw(setting: Setting, rng: np.random.Generator, n_rows: int) -> tuple[np.ndarray, ...]:
    """Draw features, labels and groups. All rows of a group have its label, and are alike."""
    n_groups = n_rows // setting.rows_per_group
    groups = np.repeat(np.arange(n_groups), setting.rows_per_group)
    x = rng.normal(size=(n_groups, setting.n_features))[groups]
    if setting.rows_per_group > 1:
        x = x + rng.normal(size=x.shape)
    if setting.learner == "ridge":
        y = rng.normal(size=n_groups)[groups]
    else:
        y = rng.permutation(np.arange(n_groups) % 2)[groups]
    x[:, 0] += setting.signal * (y if setting.learner == "ridge" else y - 0.5)
    return x, y, groups


def cut(setting: Setting, y: np.ndarray, groups: np.ndarray, seed: int) -> Iterable[Any]:
    """Cut the rows into folds: stratified, by whole groups."""
    strata = y if y.dtype.kind == "i" else np.argsort(np.argsort(y)) * 10 // len(y)
    kind = StratifiedGroupKFold if setting.rows_per_group > 1 else StratifiedKFold
    folds = kind(setting.n_folds, shuffle=True, random_state=seed)
    return folds.split(np.zeros(len(y)), strata, groups)


def predict(model: BaseEstimator, x: np.ndarray) -> np.ndarray:
    """Return probabilities or values."""
    return model.predict_proba(x) if is_classifier(model) else model.predict(x)


def cross_validate(
    setting: Setting, seed: int
) -> tuple[list[FoldPrediction], list[FoldPrediction], dict[str, float]]:
    """Run one cross-validation, and a second learner, which sees the other half of the features.

    Returns
    -------
    arm, other : lists of FoldPrediction
    truth : dict of str to float
        The mean score of this cross-validation's models on 5,000 other rows. Without signal the R2
        of predicting means.
    """
    rng = np.random.default_rng(seed)
    x, y, groups = draw(setting, rng, setting.n_rows)
    half = setting.n_features // 2
    arms: tuple[list[FoldPrediction], list[FoldPrediction]] = ([], [])
    models, means = [], []
    for repeat in range(setting.n_repeats):
        for fold, (train, test) in enumerate(cut(setting, y, groups, 1000 * repeat + seed)):
            mean = np.full(len(test), y[train].mean())
            means.append(FoldPrediction(repeat, fold, y[test], mean, groups[test], len(train)))
            for arm, columns in zip(arms, (slice(None, half), slice(half, None)), strict=True):
                model = LEARNERS[setting.learner]().fit(x[train, columns], y[train])
                found = predict(model, x[test, columns])
                arm.append(FoldPrediction(repeat, fold, y[test], found, groups[test], len(train)))
                models.append(model)
    truth = {}
    if not setting.signal and "r2" in setting.metrics:
        truth["r2"] = cross_validated_score(METRICS["r2"], means).value
    if setting.signal:
        more, labels, _ = draw(setting, rng, 5000)
        for name in setting.metrics:
            once = np.ones((1, len(labels)))
            each = [METRICS[name](labels, predict(m, more[:, :half]), once) for m in models[::2]]
            truth[name] = float(np.mean(each))
    return *arms, truth


def uncorrected(corrected: Score, folds: list[FoldPrediction]) -> Score:
    """Take back the correction: what is left takes the models as given."""
    stretch, value = intervals._stretch(folds), corrected.value
    return Score(
        value, *(value + (end - value) / stretch for end in (corrected.low, corrected.high))
    )


def resampled_t(metric: Metric, folds: list[FoldPrediction]) -> Score:
    """Return Nadeau and Bengio's interval of the mean over folds."""
    scores = [metric(f.y, f.predicted, np.ones((1, len(f.y))))[0] for f in folds]
    n, ratio = len(scores), len(folds[0].y) / folds[0].n_train
    half = student.ppf(0.975, n - 1) * np.std(scores, ddof=1) * np.sqrt(1 / n + ratio)
    return Score(float(np.mean(scores)), np.mean(scores) - half, np.mean(scores) + half)


def joint(metric: Metric, folds: list[FoldPrediction]) -> Score:
    """Correct the bootstrap of the mean over repeats, all of which see the same draws."""
    groups = np.unique(np.concatenate([fold.groups for fold in folds]))
    repeats = intervals._by_repeat(metric, folds, groups)

    def mean(counts: np.ndarray) -> np.ndarray:
        return np.mean([repeat(counts) for repeat in repeats], axis=0)

    found = intervals.bootstrap_counts({"mean": mean}, len(groups), 500)["mean"]
    stretch, value = intervals._stretch(folds), found.value
    return Score(value, *(value + stretch * (end - value) for end in (found.low, found.high)))


def methods(metric: Metric, folds: list[FoldPrediction]) -> dict[str, Score]:
    """Return the intervals of all methods."""
    corrected = cross_validated_score(metric, folds)
    found = {
        "corrected": corrected,
        "uncorrected": uncorrected(corrected, folds),
        "t": resampled_t(metric, folds),
    }
    if not metric.is_pooled:
        pooled = cross_validated_score(replace(metric, is_pooled=True), folds)
        found["pooled"] = uncorrected(pooled, folds)
    if folds[-1].repeat:
        found["joint"] = joint(metric, folds)
    return found


def one_run(setting: Setting, seed: int) -> tuple[dict[str, dict[str, Score]], dict[str, float]]:
    """Return the scores by metric and method, and the truth of this run's models."""
    arm, other, truth = cross_validate(setting, seed)
    scores = {}
    for name in setting.metrics:
        scores[name] = methods(METRICS[name], arm)
        scores[name]["difference"] = cross_validated_difference(METRICS[name], arm, other)
    return scores, truth


def summary(scores: list[Score], truth: float) -> dict[str, float]:
    """Count how often the truth was in the interval, and how wide that was."""
    ends = np.array([(score.value, score.low, score.high) for score in scores])
    is_in = (ends[:, 1] <= truth) & (truth <= ends[:, 2])
    return {
        "truth": round(truth, 4),
        "mean": round(float(ends[:, 0].mean()), 4),
        "sd": round(float(ends[:, 0].std()), 4),
        "width": round(float(np.mean(ends[:, 2] - ends[:, 1])), 4),
        "coverage": round(float(is_in.mean()), 4),
    }


def measure(setting: Setting, n_runs: int) -> dict[str, Any]:
    """Run a setting with seeds 0 to n_runs - 1."""
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        runs = [one_run(setting, seed) for seed in range(n_runs)]
    found: dict[str, Any] = {}
    for name in setting.metrics:
        truth = float(np.mean([of.get(name, CHANCE[name]) for _, of in runs]))
        found[name] = {
            method: summary([scores[name][method] for scores, _ in runs], truth)
            for method in runs[0][0][name]
            if method != "difference" or not setting.signal
        }
        if not setting.signal:
            differences = [scores[name]["difference"] for scores, _ in runs]
            found[name]["difference"] = summary(differences, 0.0)
    return {"runs": n_runs, "seconds": round(time.perf_counter() - start), "metrics": found}


def rows_known() -> dict[str, float]:
    """Return the scores of the population of `draw_rows`."""
    return {"auc": float(norm.cdf(1 / np.sqrt(2))), "accuracy": float(norm.cdf(0.5)), "r2": 0.8}


def draw_rows(rng: np.random.Generator, n_groups: int, size: int) -> dict[str, tuple[Any, ...]]:
    """Draw groups of rows whose noise is half the group's, half the row's."""
    groups = np.repeat(np.arange(n_groups), size)

    def noise() -> np.ndarray:
        return (rng.normal(size=n_groups)[groups] + rng.normal(size=len(groups))) / np.sqrt(2)

    y = groups % 2
    positive = 1 / (1 + np.exp(0.5 - y - noise()))
    proba = np.column_stack([1 - positive, positive])
    predicted = 2 * noise()
    values = predicted + noise()
    return {
        "auc": (y, proba, groups),
        "accuracy": (y, proba, groups),
        "r2": (values, predicted, groups),
    }


def measure_rows(n_groups: int, size: int, n_runs: int) -> dict[str, Any]:
    """Count how often the bootstrap over groups, and over rows, contains the population's score."""
    start = time.perf_counter()
    found: dict[str, dict[str, list[Score]]] = {
        name: {"groups": [], "rows": []} for name in rows_known()
    }
    for seed in range(n_runs):
        drawn = draw_rows(np.random.default_rng(seed), n_groups, size)
        for name, (y, predicted, groups) in drawn.items():
            metric = METRICS[name]
            for method, drawn_by in (("groups", groups), ("rows", np.arange(len(y)))):
                found[name][method].append(score([metric], y, predicted, drawn_by)[name])
    truth = rows_known()
    return {
        "runs": n_runs,
        "seconds": round(time.perf_counter() - start),
        "metrics": {
            name: {method: summary(scores, truth[name]) for method, scores in by_method.items()}
            for name, by_method in found.items()
        },
    }


def as_markdown(record: dict[str, Any]) -> str:
    """Return the tables."""
    lines = ["# How often intervals hold what they promise", "", "By `benchmarks/coverage.py`."]
    titles = {
        "rows": "Independent groups of rows, population known: the bootstrap over groups, and "
        "(wrongly) over rows",
        "chance": "Cross-validated scores where there is nothing to learn: does the interval "
        "contain chance?",
        "signal": "Cross-validated scores where there is: does it contain the mean score of such "
        "models?",
    }
    for part, title in titles.items():
        lines += ["", f"## {title}", ""]
        lines += ["| data | metric | method | truth | mean | SD | mean width | coverage |"]
        lines += ["|---|---|---|---|---|---|---|---|"]
        for name, result in record[part].items():
            for metric, by_method in result["metrics"].items():
                for method, of in by_method.items():
                    cells = [f"{of[key]:.3f}" for key in ("truth", "mean", "sd", "width")]
                    share = f"{100 * of['coverage']:.1f}% of {result['runs']:,}"
                    lines.append(f"| {' | '.join([name, metric, method, *cells, share])} |")
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.option("--runs", default=1000, help="Of each setting, but the rows'.")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Parts to run.")
@click.option("--setting", multiple=True, help="Settings to run, by name.")
def main(runs: int, only: tuple[str, ...], setting: tuple[str, ...]) -> None:
    """Run the settings of the parts, and add each to the artifacts when it is done."""
    for part in only or PARTS:
        for name, run in jobs(part, runs).items():
            if not setting or name in setting:
                save(part, name, run())


def save(part: str, name: str, found: dict[str, Any]) -> None:
    """Put a setting into the artifacts, beside those that are there."""
    click.echo(f"{part}: {name} {json.dumps(found)}", err=True)
    path = ARTIFACTS / "coverage.json"
    record = json.loads(path.read_text()) if path.exists() else {}
    of_part = record.get(part, {}) | {name: found}
    record |= {each: record.get(each, {}) for each in PARTS}
    record[part] = {each: of_part[each] for each in jobs(part, 0) if each in of_part}
    record["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record["versions"] = {"python": platform.python_version()}
    record["versions"] |= {name: version(name) for name in LIBRARIES}
    path.write_text(json.dumps(record, indent=1) + "\n")
    path.with_suffix(".md").write_text(as_markdown(record))


def jobs(part: str, runs: int) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return what a part runs, by name."""
    if part == "rows":
        return {
            f"{n} groups of {size}": lambda n=n, size=size: measure_rows(n, size, N_ROWS_RUNS)
            for n, size in ((100, 1), (60, 5), (40, 3))
        }
    settings = NULL if part == "chance" else SIGNAL
    return {each.name: lambda each=each: measure(each, runs) for each in settings}


if __name__ == "__main__":
    main()
