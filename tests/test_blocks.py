"""Wide blocks as features: scale, components, and a probe that no row's label leaks into."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from twostage.blocks import BlockEncoder, auto_parts
from twostage.recipes import Recipe
from twostage.ridge import RidgeSums, linear, sums_by_fold
from twostage.splits import cross_folds

WIDTH = 12


def _matrix(n=60, width=WIDTH, seed=0):
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(3, width))
    noise = rng.normal(scale=0.1, size=(n, width))
    return (rng.normal(size=(n, 3)) @ mixing + noise + 5).astype(np.float32)


def _fit(matrix, blocks, y=None, *, fills=False, n_classes=2, n_components=3, weight=None):
    y = np.arange(len(matrix)) % 2 if y is None else y
    folds = cross_folds(y, is_classification=n_classes is not None)
    recipe = Recipe(blocks=blocks, fills_missing=fills, n_components=n_components)
    encoder, parts = BlockEncoder.fit_transform(
        matrix, recipe, y, n_classes=n_classes, folds=folds, sample_weight=weight
    )
    return encoder, np.hstack(parts)


def _encode(encoder, matrix):
    return np.hstack(encoder.transform(matrix))


def test_raw_embeddings_are_not_even_copied():
    matrix = _matrix()
    y = np.arange(60) % 2
    encoder, (raw, _) = BlockEncoder.fit_transform(
        matrix, Recipe(blocks="raw+probe"), y, n_classes=2, folds=[]
    )
    assert raw is matrix
    assert encoder.transform(matrix)[0] is matrix


@pytest.mark.parametrize("n", [8, 60])
def test_components_are_those_of_scikit_learn_but_for_their_sign(n):
    matrix = _matrix(n)
    _, features = _fit(matrix, "pca")
    expected = PCA(3).fit_transform(StandardScaler().fit_transform(matrix.astype(np.float64)))
    np.testing.assert_allclose(np.abs(features), np.abs(expected), atol=2e-3)


@pytest.mark.parametrize("blocks", ["pca", "probe", "raw+pca+probe"])
@pytest.mark.parametrize("fills", [True, False])
def test_rows_with_nothing_become_the_mean_or_stay_missing(blocks, fills):
    matrix = _matrix()
    matrix[7] = np.nan
    encoder, features = _fit(matrix, blocks, fills=fills)
    assert np.isnan(features[7]).all() == (not fills)
    assert np.isfinite(np.delete(features, 7, axis=0)).all()
    new = np.full((1, WIDTH), np.nan, np.float32)
    assert np.isnan(_encode(encoder, new)).all() == (not fills)
    if fills:
        mean = np.nanmean(matrix, axis=0, keepdims=True)
        np.testing.assert_allclose(_encode(encoder, new), _encode(encoder, mean), atol=1e-4)


def test_a_row_with_nothing_does_not_change_what_the_others_teach():
    matrix = _matrix()
    with_gap = np.vstack([matrix, np.full((1, WIDTH), np.nan, np.float32)])
    encoder, _ = _fit(matrix, "pca")
    gapped, _ = _fit(with_gap, "pca", np.arange(61) % 2)
    np.testing.assert_allclose(
        _encode(gapped, matrix), _encode(encoder, matrix), atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize("n_classes", [None, 2, 3])
def test_the_probe_of_a_row_does_not_see_its_fold(monkeypatch, n_classes):
    monkeypatch.setattr("twostage.blocks._N_PENALTIES", 1)  # they share the choice of the penalty
    matrix = _matrix(90)
    y = matrix[:, 0].astype(np.float64)
    if n_classes is not None:
        y = np.argsort(np.argsort(y)) * n_classes // 90
    folds = cross_folds(y, is_classification=n_classes is not None)
    test = folds[0][1]
    changed = y.copy()
    changed[test] = y[test][::-1] * 10 if n_classes is None else (y[test] + 1) % n_classes
    (_, (before,)), (encoder, (after,)) = (
        BlockEncoder.fit_transform(
            matrix, Recipe(blocks="probe"), target, n_classes=n_classes, folds=folds
        )
        for target in (y, changed)
    )
    assert before.shape[1] == {None: 1, 2: 1, 3: 3}[n_classes]
    np.testing.assert_allclose(before[test], after[test], rtol=1e-5)
    others = np.setdiff1d(np.arange(90), test)
    assert not np.allclose(before[others], after[others], rtol=1e-3)
    assert not np.allclose(_encode(encoder, matrix)[test], after[test], rtol=1e-3)


def test_the_probe_of_noise_does_not_tell_the_label():
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(200, 150)).astype(np.float32)
    y = rng.integers(0, 2, 200)
    encoder, features = _fit(matrix, "probe", y)
    assert abs(np.corrcoef(features[:, 0], y)[0, 1]) < 0.2
    assert np.corrcoef(_encode(encoder, matrix)[:, 0], y)[0, 1] > 0.2  # which had seen it


def test_the_probe_tells_new_rows_what_it_learned():
    matrix, new = _matrix(200), _matrix(50, seed=0)
    y = (matrix[:, 0] > 5).astype(int)
    encoder, _ = _fit(matrix, "probe", y)
    scores = _encode(encoder, new)[:, 0]
    assert np.corrcoef(scores, new[:, 0])[0, 1] > 0.8


def test_rows_of_no_weight_teach_the_probe_nothing():
    matrix = _matrix(80)
    y = (matrix[:, 0] > 5).astype(int)
    spoilt = np.concatenate([y[:60], 1 - y[60:]])
    weight = np.r_[np.ones(60), np.zeros(20)]
    folds = cross_folds(y, is_classification=True)
    encoders = [
        BlockEncoder.fit_transform(
            matrix, Recipe(blocks="probe"), target, n_classes=2, folds=folds, sample_weight=weight
        )[0]
        for target in (y, spoilt)
    ]
    np.testing.assert_allclose(*(encoder.arrays["probe"] for encoder in encoders))


def test_dimensions_that_do_not_vary_do_no_harm():
    matrix = _matrix()
    matrix[:, 3] = 0.1
    encoder, features = _fit(matrix, "raw+pca+probe", fills=True)
    assert np.isfinite(features).all()
    matrix[:, 3] = 5.0
    assert np.isfinite(_encode(encoder, matrix)).all()


def test_a_dimension_that_comes_alive_in_a_new_row_does_not_blow_up():
    matrix = _matrix()
    matrix[:, 3] = 1e-7 * np.arange(60)
    encoder, _ = _fit(matrix, "raw+pca+probe", fills=True)
    new = matrix[:1].copy()
    new[0, 3] = 5.0
    assert np.abs(_encode(encoder, new)).max() < 30


def test_fewer_rows_than_components_are_enough():
    _, features = _fit(_matrix(6), "pca", n_components=50)
    assert features.shape == (6, 5)


def test_many_rows_are_encoded_piece_by_piece_as_few_are():
    matrix = _matrix(9000)
    encoder, features = _fit(matrix, "pca+probe")
    np.testing.assert_allclose(_encode(encoder, matrix[8000:8010])[:, :3], features[8000:8010, :3])


@pytest.mark.parametrize("blocks", ["auto", "raw", "pca", "pca+probe"])
def test_a_block_without_anything_to_learn_from_gives_no_features(tmp_path, blocks):
    """As in a fold of a column that few rows have."""
    nothing = np.full((10, 3), np.nan, np.float32)
    y = np.arange(10) % 2
    encoder, parts = BlockEncoder.fit_transform(
        nothing, Recipe(blocks=blocks), y, n_classes=2, folds=[]
    )
    encoder = BlockEncoder.load(tmp_path, "block-0", encoder.save(tmp_path, "block-0"), 3)
    assert parts == encoder.transform(_matrix()[:4, :3]) == []
    assert encoder.feature_names(["v_emb_0000", "v_emb_0001", "v_emb_0002"]) == []


@pytest.mark.parametrize("blocks", ["raw", "pca", "raw+pca+probe"])
def test_a_saved_encoder_encodes_the_same(tmp_path, blocks):
    matrix = _matrix()
    encoder, _ = _fit(matrix, blocks, n_classes=3, y=np.arange(60) % 3)
    record = encoder.save(tmp_path, "block-0")
    loaded = BlockEncoder.load(tmp_path, "block-0", record, WIDTH)
    np.testing.assert_array_equal(_encode(loaded, matrix), _encode(encoder, matrix))
    names = [f"photo_emb_{i:04d}" for i in range(WIDTH)]
    assert len(loaded.feature_names(names)) == _encode(loaded, matrix).shape[1]


def test_features_are_named_after_their_column():
    encoder, _ = _fit(_matrix(), "raw+pca+probe")
    names = encoder.feature_names([f"front_photo_emb_{i:04d}" for i in range(WIDTH)])
    assert names[0] == "front_photo_emb_0000"
    assert names[WIDTH:] == [
        "front_photo_pc_000",
        "front_photo_pc_001",
        "front_photo_pc_002",
        "front_photo_probe_0",
    ]


def test_trees_see_all_dimensions_only_of_rows_enough():
    assert auto_parts(1280, 1280) == "raw+probe"
    assert auto_parts(1279, 1280) == "pca+probe"


def test_sums_give_the_ridge_regressions_of_scikit_learn():
    rng = np.random.default_rng(0)
    X, Y, weight = rng.normal(size=(50, 4)), rng.normal(size=(50, 2)), rng.uniform(1, 2, 50)
    path = RidgeSums.over(X, Y, weight, np.arange(50)).ridge(np.array([0.1, 10.0]))
    for alpha, coefficients in zip((0.1, 10.0), path, strict=True):
        expected = Ridge(alpha).fit(X, Y, sample_weight=weight)
        np.testing.assert_allclose(linear(X, coefficients), expected.predict(X))


def test_sums_of_folds_are_those_of_their_training_rows():
    rng = np.random.default_rng(0)
    X, Y, weight = rng.normal(size=(50, 4)), rng.normal(size=(50, 1)), np.ones(50)
    folds = cross_folds(np.arange(50.0), is_classification=False)
    everything, of_trains = sums_by_fold(X, Y, weight, folds)
    assert everything.n == 50
    for sums, (train, _) in zip(of_trains, folds, strict=True):
        expected = RidgeSums.over(X, Y, weight, train)
        np.testing.assert_allclose(sums.xx, expected.xx, atol=1e-9)
        np.testing.assert_allclose(sums.xy, expected.xy, atol=1e-9)


def test_scaled_sums_are_sums_of_scaled_features():
    rng = np.random.default_rng(0)
    X, Y, scale = rng.normal(size=(30, 3)), rng.normal(size=(30, 1)), np.array([1.0, 0.1, 10.0])
    rows = np.arange(30)
    scaled = RidgeSums.over(X, Y, np.ones(30), rows).scaled(scale).ridge(np.array([1.0]))
    expected = RidgeSums.over(X * scale, Y, np.ones(30), rows).ridge(np.array([1.0]))
    np.testing.assert_allclose(scaled, expected)
