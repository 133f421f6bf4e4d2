"""Members, blends and tuning: everything is learned in the rows given, and nowhere else."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GridSearchCV

import twostage.blending as blending
from twostage import TwoStageClassifier, TwoStageRegressor, load_model
from twostage.blending import blend_weights, out_of_fold
from twostage.encoding import FeatureEncoder
from twostage.errors import DataError, UsageError
from twostage.fitted import FitSettings
from twostage.fitting import weighted
from twostage.heads import Blend, head_class, heads_of, make_head, name_of
from twostage.heads.base import Task
from twostage.heads.blend import best_weights
from twostage.heads.lightgbm import LightGBMHead
from twostage.heads.linear import LinearHead
from twostage.joins import ImageBlock
from twostage.members import Member, MemberPlan
from twostage.recipes import Recipe
from twostage.rows import TrainingRows, row_digests
from twostage.table.roles import RoleOverrides, infer_roles
from twostage.targets import Target
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
    "network of words": Recipe("robust", True, "native", "native", "raw", texts="words"),
}


@pytest.mark.parametrize("n_classes", [None, 3])
@pytest.mark.parametrize("name", RECIPES)
def test_features_have_names_and_are_the_same_after_saving(tmp_path, name, n_classes):
    rows = _rows(n_classes=n_classes)
    texts = ("report",) if RECIPES[name].texts == "words" else ()
    columns = infer_roles(rows.frame, RoleOverrides(vector=("vector",), text=texts), {})
    encoder, features = FeatureEncoder.fit_transform(rows, columns, RECIPES[name], 0)
    assert len(encoder.feature_names()) == features.n_features == features.matrix().shape[1]
    new = _rows(30, seed=1, n_classes=n_classes)
    encoder.save(tmp_path)
    again = FeatureEncoder.load(tmp_path).transform(new.frame, new.blocks)
    expected = encoder.transform(new.frame, new.blocks)
    np.testing.assert_array_equal(again.matrix(), expected.matrix())
    assert again.cardinalities == features.cardinalities == expected.cardinalities
    assert len(again.texts) == len(features.texts) == len(texts)
    for one, other in zip(again.texts, expected.texts, strict=True):
        np.testing.assert_array_equal(one.numbers, other.numbers)
        assert one.numbers[0, :2].tolist() == [6, 5]  # of equally frequent words, by letters
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
    assert [name_of(head) for head in heads_of("blend")] == ["linear", "lightgbm", "svm"]
    many = heads_of("blend", n_rows=10_001)  # whose squares an SVM would take
    assert [name_of(head) for head in many] == ["linear", "lightgbm"]
    of_species = heads_of("blend", n_rows=990, n_classes=99)  # where trees are slow and bad
    assert [name_of(head) for head in of_species] == ["linear", "keras"]
    assert isinstance(make_head("linear+svm"), Blend)
    nested = Blend(["linear+lightgbm", LightGBMHead(num_leaves=3)])
    assert [name_of(head) for head in heads_of(nested)] == ["linear", "lightgbm", "lightgbm"]


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("lightgmb", r"Unknown head 'lightgmb'. Did you mean 'lightgbm'\? Heads: lightgbm, keras"),
        ("linear+blend", "'blend' can't be a part of 'linear.blend'. Name its parts"),
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


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (LightGBMHead(num_leaves=1), "'num_leaves' parameter of LightGBMHead must be an int"),
        (LightGBMHead(feature_fraction=2.0), "'feature_fraction' .* Got 2.0"),
        (LightGBMHead(n_trees=0), "'n_trees' .* Got 0"),
        (LinearHead(penalty=0.0), "'penalty' .* Got 0.0"),
        (head_class("svm")(C=-1.0), "'C' .* Got -1.0"),
        (head_class("random-forest")(max_features=1.5), "'max_features' .* Got 1.5"),
        (head_class("keras")(dropout=1.0), "'dropout' .* Got 1.0"),
    ],
    ids=str,
)
def test_a_parameter_out_of_range_is_refused_before_anything_is_computed(head, message):
    with pytest.raises(UsageError, match=message):
        TwoStageRegressor(head=head).fit(np.arange(40.0).reshape(20, 2), np.arange(20.0))


@pytest.mark.parametrize("name", ["lightgbm", "keras", "linear", "random-forest", "svm"])
def test_every_parameter_of_a_head_has_its_range_and_the_defaults_are_in_it(name):
    head = head_class(name)()
    assert set(head._parameter_constraints) == set(head.get_params())
    head.check_parameters()


def _one_class_in_one_group(n=300, width=12, seed=0):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    vectors = rng.normal(size=(n, width)) + 1.5 * np.eye(3, width)[y]
    texts = [f"{['red', 'green', 'blue'][k]} thing number {i % 9}" for i, k in enumerate(y)]
    frame = pd.DataFrame({"v": list(vectors.astype(np.float32)), "said": texts})
    groups = np.where(y == 2, 0, 1 + np.arange(n) // 3)
    return frame, y, groups


@pytest.mark.parametrize("head", ["lightgbm", "random-forest", "linear", "svm"])
@pytest.mark.parametrize("column", ["v", "said"])
def test_a_class_of_one_group_is_learned_from_more_than_its_scores(head, column):
    """Its rows are never scored by what saw the class: the scores must not tell it for that."""
    frame, y, groups = _one_class_in_one_group()
    new, truth, _ = _one_class_in_one_group(seed=1)
    roles = {"vector": "v"} if column == "v" else {"text": "said"}
    model = TwoStageClassifier(head=head, **roles).fit(frame[[column]], y, groups=groups)
    recall = (model.predict(new[[column]])[truth == 2] == 2).mean()
    assert recall > (0.5 if column == "v" else 0.9)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["lightgbm", "random-forest", "linear", "svm", "blend"])
@pytest.mark.parametrize("n_present", [1, 20])
def test_a_column_of_vectors_that_one_group_has_is_no_error(head, n_present):
    frame, y, _ = _one_class_in_one_group(120)
    frame["v"] = frame["v"].where(np.arange(120) < n_present, None)
    frame["area"] = np.random.default_rng(0).normal(size=120)
    groups = np.where(np.arange(120) < n_present, 0, np.arange(120))
    model = TwoStageClassifier(head=head, vector="v").fit(frame[["v", "area"]], y, groups=groups)
    assert np.isfinite(model.predict_proba(frame[["v", "area"]])).all()


@pytest.mark.parametrize("head", ["lightgbm", "linear", "svm", "random-forest"])
@pytest.mark.parametrize("total", [1.0, 0.04])
def test_weights_that_are_shares_weigh_as_equal_ones(head, total):
    frame = pd.DataFrame({"area": np.random.default_rng(0).normal(size=(400))})
    y = 2 * frame["area"] + np.sin(3 * frame["area"])
    plain = TwoStageRegressor(head=head).fit(frame, y).predict(frame)
    shares = np.full(400, total / 400)
    weighed = TwoStageRegressor(head=head).fit(frame, y, sample_weight=shares).predict(frame)
    assert r2_score(plain, weighed) > 0.999  # but for rounding


def test_rows_of_no_weight_are_as_if_they_were_not_there():
    rng = np.random.default_rng(0)
    n = 200
    frame = pd.DataFrame({"area": rng.normal(size=n), "number": np.arange(n)})
    frame.loc[100:, "number"] = 7  # only rows without weight repeat a number
    y = (frame["area"] + rng.normal(size=n) > 0).astype(int)
    y[150:] = 1
    weight = (np.arange(n) < 100).astype(float)
    model = TwoStageClassifier(class_weight="balanced")
    all_rows = model.fit(frame, y, sample_weight=weight)
    proba, n_rows = all_rows.predict_proba(frame), all_rows.model_.n_rows
    kept = model.fit(frame[:100], y[:100])
    np.testing.assert_array_equal(kept.predict_proba(frame), proba)
    assert n_rows == kept.model_.n_rows == len(kept.model_.trained_on) == 100


def test_classes_are_balanced_where_the_model_learns_alone():
    rows = _rows(n_classes=2)
    rows = replace(rows, y=np.r_[np.zeros(100, int), np.ones(60, int)])
    settings = FitSettings("t", head="linear", class_weight="balanced")
    target = Target("classification", rows.y, np.array(["a", "b"]))
    weight = weighted(rows.take(np.arange(40, 160)), target, settings).sample_weight
    np.testing.assert_allclose([weight[:60].sum(), weight[60:].sum()], [60, 60])


def test_groups_of_an_estimator_are_remembered():
    frame = pd.DataFrame({"area": np.arange(40.0)})
    groups = np.repeat([f"patient {i}" for i in range(10)], 4)
    model = TwoStageRegressor(head="linear").fit(frame, np.arange(40.0), groups=groups)
    assert model.model_.trained_on["group"].tolist() == groups.tolist()


@pytest.mark.parametrize("how", ["frame", "column", "series"])
def test_groups_come_as_any_column(how):
    frame = pd.DataFrame({"area": np.arange(40.0)})
    groups = np.arange(40) // 4
    shapes = {"frame": pd.DataFrame({"g": groups}), "column": groups[:, None]}
    given = shapes.get(how, pd.Series(groups))
    model = TwoStageRegressor(head="linear").fit(frame, np.arange(40.0), groups=given)
    assert model.model_.trained_on["group"].nunique() == 10


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({0: -1.0, 1: 1.0}, "weight of class 0 is -1.0; give a number that is not negative"),
        ({0: 1.0, 5: 1.0}, "class_weight has '5', which the target has not. Its classes: '0', '1'"),
        ("heavy", "'balanced' or a weight for each class; found 'heavy'"),
    ],
    ids=str,
)
def test_class_weights_that_do_not_fit_are_refused(weights, message):
    model = TwoStageClassifier(head="linear", class_weight=weights)
    with pytest.raises(UsageError, match=message):
        model.fit(np.arange(40.0).reshape(20, 2), np.arange(20) % 2)


def test_seconds_since_1970_stay_different_to_trees():
    seconds = 1.6e9 + 7.0 * np.arange(1000)
    y = np.arange(1000) // 50 % 2
    model = TwoStageClassifier(numeric="t").fit(pd.DataFrame({"t": seconds}), y)
    assert (model.predict(pd.DataFrame({"t": seconds})) == y).mean() > 0.97


def test_numpys_numbers_in_settings_are_saved(tmp_path):
    search = GridSearchCV(TwoStageRegressor(), {"head__num_leaves": np.arange(4, 6)}, cv=2)
    X = pd.DataFrame({"area": np.random.default_rng(0).normal(size=60)})
    best = search.fit(X, X["area"]).best_estimator_.set_params(n_components=np.int64(5))
    best.fit(X, X["area"]).save(tmp_path / "model")
    np.testing.assert_array_equal(load_model(tmp_path / "model").predict(X), best.predict(X))


def test_a_logarithm_beyond_all_numbers_is_the_largest():
    X = pd.DataFrame({"a": np.arange(100.0)})
    model = TwoStageRegressor(head="linear", scaling="standard", log_target=True)
    predicted = model.fit(X, np.exp(X["a"] / 10)).predict(pd.DataFrame({"a": [1e5]}))
    assert np.isfinite(predicted).all()
