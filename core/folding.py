"""Batch norm folded into the convolution before it, for an attack's passes through a network in evaluation mode.

There it is an affine map, and a convolution before an affine map is a convolution: one pass over the activations less,
forward and back. Nothing is folded that is not understood: only plain layers, found in the traced forward pass.
"""

import copy
import operator
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from robustq.kernels.patterns import only_user, watched

from . import rng
from .architecture import Classifier
from .errors import ArchitectureError
from .shrinking.tracing import Traced

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_SUMS = (operator.add, torch.add)
_CLOSE = 1e-6  # relative to the largest value, in float64


@dataclass(frozen=True)
class Folding:
    """What can be folded in a network, by the layers' names.

    triples  (convolution, the batch norm that alone reads it, the ReLU that alone reads that, or "")
    relus    ReLUs that alone read a sum; like those of the triples they may overwrite what they read
    """

    triples: tuple[tuple[str, str, str], ...] = ()
    relus: tuple[str, ...] = ()

    def under(self, prefix: str) -> "Folding":
        """The part that lies in a submodule, by the names there; prefix ends with a dot."""
        inside = [t for t in self.triples if all(name.startswith(prefix) for name in t if name)]
        return Folding(
            tuple((c.removeprefix(prefix), n.removeprefix(prefix), r.removeprefix(prefix)) for c, n, r in inside),
            tuple(name.removeprefix(prefix) for name in self.relus if name.startswith(prefix)),
        )


def find(model: Classifier, images: Tensor) -> Folding:
    """What can be folded in `model.net`; nothing where its forward pass cannot be followed, or would change by it.

    images (n, c, h, w) in [0, 1]: a few that it is tried with. The model is left as it was.
    """
    if not any(isinstance(module, _NORMS) for module in model.modules()):
        return Folding()
    model, images = copy.deepcopy(model).eval().requires_grad_(False), images.double()
    try:
        model.double()  # in which a difference is none of rounding
        for p in (p for p in model.parameters() if p.dim() == 4):
            p.data = p.to(memory_format=torch.channels_last)  # as a View has it; noise is drawn in memory's order
        images = images.to(memory_format=torch.channels_last)
        with rng.seeded("folding"):  # layers with noise draw while they are traced
            found = _found(model.net, Traced(model.net, (images - model.mean) / model.std).graph)
        plain = _answers(model, images)
        with folded(model.net, found):
            quick = _answers(model, images)
    except (ArchitectureError, RuntimeError, TypeError):  # such as a network that works in float32 alone
        return Folding()
    agree = all((a - b).abs().max() <= _CLOSE * b.abs().max() for a, b in zip(quick, plain, strict=True))
    return found if agree else Folding()


@contextmanager
def folded(net: nn.Module, folding: Folding) -> Iterator[None]:
    """Folded layers inside, from the weights and statistics that the first pass meets; no gradient goes to these.

    Layers that somebody watches, and batch norm in training mode, stay as they are.
    """
    changed: list[nn.Module] = []

    def change(layer: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
        layer.__dict__["forward"] = forward  # an attribute proper could be a submodule
        changed.append(layer)

    try:
        for names in folding.triples:
            conv, norm, relu = (net.get_submodule(name) if name else None for name in names)
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.modules.batchnorm._BatchNorm)
            if norm.training or not (_is_plain(conv) and _is_plain(norm)):
                continue
            change(conv, _Folded(conv, norm))
            change(norm, _unchanged)
            if relu is not None and _is_plain(relu):
                change(relu, torch.relu_)
        for relu in map(net.get_submodule, folding.relus):
            if _is_plain(relu):
                change(relu, torch.relu_)
        yield
    finally:
        for layer in changed:
            del layer.__dict__["forward"]


def _is_plain(module: nn.Module) -> bool:
    """Whether nobody watches it, and its forward pass is that of its class."""
    return not watched(module) and "forward" not in module.__dict__


class _Folded:
    """The forward pass of a convolution with its batch norm; made in the first pass, where the weights are those shown
    to it (`functional_call` puts them into the modules for the time of a pass)."""

    def __init__(self, conv: nn.Conv2d, norm: nn.modules.batchnorm._BatchNorm) -> None:
        self.conv, self.norm = conv, norm
        self.made: tuple[Tensor, Tensor] | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.made is None:
            # In mixed precision cast once, as autocast casts in every pass.
            kind, mixed = x.device.type, torch.is_autocast_enabled(x.device.type)
            dtype = torch.get_autocast_dtype(kind) if mixed else self.conv.weight.dtype
            weight, bias = _product(self.conv, self.norm)
            self.made = weight.to(dtype), bias.to(dtype)
        return self.conv._conv_forward(x, *self.made)


@torch.no_grad()
def _product(conv: nn.Conv2d, norm: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """Weight (out, in, kh, kw) and bias (out,) of the convolution that gives what batch norm makes of `conv`."""
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None
    assert var is not None
    weight, bias = fuse_conv_bn_weights(conv.weight, conv.bias, mean, var, norm.eps, norm.weight, norm.bias)
    return weight.detach().to(memory_format=torch.channels_last), bias.detach()


def _unchanged(x: Tensor) -> Tensor:
    return x


def _answers(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of their squares at the images."""
    x = images.clone().requires_grad_()
    with rng.seeded("folding"), torch.enable_grad():
        logits = model(x)
        return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


def _found(net: nn.Module, graph: fx.Graph) -> Folding:
    places = Counter(id(m) for _, m in net.named_modules(remove_duplicate=False))
    calls = Counter(str(node.target) for node in graph.nodes if node.op == "call_module")

    def layer(node: fx.Node | None, *kinds: type[nn.Module]) -> str:
        """The node's layer, where it is exactly of one of these kinds, unwatched, and runs nowhere else."""
        if node is None or node.op != "call_module":
            return ""
        name, module = str(node.target), net.get_submodule(str(node.target))
        alone = calls[name] == 1 and places[id(module)] == 1
        return name if type(module) in kinds and alone and _is_plain(module) else ""

    triples, relus = [], []
    for node in graph.nodes:
        norm_node = only_user(node)
        conv, norm = layer(node, nn.Conv2d), layer(norm_node, *_NORMS)
        if conv and norm and norm_node is not None and net.get_buffer(f"{norm}.running_mean") is not None:
            triples.append((conv, norm, layer(only_user(norm_node), nn.ReLU)))
        if node.op == "call_function" and node.target in _SUMS and (relu := layer(only_user(node), nn.ReLU)):
            relus.append(relu)
    return Folding(tuple(triples), tuple(relus))
