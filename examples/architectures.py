"""Networks of well-known published checkpoints that robustq has no class for: give one as --arch.

    robustq bench kw_mnist.pth --arch examples/architectures.py:cnn_a --data mnist
    robustq bench resnet2b.pth --arch examples/architectures.py:ResNet2b --data cifar10 \
        --mean 0.4914,0.4822,0.4465 --std 0.2471,0.2435,0.2616

Each function is a factory: it returns a module whose state dict has the file's keys and shapes.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F


def cnn_a(channels: int = 1, size: int = 28, width: int = 16, padding: int = 1) -> nn.Module:
    """Two 4x4 convolutions with stride 2 and two linear layers (Wong & Kolter; alpha-beta-CROWN's `cnn_a`)."""
    side = size
    for _ in range(2):
        side = (side + 2 * padding - 4) // 2 + 1
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=padding),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=padding),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * side * side, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def small_cnn() -> nn.Module:
    """Two 3x3 convolutions and two linear layers for 28x28 images."""
    features = nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
    )
    head = nn.Sequential(nn.Flatten(), nn.Linear(1568, 61), nn.ReLU(), nn.Linear(61, 10))
    return nn.Sequential(OrderedDict(features=features, head=head))


def madry_tiny() -> nn.Module:
    """Two 5x5 convolutions with stride 2 and two linear layers (alpha-beta-CROWN's `MadryCNN_no_maxpool_tiny`)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 5, stride=2, padding=2), nn.ReLU(), nn.Conv2d(4, 8, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(392, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def trades_small_cnn() -> nn.Module:
    """The MNIST network of TRADES (Zhang et al. 2019): four 3x3 convolutions without padding, three linear layers."""
    features = OrderedDict(
        conv1=nn.Conv2d(1, 32, 3), relu1=nn.ReLU(), conv2=nn.Conv2d(32, 32, 3), relu2=nn.ReLU(), pool1=nn.MaxPool2d(2),
        conv3=nn.Conv2d(32, 64, 3), relu3=nn.ReLU(), conv4=nn.Conv2d(64, 64, 3), relu4=nn.ReLU(), pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
    )  # fmt: skip
    classifier = OrderedDict(
        fc1=nn.Linear(1024, 200), relu1=nn.ReLU(), fc2=nn.Linear(200, 200), relu2=nn.ReLU(), fc3=nn.Linear(200, 10)
    )
    return nn.Sequential(OrderedDict(feature_extractor=nn.Sequential(features), classifier=nn.Sequential(classifier)))


class ResNet2b(nn.Module):
    """Two residual blocks without batch norm for 32x32 images (alpha-beta-CROWN's `resnet2b`)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer1 = nn.Sequential(_Block(8, 16, 2), _Block(16, 16, 1))
        self.linear1 = nn.Linear(1024, 100)
        self.linear2 = nn.Linear(100, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(F.relu(self.conv1(x)))
        return self.linear2(F.relu(self.linear1(x.flatten(1))))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv2(F.relu(self.conv1(x))) + self.shortcut(x))


class FashionCnn(nn.Module):
    """Three 3x3 convolutions with batch norm and two linear layers for 28x28 images."""

    def __init__(self) -> None:
        super().__init__()
        widths = (1, 16, 32, 64)
        for i in range(3):
            setattr(self, f"conv{i + 1}", nn.Conv2d(widths[i], widths[i + 1], 3, padding=1))
            setattr(self, f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.fc1 = nn.Linear(3136, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(3):
            x = F.relu(self.get_submodule(f"bn{i + 1}")(self.get_submodule(f"conv{i + 1}")(x)))
            x = F.max_pool2d(x, 2) if i < 2 else x
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class ResNet18(nn.Module):
    """ResNet-18 for 32x32 images: a 3x3 stem without pooling, four stages of two blocks, widths 64 to 512."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        for i, (inputs, outputs) in enumerate(((64, 64), (64, 128), (128, 256), (256, 512))):
            stage = nn.Sequential(_Normed(inputs, outputs, 1 if i == 0 else 2), _Normed(outputs, outputs, 1))
            setattr(self, f"layer{i + 1}", stage)
        self.linear = nn.Linear(512, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for i in range(4):
            x = self.get_submodule(f"layer{i + 1}")(x)
        return self.linear(x.mean((2, 3)))


class _Normed(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(out + self.shortcut(x))
