"""Lloyd's algorithm in one dimension: a codebook of few values for many numbers."""

import torch
from torch import Tensor

from ..packed import half_float

ROUNDS = 50  # the error falls by less than 1% after them


@torch.no_grad()
def lloyd(values: Tensor, levels: int, rounds: int = ROUNDS) -> Tensor:
    """values (n,), n >= 1 -> codebook (m,) float64, ascending, m <= levels.

    Numbers that are no more than `levels` different ones are their own codebook. Else it starts from as many of them
    (at equal shares, without a draw), and each round moves every entry to the mean of the numbers that are nearest to
    it, which never raises the sum of squared errors (Lloyd 1982, method I).
    """
    ordered = values.double().sort().values
    distinct = ordered.unique_consecutive()
    if len(distinct) <= levels:
        return distinct
    shares = (torch.arange(levels, device=values.device) + 0.5) / levels
    book = distinct[(shares * len(distinct)).long()]
    sums = torch.cat([ordered.new_zeros(1), ordered.cumsum(0)])
    for _ in range(rounds):
        ends = torch.searchsorted(ordered, _borders(book), right=True)
        edges = torch.cat([ends.new_zeros(1), ends, ends.new_full((1,), len(ordered))])
        count = edges.diff()
        moved = torch.where(count > 0, sums[edges].diff() / count.clamp(min=1), book)
        if torch.equal(moved, book):
            break
        book = moved
    return book


def nearest(values: Tensor, book: Tensor) -> Tensor:
    """values (n,), ascending book (m,) -> (n,): the entry nearest to each; the lower where two are as near."""
    return book[torch.bucketize(values.to(book.dtype), _borders(book))]


@torch.no_grad()
def clustered(weight: Tensor, levels: int) -> Tensor:
    """weight -> float32 of its shape: zeros stay, the others take at most `levels` values, rounded as in a file."""
    kept = weight != 0
    out = torch.zeros_like(weight, dtype=torch.float32)
    if bool(kept.any()):
        book = half_float(lloyd(weight[kept], levels).float()).double()
        out[kept] = nearest(weight[kept], book).float()
    return out


def _borders(book: Tensor) -> Tensor:
    return (book[1:] + book[:-1]) / 2
