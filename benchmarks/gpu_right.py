"""Parts of gpu.py: are the kernels right? Every variant against float64, on shapes that fit nothing.

A part yields rows {case, error, right}; the error is the largest one relative to the largest output.
"""

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import lowbit, lowbit_ops, reference
from robustq.kernels.cuda import machine, ops
from robustq.kernels.cuda.layout import fragments
from robustq.kernels.cuda.products import Epilogue, Gpu, Window, convolution, linear

HIGHEST = {2: 1, 4: 7}
RIGHT = 1e-5  # products are exact; what is left is the rounding of float32
INTEGER = list(itertools.product((2, 4), ("int8", "accurate")))
Row = dict[str, Any]


def linear_layers(device: torch.device) -> Iterator[Row]:
    """K1, K2, K3; on Hopper the instructions of other GPUs too, which it also has."""
    own = ops.gpu(torch.empty(0, device=device))
    storages = ({}, {"bitmap": True}, {"listed": True}, {"bitmap": True, "listed": True})
    for bits, mode in [*INTEGER, (2, "bf16")]:
        for samples, (outputs, columns, groups) in itertools.product(
            (1, 7, 16, 33, 130, 1000), [(16, 128, 1), (77, 1500, 1), (300, 512, 4)]
        ):
            for storage in storages if bits == 2 else storages[:1]:
                if mode == "bf16" and "bitmap" in storage:
                    continue
                yield one_linear(device, own, bits, mode, samples, outputs, columns, groups, storage)
            if own.wgmma and samples > 32 and mode != "bf16":
                yield one_linear(device, Gpu(), bits, mode, samples, outputs, columns, groups, {})
    yield from zero_points(device, own)


def few(device: torch.device) -> Iterator[Row]:
    """Each kernel once, for tools that watch every access."""
    own = ops.gpu(torch.empty(0, device=device))
    for gpu, samples in [(own, 7), (own, 100), (Gpu(), 100), *[(Gpu(True, True, 3), 300)] * own.wgmma]:
        yield one_linear(device, gpu, 2, "int8", samples, 77, 300, 1, {})
        yield one_linear(device, gpu, 4, "accurate", samples, 300, 512, 4, {})
    yield one_linear(device, own, 2, "int8", 7, 77, 300, 1, {"bitmap": True, "listed": True})
    yield from one_convolution(device, 2, "accurate", 2, 3, 9, 20, 3, 2, torch.float32)


