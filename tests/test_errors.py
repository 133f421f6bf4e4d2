"""Error types: exit codes, scikit-learn's contract, and the helpers that word a message."""

import pytest

from twostage import errors
from twostage.errors import DataError, ImageError, TwoStageError, UsageError, did_you_mean, listed

TYPES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not TwoStageError
]


@pytest.mark.parametrize("kind", TYPES)
def test_every_error_is_a_twostage_error(kind):
    assert issubclass(kind, TwoStageError)


@pytest.mark.parametrize("kind", TYPES)
def test_only_a_usage_error_exits_with_2(kind):
    assert kind.exit_code == (2 if kind is UsageError else 1)


@pytest.mark.parametrize("kind", [UsageError, DataError])
def test_errors_of_scikit_learns_contract_are_value_errors(kind):
    with pytest.raises(ValueError, match="column 'a'"):
        raise kind("column 'a'")


def test_image_error_says_kind_and_reason():
    error = ImageError("decode", "the file is empty")
    assert (error.kind, error.reason, str(error)) == (
        "decode",
        "the file is empty",
        "decode: the file is empty",
    )


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("efficientnt_b0", ["resnet50", "efficientnet_b0"], " Did you mean 'efficientnet_b0'?"),
        ("colour", (name for name in ["color", "size"]), " Did you mean 'color'?"),
        ("resnet", ["resnext", "resnet152v2"], " Did you mean 'resnet152v2'?"),
        ("zzz", ["resnet50"], ""),
        ("resnet", [], ""),
    ],
)
def test_did_you_mean_names_the_closest_known_name_or_nothing(name, known, hint):
    assert did_you_mean(name, known) == hint


@pytest.mark.parametrize(
    ("names", "most", "text"),
    [
        (["a"], 5, "'a'"),
        (["a", "b"], 2, "'a', 'b'"),
        (["a", "b", "c", "d"], 2, "'a', 'b' and 2 more"),
        ([1, 2.5], 5, "'1', '2.5'"),
        ([], 5, ""),
    ],
)
def test_listed_quotes_the_first_names_and_counts_the_rest(names, most, text):
    assert listed(names, most) == text
