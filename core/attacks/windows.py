"""The perturbations of the Square attack in L2 and L1: windows of pyramids, and mass moved from one to another."""

import torch
from torch import Tensor

_FADING = {"l2": 2, "l1": 4}  # power by which pyramids fall off with the distance from their middle
_TILES = 5  # of the first perturbation, in a row
_TINY = 1e-12


def mass(delta: Tensor, norm: str, over: tuple[int, ...]) -> Tensor:
    """The norm of delta over some dimensions, which are kept."""
    return torch.linalg.vector_norm(delta, ord=1 if norm == "l1" else 2, dim=over, keepdim=True)


def pyramid(height: int, width: int, norm: str) -> Tensor:
    """(height, width) of norm 1: rings around the middle, each the sum of k^-power from its number on (eq. 2)."""
    last = max(height, width) // 2 + 1
    rings = torch.arange(1, last + 1, dtype=torch.float64) ** -_FADING[norm]
    level = rings.flip(0).cumsum(0).flip(0)
    rows, columns = torch.arange(height) - height // 2, torch.arange(width) - width // 2
    found = level[torch.maximum(rows.abs()[:, None], columns.abs()[None]).clamp_max(last - 1)]
    return found / mass(found, norm, (0, 1)).clamp_min(_TINY)


def window(side: int, norm: str) -> Tensor:
    """(side, side) float32 of norm 1: a pyramid above, its negative below."""
    found = torch.cat([pyramid(side // 2, side, norm), -pyramid(side - side // 2, side, norm)])
    return (found / mass(found, norm, (0, 1))).float()


def tiled(signs: Tensor, turned: Tensor, size: tuple[int, int], norm: str) -> Tensor:
    """signs (n, c, tiles) -1 or 1, turned (n, tiles) bool -> (n, c, *size): a grid of windows, `tiles` of `grid`."""
    side, rows, columns = grid(size)
    whole = window(side, norm).to(signs)
    found = signs.new_zeros(*signs.shape[:2], *size)
    for place, (top, left) in enumerate((top, left) for top in rows for left in columns):
        shape = torch.where(turned[:, place, None, None], whole.T, whole)[:, None]
        found[:, :, top : top + side, left : left + side] = signs[:, :, place, None, None] * shape
    return found


def grid(size: tuple[int, int]) -> tuple[int, list[int], list[int]]:
    """Image height and width -> side of the first windows, and where they begin."""
    side = max(1, min(size) // _TILES)
    first = [max(0, (edge - side * _TILES) // 2) for edge in size]
    rows, columns = (list(range(a, edge - side + 1, side)) for a, edge in zip(first, size, strict=True))
    return side, rows, columns


def moved(
    delta: Tensor, sides: Tensor, corners: Tensor, turned: Tensor, signs: Tensor, radius: float, norm: str
) -> Tensor:
    """delta (n, c, h, w) -> the perturbation with the mass of one window moved to another (alg. 3).

    sides (n,); corners (n, 4) rows and columns where the two windows begin; turned (n,) bool; signs (n, c). The first
    window gets what both held, and what the whole perturbation leaves of the radius, shared among the channels.
    """
    into = _inside(corners[:, 0], corners[:, 1], sides, delta)
    out = _inside(corners[:, 2], corners[:, 3], sides, delta)
    shape = _placed(corners, sides, turned, delta, norm)
    held = delta * into
    fresh = signs[:, :, None, None] * shape * into + held / mass(held, norm, (2, 3)).clamp_min(_TINY)
    power = 1 if norm == "l1" else 2
    unused = (radius**power - mass(delta, norm, (1, 2, 3)) ** power).clamp_min(0)
    available = (mass(delta * (into | out), norm, (2, 3)) ** power + unused / delta.shape[1]) ** (1 / power)
    fresh = fresh * (available / mass(fresh, norm, (2, 3)).clamp_min(_TINY))
    return torch.where(into, fresh, torch.where(out, 0.0, delta))


def _inside(top: Tensor, left: Tensor, sides: Tensor, like: Tensor) -> Tensor:
    """(n, 1, h, w) bool: the pixels of a window."""
    rows, columns = torch.arange(like.shape[2], device=like.device), torch.arange(like.shape[3], device=like.device)
    below = (rows >= top[:, None]) & (rows < (top + sides)[:, None])
    right = (columns >= left[:, None]) & (columns < (left + sides)[:, None])
    return below[:, None, :, None] & right[:, None, None, :]


def _placed(corners: Tensor, sides: Tensor, turned: Tensor, like: Tensor, norm: str) -> Tensor:
    """(n, 1, h, w) the window of each image where it belongs, anything outside of it."""
    kinds, which = sides.unique(return_inverse=True)
    largest = int(kinds.max())
    table = like.new_zeros(len(kinds), 2, largest, largest)
    for k, side in enumerate(kinds.tolist()):
        table[k, 0, :side, :side] = window(side, norm).to(like)
        table[k, 1, :side, :side] = window(side, norm).T.to(like)
    rows = torch.arange(like.shape[2], device=like.device) - corners[:, 0, None]
    columns = torch.arange(like.shape[3], device=like.device) - corners[:, 1, None]
    rows, columns = rows.clamp(0, largest - 1), columns.clamp(0, largest - 1)
    return table[which[:, None, None], turned.long()[:, None, None], rows[:, :, None], columns[:, None, :]][:, None]
