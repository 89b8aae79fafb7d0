"""HYDRA: which weights to keep is learnt with the robust loss itself, while the weights stand still."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..errors import OptionError
from ..option import option
from ..packed import Packed, half_float
from ..quantizers.binary_relax import straight_through
from ..session import Compressor, Session, Weights
from . import mask


@dataclass(frozen=True, kw_only=True)
class Hydra(Compressor):
    """Learn an importance score for each weight, keep the highest of each layer, then train those that are kept.

    Made for a network that is trained robustly already: start from a checkpoint.
    """

    SOURCE = "Sehwag et al. 2020 (arXiv 2002.10509)"
    sparsity: float = option(0.9, "share of each layer's weights that becomes zero, between 0 and 1")
    switch: float = option(
        0.2,
        "training progress at which scores are frozen and weights go on; 20 of 120 epochs in the paper",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise OptionError(f"Hydra: sparsity is {self.sparsity!r}, not between 0 and 1.", "Half of all is 0.5.")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return HydraSession(self, weights)

    def kept(self, n: int) -> int:
        """How many of a layer's n weights stay."""
        return math.ceil((1 - self.sparsity) * n - 1e-9)


class HydraSession(Session):
    """State: the scores and the training progress."""

    def __init__(self, options: Hydra, weights: Weights) -> None:
        self.options, self.progress = options, 0.0
        # Parameters proper: replicas join the gradients of no other tensors.
        self.scores = {name: nn.Parameter(scaled(w.detach())) for name, w in weights.items()}

    def join(self, optimizer: Optimizer) -> None:
        if self.scores:
            optimizer.add_param_group({"params": list(self.scores.values())})

    @property
    def learning(self) -> bool:
        """Whether scores are learnt, not weights."""
        return self.progress < self.options.switch

    @property
    def masks(self) -> dict[str, Tensor]:
        """What is kept: for each layer exactly the same share, by |score|."""
        return {n: mask.keeping(s, "weight", self.options.kept(s.numel())) for n, s in self.scores.items()}

    def view(self, weights: Weights) -> dict[str, Tensor]:
        if not self.learning:
            return mask.shown(weights, self.masks)
        out = dict(weights)
        for name, kept in self.masks.items():
            still = half_float(weights[name].detach()).float()
            out[name] = still * straight_through(self.scores[name].abs(), kept.float())
        return out

    def after_step(self, weights: Weights, progress: float) -> None:
        self.progress = progress

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks)

    def state_dict(self) -> dict[str, Any]:
        return {"scores": {n: s.detach() for n, s in self.scores.items()}, "progress": self.progress}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.progress = float(state["progress"])
        for name, score in self.scores.items():  # the optimizer holds these very tensors
            score.copy_(state["scores"][name])


def scaled(weight: Tensor) -> Tensor:
    """First scores: the weights scaled to a largest magnitude of sqrt(6 / fan-in), so that magnitude pruning starts."""
    largest = weight.abs().max().clamp(min=1e-30)
    return math.sqrt(6 / weight[0].numel()) * weight / largest
