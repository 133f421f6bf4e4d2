"""Check LightGBM's text before LightGBM reads it: its C++ follows numbers wherever they lead."""

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np

_MOST_LEAVES = 131_072  # LightGBM's own limit
_DEEPEST = 4096  # its C++ walks down by recursion
_NUMBERS = re.compile(r"[-+.0-9eE ]*")
_OBJECTIVE = re.compile(r"[a-z_0-9]+( [a-z_]+(:[-+.0-9e]+)?)*")
_PARAMETER = re.compile(r"\[[a-zA-Z0-9_]+: [ -~]*\]")
_HEADER = {
    *("version", "num_class", "num_tree_per_iteration", "label_index", "max_feature_idx"),
    *("objective", "feature_names", "monotone_constraints", "feature_infos", "tree_sizes"),
}
_FLAGS = {"average_output"}
_OF_NODES = ("split_feature", "split_gain", "threshold", "decision_type")
_CHILDREN = ("left_child", "right_child")
_SUMS_OF_NODES = ("internal_value", "internal_weight", "internal_count")
_OF_LEAVES = ("leaf_value", "leaf_weight", "leaf_count")
_OF_CATEGORIES = ("cat_boundaries", "cat_threshold")
_SCALARS = ("num_leaves", "num_cat", "is_linear", "shrinkage")
_OF_TREES = {*_SCALARS, *_OF_NODES, *_CHILDREN, *_SUMS_OF_NODES, *_OF_LEAVES, *_OF_CATEGORIES}
_END = "end of trees"
_CATEGORICAL, _DECISIONS = 1, 16  # a bit of the decision type, and how many types there are


def check_text(text: str) -> None:
    """Make sure that LightGBM can read a model's text, and follow its trees, without harm.

    Parameters
    ----------
    text : str
        As ``Booster.save_model`` and ``model_to_string`` write it.

    Raises
    ------
    ValueError
        If it is anything but that: says what is wrong where.
    """
    if not text.isascii() or "\0" in text or "\r" in text:
        raise ValueError("it holds characters that no model has")
    head, mark, trees = text.partition("\nTree=0\n")
    if not mark:
        raise ValueError("it has no trees")
    header = _header(head)
    n_features = _check_header(header)
    trees, end, rest = trees.partition(f"\n{_END}\n")
    if not end:
        raise ValueError("it has no end of trees")
    blocks = _blocks(f"Tree=0\n{trees}\n{_END}\n", header)
    per_iteration = _whole(header, "num_tree_per_iteration")
    if len(blocks) % per_iteration:
        raise ValueError(f"{len(blocks)} trees are not {per_iteration} for each iteration")
    for number, block in enumerate(blocks):
        try:
            _check_tree(block, number, n_features)
        except ValueError as error:
            raise ValueError(f"tree {number}: {error}") from None
    _check_rest(rest)


def _header(head: str) -> dict[str, str]:
    first, *lines = head.splitlines()
    if first != "tree":
        raise ValueError(f"it begins with {first[:40]!r}, not 'tree'")
    return _pairs([line for line in lines if line not in _FLAGS], _HEADER)


def _pairs(lines: Sequence[str], known: set[str]) -> dict[str, str]:
    """Return what ``key=value`` lines hold, each key once, blank lines left out."""
    found: dict[str, str] = {}
    for line in filter(None, lines):
        key, mark, value = line.partition("=")
        if not mark or key not in known or key in found:
            raise ValueError(f"it has the line {line[:40]!r}")
        found[key] = value
    return found


def _check_header(header: Mapping[str, str]) -> int:
    """Check what stands before the trees, and return the number of features."""
    n_features = _whole(header, "max_feature_idx") + 1
    for key in ("feature_names", "feature_infos"):
        n_named = len(_value(header, key).split(" "))
        if n_named != n_features:
            raise ValueError(f"{key} are {n_named}, not {n_features}")
    n_classes = _whole(header, "num_class")
    if n_classes < 1 or n_classes != _whole(header, "num_tree_per_iteration"):
        raise ValueError(f"{n_classes} classes do not have a tree each")
    if header.get("version") != "v4":
        raise ValueError(f"it is of version {header.get('version')!r:.20}")
    objective = header.get("objective", "regression")
    if not _OBJECTIVE.fullmatch(objective):
        raise ValueError(f"its objective is {objective[:40]!r}")
    told = re.search(r"num_class:(\S+)", objective)
    if told and told[1] != str(n_classes):
        raise ValueError(f"its objective has {told[1]} classes, not {n_classes}")
    _whole(header, "label_index")
    if header.get("monotone_constraints"):
        _numbers(header, "monotone_constraints", n_features)
    return n_features


def _blocks(trees: str, header: Mapping[str, str]) -> list[str]:
    """Cut the trees apart where the sizes in the header say."""
    sizes = _numbers(header, "tree_sizes", None, whole=True)
    blocks, start = [], 0
    for number, size in enumerate(sizes.astype(np.int64).tolist()):
        if size < 1 or not trees.startswith(f"Tree={number}\n", start):
            raise ValueError(f"tree {number} is not where the sizes say")
        blocks.append(trees[start : start + size])
        start += size
    if trees[start:] != f"{_END}\n":
        raise ValueError("there is more than the sizes of the trees say")
    return blocks


