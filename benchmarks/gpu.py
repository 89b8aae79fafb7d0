"""All that needs a GPU, in one run: are the CUDA kernels right, and how fast are they?

    python benchmarks/gpu.py --json gpu.json          # a GPU: correctness, then timings
    python benchmarks/gpu.py --code --json code.json  # no GPU: registers and instructions of the machine code

Correctness: every kernel in all its variants against float64, on shapes that fit nothing. Timings: medians over
CUDA graphs that run through weights of more than the second-level cache, beside torch bfloat16 (cuBLAS) and a plain
copy, which gives the bandwidth that is to be had.
"""

import argparse
import importlib.metadata
import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import lowbit, lowbit_ops, reference
from robustq.kernels.cuda import compiler, machine, support
from robustq.kernels.cuda.layout import fragments
from robustq.kernels.cuda.ops import gpu
from robustq.kernels.cuda.products import Epilogue, Window, convolution, linear

HIGHEST = {2: 1, 4: 7}
ROTATED = 128 << 20  # bytes of weights in one graph: twice the second-level cache of the largest GPU there is
SHAPES = [(4096, 4096), (11008, 4096), (8192, 28672)]
BATCHES = [1, 8, 32, 128, 512, 2048]
COUNTED = ("IMMA", "HMMA", "IGMMA", "LDG", "UBLKCP", "SYNCS", "LDL", "STL")
ARCHITECTURES = ["sm_80", "sm_89", "sm_90a", "sm_100", "sm_120"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", action="store_true", help="machine code only; needs no GPU")
    parser.add_argument("--json", help="write what was found to this file")
    parser.add_argument("--repeats", type=int, default=20, help="runs of each graph")
    chosen = parser.parse_args()
    if chosen.code:
        found: dict[str, Any] = {"code": list(machine_code())}
    else:
        if (missing := support.reason()) is not None:
            raise SystemExit(f"no GPU kernels here: {missing}")
        device = torch.device("cuda")
        found = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
        found["errors"] = list(errors(device))
        found["copy_bytes_per_second"] = copy_bandwidth(chosen.repeats)
        found["linear"] = list(linear_timings(device, chosen.repeats, found["copy_bytes_per_second"]))
        found["convolution"] = list(convolution_timings(device, chosen.repeats))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(found, indent=2) + "\n")
    if any(not row["right"] for row in found.get("errors", ())):
        raise SystemExit("a kernel is wrong: no timing of it means anything")


def errors(device: torch.device) -> Iterator[dict[str, Any]]:
    """Largest error of each variant relative to the largest output."""
    torch.manual_seed(0)
    for bits, mode in [(2, "int8"), (2, "accurate"), (2, "bf16"), (4, "int8"), (4, "accurate")]:
        for samples in (1, 7, 16, 33, 130, 1000):
            for outputs, columns, groups in [(16, 128, 1), (77, 1500, 1), (300, 512, 4)]:
                for storage in ({}, {"bitmap": True}, {"listed": True}, {"bitmap": True, "listed": True}):
                    if storage and bits == 4:
                        continue
                    yield report(one_linear(device, bits, mode, samples, outputs, columns, groups, storage))
    for bits, mode in [(2, "int8"), (2, "accurate"), (4, "int8")]:
        for n, channels, side, outputs, kernel, stride in [
            (2, 3, 9, 20, 3, 1),
            (65, 16, 32, 16, 3, 2),
            (3, 64, 8, 130, 1, 1),
        ]:
            yield report(one_convolution(device, bits, mode, n, channels, side, outputs, kernel, stride))


def one_linear(
    device: torch.device, bits: int, mode: str, samples: int, outputs: int, columns: int, groups: int,
    storage: dict[str, bool],
) -> dict[str, Any]:  # fmt: skip
    codes = torch.randint(-HIGHEST[bits], HIGHEST[bits] + 1, (outputs, columns), dtype=torch.int8, device=device)
    if storage:
        codes[torch.rand(codes.shape, device=device) < 0.9] = 0
        codes[:16, :128] = 0
    scale = torch.rand(groups, outputs, device=device) + 0.1
    x, bias = torch.randn(samples, columns, device=device), torch.randn(outputs, device=device)
    weight = fragments(codes, scale, bits, **storage)
    y = linear(x, weight, mode, machine.launch, Epilogue(bias=bias), gpu(x))
    values = x.bfloat16() if mode == "bf16" else lowbit.rounded(x, mode, (-1,))
    dense = codes.double() * reference.spread(scale.T, outputs, columns).double()
    case = f"linear {bits} bits {mode} {samples}x{columns}->{outputs} groups {groups} {'+'.join(storage) or 'dense'}"
    return {"case": case, "error": relative(y, values.double() @ dense.T + bias.double())}


