"""What can go wrong: each its own message and exit status, one valid document, nothing half-written."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from robustq.cli import main
from robustq.core.checkpoint import load
from robustq.core.errors import Exit


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def with_nan(plain: Path) -> dict[str, torch.Tensor]:
    weights = load(plain).dense()
    weights["fc1.weight"] = torch.full_like(weights["fc1.weight"], float("nan"))
    return weights


def with_wrong_shape(plain: Path) -> dict[str, torch.Tensor]:
    return {**load(plain).dense(), "fc1.weight": torch.ones(5, 7)}


@pytest.fixture
def table(plain: Path, tmp_path: Path) -> None:
    """The files that the lines below name, in the test's folder."""
    (tmp_path / "wrong.pt").write_text("this is no checkpoint")
    (tmp_path / "cut.pt").write_bytes(plain.read_bytes()[:3000])
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"w": torch.ones(2, 2), "bad": Hostile()}, tmp_path / "hostile.pt")
    torch.save(with_nan(plain), tmp_path / "nan.pt")
    torch.save(with_wrong_shape(plain), tmp_path / "shape.pt")
    torch.save({"bn.weight": torch.ones(4), "bn.bias": torch.ones(4)}, tmp_path / "norms.pt")
    (tmp_path / "folder").mkdir()
    (tmp_path / "good.pt").write_bytes(plain.read_bytes())
    (tmp_path / "taken.safetensors").write_bytes(b"keep me")


LINES = [
    ("compress wrong.pt --bits 2", Exit.USAGE, "wrong.pt"),
    ("compress cut.pt --bits 2", Exit.USAGE, "cut.pt"),
    ("compress empty.pt --bits 2", Exit.USAGE, "empty"),
    ("compress hostile.pt --bits 2", Exit.UNSAFE, "system"),
    ("compress hostile.pt --bits 2", Exit.UNSAFE, "--trust-pickle"),
    ("compress nan.pt --bits 2", Exit.USAGE, "fc1.weight"),
    ("compress folder --bits 2", Exit.USAGE, "is a folder"),
    ("compress missing.pt --bits 2", Exit.USAGE, "missing.pt does not exist"),
    ("compress norms.pt --bits 2", Exit.NOTHING, "nothing was compressed"),
    ("compress good.pt --bits 5", Exit.USAGE, "5"),
    ("compress good.pt --bits two", Exit.USAGE, "--bits"),
    ("compress good.pt", Exit.USAGE, "--bits"),
    ("compress good.pt --method prjection", Exit.USAGE, "'projection'"),
    ("compress good.pt --group channel", Exit.USAGE, "--group"),
    ("compress good.pt --sparsity 1.5", Exit.USAGE, "sparsity"),
    ("compress good.pt --bits 2 --keep-fp fc9", Exit.USAGE, "fc9"),
    ("compress good.pt --bits 2 -o taken.safetensors", Exit.USAGE, "taken.safetensors exists already"),
    ("compress good.pt --bits 2 -o nowhere/small.safetensors", Exit.USAGE, "nowhere does not exist"),
    ("compress good.pt --bits 2 -o folder", Exit.USAGE, "is a folder"),
    ("compress good.pt --bits 2 --method binary-relax -o small.safetensors", Exit.USAGE, "--data"),
    ("compress good.pt --bits 2 --recipe missing.toml", Exit.USAGE, "missing.toml"),
    ("compress good.pt --bits 2 --set run", Exit.USAGE, "run"),
    ("compress good.pt --bits 2 --device abacus", Exit.USAGE, "abacus"),
    ("compress good.pt --bits 2 --threads 0", Exit.USAGE, "--threads"),
    ("compress good.pt --bits 2 -o -", Exit.USAGE, "--json"),
    ("bench shape.pt --data {data} --eps 0.1", Exit.USAGE, "shape.pt"),
    ("bench good.pt --data {data} --eps abc", Exit.USAGE, "'abc' is not a number"),
    ("bench good.pt --data {data} --eps 1/0", Exit.USAGE, "1/0"),
    ("bench good.pt --data {data}", Exit.USAGE, "--eps"),
    ("bench good.pt --eps 0.1", Exit.USAGE, "--data"),
    ("bench good.pt --data nowhere.npz --eps 0.1", Exit.USAGE, "nowhere.npz"),
    ("bench good.pt --data {data} --eps 0.1 --split validation", Exit.USAGE, "validation"),
    ("bench good.pt --data {data} --attack fgsm --eps 0.1 --steps 3", Exit.USAGE, "--steps"),
    ("bench good.pt --data {data} --eps 0.1 --min-acc 90", Exit.USAGE, "--min-acc"),
    ("bench good.pt --data {data} --eps 0.1 --limit 0", Exit.USAGE, "--limit"),
    ("bench good.pt --data {data} --eps 0.1 -o taken.safetensors", Exit.USAGE, "exists already"),
    ("bench - - --data {data} --eps 0.1", Exit.USAGE, "more than once"),
    ("bench good.pt --data {data} --eps 0.1 --std 0", Exit.USAGE, "--std"),
    ("attack good.pt --data {data} --eps 0.1 --attack pgd,fgsm", Exit.USAGE, "2 attacks"),
    ("attack good.pt --data {data} --eps 0.1 -o taken.safetensors", Exit.USAGE, "exists already"),
    ("export good.pt --to onxn", Exit.USAGE, "'onnx'"),
    ("export good.pt --to safetensors -o taken.safetensors", Exit.USAGE, "exists already"),
    ("export good.pt --to state-dict --option style=base3", Exit.USAGE, "style"),
    ("train --data {data} -o t.safetensors", Exit.USAGE, "--arch"),
    ("train --arch lenet -o t.safetensors", Exit.USAGE, "--data"),
    ("train --arch lenet --data {data} --epochs 0 -o t.safetensors", Exit.USAGE, "--epochs"),
    ("train --arch lenet --data {data} --lr fast -o t.safetensors", Exit.USAGE, "'fast' is not a number"),
    ("train --arch lenet --data {data} --average zzz -o t.safetensors", Exit.USAGE, "average.kind is 'zzz'"),
    ("train --arch nonet --data {data} -o t.safetensors", Exit.USAGE, "nonet"),
    ("train --arch lenet --arch-arg size=12 --data digits --arch-arg channels=3 -o t", Exit.USAGE, "digits"),
    ("train --arch lenet --arch-arg size=28 --data {data} -o t.safetensors", Exit.USAGE, "12x12"),
    ("inspect missing.pt", Exit.USAGE, "missing.pt"),
    ("inspect folder", Exit.USAGE, "is a folder"),
    ("nonsense", Exit.USAGE, "nonsense"),
]


