"""The page of kernel figures is what was recorded, and judges as it says."""

import copy
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).parents[1] / "docs" / "figures.py"
pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the documentation is not here")


@pytest.fixture(scope="module")
def figures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_figures", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def record(figures: ModuleType) -> Any:
    return json.loads(figures.RECORD.read_text(encoding="utf-8"))


def test_the_page_is_fresh(figures: ModuleType, record: Any) -> None:
    assert figures.page(record) == figures.PAGE.read_text(encoding="utf-8"), "run python docs/generate.py"


def test_every_goal_is_measured(figures: ModuleType, record: Any) -> None:
    assert "not measured" not in figures.page(record)


def test_a_slower_layer_misses(figures: ModuleType, record: Any) -> None:
    slow = copy.deepcopy(record)
    for row in slow["kernels"]:
        row["us"] *= 1000
    goals = "\n".join(figures.judged([figures.renamed(row) for row in slow["kernels"]], slow["status"]["isa"]))
    assert goals.count("**missed**") == len(figures.GOALS)
    fast = copy.deepcopy(record)
    for row in fast["kernels"]:
        row["us"] /= 1000
    assert "missed" not in "\n".join(figures.judged(list(map(figures.renamed, fast["kernels"])), fast["status"]["isa"]))
    assert figures.slower(list(map(figures.renamed, fast["kernels"])), fast["status"]["isa"]) == "None."
