"""VGG for small images: convolutions with batch norm, five poolings, one linear layer."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..option import option
from .model import Model, Shapes

# Channels in units of the width; "M" is a 2x2 max-pooling (Simonyan & Zisserman 2015, table 1: A, B, D, E).
PLANS: dict[int, tuple[int | str, ...]] = {
    11: (1, "M", 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    13: (1, 1, "M", 2, 2, "M", 4, 4, "M", 8, 8, "M", 8, 8, "M"),
    16: (1, 1, "M", 2, 2, "M", 4, 4, 4, "M", 8, 8, 8, "M", 8, 8, 8, "M"),
    19: (1, 1, "M", 2, 2, "M", 4, 4, 4, 4, "M", 8, 8, 8, 8, "M", 8, 8, 8, 8, "M"),
}


@dataclass(frozen=True, kw_only=True)
class Vgg(Model):
    """VGG-11, 13, 16 or 19 with batch norm and one linear layer, for images of 28 to 32 pixels."""

    SOURCE = "Simonyan & Zisserman 2015, table 1, with batch norm"
    depth: int = option(11, "number of layers", choices=tuple(PLANS))
    width: int = option(64, "channels of the first convolution", low=1)
    channels: int = option(3, "channels of the images", low=1)
    classes: int = option(10, "number of classes", low=2)

    def build(self) -> nn.Module:
        return VggModule(self.depth, self.width, self.channels, self.classes)

    @classmethod
    def match(cls, shapes: Shapes) -> dict[str, Any] | None:
        convolutions = sum(name.startswith("features.") and len(shape) == 4 for name, shape in shapes.items())
        depths = {sum(unit != "M" for unit in plan): depth for depth, plan in PLANS.items()}
        if convolutions not in depths or "features.0.weight" not in shapes or "classifier.weight" not in shapes:
            return None
        width, channels = shapes["features.0.weight"][:2]
        depth = depths[convolutions]
        return {"depth": depth, "width": width, "channels": channels, "classes": shapes["classifier.weight"][0]}


class VggModule(nn.Module):
    """x (n, channels, h, w) -> logits (n, classes)."""

    def __init__(self, depth: int, width: int, channels: int, classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = channels
        for unit in PLANS[depth]:
            if isinstance(unit, str):
                # ceil_mode lets five halvings of 28 end at 1, as those of 32 do.
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
                continue
            outputs = unit * width
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))
