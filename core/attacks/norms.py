"""What an attack needs to know of a norm: its size, its dual, its projections, its steepest direction, a uniform draw.

One entry of `NORMS` for each norm; perturbations are (n, c, h, w) float32 and every function works image by image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng

Radius = float | Tensor  # of all images, or (n,) of each


@dataclass(frozen=True)
class Norm:
    """size(delta) -> (n,); dual(grad) -> (n,); project(delta, eps) onto the ball; confine(clean, delta, eps) -> points
    of ball and box; steepest(grad) of unit size; ball(key, index, shape) uniform in the unit ball.

    A linear function falls by eps * dual(gradient) at most inside a ball of radius eps.
    """

    size: Callable[[Tensor], Tensor]
    dual: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, Radius], Tensor]
    confine: Callable[[Tensor, Tensor, Radius], Tensor]
    steepest: Callable[[Tensor], Tensor]
    ball: Callable[[tuple[int | str, ...], Tensor, tuple[int, ...]], Tensor]


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1), to be multiplied with images."""
    return values.view(-1, *[1] * (like.dim() - 1))


def _each(eps: Radius, like: Tensor) -> Tensor:
    """The radius of each image of `like` (n, ...): (n, 1, 1, 1), or one number for all."""
    return _rows(eps, like) if isinstance(eps, Tensor) else torch.tensor(eps, dtype=like.dtype, device=like.device)


def is_zero(delta: Tensor) -> Tensor:
    """(n, ...) -> (n,) bool: images that are zero everywhere."""
    return linf_size(delta) == 0


def linf_size(delta: Tensor) -> Tensor:
    """(n, ...) -> (n,) largest absolute value of each image."""
    return delta.abs().flatten(1).amax(1)


def linf_project(delta: Tensor, eps: Radius) -> Tensor:
    """(n, ...) -> the nearest perturbation with all values in [-eps, eps]."""
    if not isinstance(eps, Tensor):
        return delta.clamp(-eps, eps)
    return torch.minimum(torch.maximum(delta, -_rows(eps, delta)), _rows(eps, delta))


def linf_confine(clean: Tensor, delta: Tensor, eps: Radius) -> Tensor:
    """(n, ...) -> the nearest point of ball and box to clean + delta."""
    return (clean + linf_project(delta, eps)).clamp_(0, 1)


def linf_ball(key: tuple[int | str, ...], index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) uniform in [-1, 1]."""
    return rng.uniform(key, index, shape).mul_(2).sub_(1)


def l2_size(delta: Tensor) -> Tensor:
    """(n, ...) -> (n,) Euclidean length, summed in float64: float32 sums of large images err by more than 1e-6."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64).float()


def l2_project(delta: Tensor, eps: Radius) -> Tensor:
    """(n, ...) -> each image scaled down to length eps where it is longer."""
    return delta * (_each(eps, delta) / _rows(l2_size(delta), delta).clamp_min(1e-30)).clamp_max(1.0)


def l2_confine(clean: Tensor, delta: Tensor, eps: Radius) -> Tensor:
    """(n, ...) -> a point of ball and box: the ball first, then the box, which cannot leave the ball again."""
    return (clean + l2_project(delta, eps)).clamp_(0, 1)


def l2_steepest(grad: Tensor) -> Tensor:
    """(n, ...) -> the gradient at length 1, zero where it is zero; scaled first, so that tiny ones do not underflow."""
    scaled = grad / _rows(linf_size(grad).clamp_min(torch.finfo(grad.dtype).tiny), grad)
    return scaled / _rows(l2_size(scaled).clamp_min(1e-30), grad)


