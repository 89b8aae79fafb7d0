"""Long benchmarks: killed and started again, stopped by a time limit, shared among processes."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from robustq.core.errors import Exit

# Every image falls in the first steps, but by its number of steps this is a long attack: parts are of 64 images.
LONG = ["--attack", "ifgsm:steps=5000,step=0.1", "--eps", "1", "--limit", "150", "--threads", "1", "--checks", "none"]
VARYING = ("seconds", "environment", "latency", "latency_ms", "packed")


Robustq = Callable[..., Any]


@pytest.fixture(scope="module")
def bench() -> list[str]:
    """A benchmark of a bundled model on bundled images, in three parts."""
    return ["bench", str(files("robustq.core") / "data" / "undefended.rq.safetensors"), "--data", "fashion-mini", *LONG]


def steady(value: Any) -> Any:
    """A report without times and what belongs to the machine."""
    if isinstance(value, dict):
        return {key: steady(entry) for key, entry in value.items() if key not in VARYING}
    return [steady(entry) for entry in value] if isinstance(value, list) else value


def run(robustq: Robustq, bench: list[str], *more: str) -> Any:
    """The report of the run in one go, in this process."""
    found = robustq(*bench, "--json", *more)
    assert found.code == 0, found.err
    return steady(found.report)


def test_a_killed_run_goes_on_and_gives_the_same_report(
    robustq: Robustq, command: list[str], bench: list[str], tmp_path: Path
) -> None:
    state = tmp_path / "state"
    running = subprocess.Popen([*command, *bench, "-q", "--state", str(state)])
    while not list(state.glob("*.safetensors")) and running.poll() is None:
        time.sleep(0.002)
    running.kill()
    running.wait()
    kept = {path: path.stat().st_mtime_ns for path in state.glob("*.safetensors")}
    assert kept
    other = robustq(*bench, "--state", state, "--seed", 3)
    assert other.code == Exit.USAGE
    assert "belongs to another run: seed is 0 there, 3 here" in other.err
    resumed = run(robustq, bench, "--state", str(state))
    assert resumed == run(robustq, bench)
    assert resumed["models"][0]["attacks"]["ifgsm"]["value"] == 0.0
    assert len(list(state.glob("*.safetensors"))) == 3
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # done once


def test_two_processes_give_the_report_of_one(robustq: Robustq, bench: list[str], tmp_path: Path) -> None:
    launcher = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr", "127.0.0.1",
        "--nproc-per-node", "2", "-m", "robustq.cli",
    ]  # fmt: skip
    state = tmp_path / "state"
    line = [*launcher, *bench, "-q", "--json", "--state", str(state)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=240, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert steady(json.loads(done.stdout)) == run(robustq, bench)
    assert len(list(state.glob("*.safetensors"))) == 3


def test_a_time_limit_ends_with_status_124(robustq: Robustq, bench: list[str]) -> None:
    found = robustq(*bench, "--time-limit", "0.000001", "--json")
    assert found.code == Exit.TIME_LIMIT == 124
    assert found.report["status"] == "time limit"
    (entry,) = found.report["models"]
    assert entry["unfinished"] == {"ifgsm": {"done": 0, "n": 150}}
    assert (entry["attacks"], entry["worst_case"], entry["complete"]) == ({}, None, False)
    assert entry["clean"]["n"] == 150
    assert "time limit" in found.err


def test_options_that_make_no_sense_are_refused(robustq: Robustq, tmp_path: Path) -> None:
    found = robustq("bench", "--time-limit", "soon")
    assert found.code == Exit.USAGE
    assert "--time-limit is 'soon'" in found.err
    (tmp_path / "notes.txt").write_text("mine")
    found = robustq("bench", "--attack", "fgsm", "--limit", 4, "--state", tmp_path)
    assert found.code == Exit.USAGE
    assert "such as notes.txt" in found.err
