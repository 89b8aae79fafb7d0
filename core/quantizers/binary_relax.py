"""Binary-Relax: training with weights that are pulled towards the quantized set, then put on it.

Yin, Zhang, Lyu, Osher, Qi, Xin 2018 (arXiv 1801.06313). The constraint u in Q is replaced by the Moreau envelope
(lambda/2) dist(u, Q)^2, whose prox is (w + lambda P(w)) / (1 + lambda); lambda grows, and in phase II u = P(w).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..option import option
from ..packed import Packed, Quantized
from ..session import LAST, Compressor, Session, Weights
from .powers import check_powers, quantize_powers
from .projection import check, quantize


@dataclass(frozen=True, kw_only=True)
class BinaryRelax(Compressor):
    """Relaxed quantization in the loop: forward and backward at the relaxed weights, the step on the latent ones."""

    SOURCE = "Yin et al. 2018 (arXiv 1801.06313)"
    bits: int = option(
        2, "bits a weight: 1 binary, 2 ternary, b > 2: 2^b - 1 symmetric levels", choices=(1, 2, 3, 4, 8)
    )
    group: str = option("channel", "what shares a scale: channel, layer or a number of weights")
    alphabet: str = option(
        "uniform",
        "codes above 2 bits: uniform, or powers of two for shifts (3 and 4 bits)",
        choices=("uniform", "powers"),
    )
    switch: float = option(
        0.6, "training progress at which phase II (exact weights) begins; 0 is BinaryConnect", low=0, high=1
    )
    relax_start: float = option(1.0, "lambda at the beginning", low=0)
    relax_end: float = option(300.0, "lambda at the switch; it grows geometrically, as 1.05 an epoch did", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        (check_powers if self.alphabet == "powers" else check)(self.bits, self.group)

    def project_one(self, weight: Tensor) -> Quantized:
        """The projection of one weight on the set, as it is exported."""
        project = quantize_powers if self.alphabet == "powers" else quantize
        return project(weight, self.bits, self.group)

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return BinaryRelaxSession(self, tuple(weights))

    def relaxation(self, progress: float) -> float | None:
        """lambda at a training progress in [0, 1); None in phase II."""
        if progress >= min(self.switch, LAST):
            return None
        return self.relax_start * (self.relax_end / max(self.relax_start, 1e-12)) ** (progress / self.switch)


class BinaryRelaxSession(Session):
    """State: the training progress, so that lambda is never reset on resume."""

    def __init__(self, options: BinaryRelax, names: tuple[str, ...]) -> None:
        self.options, self.names = options, names
        self.progress = 0.0

    def view(self, weights: Weights) -> dict[str, Tensor]:
        out = dict(weights)
        relax = self.options.relaxation(self.progress)
        for name in self.names:
            latent = weights[name]
            exact = self._project(latent.detach()).dense().to(latent.device)
            seen = exact if relax is None else torch.lerp(latent.detach(), exact, relax / (1 + relax))
            out[name] = straight_through(latent, seen)
        return out

    def after_step(self, weights: Weights, progress: float) -> None:
        self.progress = progress

    @property
    def exact(self) -> bool:
        return self.options.relaxation(self.progress) is None

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return {name: self._project(weights[name].detach()) for name in self.names}

    def metrics(self) -> dict[str, float]:
        relax = self.options.relaxation(self.progress)
        return {} if relax is None else {"lambda": relax}

    def state_dict(self) -> dict[str, Any]:
        return {"progress": self.progress}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.progress = float(state["progress"])

    def _project(self, weight: Tensor) -> Quantized:
        return self.options.project_one(weight)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, latent: Tensor, seen: Tensor) -> Tensor:
        return seen.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None]:
        return grads[0], None


def straight_through(latent: Tensor, seen: Tensor) -> Tensor:
    """`seen` exactly, with the gradient passed to `latent` unchanged (latent + (seen - latent) would round)."""
    return _StraightThrough.apply(latent, seen)  # type: ignore[no-any-return]
