"""A table in one file and in many, with a store of its images and a model of it."""

from pathlib import Path

import numpy as np
import pandas as pd
from click.testing import CliRunner
from stores import write_store

from twostage.cli.main import main

N = 60


def make_partitioned(folder: Path) -> None:
    """Make a store S, a model M, and a table in one file and in three, one in a folder below."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(N, 4))
    matrix[7] = np.nan  # an unusable image
    frame = pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(N)],
            "age": rng.normal(size=N),
            "label": np.where(np.nan_to_num(matrix[:, 0]) > 0, "yes", "no"),
        }
    )
    write_store(folder / "S", frame["image"].tolist(), matrix)
    frame.to_parquet(folder / "table.parquet")
    (folder / "table" / "more").mkdir(parents=True)
    for name, rows in (("a", slice(0, 20)), ("b", slice(20, 30)), ("more/c", slice(30, N))):
        frame[rows].to_parquet(folder / "table" / f"{name}.parquet")
    (folder / "table" / "_SUCCESS.parquet").write_text("of Spark")
    words = ["fit", folder / "S", "--table", folder / "table.parquet", "-o", folder / "M"]
    words += ["--image-col", "image", "--target", "label", "--head", "linear", "--quiet"]
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == 3, result.output
