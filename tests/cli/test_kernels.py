"""`robustq bench --kernels`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustq.kernels import backend, measure

needs_native = pytest.mark.skipif(backend.native is None, reason="the native module is not built")


@needs_native
def test_the_table_of_packed_layers(
    robustq: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "SHORT", (measure.Setting(64, 128, 2),))
    monkeypatch.setattr("robustq.core.speed.SECONDS", 0.0)
    done = robustq("bench", "--kernels", "--json", "--markdown", tmp_path / "k.md")
    assert done.code == 0
    rows = done.report["kernels"]
    dense = [("exact", "dense"), ("accurate", "dense"), ("int8", "dense")]
    assert [(row["mode"], row["kernel"]) for row in rows] == [*dense, ("exact", "sparse"), ("accurate", "sparse")]
    assert rows[0]["isa"] == backend.native.isa()
    assert "2-bit 64x128" in done.err
    assert "| 2-bit 64x128 |" in (tmp_path / "k.md").read_text()


def test_no_native_code_is_an_error(robustq: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "native", None)
    monkeypatch.setattr(backend, "reason", "not built")
    done = robustq("bench", "--kernels", "--json")
    assert done.code == 2
    assert done.report["error"]["problem"].endswith("which are not there: not built.")


def test_a_model_is_not_a_layer(robustq: Callable[..., Any]) -> None:
    done = robustq("bench", "--kernels", "model.pt")
    assert done.code == 2
    assert "takes no MODEL such as model.pt" in done.err
