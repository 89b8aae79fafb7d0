"""The update rule of Adam on per-sample tensors."""

from torch import Tensor

_BETA1, _BETA2, _TINY = 0.9, 0.999, 1e-8


def adam(slope: Tensor, first: Tensor, second: Tensor, age: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """slope (n, c, h, w), its two moments so far, and how many steps age (n,) came before -> direction, moments.

    Kingma & Ba 2015, algorithm 1, with the customary constants; the caller multiplies with a learning rate.
    """
    steps = (age + 1).to(slope).view(-1, 1, 1, 1)
    first = _BETA1 * first + (1 - _BETA1) * slope
    second = _BETA2 * second + (1 - _BETA2) * slope.square()
    deviation = (second / (1 - _BETA2**steps)).sqrt()
    return first / (1 - _BETA1**steps) / (deviation + _TINY), first, second
