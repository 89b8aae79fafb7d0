"""`fuse` against the packed network that it was given, and what it must leave alone."""

import copy
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from robustq.kernels import PackedConv2d, PackedNetwork, fuse, pack_model

LIMITS = {"exact": 1e-5, "accurate": 1e-4, "int8": 2e-2}  # of the largest output: sums in another order, rounded


@dataclass
class Codes:
    codes: Tensor
    scale: Tensor
    levels: int = 1


def conv(inputs: int, outputs: int, stride: int = 1, size: int = 3, groups: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=bias)


class Block(nn.Module):
    """A residual block; `style` is how its author writes ReLU and sums."""

    def __init__(self, inputs: int, outputs: int, stride: int, style: str, groups: int = 1) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride, groups=groups), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs, bias=True), nn.BatchNorm2d(outputs, affine=style != "functional")
        self.relu = nn.ReLU(inplace=style == "inplace")
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(conv(inputs, outputs, stride, 1), nn.BatchNorm2d(outputs))
        self.style, self.stride, self.more = style, stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        if self.style == "functional":
            y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
            if self.stride == 1:
                return torch.relu(torch.add(x, y))
            return F.relu(F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 1, self.more - 1)) + y)
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += self.shortcut(x)
        return self.relu(y)


class Net(nn.Module):
    def __init__(self, style: str = "plain", groups: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=style == "inplace"))
        self.body = nn.Sequential(Block(8, 8, 1, style, groups), Block(8, 20, 2, style), nn.Dropout(0.5))
        self.pool, self.head = nn.MaxPool2d(2, ceil_mode=True), nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.pool(self.body(self.stem(x))).mean((2, 3)))


def packed(
    net: nn.Module, mode: str, dense: tuple[str, ...] = ("stem.0.weight", "head.weight"), levels: int = 1
) -> nn.Module:
    """Random codes for every convolution but those named, random statistics for batch norm."""
    rng = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(generator=rng)
            module.running_var.uniform_(0.5, 2, generator=rng)
            if module.affine:
                nn.init.normal_(module.weight, generator=rng)  # negative factors too
                nn.init.normal_(module.bias, generator=rng)
    codes: dict[str, Codes] = {}
    for name, p in net.named_parameters():
        if p.dim() > 1 and name not in dense:
            values = torch.randint(-levels, levels + 1, p.shape, generator=rng).to(torch.int8)
            scale = (torch.rand(len(p), 1, generator=rng) + 0.5) / (levels * p[0].numel() ** 0.5)
            codes[name] = Codes(values, scale, levels)
    return pack_model(net.eval(), codes, mode)


def far(y: Tensor, exact: Tensor) -> float:
    return float((y - exact).detach().abs().max() / exact.detach().abs().max())


def kinds(net: nn.Module) -> list[str]:
    return sorted(type(m).__name__ for m in net.modules() if not list(m.children()))


@pytest.mark.parametrize("mode", ["exact", "accurate", "int8"])
@pytest.mark.parametrize(("style", "levels"), [("plain", 1), ("inplace", 1), ("functional", 1), ("plain", 7)])
def test_a_residual_network_becomes_one_call(style: str, levels: int, mode: str) -> None:
    torch.manual_seed(0)
    small = packed(Net(style), mode, levels=levels)
    x = torch.randn(3, 3, 12, 11)
    fused = fuse(small, x)
    assert kinds(fused) == ["Conv2d", "Linear", "PackedNetwork"]
    other = torch.randn(4, 3, 9, 10)
    for given in (x, other, other.contiguous(memory_format=torch.channels_last)):
        assert far(fused(given), small(given)) <= LIMITS[mode]
    grads = []
    for model in (small, fused):
        leaf = other.clone().requires_grad_()
        model(leaf).square().sum().backward()
        grads.append(leaf.grad)
    assert far(grads[1], grads[0]) <= 20 * LIMITS[mode]  # a ReLU may close where rounding differs
    for twin in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert torch.equal(twin(other), fused(other))
    half = copy.deepcopy(fused).bfloat16()
    assert half(other.bfloat16()).dtype == torch.bfloat16
    assert all(m.factors.dtype == torch.float32 for m in half.modules() if isinstance(m, PackedNetwork))


