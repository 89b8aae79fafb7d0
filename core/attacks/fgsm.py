"""The fast gradient sign method, and its variant from a random start."""

from dataclasses import dataclass
from typing import ClassVar

from ..option import option
from .projected import Projected


@dataclass(frozen=True, kw_only=True)
class Fgsm(Projected):
    """One steepest step of length eps (the sign of the gradient for L-inf), optionally from a random start."""

    SOURCE = "Goodfellow et al. 2015, section 4; random start: Wong et al. 2020, alg. 3"
    _SPREAD: ClassVar[float] = 0.0  # one step has to go all the way: entry after entry to the edge of the box
    random_start: bool = option(False, "begin at a random point of the ball; Fast-AT takes steps of 1.25 eps then")

    def starts_at_random(self) -> bool:
        return self.random_start

    @property
    def length(self) -> float:
        return self.radius if self.step is None else self.step
