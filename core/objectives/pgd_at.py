"""PGD adversarial training."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class PgdAt(Objective):
    """Adversarial training: cross entropy on the images the inner attack finds, CE(f(x_hat), y)."""

    SOURCE = "Madry et al. 2018, eq. 2.1"

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        logits = net(net.attacked(attack, x, y, key, index))
        return F.cross_entropy(logits, y), {"train_robust": hits(logits, y)}
