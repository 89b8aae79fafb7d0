"""The command line run inside the test's process, and small files for it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch

from robustq.cli import main
from robustq.core.checkpoint import load

SCHEMA = json.loads((files("robustq.core") / "data" / "report.schema.json").read_text(encoding="utf-8"))


@dataclass
class Result:
    """What one command line did."""

    code: int
    out: str
    err: str

    @property
    def report(self) -> Any:
        """Standard output, which must be exactly one valid report."""
        found = json.loads(self.out)
        jsonschema.validate(found, SCHEMA, jsonschema.Draft202012Validator)
        assert found["exit_code"] == self.code
        return found


@pytest.fixture
def robustq(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    """Run a command line in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # where a traceback would go

    def run(*args: object) -> Result:
        capfd.readouterr()
        code = int(main.execute([str(arg) for arg in args]))
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def plain(lenet: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network as a bare state dict, as torch saves it."""
    path = tmp_path_factory.mktemp("plain") / "model.pt"
    torch.save(load(lenet).dense(), path)
    return path


@pytest.fixture(scope="session")
def command() -> list[str]:
    """The start of a command line for another process."""
    return [sys.executable, "-m", "robustq.cli"]


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], "subprocess.CompletedProcess[str]"]:
    """Run a line of bash in which `robustq` is this robustq."""
    home = tmp_path_factory.mktemp("shell")
    start = f"robustq() {{ '{sys.executable}' -m robustq.cli \"$@\"; }}; set -o pipefail; "
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}

    def run(line: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["bash", "-c", start + line],
            check=False, capture_output=True, text=True, timeout=120, cwd=home, env=environment,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    return run
