"""Make the data of ``twostage demo``: pictures and a table, neither of which suffices alone."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFilter

N_IMAGES = 600
N_NEW = 20
_SIDE_PX = 128
_N_CORNERS = 60
_SITES = ("arm", "back", "face", "leg")


def make_demo_data(folder: Path, random_state: int = 0) -> None:
    """Draw moles, and write a table of the people who have them.

    Half of what decides whether a mole is malignant can be seen (a ragged border and a dark
    colour), half stands in the table (age and sun exposure), and a little is chance.

    Parameters
    ----------
    folder : Path
        Gets ``photos/`` of 620 JPEG files, ``table.csv`` of 600 labelled rows and ``new.csv`` of
        20 rows without a label.
    random_state : int
        Of everything in them.
    """
    rng = np.random.default_rng(random_state)
    n = N_IMAGES + N_NEW
    (folder / "photos").mkdir(parents=True, exist_ok=True)
    names = [f"photos/mole_{i:03d}.jpg" for i in range(n)]
    looks = rng.normal(size=n)
    for name, look in zip(names, looks, strict=True):
        _draw_mole(look, rng).save(folder / name, quality=90)
    table, risk = _draw_people(n, rng)
    table.insert(0, "photo", names)
    is_malignant = looks + risk + 0.3 * rng.normal(size=n) > 0
    table.insert(len(table.columns), "malignant", np.where(is_malignant, "yes", "no"))
    table[:N_IMAGES].to_csv(folder / "table.csv", index=False)
    table[N_IMAGES:].drop(columns="malignant").to_csv(folder / "new.csv", index=False)


def _draw_people(n: int, rng: np.random.Generator) -> tuple[pd.DataFrame, np.ndarray]:
    """Draw the table, and the standardised risk that it tells of."""
    age = rng.integers(18, 90, n)
    hours = rng.gamma(2, 2, n)
    site = rng.choice(_SITES, n)
    risk = (age - 54) / 21 + (hours - 4) / 3 + (site == "face") * 1.0
    table = pd.DataFrame(
        {
            "age": np.where(rng.random(n) < 0.05, np.nan, age),
            "sun_hours": hours.round(1),
            "site": pd.Series(site).where(rng.random(n) >= 0.05),
        }
    )
    return table, (risk - risk.mean()) / risk.std()


def _draw_mole(look: float, rng: np.random.Generator) -> Image.Image:
    """Draw one mole; the worse it looks, the more ragged and the darker it is."""
    skin = rng.integers([200, 150, 120], [240, 190, 160])
    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), tuple(map(int, skin)))
    raggedness = 0.25 / (1 + np.exp(-1.5 * look))
    angles = np.linspace(0, 2 * np.pi, _N_CORNERS, endpoint=False)
    radius = rng.uniform(28, 40) * (1 + raggedness * rng.normal(size=_N_CORNERS))
    centre = _SIDE_PX / 2 + rng.uniform(-8, 8, 2)
    corners = centre + radius[:, None] * np.column_stack([np.cos(angles), np.sin(angles)])
    darkness = 0.35 + 0.35 / (1 + np.exp(1.5 * look)) + rng.normal(scale=0.05)
    colour = tuple(int(value) for value in np.clip(skin * darkness, 0, 255))
    ImageDraw.Draw(picture).polygon([tuple(corner) for corner in corners], fill=colour)
    picture = picture.filter(ImageFilter.GaussianBlur(1))
    noise = rng.normal(scale=6, size=(_SIDE_PX, _SIDE_PX, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype("u1"))
