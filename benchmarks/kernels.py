"""Time and error of `ternary_linear` against torch's float32 linear layer: python benchmarks/kernels.py > kernels.json

One thread. All candidates take turns inside one process, so that a busy machine slows them alike; the figures are
medians of CPU time, and only ratios within one run mean anything. Taking turns also means that the other candidate's
weights pass through the caches before each call. `--copies` uses that many copies of the weights in turn.
"""

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import backend, reference, status, ternary_linear

Run = Callable[[], Tensor]


def take_turns(runs: dict[str, Run], seconds: float) -> dict[str, float]:
    """Median CPU time of a call in microseconds, by name."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(next(iter(times.values()))) < 5:
        for name, run in runs.items():
            start = time.thread_time_ns()
            run()
            times[name].append((time.thread_time_ns() - start) / 1000)
    return {name: statistics.median(values) for name, values in times.items()}


def error(y: Tensor, exact: Tensor) -> float:
    return float((y.double() - exact).abs().max() / exact.abs().max())


def measure(size: int, rows: int, group: int, copies: int, seconds: float) -> dict[str, object]:
    """One size x size layer at one batch; `group` columns share a scale (0: one a row)."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(rows, size, generator=rng)
    scale = torch.rand(size, size // group if group else 1, generator=rng) + 0.5
    codes = torch.randint(-1, 2, (size, size), generator=rng).to(torch.int8)
    packed = [reference.pack(codes) for _ in range(copies)]
    weight = reference.ternary_dense(packed[0], scale, size, size)
    weights = [weight.clone() for _ in range(copies)]
    turn = {"torch": 0, "ours": 0}

    def dense() -> Tensor:
        turn["torch"] = (turn["torch"] + 1) % copies
        return F.linear(x, weights[turn["torch"]])

    def ours() -> Tensor:
        turn["ours"] = (turn["ours"] + 1) % copies
        return ternary_linear(x, packed[turn["ours"]], scale, None, size, size)

    exact = F.linear(x.double(), weight.double())
    times = take_turns({"torch": dense, "ours": ours}, seconds)
    return {
        "size": size,
        "batch": rows,
        "group": group,
        "copies": copies,
        "torch_fp32_us": round(times["torch"], 1),
        "ternary_us": round(times["ours"], 1),
        "speedup": round(times["torch"] / times["ours"], 2),
        "error": error(ours(), exact),
        "torch_error": error(dense(), exact),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 4096], help="of square layers")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16, 256])
    parser.add_argument("--group", type=int, default=0, help="columns that share a scale; 0 is one scale a row")
    parser.add_argument("--copies", type=int, default=1, help="of the weights, used in turn")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each size and batch")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for size in options.sizes:
        for batch in options.batches:
            rows.append(measure(size, batch, options.group, options.copies, options.seconds))
            print(rows[-1], file=sys.stderr, flush=True)
    machine = {"processor": platform.processor() or platform.machine(), "torch": torch.__version__}
    json.dump({"kernels": status(), "machine": machine, "rows": rows}, sys.stdout, indent=1)


if __name__ == "__main__":
    if backend.native is None:
        print(f"note: no native code: {backend.reason}", file=sys.stderr)
    main()
