"""Texts and sequences through stage one: encoders that know what they have seen, and stores."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

from twostage.cli.main import main
from twostage.encoders import lazy
from twostage.encoders.folder import find_encoder, open_encoder
from twostage.encoders.lazy import EncoderEngine
from twostage.encoders.values import bytes_of, references_to, value_of
from twostage.errors import BackboneError, DataError, StoreError, TwoStageError, UsageError
from twostage.estimator import TwoStageClassifier, load_model
from twostage.extraction import extract, extract_values
from twostage.fingerprint import hash_bytes
from twostage.pretraining import EncoderSummary, train_encoder
from twostage.seen import as_text
from twostage.sources import blocks_from_store
from twostage.store.store import EmbeddingStore

N = 120
SMALL = {"word_units": 4, "sequence_units": 4, "units": 4, "max_epochs": 4, "batch_size": 32}
KINDS = ("text", "sequence")


def make_table(n: int = N, seed: int = 0) -> pd.DataFrame:
    """Return rows whose text and whose sequence tell their label; people have two rows each."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 2, n)
    words = [["awful", "poor", "bad"], ["lovely", "fine", "good"]]
    return pd.DataFrame(
        {
            "text": [
                f"{rng.choice(words[k])} {rng.choice(words[k])} dress {i % 90}"
                for i, k in enumerate(label)
            ],
            "sequence": [rng.normal(3.0 * k, 1.0, (rng.integers(1, 6), 2)) for k in label],
            "person": np.arange(n) // 2,
            "size": rng.normal(size=n),
            "label": np.where(label, "yes", "no"),
        }
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return make_table()


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def trained(
    kind: str, table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, EncoderSummary]:
    """Return an encoder of the kind, and what was said of its training."""
    folder = tmp_path_factory.mktemp("encoders") / kind
    named: dict[str, Any] = {kind: kind, "group": "person"}
    return folder, train_encoder(folder, table=table, target="label", **named, **SMALL)


@pytest.fixture(scope="module")
def encoder(trained: tuple[Path, EncoderSummary]) -> Path:
    return trained[0]


@pytest.fixture
def shards_of_20(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twostage.store.planning.SHARD_SIZE", 20)


@pytest.fixture
def made(kind: str, encoder: Path, table: pd.DataFrame, tmp_path: Path) -> EmbeddingStore:
    """Return a store of the table's column."""
    extract_values(table[kind], tmp_path / "made", kind=kind, backbone=encoder)
    return EmbeddingStore(tmp_path / "made")


def hashes(table: pd.DataFrame, kind: str) -> list[str]:
    return [str(ref.image) for ref in references_to(table[kind], kind) if ref is not None]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    return result.stdout + result.stderr


def test_an_encoder_remembers_by_whole_groups_what_it_has_seen(
    kind: str, trained: tuple[Path, EncoderSummary], table: pd.DataFrame
) -> None:
    folder, summary = trained
    seen = open_encoder(folder).seen()
    of_rows = [[one] for one in hashes(table, kind)]
    is_seen = seen.has_seen(of_rows)
    assert summary.n_trained + summary.n_held_back == N
    assert is_seen.sum() == summary.n_trained
    assert 0.4 * N <= summary.n_trained <= 0.6 * N
    assert seen.groups == {as_text(person) for person in table["person"][is_seen]}
    assert not seen.groups & {as_text(person) for person in table["person"][~is_seen]}
    assert summary.score is not None
    assert summary.score > 0.9


def test_a_store_of_values_is_what_its_encoder_says_of_each(
    kind: str, encoder: Path, made: EmbeddingStore, table: pd.DataFrame
) -> None:
    found = open_encoder(encoder)
    engine = EncoderEngine(found, found.spec, "cpu:0", 7)
    values = np.empty(N, object)
    values[:] = list(table[kind])
    (expected,) = engine.run([values])
    names = hashes(table, kind)
    np.testing.assert_allclose(made.embeddings(names), expected, atol=1e-5)
    assert len(made) == len(set(names))
    frame = made.to_pandas()
    assert (frame["image"] == frame["content_hash"]).all()
    assert set(frame["image"][frame["seen"]]) == found.seen().content_hashes
    assert made.verify() == []


def test_a_second_run_computes_nothing_and_opens_no_network(
    kind: str, encoder: Path, table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract_values(table[kind], tmp_path / "store", kind=kind, backbone=encoder)
    monkeypatch.setattr("twostage.encoders.lazy.LazyEncoder.get", lambda *_: 1 / 0)
    again = extract_values(table[kind], tmp_path / "store", kind=kind)
    n = len(set(hashes(table, kind)))
    assert (again.n_computed, again.n_unchanged, again.kind) == (0, n, kind)


@pytest.mark.usefixtures("shards_of_20")
def test_a_killed_extraction_goes_on_to_an_equal_store(
    kind: str,
    encoder: Path,
    made: EmbeddingStore,
    table: pd.DataFrame,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    embed, n_done = EncoderEngine._embed, 0

    def embed_some(engine: EncoderEngine, values: np.ndarray) -> np.ndarray:
        nonlocal n_done
        n_done += len(values)
        if n_done > 60:
            raise KeyboardInterrupt
        return embed(engine, values)

    def go(store: Path) -> Any:
        return extract_values(table[kind], store, kind=kind, backbone=encoder, batch_size=16)

    with monkeypatch.context() as patch:
        patch.setattr(EncoderEngine, "_embed", embed_some)
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "killed")
    n_kept = len(EmbeddingStore(tmp_path / "killed"))
    assert n_kept == 40
    assert go(tmp_path / "killed").n_unchanged == n_kept
    go(tmp_path / "undisturbed")
    killed, undisturbed = (
        EmbeddingStore(tmp_path / name).to_pandas() for name in ("killed", "undisturbed")
    )
    assert killed.equals(undisturbed)


def test_rows_without_anything_have_no_embedding_and_stay_in_place(
    kind: str, encoder: Path, table: pd.DataFrame, tmp_path: Path
) -> None:
    frame = table.head(6).copy()
    nothing: list[Any] = [None, "  "] if kind == "text" else [None, []]
    frame[kind] = [*nothing, *frame[kind][2:]]
    if kind == "text":
        frame.loc[2, kind] = "!?"
    extract_values(frame[kind], tmp_path / "store", kind=kind, backbone=encoder)
    store = EmbeddingStore(tmp_path / "store")
    blocks, _ = blocks_from_store(frame, [kind], store)
    block = blocks[kind]
    n_blind = 3 if kind == "text" else 2
    assert block.n_images.tolist() == [0] * n_blind + [1] * (6 - n_blind)
    assert np.isnan(block.matrix[:n_blind]).all()
    assert np.isfinite(block.matrix[n_blind:]).all()
    assert block.errors[:2] == [None, None]
    if kind == "text":
        assert str(block.errors[2]).endswith("decode: it has no words")
        assert EmbeddingStore(tmp_path / "store").verify() == []


def test_a_column_without_anything_is_refused(kind: str, encoder: Path, tmp_path: Path) -> None:
    message = "There is no text to embed" if kind == "text" else "holds no sequence of any step"
    with pytest.raises(TwoStageError, match=message):
        extract_values(pd.Series([None, None], name="c"), tmp_path / "s", kind=kind)


def test_a_model_leaves_seen_rows_out_and_predicts_with_and_without_the_store(
    kind: str, encoder: Path, made: EmbeddingStore, table: pd.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "table.parquet"
    table.assign(sequence=[one.tolist() for one in table["sequence"]]).to_parquet(file)
    other = "sequence" if kind == "text" else "text"
    columns = ("--table", file, f"--{kind}", kind, "--ignore", other, "--group", "person")
    how = ("--target", "label", "--head", "linear", "-o", tmp_path / "model")
    fitted = run("fit", made.path, *columns, *how)
    assert fitted.exit_code == 0, said(fitted)
    n_seen = int(open_encoder(encoder).seen().has_seen([[h] for h in hashes(table, kind)]).sum())
    assert f"Left out: {n_seen} rows that the tuned backbone has seen" in fitted.stdout
    assert f"{kind.capitalize()} column '{kind}': {made.dim} numbers from {kind}." in fitted.stdout
    record = json.loads((tmp_path / "model" / "model.json").read_text())
    assert record["n_rows"] == N - n_seen

    predict = ("predict", tmp_path / "model", "--table", file, "-o")
    assert run(*predict, tmp_path / "a.csv").exit_code == 0
    assert run(*predict, tmp_path / "b.csv", "--store", made.path).exit_code == 0
    a, b = (pd.read_csv(tmp_path / f"{name}.csv") for name in "ab")
    assert list(a) == ["person", "prediction", "proba_no", "proba_yes", "n_images", "error"]
    pd.testing.assert_frame_equal(a, b)
    assert (a["prediction"] == table["label"]).mean() > 0.9

    fresh = make_table(40, seed=1)
    fresh["text"] += " and"
    fresh["person"] += 1000
    new = pd.concat([table, fresh], ignore_index=True)
    new.assign(sequence=[one.tolist() for one in new["sequence"]]).to_parquet(file)
    found = run("evaluate", tmp_path / "model", "--table", file)
    assert found.exit_code == 0, said(found)
    assert f"Left out: {N:,} of {N + 40} rows" in found.stdout
    assert f"{n_seen} that its tuned backbone has seen" in found.stdout
    loaded = load_model(tmp_path / "model")
    assert (loaded.predict(fresh) == fresh["label"]).mean() > 0.9


@pytest.mark.slow
def test_an_estimator_embeds_columns_by_an_encoder(
    kind: str, encoder: Path, table: pd.DataFrame
) -> None:
    columns = table[[kind, "size"]]
    model = TwoStageClassifier(kind, "linear", backbone=str(encoder))
    with pytest.warns(UserWarning, match="had been seen by the tuned backbone"):
        model.fit(columns, table["label"])
    fresh = make_table(40, seed=1)
    assert model.score(fresh[[kind, "size"]], fresh["label"]) > 0.9
    with pytest.raises(UsageError, match=f"the backbone is an encoder of {kind}s"):
        model.set_params(finetune="holdout").fit(columns, table["label"])


@pytest.mark.slow
def test_a_benchmark_compares_the_column_with_the_table(
    kind: str, made: EmbeddingStore, table: pd.DataFrame, tmp_path: Path
) -> None:
    file = tmp_path / "table.parquet"
    table.assign(sequence=[one.tolist() for one in table["sequence"]]).to_parquet(file)
    other = "sequence" if kind == "text" else "text"
    found = run(
        *("benchmark", made.path, "--table", file, "--target", "label", f"--{kind}", kind),
        *("--ignore", other, "--ignore", "person", "--heads", "linear", "--folds", 2),
        *("--no-importance", "--n-jobs", 1, "-o", tmp_path / "results"),
    )
    assert found.exit_code == 0, said(found)
    assert "that a tuned backbone has seen" in found.stdout
    scores = dict(re.findall(r"^linear, (\w+) +([01]\.\d+) ", found.stdout, re.MULTILINE))
    assert f"With linear, {kind}s add" in found.stdout
    assert float(scores["images"]) > 0.9 > float(scores["table"])


@pytest.mark.slow
def test_another_encoder_and_another_kind_are_refused(
    kind: str, encoder: Path, made: EmbeddingStore, table: pd.DataFrame, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    named: dict[str, Any] = {kind: kind, "random_state": 1}
    train_encoder(again, table=table, target="label", **named, **SMALL)
    with pytest.raises(StoreError, match=r"made by another encoder: weights_digest is"):
        extract_values(table[kind], made.path, kind=kind, backbone=again)
    other = "sequence" if kind == "text" else "text"
    with pytest.raises(StoreError, match=f"holds embeddings of {kind}s, and {other}s are to be"):
        extract_values(table[other], made.path, kind=other)
    with pytest.raises(UsageError, match=f"is an encoder of {kind}s, and {other}s are to be"):
        extract_values(table[other], tmp_path / "store", kind=other, backbone=encoder)
    with pytest.raises(UsageError, match=f"A new store of {kind}s needs --backbone ENCODER"):
        extract_values(table[kind], tmp_path / "store", kind=kind)
    assert not (tmp_path / "store").exists()


def test_a_store_of_values_is_told_from_one_of_images(
    kind: str, encoder: Path, made: EmbeddingStore, photos: Path, tmp_path: Path, fake_backbone: Any
) -> None:
    images = tmp_path / "images"
    extract(photos, images)
    with pytest.raises(StoreError, match="holds embeddings of images, and texts are to be"):
        extract_values(pd.Series(["a word"]), images)
    with pytest.raises(StoreError, match=f"holds embeddings of {kind}s, and images are to be"):
        extract(photos, made.path)
    with pytest.raises(UsageError, match=r"is an encoder of texts or sequences, and images are"):
        extract(photos, tmp_path / "other", backbone=encoder)
    file = tmp_path / "table.csv"
    pd.DataFrame({kind: ["a"], "y": [1]}).to_csv(file, index=False)
    asked = ("--table", file, "--target", "y", "-o", tmp_path / "model")
    for store, columns, message in (
        (images, ("--text", kind), "holds embeddings of images; those of texts are made by"),
        (made.path, ("--image-col", kind), f"holds embeddings of {kind}s, not of images."),
        (made.path, (), f"holds embeddings of {kind}s. Give --{kind}, the table's column"),
    ):
        result = run("fit", store, *asked, *columns)
        assert result.exit_code == 2, said(result)
        assert message in result.stderr
    result = run("benchmark", images, made.path, *asked, "--image-col", kind)
    assert "The stores are of different kinds" in result.stderr


def test_what_the_store_does_not_hold_is_named(
    kind: str, made: EmbeddingStore, tmp_path: Path
) -> None:
    fresh = make_table(4, seed=2)
    fresh["text"] += " new"
    with pytest.raises(DataError, match=rf"4 of 4 rows of column '{kind}' hold a {kind} that the"):
        blocks_from_store(fresh, [kind], made)


def test_a_damaged_encoder_is_refused(kind: str, encoder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in encoder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    inputs = next(copy.glob("words.json" if kind == "text" else "steps.json"))
    inputs.write_text(inputs.read_text() + " ")
    with pytest.raises(BackboneError, match=r"\.json' is not the one that was written"):
        open_encoder(copy).inputs()
    (copy / "seen.parquet").unlink()
    assert not open_encoder(copy).seen().is_known
    (copy / "encoder.json").write_text("{}")
    with pytest.raises(BackboneError, match=r"encoder\.json' can't be read"):
        find_encoder(copy)
    with pytest.raises(UsageError, match="is no encoder of texts or sequences"):
        open_encoder(tmp_path)


@pytest.mark.slow
def test_commands_train_and_extract(kind: str, table: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "table.parquet"
    table.assign(sequence=[one.tolist() for one in table["sequence"]]).to_parquet(file)
    enc, store = tmp_path / "enc", tmp_path / "store"
    more = ("--sequence-encoder", "cnn") if kind == "sequence" else ("--text-encoder", "average")
    trained = run(
        "finetune", f"--{kind}", kind, "--table", file, "--target", "label", "-o", enc, *more
    )
    assert trained.exit_code == 0, said(trained)
    assert f"an encoder of {kind}s into" in trained.stdout
    assert f"Next: twostage extract TABLE --{kind}-col {kind} --backbone {enc}" in trained.stdout
    done = run("extract", file, f"--{kind}-col", kind, "--backbone", enc, "-o", store)
    assert done.exit_code == 0, said(done)
    n = len(set(hashes(table, kind)))
    assert f"{store}: {n} {kind}s, {n} embedded now" in done.stdout
    told = run("store", "info", store)
    assert f"{n} {kind}s in 1 part" in told.stdout
    assert f"encoder      enc, of {kind}s, trained on column '{kind}'" in told.stdout
    assert run("store", "verify", store).stdout.endswith("in 1 part, no fault.\n")
    gone = run("store", "prune", store)
    assert gone.exit_code == 2
    assert f"holds {kind}s, which are named by what they are" in gone.stderr
    asked = ("fit", "--table", file, "--target", "label", f"--{kind}", kind, "--backbone", enc)
    rest = ("--ignore", "text" if kind == "sequence" else "sequence", "--head", "linear")
    fitted = run(*asked, *rest, "-o", tmp_path / "model")
    assert fitted.exit_code == 0, said(fitted)
    assert "numbers from enc.\n" in fitted.stdout
    joint = ("fit", store, *asked[1:-2], *rest[:-1], "joint", "-o", tmp_path / "joint")
    fitted = run(*joint)  # on embeddings, which need no images
    assert fitted.exit_code == 0, said(fitted)
    odd = run(*asked, "--pooling", "max", "-o", tmp_path / "model")
    assert odd.exit_code == 2
    assert f"--pooling: of no use for an encoder of {kind}s." in odd.stderr
    wrong = run(
        "extract", file, f"--{kind}-col", kind, "-o", store, "--layer", "x", "--resize", "pad"
    )
    assert wrong.exit_code == 2
    assert f"--layer, --resize: of no use for embedding {kind}s. Leave them out." in wrong.stderr


@pytest.mark.slow
def test_sequences_of_a_long_table_are_embedded(tmp_path: Path) -> None:
    frame = make_table(100)
    long = pd.concat(
        pd.DataFrame(one, columns=["a", "b"]).assign(person=i, step=range(len(one)))
        for i, one in enumerate(frame["sequence"])
    )
    frame = frame.assign(person=range(100))[["person", "label"]]
    frame.to_csv(tmp_path / "table.csv", index=False)
    long.to_csv(tmp_path / "long.csv", index=False)
    steps = ("--sequences", tmp_path / "long.csv", "--sequence-id", "person", "--step", "step")
    asked = ("--table", tmp_path / "table.csv", "--target", "label")
    encoder, store = tmp_path / "encoder", tmp_path / "store"
    trained = run("finetune", *asked, *steps, "-o", encoder)
    assert trained.exit_code == 0, said(trained)
    done = run("extract", tmp_path / "table.csv", *steps, "--backbone", encoder, "-o", store)
    assert "100 sequences, 100 embedded now" in done.stdout, said(done)
    fitted = run("fit", store, *asked, *steps, "--head", "linear", "-o", tmp_path / "model")
    assert fitted.exit_code == 0, said(fitted)
    out = tmp_path / "p.csv"
    predicted = run(
        *("predict", tmp_path / "model", "--table", tmp_path / "table.csv", "-o", out),
        *("--sequences", tmp_path / "long.csv"),
    )
    assert predicted.exit_code == 0, said(predicted)
    assert (pd.read_csv(out)["prediction"] == frame["label"]).mean() > 0.9


class FakeTensor:
    """A tensor of PyTorch, as far as a digest needs it."""

    def __init__(self, array: np.ndarray):
        self.array = array

    def float(self) -> "FakeTensor":
        return self

    cpu = float

    def numpy(self) -> np.ndarray:
        return self.array


class FakeSentenceTransformer:
    """Embeds a text as its length and its number of words."""

    asked: ClassVar[list[Any]] = []
    weights = np.ones(2, np.float32)
    max_seq_length = 128

    def __init__(self, name: str, **options: Any):
        assert options["trust_remote_code"] is False
        assert options["model_kwargs"] == {"use_safetensors": True}
        self.asked.append(name)
        self.tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0})

    def state_dict(self) -> dict[str, FakeTensor]:
        return {"w": FakeTensor(self.weights)}

    def encode(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.array([[len(text), len(text.split())] for text in texts], np.float32)


@pytest.fixture
def sentences(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for sentence-transformers; return what models were loaded."""
    library = SimpleNamespace(SentenceTransformer=FakeSentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    monkeypatch.setattr("twostage.encoders.sentences.version", lambda _: "6.2.0")
    lazy._sentence_engine.cache_clear()
    FakeSentenceTransformer.asked.clear()
    return FakeSentenceTransformer.asked


def test_a_model_of_sentence_transformers_fills_a_store_and_a_fit(
    sentences: list[Any], table: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, store = "sentence-transformers/tiny", tmp_path / "store"
    extract_values(table["text"], store, backbone=name)
    found = EmbeddingStore(store).to_pandas()
    expected = {hash_bytes(text.encode()): [len(text), 4] for text in table["text"]}
    assert {row.image: row.embedding.tolist() for row in found.itertuples()} == expected
    assert not found["seen"].any()
    assert (
        "sentence-transformers/tiny, of texts, as published" in run("store", "info", store).stdout
    )

    again = extract_values(table["text"], store, backbone=name)
    assert (again.n_computed, sentences) == (0, [name])
    with pytest.raises(StoreError, match="asked for sentence-transformers:folder"):
        extract_values(table["text"], store, backbone="sentence-transformers:folder")

    model = TwoStageClassifier("text", "linear", backbone=name)
    model.fit(table[["text", "size"]], table["label"])
    model.save(tmp_path / "model")
    assert len(load_model(tmp_path / "model").predict(table[["text", "size"]])) == N

    lazy._sentence_engine.cache_clear()
    monkeypatch.setattr(FakeSentenceTransformer, "weights", np.zeros(2, np.float32))
    with pytest.raises(StoreError, match="made by another encoder: weights_digest is"):
        extract_values(pd.Series(["something new"]), store)


def test_without_sentence_transformers_the_install_line_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    lazy._sentence_engine.cache_clear()
    message = r"needs the package sentence-transformers.*pip install 'twostage\[sentences\]'"
    with pytest.raises(UsageError, match=message):
        extract_values(pd.Series(["a"]), tmp_path / "s", backbone="sentence-transformers/x")
    assert not (tmp_path / "s").exists()


def test_equal_values_have_one_digest_however_they_are_written() -> None:
    as_lists = pd.Series([[[1, -0.0], [None, 3]], [[1, 0], [np.nan, 3]]], dtype=object)
    as_arrays = pd.Series([np.array([[1, 0], [np.nan, 3]], np.float32)], dtype=object)
    names = {ref.image for ref in references_to(as_lists, "sequence") if ref}
    assert names == {ref.image for ref in references_to(as_arrays, "sequence") if ref}
    assert len(names) == 1
    again = value_of(bytes_of(np.array([[1.0, 2.0]])), "sequence")
    assert np.array_equal(again, [[1.0, 2.0]])
    text = "na\u00efve \ud800"
    assert value_of(bytes_of(text), "text") == text
    (reference,) = references_to(pd.Series(["a dress"]), "text")
    assert reference is not None
    assert reference.image == hash_bytes(b"a dress")


@pytest.mark.slow
def test_other_channels_than_the_encoder_knows_are_refused(
    tmp_path: Path, table: pd.DataFrame
) -> None:
    encoder = tmp_path / "encoder"
    train_encoder(encoder, table=table, target="label", sequence="sequence", **SMALL)
    wider = pd.Series([np.ones((3, 5))], name="sequence")
    with pytest.raises(DataError, match=r"was made for others: .*2 channels.* has 5"):
        extract_values(wider, tmp_path / "store", kind="sequence", backbone=encoder)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Give one column: text, or sequence"),
        ({"text": "text", "sequence": "sequence"}, "Give one column"),
        ({"text": "text", "holdout": 1.0}, "holdout must be 0 or more"),
        ({"text": "nope"}, "no text column 'nope'"),
        ({"text": "text", "petience": 3}, "An encoder has no such setting"),
        ({"text": "blank"}, "Column 'blank' holds no text in any row"),
    ],
)
def test_what_can_not_be_trained_is_said(
    options: dict[str, Any], message: str, table: pd.DataFrame, tmp_path: Path
) -> None:
    frame = table.assign(blank=" ")
    with pytest.raises((UsageError, DataError), match=re.escape(message)):
        train_encoder(tmp_path / "e", table=frame, target="label", **options)
    assert not (tmp_path / "e").exists()
