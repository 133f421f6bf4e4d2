"""What README and docs show is run, in order, on the demo's data."""

import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from twostage.cli.main import main
from twostage.demo import make_demo_data

ROOT = Path(__file__).parents[1]
_DEPENDS_ON_MACHINE = re.compile(r"\d s\b| runs on | were reached\.")
README = (ROOT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(text: str) -> list[str]:
    """Return the twostage commands in console blocks, continued lines joined."""
    joined = "\n".join(blocks(text, "console")).replace("\\\n", " ")
    return re.findall(r"^\$ twostage (.*)$", joined, re.MULTILINE)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readme")
    make_demo_data(folder / "twostage-demo")
    return folder


def test_the_readme_does_what_it_shows(demo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(demo_folder)
    shown = commands(README)
    assert [line.split()[0] for line in shown] == ["extract", "fit", "predict"]
    for line in shown:
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
        said = [text for text in result.output.splitlines() if not _DEPENDS_ON_MACHINE.search(text)]
        for text in said:
            shape = re.sub(r"\d+", "N", text)
            assert shape in re.sub(r"\d+", "N", README), text
    assert len(pd.read_csv("predictions.csv")) == 20

    variables: dict[str, object] = {}
    for code in blocks(README, "python"):
        exec(code, variables)
    assert "model-from-python" in {path.name for path in demo_folder.iterdir()}


@pytest.mark.slow
def test_what_the_guide_to_fine_tuning_shows_runs(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_folder)
    guide = (ROOT / "docs" / "finetuning.md").read_text()
    for line in commands(guide):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
    assert "Left out: 300 rows that the tuned backbone has seen" in result.output
    for code in blocks(guide, "python"):
        exec(code, {})
    assert (demo_folder / "tuned-from-python" / "seen.parquet").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*had been seen by the tuned backbone")
def test_what_the_guide_to_encoders_shows_runs(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_folder)
    guide = (ROOT / "docs" / "encoders.md").read_text()
    first, *others = blocks(guide, "python")
    exec(first, {})
    for line in commands(guide):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
    assert len(pd.read_csv("predicted.csv")) == 400
    for code in others:
        exec(code, {})


@pytest.mark.slow
def test_what_the_guide_to_benchmarks_shows_runs(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_folder)
    guide = (ROOT / "docs" / "benchmark.md").read_text()
    for line in commands(guide):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
    assert (demo_folder / "results" / "oof.parquet").is_file()
    for code in blocks(guide, "python"):
        exec(code, {})
    assert (demo_folder / "results-from-python" / "run.json").is_file()


@pytest.mark.slow
def test_what_the_page_on_networks_shows_runs(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twostage-demo").symlink_to(demo_folder / "twostage-demo")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "networks.md").read_text()
    for line in commands(page):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
    assert (tmp_path / "joint-model" / "member-0" / "head.keras").is_file()
    variables: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(code, variables)


@pytest.mark.slow
def test_what_the_guide_to_places_shows_runs(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twostage-demo").symlink_to(demo_folder / "twostage-demo")
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "places.md").read_text()
    for code in blocks(guide, "python"):
        exec(code, {})
    said = []
    for line in commands(guide):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
        said.append(result.output)
    computed = [re.search(r"(\d+) embedded now", text) for text in said]
    assert [int(found[1]) for found in computed if found] == [600, 20, 0]
    assert len(pd.read_csv("predictions.csv")) == 20


@pytest.mark.slow
def test_what_the_guide_to_scale_shows_runs(
    demo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "twostage-demo").symlink_to(demo_folder / "twostage-demo")
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "scale.md").read_text()
    first, *_ = commands(README)
    assert CliRunner().invoke(main, shlex.split(first)).exit_code == 0
    for code in blocks(guide, "python"):
        exec(code, {})
    components = pd.read_parquet(tmp_path / "with-components.parquet")["components"]
    assert len(components[0]) == 64
    for line in commands(guide):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_what_the_guide_to_reports_shows_runs(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(demo_folder)
    guide = (ROOT / "docs" / "report.md").read_text()
    for line in commands(guide):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
    assert "No image files" not in result.output
    assert (demo_folder / "report.html").stat().st_size < 1_000_000
    plots = {path.stem for path in (demo_folder / "plots").glob("*.svg")}
    assert "importance" in plots
    assert len(plots) == 6


@pytest.mark.slow
def test_what_the_guide_to_sequences_shows_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    guide = (ROOT / "docs" / "sequences.md").read_text()
    variables: dict = {}
    for code in blocks(guide, "python"):
        exec(code, variables)
    for line in commands(guide):
        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
    assert "Sequence: sequence (2)." in result.output
    assert len(pd.read_csv("predictions.csv")) == 300


@pytest.mark.slow
def test_what_the_extending_guide_shows_runs(monkeypatch: pytest.MonkeyPatch) -> None:

    from twostage.backbones import catalogue
    from twostage.backbones.lazy import LazyBackbone
    from twostage.backbones.spec import BackboneSettings

    backbone_code, head_code = blocks((ROOT / "docs" / "extending.md").read_text(), "python")
    variables: dict = {}
    exec(backbone_code, variables)
    row = variables["row"]
    monkeypatch.setitem(catalogue.CATALOGUE, row.name, row)
    wanted = BackboneSettings(row.name, weights="random", image_size=64)
    (embeddings,) = LazyBackbone(wanted, "cpu").get().run([np.zeros((1, 64, 64, 3), np.uint8)])
    assert embeddings.shape == (1, row.dim)
    exec(head_code, variables)


@pytest.mark.parametrize(
    "name", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_architecture_lists_every_room() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    rooms = {
        path.name + ("/" if path.is_dir() else "")
        for path in (ROOT / "twostage").iterdir()
        if not path.name.startswith("_") and path.name != "py.typed"
    }
    listed = set(re.findall(r"^\| \d+ \| `([^`]+)`", text, re.MULTILINE))
    assert listed == rooms


def test_continuous_integration_runs_the_readmes_own_command() -> None:
    found = re.search(r"<!-- command: test -->\n```bash\n(.*)\n```", README)
    assert found
    assert "pytest" in found[1]
    assert "command: test" in (ROOT / ".ci" / "run").read_text()
