"""benchmarks/gpu.py without a GPU: what becomes of parts that crash or hang, and its cases on the emulated machine."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from robustq.kernels.cuda.products import Gpu

FOLDER = Path(__file__).parents[3] / "benchmarks"
CPU = torch.device("cpu")
SCRIPTS = {
    "good": 'print(\'{"right": true, "case": "a", "error": 0}\', file=open(ROWS, \'w\'))',
    "wrong": 'print(\'{"right": false, "case": "b", "error": 1}\', file=open(ROWS, \'w\'))',
    "crashes": "print('{\"us\": 1}', file=open(ROWS, 'w'), flush=True); raise ValueError('an illegal address')",
    "hangs": "print('{\"us\": 2}', file=open(ROWS, 'w'), flush=True); import time; time.sleep(60)",
}


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_a_part_that_hangs_or_crashes_costs_nothing_but_itself(script: Any) -> None:
    gpu = script("gpu")

    def command(part: Any, rows: str) -> list[str] | None:
        return None if part.under else [sys.executable, "-c", f"ROWS = {rows!r}; {SCRIPTS[part.name]}"]

    parts = [
        gpu.Part("hangs", 1.0), gpu.Part("crashes", 30), gpu.Part("wrong", 30), gpu.Part("good", 30),
        gpu.Part("good", 30, needs=("wrong",)), gpu.Part("memory", 30, under=("no-such-tool",)),
    ]  # fmt: skip
    found: dict[str, Any] = {"parts": {}}
    saved: list[int] = []
    gpu.run_all(parts[:4], found, 100, command, lambda: saved.append(len(found["parts"])))
    results = dict(found["parts"])
    assert saved == [1, 2, 3, 4]
    assert results["hangs"]["status"] == "hung: killed after 1 s"
    assert results["hangs"]["rows"] == [{"us": 2}]
    assert results["crashes"]["status"] == "failed with exit status 1"
    assert "an illegal address" in results["crashes"]["log"][-1]
    assert {name: gpu.bad(result) for name, result in results.items()} == {
        "hangs": True, "crashes": True, "wrong": True, "good": False,
    }  # fmt: skip
    assert list(gpu.verdicts(results))[:3] == [
        "right: 1 of 2 cases",
        "WRONG: b: 1.0e+00",
        "hangs: hung: killed after 1 s",
    ]
    gpu.run_all(parts[4:], found, 100, command, lambda: None)
    assert found["parts"]["good"]["status"] == "skipped: wrong went wrong"
    assert found["parts"]["memory"]["status"] == "skipped: there is no no-such-tool"
    watched = gpu.Part("hangs", 1.0, under=("a tool",))
    gpu.run_all([watched], found, 100, lambda part, rows: command(parts[0], rows), lambda: None)
    assert found["parts"]["hangs"]["status"] == "skipped: no end after 1 s"
    gpu.run_all(parts[3:4], found, 0, command, lambda: None)
    assert found["parts"]["good"]["status"] == "skipped: no time left"


def test_the_verdict_names_the_faster_kernel_and_the_targets(script: Any) -> None:
    facts = {"outputs": 8192, "columns": 28672}
    rows = [
        facts | {"kernel": "torch bf16", "batch": 1, "us": 120.0},
        facts | {"kernel": "2 bits int8", "batch": 1, "us": 20.0, "bytes_per_second": 3e12},
    ]
    parts = {
        "speed: copies": {"status": "done", "rows": [{"bytes_per_second": 4e12}]},
        "speed: linear": {"status": "done", "rows": rows},
        "speed: specialised": {"status": "done", "rows": [{"gemm.cu": 2.0, "hopper.cu": 1.0}] * 2},
    }
    lines = list(script("gpu").verdicts(parts))
    assert (
        "K1 8192x28672 batch 1, 2 bits int8: 6.0 times cuBLAS bf16 (target 6); alone 75% of a copy's bandwidth"
        in lines[1]
    )
    assert lines[2].startswith("hopper.cu is 2.00 times as fast as gemm.cu (geometric mean of 2")
    assert lines[2].endswith("the default should be hopper.cu")


def test_every_part_is_known(script: Any) -> None:
    gpu = script("gpu")
    for part in gpu.PARTS:
        assert gpu.rows_of(part.run or part.name, CPU) is not None
    assert sum(part.seconds for part in gpu.PARTS if part.name.startswith("right")) < 300


@pytest.mark.slow
def test_its_cases_are_right_on_the_emulated_machine(
    script: Any, emulate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = script("gpu_right")
    monkeypatch.setattr(right.machine, "launch", emulate)
    monkeypatch.setattr(right.ops, "gpu", lambda _: Gpu(wgmma=True))
    torch.manual_seed(0)
    rows = [
        right.one_linear(CPU, Gpu(True, True, 3), 2, "int8", 33, 77, 300, 1, {}),
        right.one_linear(CPU, Gpu(), 4, "accurate", 33, 77, 256, 2, {}),
        right.one_linear(CPU, Gpu(), 2, "bf16", 3, 20, 300, 1, {"listed": True}),
        *right.one_convolution(CPU, 2, "int8", 2, 3, 9, 20, 3, 1, torch.float32),
        *right.one_convolution(CPU, 2, "int8", 2, 3, 5, 20, 3, 2, torch.bfloat16),
        *right.few(CPU),
    ]
    assert [row["case"] for row in rows if not row["right"]] == []


def test_its_timings_time_what_they_name(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    speed = script("gpu_speed")
    launched: list[str] = []
    monkeypatch.setattr(speed.machine, "launch", lambda launch, _: launched.append(launch.function))
    monkeypatch.setattr(speed.ops, "gpu", lambda _: Gpu(wgmma=True))
    monkeypatch.setattr(speed, "SHAPES", [(16, 128)])
    monkeypatch.setattr(speed, "ROTATED", 1024)
    monkeypatch.setattr(speed, "microseconds", lambda works: float(len([work() for work in works])))
    facts = type("Properties", (), {"multi_processor_count": 4})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    rows = list(speed.linear_layers(CPU))
    assert {row["kernel"] for row in rows} == {
        "torch bf16",
        "2 bits int8",
        "2 bits accurate",
        "2 bits bf16",
        "4 bits int8",
    }
    assert [row["us"] for row in rows if row["kernel"] == "2 bits int8"] == [2.0] * 6  # weights in turns
    assert set(launched) == {"quantize_rows", "small_linear", "large_product"}
    assert launched.count("quantize_rows") < len(launched) / 2  # each product is timed alone too
    launched.clear()
    assert len(list(speed.specialised(CPU))) == 4 * 5
    assert set(launched) == {"quantize_rows", "large_product", "specialised_product"}


def test_its_network_is_one_chain(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = script("gpu_networks")
    rows = list(networks.right(CPU))
    assert [row["case"] for row in rows if not row["right"]] == []
    monkeypatch.setattr(networks, "BATCHES", (1,))
    monkeypatch.setattr(networks, "microseconds", lambda works: float(len([work() for work in works])))
    (row,) = networks.speed(CPU)
    assert set(row["us"]) == {"torch bf16", "2 bits int8", "2 bits accurate"}


def test_all_that_its_parts_launch_is_compiled_beforehand(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, right = script("gpu"), script("gpu_right")
    asked: list[Any] = []
    monkeypatch.setattr(right.machine, "launch", None)  # put back afterwards
    monkeypatch.setattr(right.machine, "architecture", lambda _: "sm_90a")
    monkeypatch.setattr(right.ops, "gpu", lambda _: Gpu(wgmma=True))
    for name in ("linear_layers", "specialised"):  # too many for a processor
        monkeypatch.setattr(right, name, lambda device: right.zero_points(device, Gpu(wgmma=True)))

    class Pool:
        def __init__(self, *_: Any) -> None: ...
        def __enter__(self) -> "Pool":
            return self

        def __exit__(self, *_: Any) -> None: ...
        def map(self, _: Any, variants: list[Any]) -> list[int]:
            asked.extend(variants)
            return [1] * len(variants)

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor", Pool)
    assert list(gpu.compile_all(CPU)) == [{"variants": len(asked), "bytes": len(asked)}]
    sources = {(source, dict(settings).get("ZEROS", 0)) for source, settings, _ in asked}
    assert {("gemm.cu", 1), ("small.cu", 1), ("gemm.cu", 0), ("hopper.cu", 0), ("quantize.cu", 0)} <= sources
    assert len(asked) == len(set(asked))
