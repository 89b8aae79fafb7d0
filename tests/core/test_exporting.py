"""The export command's work: places, refusals, entries, nothing written on failure."""

import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from robustq.core.checkpoint import Checkpoint, Source, load
from robustq.core.errors import ArchitectureError, OptionError, OutputError, UnknownNameError, VerificationError
from robustq.core.exporters.exporter import put
from robustq.core.exporting import export

PLAIN = Checkpoint({"a": torch.ones(2, 2)}, {}, {}, {}, Source("models/net.rq.safetensors", "robustq", "", 0))


def names(folder: Path) -> set[str]:
    return {p.name for p in folder.iterdir()}


@pytest.mark.parametrize(
    ("formats", "out", "expected"),
    [
        (["state-dict"], "x.bin", {"x.bin"}),
        (["state-dict", "safetensors"], "x", {"x.pt", "x.safetensors"}),
        (["state-dict", "safetensors"], "x.v2", {"x.v2.pt", "x.v2.safetensors"}),
        (["safetensors", "state-dict"], "x.pt", {"x.pt", "x.safetensors"}),
        (["state-dict"], ".", {"net.pt"}),
        (["state-dict"], None, {"net.pt"}),
        (["state-dict", "state-dict"], "x.pt", {"x.pt"}),
    ],
)
def test_where_files_go(
    formats: Sequence[str], out: str | None, expected: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    entries = export(PLAIN, formats, out)
    assert names(tmp_path) == expected
    assert {Path(e["path"]).name for e in entries} == expected
    for entry in entries:
        assert entry["verified"] is True
        assert entry["max_error"] == 0.0
        assert entry["bytes"] == Path(entry["path"]).stat().st_size
        assert torch.equal(load(entry["path"]).weights["a"], torch.ones(2, 2))


def test_a_checkpoint_from_a_stream_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    export(replace(PLAIN, source=Source("-", "robustq", "", 0)), ["safetensors"])
    assert names(tmp_path) == {"model.safetensors"}


def test_options_reach_the_exporter(tmp_path: Path) -> None:
    export(PLAIN, ["state-dict"], tmp_path / "x.pt", options={"state-dict": {"half": "true"}})
    assert load(tmp_path / "x.pt").weights["a"].dtype == torch.float16


def test_one_format_that_fails_leaves_no_file_of_the_others(tmp_path: Path) -> None:
    with pytest.raises(ArchitectureError):
        export(PLAIN, ["state-dict", "onnx"], tmp_path / "x")
    assert names(tmp_path) == set()


def test_one_output_that_exists_leaves_no_file_of_the_others(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"old")
    with pytest.raises(OutputError, match="exists already"):
        export(PLAIN, ["state-dict", "safetensors"], tmp_path / "x")
    assert names(tmp_path) == {"x.safetensors"}
    export(PLAIN, ["state-dict", "safetensors"], tmp_path / "x", force=True)
    assert (tmp_path / "x.safetensors").read_bytes() != b"old"


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save({"a": torch.ones(1)}, path)
    with pytest.raises(OutputError, match="would replace the model"):
        export(load(path), ["state-dict"], tmp_path, force=True)


def test_unknown_names_and_options_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'safetensors'"):
        export(PLAIN, ["safetensor"], tmp_path / "x")
    with pytest.raises(OptionError, match="No format is given"):
        export(PLAIN, [], tmp_path / "x")
    with pytest.raises(OptionError, match="options for 'onnx'"):
        export(PLAIN, ["state-dict"], tmp_path / "x", options={"onnx": {}})
    with pytest.raises(OptionError, match="no option 'bits'"):
        export(PLAIN, ["state-dict"], tmp_path / "x", options={"state-dict": {"bits": 2}})


def test_a_disk_that_gives_other_bytes_back_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda self: b"other")
    with pytest.raises(VerificationError, match="the file was removed"):
        put(b"data", tmp_path / "x", False)
    assert names(tmp_path) == set()


def test_a_named_pipe_is_written_and_not_read_back(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    got: list[bytes] = []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    put(b"data", pipe, False)
    reader.join(timeout=10)
    assert got == [b"data"]
    assert pipe.exists()
