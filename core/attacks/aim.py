"""Which class a start of a targeted attack aims at: one after the other, likeliest first."""

import torch
from torch import Tensor

from .attack import Key, State


def rank(key: Key, y: Tensor, targets: int) -> Tensor:
    """(n,) int64 the rank of the class this start aims at: the start's number, the last entry of its key."""
    number = key[-1] if isinstance(key[-1], int) else 0
    return torch.full_like(y, number % targets)


def aim(state: State) -> Tensor:
    """(n,) int64 the class other than the label of rank state["rank"] by its logit on the image itself."""
    others = state["clean_logits"].scatter(1, state["y"][:, None], float("-inf"))
    ranked = torch.sort(others, dim=1, descending=True, stable=True).indices
    place = state["rank"].clamp_max(others.shape[1] - 2)
    return ranked.gather(1, place[:, None])[:, 0]


def lead(state: State, logits: Tensor) -> Tensor:
    """(n,) the logit of the class aimed at minus that of the label."""
    return (logits.gather(1, aim(state)[:, None]) - logits.gather(1, state["y"][:, None]))[:, 0]
