"""The table of times: its rows hold what was computed, peers agree with float64, absences are told."""

import time

import pytest
import torch
from torch.nn import functional as F

from robustq.kernels import backend, measure, peers

needs_native = pytest.mark.skipif(backend.native is None, reason="the native module is not built")


@needs_native
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("cold", [False, True])
def test_rows(bits: int, cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "LARGEST", 2**16)
    monkeypatch.setattr(measure, "PEAK_ROUNDS", 10)
    setting = measure.Setting(70, 256, 3, bits=bits, zeros=0.5, cold=cold)
    rows, notes = measure.measure(setting, 0.0)
    wanted = [("exact", "dense"), ("accurate", "dense"), ("int8", "dense")]
    wanted += [("exact", "sparse"), ("accurate", "sparse")] if bits == 2 else []
    assert [(row["mode"], row["kernel"]) for row in rows] == wanted
    for mode in {row["mode"] for row in rows}:
        assert sum(row["automatic"] for row in rows if row["mode"] == mode) == 1
    for row in rows:
        assert row["shape"] == [70, 256]
        assert row["us"] > 0
        assert row["roofline_us"] > 0
        assert row["max_error"] <= {"exact": 1e-5, "accurate": 1e-4, "int8": 3e-2}[row["mode"]]
        assert "torch_fp32" in row["baselines"]
    absent = {"torch_dynamic_int8", "ort_fp32", f"ort_{bits}bit"} - set(rows[0]["baselines"])
    assert all(any(name in note for note in notes) for name in absent)


def test_peers_compute_the_same_layer() -> None:
    for bits in (2, 4):
        layer = measure.draw(measure.Setting(64, 256, 5, bits=bits))
        exact = F.linear(layer.x.double(), layer.weight.double())
        runs, _ = peers.peers(layer, 0.5)
        for name, run in runs.items():
            bound = 3e-2 if name in ("torch_dynamic_int8", f"ort_{bits}bit") else 1e-5
            assert float((run().double() - exact).abs().max() / exact.abs().max()) <= bound, name


def test_what_does_not_run_is_left_out_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    runs, absent = peers.peers(measure.draw(measure.Setting(64, 250, 2)), 0.5)
    assert set(runs) >= {"torch_fp32", "torch_csr"}
    assert "ort_fp32: onnx is not installed" in absent
    assert any(note.startswith("ort_2bit: ") for note in absent)


@needs_native
def test_settings_that_are_not_reached_are_named() -> None:
    before = torch.get_num_threads()
    found = list(measure.table(measure.SHORT[:1], 0.0, until=time.monotonic() - 1))
    assert found == [([], ["2-bit 4096x4096 batch 1 zeros 0.5 hot: not measured, the time was up"])]
    assert torch.get_num_threads() == before


def test_without_native_code_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "native", None)
    monkeypatch.setattr(backend, "reason", "not built")
    with pytest.raises(RuntimeError, match="native kernels are not there: not built"):
        next(measure.table(measure.SHORT, 0.0))


@needs_native
def test_every_instruction_set_has_a_peak() -> None:
    before = backend.native.isa()
    data = torch.zeros(1024, dtype=torch.uint8)
    data[1000] = 6
    for isa in backend.native.available():
        backend.native.use(isa)
        assert all(backend.native.peak(kind, 3) > 0 for kind in ("bytes", "codes", "floats"))
        assert backend.native.read(data.data_ptr(), 1024)
    backend.native.use(before)
