"""The difference of logits ratio: a margin that no scaling of the logits changes (Croce & Hein 2020, eq. 6 and 7)."""

import torch
from torch import Tensor

from ..errors import OptionError
from .attack import margin

_TINY = 1e-12


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """(n, classes >= 3), (n,) -> (n,) the margin of the best other class over that from the first to the third."""
    top = _highest(logits, 3)
    return margin(logits, y) / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, aim: Tensor) -> Tensor:
    """(n, classes), (n,), (n,) -> (n,) the margin of class `aim`, likewise.

    The paper's denominator is the distance from the first logit to the middle of the third and the fourth. With three
    classes it is to the middle of the second and the third: to the third alone, its own margin would be constant.
    With two classes every such ratio is constant, and the margin stands alone.
    """
    ahead = (logits.gather(1, aim[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    if logits.shape[1] == 2:
        return ahead
    top = _highest(logits, min(4, logits.shape[1]))
    return ahead / (top[:, 0] - top[:, -2:].mean(1) + _TINY)


def _highest(logits: Tensor, n: int) -> Tensor:
    if logits.shape[1] < n:
        raise OptionError(
            f"The difference of logits ratio needs 3 classes, the model has {logits.shape[1]}.",
            "With two classes every loss has the same sign of gradient: use apgd-ce, or pgd with loss=margin.",
        )
    return torch.topk(logits, n, dim=1).values
