"""Several attacks after each other, each on what the ones before it left robust: the worst case of every image."""

from dataclasses import dataclass

from torch import Tensor

from ..errors import OptionError
from ..option import option
from .apgd import ApgdCe, ApgdT
from .attack import Attack, Key, State
from .fab import FabT
from .square import Square


@dataclass(frozen=True, kw_only=True)
class Ensemble(Attack):
    """An ensemble is its members: it has no step of its own, and cannot be the inner attack of training."""

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        raise OptionError(
            f"{type(self).__name__} is an ensemble, which can only judge a model.",
            "Training needs a single attack: pgd, ifgsm, fgsm or apgd-ce.",
        )


@dataclass(frozen=True, kw_only=True)
class Quick(Ensemble):
    """APGD on the cross entropy, APGD at the likeliest classes, a short Square: the worst case of each image."""

    SOURCE = "robustq; members: Croce & Hein 2020, Andriushchenko et al. 2020"
    caveat = "half of the steps, most targets, FAB and most queries of Square are left out of the standard ensemble."
    norm: str = option("linf", "norm of the perturbation", choices=("linf",))
    steps: int = option(50, "steps of each start of APGD", low=1)
    targets: int = option(3, "classes aimed at", low=1)
    queries: int = option(200, "points tried by Square for each image", low=2)

    @property
    def members(self) -> tuple[Attack, ...]:
        return (
            ApgdCe(eps=self.eps, eot=self.eot, steps=self.steps),
            ApgdT(eps=self.eps, eot=self.eot, steps=self.steps, targets=self.targets),
            Square(eps=self.eps, eot=self.eot, queries=self.queries),
        )


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """The published standard ensemble: APGD on the cross entropy, targeted APGD, targeted FAB, and Square."""

    SOURCE = "Croce & Hein 2020, section 5; as the authors' code composes it"
    norm: str = option("linf", "norm of the perturbation", choices=("linf",))
    steps: int = option(100, "steps of each start of APGD", low=1)
    targets: int = option(9, "classes aimed at", low=1)
    queries: int = option(5000, "points tried by Square for each image", low=2)

    @property
    def members(self) -> tuple[Attack, ...]:
        return (
            ApgdCe(eps=self.eps, eot=self.eot, steps=self.steps),
            ApgdT(eps=self.eps, eot=self.eot, steps=self.steps, targets=self.targets),
            FabT(eps=self.eps, eot=self.eot, steps=self.steps, targets=self.targets),
            Square(eps=self.eps, eot=self.eot, queries=self.queries),
        )
