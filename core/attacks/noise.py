"""Random points of the ball: the weakest attack there is, that none with gradients may lose to."""

from dataclasses import dataclass

from torch import Tensor

from ..option import option
from .attack import Attack, Key, State, stream
from .norms import NORMS


@dataclass(frozen=True, kw_only=True)
class Noise(Attack):
    """Uniform random points of the ball; no gradient. A model that falls to it but not to PGD masks its gradient."""

    SOURCE = "Carlini et al. 2019, section 4.3"
    uses_gradient = False
    points: int = option(100, "random points tried for each image", low=2)

    @property
    def iterations(self) -> int:
        return self.points - 1  # the last point is judged where the search ends

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return {"x": self._point(x, (*key, "start"), index)}

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        return {"x": self._point(state["clean"], (*key, "step"), stream(state))}

    def _point(self, clean: Tensor, key: Key, index: Tensor) -> Tensor:
        shape = NORMS[self.norm]
        delta = shape.ball(key, index, tuple(clean.shape[1:])).to(clean) * self.radius
        return shape.confine(clean, delta, self.radius)
