"""Which class an attack aims at: one after the other, likeliest first, in one start each or all in one."""

import torch
from torch import Tensor

from .attack import Key, State
from .norms import NORMS


def number(key: Key) -> int:
    """The number of the start: the last entry of its key."""
    return key[-1] if key and isinstance(key[-1], int) else 0


def rank(key: Key, y: Tensor, targets: int) -> Tensor:
    """(n,) int64 the rank of the class this start aims at: the start's number."""
    return torch.full_like(y, number(key) % targets)


def aim(state: State) -> Tensor:
    """(n,) int64 the class other than the label of rank state["rank"] by its logit on the image itself."""
    others = state["clean_logits"].scatter(1, state["y"][:, None], float("-inf"))
    ranked = torch.sort(others, dim=1, descending=True, stable=True).indices
    place = state["rank"].clamp_max(others.shape[1] - 2)
    return ranked.gather(1, place[:, None])[:, 0]


def lead(state: State, logits: Tensor) -> Tensor:
    """(n,) the logit of the class aimed at minus that of the label."""
    return (logits.gather(1, aim(state)[:, None]) - logits.gather(1, state["y"][:, None]))[:, 0]


def facing(x: Tensor, y: Tensor) -> State:
    """The entries of a search for the nearest boundary at x (n, c, h, w) before any class has been looked at.

    A step sees the gradient of one class: the classes are looked at one after the other, from the same point.
    """
    return {
        "seen": torch.zeros_like(y),
        "distance": x.new_full((len(x),), torch.inf),
        "slope": torch.zeros_like(x),
        "gap": x.new_zeros(len(x)),
    }


def faced(state: State, grad: Tensor, norm: str) -> State:
    """The entries after one more class: `distance` to its boundary if that is nearest, `slope` and `gap` of its lead.

    state["value"] (n,) and grad (n, c, h, w) are those of `lead`.
    """
    distance = state["value"].abs() / NORMS[norm].dual(grad).clamp_min(1e-12)
    nearer = distance < state["distance"]
    return {
        "seen": state["seen"] + 1,
        "distance": torch.where(nearer, distance, state["distance"]),
        "slope": torch.where(nearer.view(-1, 1, 1, 1), grad, state["slope"]),
        "gap": torch.where(nearer, state["value"], state["gap"]),
    }