def l2_ball(key: tuple[int | str, ...], index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) uniform in the unit ball: a Gaussian direction, the radius the d-th root of a uniform number."""
    direction = rng.normal((*key, "direction"), index, shape)
    radius = rng.uniform((*key, "radius"), index, ()) ** (1.0 / math.prod(shape))
    return direction * _rows(radius / l2_size(direction).clamp_min(1e-30), direction)


def l1_size(delta: Tensor) -> Tensor:
    """(n, ...) -> (n,) sum of absolute values, in float64."""
    return torch.linalg.vector_norm(delta.flatten(1), ord=1, dim=1, dtype=torch.float64).float()


def l1_project(delta: Tensor, eps: Radius) -> Tensor:
    """(n, ...) -> the nearest perturbation whose absolute values sum up to eps at most."""
    room = torch.full_like(delta, torch.inf)
    return delta.sign() * _shrunk(delta.abs(), room, eps)


def l1_confine(clean: Tensor, delta: Tensor, eps: Radius) -> Tensor:
    """(n, ...) -> the nearest point of ball and box to clean + delta (Croce & Hein 2021, proposition 2.1).

    To clip what was projected on the ball alone would be a much shorter perturbation.
    """
    room = torch.where(delta > 0, 1 - clean, clean)
    return (clean + delta.sign() * _shrunk(delta.abs(), room, eps)).clamp_(0, 1)


def _shrunk(size: Tensor, room: Tensor, eps: Radius) -> Tensor:
    """size, room (n, ...) >= 0 -> min(max(size - less, 0), room), with the smallest `less` >= 0 that sums up to eps.

    The sum falls with `less`, piecewise linearly: an entry begins to fall at size - room and is zero from size on.
    These corners are sorted, and `less` lies between the two where the sum passes eps.
    """
    a, top = size.flatten(1).double(), room.flatten(1).double()
    d = a.shape[1]
    wanted = (eps.double() if isinstance(eps, Tensor) else a.new_full((len(a),), eps))[:, None]
    # Added to the image, every entry is rounded by up to half a step of float32, all of them upwards in the worst case.
    wanted = (wanted * (1 - 1e-6) - 2.0**-25 * d).clamp_min(0)
    whole = torch.minimum(a, top).sum(1, keepdim=True)
    corners, order = torch.cat([(a - top).clamp_min(0), a], 1).sort(1)
    falling = torch.where(order < d, 1.0, -1.0).double().cumsum(1)  # entries that fall right of each corner
    steps = falling[:, :-1] * corners.diff(dim=1)
    sums = whole - torch.cat([torch.zeros_like(whole), steps.cumsum(1)], 1)
    place = torch.searchsorted(-sums, -wanted).clamp_max(2 * d - 1)  # the first corner where the sum is small enough
    missing = (wanted - sums.gather(1, place)).clamp_min(0)
    pace = falling.gather(1, (place - 1).clamp_min(0)).clamp_min(1)
    less = (corners.gather(1, place) - missing / pace).clamp_min(0).masked_fill(whole <= wanted, 0.0)
    return torch.minimum((a - less).clamp_min(0), top).to(size.dtype).view_as(size)


def l1_steepest(grad: Tensor) -> Tensor:
    """(n, ...) -> 1 or -1 at the entry with the largest slope, zero elsewhere."""
    flat = grad.flatten(1)
    place = flat.abs().argmax(1, keepdim=True)
    return torch.zeros_like(flat).scatter(1, place, flat.gather(1, place).sign()).view_as(grad)


def l1_ascent(x: Tensor, grad: Tensor, length: Radius, spread: Tensor | int = 1) -> Tensor:
    """A step of L1 size `length` from x (n, ...) that stays in the box, along the `spread` entries of largest slope.

    Each of them takes an equal share; what the box does not admit goes to the entries that come next, which is what
    makes a step with spread 1 the steepest one inside the box (Croce & Hein 2021, proposition 3.1). Shares of more
    entries are the steps of SLIDE (Tramer & Boneh 2019, section 4).
    """
    slope = grad.flatten(1)
    room = torch.where(slope > 0, 1 - x.flatten(1), x.flatten(1)).masked_fill(slope == 0, 0.0)
    budget = (length if isinstance(length, Tensor) else slope.new_full((len(slope),), length))[:, None]
    share = budget / (spread[:, None] if isinstance(spread, Tensor) else spread)
    most, order = torch.minimum(room, share), slope.abs().argsort(1, descending=True)
    most = most.gather(1, order)
    before = most.cumsum(1) - most
    taken = torch.minimum(most, (budget - before).clamp_min(0))
    return (torch.zeros_like(slope).scatter(1, order, taken) * slope.sign()).view_as(grad)


def l1_ball(key: tuple[int | str, ...], index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) uniform in the unit ball: exponential numbers over the sum of one more of them, signs at random."""
    d = math.prod(shape)
    sizes = -torch.log1p(-rng.uniform((*key, "size"), index, (d + 1,)).double())
    signs = torch.where(rng.uniform((*key, "sign"), index, (d,)) < 0.5, -1.0, 1.0)
    return (signs * (sizes[:, :d] / sizes.sum(1, keepdim=True)).float()).view(len(index), *shape)


NORMS: dict[str, Norm] = {
    "linf": Norm(linf_size, l1_size, linf_project, linf_confine, torch.sign, linf_ball),
    "l2": Norm(l2_size, l2_size, l2_project, l2_confine, l2_steepest, l2_ball),
    "l1": Norm(l1_size, linf_size, l1_project, l1_confine, l1_steepest, l1_ball),
}
