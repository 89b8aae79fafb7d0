"""A frozen model made quicker for the time of an attack, to the same bits or to rounding.

What is changed belongs to the modules, and is as it was afterwards: attacks call a model thousands of times.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from robustq.kernels.patterns import watched

from .architecture import Classifier
from .folding import Folding, folded
from .inference import Net


@contextmanager
def streamlined(model: Net) -> Iterator[None]:
    """All of the below inside; functions that are no modules stay as they are."""
    if not isinstance(model, nn.Module):
        yield
        return
    with ExitStack() as stack:
        for change in (_channels_last, _pooled_first, _unnormalized):
            stack.enter_context(change(model))
        yield


@contextmanager
def streamlined_view(model: Classifier, folding: Folding) -> Iterator[None]:
    """The same for a model whose weights a `View` gives, in channels-last order already, and with batch norm folded.

    All passes inside must be with the same weights.
    """
    # Folded by the layers' names, so before any of them changes its place.
    with folded(model.net, folding), _pooled_first(model), _unnormalized(model):
        yield


@contextmanager
def _channels_last(model: nn.Module) -> Iterator[None]:
    """Convolution weights in channels-last order: small networks take a third less time, residual ones a tenth.

    The first convolution hands the order on to everything after it; pooling above all is faster in it.
    """
    weights = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Conv2d)}
    stored = [(p, p.data) for p in weights.values() if p.is_floating_point()]
    try:
        for p, data in stored:
            # `contiguous` would leave the strides of a weight with one input channel, which fit both orders.
            p.data = data.to(memory_format=torch.channels_last)
        yield
    finally:
        for p, data in stored:
            p.data = data


@contextmanager
def _pooled_first(model: nn.Module) -> Iterator[None]:
    """Max-pooling before the ReLU that it follows: a quarter of the work for the ReLU, forward and back.

    The larger of two numbers stays the larger one, and where it is not positive neither order passes a gradient on, so
    that values and gradients are the same to the bit.
    """
    stored: list[tuple[nn.Sequential, dict[str, nn.Module]]] = []
    for block in [m for m in model.modules() if type(m) is nn.Sequential and not watched(m)]:
        entries = dict(block.named_children())
        layers = list(entries.values())
        for i in range(len(layers) - 1):
            if _swaps(layers[i], layers[i + 1]):
                layers[i], layers[i + 1] = layers[i + 1], layers[i]
        if layers != list(entries.values()) and len(entries) == len(block):  # a module that occurs twice is named once
            stored.append((block, entries))
            block._modules.update(zip(entries, layers, strict=True))
    try:
        yield
    finally:
        for block, entries in stored:
            block._modules.update(entries)


def _swaps(first: nn.Module, second: nn.Module) -> bool:
    return (
        type(first) is nn.ReLU
        and type(second) is nn.MaxPool2d
        and not second.return_indices
        and not (watched(first) or watched(second))
    )


@contextmanager
def _unnormalized(model: nn.Module) -> Iterator[None]:
    """No normalisation where it subtracts 0 and divides by 1."""
    plain = [m for m in model.modules() if type(m) is Classifier and not m.mean.any() and bool((m.std == 1).all())]
    for module in plain:
        module.__dict__["forward"] = module.net  # an attribute proper would be a submodule
    try:
        yield
    finally:
        for module in plain:
            del module.__dict__["forward"]
