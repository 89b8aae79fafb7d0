"""Prune, redistribute, regrow: how dynamic sparse training moves a fixed number of weights between layers.

A layer's units are its weights or its output channels; `size` is the number of weights in one of its units, `active`
a bool tensor (units,). Nothing here changes the number of active weights beyond what is asked.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from . import mask

_DENSE = 0.2  # sparsity below which a layer that deserves to grow is spared


def shares(active: Mapping[str, Tensor], momentum: Mapping[str, Tensor]) -> dict[str, float]:
    """What each layer contributes: mean |momentum| over its active units' weights, normalised to the sum 1.

    momentum: {name: (units,) mean |momentum| of each unit's weights}
    """
    means = {name: float(momentum[name][kept].mean()) for name, kept in active.items()}
    total = sum(means.values())
    return {name: value / total if total else 1 / len(means) for name, value in means.items()}


def pruned(active: Tensor, scores: Tensor, rate: float, share: float, layers: int) -> Tensor:
    """The units that stay active when ceil(rate * active) of the weakest go; at least one stays.

    A layer of less than 20% sparsity that has more than its equal share is pruned at most at its sparsity.
    """
    kept, n = int(active.sum()), len(active)
    sparsity = 1 - kept / n
    if sparsity < _DENSE and share > 1 / layers:
        rate = min(rate, sparsity)
    leaving = min(math.ceil(rate * kept - 1e-9), kept - 1)
    return mask.top(torch.where(active, scores, -math.inf), kept - leaving)


def allotted(
    shares: Mapping[str, float], room: Mapping[str, int], size: Mapping[str, int], budget: int
) -> dict[str, int]:
    """How many units each layer gets of a budget of weights: by shares, within its room, what is left over passed on.

    The whole budget is given away if all sizes are 1 and there is room; else what is left is less than the smallest
    unit that could still be given.
    """
    given = dict.fromkeys(room, 0)
    while True:
        hungry = [name for name in room if given[name] < room[name] and size[name] <= budget]
        if not hungry:
            return given
        whole = sum(shares[name] for name in hungry)
        claims = {n: budget * (shares[n] / whole if whole else 1 / len(hungry)) / size[n] for n in hungry}
        new = {n: min(math.floor(claim), room[n] - given[n]) for n, claim in claims.items()}
        if not any(new.values()):
            new = {max(claims, key=lambda n: claims[n]): 1}  # largest remainder
        for name, count in new.items():
            given[name] += count
            budget -= count * size[name]


def regrown(active: Tensor, momentum: Tensor, count: int) -> Tensor:
    """`active` with `count` more units, where the momentum of inactive ones is largest."""
    return active | mask.top(torch.where(active, -math.inf, momentum), count)
