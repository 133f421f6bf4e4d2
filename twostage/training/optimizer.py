"""AdamW with a learning rate for each block, which warms up and falls as a cosine."""

from collections.abc import Sequence
from typing import Any

from twostage.backbones.quiet_keras import keras


class BlockwiseAdamW(keras.optimizers.AdamW):
    """AdamW whose learning rate differs by variable.

    Parameters
    ----------
    factors : sequence of float
        What the learning rate is multiplied with, of each variable that it is built for.
    **options
        As of ``keras.optimizers.AdamW``. Vectors (biases, norms) do not decay.

    References
    ----------
    Howard and Ruder (2018), Universal Language Model Fine-tuning: discriminative rates; Loshchilov
    and Hutter (2019), Decoupled Weight Decay.
    """

    def __init__(self, factors: Sequence[float], **options: Any):
        super().__init__(**options)
        self._factors = list(factors)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update one variable, and let it decay, at its own rate."""
        rate = learning_rate * self._factors[self._get_variable_index(variable)]
        if len(variable.shape) > 1:
            ops = keras.ops
            share = ops.cast(rate * self.weight_decay, variable.dtype)
            self.assign_sub(variable, ops.multiply(ops.convert_to_tensor(variable), share))
        super().update_step(gradient, variable, rate)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Do nothing: Keras would let all variables decay at one rate, frozen blocks' included."""


def schedule(peak: float, n_steps: int, warmup: float, begin: int = 0) -> Any:
    """Return learning rates that rise linearly, then fall to 0 as a cosine.

    Parameters
    ----------
    peak : float
        The highest.
    n_steps : int
        Steps of the whole training.
    warmup : float
        Share of them in which it rises.
    begin : int
        Steps done before this optimizer's first.
    """
    n_warm = max(1, round(warmup * n_steps))
    falling = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, n_steps - n_warm), warmup_target=peak, warmup_steps=n_warm
    )
    return falling if begin == 0 else _From(falling, begin)


class _From(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule that goes on after some steps."""

    def __init__(self, schedule: Any, begin: int):
        self._schedule = schedule
        self._begin = begin

    def __call__(self, step: Any) -> Any:
        return self._schedule(step + self._begin)

    def get_config(self) -> dict[str, Any]:
        """Return nothing: it is never saved."""
        return {}
