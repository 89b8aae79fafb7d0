"""Ternary 3 x 3 convolutions, depthwise or dense, beside torch: python benchmarks/convolutions.py > c.json

Shapes of MobileNet (depthwise) and ResNet (dense), images channels last for ours, for torch both ways. One thread, all
candidates in turns, medians of CPU time.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from robustq.kernels import backend, lowbit, lowbit_ops, status
from robustq.kernels.measure import take_turns

MODES = ("accurate", "int8")


class Shape(NamedTuple):
    channels: int
    size: int  # height and width of x
    stride: int
    depthwise: bool

    def __str__(self) -> str:
        kind = "depthwise" if self.depthwise else "dense"
        return f"{kind} {self.channels} x {self.size} stride {self.stride}"


SHAPES = (
    *(Shape(*numbers, True) for numbers in [(32, 112, 1), (64, 112, 2), (128, 56, 1), (512, 14, 1), (512, 14, 2)]),
    *(Shape(*numbers, False) for numbers in [(64, 56, 1), (128, 28, 1), (256, 14, 1), (512, 7, 1)]),
)


def on_isa(isa: str, mode: str, x: Tensor, layer: tuple[Any, ...], window: tuple[Any, ...]) -> Tensor:
    backend.native.use(isa)
    return lowbit_ops.lowbit_conv2d(x, *layer, *window, mode=mode)


def row(shape: Shape, batch: int, isas: list[str], seconds: float) -> dict[str, Any]:
    """Times of torch and of each mode and instruction set, and the largest error of ours."""
    rng = torch.Generator().manual_seed(0)
    groups = shape.channels if shape.depthwise else 1
    codes = torch.randint(-1, 2, (shape.channels, shape.channels // groups, 3, 3), generator=rng).to(torch.int8)
    scale, bias = torch.rand(1, shape.channels, generator=rng) + 0.5, torch.randn(shape.channels, generator=rng)
    x = torch.randn(batch, shape.channels, shape.size, shape.size, generator=rng)
    last, weight = x.contiguous(memory_format=torch.channels_last), codes * scale.view(-1, 1, 1, 1)
    runs: dict[str, Callable[[], Tensor]] = {
        "torch": partial(F.conv2d, x, weight, bias, shape.stride, 1, 1, groups),
        "torch_last": partial(F.conv2d, last, weight, bias, shape.stride, 1, 1, groups),
    }
    layer, window = (lowbit.pack_kernel(codes, 2), scale, bias, 2), ([3, 3], [shape.stride] * 2, [1, 1], [1, 1], groups)
    for isa in isas:
        runs |= {f"{mode} {isa}": partial(on_isa, isa, mode, last, layer, window) for mode in MODES}
    expected = F.conv2d(x.double(), weight.double(), bias.double(), shape.stride, 1, 1, groups)
    errors = {name: float((run() - expected).abs().max() / expected.abs().max()) for name, run in runs.items()}
    times = take_turns(runs, seconds, None, {})
    return {
        "layer": str(shape),
        "batch": batch,
        "us": {name: round(us, 1) for name, us in times.items()},
        "max_error": errors,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="layers whose name holds this")
    parser.add_argument("--batch", type=int, action="append", default=[], help="repeatable; default: 1 and 16")
    parser.add_argument("--isa", action="append", default=[], help="an instruction set; repeatable. Default: the best")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each layer and batch")
    options = parser.parse_args()
    if backend.native is None:
        parser.error(f"there are no native kernels to measure: {backend.reason}")
    torch.set_num_threads(1)
    if unknown := set(options.isa) - set(backend.native.available()):
        parser.error(f"this machine has no {', '.join(unknown)}, only {', '.join(backend.native.available())}")
    isas = options.isa or [backend.native.isa()]
    found = []
    for batch in options.batch or [1, 16]:
        for shape in [each for each in SHAPES if options.only in str(each)]:
            with torch.no_grad():
                found.append(row(shape, batch, isas, options.seconds))
            print(shape, "batch", batch, found[-1]["us"], file=sys.stderr, flush=True)
    json.dump({"status": status(), "torch": torch.__version__, "convolutions": found}, sys.stdout, indent=1)


if __name__ == "__main__":
    main()
