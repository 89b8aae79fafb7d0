"""The difference of logits ratio: a margin that no scaling of the logits changes (Croce & Hein 2020, eq. 6 and 7).

With two classes every such ratio is constant, and the margin stands alone.
"""

import torch
from torch import Tensor

from .attack import margin

_TINY = 1e-12


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """(n, classes), (n,) -> (n,) the margin of the best other class over that from the first to the third."""
    ahead = margin(logits, y)
    if logits.shape[1] == 2:
        return ahead
    top = torch.topk(logits, 3, dim=1).values
    return ahead / (top[:, 0] - top[:, 2] + _TINY)


def targeted_dlr(logits: Tensor, y: Tensor, aim: Tensor) -> Tensor:
    """(n, classes), (n,), (n,) -> (n,) the margin of class `aim`, likewise.

    The paper's denominator is the distance from the first logit to the middle of the third and the fourth. With three
    classes it is to the middle of the second and the third: to the third alone, its own margin would be constant.
    """
    ahead = (logits.gather(1, aim[:, None]) - logits.gather(1, y[:, None]))[:, 0]
    if logits.shape[1] == 2:
        return ahead
    top = torch.topk(logits, min(4, logits.shape[1]), dim=1).values
    return ahead / (top[:, 0] - top[:, -2:].mean(1) + _TINY)
