"""Measure networks that follow sequences, their stripped encoders, and how metadata joins them.

    python benchmarks/sequences.py [DATA] [--repeats N] [--part NAME]...

Japanese vowels, if DATA holds that folder: which of nine speakers, from 7 to 29 steps of 12
channels, by the official split (270 rows train, 370 test).

- The joint head with each encoder of sequences, trained end to end.
- Heads on what describes each channel, without a network.
- Two stages: the branch of the joint network that follows the sequence is stripped, and what it
  makes of a sequence is a vector that LightGBM or a linear head learns from. A row's vector may
  not come from an encoder that has seen its label: "holdout" trains the encoder on half of the
  training rows, and the head learns from the other half; "crossfit" trains three encoders, each on
  all training rows but a fold, from which a head learns, and averages the predictions of the heads;
  "naive", to be compared with, trains both on all training rows. No test row is seen by anything.

Generated series, whose class depends on series and metadata together, drawn anew in each repeat:

- trend: whether the trend, turned round by a category, goes up;
- where: whether the level is high in that third of the series that a category names.

Each fusion, the series alone, the metadata alone, and LightGBM on both: accuracy on new rows, means
over the repeats with 95% intervals of Student's t, and paired differences.

Results go to artifacts/sequences.json and .md; those of parts that are not named stay.
"""

import json
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
import pandas as pd
from scipy import stats
from sklearn.model_selection import StratifiedKFold

from twostage import TwoStageClassifier, attach_sequences
from twostage.heads.joint import JointHead
from twostage.heads.network_training import outputs_of
from twostage.networks.builder import outputs_of_branch
from twostage.networks.fusion import CONCAT, FUSIONS
from twostage.networks.sequences import SEQUENCE_ENCODERS

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "keras", "tensorflow", "lightgbm", "scikit-learn", "numpy")
TARGET, SEEDS, N_FOLDS = "speaker", 2, 3
N_TRAIN, N_TEST, N_VOWELS_TESTED = 500, 1000, 370
HEADS = ("linear", "lightgbm")


