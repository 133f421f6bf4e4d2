"""Show whether scores of tuned two-stage models can be believed.

    KERAS_HOME=... python benchmarks/leakage.py DATA [--repeats N] [--rows N] [--real/--no-real]

DATA holds the folder ham10000. Small on purpose, to be done within an hour on two cores:
MobileNetV2 0.35 with ImageNet weights at 96 pixels, a part of the rows, a few epochs.

- by hand: what people write. Keras' ``fit`` trains the top and then the CNN on all rows, its
  embeddings are extracted, and a logistic regression is cross-validated on them, by whole lesions
  even.
- none, and the modes of ``twostage fit --finetune``: the score is the one that the command prints.

Twice: with labels of pure noise, drawn per lesion, on which nothing can score other than 0.5; and
with the true ones, where the score that is reported is held against the AUC on lesions that were
held back from everything, by ``twostage predict``.

Results go to artifacts/leakage.json, .md and .png.
"""

import json
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
import pandas as pd
from click.testing import CliRunner
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from twostage.cli.main import main as twostage
from twostage.splits import holdout

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "keras", "tensorflow", "scikit-learn", "lightgbm", "numpy")
BACKBONE, ALPHA, SIZE_PX = "mobilenet_v2_035", 0.35, 96
N_EPOCHS_OF_TOP, EPOCHS, LEARNING_RATE, BATCH_SIZE = 5, 15, 1e-4, 32
BY_HAND = "by hand"
MODES = ("none", "holdout", "crossfit", "oof-scores")
COLUMNS = ["image", "lesion_id", "age", "sex", "site", "malignant"]


def by_hand(table: pd.DataFrame, held_back: pd.DataFrame, folder: Path) -> tuple[float, float]:
    """Tune on all rows, extract, cross-validate; return that AUC, and the one on other lesions."""
    import keras

    from twostage.images.decoding import decode

    def pixels(frame: pd.DataFrame) -> np.ndarray:
        return np.stack([decode((folder / name).read_bytes(), SIZE_PX)[0] for name in frame.image])

    base = keras.applications.MobileNetV2(
        alpha=ALPHA, include_top=False, pooling="avg", input_shape=(None, None, 3)
    )
    given = keras.Input((SIZE_PX, SIZE_PX, 3))
    embedding = base(keras.applications.mobilenet_v2.preprocess_input(given))
    model = keras.Model(given, keras.layers.Dense(1, activation="sigmoid")(embedding))
    x, y = pixels(table), table["malignant"].to_numpy()
    base.trainable = False
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=N_EPOCHS_OF_TOP, verbose=0)
    for layer in base.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "binary_crossentropy")
    model.fit(x, y, batch_size=BATCH_SIZE, epochs=EPOCHS, verbose=0)
    embed = keras.Model(given, embedding)
    features = embed.predict(x, verbose=0)
    head = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    proba = cross_val_predict(
        head, features, y, groups=table["lesion_id"], cv=GroupKFold(5), method="predict_proba"
    )
    on_others = head.fit(features, y).predict_proba(embed.predict(pixels(held_back), verbose=0))
    reported = float(roc_auc_score(y, proba[:, 1]))
    return reported, float(roc_auc_score(held_back["malignant"], on_others[:, 1]))


def run(*arguments: str) -> str:
    """Run a command and return what it prints."""
    result = CliRunner().invoke(twostage, list(arguments))
    if result.exit_code:
        raise click.ClickException(f"twostage {' '.join(arguments)}: {result.output}")
    return result.stdout


def by_twostage(
    mode: str, table: pd.DataFrame, held_back: pd.DataFrame, folder: Path, seed: int
) -> dict[str, float]:
    """Return the AUC that ``twostage fit`` reports, its interval, and the AUC on other lesions."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        table.to_csv(work / "table.csv", index=False)
        held_back.drop(columns="malignant").to_csv(work / "new.csv", index=False)
        tuning = ["--epochs", str(EPOCHS), "--lr", str(LEARNING_RATE), "--augment", "none"]
        tuning += ["--lr-decay", "1", "--patience", str(EPOCHS)]  # as strongly as by hand
        options = [] if mode == "none" else ["--finetune", mode, *tuning]
        summary = run(
            *("fit", "--images", str(folder), "--table", str(work / "table.csv")),
            *("--target", "malignant", "--image-col", "image", "--group", "lesion_id"),
            *("--backbone", BACKBONE, "--image-size", str(SIZE_PX), "--head", "linear"),
            *("--random-state", str(seed), "--quiet", "--json", "-o", str(work / "model")),
            *options,
        )
        auc = json.loads(summary)["holdout"]["scores"]["auc"]
        predictions = work / "predictions.csv"
        run(
            *("predict", str(work / "model"), "--table", str(work / "new.csv"), "--quiet"),
            *("--images", str(folder), "-o", str(predictions)),
        )
        proba = pd.read_csv(predictions)["proba_1"]
    on_others = float(roc_auc_score(held_back["malignant"], proba))
    return {"reported": auc["value"], "low": auc["low"], "high": auc["high"], "true": on_others}


def one_repeat(data: Path, n_rows: int, seed: int, is_noise: bool) -> dict[str, dict[str, float]]:
    """Return what each way reports, and the truth."""
    folder = data / "ham10000"
    table = pd.read_csv(folder / "table.csv")[COLUMNS]
    lesions = table["lesion_id"].drop_duplicates().sample(frac=1, random_state=seed)
    rng = np.random.default_rng(seed)
    if is_noise:
        label_of = pd.Series(rng.integers(0, 2, len(lesions)), index=lesions)
        table["malignant"] = table["lesion_id"].map(label_of)
    number = table["lesion_id"].map(pd.Series(np.arange(len(lesions)), index=lesions))
    table = table.loc[number.sort_values().index].iloc[:n_rows].reset_index(drop=True)
    groups = pd.factorize(table["lesion_id"])[0]
    kept, held = holdout(
        table["malignant"].to_numpy(),
        is_classification=True,
        groups=groups,
        fraction=0.25,
        random_state=seed,
    )
    rows, held_back = table.iloc[kept], table.iloc[held]
    reported, true = by_hand(rows, held_back, folder)
    found = {BY_HAND: {"reported": reported, "true": true}}
    for mode in MODES:
        found[mode] = by_twostage(mode, rows, held_back, folder, seed)
    return found


def mean_interval(values: list[float]) -> tuple[float, float]:
    """Return the mean and the half width of its 95% interval, by Student's t."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / np.sqrt(len(values))
    return float(np.mean(values)), float(half)


