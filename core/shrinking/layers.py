"""What each kind of layer does with channels: which it couples, which it reads, and which stay constant."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..activation import QuantizedReLU
from ..models.resnet import Subsample
from .channels import Slots, Value, joined, varying

Norm = nn.BatchNorm1d | nn.BatchNorm2d
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
SAME = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AlphaDropout)  # in evaluation mode
ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid),
    QuantizedReLU,
)
POOLING = (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d)


@dataclass(frozen=True)
class Reader:
    """A convolution or linear layer that mixes its input channels.

    ids, constant  as in Value, one a column of the weight
    padded         whether it sees zeros beyond the border, where a constant channel is none
    """

    name: str
    ids: Tensor
    constant: Tensor
    padded: bool


@dataclass(frozen=True)
class Writer:
    """A layer with one row (of weight, bias, statistics) a channel it gives. `makes`: it mixes others to make them."""

    name: str
    ids: Tensor
    makes: bool


@dataclass(frozen=True)
class Pad:
    """A shortcut that adds channels of zeros before and after those it gets."""

    name: str
    front: Tensor
    back: Tensor


Part = Reader | Writer | Pad


def convolution(name: str, layer: nn.Conv2d, value: Value, slots: Slots) -> tuple[Value, list[Part]]:
    w = layer.weight.detach().double().flatten(2)
    padded = layer.padding_mode == "zeros" and _pads(layer)
    out, per = w.shape[:2]
    columns = torch.arange(out)[:, None] // (out // layer.groups) * per + torch.arange(per)
    constant = _mixed(w.sum(2), (w != 0).any(2), _seen(value.constant, padded)[columns], layer.bias)
    ids = slots.fresh(out)
    if layer.groups == 1:
        return Value(ids, constant), [Reader(name, value.ids, value.constant, padded), Writer(name, ids, True)]
    # Groups go as a whole: all they read and all they give.
    for j in range(per):
        slots.unite(ids, value.ids[columns[:, j]])
    return Value(ids, constant), [Writer(name, ids, True)]


def linear(name: str, layer: nn.Linear, value: Value, slots: Slots) -> tuple[Value, list[Part]]:
    w = layer.weight.detach().double()
    ids = slots.fresh(len(w))
    constant = _mixed(w, w != 0, value.constant.expand_as(w), layer.bias)
    return Value(ids, constant), [Reader(name, value.ids, value.constant, False), Writer(name, ids, True)]


def norm(name: str, layer: Norm, value: Value) -> tuple[Value, list[Part]]:
    arguments = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    mean, var, gain, shift = (None if a is None else a.detach().double() for a in arguments)
    constant = F.batch_norm(value.constant[None], mean, var, gain, shift, eps=layer.eps)[0]
    return Value(value.ids, constant), [Writer(name, value.ids, False)]


def pooling(layer: nn.Module, value: Value) -> Value:
    averages_zeros = isinstance(layer, nn.AvgPool2d) and layer.padding not in (0, (0, 0))
    return Value(value.ids, _seen(value.constant, averages_zeros))


def subsample(name: str, layer: Subsample, value: Value, slots: Slots) -> tuple[Value, list[Part]]:
    front, back = slots.fresh(layer.before), slots.fresh(layer.after)
    zeros = [Value(ids, torch.zeros(len(ids), dtype=torch.float64)) for ids in (front, back)]
    return joined([zeros[0], value, zeros[1]]), [Pad(name, front, back)]


def zero_padded(value: Value) -> Value:
    """Rows and columns of zeros around every channel."""
    return Value(value.ids, _seen(value.constant, True))


def usable(layer: nn.Module) -> bool:
    """Whether the layer is one of these kinds and nothing else: no subclass, no hooks, no parametrization."""
    if layer._forward_hooks or layer._forward_pre_hooks or any(True for _ in layer.children()):
        return False
    if isinstance(layer, Norm) and layer.running_mean is None:
        return False
    return type(layer) in (nn.Conv2d, nn.Linear, *NORMS, nn.Flatten, Subsample, *SAME, *ELEMENTWISE, *POOLING)


def _seen(constant: Tensor, padded: bool) -> Tensor:
    """Beside zeros from beyond the border a constant other than 0 is none."""
    return torch.where(constant == 0, constant, varying(len(constant))) if padded else constant


def _pads(layer: nn.Conv2d) -> bool:
    if isinstance(layer.padding, str):
        return layer.padding == "same" and tuple(layer.kernel_size) != (1, 1)
    return any(layer.padding)


def _mixed(sums: Tensor, live: Tensor, constant: Tensor, bias: Tensor | None) -> Tensor:
    """sums, live, constant (out, columns) -> (out,): what each output is where all that it reads is constant."""
    known = torch.where(live, constant, torch.zeros_like(constant))  # what is not read does not matter
    return (sums * known).sum(1) + (0 if bias is None else bias.detach().double())
