"""The workflow for CI in examples/ is well-formed, and robustq has every command and option it uses."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from robustq.cli.main import app
from robustq.core.registry import names

FILE = Path(__file__).parents[2] / "examples" / "github-actions.yml"


@pytest.fixture(scope="module")
def steps() -> list[dict[str, Any]]:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    found = yaml.safe_load(FILE.read_text())
    assert set(found[True]) == {"pull_request", "push"}  # YAML 1.1 reads `on` as true
    (job,) = found["jobs"].values()
    assert all(("run" in step) != ("uses" in step) for step in job["steps"])
    return job["steps"]


def calls(steps: list[dict[str, Any]]) -> list[Any]:
    lines = "\n".join(step.get("run", "") for step in steps).replace("\\\n", " ").splitlines()
    return [line.split(">>")[0].split()[1:] for line in lines if line.strip().startswith("robustq ")]


def test_commands_and_options_exist(steps: list[dict[str, Any]]) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = calls(steps)
    assert [call[0] for call in found] == ["compress", "bench", "bench"]
    for name, *words in found:
        known = {flag for parameter in commands[name].params for flag in parameter.opts}
        assert {word for word in words if re.match(r"--?[a-z]", word)} <= known
        if "--attack" in words:
            assert set(words[words.index("--attack") + 1].split(",")) <= set(names("attack"))


def test_each_document_is_kept(steps: list[dict[str, Any]]) -> None:
    kept = " ".join(step["with"]["path"] for step in steps if "upload-artifact" in step.get("uses", ""))
    for call in calls(steps):
        for flag in ("--html",):
            assert all(call[i + 1] in kept.split() for i, word in enumerate(call) if word == flag)
