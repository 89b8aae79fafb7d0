"""What is launched for a product: which kernel in which variant, on how large a grid, with which arguments.

The launcher is handed in: `machine.launch` on a GPU; the tests run the same plan on a CPU.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .layout import OUTPUTS, TILE, Fragments

THREADS = 256
SMALL = 32  # most samples for which the weights are read once, by small.cu
LIMBS = {"bf16": 0, "int8": 1, "accurate": 2}
_ELEMENT = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_PIECES = TILE // 16
_TILE_ROWS = 128  # of activations in a stage of hopper.cu
_STAGES = 4
_BLOCKS_OF_IMAGE = 64  # most that share a sample once its scale is known


@dataclass(frozen=True)
class Launch:
    """One kernel: `function` of the file `source`, compiled with `defines`, on a grid of blocks of `threads`.

    arguments: tensors (their address), None (a null pointer) and ctypes values, in the order of the kernel's.
    """

    source: str
    function: str
    defines: Mapping[str, int]
    grid: tuple[int, int]
    shared: int
    arguments: Sequence[Any]
    threads: int = THREADS


@dataclass(frozen=True)
class Gpu:
    """What of a GPU decides which kernel runs.

    wgmma       Hopper's own instructions
    specialised linear layers of many samples by hopper.cu in the place of gemm.cu; needs wgmma
    processors  multiprocessors, for each of which hopper.cu has one block
    """

    wgmma: bool = False
    specialised: bool = False
    processors: int = 132


Launcher = Callable[[Launch, torch.device], None]


class Geometry(ctypes.Structure):
    """Of a convolution, as gemm.cu declares it."""

    _fields_ = [
        (name, ctypes.c_int)
        for name in (
            "height", "width", "channels", "out_height", "out_width", "kernel_width", "taps", "stride_y", "stride_x",
            "pad_y", "pad_x", "dilation_y", "dilation_x",
        )
    ]  # fmt: skip


@dataclass(frozen=True)
class Window:
    """Kernel, stride, padding and dilation of a convolution, each (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    def output(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output."""
        sizes = zip((height, width), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        tall, wide = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
        return tall, wide


@dataclass(frozen=True)
class Epilogue:
    """What happens to the sums: + bias (outputs,), + residual (like y), ReLU; `largest` (samples,) int32 or None.

    largest takes the largest magnitude of each sample of y, as the bits of a float32: it must hold zeros before.
    """

    bias: Tensor | None = None
    residual: Tensor | None = None
    relu: bool = False
    largest: Tensor | None = None


def linear(
    x: Tensor, weight: Fragments, mode: str, launch: Launcher, epilogue: Epilogue = Epilogue(), gpu: Gpu = Gpu()
) -> Tensor:
    """x (samples, columns) float32, float16 or bfloat16 -> y (samples, outputs) of its dtype.

    mode "int8" or "accurate" (activations of 8 or 16 bits, one scale a sample) or "bf16": two-bit codes, no bitmap,
    no zero points.
    """
    samples = len(x)
    y = x.new_empty(samples, weight.outputs)
    if not samples:
        return y
    x, element = x.contiguous(), _ELEMENT[x.dtype]
    # Sparse weights and bfloat16 have no kernel for many samples: they are read once for every `SMALL` of them.
    plain = epilogue.residual is None and epilogue.largest is None
    special = weight.signs is not None or weight.tile_start is not None or not LIMBS[mode]
    if (weight.signs is not None or weight.zero is not None) and not LIMBS[mode]:
        raise ValueError("a bitmap and zero points have no products in bfloat16")
    if special and not plain:
        raise ValueError("sparse weights and bfloat16 have no fused residual")
    small = special or (plain and samples <= SMALL)
    order = 0 if small else 3 if plain and gpu.specialised else 1
    sums = None
    if weight.zero is not None:
        sums = torch.zeros(samples, weight.zero.shape[1], dtype=torch.int32, device=x.device)
    q, plane, unit = _quantized_rows(x, weight, mode, order, sums, launch)
    if small:
        chosen = _small(y, weight, q, plane, unit, mode, epilogue, element, sums)
    elif order == 3:
        chosen = _specialised(y, weight, q, unit, mode, epilogue, element, gpu.processors, sums)
    else:
        chosen = _large(y, weight, q, plane, unit, mode, epilogue, element, gpu.wgmma, sums=sums)
    launch(chosen, x.device)
    return y


def convolution(
    x: Tensor,
    weight: Fragments,
    window: Window,
    mode: str,
    launch: Launcher,
    epilogue: Epilogue = Epilogue(),
    gpu: Gpu = Gpu(),
    known: Tensor | None = None,
) -> Tensor:
    """x (n, c, h, w), weight of columns (kernel row, kernel column, c padded to 16) -> y (n, outputs, oh, ow).

    y is channels-last in memory; a residual must be too. mode "int8" or "accurate", one scale a sample. `known` is what
    `Epilogue.largest` took from the layer that made x, which spares a pass over x.
    """
    n, channels, height, width = x.shape
    tall, wide = window.output(height, width)
    y = x.new_empty(n, tall, wide, weight.outputs)
    if y.numel():
        element, padded = _ELEMENT[x.dtype], -(-channels // 16) * 16
        plane, limbs = n * height * width * padded, LIMBS[mode]
        q = torch.empty(limbs * plane, dtype=torch.int8, device=x.device)
        unit = torch.empty(n, dtype=torch.float32, device=x.device)
        sizes = [ctypes.c_int(v) for v in (channels, height, width)]
        # x.stride() is by sample, channel, row, column: the order of the kernel's arguments.
        strides = map(ctypes.c_longlong, x.stride())
        arguments = [x, *sizes, *strides, ctypes.c_int(padded), known, q, ctypes.c_longlong(plane), unit]
        defines = {"LIMBS": limbs, "ORDER": 2, "ELEMENT": element}
        share = 1 if known is None else min(_BLOCKS_OF_IMAGE, -(-height * width * padded // (4 * THREADS)))
        launch(Launch("quantize.cu", "quantize_images", defines, (n, share), 128, arguments), x.device)
        rows, columns = window.kernel
        shape = Geometry(
            height, width, padded, tall, wide, columns, rows * columns, *window.stride, *window.padding,
            *window.dilation,
        )  # fmt: skip
        flat = y.view(-1, weight.outputs)
        launch(_large(flat, weight, q, plane, unit, mode, epilogue, element, gpu.wgmma, shape), x.device)
    return y.permute(0, 3, 1, 2)


def _quantized_rows(
    x: Tensor, weight: Fragments, mode: str, order: int, sums: Tensor | None, launch: Launcher
) -> tuple[Tensor, int, Tensor]:
    """The bytes of quantize.cu, the size of a plane of them, and the scale of each sample; their sums into `sums`."""
    tiles = weight.tiles
    limbs, each = LIMBS[mode], _TILE_ROWS // LIMBS[mode] if order == 3 else 8
    rows = -(-len(x) // each) * each
    plane = each * 16 if order == 3 else rows * tiles * TILE
    q = torch.empty(rows * tiles * TILE * (limbs or 2), dtype=torch.int8, device=x.device)
    unit = torch.empty(len(x), dtype=torch.float32, device=x.device)
    sizes = [ctypes.c_longlong(len(x)), ctypes.c_int(x.shape[1]), ctypes.c_int(tiles)]
    defines = {"LIMBS": limbs, "ORDER": order, "ELEMENT": _ELEMENT[x.dtype]}
    groups = [ctypes.c_int(weight.scale.shape[1]), ctypes.c_int(weight.group)]
    arguments = [x, *sizes, q, ctypes.c_longlong(plane), unit, sums, *groups]
    # The tensor cores of hopper.cu read whole tiles: rows that are not there are written as zeros.
    blocks = rows if order == 3 else len(x)
    launch(Launch("quantize.cu", "quantize_rows", defines, (blocks, 1), 128, arguments), x.device)
    return q, plane, unit


def _small(
    y: Tensor, weight: Fragments, q: Tensor, plane: int, unit: Tensor, mode: str, epilogue: Epilogue, element: int,
    sums: Tensor | None,
) -> Launch:  # fmt: skip
    samples = len(y)
    bitmap, listed = weight.signs is not None, weight.tile_start is not None
    sets = next((s for s in (1, 2) if samples <= 8 * s), 4)
    blocks = 2 if sets == 1 and not bitmap and not listed else 1
    defines = {
        "FORMAT": 2 if bitmap else int(weight.bits == 4),
        "LIMBS": LIMBS[mode],
        "SETS": sets,
        "BLOCKS": blocks,
        "LISTED": int(listed),
        "ELEMENT": element,
        **_zeros(weight),
    }
    grid = (-(-weight.outputs // (OUTPUTS * blocks)), -(-samples // (8 * sets)))
    shared = THREADS // 32 * 8 * sets * OUTPUTS * blocks * 4 + (1024 if bitmap else 0)
    numbers = [ctypes.c_int(v) for v in (samples, weight.outputs, weight.tiles, int(epilogue.relu))]
    arguments = [
        weight.words, weight.signs, weight.sign_start, weight.tile_start, weight.tile_index, q,
        ctypes.c_longlong(plane), unit, weight.scale, ctypes.c_int(weight.scale.shape[1]), ctypes.c_int(weight.group),
        epilogue.bias, y, *numbers, weight.zero, sums,
    ]  # fmt: skip
    return Launch("small.cu", "small_linear", defines, grid, shared, arguments)


def _large(
    y: Tensor,
    weight: Fragments,
    q: Tensor,
    plane: int,
    unit: Tensor,
    mode: str,
    epilogue: Epilogue,
    element: int,
    wgmma: bool,
    shape: Geometry | None = None,
    sums: Tensor | None = None,
) -> Launch:
    limbs, grouped = LIMBS[mode], weight.scale.shape[1] > 1 or weight.zero is not None
    columns = 64 if limbs == 2 and grouped else 128  # what the registers hold
    stages = 2 if limbs == 2 and columns == 128 else 3  # what 99 KiB of shared memory hold
    defines = {
        "FORMAT": int(weight.bits == 4),
        "LIMBS": limbs,
        "COLUMNS": columns,
        "STAGES": stages,
        "GROUPED": int(grouped),
        "CONVOLUTION": int(shape is not None),
        "ELEMENT": element,
        "WGMMA": int(wgmma),
        **_zeros(weight),
    }
    grid = (-(-len(y) // columns), -(-weight.outputs // (OUTPUTS * THREADS // 32)))
    shared = stages * limbs * _PIECES * (columns * 16 + 16)
    arguments = [
        weight.words, q, ctypes.c_longlong(plane), unit, weight.scale, ctypes.c_int(weight.scale.shape[1]),
        ctypes.c_int(weight.group), epilogue.bias, epilogue.residual, y, epilogue.largest, ctypes.c_longlong(len(y)),
        ctypes.c_int(weight.outputs), ctypes.c_int(weight.tiles), ctypes.c_int(int(epilogue.relu)), weight.zero, sums,
        shape if shape is not None else ctypes.c_int(0),
    ]  # fmt: skip
    return Launch("gemm.cu", "large_product", defines, grid, shared, arguments)


def _specialised(
    y: Tensor, weight: Fragments, q: Tensor, unit: Tensor, mode: str, epilogue: Epilogue, element: int, processors: int,
    sums: Tensor | None,
) -> Launch:  # fmt: skip
    limbs, grouped = LIMBS[mode], weight.scale.shape[1] > 1 or weight.zero is not None
    blocks = 1 if grouped else 2  # what the registers hold
    defines = {
        "FORMAT": int(weight.bits == 4),
        "LIMBS": limbs,
        "BLOCKS": blocks,
        "STAGES": _STAGES,
        "GROUPED": int(grouped),
        "ELEMENT": element,
        **_zeros(weight),
    }
    height = 2 * 64 * blocks
    tiles = -(-len(y) // (_TILE_ROWS // limbs)) * -(-weight.outputs // height)
    stage = _TILE_ROWS * TILE + height // OUTPUTS * weight.words[0].nbytes
    arguments = [
        weight.words, q, unit, weight.scale, ctypes.c_int(weight.scale.shape[1]), ctypes.c_int(weight.group),
        epilogue.bias, y, ctypes.c_longlong(len(y)), ctypes.c_int(weight.outputs), ctypes.c_int(weight.tiles),
        ctypes.c_int(int(epilogue.relu)), weight.zero, sums,
    ]  # fmt: skip
    grid, shared = (min(tiles, processors), 1), _STAGES * (stage + 16)
    return Launch("hopper.cu", "specialised_product", defines, grid, shared, arguments, threads=3 * 128)


def _zeros(weight: Fragments) -> dict[str, int]:
    """The setting for zero points, which is left out without them: those variants are built ahead of time."""
    return {} if weight.zero is None else {"ZEROS": 1}
