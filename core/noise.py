"""Layers that draw noise in every forward pass, and how to silence them.

Draws come from torch's default generator: whoever wants the same noise again wraps the call in `rng.seeded`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Noise(nn.Module):
    """A layer that adds noise, unless `silent`."""

    silent = False


def noises(model: object) -> list[Noise]:
    """The layers of a model that draw noise; none of what is no nn.Module."""
    return [m for m in model.modules() if isinstance(m, Noise)] if isinstance(model, nn.Module) else []


@contextmanager
def noise_off(model: object) -> Iterator[None]:
    """No noise inside: the model is its deterministic self, and afterwards as it was."""
    before = [(layer, layer.silent) for layer in noises(model)]
    try:
        for layer, _ in before:
            layer.silent = True
        yield
    finally:
        for layer, silent in before:
            layer.silent = silent


class BlockNoise(Noise):
    """x -> x + a * std(x) * N(0, 1), the noise of EnResNet; gradients flow through the standard deviation.

    over "sample" or "batch": what the standard deviation is taken over.
    """

    def __init__(self, a: float, over: str) -> None:
        super().__init__()
        self.a, self.over = a, over

    def forward(self, x: Tensor) -> Tensor:
        if self.silent or self.a == 0:
            return x
        std = x.std() if self.over == "batch" else x.flatten(1).std(1).view(-1, *[1] * (x.ndim - 1))
        return x + self.a * std * torch.randn_like(x)


class WeightNoise(Noise):
    """w (out, ...) -> w + a * eta, eta normal with the deviation of the whole w; a is trained (PNI, He et al. 2019).

    strength (1,), (out,) or (numel,): one a for the layer, each output channel or each weight. No gradient goes
    through eta. Weights that are exactly zero stay so: noise must not fill a pruned network.
    """

    def __init__(self, strengths: int, start: float, **spec: Any) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((strengths,), start))
        self.spec = spec  # what the file's header says of it

    def forward(self, w: Tensor) -> Tensor:
        if self.silent:
            return w
        fixed = w.detach()
        eta = torch.randn_like(fixed) * fixed.std(correction=0) * (fixed != 0)
        whole = len(self.strength) == w.numel()
        return w + (self.strength.view_as(w) if whole else self.strength.view(-1, *[1] * (w.ndim - 1))) * eta


class SignalNoise(Noise):
    """x (n, c, ...) -> x + a * eta, eta normal with the deviation of x; a is trained (PNI, He et al. 2019).

    strength (1,), (c,) or (numel of one sample,); spec["over"]: the deviation is that of each sample, or of the batch
    as in the released code, where the other images change a prediction.
    """

    def __init__(self, strengths: int, start: float, **spec: Any) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((strengths,), start))
        self.spec = spec

    def forward(self, x: Tensor) -> Tensor:
        if self.silent:
            return x
        fixed = x.detach()
        shape = (-1, *[1] * (x.ndim - 1))
        std = fixed.std(correction=0) if self.spec["over"] == "batch" else fixed.flatten(1).std(1, correction=0)
        whole = len(self.strength) == x[0].numel()
        strength = self.strength.view(x.shape[1:]) if whole else self.strength.view(shape[:-1])
        return x + strength * (torch.randn_like(fixed) * std.view(shape))
