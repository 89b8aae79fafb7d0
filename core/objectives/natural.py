"""Ordinary training."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class Natural(Objective):
    """Cross entropy on clean images: no robustness is trained."""

    SOURCE = "cross entropy"
    ADVERSARIAL = False

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        logits = net(x)
        return F.cross_entropy(logits, y), {"train_clean": hits(logits, y)}