def specialised(device: torch.device) -> Iterator[Row]:
    """hopper.cu: all its variants, tiles that are not full, few blocks and many; then whether runs differ."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    shapes = [(16, 128, 1), (77, 1500, 1), (300, 512, 4), (520, 1280, 1), (1030, 2048, 16)]
    for (bits, mode), samples, shape in itertools.product(INTEGER, (33, 130, 1000, 4100), shapes):
        for blocks in (3, processors):
            yield one_linear(device, Gpu(True, True, blocks), bits, mode, samples, *shape, {})
    yield from zero_points(device, Gpu(True, True, processors))
    for bits, mode in INTEGER:
        x = torch.randn(2000, 4096, device=device)
        weight = fragments(drawn((4096, 4096), bits, device), torch.ones(1, 4096, device=device), bits)
        run = partial(linear, x, weight, mode, machine.launch, gpu=Gpu(True, True, processors))
        first, usual = run(), linear(x, weight, mode, machine.launch, gpu=Gpu(True))
        differ = sum(not torch.equal(run(), first) for _ in range(20))
        yield judged(f"hopper.cu {bits} bits {mode} 2000x4096->4096 beside gemm.cu", first, usual.double())
        yield {"case": f"hopper.cu {bits} bits {mode}: 20 runs agree", "error": float(differ), "right": not differ}


def zero_points(device: torch.device, gpu: Gpu) -> Iterator[Row]:
    """Codes of all values that so many bits have, less a zero point for each group."""
    for (bits, mode), samples, (outputs, columns, groups) in itertools.product(
        INTEGER, (3, 20, 130), [(77, 1500, 1), (300, 1536, 4)]
    ):
        fields = torch.randint(0, 2**bits, (outputs, columns), dtype=torch.uint8, device=device)
        zero = torch.randint(0, 2**bits, (groups, outputs), dtype=torch.uint8, device=device)
        scale, x = torch.rand(groups, outputs, device=device) + 0.1, torch.randn(samples, columns, device=device)
        packed = lowbit.pack_fields(fields, bits, groups)
        dense = lowbit.dense(packed, scale, bits, columns, zero).double()
        weight = ops.lowbit_fragments(packed, scale, bits, columns, None, zero)
        y = linear(x, weight, mode, machine.launch, gpu=gpu)
        case = f"zero points {bits} bits {mode} {samples}x{columns}->{outputs} groups {groups}"
        yield judged(case, y, rounded(x, mode) @ dense.T)


def convolutions(device: torch.device) -> Iterator[Row]:
    """K4 with all that its epilogue does."""
    shapes = [(2, 3, 9, 20, 3, 1), (65, 16, 32, 16, 3, 2), (3, 64, 8, 130, 1, 1), (40, 32, 4, 64, 3, 1)]
    for (bits, mode), shape, dtype in itertools.product(INTEGER, shapes, (torch.float32, torch.bfloat16)):
        yield from one_convolution(device, bits, mode, *shape, dtype)


def situations(device: torch.device) -> Iterator[Row]:
    """The ops in a CUDA graph, on a stream of their own, on every device, and with nothing to do."""
    for bits, mode in INTEGER:
        codes = drawn((200, 512), bits, device)
        packed, scale = lowbit.pack(codes, bits), torch.rand(1, 200, device=device)
        dense = codes.double() * scale.T.double()

        def layer(x: Tensor, place: torch.device = device, args: Any = (packed, scale, bits, mode)) -> Tensor:
            codes_there, scale_there = args[0].to(place), args[1].to(place)
            return lowbit_ops.lowbit_linear(x, codes_there, scale_there, None, args[2], 512, args[3])

        for samples in (5, 100):
            name = f"{bits} bits {mode} {samples}x512->200"
            x = torch.randn(samples, 512, device=device)
            yield judged(f"in a graph, {name}", in_a_graph(layer, x), rounded(x, mode) @ dense.T)
            side = torch.cuda.Stream()
            with torch.cuda.stream(side):
                y = layer(x)
            side.synchronize()
            yield judged(f"on a stream, {name}", y, rounded(x, mode) @ dense.T)
            for index in range(1, torch.cuda.device_count()):
                there = x.to(f"cuda:{index}")
                yield judged(
                    f"on cuda:{index}, {name}", layer(there, there.device).to(device), rounded(x, mode) @ dense.T
                )
        empty = layer(torch.empty(0, 512, device=device))
        yield {"case": f"no samples, {bits} bits {mode}", "error": 0.0, "right": empty.shape == (0, 200)}


def in_a_graph(layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """What a graph gives for x that was captured with another input."""
    held = torch.ones_like(x)
    layer(held)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(held)
    held.copy_(x)
    graph.replay()
    torch.cuda.synchronize()
    return y


def one_linear(
    device: torch.device, gpu: Gpu, bits: int, mode: str, samples: int, outputs: int, columns: int, groups: int,
    storage: dict[str, Any],
) -> Row:  # fmt: skip
    codes = drawn((outputs, columns), bits, device)
    if storage:
        codes[torch.rand(codes.shape, device=device) < 0.9] = 0
        codes[:16, :128] = 0
    scale = torch.rand(groups, outputs, device=device) + 0.1
    x, bias = torch.randn(samples, columns, device=device), torch.randn(outputs, device=device)
    y = linear(x, fragments(codes, scale, bits, **storage), mode, machine.launch, Epilogue(bias=bias), gpu)
    dense = codes.double() * reference.spread(scale.T, outputs, columns).double()
    kernel = f"hopper.cu on {gpu.processors} blocks" if gpu.specialised else "wgmma" if gpu.wgmma else "mma.sync"
    case = f"linear {bits} bits {mode} {samples}x{columns}->{outputs} groups {groups} {'+'.join(storage) or kernel}"
    return judged(case, y, rounded(x, mode) @ dense.T + bias.double())


def one_convolution(
    device: torch.device, bits: int, mode: str, n: int, channels: int, side: int, outputs: int, kernel: int,
    stride: int, dtype: torch.dtype,
) -> Iterator[Row]:  # fmt: skip
    window = Window((kernel, kernel), (stride, stride), (kernel // 2, kernel // 2), (1, 1))
    codes = drawn((outputs, channels, kernel, kernel), bits, device)
    scale = torch.rand(1, outputs, device=device) + 0.1
    x = torch.randn(n, channels, side, side, device=device).to(dtype)
    flat = F.pad(codes.permute(0, 2, 3, 1), (0, -channels % 16)).reshape(outputs, -1)
    values, dense = rounded(x.float(), mode, (1, 2, 3)), (codes * scale.view(-1, 1, 1, 1)).double()
    wanted = F.conv2d(values, dense, None, window.stride, window.padding)
    residual = torch.randn(wanted.shape, device=device).to(dtype).contiguous(memory_format=torch.channels_last)
    wanted = (wanted + residual.double()).relu()
    largest = torch.zeros(n, dtype=torch.int32, device=device)
    epilogue = Epilogue(residual=residual, relu=True, largest=largest)
    y = convolution(x, fragments(flat, scale, bits), window, mode, machine.launch, epilogue, ops.gpu(x))
    case = (
        f"convolution {bits} bits {mode} {dtype} {n}x{channels}x{side}x{side}->{outputs}, {kernel}x{kernel} by {stride}"
    )
    yield judged(case, y, wanted, RIGHT if dtype == torch.float32 else 5e-3)
    same = torch.equal(largest.view(torch.float32), y.abs().amax((1, 2, 3)).float())
    yield {"case": f"{case}: largest of each sample", "error": float(not same), "right": same}


def drawn(shape: tuple[int, ...], bits: int, device: torch.device) -> Tensor:
    return torch.randint(-HIGHEST[bits], HIGHEST[bits] + 1, shape, dtype=torch.int8, device=device)


def rounded(x: Tensor, mode: str, dims: tuple[int, ...] = (-1,)) -> Tensor:
    return (x.bfloat16() if mode == "bf16" else lowbit.rounded(x, mode, dims)).double()


def judged(case: str, found: Tensor, wanted: Tensor, bound: float = RIGHT) -> Row:
    error = float((found.double() - wanted).abs().max() / wanted.abs().max())
    return {"case": case, "error": error, "right": error < bound}
