"""Standard input and output, as a shell connects them."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Shell = Callable[[str], Any]


def test_a_model_goes_through_a_pipe(shell: Shell, plain: Path) -> None:
    found = shell(f"robustq compress {plain} --bits 4 | robustq inspect - --json")
    assert found.returncode == 0, found.stderr
    report = json.loads(found.stdout)
    assert report["path"] == "-"
    assert report["meta"]["parent"]["name"] == "model.pt"
    assert "standard stream" in found.stderr


def test_a_pipeline_ends_in_a_benchmark(shell: Shell, plain: Path, quadrants: str) -> None:
    line = f"cat {plain} | robustq compress - --bits 2 -q | robustq bench - --data {quadrants} --attack none --json -q"
    found = shell(line)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["models"][0]["name"] == "stdin"


def test_json_with_the_model_on_standard_output_is_refused(shell: Shell, plain: Path) -> None:
    found = shell(f"robustq compress {plain} --bits 2 -o - --json | cat")
    assert found.returncode == 2
    assert json.loads(found.stdout)["error"]["type"] == "OptionError"


@pytest.mark.parametrize("line", ["methods --json", "methods", "inspect {plain}", "--help", "-v", "bench --help"])
def test_a_closed_pipe_is_status_141_and_silent(shell: Shell, plain: Path, line: str) -> None:
    found = shell(f"robustq {line.format(plain=plain)} | true; echo ${{PIPESTATUS[0]}}")
    assert found.stdout == "141\n"
    assert found.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_standard_output(shell: Shell) -> None:
    found = shell("robustq methods --json > /dev/full")
    assert found.returncode == 2
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr


def test_no_colour_where_there_is_no_terminal(shell: Shell, plain: Path) -> None:
    found = shell(f"robustq compress {plain} --bits 2 -o c.safetensors")
    assert found.returncode == 0
    assert "\x1b" not in found.stderr


def _heed_ctrl_c() -> None:
    """A shell starts background jobs with the signal ignored, which a child would inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_of_a_running_command(command: list[str], tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*command, "compress", "-", "--bits", "2", "-o", "small.safetensors", "--json"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path, preexec_fn=_heed_ctrl_c,
    )  # fmt: skip
    try:
        assert running.stdin is not None
        running.stdin.write(bytes(1 << 20))  # more than a pipe holds: returns only when the command reads
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, err
    assert json.loads(out)["status"] == "interrupted"
    assert b"Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_while_modules_load(tmp_path: Path) -> None:
    program = """
import sys, builtins
real = builtins.__import__
def interrupted(name, globals=None, locals=None, fromlist=(), level=0):
    if name == "typer":
        raise KeyboardInterrupt
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = interrupted
from robustq.cli.__main__ import main
main()
"""
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "")