def one_convolution(
    device: torch.device, bits: int, mode: str, n: int, channels: int, side: int, outputs: int, kernel: int, stride: int
) -> dict[str, Any]:
    window = Window((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2), (1, 1))
    shape = (outputs, channels, kernel, kernel)
    codes = torch.randint(-HIGHEST[bits], HIGHEST[bits] + 1, shape, dtype=torch.int8, device=device)
    scale = torch.rand(1, outputs, device=device) + 0.1
    x = torch.randn(n, channels, side, side, device=device)
    flat = F.pad(codes.permute(0, 2, 3, 1), (0, -channels % 16)).reshape(outputs, -1)
    y = convolution(x, fragments(flat, scale, bits), window, mode, machine.launch, gpu=gpu(x))
    dense = (codes * scale.view(-1, 1, 1, 1)).double()
    wanted = F.conv2d(lowbit.rounded(x, mode, (1, 2, 3)).double(), dense, None, window.stride, window.padding)
    case = f"convolution {bits} bits {mode} {n}x{channels}x{side}x{side}->{outputs}, {kernel}x{kernel} by {stride}"
    return {"case": case, "error": relative(y, wanted)}


def report(row: dict[str, Any]) -> dict[str, Any]:
    row["right"] = row["error"] < 1e-5
    print(f"{'ok' if row['right'] else 'WRONG':6}{row['error']:.1e}  {row['case']}", flush=True)
    return row


def relative(found: Tensor, wanted: Tensor) -> float:
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def microseconds(works: Sequence[Callable[[], object]], repeats: int) -> float:
    """Median time of one of the works, which a graph runs through one after the other."""
    for work in works:
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / len(works))
    return statistics.median(times[1:])


def copy_bandwidth(repeats: int) -> float:
    """Bytes read and written in a second by torch's copy of 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / (microseconds([partial(target.copy_, source)], repeats) * 1e-6)


def linear_timings(device: torch.device, repeats: int, bandwidth: float) -> Iterator[dict[str, Any]]:
    for outputs, columns in SHAPES:
        dense = torch.randn(outputs, columns, device=device, dtype=torch.bfloat16)
        for batch in BATCHES:
            x = torch.randn(batch, columns, device=device, dtype=torch.bfloat16)
            many = [dense.clone() for _ in range(max(1, ROTATED // (dense.numel() * 2)))]
            row: dict[str, Any] = {"outputs": outputs, "columns": columns, "batch": batch, "us": {}}
            row["us"]["torch bf16"] = microseconds([partial(F.linear, x, w) for w in many], repeats)
            del many
            for bits, mode in [(2, "int8"), (2, "accurate"), (2, "bf16"), (4, "int8")]:
                if mode == "bf16" and batch > 32:
                    continue
                size = outputs * columns * bits // 8
                codes = torch.randint(-1, 2, (outputs, columns), dtype=torch.int8, device=device)
                weights = [
                    fragments(codes, torch.ones(1, outputs, device=device), bits)
                    for _ in range(max(1, ROTATED // size))
                ]
                works = [partial(linear, x, w, mode, machine.launch, gpu=gpu(x)) for w in weights]
                us = microseconds(works, repeats)
                row["us"][f"{bits} bits {mode}"] = us
                row.setdefault("share_of_copy_bandwidth", {})[f"{bits} bits {mode}"] = size / (us * 1e-6) / bandwidth
            print(json.dumps(row), flush=True)
            yield row


def convolution_timings(device: torch.device, repeats: int) -> Iterator[dict[str, Any]]:
    """The 3x3 convolutions of a ResNet-18 on CIFAR shapes against torch's in bfloat16, channels last."""
    for channels, side in [(64, 32), (128, 16), (256, 8), (512, 4)]:
        for batch in (1, 64, 1024):
            x = torch.randn(batch, channels, side, side, device=device, dtype=torch.bfloat16)
            x = x.contiguous(memory_format=torch.channels_last)
            dense = torch.randn(channels, channels, 3, 3, device=device, dtype=torch.bfloat16)
            dense = dense.contiguous(memory_format=torch.channels_last)
            row: dict[str, Any] = {"channels": channels, "side": side, "batch": batch, "us": {}}
            row["us"]["torch bf16"] = microseconds([partial(F.conv2d, x, dense, padding=1)], repeats)
            codes = torch.randint(-1, 2, (channels, channels, 3, 3), dtype=torch.int8, device=device)
            packed, scale = lowbit.pack_kernel(codes, 2), torch.ones(1, channels, device=device)
            window = ([3, 3], [1, 1], [1, 1], [1, 1], 1)
            for mode in ("int8", "accurate"):
                work = partial(lowbit_ops.lowbit_conv2d, x, packed, scale, None, 2, *window, mode)
                row["us"][f"2 bits {mode}"] = microseconds([work], repeats)
            print(json.dumps(row), flush=True)
            yield row


