"""Gradients on one device, which nothing has to be added to."""

from typing import Any


def summed_over_several(optimizer: Any) -> Any:
    """Let an optimizer of Keras add up gradients only where several devices share a batch.

    On TensorFlow it would do so on one device too, by a custom gradient, and of those TensorFlow
    keeps the graph, that of the whole training step, as long as the process lives: 10 to 100 MB
    with each model that is trained.

    Parameters
    ----------
    optimizer : keras.optimizers.Optimizer
        Changed in place.

    Returns
    -------
    keras.optimizers.Optimizer
        The same.
    """
    summed = getattr(optimizer, "_all_reduce_sum_gradients", None)
    if summed is None:  # another backend, or a Keras that does otherwise
        return optimizer
    import tensorflow as tf

    def over_several(pairs: Any) -> Any:
        is_one = tf.distribute.get_strategy().num_replicas_in_sync == 1
        return pairs if is_one else summed(pairs)

    optimizer._all_reduce_sum_gradients = over_several
    return optimizer
