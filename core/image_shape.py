"""The shape of the images that a network takes, where nothing but the network says it."""

from collections.abc import Sequence

import torch
from torch import nn

from .errors import ArchitectureError

_SIZES = {1: (28, 32, 8, 64), 3: (32, 224, 64, 28, 8)}  # tried in this order where nothing records the image size


def image_shape(net: nn.Module, recorded: Sequence[int] = (), remedy: str = "") -> tuple[int, ...]:
    """(c, h, w): the recorded one, else the first usual size that runs. Raises ArchitectureError with the remedy."""
    channels = recorded[0] if recorded else _channels(net, remedy)
    failure = ""
    sizes = [recorded[1:]] if recorded else [(s, s) for s in _SIZES.get(channels, _SIZES[3])]
    for size in sizes:
        try:
            with torch.no_grad():
                net(torch.zeros(1, channels, *size))
        except Exception as error:  # a network of the user's own may check its input with any of them
            failure = next(iter(str(error).splitlines()), type(error).__name__)
        else:
            return channels, *size
    tried = ", ".join(str([channels, *size]) for size in sizes)
    raise ArchitectureError(f"The network does not take images of {tried}: {failure}.", remedy)


def _channels(net: nn.Module, remedy: str) -> int:
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ArchitectureError("The network has no convolution that tells how many channels an image has.", remedy)
