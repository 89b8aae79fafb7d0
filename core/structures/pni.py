"""Parametric noise injection: Gaussian noise on the weights, its strength trained with them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import rng
from ..option import option
from ..session import Compressor, Session, Weights

LEVELS = ("layer", "channel", "element")


@dataclass(frozen=True, kw_only=True)
class Pni(Compressor):
    """w + a * eta in every forward pass, those of the attack included; a is trained, eta has the weights' deviation.

    A training method: the file that is written holds the weights without noise. The training log has validation
    figures both ways, `clean` and `robust` without noise, `clean_noise_on` and `robust_noise_on` with it.
    """

    SOURCE = "He et al. 2019 (CVPR, Parametric noise injection)"
    level: str = option("channel", "what shares a strength a", choices=LEVELS)
    start: float = option(0.25, "strength at the beginning", unit="standard deviations of the layer's weights")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return NoiseSession(weights, self.level, self.start)


class NoiseSession(Session):
    """State: the strengths."""

    noisy = True

    def __init__(self, weights: Weights, level: str, start: float) -> None:
        self.strengths = {
            name: torch.full(_shape(w.shape, level), start, device=w.device).requires_grad_()
            for name, w in weights.items()
        }

    def join(self, optimizer: Optimizer) -> None:
        if self.strengths:
            optimizer.add_param_group({"params": list(self.strengths.values()), "weight_decay": 0.0})

    def jitter(self, weights: Weights, key: tuple[int | str, ...]) -> dict[str, Tensor]:
        """One draw for the batch. Weights that are exactly zero stay so: noise must not fill a pruned network."""
        out = dict(weights)
        for name, strength in self.strengths.items():
            w = weights[name]
            noise = torch.randn(w.shape, generator=rng.generator(*key, name)).to(w)
            fixed = w.detach()
            out[name] = w + strength * (noise * fixed.std(correction=0) * (fixed != 0))
        return out

    def metrics(self) -> dict[str, float]:
        """Mean |a|."""
        amounts = [s.detach().abs().mean() for s in self.strengths.values()]
        return {"noise": float(torch.stack(amounts).mean())} if amounts else {}

    def state_dict(self) -> dict[str, Any]:
        return {"strengths": {name: s.detach() for name, s in self.strengths.items()}}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name, strength in self.strengths.items():  # the optimizer holds these very tensors
            strength.copy_(state["strengths"][name])


def _shape(shape: torch.Size, level: str) -> tuple[int, ...]:
    if level == "element":
        return tuple(shape)
    return (shape[0] if level == "channel" else 1, *[1] * (len(shape) - 1))
