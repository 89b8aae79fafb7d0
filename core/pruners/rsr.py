"""Robust sparse regularisation: trained noise on the weights and a lasso, then a threshold."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..option import option
from ..packed import Packed
from ..session import LAST, Compressor, Session, Weights
from ..structures.pni import LEVELS, NoiseSession
from . import mask


@dataclass(frozen=True, kw_only=True)
class Rsr(Compressor):
    """Parametric noise (see pni) with lasso * ||w||_1; weights below a threshold become zero and the rest trains on.

    The sparsity is not set but found. The published loss gives clean and adversarial images half the weight each:
    `--objective trade-off:alpha=0.5,beta=0.5`. The strengths of the noise are stored in the file that is written; the
    training log has validation figures with and without it.
    """

    SOURCE = "Rakin et al. 2019 (arXiv 1905.13074)"
    lasso: float = option(1e-5, "weight of the absolute values", low=0)
    variant: str = option(
        "subgradient",
        "lasso as a term of the loss, or as soft threshold after each step, which gives exact zeros",
        choices=("subgradient", "proximal"),
    )
    threshold: float = option(1e-3, "magnitude below which weights become zero", low=0)
    switch: float = option(
        0.9,
        "training progress at which they do, for good and without lasso from then; 1: after the last step",
        low=0,
        high=1,
    )
    level: str = option("channel", "what shares a strength of the noise", choices=LEVELS)
    start: float = option(0.25, "strength at the beginning", unit="standard deviations of the layer's weights")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return RsrSession(self, weights)

    def keeps(self, weight: Tensor) -> Tensor:
        """bool of the weight's shape: what the threshold leaves."""
        return weight.detach().abs() >= max(self.threshold, 1e-30)


class RsrSession(NoiseSession):
    """State: the masks once they are fixed."""

    def __init__(self, options: Rsr, weights: Weights) -> None:
        super().__init__(weights, options.level, options.start)
        self.options, self.names = options, tuple(weights)
        self.masks: dict[str, Tensor] = {}
        self._optimizer: Optimizer | None = None

    def join(self, optimizer: Optimizer) -> None:
        super().join(optimizer)
        self._optimizer = optimizer  # the soft threshold follows its rate

    def view(self, weights: Weights) -> dict[str, Tensor]:
        return mask.shown(weights, self.masks)

    def penalty(self, weights: Weights) -> Tensor | float:
        if self.exact or self.options.variant != "subgradient":
            return 0.0
        return self.options.lasso * torch.stack([weights[name].abs().sum() for name in self.names]).sum()

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        if self.exact:
            return
        if self.options.variant == "proximal" and self._optimizer is not None:
            rate = self._optimizer.param_groups[0]["lr"]
            for name in self.names:
                weights[name].copy_(softened(weights[name], rate * self.options.lasso))
        if progress >= min(self.options.switch, LAST):
            self.masks = {name: self.options.keeps(weights[name]) for name in self.names}
            for name, kept in self.masks.items():
                weights[name].mul_(kept)

    @property
    def exact(self) -> bool:
        return bool(self.masks) or not self.names

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks or {name: self.options.keeps(weights[name]) for name in self.names})

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.masks = dict(state["masks"])


def softened(weight: Tensor, amount: float) -> Tensor:
    """The prox of amount * ||w||_1: magnitudes shrink by `amount`, to zero at most."""
    return weight.sign() * (weight.abs() - amount).clamp(min=0)
