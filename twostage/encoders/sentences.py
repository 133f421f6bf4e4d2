"""Sentence embeddings by the library sentence-transformers, where it is installed."""

from collections.abc import Iterable, Iterator
from importlib.metadata import version
from typing import Any

import numpy as np

from twostage.contents import TEXT
from twostage.encoders.spec import SENTENCES, EncoderSpec
from twostage.errors import BackboneError, UsageError, first_line
from twostage.fingerprint import hash_json, hash_weights

_BATCH_SIZE = 32


def names_sentences(backbone: object) -> bool:
    """Whether a backbone is asked for by the library's name: with a model of it behind."""
    name = str(backbone)
    return name.startswith((f"{SENTENCES}/", f"{SENTENCES}:"))


class SentenceEngine:
    """A model of sentence-transformers.

    Parameters
    ----------
    asked : str
        ``sentence-transformers/NAME``, a model of that library on the Hugging Face hub; or
        ``sentence-transformers:`` and any name there, or the folder of a saved model. Its weights
        are read from safetensors alone, and no code that comes with it is run.
    device : str
        As Keras names it.
    dtype : {"float32", "float16"}
        Of stored embeddings.
    batch_size : int, optional
        Texts that go through it at once.

    Raises
    ------
    UsageError
        If the library is not installed.
    BackboneError
        If it can't load the model.
    """

    def __init__(self, asked: str, device: str, dtype: str, batch_size: int | None = None):
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UsageError(
                f"--backbone {asked} needs the package sentence-transformers. Install it with: "
                "pip install 'twostage[sentences]'"
            ) from error
        try:
            self._model: Any = SentenceTransformer(
                asked.removeprefix(f"{SENTENCES}:"),
                device=device.replace("gpu", "cuda"),
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        except Exception as error:  # whatever its hub, files and networks raise
            raise BackboneError(
                f"'{asked}' can't be loaded by sentence-transformers ({first_line(error)}). Check "
                "its name, and that it can be downloaded or lies in that folder."
            ) from error
        self.name = SENTENCES
        self.is_on_cpu = not device.startswith("gpu")
        self.batch_size = batch_size or _BATCH_SIZE
        self.spec = self._resolved(asked, dtype)

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the embeddings of batches of texts, in order."""
        for batch in batches:
            yield self._embed(list(batch))

    def _embed(self, texts: list[str]) -> np.ndarray:
        found = self._model.encode(
            texts, batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
        )
        return np.asarray(found, np.float32)

    def _resolved(self, asked: str, dtype: str) -> EncoderSpec:
        """Say what it is: weights, vocabulary, length."""
        weights = (
            (name, np.asarray(value.float().cpu().numpy()))
            for name, value in self._model.state_dict().items()
        )
        words = sorted(self._model.tokenizer.get_vocab().items())
        return EncoderSpec(
            kind=TEXT,
            weights=asked,
            weights_digest=hash_weights(weights),
            weights_file_hash=None,
            inputs_digest=hash_json([words, self._model.max_seq_length]),
            column=f"none: sentence-transformers {version(SENTENCES)}",
            dim=self._embed(["a text"]).shape[1],
            storage_dtype=dtype,
            engine=SENTENCES,
        )
