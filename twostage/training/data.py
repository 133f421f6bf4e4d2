"""What a network is trained on: arrays on disk, batch by batch."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from twostage.backbones.network import backend
from twostage.backbones.quiet_keras import keras
from twostage.errors import FinetuningError

_N_AHEAD = 2  # batches


def array_on_disk(file: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Make an array that lies in a file; the system keeps in memory what fits.

    Parameters
    ----------
    file : path
        Where; it takes the space at once, so that a full disk is found here and not midway.
    shape : tuple of int
        Of the array.
    dtype : dtype
        Of its numbers.

    Raises
    ------
    FinetuningError
        If there is no room for it.
    """
    n_bytes = max(1, int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize)
    try:
        with open(file, "wb") as opened:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(opened.fileno(), 0, n_bytes)
            else:
                opened.truncate(n_bytes)
        return np.memmap(file, dtype, "r+", shape=shape)  # "w+" would give the space back
    except OSError as error:
        raise FinetuningError(
            f"Can't keep {n_bytes / 1e9:,.1f} GB of pixels or activations in '{file.parent}' "
            f"({error.strerror or error}). Free space there, give another -o, or use a smaller "
            "--image-size."
        ) from error


@dataclass(frozen=True)
class Examples:
    """What an epoch trains on.

    Attributes
    ----------
    x : array of shape (n_all, ...)
        Pixels or activations, of more images than these.
    rows : int array of shape (n,) or (n, n_images)
        Which of them; several to an example.
    y : float32 array of shape (n, n_outputs)
        One-hot classes, or values.
    weights : float32 array of shape (n,)
        How much each counts.
    others : tuple of arrays of shape (n, ...)
        What else a network takes in.
    """

    x: np.ndarray
    rows: np.ndarray
    y: np.ndarray
    weights: np.ndarray
    others: tuple[np.ndarray, ...] = ()


class TrainingBatches(keras.utils.PyDataset):
    """One epoch: every example once, in an order of its own, in batches of equal size.

    Parameters
    ----------
    examples : Examples
        What to train on.
    batch_size : int
        Examples to a batch. Those left over wait for another epoch.
    mixup : float
        Parameter of the beta distribution that pairs are mixed by; 0 for none. Other inputs than
        images can't be mixed.
    rng : numpy.random.Generator
        Of the order and the mixing.

    References
    ----------
    Zhang et al. (2018), mixup: Beyond Empirical Risk Minimization.
    """

    def __init__(self, examples: Examples, batch_size: int, mixup: float, rng: np.random.Generator):
        super().__init__(workers=1)
        self._examples = examples
        self._size = min(batch_size, len(examples.rows))
        self._order = rng.permutation(len(examples.rows))
        self._shares = rng.beta(mixup, mixup, len(self)) if mixup else np.ones(len(self))

    def __len__(self) -> int:
        return len(self._order) // self._size

    def __getitem__(self, number: int) -> tuple[Any, np.ndarray, np.ndarray]:
        chosen = self._order[number * self._size :][: self._size]
        x = np.asarray(self._examples.x[self._examples.rows[chosen]])
        others = tuple(other[chosen] for other in self._examples.others)
        y, weights = self._examples.y[chosen], self._examples.weights[chosen]
        share = np.float32(self._shares[number])
        if share == 1:
            return (x, *others) if others else x, y, weights
        x, y, weights = (_mixed(one.astype(np.float32), share) for one in (x, y, weights))
        return x, y, weights

    def release(self) -> None:
        """Let go of the examples: TensorFlow keeps what it was fed from as long as it lives.

        The file of an array would take its space on the disk for as long, deleted or not.
        """
        del self._examples


def fed(batches: TrainingBatches) -> Any:
    """Return what Keras' ``fit`` takes batches from without losing time.

    Keras would make a ``tf.data`` pipeline of them too, but one that tunes itself: the thread that
    does wakes up at intervals of 10 ms, 20 ms, 40 ms ..., and the end of an epoch waits for it. An
    epoch then takes up to twice its time.
    """
    if backend() != "tensorflow":
        return batches
    import tensorflow as tf

    signature = tf.nest.map_structure(lambda a: tf.TensorSpec(a.shape, a.dtype), batches[0])
    dataset = tf.data.Dataset.from_generator(
        lambda: (batches[number] for number in range(len(batches))), output_signature=signature
    )
    options = tf.data.Options()
    options.autotune.enabled = False
    counted = dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
    return counted.prefetch(_N_AHEAD).with_options(options)


def _mixed(values: np.ndarray, share: np.float32) -> np.ndarray:
    return np.asarray(share * values + (1 - share) * values[::-1])


def in_batches(x: np.ndarray, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield some rows of x, so many at once, in order."""
    for start in range(0, len(rows), size):
        yield np.asarray(x[rows[start : start + size]])
