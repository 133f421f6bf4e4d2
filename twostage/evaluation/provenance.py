"""What a benchmark is of, and where it comes from: the record in its ``run.json``."""

import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import joblib
import numpy as np

from twostage.evaluation.arms import Arm
from twostage.evaluation.gathering import Gathered
from twostage.evaluation.resampling import Fold, Resampling
from twostage.fingerprint import hash_json
from twostage.heads import heads_of
from twostage.rows import row_digests
from twostage.store.store import EmbeddingStore

_VERSIONS = ("twostage", "scikit-learn", "lightgbm", "keras", "skrub", "numpy", "pandas")


def identity_of(
    data: Gathered, arms: Sequence[Arm], how: Resampling, near_duplicates: float | None
) -> dict[str, Any]:
    """Return what a benchmark is of: of another one no cell is taken over."""
    digests = row_digests(data.frame)
    common = {
        name: value
        for name, value in arms[0].settings.record().items()
        if name not in ("head", "heads", "features", "n_jobs")
    }
    return {
        "table": {
            "rows": len(data.frame),
            "columns": [str(name) for name in data.frame.columns],
            "digest": hash_json(digests),
        },
        "stores": {
            name: hash_json(
                [store.spec, store.seen.digest]
                + [block.content_hashes for block in data.rows[name].blocks.values()]
            )
            for name, store in data.stores.items()
        },
        "heads": {
            arm.head: [
                [str(type(head).__name__), str(head)] for head in heads_of(arm.settings.head)
            ]
            for arm in arms
        },
        **_tuning_of(arms),
        "features": list(dict.fromkeys(arm.features for arm in arms)),
        "settings": common,
        "resampling": asdict(how),
        "near_duplicates": near_duplicates,
        "versions": {name: version(name) for name in _VERSIONS},
    }


def _tuning_of(arms: Sequence[Arm]) -> dict[str, Any]:
    """Return how backbones are trained in the folds, if any is."""
    found = {arm.head: arm.staging.options() for arm in arms if arm.staging is not None}
    return {"tuning": found} if found else {}


def facts_of(
    data: Gathered, arms: Sequence[Arm], folds: Sequence[Fold], n_jobs: int | None
) -> dict[str, Any]:
    """Return what is known before anything is computed: machine, stores, arms, folds, counts."""
    return {
        "machine": _machine(n_jobs),
        "stores": [_store_record(name, store) for name, store in data.stores.items()],
        "arms": [_arm_record(arm) for arm in arms],
        "task": data.target.task,
        "counts": _counts(data, folds),
        "folds": [_fold_record(fold) for fold in folds],
    }


def _machine(n_jobs: int | None) -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": int(joblib.cpu_count()),
        "n_jobs": n_jobs,
    }


def _store_record(name: str, store: EmbeddingStore) -> dict[str, Any]:
    seen = store.seen
    return {
        "name": name,
        "path": store.files.address,
        "spec": store.spec,
        "tuned": bool(seen.content_hashes or seen.groups or not seen.is_known),
        "n_images_seen": len(seen.content_hashes),
        "n_groups_seen": len(seen.groups),
        "seen_is_known": seen.is_known,
    }


def _arm_record(arm: Arm) -> dict[str, Any]:
    return {name: getattr(arm, name) for name in ("name", "head", "features", "store")}


def _counts(data: Gathered, folds: Sequence[Fold]) -> dict[str, int | bool]:
    """Count rows by what becomes of them."""
    tested = np.unique(np.concatenate([fold.test for fold in folds]))
    duplicates = data.duplicates
    return {
        "n_rows": len(data.frame),
        "n_groups": len(np.unique(duplicates.groups)),
        "n_scored": len(tested),
        "n_seen": int(data.is_seen.sum()),
        "n_unreadable": data.n_unusable,
        "n_rows_with_equal_images": duplicates.n_equal_rows,
        "n_near_duplicate_pairs": duplicates.n_near_pairs,
        "n_near_duplicate_rows": duplicates.n_near_rows,
        "near_duplicates_joined": duplicates.is_joined,
        "n_kin_left_out": sum(fold.n_kin for fold in folds),
        "n_unlearnable": sum(fold.n_unlearnable for fold in folds),
    }


def _fold_record(fold: Fold) -> dict[str, int]:
    return {
        "repeat": fold.repeat,
        "fold": fold.number,
        "n_train": len(fold.train),
        "n_test": len(fold.test),
        "n_kin_left_out": fold.n_kin,
        "n_unlearnable": fold.n_unlearnable,
    }
