"""Check what compiled code follows without looking: trees, search trees, support vectors.

skops makes sure that a file holds objects of trusted types; what is in them may still be anything.
Where scikit-learn's own code would read beyond an array, or walk in a circle, it is checked here.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from twostage.opening.files import parse_json
from twostage.opening.lightgbm_text import check_text


def check_schema(schema: Any) -> None:
    """Check what skops hands to compiled code while it loads: LightGBM's text.

    Parameters
    ----------
    schema : JSON value
        ``schema.json`` of a skops file.

    Raises
    ------
    ValueError
        If a booster's text is missing, or would harm LightGBM.
    """
    for node in _nodes(schema):
        if node.get("__class__") == "Booster":
            check_text(_text_of(node))


def check_objects(learned: Any) -> None:
    """Check all that an object holds.

    Raises
    ------
    ValueError
        If compiled code would leave an array or never come back.
    """
    for one in _all_objects(learned):
        for kind in type(one).__mro__:
            fitted, check = _CHECKS.get(kind.__name__, ("", None))
            if check is None or not hasattr(one, fitted):
                continue
            try:
                check(one)
            except Exception as error:  # whatever comes of attributes of any type
                raise ValueError(f"{type(one).__name__}: {error}") from error


def _nodes(schema: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(schema, dict):
        yield schema
        for value in schema.values():
            yield from _nodes(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _nodes(value)


def _text_of(node: Mapping[str, Any]) -> str:
    try:
        state = node["content"]["content"]
        handles = [state[key]["content"] for key in ("_handle", "handle") if key in state]
        (text,) = (parse_json(handle.encode()) for handle in handles)
    except (KeyError, TypeError, AttributeError, ValueError):
        text = None
    if not isinstance(text, str):
        raise ValueError("it has a booster of LightGBM without its text")
    return text


def _all_objects(learned: Any) -> Iterator[Any]:
    """Yield an object and all that it consists of, each once."""
    waiting, met = [learned], {}
    while waiting:
        one = waiting.pop()
        if id(one) in met or isinstance(one, (str, bytes, int, float, type, type(None))):
            continue
        met[id(one)] = one  # kept, so that no other gets its id
        yield one
        if isinstance(one, Mapping):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, (list, tuple, set, frozenset)):
            waiting += one
        elif isinstance(one, np.ndarray):
            waiting += one.ravel().tolist() if one.dtype == object else []
        else:
            waiting += getattr(one, "__dict__", {}).values()


def _check_decision_tree(estimator: Any) -> None:
    tree, n_features = estimator.tree_, _n_features(estimator)
    nodes = tree.__getstate__()["nodes"]
    if tree.n_features != n_features:
        raise ValueError(f"a tree of {tree.n_features} features in an estimator of {n_features}")
    is_inner = nodes["left_child"] != -1
    _check_nodes(nodes, is_inner, ("left_child", "right_child"), "feature", n_features)


def _check_ensemble(ensemble: Any) -> None:
    """Check that trees are as wide as what they are a part of: they are asked without a check."""
    chosen = getattr(ensemble, "estimators_features_", None)
    members = ensemble.estimators_
    for number, member in enumerate(members.ravel() if hasattr(members, "ravel") else members):
        if hasattr(member, "tree_"):
            width = _n_features(ensemble) if chosen is None else len(chosen[number])
            if _n_features(member) != width:
                raise ValueError(f"a tree of {member.n_features_in_} features among {width}")


def _check_histogram_boosting(estimator: Any) -> None:
    n_features = _n_features(estimator)
    if len(estimator._bin_mapper.is_categorical_) != n_features:
        raise ValueError("the bins are of other features")
    for predictor in _all_objects(estimator._predictors):
        if type(predictor).__name__ == "TreePredictor":
            _check_predictor(predictor, n_features)


def _check_predictor(predictor: Any, n_features: int) -> None:
    nodes = predictor.nodes
    is_inner = nodes["is_leaf"] == 0
    _check_nodes(nodes, is_inner, ("left", "right"), "feature_idx", n_features)
    by_category = nodes["bitset_idx"][is_inner & (nodes["is_categorical"] != 0)]
    for bitsets in (predictor.raw_left_cat_bitsets, predictor.binned_left_cat_bitsets):
        if bitsets.shape[1:] != (8,) or (by_category >= len(bitsets)).any():
            raise ValueError("a tree has no such set of categories")


def _check_nodes(
    nodes: np.ndarray,
    is_inner: np.ndarray,
    children: tuple[str, str],
    feature: str,
    n_features: int,
) -> None:
    """Check that children come after their parents, within the nodes, and that features exist."""
    if len(nodes) == 0:
        raise ValueError("a tree has no nodes")
    place = np.flatnonzero(is_inner)
    for side in children:
        child = nodes[side][is_inner].astype(np.int64)
        if (child <= place).any() or (child >= len(nodes)).any():
            raise ValueError("a tree's nodes lead astray")
    asked = nodes[feature][is_inner].astype(np.int64)
    if ((asked < 0) | (asked >= n_features)).any():
        raise ValueError("a tree asks for features that there are not")


def _check_search_tree(tree: Any) -> None:
    """Check that a k-d or ball tree is the one that its points make."""
    points, order, nodes, bounds, leaf_size, *_, metric, weight = tree.__getstate__()
    if not np.isfinite(points).all() or weight is not None:
        raise ValueError("a search tree holds points that are none, or weights")
    anew = type(tree)(np.asarray(points), leaf_size=leaf_size, metric=metric).__getstate__()
    for mine, theirs in zip((order, nodes, bounds), anew[1:4], strict=True):
        if np.asarray(mine).tobytes() != np.asarray(theirs).tobytes():
            raise ValueError("a search tree is not the one that its points make")
    if tree.__getstate__()[4:7] != anew[4:7]:
        raise ValueError("a search tree is not the one that its points make")


def _check_neighbors(estimator: Any) -> None:
    n = estimator.n_samples_fit_
    if estimator._fit_X.shape != (n, _n_features(estimator)) or len(estimator._y) != n:
        raise ValueError("neighbours have not as many labels as points")
    if hasattr(estimator, "classes_"):
        labels = np.asarray(estimator._y)
        many = estimator.classes_ if estimator.outputs_2d_ else [estimator.classes_]
        for column, classes in zip(labels.reshape(n, -1).T, many, strict=True):
            if (column < 0).any() or (column >= len(classes)).any():
                raise ValueError("neighbours have labels of no class")


def _check_support_vectors(machine: Any) -> None:
    vectors, counts = machine.support_vectors_, np.asarray(machine._n_support)
    n_classes = len(counts)
    n_pairs = n_classes * (n_classes - 1) // 2
    if machine.kernel == "precomputed" or machine._sparse or "_impl" in vars(machine):
        raise ValueError("a support vector machine of other rows than a table's")
    is_of_classes = machine._impl in ("c_svc", "nu_svc")  # of values, only the first count is one
    n_vectors = counts.sum() if is_of_classes else counts[0]
    if (
        n_classes < 2
        or (is_of_classes and (counts < 0).any())
        or (n_classes > 2 and not is_of_classes)
    ):
        raise ValueError("a support vector machine of no classes")
    shapes = {
        "support_vectors_": (int(n_vectors), _n_features(machine)),
        "support_": (len(vectors),),
        "_dual_coef_": (n_classes - 1, len(vectors)),
        "dual_coef_": (n_classes - 1, len(vectors)),
        "_intercept_": (n_pairs,),
        "intercept_": (n_pairs,),
    }
    for name, shape in shapes.items():
        if np.shape(getattr(machine, name)) != shape:
            raise ValueError(f"{name} of a support vector machine is not of shape {shape}")
    if any(len(getattr(machine, name)) not in (0, n_pairs) for name in ("_probA", "_probB")):
        raise ValueError("a support vector machine of other pairs of classes")
    if len(getattr(machine, "classes_", counts)) != n_classes:
        raise ValueError("a support vector machine of other classes")


def _n_features(estimator: Any) -> int:
    n = estimator.n_features_in_
    if not isinstance(n, (int, np.integer)) or isinstance(n, bool) or n < 1:
        raise ValueError(f"an estimator of {n!r:.40} features")
    return int(n)


# By the name of the class that brings compiled code along: what it has when fitted, and the check.
_CHECKS: dict[str, tuple[str, Callable[[Any], None]]] = {
    "BaseDecisionTree": ("tree_", _check_decision_tree),
    "BaseForest": ("estimators_", _check_ensemble),
    "BaseGradientBoosting": ("estimators_", _check_ensemble),
    "BaseBagging": ("estimators_", _check_ensemble),
    "BaseHistGradientBoosting": ("_predictors", _check_histogram_boosting),
    "BinaryTree64": ("__getstate__", _check_search_tree),
    "NeighborsBase": ("_fit_X", _check_neighbors),
    "BaseLibSVM": ("support_vectors_", _check_support_vectors),
}
