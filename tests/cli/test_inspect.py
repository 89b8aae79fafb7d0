"""`robustq inspect`: any file explained, nothing in it run."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


class Hostile:
    """A pickle that makes a file on loading."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_own_file_in_full(robustq: Callable[..., Any], plain: Path, tmp_path: Path) -> None:
    assert robustq("compress", plain, "--bits", "2", "-o", "small.safetensors").code == 0
    found = robustq("inspect", "small.safetensors", "--json").report
    assert found["kind"] == "robustq"
    assert found["safe"] is True
    assert found["meta"]["parent"]["name"] == "model.pt"
    tensors = {row["name"]: row for row in found["tensors"]}
    assert tensors["fc1.weight"]["alphabet"] == "ternary"
    assert tensors["conv1.weight"]["scheme"] == "half"
    assert sum(row["bytes"] for row in found["tensors"]) + found["totals"]["overhead"] == found["bytes"]
    assert found["bytes"] == (tmp_path / "small.safetensors").stat().st_size
    listing = robustq("inspect", "small.safetensors")
    assert "ternary" in listing.out
    assert all(name in listing.out for name in tensors)
    assert listing.err == ""


def test_foreign_file(robustq: Callable[..., Any], plain: Path) -> None:
    found = robustq("inspect", plain, "--json").report
    assert (found["kind"], found["loadable"]) == ("torch", True)
    assert "loads    yes" in robustq("inspect", plain).out


def test_hostile_file_is_listed_and_not_run(robustq: Callable[..., Any], tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2, 2), "bad": Hostile(tmp_path / "ran")}, tmp_path / "bad.pt")
    found = robustq("inspect", "bad.pt", "--json").report
    assert found["safe"] is False
    assert any("mkdir" in name for name in found["unsafe"])
    assert "safe     NO" in robustq("inspect", "bad.pt").out
    assert not (tmp_path / "ran").exists()


def test_bare_hostile_pickle(robustq: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "bad.pkl").write_bytes(pickle.dumps(Hostile(tmp_path / "ran")))
    assert robustq("inspect", "bad.pkl", "--json").report["safe"] is False
    assert not (tmp_path / "ran").exists()


def test_control_characters_in_names_are_shown(robustq: Callable[..., Any], tmp_path: Path) -> None:
    torch.save({"a\x1b[31mb": torch.ones(2, 2)}, tmp_path / "odd.pt")
    found = robustq("inspect", "odd.pt")
    assert "\x1b" not in found.out
    assert r"a\x1b[31mb" in found.out


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x80\x02}q\x00", b"nothing known at all"])
def test_what_is_no_checkpoint(robustq: Callable[..., Any], tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    found = robustq("inspect", "file", "--json")
    document = found.report
    assert found.code == 2 or document["loadable"] is False
