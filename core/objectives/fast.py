"""Fast adversarial training: one step from a random point, at little more than twice the cost of plain training."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..attacks.pgd import Pgd
from ..option import option
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class Fast(Objective):
    """CE(f(x_hat), y) after one step from a random point of the ball (FGSM-RS); warns where training collapses.

    Of the recipe's attack only radius and norm are used. Networks trained this way can suddenly lose all robustness to
    PGD while that to one step rises ("catastrophic overfitting"); validation with PGD shows it, and the checkpoint
    that is chosen is from before.
    """

    SOURCE = "Wong et al. 2020 (arXiv 2001.03994), algorithm 3"
    rate: float = option(1.25, "length of the step", unit="radii", low=0)
    collapse: float = option(
        0.2, "fall of the robust validation accuracy from one epoch to the next that is a collapse", low=0, high=1
    )

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        step = Pgd(eps=attack.radius, norm=attack.norm, steps=1, step=self.rate * attack.radius)
        logits = net(net.attacked(step, x, y, key, index))
        return F.cross_entropy(logits, y), {"train_robust": hits(logits, y)}

    def remarks(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        found = []
        for before, after in itertools.pairwise(history):
            fallen = before["robust"]["value"] - after["robust"]["value"]
            if fallen > self.collapse:
                found.append(
                    f"fast adversarial training collapsed in epoch {after['epoch']}: robust validation accuracy fell "
                    f"by {100 * fallen:.1f} points. Train again with objective.rate={self.rate / 2:g} or "
                    "with --objective pgd-at."
                )
        return found
