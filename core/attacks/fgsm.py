"""The fast gradient sign method, and its variant from a random start."""

from dataclasses import dataclass

from ..option import option
from .projected import Projected


@dataclass(frozen=True, kw_only=True)
class Fgsm(Projected):
    """One steepest step of length eps (the sign of the gradient for L-inf), optionally from a random start."""

    SOURCE = "Goodfellow et al. 2015, section 4; random start: Wong et al. 2020, alg. 3"
    random_start: bool = option(False, "begin at a random point of the ball; Fast-AT takes steps of 1.25 eps then")

    def starts_at_random(self) -> bool:
        return self.random_start

    @property
    def length(self) -> float:
        return self.radius if self.step is None else self.step
