"""status() and ROBUSTQ_ISA, and why native code is not there."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from robustq.kernels import backend, status

SHOW = """
import json
from robustq.kernels.backend import native, reason
print(json.dumps({"reason": reason} | ({"isa": native.isa(), "available": native.available()} if native else {})))
"""  # status() less what needs torch, which takes seconds to import
needs_native = pytest.mark.skipif(backend.native is None, reason="the native module is not built")


def status_with(**environment: str) -> dict[str, Any]:
    """What status() would say in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", SHOW], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def test_status_agrees_with_itself() -> None:
    now = status()
    assert now["native"] == (now["reason"] is None)
    assert now["isa"] in ([*now["available"]] if now["native"] else ["reference"])
    assert now["threads"] == torch.get_num_threads()


def test_status_needs_no_torch_until_it_is_called() -> None:
    code = "import sys; import robustq.kernels; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@needs_native
def test_each_instruction_set_can_be_forced() -> None:
    for isa in status_with(ROBUSTQ_ISA="")["available"]:
        assert status_with(ROBUSTQ_ISA=isa)["isa"] == isa


@needs_native
def test_the_fastest_instruction_set_is_the_default() -> None:
    now = status_with(ROBUSTQ_ISA="")
    assert now["isa"] == now["available"][-1]


@needs_native
@pytest.mark.parametrize(("wanted", "reason"), [("avx9000", "'avx9000' is not offered here"), ("none", "=none")])
def test_what_cannot_be_forced_is_the_reason(wanted: str, reason: str) -> None:
    now = status_with(ROBUSTQ_ISA=wanted)
    assert "isa" not in now
    assert reason in now["reason"]


def missing(name: str) -> None:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def test_the_reason_comes_from_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib, "import_module", missing)
    monkeypatch.setattr(backend, "files", lambda package: tmp_path)
    assert backend.load() == (None, "not built")
    (tmp_path / "_build.txt").write_text("no C++ compiler was found when it was built\n")
    assert backend.load() == (None, "no C++ compiler was found when it was built")


def test_a_module_that_does_not_load_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> None:
        raise ImportError("libstdc++.so.6: version `GLIBCXX_3.4.99' not found")

    monkeypatch.setattr(importlib, "import_module", broken)
    native, reason = backend.load()
    assert native is None
    assert reason is not None
    assert "GLIBCXX_3.4.99" in reason
