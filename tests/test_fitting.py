"""One path to a fitted model: what is learned, from which rows, and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from twostage import fitting
from twostage.errors import DataError, UsageError
from twostage.fitted import FitSettings, FittedModel
from twostage.fitting import check_table, fit_and_score, fit_model, split_groups, training_rows
from twostage.heads.lightgbm import LightGBMHead
from twostage.joins import ImageBlock
from twostage.rows import TrainingRows
from twostage.table.roles import RoleOverrides
from twostage.targets import Target, prepare_target

N = 200


@pytest.fixture
def frame() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "photo": [f"{i}.jpg" for i in range(N)],
            "patient": [f"P{i // 4}" for i in range(N)],
            "age": rng.uniform(20, 80, N).round(1),
            "site": rng.choice(["arm", "leg"], N),
            "value": rng.normal(size=N),
        }
    )


@pytest.fixture
def block() -> ImageBlock:
    matrix = np.random.default_rng(1).normal(size=(N, 4)).astype(np.float32)
    return ImageBlock("photo", matrix, np.ones(N, int), [None] * N, [[f"h{i}"] for i in range(N)])


SETTINGS = FitSettings("value", image_columns=("photo",), group="patient")
TABLE_ONLY = replace(SETTINGS, features="table")


def fit(
    frame: pd.DataFrame, blocks: dict, target: Target, settings: FitSettings, weight: object = None
) -> FittedModel:
    """Fit on all rows of a table."""
    groups = frame.get(settings.group, ())
    return fit_model(
        training_rows(frame, blocks, target, settings, groups, weight), target, settings
    )


def test_the_held_out_rows_are_seen_by_nothing_that_is_scored(
    frame: pd.DataFrame, block: ImageBlock, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, scored = [], []
    fit_rows, score = fitting.fit_model, fitting.score_model

    def spy_fit(rows: TrainingRows, *args: object) -> object:
        trained.append(set(rows.frame.index))
        return fit_rows(rows, *args)

    def spy_score(model: object, rows: pd.DataFrame, *args: object) -> object:
        scored.append(set(rows.index))
        return score(model, rows, *args)

    monkeypatch.setattr(fitting, "fit_model", spy_fit)
    monkeypatch.setattr(fitting, "score_model", spy_score)
    target = prepare_target(frame["value"])
    model = fit_and_score(frame, {"photo": block}, target, SETTINGS)
    assert not trained[0] & scored[0]
    assert trained[0] | scored[0] == trained[1] == set(range(N))
    patients = frame["patient"]
    assert not set(patients[list(trained[0])]) & set(patients[list(scored[0])])
    assert model.holdout.n_rows == len(scored[0])
    assert model.n_rows == N


def test_a_score_on_noise_is_no_better_than_chance(frame: pd.DataFrame, block: ImageBlock) -> None:
    noise = prepare_target(pd.Series(np.random.default_rng(2).integers(0, 2, N), name="y"))
    settings = replace(SETTINGS, target="y", group=None)
    model = fit_and_score(frame, {"photo": block}, noise, settings)
    auc = model.holdout.scores["auc"]
    assert auc.low < 0.5 < auc.high


def test_rows_with_images_of_equal_bytes_are_one_group(
    frame: pd.DataFrame, block: ImageBlock
) -> None:
    block.content_hashes[7] = ["h150"]
    groups = split_groups({"photo": block}, [], N)
    assert groups[7] == groups[150]
    assert len(np.unique(groups)) == N - 1
    by_patient = split_groups({"photo": block}, frame["patient"], N)
    assert by_patient[4] == by_patient[7] == by_patient[150] == by_patient[151]


def test_target_group_and_images_are_no_features(frame: pd.DataFrame, block: ImageBlock) -> None:
    model = fit(frame, {"photo": block}, prepare_target(frame["value"]), SETTINGS)
    assert model.table_columns == ["age", "site"]
    assert model.dims == {"photo": 4}


@pytest.mark.parametrize(
    ("features", "columns", "dims"),
    [
        ("both", ["age", "site"], ["photo"]),
        ("images", [], ["photo"]),
        ("table", ["age", "site"], []),
    ],
)
def test_features_say_what_the_head_sees(
    frame: pd.DataFrame, block: ImageBlock, features: str, columns: list, dims: list
) -> None:
    settings = replace(SETTINGS, features=features)
    model = fit(frame, {"photo": block}, prepare_target(frame["value"]), settings)
    assert (model.table_columns, list(model.dims)) == (columns, dims)


def test_a_logarithm_is_learned_and_predictions_are_in_the_targets_unit(
    frame: pd.DataFrame,
) -> None:
    price = prepare_target(pd.Series(np.exp(frame["age"] / 10), name="price"), log_target=True)
    settings = FitSettings("price", features="table", log_target=True)
    model = fit_and_score(frame[["age", "site"]], {}, price, settings)
    assert next(iter(model.holdout.scores)) == "r2_log"
    assert model.holdout.scores["r2_log"].value > 0.9
    predicted = model.predict(frame, {})
    assert 0.8 < np.median(predicted / price.y) < 1.25


def test_nothing_left_to_learn_from_is_an_error_that_says_why(frame: pd.DataFrame) -> None:
    settings = FitSettings("value", features="table", roles=RoleOverrides(ignore=("age",)))
    target = prepare_target(frame["value"])
    with pytest.raises(DataError, match=r"'age': on request; 'patient': all values differ"):
        fit(frame[["age"]].assign(patient=range(N)), {}, target, settings)


def test_the_same_seed_gives_the_same_model(frame: pd.DataFrame, block: ImageBlock) -> None:
    target = prepare_target(frame["value"])
    first, second = (fit(frame, {"photo": block}, target, SETTINGS) for _ in range(2))
    np.testing.assert_array_equal(
        first.predict(frame, {"photo": block}), second.predict(frame, {"photo": block})
    )


def test_a_missing_column_is_named(frame: pd.DataFrame) -> None:
    settings = FitSettings("value", features="table", group="patient")
    model = fit(frame[["age", "site", "patient"]], {}, prepare_target(frame["value"]), settings)
    with pytest.raises(DataError, match="lacks 'age', which the model was trained with"):
        model.predict(frame[["site"]], {})


def test_columns_are_taken_by_name(frame: pd.DataFrame) -> None:
    settings = FitSettings("value", features="table", group="patient")
    model = fit(frame[["age", "site", "patient"]], {}, prepare_target(frame["value"]), settings)
    np.testing.assert_array_equal(
        model.predict(frame, {}), model.predict(frame[["site", "age"]], {})
    )


def test_a_model_remembers_what_it_was_trained_on(frame: pd.DataFrame, block: ImageBlock) -> None:
    model = fit(frame, {"photo": block}, prepare_target(frame["value"]), SETTINGS)
    assert list(model.trained_on) == ["content_hash", "group", "row_digest"]
    assert model.trained_on["content_hash"][3] == ["h3"]
    assert model.trained_on["group"][3] == "P0"
    assert model.trained_on["row_digest"].nunique() == N


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (FitSettings("prize"), "no target column 'prize'"),
        (FitSettings("value", group="patint"), "no group column 'patint'. Did you mean 'patient'"),
        (FitSettings("value", image_columns=("foto",)), "no image column 'foto'"),
        (FitSettings("value", roles=RoleOverrides(numeric=("agee",))), "Did you mean 'age'"),
    ],
)
def test_columns_that_do_not_exist_are_refused(
    frame: pd.DataFrame, settings: FitSettings, message: str
) -> None:
    with pytest.raises((DataError, UsageError), match=message):
        check_table(frame, settings)


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(UsageError, match="task must be one of auto, classification, regression"):
        FitSettings("value", task="ranking")


def test_text_in_a_numeric_column_is_named_by_its_row_in_the_whole_table(
    frame: pd.DataFrame,
) -> None:
    settings = replace(TABLE_ONLY, roles=RoleOverrides(numeric=("site",)))
    frame["site"] = ["7"] * 150 + ["seven"] + ["7"] * (N - 151)
    with pytest.raises(DataError, match="'site' is numeric, but row 151 holds 'seven'"):
        check_table(frame, settings)


def test_roles_are_told_once_for_the_score_and_the_model(
    frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms = np.arange(N)
    rooms[-1] = 0  # one repetition: without it, the column would look like an id
    frame = frame.assign(rooms=np.random.default_rng(3).permutation(rooms))
    seen = []
    fit_rows = fitting.fit_model

    def spy(*args: object) -> object:
        model = fit_rows(*args)
        seen.append({column.name: column.role for column in model.columns})
        return model

    monkeypatch.setattr(fitting, "fit_model", spy)
    for seed in range(5):
        settings = replace(TABLE_ONLY, random_state=seed)
        fit_and_score(frame, {}, prepare_target(frame["value"]), settings)
    assert all(roles == seen[0] for roles in seen)
    assert seen[0]["rooms"] == "numeric"


@pytest.mark.parametrize("name", ["prediction", "error", "n_images", "proba_yes"])
def test_given_columns_may_not_bear_the_names_of_predictions(
    frame: pd.DataFrame, name: str
) -> None:
    settings = FitSettings("value", group=name)
    with pytest.raises(DataError, match=f"'{name}' bears the name"):
        check_table(frame.rename(columns={"patient": name}), settings)


def test_a_row_without_a_group_is_remembered_without_one(frame: pd.DataFrame) -> None:
    frame["patient"] = frame["patient"].where(frame.index != 3)
    model = fit(frame, {}, prepare_target(frame["value"]), TABLE_ONLY)
    assert model.trained_on["group"].isna().tolist() == [i == 3 for i in range(N)]


def test_rows_of_no_weight_are_learned_from_as_little_as_if_they_were_not_there(
    frame: pd.DataFrame,
) -> None:
    weight = np.r_[np.ones(150), np.zeros(50)]
    frame["value"] = frame["age"].where(frame.index < 150, 1e6)
    weighted = fit(frame, {}, prepare_target(frame["value"]), TABLE_ONLY, weight)
    short = frame[:150]
    without = fit(short, {}, prepare_target(short["value"]), TABLE_ONLY)
    np.testing.assert_array_equal(weighted.predict(frame, {}), without.predict(frame, {}))


def test_weights_that_are_all_zero_are_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(DataError, match="All sample weights are 0"):
        fit(frame, {}, prepare_target(frame["value"]), TABLE_ONLY, np.zeros(N))


def test_balanced_classes_make_rare_ones_likelier(frame: pd.DataFrame) -> None:
    rng = np.random.default_rng(9)
    rare = prepare_target(pd.Series(rng.random(N) < 0.1, name="value"))
    plain, balanced = (
        fit(frame, {}, rare, replace(TABLE_ONLY, class_weight=weight, head="linear"))
        for weight in (None, "balanced")
    )
    assert plain.predict_proba(frame, {})[:, 1].mean() == pytest.approx(rare.y.mean(), abs=0.02)
    assert balanced.predict_proba(frame, {})[:, 1].mean() > 0.4


def test_weights_of_classes_need_classes(frame: pd.DataFrame) -> None:
    settings = replace(TABLE_ONLY, class_weight="balanced")
    with pytest.raises(UsageError, match="Class weights need classes"):
        fit(frame, {}, prepare_target(frame["value"]), settings)


def test_a_blend_is_scored_and_predicts_as_the_weighted_mean_of_its_members(
    frame: pd.DataFrame, block: ImageBlock
) -> None:
    frame["value"] = frame["age"] / 20 + np.sin(frame["age"]) + block.matrix[:, 0]
    settings = replace(SETTINGS, head="linear+lightgbm")
    target = prepare_target(frame["value"])
    model = fit_and_score(frame, {"photo": block}, target, settings)
    assert len(model.members) == len(model.weights) == 2
    assert sum(model.weights) == pytest.approx(1)
    parts = [member.predict(frame, {"photo": block}) for member in model.members]
    np.testing.assert_allclose(
        model.predict(frame, {"photo": block}), np.average(parts, axis=0, weights=model.weights)
    )


def test_a_head_that_cannot_do_the_task_is_refused(frame: pd.DataFrame) -> None:
    settings = replace(TABLE_ONLY, head=LogisticRegression())
    with pytest.raises(UsageError, match="LogisticRegression"):
        fit(frame, {}, prepare_target(frame["value"]), settings)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["2020-01-05"] * 150 + ["soon"] + ["2021-03-01"] * 49, "row 151 holds 'soon'"),
        (np.r_[np.arange(199.0), np.inf], "infinite or too large value in row 200"),
    ],
)
def test_a_value_that_does_not_fit_its_column_is_named_before_anything_is_computed(
    frame: pd.DataFrame, values: object, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        check_table(frame.assign(seen=values), TABLE_ONLY)


def test_recipe_and_pooling_of_the_user_are_checked() -> None:
    with pytest.raises(UsageError, match="image_pooling must be one of mean, max, first"):
        FitSettings("value", image_pooling="sum")
    with pytest.raises(UsageError, match="give 0 or more"):
        FitSettings("value", n_tuned=-1)


@pytest.mark.slow
def test_a_class_with_fewer_rows_than_folds_is_learned_all_the_same(frame: pd.DataFrame) -> None:
    labels = np.where(frame["age"] > 50, "old", "young").astype(object)
    labels[:2] = "rare"
    target = prepare_target(pd.Series(labels, name="value"))
    for head in ("lightgbm", "linear", "blend"):
        model = fit(frame, {}, target, replace(TABLE_ONLY, head=head, group=None))
        assert model.predict_proba(frame, {}).shape == (N, 3)


def test_100_000_categories_are_encoded_in_seconds() -> None:
    rng = np.random.default_rng(0)
    names = rng.integers(0, 60_000, 100_000)
    frame = pd.DataFrame({"sku": names.astype(str), "value": names % 7 + rng.normal(size=100_000)})
    settings = FitSettings("value", features="table", head=LightGBMHead(n_trees=5))
    model = fit(frame, {}, prepare_target(frame["value"]), settings)
    assert model.columns[0].n_values > 40_000
    assert np.corrcoef(model.predict(frame, {}), frame["value"])[0, 1] > 0.3
