"""Several attacks after each other, each on what the ones before it left robust: the worst case of every image."""

from dataclasses import dataclass

from torch import Tensor

from ..errors import OptionError
from ..option import option
from .apgd import ApgdCe, ApgdDlr, ApgdT
from .attack import Attack, Key, State
from .fab import Fab, FabT
from .replay import Replay
from .square import Square


@dataclass(frozen=True, kw_only=True)
class Ensemble(Attack):
    """An ensemble is its members: it has no step of its own, and cannot be the inner attack of training."""

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        raise OptionError(
            f"{type(self).__name__} is an ensemble, which can only judge a model.",
            "Training needs a single attack: pgd, ifgsm, fgsm or apgd-ce.",
        )


def replayed(ensemble: Attack, steps: int) -> tuple[Replay, ...]:
    """The replay of the float parent's adversarials, where the ensemble knows the parent."""
    replay = Replay(eps=ensemble.eps, norm=ensemble.norm, steps=steps).informed(ensemble.knowledge)
    return (replay,) if ensemble.knowledge.parent is not None else ()


def without_parent(ensemble: Attack) -> list[str]:
    """What is to be said where the ensemble does not know the parent."""
    if ensemble.knowledge.parent is not None:
        return []
    return ["no float parent is known, so the replay of its adversarials was left out; --parent FILE names it."]


@dataclass(frozen=True, kw_only=True)
class Quick(Ensemble):
    """Replay of the float parent, APGD on the cross entropy, APGD at the likeliest classes: the worst case."""

    SOURCE = "robustq; members: Papernot et al. 2016, Croce & Hein 2020"
    caveat = "half of the steps, most targets, FAB and Square are left out of the standard ensemble."
    steps: int = option(50, "steps of each start of APGD", low=1)
    targets: int = option(3, "classes aimed at", low=1)

    @property
    def members(self) -> tuple[Attack, ...]:
        return (
            *replayed(self, self.steps),
            ApgdCe(eps=self.eps, norm=self.norm, eot=self.eot, steps=self.steps),
            ApgdT(eps=self.eps, norm=self.norm, eot=self.eot, steps=self.steps, targets=self.targets),
        )

    def remarks(self) -> list[str]:
        return [self.caveat, *without_parent(self)]


@dataclass(frozen=True, kw_only=True)
class AutoAttack(Ensemble):
    """The published standard ensemble: APGD on the cross entropy, targeted APGD, targeted FAB, and Square.

    In the L1 norm APGD comes inwards from larger balls, on the cross entropy from five starts, at five classes.
    """

    SOURCE = "Croce & Hein 2020, section 5; L1: Croce & Hein 2021, section 5; as the authors' code composes it"
    steps: int = option(100, "steps of each start of APGD, iterations of FAB", low=1)
    targets: int = option(9, "classes aimed at", low=1)
    queries: int = option(5000, "points tried by Square for each image", low=2)

    @property
    def members(self) -> tuple[Attack, ...]:
        threat = {"eps": self.eps, "norm": self.norm, "eot": self.eot}
        sparse = self.norm == "l1"
        targets = min(self.targets, 5) if sparse else self.targets
        return (
            ApgdCe(**threat, steps=self.steps, restarts=5 if sparse else 1, inwards=sparse),
            ApgdT(**threat, steps=self.steps, targets=targets, inwards=sparse),
            FabT(**threat, steps=self.steps, targets=self.targets),
            Square(**threat, queries=self.queries),
        )


@dataclass(frozen=True, kw_only=True)
class AutoAttackPlus(Ensemble):
    """The published stronger ensemble: five starts of APGD on cross entropy and DLR and of FAB, then the standard one.

    It takes about four times as long as `autoattack`, and finds about as much.
    """

    SOURCE = "Croce & Hein 2020; version plus of the authors' code"
    norm: str = option("linf", "norm of the perturbation", choices=("linf", "l2"))
    steps: int = option(100, "steps of each start of APGD, iterations of FAB", low=1)
    restarts: int = option(5, "starts of APGD and FAB, targeted ones aside", low=1)
    targets: int = option(9, "classes aimed at", low=1)
    queries: int = option(5000, "points tried by Square for each image", low=2)

    @property
    def members(self) -> tuple[Attack, ...]:
        threat = {"eps": self.eps, "norm": self.norm, "eot": self.eot}
        return (
            ApgdCe(**threat, steps=self.steps, restarts=self.restarts),
            ApgdDlr(**threat, steps=self.steps, restarts=self.restarts),
            Fab(**threat, steps=self.steps, restarts=self.restarts, targets=self.targets),
            Square(**threat, queries=self.queries),
            ApgdT(**threat, steps=self.steps, targets=self.targets),
            FabT(**threat, steps=self.steps, targets=self.targets),
        )


@dataclass(frozen=True, kw_only=True)
class AutoAttackRand(Ensemble):
    """The published ensemble for networks that draw noise: APGD on cross entropy and DLR along the mean of 20 draws."""

    SOURCE = "Croce & Hein 2020, section 5; version rand of the authors' code"
    eot: int = option(20, "passes averaged in each step", low=1)
    steps: int = option(100, "steps of each start of APGD", low=1)

    @property
    def members(self) -> tuple[Attack, ...]:
        threat = {"eps": self.eps, "norm": self.norm, "eot": self.eot}
        return (ApgdCe(**threat, steps=self.steps), ApgdDlr(**threat, steps=self.steps))
