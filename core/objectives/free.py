"""Free adversarial training: one backward pass gives both the weights' step and the perturbation's."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..attacks.norms import NORMS
from ..option import option
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class Free(Objective):
    """CE(f(x + delta), y), each batch `replays` times; delta is carried on from step to step and batch to batch.

    The first rows of delta serve a batch that is shorter. Of the recipe's attack only radius and norm are used. An
    epoch costs as much as `replays` epochs of plain training, so give fewer of them.
    """

    SOURCE = "Shafahi et al. 2019 (arXiv 1904.12843), algorithm 1"
    batch_replays: int = option(8, "steps on each batch: 8 for CIFAR, 4 for ImageNet in the paper", low=1)

    @property
    def replays(self) -> int:
        return self.batch_replays

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        ball, n = NORMS[attack.norm], len(x)
        memory = net.memory
        if "delta" not in memory or len(memory["delta"]) < n:
            memory["delta"] = torch.zeros_like(x)
        delta = memory["delta"]
        x_hat = (x + delta[:n]).clamp(0, 1).requires_grad_()

        def carry(grad: Tensor) -> None:  # in the backward pass that also gives the weights' gradient
            moved = ball.project(delta[:n] + attack.radius * ball.steepest(grad), attack.radius)
            memory["delta"] = torch.cat([moved, delta[n:]])

        x_hat.register_hook(carry)
        logits = net(x_hat)
        return F.cross_entropy(logits, y), {"train_robust": hits(logits, y)}
