"""`robustq bench --compare A B`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Robustq = Callable[..., Any]


@pytest.fixture
def two(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> tuple[Path, Path]:
    """The same model at two radii: the second report claims the radius of the first."""
    for name, eps in (("a.json", "0.02"), ("b.json", "0.4")):
        line = ("bench", plain, "--data", quadrants, "--attack", "fgsm", "--eps", eps, "--checks", "none", "-q")
        assert robustq(*line, "-o", name).code == 0
    a, b = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    b["threat"] = a["threat"]
    (tmp_path / "b.json").write_text(json.dumps(b))
    return tmp_path / "a.json", tmp_path / "b.json"


def test_compare(robustq: Robustq, two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    found = robustq("bench", "--compare", a, b, "--json", "--markdown", "c.md", "--html", "c.html")
    assert found.code == 0
    (changes,) = found.report["comparison"]["models"]
    one, other = (json.loads(path.read_text())["models"][0] for path in two)
    moved = other["attacks"]["fgsm"]["value"] - one["attacks"]["fgsm"]["value"]
    assert changes["attacks"]["fgsm"]["change"] == pytest.approx(moved, abs=1e-6)
    assert moved < 0
    assert f"{100 * moved:+.1f}" in found.err
    for name in ("c.md", "c.html"):
        assert "What changed" in (tmp_path / name).read_text()
    assert robustq("bench", "--compare", a, b, "--max-drop", "0.001").code == 1
    assert robustq("bench", "--compare", b, a, "--max-drop", "0").code == 0


def test_bad_use(robustq: Robustq, two: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = two
    (tmp_path / "cut.json").write_text(a.read_text()[:-20])
    for line, words in (
        ((a, "cut.json"), "no complete JSON"),
        ((a, "absent.json"), "cannot be read"),
        ((a, b, "model.pt"), "takes no MODEL"),
        ((a, b, "--eps", "0.1"), "--compare and --eps"),
        (("-", "-"), "more than once"),
    ):
        found = robustq("bench", "--compare", *line)
        assert found.code == 2
        assert words in found.err
