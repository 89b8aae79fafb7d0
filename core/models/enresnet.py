"""EnResNet: an ensemble of residual networks with Gaussian noise after every block, in training and in testing.

The noisy residual network is a step of the stochastic flow whose Feynman-Kac average solves the transport equation
with added viscosity; the ensemble is the Monte-Carlo average (Wang et al. 2019).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import OptionError
from ..noise import BlockNoise
from ..option import option
from .model import Model, Shapes, count


@dataclass(frozen=True, kw_only=True)
class EnResNet(Model):
    """En_N ResNet-d: N pre-activation ResNets with noise `a * std(block output)`, logits averaged, trained jointly.

    depth 8, 20, 38, 56 and 110 with members 1 to 5 are En1ResNet8 to En5ResNet110; depth=34,widen=10 is WRN-34-10, and
    with members=5 En5WideResNet34-10.
    """

    SOURCE = "Wang, Yuan, Shi, Osher 2019 (arXiv 1811.10745)"
    depth: int = option(20, "layers of each member, 6n + 2; a wide one counts its shortcuts too, 6n + 4", low=8)
    members: int = option(1, "number of networks N", low=1)
    width: int = option(16, "channels of the first convolution, and of the first stage before it is widened", low=1)
    widen: int = option(1, "factor on the channels of all stages (wide ResNet)", low=1)
    noise: float = option(0.1, "noise coefficient a, in standard deviations of the block's output", low=0)
    noise_std: str = option(
        "sample",
        "over what the standard deviation is taken; `batch` replicates the released code, where the other images of"
        " the batch change a prediction",
        choices=("sample", "batch"),
    )
    stem_stride: int = option(1, "stride of the first convolution", low=1)
    channels: int = option(3, "channels of the images", low=1)
    classes: int = option(10, "number of classes", low=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.depth - self._extra) % 6:
            kind = "6n + 2" if self.widen == 1 else "6n + 4, as wide networks count"
            usual = "8, 20, 38, 56 or 110" if self.widen == 1 else "16, 22, 28 or 34"
            raise OptionError(f"EnResNet: depth is {self.depth}, not {kind}.", f"Use {usual}.")

    @property
    def _extra(self) -> int:
        """Layers outside the blocks: first and last, and in a wide network the shortcuts of two stages."""
        return 2 if self.widen == 1 else 4

    @property
    def blocks(self) -> int:
        """Blocks of each stage."""
        return (self.depth - self._extra) // 6

    def build(self) -> nn.Module:
        return EnResNetModule(self)

    @classmethod
    def match(cls, shapes: Shapes) -> dict[str, Any] | None:
        members = count(shapes, "members.{}.conv1.weight")
        n = count(shapes, "members.0.layer1.{}.conv1.weight")
        if not members or not n or "members.0.linear.weight" not in shapes:
            return None
        width, channels = shapes["members.0.conv1.weight"][:2]
        widen = max(1, shapes["members.0.layer1.0.conv1.weight"][0] // width)
        return {
            **({"depth": 6 * n + 2} if widen == 1 else {"depth": 6 * n + 4, "widen": widen}),
            "members": members,
            "width": width,
            "channels": channels,
            "classes": shapes["members.0.linear.weight"][0],
        }


class EnResNetModule(nn.Module):
    """x (n, channels, h, w) -> mean of the members' logits (n, classes)."""

    def __init__(self, options: EnResNet) -> None:
        super().__init__()
        self.members = nn.ModuleList(_Member(options) for _ in range(options.members))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


class _Member(nn.Module):
    def __init__(self, options: EnResNet) -> None:
        super().__init__()
        n, stem, w = options.blocks, options.width, options.width * options.widen
        self.conv1 = nn.Conv2d(options.channels, stem, 3, stride=options.stem_stride, padding=1, bias=False)
        self.layer1 = self._stage(n, stem, w, 1, options)
        self.layer2 = self._stage(n, w, 2 * w, 2, options)
        self.layer3 = self._stage(n, 2 * w, 4 * w, 2, options)
        self.bn, self.relu = nn.BatchNorm2d(4 * w), nn.ReLU()
        self.linear = nn.Linear(4 * w, options.classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(n: int, inputs: int, outputs: int, stride: int, options: EnResNet) -> nn.Sequential:
        blocks = [_Block(inputs, outputs, stride, options)]
        return nn.Sequential(*blocks, *[_Block(outputs, outputs, 1, options) for _ in range(n - 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        return self.linear(self.relu(self.bn(x)).mean((2, 3)))


class _Block(nn.Module):
    """Pre-activation basic block, its shortcut a 1x1 convolution without batch norm, noise after the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int, options: EnResNet) -> None:
        super().__init__()
        self.bn1, self.relu1 = nn.BatchNorm2d(inputs), nn.ReLU()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
        self.noise = BlockNoise(options.noise, options.noise_std)

    def forward(self, x: Tensor) -> Tensor:
        pre = self.relu1(self.bn1(x))
        skip = x if isinstance(self.shortcut, nn.Identity) else self.shortcut(pre)
        out = self.conv2(self.relu2(self.bn2(self.conv1(pre))))
        return self.noise(out + skip)
