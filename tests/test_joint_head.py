"""The joint head: a network with a branch for each kind of column, texts too."""

import json
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from sklearn.base import clone
from sklearn.metrics import accuracy_score

import twostage
from twostage.cli.main import main
from twostage.errors import DataError, ModelError, UsageError
from twostage.features import Features, Tokens
from twostage.heads import JointHead, make_head
from twostage.heads.base import Task
from twostage.networks.builder import NetworkSettings, build, outputs_of_branch

WORDS = 6  # numbers of words, 0 and 1 included


def _data(n=300, seed=0):
    """Features of which each kind tells a part of the class: table, codes, block, text."""
    rng = np.random.default_rng(seed)
    table = rng.normal(size=(n, 2)).astype(np.float32)
    codes = rng.integers(1, 4, size=(n, 1)).astype(np.int32)
    block = rng.normal(size=(n, 10)).astype(np.float32)
    numbers = rng.integers(1, WORDS, size=(n, 5)).astype(np.int32)
    numbers[np.arange(5) >= rng.integers(0, 6, size=(n, 1))] = 0
    value = table[:, 0] + (codes[:, 0] - 2) + block[:, 0]
    value += 2 * (numbers == 2).any(axis=1) - 2 * (numbers == 3).any(axis=1)
    texts = (Tokens(numbers, WORDS),)
    return Features(table, codes, (4,), (block,), texts), (value > 0).astype(int)


def _without(features, part):
    """Take the message out of one part."""
    other = features.take(np.random.default_rng(9).permutation(len(features)))
    parts = {"table": "table", "codes": "codes", "block": "blocks", "text": "texts"}
    return Features(
        **{
            name: getattr(other if name == parts[part] else features, name)
            for name in ("table", "codes", "cardinalities", "blocks", "texts")
        }
    )


@pytest.fixture(scope="module")
def fitted():
    """A head of two members that has learned, and rows that it did not see."""
    head = JointHead(n_members=2, max_epochs=12, learning_rate=0.01, word_units=8, units=32)
    return head.fit(*_data(600), Task(2)), _data(400, 1)


def test_it_learns_from_every_kind_of_column(fitted):
    head, (features, y) = fitted
    score = accuracy_score(y, head.predict_proba(features).argmax(axis=1))
    assert score > 0.82
    for part in ("table", "codes", "block", "text"):
        blind = head.predict_proba(_without(features, part)).argmax(axis=1)
        assert accuracy_score(y, blind) < score - 0.05, part


def test_a_saved_head_predicts_the_same(fitted, tmp_path):
    head, (features, _) = fitted
    head.save(tmp_path)
    loaded = clone(head).load(tmp_path, head.task_)
    expected = head.predict_proba(features)
    np.testing.assert_array_equal(loaded.predict_proba(features), expected)
    np.testing.assert_array_equal(deepcopy(head).predict_proba(features), expected)


def test_words_beyond_those_known_are_not_looked_up_elsewhere(fitted):
    head, (features, _) = fitted
    numbers = np.full_like(features.texts[0].numbers, WORDS)
    wrong = Features(
        features.table,
        features.codes,
        features.cardinalities,
        features.blocks,
        (Tokens(numbers, WORDS + 1),),
    )
    with pytest.raises(Exception, match=r"out of bound|not in \[0, 6\)"):
        head.predict_proba(wrong)


def test_branches_of_each_member_can_be_cut_out(fitted):
    from keras import Model

    head, (features, _) = fitted
    widths = {"table": 2, "category_0": 3, "block_0": 32, "text_0": 16}
    for branch, width in widths.items():
        assert [x.shape for x in outputs_of_branch(head.network_, branch)] == [(None, width)] * 2
    assert outputs_of_branch(head.network_, "text_1") == []
    for branch in ("fused", "penultimate"):
        assert len(outputs_of_branch(head.network_, branch)) == 2
    (x, _) = outputs_of_branch(head.network_, "text_0")
    encoder = Model(head.network_.inputs[3:4], x)
    vectors = np.array(encoder([features.texts[0].numbers]))
    is_empty = ~(features.texts[0].numbers > 0).any(axis=1)
    assert is_empty.any()
    assert (vectors[is_empty] == 0).all()
    assert np.isfinite(vectors).all()
    assert (np.abs(vectors[~is_empty]).max(axis=1) > 0).all()