def _check_tree(block: str, number: int, n_features: int) -> None:
    tree = _pairs(block.splitlines()[1:], _OF_TREES)
    n_leaves = _whole(tree, "num_leaves")
    n_sets = _whole(tree, "num_cat")
    if not 1 <= n_leaves <= _MOST_LEAVES or _whole(tree, "is_linear") != 0:
        raise ValueError(f"it has {n_leaves} leaves, or linear ones")
    if not np.isfinite(_numbers(tree, "shrinkage", 1)).all():
        raise ValueError("its shrinkage is no number")
    n_nodes = n_leaves - 1
    _check_leaves(tree, n_leaves)
    features = _numbers(tree, "split_feature", n_nodes, whole=True)
    _within(features, 0, n_features, "split_feature")
    for key in ("split_gain", *_SUMS_OF_NODES):
        _numbers(tree, key, n_nodes)
    thresholds = _numbers(tree, "threshold", n_nodes)
    decisions = _numbers(tree, "decision_type", n_nodes, whole=True)
    _within(decisions, 0, _DECISIONS, "decision_type")
    _check_sets(tree, n_sets, thresholds[decisions.astype(int) % 2 == _CATEGORICAL])
    _check_shape(*(_numbers(tree, key, n_nodes, whole=True) for key in _CHILDREN))


def _check_leaves(tree: Mapping[str, str], n_leaves: int) -> None:
    _numbers(tree, "leaf_value", n_leaves)
    for key in ("leaf_weight", "leaf_count"):
        if n_leaves > 1 or tree.get(key):
            _numbers(tree, key, n_leaves)


def _check_sets(tree: Mapping[str, str], n_sets: int, numbers: np.ndarray) -> None:
    """Check the sets of categories that nodes send to the left, and which set each names."""
    if n_sets == 0:
        if len(numbers):
            raise ValueError("it splits by categories, and has no sets of them")
        return
    bounds = _numbers(tree, "cat_boundaries", None, whole=True)
    words = _numbers(tree, "cat_threshold", None, whole=True)
    is_fine = len(bounds) == n_sets + 1 and bounds[0] == 0 and bounds[-1] == len(words)
    if not is_fine or (np.diff(bounds) < 1).any():
        raise ValueError("its sets of categories do not fit its words")
    _within(words, 0, 2**32, "cat_threshold")
    if (numbers != np.floor(numbers)).any():
        raise ValueError("the number of a set is not whole")
    _within(numbers, 0, n_sets, "the number of a set")


def _check_shape(left: np.ndarray, right: np.ndarray) -> None:
    """Check that nodes make a tree: children come later, and each has one parent."""
    n_nodes = len(left)
    if n_nodes == 0:
        return
    children = np.concatenate([left, right]).astype(np.int64)
    wanted = np.concatenate([np.arange(1, n_nodes), -1 - np.arange(n_nodes + 1)])
    parents = np.tile(np.arange(n_nodes), 2)
    if not np.array_equal(np.sort(children), np.sort(wanted)):
        raise ValueError("its nodes and leaves are not each the child of one node")
    is_node = children >= 0
    if (children[is_node] <= parents[is_node]).any():
        raise ValueError("a node is the child of a later one")
    if n_nodes > _DEEPEST:
        depth = [0] * n_nodes
        parent_of = dict(zip(children[is_node].tolist(), parents[is_node].tolist(), strict=True))
        for node in range(1, n_nodes):
            depth[node] = depth[parent_of[node]] + 1
        if max(depth) > _DEEPEST:
            raise ValueError(f"it is {max(depth):,} nodes deep")


def _check_rest(rest: str) -> None:
    """Check what follows the trees: importances, the parameters of the training."""
    before, mark, parameters = rest.partition("parameters:\n")
    if mark:
        parameters, end, rest = parameters.partition("end of parameters\n")
        lines = list(filter(None, parameters.splitlines()))
        if not end or not all(map(_PARAMETER.fullmatch, lines)):
            raise ValueError("its parameters are none")
    else:
        before, rest = "", rest
    for line in filter(None, before.splitlines()):
        if line != "feature_importances:" and not re.fullmatch(r"[!-~]+=\d+", line):
            raise ValueError(f"behind the trees it has the line {line[:40]!r}")
    for line in filter(None, rest.splitlines()):
        key, _, value = line.partition(":")
        if key != "pandas_categorical":
            raise ValueError(f"behind the trees it has the line {line[:40]!r}")
        json.loads(value)


def _value(pairs: Mapping[str, str], key: str) -> str:
    if key not in pairs:
        raise ValueError(f"it has no {key}")
    return pairs[key]


def _whole(pairs: Mapping[str, str], key: str) -> int:
    value = _value(pairs, key)
    if not re.fullmatch(r"\d{1,9}", value):
        raise ValueError(f"{key} is {value[:40]!r}")
    return int(value)


def _numbers(
    pairs: Mapping[str, str], key: str, n: int | None, *, whole: bool = False
) -> np.ndarray:
    """Return the numbers of a line: finite, so many if n is given, without fractions if asked."""
    value = _value(pairs, key)
    if not _NUMBERS.fullmatch(value):
        raise ValueError(f"{key} holds what is no number")
    found = np.array(value.split(" ") if value else [], np.float64)
    if n is not None and len(found) != n:
        raise ValueError(f"{key} has {len(found)} numbers, not {n}")
    if not np.isfinite(found).all():
        raise ValueError(f"{key} holds what is no number")
    if whole and (found != np.floor(found)).any():
        raise ValueError(f"{key} holds fractions")
    return found


def _within(found: np.ndarray, low: int, high: int, what: str) -> None:
    if ((found < low) | (found >= high)).any():
        raise ValueError(f"{what} is not always in {low} to {high - 1}")
