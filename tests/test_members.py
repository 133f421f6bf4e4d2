"""Members, blends and tuning: everything is learned in the rows given, and nowhere else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge

import twostage.blending as blending
from twostage.blending import blend_weights, out_of_fold
from twostage.encoding import FeatureEncoder
from twostage.errors import DataError, UsageError
from twostage.heads import Blend, heads_of, make_head, name_of
from twostage.heads.base import Task
from twostage.heads.blend import best_weights
from twostage.heads.lightgbm import LightGBMHead
from twostage.heads.linear import LinearHead
from twostage.joins import ImageBlock
from twostage.members import Member, MemberPlan
from twostage.recipes import Recipe
from twostage.rows import TrainingRows, row_digests
from twostage.table.roles import RoleOverrides, infer_roles
from twostage.tuning import tuned

N, DIM = 160, 20


def _rows(n=N, seed=0, n_classes=None):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        {
            "area": rng.normal(size=n),
            "site": rng.choice(["arm", "leg", "back"], n),
            "doctor": rng.choice([f"d{i}" for i in range(50)], n),
            "report": [f"patient number {i % 7} is doing fairly well today" for i in range(n)],
            "vector": list(rng.normal(size=(n, 3))),
        }
    )
    matrix = rng.normal(size=(n, DIM)).astype(np.float32)
    y = frame["area"].to_numpy() + (frame["site"] == "arm") + matrix[:, 0]
    if n_classes is not None:
        y = np.argsort(np.argsort(y)) * n_classes // n
    block = ImageBlock("photo", matrix, np.ones(n, int), [None] * n, [[] for _ in range(n)])
    return TrainingRows(frame, {"photo": block}, np.asarray(y), n_classes, np.arange(n) // 2)


def _plan(rows, head=None, recipe=None):
    columns = infer_roles(rows.frame, RoleOverrides(vector=("vector",)), {})
    head = head or LinearHead()
    return MemberPlan(head, recipe or head.recipe, columns, Task(rows.n_classes))


RECIPES = {
    "trees": Recipe(),
    "trees, all parts": Recipe(blocks="raw+pca+probe", many_categories="native"),
    "linear": LinearHead.recipe,
    "network": Recipe("quantile", True, "native", "native", "raw"),
}


@pytest.mark.parametrize("n_classes", [None, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_features_have_names_and_are_the_same_after_saving(tmp_path, name, n_classes):
    rows = _rows(n_classes=n_classes)
    columns = _plan(rows).columns
    encoder, features = FeatureEncoder.fit_transform(rows, columns, RECIPES[name], 0)
    assert len(encoder.feature_names()) == features.n_features == features.matrix().shape[1]
    new = _rows(30, seed=1, n_classes=n_classes)
    encoder.save(tmp_path)
    again = FeatureEncoder.load(tmp_path).transform(new.frame, new.blocks)
    expected = encoder.transform(new.frame, new.blocks)
    np.testing.assert_array_equal(again.matrix(), expected.matrix())
    assert again.cardinalities == features.cardinalities == expected.cardinalities
    if RECIPES[name].fills_missing:
        assert np.isfinite(expected.matrix()).all()


def test_embeddings_that_trees_see_whole_are_not_copied():
    rows = _rows()
    recipe = Recipe(blocks="raw+probe")
    _, features = FeatureEncoder.fit_transform(rows, _plan(rows).columns, recipe, 0)
    assert features.blocks[0] is rows.blocks["photo"].matrix


@pytest.mark.parametrize(
    ("n_images", "fills", "name"),
    [([1, 0], True, "photo_has_image"), ([2, 1], False, "photo_n_images"), ([1, 0], False, None)],
)
def test_how_many_images_a_row_has_is_a_feature_where_it_differs(n_images, fills, name):
    rows = _rows()
    block = replace(rows.blocks["photo"], n_images=np.resize(n_images, N))
    rows = replace(rows, blocks={"photo": block})
    columns, recipe = _plan(rows).columns, Recipe(fills_missing=fills)
    encoder, features = FeatureEncoder.fit_transform(rows, columns, recipe, 0)
    names = encoder.feature_names()
    found = [n for n in names if n.startswith(("photo_has", "photo_n_"))]
    assert found == ([name] if name else [])
    if name:
        column = features.matrix()[:, names.index(name)]
        np.testing.assert_array_equal(column, np.resize(n_images, N))


def test_embeddings_of_another_length_are_refused():
    rows = _rows()
    encoder, _ = FeatureEncoder.fit_transform(rows, _plan(rows).columns, Recipe(), 0)
    block = replace(rows.blocks["photo"], matrix=np.zeros((N, 3), np.float32))
    with pytest.raises(DataError, match=r"'photo' has embeddings of 3 numbers; .* trained on 20"):
        encoder.transform(rows.frame, {"photo": block})


@pytest.mark.parametrize("n_classes", [None, 2])
@pytest.mark.parametrize("head", [LinearHead(), LightGBMHead(n_trees=20)], ids=["linear", "trees"])
def test_a_saved_member_predicts_the_same(tmp_path, head, n_classes):
    rows = _rows(n_classes=n_classes)
    member = _plan(rows, head).fit(rows)
    member.save(tmp_path)
    loaded = Member.load(tmp_path, Task(n_classes))
    np.testing.assert_array_equal(
        loaded.predict(rows.frame, rows.blocks), member.predict(rows.frame, rows.blocks)
    )
    assert loaded.head.get_params() == head.get_params()


def test_a_plan_can_be_fitted_again_and_again():
    rows = _rows()
    plan = _plan(rows)
    first, second = (plan.fit(rows).predict(rows.frame, rows.blocks) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert not hasattr(plan.head, "coefficients_")


def test_out_of_fold_predictions_come_from_members_that_saw_neither_row_nor_group():
    rows = _rows()
    groups = np.asarray(rows.groups)
    folds = [(np.flatnonzero(groups % 4 != k), np.flatnonzero(groups % 4 == k)) for k in range(4)]
    before = out_of_fold(_plan(rows), rows, folds)
    y = rows.y.copy()
    y[folds[0][1]] = 100.0
    after = out_of_fold(_plan(rows), replace(rows, y=y), folds)
    n_first = len(folds[0][1])
    np.testing.assert_array_equal(before[:n_first], after[:n_first])
    assert not np.allclose(before[n_first:], after[n_first:])


def test_the_better_member_weighs_more_and_a_useless_one_nothing():
    rows = _rows()
    plans = [_plan(rows), _plan(rows, LightGBMHead(n_trees=1, learning_rate=0.001))]
    weights = blend_weights(plans, rows)
    np.testing.assert_allclose(weights, [1, 0], atol=0.02)


def test_the_folds_of_a_blend_keep_groups_together(monkeypatch):
    rows = _rows()
    seen = []

    def spy(plan, given, folds):
        seen.extend(folds)
        return out_of_fold(plan, given, folds)

    monkeypatch.setattr(blending, "out_of_fold", spy)
    blend_weights([_plan(rows), _plan(rows)], rows)
    assert len(seen) == 10
    for train, test in seen:
        assert not set(rows.groups[train]) & set(rows.groups[test])


def test_weights_are_equal_where_nothing_can_be_held_out():
    rows = replace(_rows(), groups=np.zeros(N, int))
    assert blend_weights([_plan(rows), _plan(rows)], rows).tolist() == [0.5, 0.5]


def test_best_weights_minimise_the_loss():
    rng = np.random.default_rng(0)
    y = rng.normal(size=200)
    predictions = np.stack([y + rng.normal(scale=s, size=200) for s in (0.5, 1.0)])
    weights = best_weights(predictions, y, np.ones(200), False)
    losses = [((w * predictions[0] + (1 - w) * predictions[1] - y) ** 2).mean()
              for w in np.linspace(0, 1, 101)]  # fmt: skip
    assert weights[0] == pytest.approx(np.argmin(losses) / 100, abs=0.02)
    assert weights.sum() == pytest.approx(1)


def test_best_weights_of_probabilities_listen_to_row_weights():
    y = np.array([0, 1])
    right, wrong = np.eye(2) * 0.8 + 0.1, np.eye(2)[::-1] * 0.8 + 0.1
    predictions = np.stack([np.stack([right[0], wrong[1]]), np.stack([wrong[0], right[1]])])
    weights = best_weights(predictions, y, np.array([9.0, 1.0]), True)
    assert weights[0] > 0.9


@pytest.mark.parametrize("n_classes", [None, 2])
def test_tuning_finds_settings_that_are_better_than_bad_ones(n_classes):
    rows = _rows(n_classes=n_classes)
    bad = LightGBMHead(n_trees=30, learning_rate=1e-6, num_leaves=2)
    found = tuned(_plan(rows, bad), rows, 6)
    assert found.head.learning_rate > 0.01
    assert found.head.n_trees == 30
    assert bad.learning_rate == 1e-6


def test_defaults_stand_where_nothing_is_better():
    rows = _rows()
    plan = _plan(rows)
    assert tuned(plan, rows, 1).head.get_params() == plan.head.get_params()


def test_a_head_without_settings_to_search_says_so():
    rows = _rows()
    (own,) = heads_of(Ridge())
    with pytest.raises(UsageError, match="head scikit has no settings that can be tuned"):
        tuned(_plan(rows, own), rows, 3)


def test_names_joined_by_plus_are_blended():
    assert [name_of(head) for head in heads_of("linear+lightgbm")] == ["linear", "lightgbm"]
    assert [name_of(head) for head in heads_of("blend")] == ["linear", "lightgbm"]
    assert isinstance(make_head("linear+svm"), Blend)
    nested = Blend(["blend", LightGBMHead(num_leaves=3)])
    assert [name_of(head) for head in heads_of(nested)] == ["linear", "lightgbm", "lightgbm"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("lightgmb", r"Unknown head 'lightgmb'. Did you mean 'lightgbm'\? Heads: lightgbm, keras"),
        ("linear+blend", "Unknown head 'blend'"),
        ("", "Unknown head ''"),
        (Blend([]), "A blend needs a list of heads"),
        (Blend("linear"), "A blend needs a list of heads"),
        (LinearHead, "A head is one of"),
        (5, "A head is one of .* found 5"),
    ],
)
def test_what_is_no_head_is_refused(head, message):
    with pytest.raises(UsageError, match=message):
        heads_of(head)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"scaling": "log"}, "scaling must be one of standard, minmax"),
        ({"categories": "binary"}, "categories must be one of onehot"),
        ({"blocks": "raw+raw"}, "found 'raw\\+raw'"),
        ({"blocks": "umap"}, "some of raw, pca, probe joined by '\\+'; found 'umap'"),
        ({"n_components": 0}, "n_components must be at least 1; found 0"),
    ],
)
def test_recipes_refuse_what_does_not_exist(wish, message):
    with pytest.raises(UsageError, match=message):
        Recipe().changed(**wish)


def test_equal_rows_have_equal_digests_whatever_their_types():
    frame = pd.DataFrame({"a": [1, 2, 1], "b": ["x", None, "x"], "c": [[1.0], [2.0], [1.0]]})
    digests = row_digests(frame)
    assert digests[0] == digests[2] != digests[1]
    other_types = frame.astype({"a": "float64", "b": "category"})
    assert row_digests(other_types) == digests
    assert len(row_digests(frame[[]])) == 3
