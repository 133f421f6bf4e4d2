"""Compare the joint head on texts and table with the table alone, and with words as it is usual.

    python benchmarks/text_columns.py DATA [--rows N] [--folds N] [-o FOLDER]

DATA holds the folder clothing_reviews, whose `recommended_ind` is predicted without `rating`, on
folds of whole garments. `twostage benchmark` fits the arms; TF-IDF of words and pairs of words with
a logistic regression, on both texts at once, is fitted here on the folds of that benchmark. Arms go
to -o, where a run that was ended goes on; results to artifacts/text_columns.json and .md.
"""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from twostage import benchmark
from twostage.intervals import FoldPrediction, cross_validated_difference, cross_validated_score
from twostage.metrics import METRICS
from twostage.table.roles import RoleOverrides

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "lightgbm", "keras", "tensorflow", "scikit-learn", "numpy")
TARGET, GROUP, TEXTS = "recommended_ind", "clothing_id", ("title", "review_text")
TABLE_ALONE, JOINT, TFIDF = "LightGBM, table", "joint, texts and table", "TF-IDF + logistic"
Folds = list[FoldPrediction]


def ours(
    table: pd.DataFrame, folder: Path, head: str, n_folds: int, *, has_texts: bool
) -> pd.DataFrame:
    """Return the out-of-fold predictions of a head, with or without the texts."""
    hidden = () if has_texts else TEXTS
    name = f"{head}-{'texts' if has_texts else 'table'}"
    benchmark(
        [],
        folder / name,
        table=table,
        target=TARGET,
        heads=[head],
        features=["table"],
        group=GROUP,
        roles=RoleOverrides(text=TEXTS if has_texts else (), ignore=hidden),
        metrics=["auc"],
        n_folds=n_folds,
        importance=False,
    )
    results = pd.read_parquet(folder / name / "results.parquet")
    found = pd.read_parquet(folder / name / "oof.parquet")
    return found.merge(results[["repeat", "fold", "n_train", "fit_seconds"]], on=["repeat", "fold"])


def usual(table: pd.DataFrame, folds: pd.DataFrame) -> pd.DataFrame:
    """Return out-of-fold predictions of TF-IDF and a logistic regression, on given folds."""
    texts = table[list(TEXTS)].fillna("").agg(" ".join, axis=1)
    found = folds.copy()
    for _, of_fold in folds.groupby("fold"):
        train = folds[folds["fold"] != of_fold["fold"].iloc[0]]["row"]
        words = TfidfVectorizer(
            ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode"
        )
        model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000))
        started = time.perf_counter()
        model.fit(texts.iloc[train], table[TARGET].iloc[train])
        found.loc[of_fold.index, "fit_seconds"] = time.perf_counter() - started
        proba = model.predict_proba(texts.iloc[of_fold["row"]])
        found.loc[of_fold.index, ["proba_0", "proba_1"]] = proba
    return found


def as_folds(found: pd.DataFrame, groups: pd.Series) -> Folds:
    """Return predictions as the intervals take them."""
    return [
        FoldPrediction(
            0,
            int(number),
            of_fold["y"].to_numpy(int),
            of_fold[["proba_0", "proba_1"]].to_numpy(float),
            groups.iloc[of_fold["row"]].to_numpy(),
            int(of_fold["n_train"].iloc[0]),
        )
        for number, of_fold in found.groupby("fold")
    ]


def compare(table: pd.DataFrame, folder: Path, n_folds: int) -> dict[str, Any]:
    """Return the scores of all arms, and how the joint head differs from each."""
    made = {
        TABLE_ALONE: ours(table, folder, "lightgbm", n_folds, has_texts=False),
        JOINT: ours(table, folder, "joint", n_folds, has_texts=True),
    }
    made[TFIDF] = usual(table, made[TABLE_ALONE])
    groups = pd.Series(pd.factorize(table[GROUP])[0])
    auc = METRICS["auc"]
    folds = {name: as_folds(found, groups) for name, found in made.items()}
    arms = {
        name: {
            **vars(cross_validated_score(auc, folds[name])),
            "fit_seconds": float(found.groupby("fold")["fit_seconds"].first().mean()),
        }
        for name, found in made.items()
    }
    differences = {
        name: vars(cross_validated_difference(auc, folds[JOINT], folds[name]))
        for name in made
        if name != JOINT
    }
    return {
        "rows": len(table),
        "groups": int(groups.nunique()),
        "folds": n_folds,
        "arms": arms,
        "joint_against": differences,
    }


def as_markdown(record: dict[str, Any]) -> str:
    """Return the arms as a table, and the differences as sentences."""
    lines = [
        "# Texts beside a table",
        "",
        "By `benchmarks/text_columns.py`: reviews of garments, is it recommended? AUC on "
        f"{record['rows']:,} rows in {record['folds']} stratified folds of whole garments "
        f"({record['groups']:,}); 95% intervals corrected for the dependence of folds. Seconds of "
        "a fit are of a busy machine.",
        "",
        "| arm | AUC | 95% interval | fit s |",
        "|---|---|---|---|",
    ]
    for name, arm in record["arms"].items():
        lines.append(
            f"| {name} | {arm['value']:.4f} | {arm['low']:.4f} to {arm['high']:.4f} | "
            f"{arm['fit_seconds']:.0f} |"
        )
    lines.append("")
    for name, score in record["joint_against"].items():
        lines.append(
            f"- {JOINT}, less {name}: {score['value']:+.4f} ({score['low']:+.4f} to "
            f"{score['high']:+.4f})"
        )
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--rows", type=click.IntRange(500), help="So many rows, by chance, in place of all.")
@click.option("--folds", default=5, show_default=True)
@click.option("-o", "--output", default="text-columns", type=click.Path(path_type=Path))
def main(data: Path, rows: int | None, folds: int, output: Path) -> None:
    """Compare arms on the reviews."""
    table = pd.read_csv(data / "clothing_reviews" / "table.csv").drop(columns="rating")
    if rows is not None:
        table = table.sample(rows, random_state=0).reset_index(drop=True)
    output.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):
        record = compare(table, output, folds)
    record["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record["versions"] = {name: version(name) for name in LIBRARIES}
    click.echo(as_markdown(record))
    if rows is None:
        file = ARTIFACTS / "text_columns.json"
        file.write_text(json.dumps(record, indent=1) + "\n")
        file.with_suffix(".md").write_text(as_markdown(record))


if __name__ == "__main__":
    main()
