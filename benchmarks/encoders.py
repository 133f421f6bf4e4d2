"""Measure encoders of texts and sequences, in stores, beside networks and words as it is usual.

    python benchmarks/encoders.py DATA [--part vowels|reviews] [--rows N] [-o FOLDER]

Reviews of garments, `recommended_ind` without `rating`: a fifth of the rows, whole garments, is
tested. Of the others an encoder learns from half, by `twostage.train_encoder`, and heads from the
other half, embedded by it: nothing that is scored, and nothing that a head learns from, was seen.

Japanese vowels, by the official split: "holdout" trains the encoder on half of the training rows
and the head on the others; "crossfit" does that for three folds, each with an encoder trained on
the rows outside of it, and averages the heads' predictions.

Stores and encoders go to -o; results to artifacts/encoders.json and .md.
"""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import joblib
import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline

from twostage import (
    EmbeddingStore,
    TwoStageClassifier,
    attach_sequences,
    extract_values,
    train_encoder,
)
from twostage.encoders.values import names_of, references_to
from twostage.metrics import score_classification
from twostage.splits import holdout

ARTIFACTS = Path(__file__).parents[1] / "artifacts"
LIBRARIES = ("twostage", "lightgbm", "keras", "tensorflow", "scikit-learn", "numpy")
HEADS = ("linear", "lightgbm")


def embedded(
    values: pd.Series, kind: str, encoder: Path, store: Path
) -> tuple[np.ndarray, dict[str, float]]:
    """Return the embeddings of a column from a store, and what making it took, twice."""
    seconds = {}
    for run in ("first", "second"):
        started = time.perf_counter()
        made = extract_values(values, store, kind=kind, backbone=encoder)
        seconds[run] = time.perf_counter() - started
        if run == "second" and made.n_computed:
            raise RuntimeError(f"The second run computed {made.n_computed} embeddings.")
    (names,) = zip(*names_of(references_to(values, kind)), strict=True)
    return EmbeddingStore(store).embeddings(names), seconds


def proba_of(head: str, train: pd.DataFrame, y: pd.Series, test: pd.DataFrame) -> np.ndarray:
    """Return what a head on given columns says of test rows; vectors are in a column of theirs."""
    vectors = [name for name in ("embedding",) if name in train.columns]
    model = TwoStageClassifier(head=head, vector=vectors).fit(train, y)
    return np.asarray(model.predict_proba(test))


def tfidf(train: pd.Series, y: pd.Series, test: pd.Series) -> np.ndarray:
    """Return what TF-IDF of words and pairs of words with a logistic regression says."""
    words = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, strip_accents="unicode"
    )
    model = make_pipeline(words, LogisticRegression(C=10, max_iter=1000)).fit(train, y)
    return np.asarray(model.predict_proba(test))


def measure_reviews(data: Path, folder: Path, n_rows: int | None) -> dict[str, Any]:
    """Score an encoder of reviews with heads, and what else there is, on the same test rows."""
    table = pd.read_csv(data / "clothing_reviews" / "table.csv").drop(columns="rating")
    if n_rows is not None:
        table = table.sample(n_rows, random_state=0).reset_index(drop=True)
    table["text"] = table.pop("title").fillna("") + ". " + table.pop("review_text").fillna("")
    y = table["recommended_ind"]
    garments = pd.factorize(table["clothing_id"])[0]
    train, test = holdout(y.to_numpy(), is_classification=True, groups=garments)
    told = train_encoder(
        folder / "reviews",
        table=table.iloc[train],
        target="recommended_ind",
        text="text",
        group="clothing_id",
    )
    vectors, seconds = embedded(table["text"], "text", folder / "reviews", folder / "review-store")
    seen = EmbeddingStore(folder / "review-store").seen
    hashes = names_of(references_to(table["text"], "text"))
    is_seen = seen.has_seen(hashes, table["clothing_id"])
    rest = train[~is_seen[train]]
    unseen_test = test[~is_seen[test]]  # a garment has one side; a review may be there twice
    columns = table.drop(columns=["recommended_ind", "text", "clothing_id"])
    with_vectors = columns.assign(embedding=list(vectors))
    alone = with_vectors[["embedding"]]
    parts = (rest, y.iloc[rest], unseen_test)

    def by(head: str, of: pd.DataFrame, learned: np.ndarray = rest) -> np.ndarray:
        return proba_of(head, of.iloc[learned], y.iloc[learned], of.iloc[unseen_test])

    text = table[["text"]]
    predicted = {
        "table, LightGBM, all training rows": by("lightgbm", columns, train),
        "TF-IDF + logistic, all training rows": tfidf(
            text["text"].iloc[train], y.iloc[train], text["text"].iloc[unseen_test]
        ),
        "TF-IDF + logistic, the heads' half": tfidf(
            text["text"].iloc[rest], y.iloc[rest], text["text"].iloc[unseen_test]
        ),
        "joint head on the text, all training rows": by("joint", text, train),
        **{f"encoder's store, {head}": by(head, alone) for head in HEADS},
        **{f"encoder's store and table, {head}": by(head, with_vectors) for head in HEADS},
    }
    truth, groups = y.iloc[parts[2]].to_numpy(), garments[parts[2]]
    return {
        "rows": len(table),
        "n_encoder": told.n_trained,
        "n_heads": len(rest),
        "n_test": len(unseen_test),
        "dim": told.dim,
        "seconds_of_training": told.seconds,
        "seconds_of_extraction": seconds,
        "auc_of_its_network_on_rows_held_back": told.score,
        "auc": {
            name: vars(score_classification(truth, proba, groups, 0)["auc"])
            for name, proba in predicted.items()
        },
    }


