"""The interface of a built-in architecture."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ..option import Method

Shapes = Mapping[str, tuple[int, ...]]


class Model(Method):
    """Options of an architecture; `build` makes the network with fresh weights."""

    def build(self) -> nn.Module:
        """The network: (n, channels, height, width) normalised images -> (n, classes) logits."""
        raise NotImplementedError

    @classmethod
    def match(cls, shapes: Shapes) -> dict[str, Any] | None:
        """Options that could give a state dict of these shapes, or None; `identify` checks them exactly."""
        return None


def count(shapes: Shapes, pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... are keys, without a gap."""
    n = 0
    while pattern.format(n) in shapes:
        n += 1
    return n
