"""Models that answer with probabilities instead of logits: attacks are given their logarithms."""

import torch
from torch import Tensor

from .inference import Net

_TOLERANCE = 1e-3  # of their sum


def are_probabilities(outputs: Tensor) -> bool:
    """Whether every row of outputs (n, classes) lies in [0, 1] and sums to 1."""
    return bool(((outputs >= 0) & (outputs <= 1)).all() and ((outputs.sum(1) - 1).abs() < _TOLERANCE).all())


def logarithms(model: Net) -> Net:
    """The model with the logarithms of its outputs, which are logits whose softmax gives these outputs.

    A cross entropy of the probabilities themselves would take the softmax of a softmax, whose values barely differ.
    """

    def net(x: Tensor) -> Tensor:
        outputs = model(x)
        return outputs.clamp_min(torch.finfo(outputs.dtype).tiny).log()

    return net