@pytest.mark.parametrize("mode", ["exact", "int8"])
def test_compiles_and_exports(mode: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    fused = fuse(packed(Net(), mode), x)
    assert torch.equal(torch.compile(fused, fullgraph=True, backend="aot_eager")(x), fused(x))
    assert torch.equal(torch.export.export(fused, (x,)).module()(x), fused(x))


@pytest.mark.parametrize("mode", ["exact", "accurate"])
def test_grouped_convolutions_join(mode: str) -> None:
    small = packed(Net(groups=8), mode)
    x = torch.randn(2, 3, 8, 8)
    fused = fuse(small, x)
    assert kinds(fused) == ["Conv2d", "Linear", "PackedNetwork"]
    assert far(fused(x), small(x)) <= LIMITS[mode]


def test_batch_norm_by_hand() -> None:
    """1 x 1 convolution with code 1 and scale 2, then (y - 3) / 2 * 5 + 7: 5 x - 0.5, exact in float32."""
    norm = nn.BatchNorm2d(1, eps=0)
    layer = nn.Conv2d(1, 1, 1, bias=False)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    with torch.no_grad():
        for values, number in [(norm.running_mean, 3), (norm.running_var, 4), (norm.weight, 5), (norm.bias, 7)]:
            values.fill_(number)
    codes = {"0.weight": Codes(torch.ones(1, 1, 1, 1, dtype=torch.int8), torch.full((1, 1), 2.0))}
    small = pack_model(nn.Sequential(layer, norm).eval(), codes, "int8")
    x = torch.tensor([[[[127.0, -3.0], [0.0, 5.0]]]])
    fused = fuse(small, x)
    assert kinds(fused) == ["PackedNetwork"]
    assert torch.equal(fused(x), 5 * x - 0.5)


def test_exact_layers_that_a_chain_does_not_cover_stay() -> None:
    """Two scale groups, padding by reflection: beside a convolution that is fused."""
    reflecting = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
    layers, groups = [conv(3, 8), conv(8, 8), reflecting], [1, 2, 1]
    rng = torch.Generator().manual_seed(1)
    codes = {}
    for index, (layer, count) in enumerate(zip(layers, groups, strict=True)):
        values = torch.randint(-1, 2, tuple(layer.weight.shape), generator=rng).to(torch.int8)
        codes[f"{index}.weight"] = Codes(values, torch.rand(8, count, generator=rng))
    small, x = pack_model(nn.Sequential(*layers).eval(), codes, "exact"), torch.randn(2, 3, 8, 8)
    fused = fuse(small, x)
    assert kinds(fused) == ["PackedConv2d", "PackedConv2d", "PackedNetwork"]
    assert far(fused(x), small(x)) <= LIMITS["exact"]


class Odd(nn.Module):
    """Two packed convolutions with something between that only torch knows."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.between = conv(3, 6), conv(6, 4), between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


@pytest.mark.parametrize(
    "between",
    [
        lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
        lambda x: F.leaky_relu(x) + 1,
        lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1],
        lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 0), value=1.0),
        lambda x: torch.add(x, x, alpha=2),
    ],
)
def test_what_is_not_understood_stays(between: Callable[[Tensor], Tensor]) -> None:
    small = packed(Odd(between), "accurate", ())
    x = torch.randn(2, 3, 8, 8)
    fused = fuse(small, x)
    assert kinds(fused) == ["PackedNetwork", "PackedNetwork"]
    assert far(fused(x), small(x)) <= LIMITS["accurate"]


def test_values_read_from_outside() -> None:
    """A value inside of a chain that something else reads too; a norm that is read twice; a sum of the same thing."""

    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.second = conv(3, 6), nn.BatchNorm2d(6), conv(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            y = self.first(x)
            z = self.norm(y)
            w = self.second(torch.relu(z))
            return torch.cat([y, z, w + w, w + z], 1).sigmoid()

    small = packed(Several(), "accurate", ())
    x = torch.randn(2, 3, 8, 8)
    fused = fuse(small, x)
    assert isinstance(fused, fx.GraphModule)
    assert far(fused(x), small(x)) <= LIMITS["accurate"]


class Branching(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else self.first(x)


class Random(Odd):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.randn(4, 8, 8)  # a constant, once it is traced


class Shared(Odd):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        z = self.second(y)
        y.relu_()
        return z.sum() + y


class Viewed(Odd):
    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        y[:, 0] = 0
        return self.second(y)


@pytest.mark.parametrize("kind", [Branching, Random, Shared, Viewed])
def test_networks_that_are_left_alone(kind: type[Odd]) -> None:
    small = packed(kind(nn.ReLU()), "accurate", ())
    assert fuse(small, torch.randn(2, 3, 8, 8)) is small


def test_training_and_hooks_are_left_alone() -> None:
    x = torch.randn(1, 3, 8, 8)
    small = packed(Net(), "accurate")
    hooked = copy.deepcopy(small)
    hooked.get_submodule("pool").register_forward_hook(lambda *_: None)
    assert fuse(hooked, x) is hooked
    training = copy.deepcopy(small)
    training.get_submodule("body.0.bn1").train()
    assert fuse(training, x) is training
    assert isinstance(small.get_submodule("body.0.conv1"), PackedConv2d)
    fuse(small, x)
    assert isinstance(small.get_submodule("body.0.conv1"), PackedConv2d)  # what was given is left as it was
