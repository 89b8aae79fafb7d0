"""Distillation: what the network that training started from says of the images, as a second target."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..recipe import DistillPart
from ..view import View
from .objective import Objective


@dataclass(frozen=True, kw_only=True)
class Distilled(Objective):
    """(1 - weight) * inner + weight * T^2 * KL(parent(x) || f(x')), T the temperature of both (Hinton et al. 2015).

    x' are the images of each training pass that the objective inside makes, attacked ones included; the parent sees
    the clean images (Goldblum et al. 2020, arXiv 1905.09747, eq. 3), or the same x'. No training pass is added, one of
    the parent is. The mean over several passes counts.
    """

    inner: Objective
    given: DistillPart

    @property
    def adversarial(self) -> bool:
        return self.inner.adversarial

    def check(self, net: nn.Module) -> None:
        self.inner.check(net)

    @property
    def replays(self) -> int:
        return self.inner.replays

    def remarks(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        return self.inner.remarks(history)

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        parent = net.parent
        if parent is None or not torch.is_grad_enabled():
            return self.inner.loss(net, x, y, attack, key, index)
        net = net.heard()
        loss, logs = self.inner.loss(net, x, y, attack, key, index)
        passes = net.passes or []
        with torch.no_grad():
            clean = parent(x) if self.given.parent_sees == "clean" else None
            targets = [parent(seen) if clean is None else clean for seen, _ in passes]
        apart = [soft(target, own, self.given.temperature) for target, (_, own) in zip(targets, passes, strict=True)]
        distance = torch.stack(apart).mean()
        weight = self.given.weight
        return (1 - weight) * loss + weight * distance, {**logs, "distance": distance.detach()}


def soft(target: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """Logits (n, classes) of parent and child -> T^2 KL(softmax(target / T) || softmax(logits / T)), a mean, 0-d."""
    own = (logits / temperature).log_softmax(1)
    aim = (target / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(own, aim, reduction="batchmean", log_target=True)
