"""Networks that follow sequences: padding without a say, three ways to meet what is beside."""

import numpy as np
import pandas as pd
import pytest

from twostage import TwoStageClassifier, load_model
from twostage.errors import DataError
from twostage.features import Features, Steps
from twostage.heads.joint import JointHead
from twostage.heads.network_training import outputs_of
from twostage.networks.builder import NetworkSettings, build, outputs_of_branch
from twostage.networks.ends import arrays_of
from twostage.networks.fusion import FUSIONS
from twostage.networks.sequences import SEQUENCE_ENCODERS
from twostage.opening.keras_file import load_network

N, LENGTH = 5, 4


def _features(length=LENGTH, n_table=2):
    """Return the same rows, padded to another length; the last has no steps, the one before one."""
    rng = np.random.default_rng(0)
    values = np.zeros((N, length, 3), np.float32)
    lengths = np.array([4, 3, 2, 1, 0], np.int32)
    for row, n in enumerate(lengths):
        values[row, :n] = rng.normal(size=(n, 3))
    table = rng.normal(size=(N, n_table)).astype(np.float32)
    steps = (Steps(values, lengths),)
    return Features(table, np.array([[0], [1], [2], [1], [0]]), (3,), (), sequences=steps)


def _network(features, fusion, kind):
    settings = NetworkSettings(fusion=fusion, sequence_encoder=kind, sequence_units=4, units=4)
    return build(features, 2, settings, np.random.default_rng(0))


def _outputs(network, features):
    from keras import ops

    return ops.convert_to_numpy(network(arrays_of(features), training=False))


@pytest.mark.parametrize("kind", SEQUENCE_ENCODERS)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_padding_changes_nothing(fusion, kind, tmp_path):
    short, long = _features(), _features(LENGTH + 5)
    network = _network(short, fusion, kind)
    outputs = _outputs(network, short)
    assert np.isfinite(outputs).all()
    padded = _network(long, fusion, kind)
    padded.set_weights(network.get_weights())
    np.testing.assert_allclose(_outputs(padded, long), outputs, atol=1e-5)
    # What is padded may be anything.
    (steps,) = long.sequences
    noisy = np.where(np.arange(LENGTH + 5)[:, None] < steps.lengths[:, None, None], steps.values, 7)
    noise = Features(
        long.table, long.codes, (3,), (), sequences=(Steps(noisy.astype("f"), steps.lengths),)
    )
    changed = _outputs(padded, noise)
    np.testing.assert_allclose(changed, outputs, atol=1e-5)
    assert outputs_of(network, short.take(np.arange(0))).shape == (0, 1, 2)
    network.save(tmp_path / "network.keras")
    np.testing.assert_allclose(
        _outputs(load_network(tmp_path / "network.keras"), short), outputs, atol=1e-6
    )


@pytest.mark.parametrize(
    ("fusion", "kind"),
    [("concat", "lstm"), ("concat", "cnn"), ("repeat", "gru"), ("attention", "cnn")],
)
def test_a_row_without_steps_has_a_vector_of_zeros(fusion, kind):
    from keras import Model, ops

    features = _features()
    network = _network(features, fusion, kind)
    (vector,) = outputs_of_branch(network, "sequence_0")
    found = ops.convert_to_numpy(Model(network.inputs, vector)(arrays_of(features)))
    assert (found[-1] == 0).all()
    assert (found[:-1] != 0).any(axis=1).all()


def test_what_stands_beside_reaches_the_steps():
    from keras import Model, ops

    features = _features()
    other = Features(features.table + 1, features.codes, (3,), (), sequences=features.sequences)
    for fusion in FUSIONS:
        network = _network(features, fusion, "gru")
        (vector,) = outputs_of_branch(network, "sequence_0")
        branch = Model(network.inputs, vector)
        one, two = (ops.convert_to_numpy(branch(arrays_of(f))) for f in (features, other))
        assert np.allclose(one[:3], two[:3]) == (fusion == "concat")


@pytest.mark.parametrize("fusion", ["repeat", "attention"])
def test_a_fusion_needs_something_to_fuse(fusion):
    features = _features()
    alone = Features(np.empty((N, 0), "f"), np.empty((N, 0)), (), (), sequences=features.sequences)
    with pytest.raises(DataError, match=f"'{fusion}' joins sequences with what is beside them"):
        _network(alone, fusion, "lstm")


def _signs(n, rng):
    """Return a table whose class is the sign of a series' trend, turned round by a category."""
    trend, kind = rng.choice([-1, 1], n), rng.choice(["plain", "mirrored"], n)
    series = [
        t * np.linspace(-1, 1, k) + rng.normal(0, 0.3, k)
        for t, k in zip(trend, rng.integers(5, 12, n), strict=True)
    ]
    y = np.where(kind == "plain", trend, -trend) > 0
    return pd.DataFrame({"kind": kind, "series": series}), y


@pytest.mark.slow
@pytest.mark.parametrize("fusion", FUSIONS)
def test_series_and_category_are_learned_together(fusion, tmp_path):
    table, y = _signs(500, np.random.default_rng(0))
    head = JointHead(fusion=fusion, sequence_encoder="gru", n_members=1, max_epochs=40)
    model = TwoStageClassifier(head=head, sequence=["series"]).fit(table[:400], y[:400])
    assert model.score(table[400:], y[400:]) > 0.9
    model.save(tmp_path / "model")
    proba = load_model(tmp_path / "model").predict_proba(table)
    np.testing.assert_allclose(proba, model.predict_proba(table), atol=1e-6)
