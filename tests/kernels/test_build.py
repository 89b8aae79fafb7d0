"""The package builds with a compiler and installs without one (slow: each test builds from a copy of the tree)."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SHOW = (
    "import json, sys; sys.path.insert(0, sys.argv[1]); from robustq.kernels import status; print(json.dumps(status()))"
)
LINEAR = """
import sys; sys.path.insert(0, sys.argv[1])
import torch
from robustq.kernels import ternary_linear, reference
codes = torch.tensor([[1, 0, -1], [0, 1, 1]], dtype=torch.int8)
print(ternary_linear(torch.tensor([1.0, 2.0, 4.0]), reference.pack(codes), torch.ones(1, 1), None, 2, 3).tolist())
"""
pytestmark = pytest.mark.slow


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What a clean clone holds of the package."""
    copy = tmp_path / "tree"
    skip = shutil.ignore_patterns("__pycache__", "*.so", "_build.txt")
    for folder in ("cli", "core", "kernels"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=skip)
    for file in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / file, copy / file)
    return copy


def install(tree: Path, **environment: str) -> tuple[subprocess.CompletedProcess[str], Path]:
    target = tree.parent / "site"
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), str(tree)]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True), target


def run(code: str, target: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, str(target)], cwd=target, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler on this machine")
def test_native_where_there_is_a_compiler(tree: Path) -> None:
    done, target = install(tree, ROBUSTQ_NATIVE="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert run(SHOW, target)["native"]
    assert run(LINEAR, target) == [-3.0, 6.0]
    kernels = target / "robustq" / "kernels"
    assert not (kernels / "native").exists()
    assert not (kernels / "CMakeLists.txt").exists()
    shipped = {p.relative_to(tree / "core") for p in (tree / "core" / "data").rglob("*") if p.is_file()}
    assert all((target / "robustq" / "core" / path).is_file() for path in shipped)


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"CC": "/nonexistent", "CXX": "/nonexistent"}, "no C++ compiler was found when it was built"),
        ({"CC": "/bin/false", "CXX": "/bin/false"}, "no C++ compiler was found when it was built"),
        ({"ROBUSTQ_NATIVE": "0"}, "switched off by ROBUSTQ_NATIVE=0 when it was built"),
    ],
)
def test_pure_python_where_there_is_none(tree: Path, environment: dict[str, str], reason: str) -> None:
    done, target = install(tree, **{"ROBUSTQ_NATIVE": "", **environment})
    assert done.returncode == 0, done.stdout + done.stderr
    now = run(SHOW, target)
    assert not now["native"]
    assert now["reason"] == reason
    assert run(LINEAR, target) == [-3.0, 6.0]


def test_native_code_can_be_insisted_on(tree: Path) -> None:
    done, _ = install(tree, ROBUSTQ_NATIVE="1", CC="/bin/false", CXX="/bin/false")
    assert done.returncode != 0
    assert "ROBUSTQ_NATIVE=1, but no C++ compiler was found" in done.stdout + done.stderr


@pytest.mark.skipif(shutil.which("nvcc") is None or shutil.which("c++") is None, reason="no nvcc on this machine")
def test_cuda_kernels_ahead_of_time_where_it_is_asked_for(tree: Path) -> None:
    variants = tree / "kernels" / "cuda" / "variants.txt"
    variants.write_text("".join(line + "\n" for line in variants.read_text().splitlines()[:1]))
    done, target = install(tree, ROBUSTQ_CUDA_ARCHS="80")
    assert done.returncode == 0, done.stdout + done.stderr
    built = list((target / "robustq" / "kernels" / "cuda" / "prebuilt").iterdir())
    assert [file.name for file in built] == ["quantize.cu-sm_80-ELEMENT=0-LIMBS=1-ORDER=0.cubin"]
    assert built[0].read_bytes().startswith(b"\x7fELF")
