"""Small networks of many shapes, for the tests of the removal of channels. `--arch file.py:Name` finds them here."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Plain(nn.Module):
    """Convolutions with and without padding, batch norm and bias; max-pooling; two linear layers."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=padding, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 10, 3, padding=padding)
        self.fc1 = nn.Linear(360 if padding else 90, 12)
        self.bn2 = nn.BatchNorm1d(12)
        self.fc2 = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = torch.sigmoid(self.conv2(x))
        return self.fc2(F.relu(self.bn2(self.fc1(x.view(x.size(0), -1)))))


class Joins(nn.Module):
    """A residual sum, a concatenation, a product with gates, a strided slice, depthwise and grouped convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect"), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(16), nn.ELU())
        self.point = nn.Conv2d(16, 8, 1)
        self.grouped = nn.Conv2d(8, 12, 3, groups=4)
        self.gate = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(12, 12, 1, bias=False), nn.Sigmoid())
        self.side = nn.Conv2d(8, 6, 3, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(18, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = F.relu(x + self.point(self.deep(x)))
        y = self.grouped(x)
        y = y * self.gate(y)
        z = self.norm(self.side(x[:, :, ::2, ::2]))
        return self.head(torch.cat([y.mean((2, 3)), 0.5 * F.avg_pool2d(z, 2).amax((2, 3)) - 1], 1))


class Strange(nn.Module):
    """A layer of the middle that no one knows, and one whose forward pass depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3)
        self.conv2 = nn.Conv2d(8, 8, 3)
        self.rule = Rule()
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.softmax(self.conv1(x), 1)))
        return self.fc(F.relu(self.conv3(self.rule(x))).mean((2, 3)))


class Rule(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Untraceable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(144, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(x.flatten(1)) + 1


class Twice(nn.Module):
    """One convolution runs twice, and another one's weight is read past it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 3)
        self.again = nn.Conv2d(6, 6, 3)
        self.middle = nn.Conv2d(6, 6, 1)
        self.read = nn.Conv2d(6, 6, 1)
        self.fc = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.again(F.relu(self.again(F.relu(self.conv1(x))))))
        x = self.read(F.relu(self.middle(x)))
        return self.fc(F.conv2d(x, self.read.weight).mean((2, 3)))
