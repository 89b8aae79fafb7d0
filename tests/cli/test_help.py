"""Help: quick, complete, and forgiving of misspelt names."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import typer

from robustq.cli.main import app

COMMANDS = ("compress", "train", "attack", "benchmark", "bench", "export", "inspect", "report", "methods")
HEAVY = ("torch", "numpy", "onnx", "safetensors", "pooch", "importlib.metadata", "rich.table", "rich.progress")


def imported(statement: str) -> set[str]:
    """Which of HEAVY a fresh interpreter has imported after a statement."""
    code = f"import sys\n{statement}\nprint('HEAVY', *[n for n in {HEAVY!r} if n in sys.modules])"
    made = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return set(made.stdout.splitlines()[-1].split()[1:])


def test_the_app_imports_nothing_heavy() -> None:
    assert imported("import robustq.cli.main") == set()
    assert "numpy" in imported("import numpy")  # the test can fail


def test_help_imports_neither_torch_nor_numpy() -> None:
    run = "import robustq.cli.main as m\nassert m.execute(['compress', '--help']) == 0"
    assert imported(run).isdisjoint({"torch", "numpy", "onnx", "safetensors", "pooch"})


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(robustq: Callable[..., Any], name: str) -> None:
    found = robustq(name, "--help")
    assert found.code == 0
    if name != "bench":
        assert f"Example: robustq {name}" in " ".join(found.out.split()).replace("bench ", f"{name} ")
    assert robustq(name, "-h").out == found.out


def test_all_parameters_have_help() -> None:
    root: Any = typer.main.get_command(app)
    assert set(root.commands) == set(COMMANDS)
    for name, command in root.commands.items():
        for parameter in command.params:
            assert parameter.help, f"{name}: {parameter.name}"


def test_no_command_is_help(robustq: Callable[..., Any]) -> None:
    found = robustq()
    assert "Usage" in found.out + found.err
    assert found.code in (0, 2)  # click's choice has changed


def test_version(robustq: Callable[..., Any]) -> None:
    assert robustq("--version").out.startswith("robustq 0.")
    found = robustq("--verbose", "--version")
    assert found.code == 0
    assert "kernels" in found.out
    assert "torch" in found.out


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (["compres", "x.pt"], "compress"),
        (["compress", "x.pt", "--bitz", "2"], "--bits"),
        (["methods", "atack"], "attack"),
        (["bench", "x.pt", "--attack", "pdg"], "pgd"),
        (["train", "--compress", "binary-relx"], "binary-relax"),
        (["train", "--objective", "trade"], "trade"),
        (["export", "x.pt", "--to", "onxn"], "onnx"),
        (["bench", "--set", "trian.epochs=2"], "train"),
    ],
)
def test_did_you_mean(robustq: Callable[..., Any], line: list[str], hint: str) -> None:
    found = robustq(*line)
    assert found.code == 2
    assert "Did you mean" in found.err
    assert hint in found.err.partition("Did you mean")[2]