def _network(features, **settings):
    return build(features, 1, NetworkSettings(**settings), np.random.default_rng(0))


def _text_alone(vectors=None, texts=([2, 3, 0], [3, 2, 0], [2, 0, 0], [0, 0, 0])):
    nothing = np.empty((len(texts), 0), np.float32)
    tokens = Tokens(np.array(texts, np.int32), 4, vectors)
    return Features(nothing, nothing.astype(np.int32), (), (), (tokens,))


def _text_vectors(features, **settings):
    from keras import Model

    network = _network(features, **settings)
    (x,) = outputs_of_branch(network, "text_0")
    return np.array(Model(network.inputs, x)([features.texts[0].numbers]))


def test_an_average_is_that_of_the_words_that_are_there():
    vectors = np.array([[0, 0], [0, 0], [1, -4], [3, -2]], np.float32)
    found = _text_vectors(_text_alone(vectors))
    expected = [[2, -3, 3, -2], [2, -3, 3, -2], [1, -4, 1, -4], [0, 0, 0, 0]]
    np.testing.assert_allclose(found, expected)


def test_an_lstm_reads_the_order_of_words_and_no_padding():
    from keras import Model

    short = _text_alone()
    network = _network(short, text_encoder="lstm", word_units=4)
    (x,) = outputs_of_branch(network, "text_0")
    found = np.array(Model(network.inputs, x)([short.texts[0].numbers]))
    assert found.shape == (4, 8)
    assert not np.allclose(found[0], found[1])
    assert (found[3] == 0).all()
    longer = np.pad(short.texts[0].numbers, ((0, 0), (0, 6)))
    wide = _network(_text_alone(texts=longer), text_encoder="lstm", word_units=4)
    wide.set_weights(network.get_weights())
    (x,) = outputs_of_branch(wide, "text_0")
    np.testing.assert_allclose(np.array(Model(wide.inputs, x)([longer])), found, atol=1e-6)


@pytest.mark.parametrize("is_trained", [True, False])
def test_given_vectors_are_where_words_start(is_trained):
    vectors = np.array([[0, 0], [0, 0], [1, 2], [3, 4]], np.float32)
    network = _network(_text_alone(vectors), trains_word_vectors=is_trained)
    (table,) = [w for w in network.weights if w.path.endswith("embeddings")]
    assert table.trainable == is_trained
    np.testing.assert_array_equal(np.array(table)[2:], vectors[2:])
    assert np.array(table)[1].any() == is_trained  # drawn, to learn from, or nothing said


def test_embeddings_are_as_long_as_asked_for():
    features, _ = _data(20)
    for asked, width in ((None, 3), (7, 7)):
        (x,) = outputs_of_branch(_network(features, embedding_units=asked), "category_0")
        assert x.shape == (None, width)


def test_no_features_at_all_are_refused():
    nothing = np.empty((20, 0), np.float32)
    with pytest.raises(DataError, match="no features to learn from"):
        JointHead().fit(
            Features(nothing, nothing.astype(np.int32), (), ()), np.arange(20) % 2, Task(2)
        )


