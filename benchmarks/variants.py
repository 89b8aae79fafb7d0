"""One small network seen through quantization and obfuscation: factories for `--arch benchmarks/variants.py:NAME`.

All take the weights of the same checkpoint: a convolution of 16 and one of 32 channels, each with ReLU and pooling, and
two linear layers. What each of them hides is hidden from gradients only, not from an attacker.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

SCALE = 1000.0
SIGMA = 2.0


class SmallCnn(nn.Module):
    """x (n, 1, 28, 28) in [0, 1] -> logits (n, 10); functions of the input, of activations and of the logits."""

    def __init__(
        self,
        before: Callable[[Tensor], Tensor] | None = None,
        within: Callable[[Tensor], Tensor] | None = None,
        after: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), Activation(within), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), Activation(within), nn.MaxPool2d(2),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(1568, 61), Activation(within), nn.Linear(61, 10))
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.features(x if self.before is None else self.before(x)))
        return logits if self.after is None else self.after(logits)


class Activation(nn.Module):
    """ReLU, then a function of it."""

    def __init__(self, then: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        self.then = then

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        return x if self.then is None else self.then(x)


def quantizer(bits: int, straight: bool = False) -> Callable[[Tensor], Tensor]:
    """2^bits levels between 0 and the largest activation of each image; `straight` rounds with gradient one."""

    def quantize(x: Tensor) -> Tensor:
        top = x.detach().flatten(1).amax(1).clamp_min(1e-6).view(-1, *[1] * (x.dim() - 1))
        return _rounded(x / top * (2**bits - 1), straight) / (2**bits - 1) * top

    return quantize


def reader(bits: int, straight: bool = False) -> Callable[[Tensor], Tensor]:
    """Pixels of 2^bits levels."""
    return lambda x: _rounded(x * (2**bits - 1), straight) / (2**bits - 1)


def _rounded(x: Tensor, straight: bool) -> Tensor:
    return x + (x.round() - x).detach() if straight else x.round()


def plain() -> nn.Module:
    return SmallCnn()


def activations8() -> nn.Module:
    return SmallCnn(within=quantizer(8))


def activations4() -> nn.Module:
    return SmallCnn(within=quantizer(4))


def input3() -> nn.Module:
    return SmallCnn(before=reader(3))


def scaled() -> nn.Module:
    return SmallCnn(after=lambda logits: SCALE * logits)


def softmax() -> nn.Module:
    return SmallCnn(after=lambda logits: logits.softmax(1))


def noisy() -> nn.Module:
    return SmallCnn(after=lambda logits: logits + SIGMA * torch.randn_like(logits))


def int8() -> nn.Module:
    """Linear layers with int8 weights and activations (torch.ao, dynamic), made from the weights that are loaded."""
    net = SmallCnn()
    net.register_load_state_dict_post_hook(_to_int8)
    return net


def _to_int8(net: nn.Module, _keys: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao is deprecated as a whole
        net.head = torch.ao.quantization.quantize_dynamic(net.head, {nn.Linear}, dtype=torch.qint8)


# The variants of the table; for each its differentiable twin, whose gradient the benchmark's own attack follows.
TWINS: dict[str, Callable[[], nn.Module]] = {
    "activations8": lambda: SmallCnn(within=quantizer(8, straight=True)),
    "activations4": lambda: SmallCnn(within=quantizer(4, straight=True)),
    "input3": lambda: SmallCnn(before=reader(3, straight=True)),
    "scaled": plain,
    "softmax": plain,
    "noisy": noisy,
    "int8": plain,
}
