"""Parts of gpu.py: how fast are the kernels? Medians over CUDA graphs that read more weights than the cache holds."""

import itertools
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import lowbit, lowbit_ops
from robustq.kernels.cuda import machine, ops
from robustq.kernels.cuda.layout import Fragments, fragments
from robustq.kernels.cuda.products import Gpu, Launch, linear

ROTATED = 128 << 20  # bytes of weights in one graph: twice the second-level cache of the largest GPU there is
REPEATS = 15
SHAPES = [(8192, 28672), (4096, 4096), (11008, 4096)]  # the first has a target (`gpu.verdicts`)
FORMATS = [(2, "int8"), (2, "accurate"), (2, "bf16"), (4, "int8")]
MANY = [128, 512, 2048]
Row = dict[str, Any]


def microseconds(works: Sequence[Callable[[], object]]) -> float:
    """Median time of one of the works, which a graph runs through one after the other."""
    for work in works:
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for work in works:
            work()
    times = []
    for _ in range(REPEATS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / len(works))
    return statistics.median(times[3:])


def copies(device: torch.device) -> Iterator[Row]:
    """Bytes read and written in a second by torch's copy of 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    yield {"bytes_per_second": 2 * source.numel() / (microseconds([partial(target.copy_, source)]) * 1e-6)}


def linear_layers(device: torch.device) -> Iterator[Row]:
    """K1 and K2 beside torch bfloat16 (cuBLAS): with the kernel that quantizes x, and the product alone."""
    for outputs, columns in SHAPES:
        facts = {"outputs": outputs, "columns": columns}
        batches = [1, 8, 32, *MANY]
        inputs = {n: torch.randn(n, columns, device=device, dtype=torch.bfloat16) for n in batches}
        dense = torch.randn(outputs, columns, device=device, dtype=torch.bfloat16)
        many = [dense.clone() for _ in range(max(1, ROTATED // dense.nbytes))]
        for n, x in inputs.items():
            yield facts | {
                "kernel": "torch bf16",
                "batch": n,
                "us": microseconds([partial(F.linear, x, w) for w in many]),
            }
        del many, dense
        for bits, mode in FORMATS:
            weights = rotated(outputs, columns, bits, device)
            for n, x in inputs.items():
                if mode == "bf16" and n > 32:
                    continue
                us = microseconds([partial(linear, x, w, mode, machine.launch, gpu=ops.gpu(x)) for w in weights])
                alone = microseconds([product(x, w, mode, ops.gpu(x)) for w in weights])
                yield facts | {
                    "kernel": f"{bits} bits {mode}", "batch": n, "us": us, "us_product": alone,
                    "bytes_per_second": weights[0].words.nbytes / (alone * 1e-6),
                }  # fmt: skip


def product(x: Tensor, weight: Fragments, mode: str, gpu: Gpu) -> Callable[[], None]:
    """The product alone, without the kernel that quantizes x before it; what it computes means nothing."""
    launches: list[Launch] = []
    linear(x, weight, mode, lambda launch, _: launches.append(launch), gpu=gpu)
    return partial(machine.launch, launches[-1], x.device)


def specialised(device: torch.device) -> Iterator[Row]:
    """hopper.cu beside gemm.cu, in turns."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    candidates = {"gemm.cu": Gpu(wgmma=True), "hopper.cu": Gpu(True, True, processors)}
    for (outputs, columns), bits, mode in itertools.product(SHAPES, (2, 4), ("int8", "accurate")):
        weights = rotated(outputs, columns, bits, device)
        for n in (64, *MANY, 8192):
            x = torch.randn(n, columns, device=device, dtype=torch.bfloat16)
            row: Row = {"outputs": outputs, "columns": columns, "kernel": f"{bits} bits {mode}", "batch": n}
            for name, gpu in candidates.items():
                row[name] = microseconds([partial(linear, x, w, mode, machine.launch, gpu=gpu) for w in weights])
            yield row


def rotated(outputs: int, columns: int, bits: int, device: torch.device) -> list[Fragments]:
    """One weight in so many copies that the cache cannot hold them."""
    codes = torch.randint(-1, 2, (outputs, columns), dtype=torch.int8, device=device)
    weight = fragments(codes, torch.ones(1, outputs, device=device), bits)
    copies = max(1, ROTATED // weight.words.nbytes)
    return [replace(weight, words=weight.words.clone()) for _ in range(copies)]


def convolutions(device: torch.device) -> Iterator[Row]:
    """The 3x3 convolutions of a ResNet-18 on CIFAR shapes beside torch's in bfloat16, channels last."""
    for (channels, side), batch in itertools.product([(64, 32), (128, 16), (256, 8), (512, 4)], (1, 64, 1024)):
        x = torch.randn(batch, channels, side, side, device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        dense = torch.randn(channels, channels, 3, 3, device=device, dtype=torch.bfloat16)
        dense = dense.contiguous(memory_format=torch.channels_last)
        row: Row = {"channels": channels, "side": side, "batch": batch, "us": {}}
        row["us"]["torch bf16"] = microseconds([partial(F.conv2d, x, dense, padding=1)])
        codes = torch.randint(-1, 2, (channels, channels, 3, 3), dtype=torch.int8, device=device)
        packed, scale = lowbit.pack_kernel(codes, 2), torch.ones(1, channels, device=device)
        window = ([3, 3], [1, 1], [1, 1], [1, 1], 1)
        for mode in ("int8", "accurate"):
            work = partial(lowbit_ops.lowbit_conv2d, x, packed, scale, None, 2, *window, mode)
            row["us"][f"2 bits {mode}"] = microseconds([work])
        yield row
