"""Parts of gpu.py: a whole ternary ResNet-18 for images of 32 x 32 by one fused chain, beside torch bfloat16."""

from collections.abc import Iterator
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from gpu_speed import microseconds
from torch import Tensor, nn
from torch.nn import functional as F

from robustq.kernels import PackedNetwork, fuse, pack_model

BATCHES = (1, 64, 1024)
BOUNDS = {"int8": 5e-2, "accurate": 1e-3}  # a value at the edge of two levels may go to either
Row = dict[str, Any]


class Block(nn.Module):
    """Two convolutions and a shortcut, by a convolution of 1x1 where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class ResNet18(nn.Module):
    """He et al. 2016, with a first convolution of 3x3 and no pooling after it."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        widths = [width, width, 2 * width, 4 * width, 8 * width]
        blocks = [Block(widths[i], widths[i + 1], 1 + (i > 0)) for i in range(4)]
        self.blocks = nn.Sequential(*(b for i in range(4) for b in (blocks[i], Block(widths[i + 1], widths[i + 1], 1))))
        self.head = nn.Linear(8 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def ternary(width: int = 64) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and codes (half of them zero) for all but its first and last layer, whose weights it has."""
    torch.manual_seed(0)
    net, codes = ResNet18(width).eval(), {}
    for name, weight in net.named_parameters():
        if weight.dim() == 4 and not name.startswith("stem"):
            drawn = (torch.randint(-1, 2, weight.shape) * torch.randint(0, 2, weight.shape)).to(torch.int8)
            scale = (torch.rand(len(weight), 1) + 0.5) * (6 / weight[0].numel()) ** 0.5
            codes[name] = SimpleNamespace(codes=drawn, scale=scale, levels=1)
            weight.data = drawn * scale.view(-1, 1, 1, 1)
    return net, codes


def fused(net: nn.Module, codes: dict[str, Any], mode: str) -> nn.Module:
    """One chain of all packed layers; RuntimeError where they did not join."""
    made = fuse(pack_model(net, codes, mode), torch.randn(2, 3, 32, 32))
    chains = [m.layers for m in made.modules() if isinstance(m, PackedNetwork)]
    if chains != [len(codes)]:
        raise RuntimeError(f"the {len(codes)} packed layers did not become one chain: {chains}")
    return made


def right(device: torch.device) -> Iterator[Row]:
    """Its answers beside those of the same chain on the CPU, in every dtype."""
    net, codes = ternary(16)
    x = torch.randn(50, 3, 32, 32)
    for mode, bound in BOUNDS.items():
        made = fused(net, codes, mode)
        with torch.no_grad():
            wanted = made(x)
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                found = made.to(device, dtype)(x.to(device, dtype)).float().cpu()
                error = float((found - wanted).abs().max() / wanted.abs().max())
                limit = bound if dtype == torch.float32 else 0.1
                yield {"case": f"ResNet-18, width 16, {mode}, {dtype}", "error": error, "right": error < limit}


def speed(device: torch.device) -> Iterator[Row]:
    """Microseconds of a batch, in a CUDA graph."""
    net, codes = ternary()
    packed = {mode: fused(net, codes, mode).to(device, torch.bfloat16) for mode in BOUNDS}
    dense = net.to(device, torch.bfloat16, memory_format=torch.channels_last)  # type: ignore[call-overload]
    for batch in BATCHES:
        x = torch.randn(batch, 3, 32, 32, device=device, dtype=torch.bfloat16)
        x = x.contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            row: Row = {"network": "ResNet-18", "batch": batch, "us": {"torch bf16": microseconds([partial(dense, x)])}}
            for mode, made in packed.items():
                row["us"][f"2 bits {mode}"] = microseconds([partial(made, x)])
        yield row
