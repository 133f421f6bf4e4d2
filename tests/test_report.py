"""Reports: what the page says, that it is safe with any name, and that people can use it."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from stores import write_store

from twostage import benchmark
from twostage.cli.main import main
from twostage.errors import BenchmarkError, UsageError
from twostage.report import page
from twostage.report.analysis import choose_headline, embedding_map, sample
from twostage.report.evidence import predictions_of, read_evidence
from twostage.report.scales import linear_axis, log_axis
from twostage.report.words import number
from twostage.report.writing import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}
BLOCKS = {"td", "th", "p", "li", "dt", "dd", "h1", "h2", "h3", "h4", "div", "figcaption", "caption"}
EVIL = "<script>alert(1)</script>"
NASTY = ['a"b', "x' onerror='alert(1)", "<img src=x onerror=alert(1)>", "R&D <b>", "{{ 7*7 }}"]
SECTIONS = {"arms", "differences", "errors", "rows", "table", "provenance"}


class Parsed(HTMLParser):
    """A page as a list of elements, with what stands in each; refuses what is not well nested."""

    def __init__(self, html: bytes):
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], str]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(html.decode())
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, {k: v or "" for k, v in attrs}, "/".join(self._open)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}, "/".join(self._open)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"
        if tag in BLOCKS:
            self.text.append(" ")

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self._open[-1:]):
            self.text.append(data)

    @property
    def words(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.text))

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes, _ in self.elements if tag in tags]


def write_results(
    folder: Path,
    task: str = "binary",
    n: int = 120,
    *,
    classes: list[str] | None = None,
    images: list[str] | None = None,
    columns: tuple[str, str] = ("image", "group"),
    **changes: Any,
) -> Path:
    """Write a results folder by hand, of two heads on table and both."""
    rng = np.random.default_rng(0)
    image_column, group_column = columns
    classes = classes or {"binary": ["no", "yes"], "multi": ["ant", "bee", "cow"]}.get(task)
    names = images or [f"photos/{i}.jpg" for i in range(n)]
    signal = rng.normal(size=n)
    frames, results, scores = [], [], []
    arms = [
        {"name": f"{head}, {sees}", "head": head, "features": sees, "store": store}
        for head in ("lightgbm", "linear")
        for sees, store in (("table", ""), ("both", "store"))
    ]
    metrics = ["auc", "log_loss"] if classes else ["r2", "rmse"]
    y = np.digitize(signal, np.quantile(signal, np.linspace(0, 1, len(classes or "12") + 1)[1:-1]))
    for place, arm in enumerate(arms):
        said = signal + rng.normal(size=n) * (1.5 - place / 5)
        frame = pd.DataFrame(
            {"row": range(n), image_column: names, group_column: np.arange(n) // 2}
        )
        frame["y"] = np.array(classes, object)[y] if classes else np.exp(signal)
        frame = frame.assign(arm=arm["name"], repeat=0, fold=np.arange(n) % 2)
        if classes:
            centres = np.linspace(-1.5, 1.5, len(classes))
            logits = -((said[:, None] - centres) ** 2)
            proba = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
            frame["prediction"] = np.array(classes, object)[proba.argmax(axis=1)]
            frame = frame.assign(**{f"proba_{c}": proba[:, k] for k, c in enumerate(classes)})
        else:
            frame["prediction"] = np.exp(said)
        frames.append(frame)
        for metric in metrics:
            value = 0.7 + place / 20
            scores.append({"arm": arm["name"], "metric": metric, "value": value})
            scores[-1] |= {"low": value - 0.03, "high": value + 0.04}
            costs = {"fit_seconds": 1.5, "predict_us_per_row": 30.0, "model_bytes": 5e4}
            facts = {"repeat": 0, "fold": 0, "metric": metric, "value": value, **costs}
            results.append({"arm": arm["name"], **facts, "n_train": 80, "n_test": 40})
    finding = {
        "kind": "images",
        "arm": "linear, both",
        "against": "linear, table",
        "metric": metrics[0],
        "difference": {"value": 0.05, "low": 0.01, "high": 0.09},
        "sentence": "With linear, images add 0.050 AUC to the table (95% interval 0.010 to 0.090).",
    }
    spec = write_store(folder / "_probe", ["0"], np.ones((1, 5), np.float32)).spec
    shutil.rmtree(folder / "_probe")
    run = {
        "format_version": 1,
        "identity": {
            "table": {"rows": n, "columns": [image_column, group_column, "y"], "digest": "d1"},
            "stores": {"store": "d2"},
            "settings": {
                "target": "outcome",
                "image_columns": [image_column],
                "group": group_column,
                "log_target": task == "log",
                "random_state": 0,
            },
            "resampling": {"n_folds": 2, "n_repeats": 1, "time": None, "split": None},
            "near_duplicates": 0.95,
            "versions": {"twostage": "0.1.0"},
        },
        "command": "twostage benchmark store --table t.csv",
        "started": "2026-11-21T17:53:42+00:00",
        "machine": {"python": "3.11", "cores": 2},
        "stores": [{"name": "store", "spec": spec, "tuned": False, "n_images_seen": 0}],
        "arms": arms,
        "metrics": metrics,
        "task": "classification" if classes else "regression",
        "counts": {
            "n_rows": n,
            "n_groups": n // 2,
            "n_scored": n,
            "n_seen": 3,
            "n_unreadable": 1,
            "n_rows_with_equal_images": 2,
            "n_near_duplicate_pairs": 1,
        },
        "folds": [{"repeat": 0, "fold": k, "n_train": n // 2, "n_test": n // 2} for k in range(2)],
        "seconds": 12.5,
        "scores": scores,
        "findings": [finding],
    } | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_text(json.dumps(run))
    pd.DataFrame(results).to_parquet(folder / "results.parquet")
    pd.concat(frames, ignore_index=True).to_parquet(folder / "oof.parquet")
    return folder


def beside(results: Path, names: list[str], folder: Path | None = None) -> Path:
    """Write images, and a store of them beside the results: one unreadable, two alike."""
    rng = np.random.default_rng(1)
    if folder is not None:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            colour = tuple(int(c) for c in rng.integers(0, 255, 3))
            Image.new("RGB", (64, 48), colour).save(path, "JPEG")
    matrix = rng.normal(size=(len(names), 5)).astype(np.float32)
    matrix[1] = matrix[0] * 1.01
    matrix[2] = np.nan
    write_store(results.parent / "store", names, matrix)
    return results.parent / "store"


IMPORTANCE = [
    {
        "arm": "linear, both",
        "kind": kind,
        "name": name,
        "value": v,
        "low": v - 0.01,
        "high": v + 0.01,
    }
    for kind, name, v in (
        ("block", "images", 0.1),
        ("column", "age", 0.03),
        ("column", "site", 0.0),
    )
]


def made(tmp_path: Path, results: Path, **options: Any) -> bytes:
    write_report(results, tmp_path / "report.html", **options)
    return (tmp_path / "report.html").read_bytes()


@pytest.fixture(params=["binary", "multi", "regression", "log"])
def whole(request: pytest.FixtureRequest, tmp_path: Path) -> bytes:
    """Return a report with all there can be, of each kind of target."""
    results = write_results(tmp_path / "results", request.param, importance=IMPORTANCE)
    names = [f"photos/{i}.jpg" for i in range(120)]
    beside(results, names, tmp_path / "files")
    return made(tmp_path, results, images=tmp_path / "files")


def test_a_page_has_landmarks_headings_in_order_and_a_language(whole: bytes) -> None:
    found = Parsed(whole)
    assert found.all("html")[0]["lang"] == "en"
    assert [len(found.all(tag)) for tag in ("header", "main", "footer", "nav", "h1")] == [1] * 5
    levels = [int(tag[1]) for tag, _, _ in found.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert found.all("a")[0]["href"] == "#main"
    assert {one["id"] for one in found.all("section")} >= SECTIONS | {"importance", "map"}
    headings = {one.get("id") for one in found.all("h2")}
    assert all(one["aria-labelledby"] in headings for one in found.all("section"))


def test_pictures_tables_and_links_can_be_used_without_seeing_them(whole: bytes) -> None:
    found = Parsed(whole)
    ids = [one["id"] for _, one, _ in found.elements if "id" in one]
    assert len(set(ids)) == len(ids)
    assert all(one["href"][1:] in ids for one in found.all("a"))
    images = found.all("img")
    assert len(images) > 10
    assert all("truly" in one["alt"] for one in images)
    for svg in found.all("svg"):
        is_named = svg.get("role") == "img" and set(svg["aria-labelledby"].split()) <= set(ids)
        assert is_named or svg.get("aria-hidden") == "true" or "focusable" in svg
    assert len(found.all("caption")) == len(found.all("table")) >= 2
    assert all(one.get("scope") in ("row", "col") for one in found.all("th"))
    scrolling = [one for one in found.all("div") if one.get("class") == "scroll"]
    assert all(one["role"] == "region" and one["tabindex"] == "0" for one in scrolling)


def test_a_page_asks_for_nothing_from_outside(whole: bytes) -> None:
    found = Parsed(whole)
    policy = next(one["content"] for one in found.all("meta") if "http-equiv" in one)
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not re.search(rb"(?:https?:)?//[\w.-]+\.\w", whole)
    for _, one, _ in found.elements:
        assert "style" not in one
        assert not any(name.startswith("on") for name in one)
        for name in ("src", "href", "data", "action"):
            assert one.get(name, "#").startswith(("#", "data:"))
    assert not re.search(rb"url\(|@import", whole)


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("binary", ["Expected calibration error", "truly yes", "sensitivity 0.9"]),
        ("multi", ["Expected calibration error", "truly bee", "share predicted right"]),
        ("regression", ["Predicted against true", "Residuals", "lowest third"]),
    ],
)
def test_each_kind_of_target_gets_its_sections(tmp_path: Path, task: str, says: list[str]) -> None:
    results = write_results(tmp_path / "results", task, importance=IMPORTANCE)
    beside(results, [f"photos/{i}.jpg" for i in range(120)], tmp_path / "files")
    words = Parsed(made(tmp_path, results, images=tmp_path / "files")).words
    for said in [
        "Do images help to predict “outcome”?",
        "With linear, images add 0.050 AUC to the table",
        "3 rows that a tuned backbone has seen",
        "decode: no image",
        "twostage benchmark store --table t.csv",
        "the whole block",
        *says,
    ]:
        assert said in words
    assert ("Where to draw the line" in words) == (task == "binary")


def test_the_page_shows_the_numbers_of_the_results(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    evidence = read_evidence(results)
    best = predictions_of(evidence, "linear, both")
    words = Parsed(made(tmp_path, results)).words
    assert f"{(best.predicted == best.y).sum()} of 120 rows are predicted right" in words
    assert evidence.ranked()["arm"].iloc[0] == "linear, both"
    right = best.proba[np.arange(120), best.y]
    np.testing.assert_allclose(best.error, 1 - right)
    wrong = np.flatnonzero(best.predicted != best.y)
    worst = wrong[np.argmax(best.error[wrong])]
    assert f"truth predicted photos/{worst}.jpg " in words  # the first of the list


def test_the_best_arm_is_the_one_with_the_least_error_where_less_is_better(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", "regression", metrics=["rmse", "r2"])
    assert read_evidence(results).ranked()["arm"].iloc[0] == "lightgbm, table"


def test_without_images_and_findings_there_is_still_a_page(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results", findings=[], stores=[])
    run = json.loads((results / "run.json").read_text())
    run["identity"]["settings"]["image_columns"] = []
    run["identity"]["settings"]["group"] = None
    for arm in run["arms"]:
        arm |= {"features": "table", "store": ""}
    (results / "run.json").write_text(json.dumps(run))
    found = Parsed(made(tmp_path, results))
    assert {one["id"] for one in found.all("section")} == SECTIONS - {"differences"}
    assert "How well can “outcome” be predicted?" in found.words
    assert "linear, both scores 0.850 AUC (95% interval 0.820 to 0.890)." in found.words


def test_what_is_missing_is_said_with_the_way_to_get_it(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    told: list[str] = []
    words = Parsed(made(tmp_path, results, told=told.append)).words
    assert "Make the report with --store STORE for a map." in words
    assert "Make the report with --images DIR, the folder of the images" in words
    assert len(told) == 2
    assert "--store" in told[0]
    assert "--images" in told[1]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_names_of_any_kind_are_shown_and_never_run(tmp_path: Path, task: str) -> None:
    classes = [EVIL, 'say "yes" & <i>no</i>'] if task == "binary" else None
    names = [f"{NASTY[i % 5]} {i}.jpg".replace("/", "|") for i in range(118)]
    names += ["nul\x01\x1b.jpg", "caf%E9 \u202egpj.jpg"]
    results = write_results(
        tmp_path / "results",
        task,
        classes=classes,
        images=names,
        columns=(f"image {EVIL}", '"group" & <hr>'),
        command=f"twostage benchmark '{EVIL}' --title \"]]>--><!--\"",
        importance=[IMPORTANCE[0] | {"name": f"age {EVIL}"}],
    )
    run = json.loads((results / "run.json").read_text())
    run["identity"]["settings"]["target"] = f"</title>{EVIL}"
    run["findings"][0]["sentence"] = f"With {EVIL}, images add."
    (results / "run.json").write_text(json.dumps(run))
    beside(results, names, tmp_path / "files")
    html = made(tmp_path, results, images=tmp_path / "files", title=f"Title {EVIL} \udcff\x00")
    found = Parsed(html)
    assert len(found.all("script")) == 1
    assert not found.all("i", "hr")
    assert all(one["src"].startswith("data:image/webp;base64,") for one in found.all("img"))
    assert b"alert(1)</script>" not in html
    assert f"Title {EVIL}" in found.words
    assert f"With {EVIL}, images add." in found.words
    assert not set(map(chr, [*range(9), *range(11, 32), 127])) & set(html.decode())
    if task == "binary":
        assert f"truly {EVIL}" in found.words
        assert any("{{ 7*7 }}" in one["alt"] for one in found.all("img"))


def test_file_names_that_are_no_text_are_found_and_shown(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    raw = os.path.join(os.fsencode(folder), b"caf\xe9.jpg")
    Image.new("RGB", (9, 9), (255, 0, 0)).save(folder / "a.jpg")
    try:
        os.rename(folder / "a.jpg", raw)
    except OSError:
        pytest.skip("this file system takes no such names")
    names = ["caf%E9.jpg"] * 120
    html = made(tmp_path, write_results(tmp_path / "results", images=names), images=folder)
    assert any("caf%E9.jpg" in one["alt"] for one in Parsed(html).all("img"))


@pytest.mark.slow
def test_a_report_of_ten_thousand_rows_stays_small(tmp_path: Path) -> None:
    n = 10_000
    names = [f"photos/a-rather-long-name-of-a-file-{i:08}.jpg" for i in range(n)]
    classes = [f"class {k}" for k in range(20)]
    results = write_results(tmp_path / "results", "multi", n, classes=classes, images=names)
    beside(results, names)
    noise = np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8)
    (tmp_path / "files" / "photos").mkdir(parents=True)
    Image.fromarray(noise).save(tmp_path / "noise.jpg", quality=95)
    for name in names:
        os.link(tmp_path / "noise.jpg", tmp_path / "files" / name)
    html = made(tmp_path, results, images=tmp_path / "files")
    assert len(html) < 2_500_000
    words = Parsed(html).words
    assert "1,500 of 9,999 rows with an embedding, drawn at random" in words
    assert "all others" in words


def test_the_same_results_give_the_same_page(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    beside(results, [f"photos/{i}.jpg" for i in range(120)])
    assert made(tmp_path, results) == made(tmp_path, results)


def test_axes_of_plots_have_no_formulas(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = write_results(tmp_path / "results", "log")
    write_report(results, tmp_path / "r.html", plots=tmp_path / "plots")
    for name in ("predictions", "residuals"):
        assert "mathdefault" not in (tmp_path / "plots" / f"{name}.svg").read_text()


def test_plots_are_files_whose_text_is_text(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    classes = ["$a_b$", "<b>&"]
    results = write_results(tmp_path / "results", classes=classes, importance=IMPORTANCE)
    beside(results, [f"photos/{i}.jpg" for i in range(120)])
    done = write_report(results, tmp_path / "r.html", plots=tmp_path / "plots")
    names = ["arms", "differences", "calibration", "confusion", "importance", "map"]
    assert [path.name for path in done.plots] == [f"{n}.{e}" for n in names for e in ("svg", "png")]
    for path in done.plots:
        if path.suffix == ".svg":
            text = "".join(ElementTree.parse(path).getroot().itertext())
            assert "matplotlib" in path.read_text() or text
        else:
            assert min(Image.open(path).size) > 200
    confusion = "".join(ElementTree.parse(tmp_path / "plots/confusion.svg").getroot().itertext())
    assert all(name in confusion for name in classes)


def test_plots_of_a_regression(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results = write_results(tmp_path / "results", "log")
    done = write_report(results, tmp_path / "r.html", plots=tmp_path / "plots")
    assert {path.stem for path in done.plots} == {"arms", "differences", "predictions", "residuals"}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["report", *map(str, arguments)])


def test_the_command_writes_the_page_and_says_so(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    output = tmp_path / "page.html"
    result = run(results, "-o", output, "--title", "My <title>", "--quiet")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(rf"{re.escape(str(output))}: \d+ kB\.\n", result.output)
    assert "My &lt;title&gt;" in output.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["page.html", "results"]


def test_a_folder_that_holds_no_results_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", "-o", tmp_path / "r.html")
    assert result.exit_code == 1
    assert "holds no results" in result.output
    assert not (tmp_path / "r.html").exists()
    assert run(tmp_path / "nowhere").exit_code == 2


def test_an_unfinished_benchmark_is_refused_with_the_way_on(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    record = json.loads((results / "run.json").read_text())
    del record["scores"]
    (results / "run.json").write_text(json.dumps(record))
    (results / "_cells").mkdir()
    (results / "_cells" / "arm-000-repeat-000-fold-000.parquet").touch()
    with pytest.raises(BenchmarkError, match=r"not finished \(1 of 8 cells .* --table t.csv"):
        read_evidence(results)


@pytest.mark.parametrize("name", ["oof.parquet", "results.parquet"])
def test_a_damaged_table_is_named(tmp_path: Path, name: str) -> None:
    results = write_results(tmp_path / "results")
    (results / name).write_bytes(b"PAR1 no")
    with pytest.raises(BenchmarkError, match=f"{name} can't be read"):
        read_evidence(results)


def test_output_that_cant_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    with pytest.raises(UsageError, match="is a folder"):
        write_report(results, tmp_path)
    with pytest.raises(UsageError, match="does not exist"):
        write_report(results, tmp_path / "no" / "r.html")


def test_a_page_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = write_results(tmp_path / "results")
    output = tmp_path / "r.html"
    output.write_text("old")

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageError, match="No space left"):
        write_report(results, output)
    assert output.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.html", "results"]


def test_missing_packages_are_named_with_the_line_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = write_results(tmp_path / "results")
    monkeypatch.setattr("twostage.report.plots.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"matplotlib.*pip install 'twostage\[report\]'"):
        write_report(results, tmp_path / "r.html", plots=tmp_path / "plots")
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UsageError, match=r"jinja2.*pip install 'twostage\[report\]'"):
        write_report(results, tmp_path / "r.html")
    assert not (tmp_path / "r.html").exists()


def test_a_store_of_another_backbone_is_refused(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    write_store(tmp_path / "other", ["photos/0.jpg"], np.ones((1, 7), np.float32))
    with pytest.raises(BenchmarkError, match="dim was 5, is now 7"):
        write_report(results, tmp_path / "r.html", store=tmp_path / "other")
    write_store(tmp_path / "store", ["photos/0.jpg"], np.ones((1, 7), np.float32))
    write_report(results, tmp_path / "r.html")  # one of that name beside is passed over


def test_a_real_benchmark_gets_a_report(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(90, 5)).astype(np.float32)
    age = rng.normal(size=90)
    label = np.where(matrix[:, 0] + age > 0, "bad", "good")
    names = [f"{i}.png" for i in range(90)]
    write_store(tmp_path / "elsewhere" / "store", names, matrix)
    table = pd.DataFrame({"image": names, "age": age, "label": label})
    folder = tmp_path / "results"
    benchmark(
        *(tmp_path / "elsewhere" / "store", folder),
        table=table,
        target="label",
        image_columns="image",
        heads=["linear"],
        n_folds=3,
        n_jobs=1,
    )
    found = Parsed(made(tmp_path, folder))
    assert "Do images help to predict “label”?" in found.words
    assert "All 90 rows with an embedding." in found.words
    evidence = read_evidence(folder)
    headline = choose_headline(evidence, evidence.ranked())
    assert headline is not None
    assert headline["sentence"] in found.words


def test_a_model_gets_a_shorter_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"{i}.png" for i in range(120)]
    age = rng.normal(size=120)
    label = np.where(age + rng.normal(size=120) > 0, "bad & <b>", "good")
    table = pd.DataFrame({"image": names, f"age {EVIL}": age, "same": 1, "label": label})
    table.to_csv(tmp_path / "table.csv", index=False)
    write_store(tmp_path / "store", names, rng.normal(size=(120, 5)).astype(np.float32))
    fit = ["fit", tmp_path / "store", "--table", tmp_path / "table.csv", "--image-col", "image"]
    fit += ["--target", "label", "--head", "linear", "--features", "table"]
    fit += ["-o", tmp_path / "model"]
    assert CliRunner().invoke(main, [str(one) for one in fit]).exit_code == 0
    result = run(tmp_path / "model", "-o", tmp_path / "r.html")
    assert result.exit_code == 0, result.output
    found = Parsed((tmp_path / "r.html").read_bytes())
    for said in (
        "A model that predicts “label”",
        "on 24 rows that nothing in it had seen",
        f"age {EVIL} numeric",
        "“bad & <b>”, “good”",
        "rows it was trained on 120",
        "same ignored",
        "log loss lower is better",
        "table column 1",
    ):
        assert said in found.words
    assert len(found.all("h1")) == len(found.all("main")) == len(found.all("script")) == 1
    refused = run(tmp_path / "model", "-o", tmp_path / "r.html", "--plots", tmp_path / "plots")
    assert refused.exit_code == 2
    assert "is a model" in refused.output


def test_the_reader_can_choose_from_the_best_arms(tmp_path: Path) -> None:
    results = write_results(tmp_path / "results")
    found = Parsed(made(tmp_path, results))
    panels = [one for one in found.all("div") if "data-arm" in one]
    assert [one["data-arm"] for one in panels] == ["0", "1", "2", "3"] * 2  # errors, worst rows
    assert [one["data-arm"] for one in panels if "hidden" not in one] == ["0", "0"]
    assert len(found.all("select")) == 2
    assert "The arm linear, both, which scores best." in found.words
    assert "The worst errors of lightgbm, table" in found.words


def test_of_many_arms_the_best_ones_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twostage.report.writing.MOST_ARMS", 2)
    found = Parsed(made(tmp_path, write_results(tmp_path / "results")))
    assert "The 2 best of 4 arms can be shown." in found.words
    assert "The worst errors of lightgbm, table" not in found.words


def test_rows_that_look_alike_are_one_group(tmp_path: Path) -> None:
    names = [f"photos/{i}.jpg" for i in range(120)]
    results = write_results(tmp_path / "results")
    run = json.loads((results / "run.json").read_text())
    run["identity"]["near_duplicates"] = 0.99999  # of 5 dimensions
    (results / "run.json").write_text(json.dumps(run))
    matrix = np.random.default_rng(1).normal(size=(120, 5)).astype(np.float32)
    matrix[[7, 9]] = matrix[5]
    matrix[11] = matrix[10]
    matrix[13] = matrix[12]
    hashes = [f"hash{i}" for i in range(120)]
    hashes[13] = hashes[12]  # equal bytes are no likeness
    write_store(tmp_path / "store", names, matrix, hashes)
    words = Parsed(made(tmp_path, results)).words
    assert "2 groups of rows whose images, different files, look alike" in words
    assert re.search(r"3 rows photos/5.jpg photos/7.jpg photos/9.jpg 2 rows photos/10.jpg", words)


def test_what_a_damaged_image_still_shows_is_shown(tmp_path: Path) -> None:
    names = [f"photos/{i}.jpg" for i in range(120)]
    results = write_results(tmp_path / "results")
    beside(results, names, tmp_path / "files")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    broken = tmp_path / "files" / names[2]
    Image.fromarray(noise).save(broken)
    half = broken.read_bytes()[: broken.stat().st_size // 2]
    broken.write_bytes(half)
    shown = [
        one["alt"] for one in Parsed(made(tmp_path, results, images=tmp_path / "files")).all("img")
    ]
    assert [alt for alt in shown if alt.startswith("photos/2.jpg, damaged: truly")]
    for nothing in (half[:200], b"no image"):
        broken.write_bytes(nothing)
        html = made(tmp_path, results, images=tmp_path / "files")
        assert not [one for one in Parsed(html).all("img") if "damaged" in one["alt"]]


def test_an_unreadable_image_of_any_column_is_named(tmp_path: Path) -> None:
    names = [f"photos/{i}.jpg" for i in range(120)]
    results = write_results(tmp_path / "results")
    beside(results, names)
    run = json.loads((results / "run.json").read_text())
    run["identity"]["settings"]["image_columns"] = ["image", "other"]
    (results / "run.json").write_text(json.dumps(run))
    oof = pd.read_parquet(results / "oof.parquet")
    oof.insert(2, "other", np.where(oof["row"] == 50, "photos/2.jpg", "photos/7.jpg"))
    oof.loc[oof["row"] == 2, "image"] = "photos/8.jpg"
    oof.to_parquet(results / "oof.parquet")
    words = Parsed(made(tmp_path, results)).words
    assert "1 of 1 row with an image that has no embedding" in words
    assert re.search(r"photos/2.jpg 50 .{3,20} \([01]\.\d\d\) decode: no image", words)
    assert "placed by its embedding in “image”" in words


def test_the_map_is_by_umap_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fake:
        def __init__(self, **_: Any) -> None:
            pass

        def fit_transform(self, matrix: np.ndarray) -> np.ndarray:
            return matrix[:, 2:4]

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=Fake))
    matrix = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
    found = embedding_map(matrix, "image")
    assert found is not None
    assert found.explained is None
    np.testing.assert_array_equal(found.points, matrix[:, 2:4])
    results = write_results(tmp_path / "results")
    beside(results, [f"photos/{i}.jpg" for i in range(120)])
    assert "by UMAP, which keeps neighbours together" in Parsed(made(tmp_path, results)).words
    monkeypatch.setitem(sys.modules, "umap", None)
    by_components = embedding_map(matrix, "image")
    assert by_components is not None
    assert by_components.explained is not None


def test_numbers_are_written_without_a_minus_before_zeros() -> None:
    assert [number(x) for x in (-1e-16, -0.0, -0.0001, -0.0006, 0.5)] == [
        "0.000",
        "0.000",
        "−0.0001",
        "−0.001",
        "0.500",
    ]


def test_axes_have_round_ticks_and_hold_their_values() -> None:
    axis = linear_axis([0.713, 0.868])
    assert axis.ticks[0].label == "0.70"
    assert 0 <= axis.at(0.713) < axis.at(0.868) <= 100
    assert axis.at(99) == 100
    assert linear_axis([]).ticks
    assert linear_axis([5, 5, float("nan")]).low < 5
    assert linear_axis([0.93, 1.01], bounds=(0, 1)).high == 1
    logs = log_axis([1_200, 950_000])
    assert [tick.label for tick in logs.ticks] == ["10k", "100k", "1m"]
    assert logs.at(10_000) - logs.at(1_000) == pytest.approx(
        logs.at(100_000) - logs.at(10_000), abs=9
    )


def test_maps_need_no_more_than_a_few_rows_and_sample_many() -> None:
    assert embedding_map(np.full((9, 4), np.nan, np.float32), "image") is None
    same = embedding_map(np.ones((5, 4), np.float32), "image")
    assert same is not None
    assert np.isfinite(same.points).all()
    assert len(sample(10_000)) == len(set(sample(10_000).tolist())) == 1_500


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, other: str) -> float:
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_can_be_told_from_both_papers() -> None:
    blocks = page._source("report.css").split("@media", 1)
    themes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in blocks]
    heats = [re.findall(r"--heat: (\d+) (\d+) (\d+)", block)[0] for block in blocks]
    for theme, heat in zip(themes, heats, strict=True):
        for paper in ("paper", "panel"):
            for text in ("ink", "soft", "link"):
                assert contrast(theme[text], theme[paper]) >= 4.5, (text, paper)
        for text in ("gain", "loss"):
            assert contrast(theme[text], theme["paper"]) >= 4.5, text
        for k in range(8):
            assert contrast(theme[f"c{k}"], theme["paper"]) >= 3, k
        base = [int(theme["paper"][i : i + 2], 16) for i in (1, 3, 5)]
        hot = [round(0.45 * int(h) + 0.55 * b) for h, b in zip(heat, base, strict=True)]
        assert contrast(theme["ink"], "#{:02x}{:02x}{:02x}".format(*hot)) >= 4.5


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Return a real Chromium without a window."""
    sync_api = pytest.importorskip("playwright.sync_api")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("there is no chromium or google-chrome on this machine")
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """Return the file of a report with everything in it, and long names."""
    names = [f"a rather/long-folder/IMG_{i:06}.jpg" for i in range(120)]
    classes = ["benign keratosis-like lesion", EVIL, "melanoma"]
    results = write_results(
        tmp_path / "results", "multi", classes=classes, images=names, importance=IMPORTANCE
    )
    beside(results, names, tmp_path / "files")
    made(tmp_path, results, images=tmp_path / "files")
    return tmp_path / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_and_asks_for_nothing(
    browser: Any, shown: Path, width: int, scheme: str
) -> None:
    told: list[str] = []
    tab = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("dialog", lambda dialog: (told.append(dialog.message), dialog.dismiss()))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto(shown.as_uri())
    tab.evaluate("document.querySelectorAll('img').forEach(one => one.loading = 'eager')")
    tab.evaluate("Promise.all([...document.images].map(one => one.decode()))")
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [shown.as_uri()]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    outside = """[...document.querySelectorAll('svg text')].filter(one => {
        if (one.closest('[hidden]')) return false;
        const box = one.getBoundingClientRect();
        return box.left < 0 || box.right > innerWidth || box.width === 0;
    }).map(one => one.textContent)"""
    assert tab.evaluate(outside) == []
    small = "[...document.querySelectorAll('svg text')]"
    small += ".filter(t => !t.closest('[hidden]')).map(t => t.getBoundingClientRect().height)"
    assert min(tab.evaluate(small)) > 10
    picture = shown.with_name(f"{width}-{scheme}.png")
    tab.screenshot(path=picture, full_page=True)
    corner = Image.open(picture).convert("L").getpixel((3, 3))
    assert (corner > 200) == (scheme == "light")
    tab.close()