@pytest.mark.usefixtures("table")
@pytest.mark.parametrize(("line", "code", "words"), LINES, ids=[line for line, *_ in LINES])
def test_the_table(
    robustq: Callable[..., Any], quadrants: str, tmp_path: Path, line: str, code: Exit, words: str
) -> None:
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    found = robustq(*line.format(data=quadrants).split(" "), "--json")
    assert found.report["error"], found.err
    assert found.code == code, found.err
    assert words in found.err
    assert found.err.startswith("error: ")
    assert found.report["error"]["problem"].splitlines()[0] in found.err
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.usefixtures("table")
def test_force_replaces(robustq: Callable[..., Any], tmp_path: Path) -> None:
    assert robustq("compress", "good.pt", "--bits", "2", "-o", "taken.safetensors", "--force").code == 0
    assert load(tmp_path / "taken.safetensors").packed


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(robustq: Callable[..., Any], plain: Path) -> None:
    found = robustq("compress", plain, "--bits", "2", "-o", "/dev/full", "--json")
    assert found.code == Exit.USAGE
    assert "No space left" in found.report["error"]["problem"]


def test_disk_full_while_writing_leaves_nothing(
    robustq: Callable[..., Any], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("robustq.core.files.os.fsync", full)
    found = robustq("compress", plain, "--bits", "2", "-o", "small.safetensors")
    assert found.code == Exit.USAGE
    assert "No space left" in found.err
    assert list(tmp_path.iterdir()) == []


def test_read_only_folder(
    robustq: Callable[..., Any], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("robustq.core.files.os.access", lambda place, mode: False)  # for root every folder is writable
    found = robustq("compress", plain, "--bits", "2", "-o", "small.safetensors")
    assert found.code == Exit.USAGE
    assert "read-only" in found.err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c(robustq: Callable[..., Any], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustq.core.workflow.compress", interrupted)
    found = robustq("compress", plain, "--bits", "2", "-o", "small.safetensors", "--json")
    assert found.code == Exit.INTERRUPTED
    assert found.report["status"] == "interrupted"
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_a_benchmark_reports_what_was_done(
    robustq: Callable[..., Any], plain: Path, quadrants: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("robustq.core.benchmark.survey", interrupted)
    found = robustq("bench", plain, "--data", quadrants, "--eps", "0.1", "--json", "-o", "report.json")
    assert found.code == Exit.INTERRUPTED
    (model,) = found.report["models"]
    assert model["complete"] is False
    assert model["clean"]["n"] == 40
    assert "(unfinished)" in found.err
    assert (tmp_path / "report.json").read_text() == found.out


def test_our_own_error_goes_to_a_file(
    robustq: Callable[..., Any], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: object, **options: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("robustq.core.workflow.compress", broken)
    found = robustq("compress", plain, "--bits", "2", "-o", "small.safetensors", "--json")
    assert found.code == Exit.INTERNAL
    (trace,) = tmp_path.iterdir()
    assert str(trace) in found.err
    assert "ZeroDivisionError: a bug" in trace.read_text()
    assert found.report["error"]["problem"] == "Internal error: ZeroDivisionError: a bug"


def test_a_wrong_export_is_status_5(
    robustq: Callable[..., Any], plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from robustq.core.exporters.state_dict import StateDict

    encode = StateDict.encode

    def wrong(self: Any, checkpoint: Any, classifier: Any) -> Any:
        zeros = {name: torch.zeros_like(value) for name, value in checkpoint.weights.items()}
        return encode(self, type(checkpoint)(zeros, {}, {}, {}), classifier)

    monkeypatch.setattr(StateDict, "encode", wrong)
    found = robustq("export", plain, "--to", "state-dict", "-o", "out.pt", "--json")
    assert found.code == Exit.VERIFICATION
    assert found.report["error"]["type"] == "VerificationError"
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_gets_no_model(plain: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main.execute(["compress", str(plain), "--bits", "2", "-o", "-"]) == Exit.USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "terminal" in captured.err