def vowels(data: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the training and the test rows, with their sequences."""
    folder = data / "japanese_vowels"
    table, long = (pd.read_csv(folder / f"{name}.csv") for name in ("table", "sequences"))
    joined = attach_sequences(table, long, id="id", step="step")[["split", TARGET, "sequence"]]
    return tuple(
        joined[joined["split"] == part].drop(columns="split") for part in ("train", "test")
    )


def scored(train: pd.DataFrame, test: pd.DataFrame, target: str, **how: Any) -> dict[str, Any]:
    """Fit, and return the accuracy on test rows, what it took, and the model."""
    started = time.perf_counter()
    model = TwoStageClassifier(**how).fit(train.drop(columns=target), train[target])
    seconds = time.perf_counter() - started
    return {
        "accuracy": float(model.score(test.drop(columns=target), test[target])),
        "seconds": seconds,
        "model": model,
    }


class Stripped:
    """The branch of a fitted joint network that follows sequences."""

    def __init__(self, rows: pd.DataFrame, kind: str):
        from keras import Model, layers

        model = scored(rows, rows, TARGET, head=JointHead(sequence_encoder=kind))["model"]
        (self.member,) = model.model_.members
        network = self.member.head.network_
        vectors = outputs_of_branch(network, "sequence_0")
        self.network = Model(network.inputs, layers.Concatenate()(vectors))

    def embed(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows with the vectors of their sequences in place of those."""
        vectors = outputs_of(self.network, self.member.encoder.transform(rows, {}))
        return pd.DataFrame({TARGET: rows[TARGET].to_numpy(), "embedding": list(vectors)})


def two_stage(
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    train: pd.DataFrame,
    test: pd.DataFrame,
    kind: str,
) -> dict[str, float]:
    """Return the accuracy of each head on embeddings.

    Parameters
    ----------
    parts : sequence of (rows, rows)
        What an encoder is trained on, and what heads learn from; predictions are averaged.
    """
    proba: dict[str, list[np.ndarray]] = {head: [] for head in HEADS}
    for of_encoder, of_head in parts:
        encoder = Stripped(train.iloc[of_encoder], kind)
        seen, unseen = encoder.embed(train.iloc[of_head]), encoder.embed(test)
        for head in HEADS:
            model = TwoStageClassifier(head=head, vector=["embedding"])
            model.fit(seen[["embedding"]], seen[TARGET])
            proba[head].append(model.predict_proba(unseen[["embedding"]]))
    labels = np.unique(train[TARGET])
    truth = test[TARGET].to_numpy()
    return {
        head: float((labels[np.mean(found, axis=0).argmax(axis=1)] == truth).mean())
        for head, found in proba.items()
    }


def measure_described(train: pd.DataFrame, test: pd.DataFrame) -> dict[str, float]:
    """Return the accuracy of heads on what describes each channel."""
    heads = (*HEADS, "svm")
    return {head: scored(train, test, TARGET, head=head)["accuracy"] for head in heads}


def measure_encoder(train: pd.DataFrame, test: pd.DataFrame, kind: str) -> dict[str, Any]:
    """Measure an encoder of sequences, end to end and stripped."""
    everything = np.arange(len(train))
    folds, halves = (
        list(StratifiedKFold(n, shuffle=True, random_state=0).split(train, train[TARGET]))
        for n in (N_FOLDS, 2)
    )
    runs = [
        scored(train, test, TARGET, head=JointHead(sequence_encoder=kind), random_state=seed)
        for seed in range(SEEDS)
    ]
    modes = {"crossfit": folds, "holdout": halves[:1], "naive": [(everything, everything)]}
    return {
        "accuracy": [run["accuracy"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
        "stripped": {mode: two_stage(parts, train, test, kind) for mode, parts in modes.items()},
    }


def trend(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return series whose trend, turned round by a category, is the class."""
    up, is_mirrored = rng.choice([-1, 1], n), rng.choice([False, True], n)
    series = [
        rng.normal() + sign * np.linspace(-0.7, 0.7, k) + rng.normal(0, 0.7, k)
        for sign, k in zip(up, rng.integers(8, 25, n), strict=True)
    ]
    kind = np.where(is_mirrored, "mirrored", "plain")
    y = np.where(is_mirrored, -up, up) > 0
    return pd.DataFrame({"kind": kind, "series": series, "y": np.where(y, "up", "down")})


def where(n: int, rng: np.random.Generator) -> pd.DataFrame:
    """Return series whose level in the third that a category names is the class."""
    thirds = rng.choice([-1, 1], (n, 3))
    third = rng.integers(0, 3, n)
    series = [
        np.repeat(levels, k) + rng.normal(0, 0.7, 3 * k)
        for levels, k in zip(thirds, rng.integers(3, 9, n), strict=True)
    ]
    y = np.where(thirds[np.arange(n), third] > 0, "high", "low")
    names = np.array(["early", "middle", "late"])
    return pd.DataFrame({"third": names[third], "series": series, "y": y})


TASKS = {"trend": trend, "where": where}
DESCRIBED = "described"
PARTS = (*TASKS, DESCRIBED, *SEQUENCE_ENCODERS)


def arms_of(table: pd.DataFrame) -> dict[str, tuple[list[str], Any]]:
    """Return, by arm, the columns it sees and its head."""
    (category,) = set(table.columns) - {"series", "y"}

    def head(fusion: str = CONCAT) -> JointHead:
        return JointHead(fusion=fusion, sequence_encoder="gru", sequence_units=32, n_members=1)

    return {
        "series alone": (["series"], head()),
        "metadata alone": ([category], head()),
        **{fusion: (["series", category], head(fusion)) for fusion in FUSIONS},
        "LightGBM, both": (["series", category], "lightgbm"),
    }


def measure_task(make: Callable[..., pd.DataFrame], n_repeats: int) -> pd.DataFrame:
    """Return the accuracy of each arm (columns) in each repeat (rows)."""
    found = []
    for repeat in range(n_repeats):
        rng = np.random.default_rng(repeat)
        train, test = make(N_TRAIN, rng), make(N_TEST, rng)
        scores = {}
        for arm, (columns, head) in arms_of(train).items():
            used = [*columns, "y"]
            sequence = ["series"] if "series" in columns else []
            how = {"head": head, "sequence": sequence, "random_state": repeat}
            scores[arm] = scored(train[used], test[used], "y", **how)["accuracy"]
        found.append(scores)
    return pd.DataFrame(found)


def interval(values: Any) -> dict[str, float]:
    """Return the mean of independent values, with its interval."""
    values = np.asarray(values, np.float64)
    reach = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    mean = float(values.mean())
    return {"value": mean, "low": mean - float(reach), "high": mean + float(reach)}


def _within_one(found: dict[str, float]) -> dict[str, float]:
    return found | {"low": max(0.0, found["low"]), "high": min(1.0, found["high"])}


def compared(scores: pd.DataFrame) -> dict[str, Any]:
    """Return means by arm, and paired differences of each fusion to the others."""
    differences = {}
    for fusion in FUSIONS:
        for other in scores.columns:
            if other != fusion:
                difference = interval(scores[fusion] - scores[other])
                differences[f"{fusion} - {other}"] = difference
    return {
        "scores": scores.to_dict("list"),
        "means": {arm: _within_one(interval(scores[arm])) for arm in scores.columns},
        "differences": differences,
    }


def _of_rows(accuracy: float, n: int) -> str:
    exact = stats.binomtest(round(accuracy * n), n).proportion_ci(method="wilson")
    return f"{accuracy:.4f} ({exact.low:.4f} to {exact.high:.4f})"


def _vowels_lines(found: dict[str, Any], n: int) -> list[str]:
    lines = [
        "",
        f"## Japanese vowels: accuracy on the official {n} test rows",
        "",
        f"270 training rows, nine speakers. In brackets the 95% interval (Wilson) of {n} rows; of "
        f"{SEEDS} seeds the mean, and each.",
        "",
        "| arm | accuracy | |",
        "|---|---|---|",
    ]
    for head, accuracy in found.get("described", {}).items():
        lines.append(f"| {head} on what describes each channel | {_of_rows(accuracy, n)} | |")
    for kind in (kind for kind in SEQUENCE_ENCODERS if kind in found):
        runs = found[kind]
        each = ", ".join(f"{value:.4f}" for value in runs["accuracy"])
        joint = float(np.mean(runs["accuracy"]))
        lines.append(f"| joint head, {kind} | {_of_rows(joint, n)} | {each} |")
        for mode, heads in runs["stripped"].items():
            for head, accuracy in heads.items():
                arm = f"{kind} stripped, {mode}, {head}"
                beside = f"{accuracy - joint:+.4f} beside the joint head"
                lines.append(f"| {arm} | {_of_rows(accuracy, n)} | {beside} |")
    return lines


def _task_lines(name: str, found: dict[str, Any]) -> list[str]:
    def shown(one: dict[str, float]) -> str:
        return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"

    return [
        "",
        f"## Generated: {name}",
        "",
        f"{N_TRAIN:,} training and {N_TEST:,} test rows, {found['n_repeats']} repeats, "
        "95% intervals; GRU of 32 units.",
        "",
        "| arm | accuracy |",
        "|---|---|",
        *(f"| {arm} | {shown(one)} |" for arm, one in found["means"].items()),
        "",
        "| paired difference | |",
        "|---|---|",
        *(f"| {pair} | {shown(one)} |" for pair, one in found["differences"].items()),
    ]


def _machine() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": int(joblib.cpu_count()),
        **{name: version(name) for name in LIBRARIES},
    }


def _kept() -> dict[str, Any]:
    file = ARTIFACTS / "sequences.json"
    return json.loads(file.read_text()) if file.is_file() else {}


@click.command(help=__doc__.splitlines()[0])
@click.argument("data", type=click.Path(exists=True, path_type=Path), required=False)
@click.option("--repeats", type=click.IntRange(2), default=5, show_default=True)
@click.option("--part", "parts", type=click.Choice(PARTS), multiple=True, default=PARTS)
def main(data: Path | None, repeats: int, parts: Sequence[str]) -> None:
    warnings.filterwarnings("ignore", message="Column .* is left out")
    train, test = vowels(data) if data else (None, None)
    for part in parts:
        if part in TASKS:
            found = compared(measure_task(TASKS[part], repeats)) | {"n_repeats": repeats}
        elif train is None:
            continue
        elif part == DESCRIBED:
            found = measure_described(train, test)
        else:
            found = measure_encoder(train, test, part)
        click.echo(f"{part}: {found}", err=True)
        write(_kept() | {part: found, "machine": _machine()})


def write(record: dict[str, Any]) -> None:
    """Write what was found, as JSON and in words."""
    lines = ["# Sequences", "", "By `benchmarks/sequences.py`, which says how."]
    lines += _vowels_lines(record, N_VOWELS_TESTED)
    for name in (name for name in TASKS if name in record):
        lines += _task_lines(name, record[name])
    machine = ", ".join(f"{name} {value}" for name, value in record["machine"].items())
    lines += ["", f"Machine: {machine}."]
    (ARTIFACTS / "sequences.json").write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "sequences.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