def test_axis_labels_do_not_overlap(browser: Any, shown: Path) -> None:
    overlaps = """[...document.querySelectorAll('svg')].flatMap(svg => {
        const boxes = [...svg.querySelectorAll('text')].map(t => t.getBoundingClientRect());
        return boxes.flatMap((a, i) => boxes.slice(i + 1).filter(b => a.left < b.right
            && b.left < a.right && a.top < b.bottom - 2 && b.top < a.bottom - 2)).map(b => b.left);
    })"""
    tab = browser.new_page(viewport={"width": 390, "height": 900})
    tab.goto(shown.as_uri())
    assert tab.evaluate(overlaps) == []
    tab.close()


def test_a_table_is_sorted_by_click_and_by_keyboard(browser: Any, shown: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(shown.as_uri())
    cells = (
        "[...document.querySelectorAll('#table tbody tr')].map(row => row.cells[{}].dataset.sort)"
    )
    heads = tab.locator("#table thead th")
    auc = heads.nth(2)
    auc.locator("button").click()
    assert auc.get_attribute("aria-sort") == "descending"
    values = [float(value) for value in tab.evaluate(cells.format(2))]
    assert values == sorted(values, reverse=True)
    auc.locator("button").press("Enter")
    assert auc.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in tab.evaluate(cells.format(2))] == sorted(values)
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Space")
    assert auc.get_attribute("aria-sort") is None
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    names = tab.evaluate(cells.format(0))
    assert names == sorted(names)
    tab.close()


def test_the_arm_shown_is_chosen_by_keyboard_everywhere_at_once(browser: Any, shown: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(shown.as_uri())
    visible = """[...document.querySelectorAll('[data-arm]')].filter(one => one.offsetHeight)
        .map(one => one.dataset.arm)"""
    assert tab.evaluate(visible) == ["0", "0", "0"]
    choices = tab.locator("select")
    choices.nth(1).focus()
    tab.keyboard.press("ArrowDown")
    assert tab.evaluate(visible) == ["1", "1", "1"]
    assert [choices.nth(k).input_value() for k in range(3)] == ["1", "1", "1"]
    assert "linear, table" in tab.locator("h3:visible", has_text="The worst errors").inner_text()
    tab.close()


def test_the_first_tab_skips_to_the_results(browser: Any, shown: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(shown.as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.close()