def test_parameters_go_to_the_heads_that_have_them():
    assert make_head("joint", fusion="repeat").fusion == "repeat"
    blend = make_head("lightgbm+joint", text_encoder="lstm")
    assert blend.heads[1].text_encoder == "lstm"
    with pytest.raises(UsageError, match="The head 'keras' does not use fusion"):
        make_head("keras", fusion="concat")
    with pytest.raises(UsageError, match="does not use fusion, text_encoder"):
        make_head("blend", fusion="concat", text_encoder="lstm")
    with pytest.raises(UsageError, match="fusion"):
        JointHead(fusion="sum").check_parameters()


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A table whose text tells the target."""
    rng = np.random.default_rng(0)
    words = np.array(["good", "bad", "fine", "dull", "blue", "red", "soft", "hard", "long"])
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=120).round(3),
            "shop": rng.choice(["north", "south"], 120),
            "review": [" ".join(rng.choice(words, 6)) for _ in range(120)],
        }
    )
    frame["sold"] = np.where(frame["review"].str.contains("good"), "yes", "no")
    frame.loc[[3, 4], "review"] = [None, "?!"]
    file = tmp_path_factory.mktemp("joint") / "table.csv"
    frame.to_csv(file, index=False)
    vectors = [f"{word} {i} {-i}" for i, word in enumerate(words)]
    (file.parent / "words.vec").write_text("9 2\n" + "\n".join(vectors))
    return file


def _run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--head", "lightgbm", "--fusion", "concat"], 2, "'lightgbm' does not use fusion"),
        (["--head", "keras", "--text-encoder", "lstm"], 2, "'keras' does not use text_encoder"),
        (["--head", "svm", "--word-vectors", "words.vec"], 2, "'svm' reads none"),
        (["--head", "joint", "--word-vectors", "none.vec"], 2, "does not exist"),
        (["--head", "joint", "--stop-words", "german"], 2, "there is no 'german'"),
        (["--head", "joint", "--text-encoder", "gru"], 2, "'gru' is not one of"),
        (["--head", "joint", "--word-vectors", "table.csv"], 1, "can't be read as word vectors"),
        (["--ignore", "review", "--stop-words", "english"], 2, "the table has no column of text"),
    ],
)
def test_what_a_head_can_not_do_is_said(table, monkeypatch, arguments, code, said):
    monkeypatch.chdir(table.parent)
    common = ["--table", "table.csv", "--target", "sold", "--features", "table", "-o", "model"]
    result = _run("fit", *common, *arguments)
    assert (result.exit_code, said in result.output) == (code, True), result.output
    assert not (table.parent / "model").exists()


def test_a_benchmark_without_a_head_that_reads_words_refuses_their_vectors(table, monkeypatch):
    monkeypatch.chdir(table.parent)
    common = ["--table", "table.csv", "--target", "sold", "--features", "table", "-o", "results"]
    result = _run("benchmark", *common, "--word-vectors", "words.vec")
    assert (result.exit_code, "none of these does" in result.output) == (2, True), result.output
    result = _run("benchmark", *common, "--fusion", "repeat")
    assert (result.exit_code, "does not use fusion" in result.output) == (2, True), result.output


@pytest.mark.slow
def test_commands_fit_predict_and_compare(table, monkeypatch):
    monkeypatch.chdir(table.parent)
    common = ["--table", "table.csv", "--target", "sold", "--features", "table"]
    words = ["--stop-words", "english", "--word-vectors", "words.vec", "--text-encoder", "average"]
    result = _run("fit", *common, *words, "--head", "joint", "-o", "model", "--json")
    assert result.exit_code == 0, result.output
    record = json.loads(result.stdout)
    assert record["settings"]["heads"][0]["parameters"]["text_encoder"] == "average"
    assert record["settings"]["recipe"] == {"stop_words": "english", "word_vectors": "words.vec"}
    result = _run("predict", "model", "--table", "table.csv", "-o", "predictions.csv")
    assert result.exit_code == 0, result.output
    frame = pd.read_csv("table.csv")
    predicted = pd.read_csv("predictions.csv")["prediction"]
    assert (predicted == frame["sold"]).mean() > 0.9
    loaded = twostage.load_model("model")
    assert loaded.get_params()["word_vectors"] == "words.vec"
    assert (loaded.predict(frame) == predicted).all()
    rest = ["--heads", "joint,lightgbm", "--folds", "2", "--n-jobs", "1", "--no-importance"]
    result = _run("benchmark", *common, *words, *rest, "-o", "results")
    assert result.exit_code == 0, result.output
    assert "joint, table" in result.output


@pytest.mark.slow
def test_an_lstm_learns_from_the_words_of_a_column(table, tmp_path):
    frame = pd.read_csv(table)
    y = frame.pop("sold")
    head = JointHead(text_encoder="lstm", n_members=1, learning_rate=0.01, max_epochs=25)
    model = twostage.TwoStageClassifier(head=head).fit(frame, y)
    assert model.score(frame, y) > 0.9
    model.save(tmp_path / "model")
    loaded = twostage.load_model(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))
    words = tmp_path / "model" / "member-0" / "words-0.json"
    words.write_text(words.read_text().replace('"good"', '"evil"'))
    with pytest.raises(ModelError, match="not the one that was saved"):
        twostage.load_model(tmp_path / "model")