def as_markdown(record: dict[str, Any]) -> str:
    """Return the tables."""
    lines = [
        "# Whether scores of tuned two-stage models can be believed",
        "",
        f"By `benchmarks/leakage.py`: {record['rows']} rows of ham10000, a quarter of them held "
        f"back from everything by whole lesions; {BACKBONE} with ImageNet weights at {SIZE_PX} "
        f"pixels, {EPOCHS} epochs; {record['repeats']} repeats, means and half widths of 95% "
        "intervals.",
    ]
    for kind, title in (("noise", "Labels of pure noise"), ("real", "The true labels")):
        if kind not in record:
            continue
        lines += [
            "",
            f"## {title}",
            "",
            "| tuned | AUC reported | AUC on lesions held back | reported less true |",
            "|---|---|---|---|",
        ]
        for way in (BY_HAND, *MODES):
            runs = [repeat[way] for repeat in record[kind]]
            cells = [
                mean_interval([one["reported"] for one in runs]),
                mean_interval([one["true"] for one in runs]),
                mean_interval([one["reported"] - one["true"] for one in runs]),
            ]
            shown = " | ".join(f"{mean:.3f} ± {half:.3f}" for mean, half in cells)
            lines.append(f"| {way} | {shown} |")
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    seconds = f"{record['seconds'] / 60:.0f} minutes"
    return "\n".join([*lines, "", f"{seconds}; {record['machine']}; {made}.", ""])


def plot(record: dict[str, Any], file: Path) -> None:
    """Draw what is reported against what is true."""
    from matplotlib.figure import Figure

    kinds = [kind for kind in ("noise", "real") if kind in record]
    figure = Figure(figsize=(5 * len(kinds), 3.2), layout="constrained")
    for axes, kind in zip(np.atleast_1d(figure.subplots(1, len(kinds))), kinds, strict=True):
        for number, way in enumerate((BY_HAND, *MODES)):
            for what, colour, shift in (("reported", "#d55e00", 0.12), ("true", "#0072b2", -0.12)):
                values = [repeat[way][what] for repeat in record[kind]]
                mean, half = mean_interval(values)
                axes.errorbar(mean, number + shift, xerr=half, fmt="o", color=colour, capsize=3)
        if kind == "noise":
            axes.axvline(0.5, color="#777777", lw=0.8, ls=":")
        axes.set_yticks(range(len(MODES) + 1), [BY_HAND, *MODES])
        axes.invert_yaxis()
        axes.set(xlabel="AUC", title="pure noise" if kind == "noise" else "true labels")
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(
        handles=[
            figure.axes[0].plot([], [], "o", color=colour, label=label)[0]
            for label, colour in (("reported", "#d55e00"), ("on lesions held back", "#0072b2"))
        ],
        loc="outside lower center",
        ncols=2,
        frameon=False,
    )
    figure.savefig(file, dpi=120)


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--repeats", type=click.IntRange(2), default=4, show_default=True)
@click.option("--rows", type=click.IntRange(100), default=800, show_default=True)
@click.option("--real/--no-real", default=True)
def main(data: Path, repeats: int, rows: int, real: bool) -> None:
    """Hold what is reported against the truth."""
    started = time.perf_counter()
    record: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores",
        "versions": {name: version(name) for name in LIBRARIES},
        "rows": rows,
        "repeats": repeats,
    }
    for kind in ("noise", "real") if real else ("noise",):
        record[kind] = []
        for seed in range(repeats):
            found = one_repeat(data, rows, seed, is_noise=kind == "noise")
            record[kind].append(found)
            click.echo(f"{kind} {seed}: {found}")
    record["seconds"] = time.perf_counter() - started
    (ARTIFACTS / "leakage.json").write_text(json.dumps(record, indent=1) + "\n")
    (ARTIFACTS / "leakage.md").write_text(as_markdown(record))
    plot(record, ARTIFACTS / "leakage.png")
    click.echo(as_markdown(record))


if __name__ == "__main__":
    main()
