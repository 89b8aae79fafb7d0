"""The shortest way to a linearised decision boundary inside the box: the geometry of FAB."""

import torch
from torch import Tensor


def shortest(x: Tensor, slope: Tensor, needed: Tensor, norm: str) -> Tensor:
    """The smallest d in `norm` with <slope, d> = needed (n,) and x + d in [0, 1]; as far as it goes where none has it.

    L-inf and L2: every entry moves towards the plane by min(way * speed, room), with speed 1 for L-inf and |slope| for
    L2. What that gains is a concave, piecewise linear function of `way`, whose corners are sorted. L1: the entries of
    largest slope move one after the other, each as far as there is room.
    """
    weight = slope.flatten(1)
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    weight, wanted = weight / scale, (needed.abs()[:, None] / scale)
    direction = weight.sign() * needed.sign()[:, None]
    weight, points = weight.abs(), x.flatten(1)
    room = torch.where(direction > 0, 1 - points, points)
    found = _one_by_one(weight, room, wanted) if norm == "l1" else _all_together(weight, room, wanted, norm)
    return (direction * found).view_as(x)


def _one_by_one(weight: Tensor, room: Tensor, wanted: Tensor) -> Tensor:
    weight, order = weight.sort(1, descending=True)
    gain = weight * room.gather(1, order)
    before = gain.cumsum(1) - gain
    way = torch.minimum((wanted - before).clamp_min(0) / weight.clamp_min(1e-30), room.gather(1, order))
    return torch.zeros_like(room).scatter(1, order, way)


def _all_together(weight: Tensor, room: Tensor, wanted: Tensor, norm: str) -> Tensor:
    speed = weight.clamp_min(1e-20) if norm == "l2" else torch.ones_like(weight)
    corners, order = (room / speed).sort(1)
    rate = (weight * speed).gather(1, order)
    spent = (weight * room).gather(1, order).cumsum(1)  # gained by the entries that are at the edge of the box
    left = rate.flip(1).cumsum(1).flip(1) - rate  # what the others gain for one unit of way
    gained = spent + left * corners
    first = torch.searchsorted(gained, wanted).clamp_max(gained.shape[1] - 1)
    before = (first - 1).clamp_min(0)
    zero = first == 0
    base = spent.gather(1, before).masked_fill(zero, 0.0)
    pace = torch.where(zero, left.gather(1, before) + rate.gather(1, before), left.gather(1, before))
    way = torch.minimum((wanted - base).clamp_min(0) / pace.clamp_min(1e-30), corners[:, -1:])
    return torch.minimum(way * speed, room)
