"""What tests share: small photos, a backbone whose embeddings can be computed by hand."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from buckets import environment, server  # noqa: F401  fixtures
from PIL import Image

from twostage.backbones.spec import BackboneSettings, BackboneSpec

SHARED = Path(__file__).parents[2] / "shared"
Colour = tuple[int, int, int]

if (SHARED / "keras_home").is_dir():  # Keras looks once, when it is imported
    os.environ["KERAS_HOME"] = str(SHARED / "keras_home")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the real data sets where they are not."""
    if (SHARED / "data").is_dir():
        return
    skip = pytest.mark.skip(reason="needs the data sets in ../shared/data, which are not here")
    for item in items:
        if "realdata" in item.keywords:
            item.add_marker(skip)


@dataclass
class FakeBackbone:
    """Embeds an image as its mean red, green and blue, and counts what it embeds.

    Like a fast engine, it has a batch under way while it takes the next one.
    """

    spec: BackboneSpec
    batch_size: int
    n_embedded: int = 0
    name: str = "fake"
    is_on_cpu: bool = True

    def run(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield mean colours of shape (n, 3)."""
        waiting: list[np.ndarray] = []
        for batch in batches:
            waiting.append(self.embed(batch))
            if len(waiting) > 1:
                yield waiting.pop(0)
        yield from waiting

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Return mean colours."""
        assert batch.dtype == np.uint8
        assert 0 < len(batch) <= self.batch_size
        self.n_embedded += len(batch)
        return batch.mean(axis=(1, 2), dtype=np.float64).astype(np.float32)


@dataclass
class FakeBuilder:
    """Stands in for `twostage.backbones.lazy.build`, and counts how often it is asked.

    What is left open to it is executed by ``engine`` in ``precision``.
    """

    built: list[FakeBackbone] = field(default_factory=list)
    engine: str = "keras"
    precision: str = "float32"

    @property
    def n_embedded(self) -> int:
        """Images embedded by all backbones built."""
        return sum(backbone.n_embedded for backbone in self.built)

    def __call__(
        self, settings: BackboneSettings, device: str, batch_size: int | None = None
    ) -> tuple[FakeBackbone, str]:
        """Build a fake backbone with the settings' own identity."""
        settings = settings.with_defaults()
        weights = settings.weights
        if weights == "random":
            weights = f"random:{settings.random_state}"
        spec = BackboneSpec(
            architecture=settings.backbone,
            weights=weights,
            weights_digest=f"digest of {settings.backbone} {weights}",
            weights_file_hash=None,
            layer=settings.layer,
            pooling=settings.pooling,
            dim=3,
            input_size_px=settings.image_size,
            resize=settings.resize,
            preprocessing="none",
            storage_dtype=settings.dtype,
            engine=self.engine if settings.engine == "auto" else settings.engine,
            precision=self.precision if settings.precision == "auto" else settings.precision,
        )
        self.built.append(FakeBackbone(spec, batch_size or 32))
        return self.built[-1], f"fake on {device}"


@pytest.fixture
def fake_backbone(monkeypatch: pytest.MonkeyPatch) -> FakeBuilder:
    """Replace the building of backbones by a fake; it counts."""
    builder = FakeBuilder()
    monkeypatch.setattr("twostage.backbones.lazy.build", builder)
    return builder


@pytest.fixture(scope="session")
def conversions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder for converted networks: to convert one takes seconds."""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, conversions: Path
) -> Path:
    """Give each test a cache of its own, where only converted networks are shared."""
    folder = tmp_path_factory.mktemp("cache")
    (folder / "engines").symlink_to(conversions)
    monkeypatch.setenv("TWOSTAGE_CACHE", str(folder))
    return folder


@pytest.fixture
def photo() -> Callable[..., Path]:
    """Return a function that writes an image of one colour."""

    def write(
        path: Path, colour: Colour = (200, 100, 50), size: tuple[int, int] = (40, 32)
    ) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, colour).save(path)
        return path

    return write


@pytest.fixture
def photos(tmp_path: Path, photo: Callable[..., Path]) -> Path:
    """Return a folder of six PNG files of different colours in two class folders."""
    folder = tmp_path / "photos"
    for i in range(3):
        photo(folder / "cats" / f"{i}.png", (10 * i, 0, 100))
        photo(folder / "dogs" / f"{i}.png", (10 * i, 200, 0))
    return folder
