"""The history of a tuning as a picture."""

from importlib.util import find_spec
from io import BytesIO

import numpy as np
import pandas as pd

_LOSS, _VALIDATION, _SCORE = "#777777", "#0072b2", "#d55e00"  # told apart by all eyes


def plot_history(history: pd.DataFrame, metric: str, best_epoch: int) -> bytes | None:
    """Draw losses and score of each epoch.

    Parameters
    ----------
    history : DataFrame
        ``epoch``, ``loss``, ``validation_loss``, ``score``; epoch 0 is the frozen backbone.
    metric : str
        What the score is.
    best_epoch : int
        The one that was kept.

    Returns
    -------
    bytes or None
        A PNG file; None where matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    losses.plot(history["epoch"], history["loss"], "o-", color=_LOSS, label="training")
    losses.plot(
        history["epoch"], history["validation_loss"], "s-", color=_VALIDATION, label="validation"
    )
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend(frameon=False)
    scores.plot(history["epoch"], history["score"], "s-", color=_SCORE)
    scores.set(xlabel="epoch", ylabel=f"validation {metric.upper()}")
    if np.isfinite(history["score"]).any():
        kept = history["score"].iloc[best_epoch]
        scores.set_title(f"kept: epoch {best_epoch}, {kept:.3f}", fontsize=10)
        scores.axhline(history["score"].iloc[0], color=_LOSS, lw=0.8, ls=":", label="frozen")
        scores.legend(frameon=False)
    for axes in (losses, scores):
        axes.spines[["top", "right"]].set_visible(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    picture = BytesIO()
    figure.savefig(picture, format="png", dpi=120)
    return picture.getvalue()
