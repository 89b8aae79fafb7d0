"""A network whose layers get the sizes that a file's weights have."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from ..errors import ArchitectureError
from ..models.resnet import Subsample

Shapes = Mapping[str, tuple[int, ...]]


def narrow(net: nn.Module, shapes: Shapes, record: Mapping[str, Any]) -> None:
    """Cut the layers of a network to the shapes of a state dict, in place; their weights are not set.

    record  what `shrink` noted in the file: {"pads": {shortcut: [channels before, after]}}
    Layers only ever become smaller. Raises ArchitectureError where the shapes are not those of a smaller network.
    """
    for name, layer in list(net.named_modules()):
        shape = shapes.get(f"{name}.weight")
        if type(layer) is nn.Conv2d and shape is not None:
            _convolution(name, layer, shape, f"{name}.bias" in shapes)
        elif type(layer) is nn.Linear and shape is not None:
            _linear(name, layer, shape, f"{name}.bias" in shapes)
        elif isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)) and f"{name}.running_mean" in shapes:
            _norm(name, layer, shapes[f"{name}.running_mean"])
    for name, widths in record.get("pads", {}).items():
        _pad(name, net, widths)
    net.shrunk = dict(record)  # type: ignore[assignment]


def record(net: nn.Module) -> dict[str, Any] | None:
    """What `narrow` was told of this network; None for one that was not cut."""
    return getattr(net, "shrunk", None)


def _convolution(name: str, layer: nn.Conv2d, shape: tuple[int, ...], bias: bool) -> None:
    old = tuple(layer.weight.shape)
    out, each = layer.out_channels, layer.out_channels // layer.groups
    _check(name, old, shape)
    if layer.groups > 1 and (shape[1] != old[1] or shape[0] % each):
        raise _misfit(name, old, shape)
    layer.out_channels = shape[0]
    if layer.groups > 1:
        layer.groups = shape[0] // each
    layer.in_channels = shape[1] * layer.groups
    layer.weight = nn.Parameter(layer.weight.new_zeros(shape))
    if bias and (layer.bias is None or shape[0] != out):
        layer.bias = nn.Parameter(layer.weight.new_zeros(shape[0]))


def _linear(name: str, layer: nn.Linear, shape: tuple[int, ...], bias: bool) -> None:
    _check(name, tuple(layer.weight.shape), shape)
    layer.out_features, layer.in_features = shape
    layer.weight = nn.Parameter(layer.weight.new_zeros(shape))
    if bias:
        layer.bias = nn.Parameter(layer.weight.new_zeros(shape[0]))


def _norm(name: str, layer: nn.BatchNorm1d | nn.BatchNorm2d, shape: tuple[int, ...]) -> None:
    if layer.running_mean is None:
        return
    _check(name, tuple(layer.running_mean.shape), shape)
    layer.num_features = shape[0]
    for part in ("weight", "bias"):
        if getattr(layer, part) is not None:
            setattr(layer, part, nn.Parameter(layer.running_mean.new_zeros(shape)))
    layer.running_var = layer.running_mean.new_ones(shape)
    layer.running_mean = layer.running_mean.new_zeros(shape)


def _pad(name: str, net: nn.Module, widths: Sequence[int]) -> None:
    layer = dict(net.named_modules()).get(name)
    if not isinstance(layer, Subsample) or widths[0] > layer.before or widths[1] > layer.after:
        raise ArchitectureError(
            f"the file cuts the padding of {name!r} to {list(widths)}, which does not fit the network.",
            "Check --arch and --arch-arg.",
        )
    layer.before, layer.after = widths


def _check(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    """Channels (the first two axes) may be fewer, but not none; the kernel is the same."""
    fewer = len(new) == len(old) and all(0 < b <= a for a, b in zip(old[:2], new[:2], strict=True))
    if not fewer or old[2:] != new[2:]:
        raise _misfit(name, old, new)


def _misfit(name: str, old: tuple[int, ...], new: tuple[int, ...]) -> ArchitectureError:
    return ArchitectureError(
        f"{name} is {list(new)} in the file, which is not cut from the {list(old)} of the class.",
        "Check --arch and --arch-arg.",
    )
