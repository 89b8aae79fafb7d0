"""LeNet-5 with ReLU and max-pooling."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..option import option
from .model import Model, Shapes


@dataclass(frozen=True, kw_only=True)
class LeNet(Model):
    """LeNet-5: two 5x5 convolutions with 2x2 max-pooling, three linear layers, ReLU."""

    SOURCE = "LeCun et al. 1998, fig. 2, with ReLU and max-pooling"
    width: int = option(6, "channels of the first convolution; the second has 8/3 as many", low=1)
    size: int = option(28, "height and width of the images", unit="pixels", low=12)
    channels: int = option(1, "channels of the images", low=1)
    classes: int = option(10, "number of classes", low=2)

    def build(self) -> nn.Module:
        return LeNetModule(self.width, self.size, self.channels, self.classes)

    @classmethod
    def match(cls, shapes: Shapes) -> dict[str, Any] | None:
        needed = ("conv1.weight", "conv2.weight", "fc1.weight", "fc3.weight")
        if any(name not in shapes for name in needed) or len(shapes["conv2.weight"]) != 4:
            return None
        width, channels = shapes["conv1.weight"][:2]
        side = math.isqrt(shapes["fc1.weight"][1] // shapes["conv2.weight"][0])
        return {"width": width, "size": 4 * side + 8, "channels": channels, "classes": shapes["fc3.weight"][0]}


class LeNetModule(nn.Module):
    """x (n, channels, size, size) -> logits (n, classes)."""

    def __init__(self, width: int, size: int, channels: int, classes: int) -> None:
        super().__init__()
        wide = max(1, round(width * 8 / 3))
        side = (size // 2 - 4) // 2  # the second convolution has no padding
        self.conv1 = nn.Conv2d(channels, width, 5, padding=2)
        self.conv2 = nn.Conv2d(width, wide, 5)
        self.fc1 = nn.Linear(wide * side * side, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, classes)
        self.relu1, self.relu2, self.relu3, self.relu4 = (nn.ReLU() for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.relu1(self.conv1(x)), 2)
        x = F.max_pool2d(self.relu2(self.conv2(x)), 2)
        x = self.relu3(self.fc1(x.flatten(1)))
        return self.fc3(self.relu4(self.fc2(x)))
