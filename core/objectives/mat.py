"""Multi-strength adversarial training: images attacked at several radii, by one network or by one network each."""

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .. import rng
from ..attacks.attack import Attack, Key
from ..errors import OptionError
from ..option import option
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class Mat(Objective):
    """CE(f(x_hat), y), each image attacked at a radius drawn from a set; the step shrinks with the radius.

    form=parallel is for an ensemble with one member for each strength, such as enresnet with noise=0: member j is
    trained on images attacked at strength j against itself; from `joint` on the whole ensemble, whose logits are
    averaged, is trained as in the mixed form.
    """

    SOURCE = "Song et al. 2018 (arXiv 1705.09764), mixed and parallel MAT; set, weights and fusion are robustq's"
    strengths: tuple[float, ...] = option((0.0, 0.25, 0.5, 0.75, 1.0), "the set", unit="radii of the attack")
    weights: tuple[float, ...] = option((), "how often each is drawn; equally often when not given")
    form: str = option("mixed", "one network for all strengths, or a member for each", choices=("mixed", "parallel"))
    joint: float = option(0.8, "parallel: training progress from which members are trained together", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.strengths or min(self.strengths) < 0 or max(self.strengths) > 1:
            raise OptionError(f"Mat: strengths is {self.strengths}.", "Give shares of the radius in [0, 1]: 0,0.5,1.")
        if self.weights and (
            len(self.weights) != len(self.strengths) or min(self.weights) < 0 or sum(self.weights) == 0
        ):
            raise OptionError(
                f"Mat: weights is {self.weights} for {len(self.strengths)} strengths.",
                "Give one weight of at least 0 for each strength, not all of them 0.",
            )

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        if self.form == "parallel" and net.progress < self.joint:
            return self._apart(net, x, y, attack, key, index)
        chosen = self.draw(key, index).to(y.device)
        x_hat = x.clone()
        for place, strength in enumerate(self.strengths):
            rows = chosen == place
            if strength > 0 and bool(rows.any()):
                kept = rows.to(index.device)
                x_hat[rows] = net.attacked(weakened(attack, strength), x[rows], y[rows], key, index[kept])
        logits = net(x_hat)
        return F.cross_entropy(logits, y), {"train_robust": hits(logits, y)}

    def check(self, net: nn.Module) -> None:
        members = getattr(net, "members", None)
        found = len(members) if isinstance(members, nn.ModuleList) else 1
        if self.form == "parallel" and (members is None or found != len(self.strengths)):
            raise OptionError(
                f"Mat: {len(self.strengths)} strengths in parallel need an ensemble of as many members; "
                f"{type(net).__name__} has {found}.",
                "Give --arch enresnet with --arch-arg members=N, or other strengths, or form=mixed.",
            )

    def _apart(
        self, net: View, x: Tensor, y: Tensor, attack: Attack, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean of the members' losses, each at its own strength."""
        losses, right = [], []
        for place, strength in enumerate(self.strengths):
            member = net.member(place)
            x_hat = member.attacked(weakened(attack, strength), x, y, key, index) if strength > 0 else x
            logits = member(x_hat)
            losses.append(F.cross_entropy(logits, y))
            right.append(hits(logits, y))
        return torch.stack(losses).mean(), {"train_robust": torch.stack(right).mean()}

    def draw(self, key: Key, index: Tensor) -> Tensor:
        """index (n,) -> (n,) int64, which strength each image gets; a function of key and index alone."""
        weights = torch.tensor(self.weights or [1.0] * len(self.strengths), dtype=torch.float64)
        edges = weights.cumsum(0) / weights.sum()
        drawn = torch.bucketize(rng.uniform((*key, "strength"), index, ()).double(), edges, right=True)
        return drawn.clamp_(max=int(weights.nonzero().max()))


def weakened(attack: Attack, strength: float) -> Attack:
    """The same attack in a smaller ball, a given step shrunk with it; the attack itself at strength 1."""
    if strength == 1:
        return attack
    changes = {"eps": attack.radius * strength}
    step = getattr(attack, "step", None)
    if step is not None:
        changes["step"] = step * strength
    return dataclasses.replace(attack, **changes)
