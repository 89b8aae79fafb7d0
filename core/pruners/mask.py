"""Which weights to keep: pure functions from scores to boolean masks with exact counts."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..packed import Packed, Sparse, half_float
from ..quantizers.binary_relax import straight_through

Tensors = Mapping[str, Tensor]


def top(scores: Tensor, keep: int) -> Tensor:
    """scores (n,) -> bool (n,), True for exactly `keep` of the largest; of equal ones the earlier is kept."""
    if not 0 < keep < len(scores):
        return torch.full(scores.shape, keep > 0, device=scores.device)
    least = scores.kthvalue(len(scores) - keep + 1).values  # a selection, ten times faster than to sort
    mask = scores > least
    mask[(scores == least).nonzero().flatten()[: keep - int(mask.sum())]] = True
    return mask


def pruned_count(n: int, sparsity: float) -> int:
    """How many of n are removed at a sparsity in [0, 1]: n * sparsity, halves rounded up."""
    return min(n, math.floor(n * sparsity + 0.5))


def by_weight(weights: Tensors, sparsity: float, scope: str) -> dict[str, Tensor]:
    """Masks of each weight's shape that drop the smallest magnitudes.

    scope "layer" drops the same share of every tensor; "global" compares all tensors, in their order on ties.
    """
    return _chosen({name: w.detach().abs().flatten() for name, w in weights.items()}, weights, sparsity, scope)


def by_channel(weights: Tensors, sparsity: float, scope: str) -> dict[str, Tensor]:
    """Masks of each weight's shape that drop whole output channels (first axis), smallest root mean square first.

    `sparsity` counts channels. The strongest channel of each tensor is kept, or nothing would pass through it; so fewer
    are dropped than asked where that is all that is left. scope as in `by_weight`.
    """
    scores = {}
    for name, w in weights.items():
        rms = w.detach().flatten(1).square().mean(1).sqrt()
        rms[rms.argmax()] = math.inf  # the root mean square makes layers of different width comparable
        scores[name] = rms
    chosen = _chosen(scores, scores, sparsity, scope, spare=len(weights) if scope == "global" else 1)
    return {n: m.reshape(-1, *[1] * (weights[n].ndim - 1)).expand(weights[n].shape).clone() for n, m in chosen.items()}


def strength(weight: Tensor, granularity: str) -> Tensor:
    """weight (out, ...) -> float32 (units,): magnitudes of the weights, or l2 norms of channels or columns.

    A channel is an output channel, also called filter; a column is one input at one place of the kernel, seen by all
    outputs.
    """
    w = weight.detach().float()
    if granularity == "weight":
        return w.abs().flatten()
    return w.flatten(1).norm(dim=1 if granularity == "channel" else 0)


def spread(units: Tensor, shape: torch.Size, granularity: str) -> Tensor:
    """bool (units,) -> bool of the weight's shape."""
    if granularity == "channel":
        return units.view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()
    return units.expand(shape[0], -1).reshape(shape).clone() if granularity == "column" else units.view(shape)


def keeping(weight: Tensor, granularity: str, count: int) -> Tensor:
    """bool of the weight's shape that keeps the `count` strongest units: the projection on what has that many."""
    return spread(top(strength(weight, granularity), count), weight.shape, granularity)


def shown(weights: Tensors, masks: Tensors) -> dict[str, Tensor]:
    """The weights with those of `masks` rounded as a file rounds them and masked, their gradient masked likewise."""
    out = dict(weights)
    for name, kept in masks.items():
        rounded = half_float(weights[name].detach()).float()
        out[name] = straight_through(weights[name], rounded) * kept
    return out


def sparse(weights: Tensors, masks: Tensors) -> dict[str, Packed]:
    """The kept weights as a file stores them; names are those of `masks`."""
    # The overflow check of half_float must see the same values as the view, hence before the mask.
    return {name: Sparse(half_float(weights[name].detach())[kept], kept) for name, kept in masks.items()}


def _chosen(scores: Tensors, shaped: Tensors, sparsity: float, scope: str, spare: int = 0) -> dict[str, Tensor]:
    """Masks shaped like `shaped` from flat scores; at least `spare` of those compared together are kept."""
    if scope == "layer":
        flat = {n: top(s, max(spare, len(s) - pruned_count(len(s), sparsity))) for n, s in scores.items()}
    else:
        joined = torch.cat(list(scores.values()))
        kept = top(joined, max(spare, len(joined) - pruned_count(len(joined), sparsity)))
        flat = dict(zip(scores, kept.split([len(s) for s in scores.values()]), strict=True))
    return {name: mask.reshape(shaped[name].shape) for name, mask in flat.items()}
