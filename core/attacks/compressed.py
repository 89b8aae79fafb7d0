"""The ensemble for models that were compressed: what rounding and odd scales of logits cannot hide from."""

from dataclasses import dataclass

from ..option import option
from .apgd import Apgd
from .attack import Attack
from .ensemble import Ensemble, replayed, without_parent
from .losses import AUTO
from .square import Square


@dataclass(frozen=True, kw_only=True)
class Compressed(Ensemble):
    """Replay of the float parent, APGD straight through the rounding (rescaled cross entropy, margin), Square."""

    SOURCE = "robustq; members: Papernot 2016, Croce & Hein 2020, Athalye et al. 2018, Andriushchenko et al. 2020"
    straight_through = True
    norm: str = option("linf", "norm of the perturbation", choices=("linf",))
    eot: int = option(20, "passes averaged in each step, where the model draws noise; else one is made", low=1)
    steps: int = option(100, "steps of each start of APGD, half of them on the parent", low=1)
    queries: int = option(1000, "points tried by Square for each image; not where the model draws noise", low=2)

    @property
    def members(self) -> tuple[Attack, ...]:
        eot = self.eot if self.knowledge.randomized else 1
        square = () if self.knowledge.randomized else (Square(eps=self.eps, queries=self.queries),)
        return (
            *replayed(self, max(1, self.steps // 2)),
            Apgd(eps=self.eps, eot=eot, steps=self.steps, temperature=AUTO),
            Apgd(eps=self.eps, eot=eot, steps=self.steps, loss="margin"),
            *square,
        )

    def remarks(self) -> list[str]:
        return without_parent(self)
