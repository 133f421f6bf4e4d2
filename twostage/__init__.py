"""Two-stage transfer learning: image embeddings and a table into a model you can trust.

The public names below are imported on first use, so that ``import twostage`` stays light.
"""

from importlib import import_module
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twostage.benchmarking import benchmark
    from twostage.embedder import ImageEmbedder
    from twostage.estimator import TwoStageClassifier, TwoStageRegressor, load_model
    from twostage.extraction import extract, extract_values
    from twostage.finetuning import finetune
    from twostage.pretraining import train_encoder
    from twostage.store.store import EmbeddingStore
    from twostage.table.long import attach_sequences

_HOME_OF = {
    "ImageEmbedder": "twostage.embedder",
    "TwoStageClassifier": "twostage.estimator",
    "TwoStageRegressor": "twostage.estimator",
    "EmbeddingStore": "twostage.store.store",
    "attach_sequences": "twostage.table.long",
    "benchmark": "twostage.benchmarking",
    "extract": "twostage.extraction",
    "extract_values": "twostage.extraction",
    "finetune": "twostage.finetuning",
    "load_model": "twostage.estimator",
    "train_encoder": "twostage.pretraining",
}

__version__ = _version("twostage")
__all__ = [
    "EmbeddingStore",
    "ImageEmbedder",
    "TwoStageClassifier",
    "TwoStageRegressor",
    "attach_sequences",
    "benchmark",
    "extract",
    "extract_values",
    "finetune",
    "load_model",
    "train_encoder",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'twostage' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME_OF])