def machine_code() -> Iterator[dict[str, Any]]:
    """Registers, spills and tensor-core instructions of the main variants for every architecture."""
    small = {"FORMAT": 0, "LIMBS": 1, "SETS": 1, "BLOCKS": 2, "LISTED": 0, "ELEMENT": 2}
    large = {"FORMAT": 0, "LIMBS": 1, "COLUMNS": 128, "STAGES": 3, "GROUPED": 0, "CONVOLUTION": 0, "ELEMENT": 2}
    hopper = {"FORMAT": 0, "LIMBS": 1, "BLOCKS": 2, "STAGES": 4, "GROUPED": 0, "ELEMENT": 2}
    variants = [
        ("K1 2 bits int8, batch 1-8", "small.cu", small),
        ("K1 2 bits accurate, batch 1-8", "small.cu", small | {"LIMBS": 2}),
        ("K1 2 bits bf16, batch 1-8", "small.cu", small | {"LIMBS": 0}),
        ("K1 4 bits accurate, batch 17-32", "small.cu", small | {"FORMAT": 1, "LIMBS": 2, "SETS": 4, "BLOCKS": 1}),
        ("K3 bitmap int8, batch 1-8", "small.cu", small | {"FORMAT": 2, "BLOCKS": 1}),
        ("K2 2 bits int8", "gemm.cu", large),
        ("K2 2 bits accurate", "gemm.cu", large | {"LIMBS": 2, "STAGES": 2}),
        ("K2 4 bits int8, groups", "gemm.cu", large | {"FORMAT": 1, "GROUPED": 1}),
        ("K2 specialised, 2 bits int8", "hopper.cu", hopper),
        ("K2 specialised, 2 bits accurate", "hopper.cu", hopper | {"LIMBS": 2}),
        ("K2 specialised, 4 bits int8, groups", "hopper.cu", hopper | {"FORMAT": 1, "BLOCKS": 1, "GROUPED": 1}),
        ("K4 2 bits int8", "gemm.cu", large | {"CONVOLUTION": 1}),
        ("K5 rows, accurate", "quantize.cu", {"LIMBS": 2, "ORDER": 0, "ELEMENT": 2}),
    ]
    listed = importlib.metadata.files("nvidia-cuda-cuobjdump") or []
    tool = next(str(f.locate()) for f in listed if f.name == "cuobjdump")
    for name, source, defines in variants:
        for arch in ARCHITECTURES if source != "hopper.cu" else ["sm_90a"]:
            extra = {"WGMMA": int(arch == "sm_90a")} if source == "gemm.cu" else {}
            compiled = compiler.compile(source, arch, defines | extra)
            registers = max(map(int, re.findall(r"Used (\d+) registers", compiled.log)))
            spills = sum(map(int, re.findall(r"(\d+) bytes spill", compiled.log)))
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(compiled.code)
                file.flush()
                text = subprocess.run([tool, "-sass", file.name], capture_output=True, text=True, check=True).stdout
            counts = {i: len(re.findall(rf"\b{i}\b", text)) for i in COUNTED}
            row = {"kernel": name, "arch": arch, "registers": registers, "spill_bytes": spills, "instructions": counts}
            print(json.dumps(row), flush=True)
            yield row


if __name__ == "__main__":
    main()
