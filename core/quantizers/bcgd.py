"""Blended coarse gradient descent: the weights themselves are drawn a little to their projection at each step."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..option import option
from ..packed import Packed
from ..session import Compressor, Session, Weights
from .binary_relax import straight_through
from .projection import check, quantize


@dataclass(frozen=True, kw_only=True)
class Bcgd(Compressor):
    """Forward and backward at u = P(w); w <- (1 - blend) w + blend u - step. With blend 0 this is BinaryConnect."""

    SOURCE = "Yin et al. 2019 (arXiv 1808.05240), blended coarse gradient descent"
    bits: int = option(
        2, "bits a weight: 1 binary, 2 ternary, b > 2: 2^b - 1 symmetric levels", choices=(1, 2, 3, 4, 8)
    )
    group: str = option("channel", "what shares a scale: channel, layer or a number of weights")
    blend: float = option(1e-5, "rho, how far w is drawn to u at each step", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.bits, self.group)

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return BcgdSession(self, tuple(weights))


class BcgdSession(Session):
    """No state between steps: what is exported is what is seen, throughout."""

    def __init__(self, options: Bcgd, names: tuple[str, ...]) -> None:
        self.options, self.names = options, names
        self._pull: dict[str, Tensor] = {}  # u - w before the step

    def view(self, weights: Weights) -> dict[str, Tensor]:
        out = dict(weights)
        for name, packed in self.encode(weights).items():
            exact = packed.dense().to(weights[name].device)
            self._pull[name] = exact - weights[name].detach()
            out[name] = straight_through(weights[name], exact)
        return out

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        for name, pull in self._pull.items():
            weights[name].add_(pull, alpha=self.options.blend)
        self._pull = {}

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return {n: quantize(weights[n].detach(), self.options.bits, self.options.group) for n in self.names}
