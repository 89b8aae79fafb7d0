"""SPSA: gradients estimated from the model's answers alone, followed by Adam inside the ball."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..option import option
from .adam import adam
from .attack import Attack, Key, State, margin, stream
from .norms import NORMS


@dataclass(frozen=True, kw_only=True)
class Spsa(Attack):
    """Differences of the margin along random signs, averaged and followed by Adam; no gradient is ever asked for.

    One update takes `samples` points, in pairs at both sides of the image; 2048 or more make a serious attack, which
    is for models whose gradient is of no use.
    """

    SOURCE = "Uesato et al. 2018, alg. 1; Spall 1992"
    uses_gradient = False
    norm: str = option("linf", "norm of the perturbation", choices=("linf", "l2"))
    steps: int = option(100, "updates", low=1)
    samples: int = option(128, "points evaluated for one update; even", low=2)
    delta: float = option(0.01, "distance of these points in every entry", unit="input units", low=1e-6)
    lr: float = option(0.01, "learning rate of Adam", unit="input units", low=0.0)

    @property
    def pairs(self) -> int:
        return self.samples // 2

    @property
    def iterations(self) -> int:
        return self.steps * (2 * self.pairs + 1)  # after each update the point itself is evaluated

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        still = torch.zeros_like(x)
        return {
            "x": x,
            "point": x,
            "signs": still,
            "slope": still,
            "above": x.new_zeros(len(x)),
            "first": still,
            "second": still,
            "place": torch.zeros_like(y),  # within one update: 0 the point, then both sides of it in turn
            "age": torch.zeros_like(y),
        }

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return margin(logits, state["y"])

    def success(self, state: State, logits: Tensor) -> Tensor:
        """Points of the pairs may lie outside the ball and do not count."""
        return super().success(state, logits) & (state["place"] == 0)

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        place, value = state["place"], state["value"]
        below = (place > 0) & (place % 2 == 0)
        difference = (state["above"] - value) / (2 * self.delta)
        new = {
            "above": torch.where(place % 2 == 1, value, state["above"]),
            "slope": state["slope"] + _rows(torch.where(below, difference, 0.0)) * state["signs"],
            "signs": self._signs(state, key),
            "point": state["point"],
        }
        over = place == 2 * self.pairs
        new["place"] = torch.where(over, 0, place + 1)
        if over.any():
            new |= self._followed(state | new, over)
        side = torch.where(new["place"] % 2 == 1, self.delta, -self.delta) * (new["place"] > 0)
        return new | {"x": new["point"] + _rows(side) * new["signs"]}

    def _signs(self, state: State, key: Key) -> Tensor:
        """(n, c, h, w) -1 or 1: drawn anew where the next point begins a pair."""
        begins = state["place"] % 2 == 0
        signs = state["signs"]
        if begins.any():
            draws = rng.uniform((*key, "signs"), stream(state)[begins], tuple(signs.shape[1:])).to(signs)
            signs = signs.clone()
            signs[begins] = torch.where(draws < 0.5, -1.0, 1.0)
        return signs

    def _followed(self, state: State, over: Tensor) -> State:
        """One step of Adam up the mean slope for images whose pairs are complete (n,)."""
        direction, first, second = adam(state["slope"] / self.pairs, state["first"], state["second"], state["age"])
        ahead = state["point"] + self.lr * direction - state["clean"]
        point = NORMS[self.norm].confine(state["clean"], ahead, self.radius)
        new = {"point": point, "first": first, "second": second, "age": state["age"] + 1}
        new["slope"] = torch.zeros_like(point)
        return {n: torch.where(over.view(-1, *[1] * (v.dim() - 1)), v, state[n]) for n, v in new.items()}

    def final(self, state: State, randomized: bool) -> Tensor:
        return state["point"]


def _rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
