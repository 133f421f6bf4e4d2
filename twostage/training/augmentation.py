"""Changes of images that leave their labels true, drawn anew at each look."""

from typing import Any

from twostage.backbones.quiet_keras import keras

_PIXELS = (0, 255)


def augmentation_layers(preset: str, *, randaugment: bool = False, seed: int = 0) -> list[Any]:
    """Return the layers that change images, in their order.

    Parameters
    ----------
    preset : {"natural", "medical", "none"}
        ``natural``: a photo of a thing, which has an up and a down: mirrored, turned by up to 15
        degrees, zoomed, its colours changed a little. ``medical``: a sample under a lens, which has
        neither: mirrored both ways, turned any way, zoomed; brightness and contrast change a
        little, hue, which may tell the diagnosis, does not.
    randaugment : bool
        Whether RandAugment draws further changes, of shape and colour.
    seed : int
        Of what is drawn.

    Returns
    -------
    list of keras.Layer
        From float32 pixels, 0 to 255, of shape (n, size, size, 3) to the same; idle in inference.

    References
    ----------
    Cubuk et al. (2020), RandAugment; the layers are Keras' own.
    """
    layers = keras.layers
    seeds = iter(range(seed, seed + 10))
    edges = {"fill_mode": "reflect"}
    found = []
    if preset == "natural":
        found = [
            layers.RandomFlip("horizontal", seed=next(seeds)),
            layers.RandomRotation(15 / 360, seed=next(seeds), **edges),
            layers.RandomZoom((-0.2, 0.05), seed=next(seeds), **edges),
            layers.RandomSaturation((0.4, 0.6), value_range=_PIXELS, seed=next(seeds)),
            layers.RandomBrightness(0.15, value_range=_PIXELS, seed=next(seeds)),
            layers.RandomContrast(0.2, value_range=_PIXELS, seed=next(seeds)),
        ]
    elif preset == "medical":
        found = [
            layers.RandomFlip("horizontal_and_vertical", seed=next(seeds)),
            layers.RandomRotation(0.5, seed=next(seeds), **edges),
            layers.RandomZoom((-0.15, 0.1), seed=next(seeds), **edges),
            layers.RandomBrightness(0.08, value_range=_PIXELS, seed=next(seeds)),
            layers.RandomContrast(0.1, value_range=_PIXELS, seed=next(seeds)),
        ]
    if randaugment:
        found.append(layers.RandAugment(_PIXELS, num_ops=2, factor=0.3, seed=next(seeds)))
    return found
