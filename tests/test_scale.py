"""What docs/scale.md says follows from the artifacts; its formulas agree with the simulation."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "scale.md").read_text()
_spec = spec_from_file_location("scale_simulation", ROOT / "benchmarks" / "scale_simulation.py")
assert _spec is not None
assert _spec.loader is not None
scale = module_from_spec(_spec)
sys.modules["scale_simulation"] = scale  # dataclasses look their module up
_spec.loader.exec_module(scale)
RECORD = json.loads((ROOT / "artifacts" / "scale.json").read_text())
FOUND = scale.measured()


def test_the_record_is_of_these_rates_and_assumptions():
    assert RECORD["measured"] == FOUND
    assert RECORD["assumed"] == scale.ASSUMED
    assert RECORD["costs"] == scale.costs(FOUND)
    assert RECORD["storage"] == scale.storage(FOUND)
    assert (ROOT / "artifacts" / "scale.md").read_text() == scale.as_markdown(RECORD)


@pytest.mark.parametrize("table", ["costs", "storage", "checks"])
def test_the_page_shows_the_tables(table):
    show = {"costs": "cost_table", "storage": "storage_table", "checks": "check_table"}[table]
    assert "\n".join(getattr(scale, show)(RECORD[table])) in PAGE


def test_the_page_quotes_the_rates():
    per_core = {name: 1 / seconds["end_to_end_s"] for name, seconds in FOUND["core_s"].items()}
    said = " ".join(PAGE.split())
    for sentence in (
        f"a core decodes {1 / FOUND['decode_s']:.0f} photos",
        f"{per_core['mobilenet_v2, bfloat16']:.0f} images a second with MobileNetV2 in bfloat16, "
        f"{per_core['mobilenet_v2, float32']:.0f} in float32; with ResNet50, "
        f"{per_core['resnet50, bfloat16']:.0f} and {per_core['resnet50, float32']:.0f};",
        f"takes {FOUND['stored_bytes']['float16'] / 1e3:.1f} kB in a store of float16 and "
        f"{FOUND['stored_bytes']['float32'] / 1e3:.1f} kB in float32",
        f"wants {6_000 * FOUND['decode_s']:.0f} cores",
        f"{RECORD['losses']['formula_h'] / RECORD['losses']['undisturbed_h'] - 1:.2%} of the time",
    ):
        assert sentence in said


def test_each_case_waits_for_what_the_formula_says():
    for row, (name, work, cluster) in zip(RECORD["checks"], scale.cases(FOUND), strict=True):
        allowed = scale.bounds(work, cluster)
        assert row["case"] == name
        assert row["formula_per_s"] == min(allowed.values()) == allowed[row["waits_for"]]
        assert row["simulated_per_s"] == pytest.approx(row["formula_per_s"], rel=0.03)


@pytest.mark.parametrize("number", [1, 3, 8], ids=["latency", "requests", "GPUs"])
def test_a_short_simulation_agrees_with_the_formula(number):
    _, work, cluster = list(scale.cases(FOUND))[number]
    rate = scale.Simulation(work, cluster, 5_000).run()
    formula = min(scale.bounds(work, cluster).values())
    assert 0.7 * formula < rate < 1.02 * formula


def test_losses_cost_what_the_formula_says():
    often = (20_000, 5.0, 20, 30.0, 60.0)
    assert scale.simulate_losses(*often) == pytest.approx(scale.hours_of_shards(*often), rel=0.03)
