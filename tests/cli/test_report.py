"""`robustq report FILE`: a saved report shown again."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Robustq = Callable[..., Any]


def test_a_saved_report_gives_the_same_documents(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path) -> None:
    line = ("bench", plain, "--data", quadrants, "--attack", "fgsm", "--eps", "0.1", "--limit", "20", "--min-acc", "1")
    first = robustq(*line, "--checks", "none", "-o", "r.json", "--markdown", "a.md", "--html", "a.html")
    again = robustq("report", "r.json", "--markdown", "b.md", "--html", "b.html", "--json")
    assert (first.code, again.code) == (1, 1)  # the missed gate is still missed
    assert again.report == json.loads((tmp_path / "r.json").read_text())
    assert again.err == first.err
    for ending in ("md", "html"):
        assert (tmp_path / f"a.{ending}").read_text() == (tmp_path / f"b.{ending}").read_text()


@pytest.mark.parametrize("command", ["compress", "attack", "inspect"])
def test_reports_of_other_commands(robustq: Robustq, plain: Path, quadrants: str, tmp_path: Path, command: str) -> None:
    line = {
        "compress": ("--bits", "4", "-o", "c"),
        "attack": ("--data", quadrants, "--eps", "0.1", "--limit", "8"),
        "inspect": (),
    }[command]
    made = robustq(command, plain, *line, "--json")
    (tmp_path / "r.json").write_text(made.out)
    found = robustq("report", "r.json", "--html", "r.html", "--markdown", "-")
    assert found.code == 0
    assert found.out.startswith(f"# robustq {command}\n")
    assert f"robustq {command}" in (tmp_path / "r.html").read_text()


def test_what_cannot_be_shown(robustq: Robustq, tmp_path: Path) -> None:
    failed = robustq("bench", "absent.pt", "--json")
    (tmp_path / "failed.json").write_text(failed.out)
    (tmp_path / "cut.json").write_text(failed.out[:40])
    for name, words in (("failed.json", "status 'error'"), ("cut.json", "no complete JSON"), ("no.json", "be read")):
        found = robustq("report", name, "--html", "r.html")
        assert found.code == 2
        assert words in found.err
        assert not (tmp_path / "r.html").exists()
