"""Projected gradient ascent: from the image (IFGSM) or from a random point of the ball (PGD)."""

from dataclasses import dataclass

from ..option import option
from .projected import Projected


@dataclass(frozen=True, kw_only=True)
class Ifgsm(Projected):
    """Iterated FGSM, also called BIM: steps from the image itself, of eps/10 (2.5 eps/steps below 25 steps)."""

    SOURCE = "Kurakin et al. 2017, eq. 2"
    steps: int = option(20, "number of steps", low=1)

    @property
    def iterations(self) -> int:
        return self.steps


@dataclass(frozen=True, kw_only=True)
class Pgd(Projected):
    """Projected gradient descent from random points of the ball; steps of eps/10 (2.5 eps/steps below 25 steps)."""

    SOURCE = "Madry et al. 2018, section 2.1"
    steps: int = option(40, "number of steps of one start", low=1)
    restarts: int = option(1, "independent random starts; an image counts as fooled if any start fools it", low=1)

    def starts_at_random(self) -> bool:
        return True

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def repeats(self) -> int:
        return self.restarts