def measure_vowels(data: Path, folder: Path) -> dict[str, Any]:
    """Return the accuracy of heads on what encoders of sequences make of the vowels."""
    given = data / "japanese_vowels"
    table, long = (pd.read_csv(given / f"{name}.csv") for name in ("table", "sequences"))
    rows = attach_sequences(table, long, id="id", step="step")
    is_train = (rows["split"] == "train").to_numpy()
    train, test = rows[is_train].reset_index(drop=True), rows[~is_train].reset_index(drop=True)
    y = train["speaker"]
    found: dict[str, Any] = {}
    for kind in ("lstm", "gru", "cnn"):
        found[kind] = {}
        for name, n_folds in (("holdout", 2), ("crossfit", 3)):
            cuts = list(StratifiedKFold(n_folds, shuffle=True, random_state=0).split(train, y))
            proba: dict[str, list[np.ndarray]] = {head: [] for head in HEADS}
            for number, (taught, rest) in enumerate(cuts[:1] if name == "holdout" else cuts):
                encoder = folder / f"vowels-{kind}-{name}-{number}"
                train_encoder(
                    encoder,
                    table=train.iloc[taught],
                    target="speaker",
                    sequence="sequence",
                    holdout=0,
                    sequence_encoder=kind,
                )
                both = pd.concat([train["sequence"].iloc[rest], test["sequence"]])
                store = encoder.with_name(f"{encoder.name}-store")
                vectors, _ = embedded(both, "sequence", encoder, store)
                frame = pd.DataFrame({"embedding": list(vectors)})
                for head in HEADS:
                    learned, tested = frame.iloc[: len(rest)], frame.iloc[len(rest) :]
                    proba[head].append(proba_of(head, learned, y.iloc[rest], tested))
            labels, truth = np.unique(y), test["speaker"].to_numpy()
            found[kind][name] = {
                head: float((labels[np.mean(said, axis=0).argmax(axis=1)] == truth).mean())
                for head, said in proba.items()
            }
    return {"n_train": len(train), "n_test": len(test), "accuracy": found}


def lines_of_reviews(reviews: dict[str, Any]) -> list[str]:
    """Return what was measured on reviews as sentences and a table."""
    seconds = reviews["seconds_of_extraction"]
    lines = [
        f"Reviews of garments, is it recommended? {reviews['rows']:,} rows; AUC on "
        f"{reviews['n_test']:,} of them, of other garments, with 95% intervals by a bootstrap over "
        f"garments. The encoder learned from {reviews['n_encoder']:,} rows, heads on its store "
        f"from {reviews['n_heads']:,} others. Its training took "
        f"{reviews['seconds_of_training']:.0f} s, the store {seconds['first']:.0f} s, a second "
        f"run, with nothing to do, {seconds['second']:.1f} s. The network that it was stripped "
        f"from had an AUC of {reviews['auc_of_its_network_on_rows_held_back']:.4f} on the training "
        "rows held back.",
        "",
        "| learned from | AUC | 95% interval |",
        "|---|---|---|",
    ]
    for name, score in reviews["auc"].items():
        lines.append(
            f"| {name} | {score['value']:.4f} | {score['low']:.4f} to {score['high']:.4f} |"
        )
    return lines


def lines_of_vowels(vowels: dict[str, Any]) -> list[str]:
    """Return what was measured on vowels as a sentence and a table."""
    lines = [
        f"Japanese vowels, official split, {vowels['n_train']} rows train, {vowels['n_test']} "
        "test: accuracy of heads on stores of encoders. No head learned from a row that its "
        "encoder saw.",
        "",
        "| encoder | cut | linear | LightGBM |",
        "|---|---|---|---|",
    ]
    for kind, by_cut in vowels["accuracy"].items():
        for cut, found in by_cut.items():
            lines.append(f"| {kind} | {cut} | {found['linear']:.3f} | {found['lightgbm']:.3f} |")
    return lines


def as_markdown(record: dict[str, Any]) -> str:
    """Return what was measured as a page."""
    lines = ["# Encoders of texts and sequences, in stores", ""]
    lines += ["By `benchmarks/encoders.py`. Seconds are of a busy machine."]
    for part, lines_of in (("reviews", lines_of_reviews), ("vowels", lines_of_vowels)):
        lines += ["", *lines_of(record[part])] if part in record else []
    made = ", ".join(f"{name} {found}" for name, found in record["versions"].items())
    return "\n".join([*lines, "", f"{record['machine']}; {made}.", ""])


@click.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--part", type=click.Choice(["vowels", "reviews"]), help="This one alone.")
@click.option("--rows", type=click.IntRange(500), help="So many reviews, by chance, not all.")
@click.option("-o", "--output", default="encoders", type=click.Path(path_type=Path))
def main(data: Path, part: str | None, rows: int | None, output: Path) -> None:
    """Measure encoders of reviews and vowels."""
    output.mkdir(parents=True, exist_ok=True)
    file = ARTIFACTS / "encoders.json"
    record: dict[str, Any] = json.loads(file.read_text()) if file.is_file() and part else {}
    if part != "reviews":
        record["vowels"] = measure_vowels(data, output)
    if part != "vowels":
        record["reviews"] = measure_reviews(data, output, rows)
    record["machine"] = f"{platform.system()} {platform.machine()}, {joblib.cpu_count()} cores"
    record["versions"] = {name: version(name) for name in LIBRARIES}
    click.echo(as_markdown(record))
    if rows is None:
        file.write_text(json.dumps(record, indent=1) + "\n")
        file.with_suffix(".md").write_text(as_markdown(record))


if __name__ == "__main__":
    main()
