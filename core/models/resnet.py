"""ResNet for small images (He et al. 2016, section 4.2): three stages of basic blocks, depth 6n + 2."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import OptionError
from ..option import option
from .model import Model, Shapes, count


@dataclass(frozen=True, kw_only=True)
class ResNet(Model):
    """CIFAR ResNet-N: N = 6n + 2 layers, widths w, 2w, 4w, parameter-free (A) or 1x1 convolution (B) shortcuts."""

    SOURCE = "He et al. 2016, section 4.2"
    depth: int = option(20, "number of layers, 6n + 2", low=8)
    width: int = option(16, "channels of the first stage", low=1)
    shortcut: str = option("A", "how a block that changes shape joins its input", choices=("A", "B"))
    stem_stride: int = option(1, "stride of the first convolution; 2 makes the network four times cheaper", low=1)
    channels: int = option(3, "channels of the images", low=1)
    classes: int = option(10, "number of classes", low=2)

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.depth - 2) % 6:
            raise OptionError(f"ResNet: depth is {self.depth}, not 6n + 2.", "Use 8, 14, 20, 26, 32, 44, 56 or 110.")

    def build(self) -> nn.Module:
        return ResNetModule(
            (self.depth - 2) // 6, self.width, self.shortcut, self.stem_stride, self.channels, self.classes
        )

    @classmethod
    def match(cls, shapes: Shapes) -> dict[str, Any] | None:
        n = count(shapes, "layer1.{}.conv1.weight")
        if not n or "conv1.weight" not in shapes or "linear.weight" not in shapes:
            return None
        width, channels = shapes["conv1.weight"][:2]
        return {
            "depth": 6 * n + 2,
            "width": width,
            "shortcut": "B" if "layer2.0.shortcut.0.weight" in shapes else "A",
            "channels": channels,
            "classes": shapes["linear.weight"][0],
        }


class ResNetModule(nn.Module):
    """x (n, channels, h, w) -> logits (n, classes)."""

    def __init__(self, n: int, width: int, shortcut: str, stem_stride: int, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride=stem_stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(width), nn.ReLU()
        self.layer1 = _stage(n, width, width, 1, shortcut)
        self.layer2 = _stage(n, width, 2 * width, 2, shortcut)
        self.layer3 = _stage(n, 2 * width, 4 * width, 2, shortcut)
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x))))))."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1, self.relu1 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2, self.relu2 = nn.BatchNorm2d(outputs), nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = (
                Subsample((outputs - inputs) // 2, (outputs - inputs + 1) // 2, stride)
                if shortcut == "A"
                else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))
            )

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(out + self.shortcut(x))


class Subsample(nn.Module):
    """Shortcut "option A": every stride-th pixel, and new channels of zeros before and after the others."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.before, self.after, self.stride = before, after, stride

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _stage(n: int, inputs: int, outputs: int, stride: int, shortcut: str) -> nn.Sequential:
    blocks = [BasicBlock(inputs, outputs, stride, shortcut)]
    blocks += [BasicBlock(outputs, outputs, 1, shortcut) for _ in range(n - 1)]
    return nn.Sequential(*blocks)
