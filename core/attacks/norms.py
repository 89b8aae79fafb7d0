"""What an attack needs to know of a norm: its size, its projection, its steepest direction, a uniform draw.

One entry of `NORMS` for each norm; perturbations are (n, c, h, w) float32 and every function works image by image.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng


@dataclass(frozen=True)
class Norm:
    """size(delta) -> (n,); project(delta, eps) onto the ball; steepest(grad) of unit size; ball(key, index, shape)."""

    size: Callable[[Tensor], Tensor]
    project: Callable[[Tensor, float], Tensor]
    steepest: Callable[[Tensor], Tensor]
    ball: Callable[[tuple[int | str, ...], Tensor, tuple[int, ...]], Tensor]


def _rows(values: Tensor, like: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1), to be multiplied with images."""
    return values.view(-1, *[1] * (like.dim() - 1))


def is_zero(delta: Tensor) -> Tensor:
    """(n, ...) -> (n,) bool: images that are zero everywhere."""
    return linf_size(delta) == 0


def linf_size(delta: Tensor) -> Tensor:
    """(n, ...) -> (n,) largest absolute value of each image."""
    return delta.abs().flatten(1).amax(1)


def linf_project(delta: Tensor, eps: float) -> Tensor:
    """(n, ...) -> the nearest perturbation with all values in [-eps, eps]."""
    return delta.clamp(-eps, eps)


def linf_ball(key: tuple[int | str, ...], index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) uniform in [-1, 1]."""
    return rng.uniform(key, index, shape).mul_(2).sub_(1)


def l2_size(delta: Tensor) -> Tensor:
    """(n, ...) -> (n,) Euclidean length, summed in float64: float32 sums of large images err by more than 1e-6."""
    return torch.linalg.vector_norm(delta.flatten(1), dim=1, dtype=torch.float64).float()


def l2_project(delta: Tensor, eps: float) -> Tensor:
    """(n, ...) -> each image scaled down to length eps where it is longer."""
    return delta * _rows((eps / l2_size(delta).clamp_min(1e-30)).clamp_max(1.0), delta)


def l2_steepest(grad: Tensor) -> Tensor:
    """(n, ...) -> the gradient at length 1, zero where it is zero; scaled first, so that tiny ones do not underflow."""
    scaled = grad / _rows(linf_size(grad).clamp_min(torch.finfo(grad.dtype).tiny), grad)
    return scaled / _rows(l2_size(scaled).clamp_min(1e-30), grad)


def l2_ball(key: tuple[int | str, ...], index: Tensor, shape: tuple[int, ...]) -> Tensor:
    """(n, *shape) uniform in the unit ball: a Gaussian direction, the radius the d-th root of a uniform number."""
    direction = rng.normal((*key, "direction"), index, shape)
    radius = rng.uniform((*key, "radius"), index, ()) ** (1.0 / math.prod(shape))
    return direction * _rows(radius / l2_size(direction).clamp_min(1e-30), direction)


NORMS: dict[str, Norm] = {
    "linf": Norm(linf_size, linf_project, torch.sign, linf_ball),
    "l2": Norm(l2_size, l2_project, l2_steepest, l2_ball),
}
