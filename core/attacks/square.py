"""Square attack: random search by squares that knows nothing of the model but its logits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..option import option
from . import windows
from .attack import Attack, Key, State, margin, stream
from .norms import NORMS

# Queries after which the share of pixels in a square is halved.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@dataclass(frozen=True, kw_only=True)
class Square(Attack):
    """Random squares, kept where they lower the margin; score-based: no gradient is ever asked for.

    L-inf: squares at distance eps. L2 and L1: windows of pyramids, which take over the mass of others.
    """

    SOURCE = "Andriushchenko et al. 2020, alg. 1-3; L1: Croce & Hein 2021, section 4"
    uses_gradient = False
    queries: int = option(5000, "points tried for each image in one start", low=2)
    share: float = option(0.8, "share of the pixels in the first squares; falls with the queries", low=0.0, high=1.0)
    restarts: int = option(1, "independent random starts; an image counts as fooled if any start fools it", low=1)

    @property
    def iterations(self) -> int:
        return self.queries - 1  # the last point is judged where the search ends

    @property
    def repeats(self) -> int:
        return self.restarts

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return margin(logits, state["y"])

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        channels, height, width = x.shape[1:]
        if self.norm == "linf":
            stripes = _signs(rng.uniform((*key, "start"), index, (channels, 1, width)))
            point = (x + self.radius * stripes.to(x)).clamp_(0, 1)
        else:
            _, rows, columns = windows.grid((height, width))
            draws = rng.uniform((*key, "start"), index, (channels + 1, len(rows) * len(columns))).to(x)
            tiles = windows.tiled(_signs(draws[:, 1:]), draws[:, 0] < 0.5, (height, width), self.norm)
            point = self._filled(x, tiles)
        return {"x": point, "best": point, "best_value": x.new_full((len(x),), -math.inf)}

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        better = state["value"] > state["best_value"]
        best = torch.where(better.view(-1, 1, 1, 1), state["x"], state["best"])
        value = torch.where(better, state["value"], state["best_value"])
        return {"x": self._proposal(state["clean"], best, state, key), "best": best, "best_value": value}

    def final(self, state: State, randomized: bool) -> Tensor:
        return state["best"] if randomized else state["x"]

    def sides(self, taken: Tensor, image: torch.Size) -> Tensor:
        """taken (n,) steps, image (c, h, w) -> (n,) int64 the side of the squares of the next step."""
        height, width = image[1:]
        halved = (taken[:, None] > torch.tensor(_HALVINGS, device=taken.device)).sum(1)
        side = (self.share * 0.5**halved * height * width).sqrt().round().long()
        if self.norm != "linf":  # a window has an odd side, of 3 at least
            side = side.clamp_min(3)
            side = side + (side % 2 == 0)
        return side.clamp(1, min(height, width))

    def _proposal(self, clean: Tensor, best: Tensor, state: State, key: Key) -> Tensor:
        return self._square(clean, best, state, key) if self.norm == "linf" else self._window(clean, best, state, key)

    def _window(self, clean: Tensor, best: Tensor, state: State, key: Key) -> Tensor:
        """The best point with the mass of one window moved to another."""
        channels, height, width = clean.shape[1:]
        draws = rng.uniform((*key, "window"), stream(state), (5 + channels,)).to(clean)
        side = self.sides(state["taken"], clean.shape[1:])
        places = torch.stack([height - side + 1, width - side + 1], 1).repeat(1, 2)
        corners = torch.minimum((draws[:, :4] * places).long(), places - 1)
        turned, signs = draws[:, 4] < 0.5, _signs(draws[:, 5:])
        delta = windows.moved(best - clean, side, corners, turned, signs, self.radius, self.norm)
        return self._filled(clean, delta)

    def _filled(self, clean: Tensor, delta: Tensor) -> Tensor:
        """The point of ball and box at clean + delta; in L2 first lengthened to the radius, as the box took from it."""
        shape = NORMS[self.norm]
        if self.norm == "l2":
            delta = delta * (self.radius / shape.size(delta).clamp_min(1e-30)).view(-1, 1, 1, 1)
        return shape.confine(clean, delta, self.radius)

    def _square(self, clean: Tensor, best: Tensor, state: State, key: Key) -> Tensor:
        """The best point with one square moved to the edge of the ball, in each channel to one side of it."""
        channels, height, width = clean.shape[1:]
        draws = rng.uniform((*key, "square"), stream(state), (2 + channels,)).to(clean)
        side = self.sides(state["taken"], clean.shape[1:])
        inside = _band(draws[:, 0], side, height)[:, None, :, None] & _band(draws[:, 1], side, width)[:, None, None, :]
        edge = (clean + self.radius * _signs(draws[:, 2:])[:, :, None, None]).clamp_(0, 1)
        return torch.where(inside, edge, best)


def _signs(draws: Tensor) -> Tensor:
    """Uniform draws in [0, 1) -> -1 or 1, equally likely."""
    return torch.where(draws < 0.5, -1.0, 1.0)


def _band(draws: Tensor, side: Tensor, size: int) -> Tensor:
    """(n,) uniform in [0, 1), (n,) -> (n, size) bool: `side` neighbours out of `size`, each place equally likely."""
    places = size - side + 1
    begin = torch.minimum((draws * places).long(), places - 1)[:, None]
    here = torch.arange(size, device=draws.device)[None]
    return (begin <= here) & (here < begin + side[:, None])
