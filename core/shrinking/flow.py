"""How channels flow through a network: from its graph to the layers that make, change and read each of them.

What is not known here is refused by name: the channels that reach it stay, and so do those that it gives.
"""

import operator
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from ..models.resnet import Subsample
from . import layers
from .channels import Slots, Value, joined, varying
from .tracing import Traced

_ELEMENTWISE: tuple[Any, ...] = (
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus, F.softsign),
    *(F.hardtanh, F.hardswish, F.hardsigmoid, F.logsigmoid, F.sigmoid, F.tanh),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.selu, operator.neg, torch.neg),
    *("relu", "relu_", "sigmoid", "tanh", "neg"),
)
_POOLING: tuple[Any, ...] = (F.max_pool2d, torch.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d)
_SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_")
_DIFFERENCES: tuple[Any, ...] = (operator.sub, operator.isub, torch.sub, "sub", "sub_")
_PRODUCTS: tuple[Any, ...] = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_UNCHANGED: tuple[Any, ...] = ("contiguous", "clone", "float", "detach")
_FLATTENING: tuple[Any, ...] = (torch.flatten, "flatten", "view", "reshape", torch.reshape)


class Flow:
    """The channels of a network in evaluation mode.

    slots             which of them go together, and which must stay
    readers, writers  the layers that read and make them; pads: shortcuts that add channels of zeros
    norms             convolution -> the batch norm that alone reads it
    refused           layer -> how it is called in what is said of it, and why it cannot be cut where that is known
    """

    def __init__(self, net: nn.Module, traced: Traced, whole: Mapping[str, str]) -> None:
        """whole: layer -> why its weights cannot be cut."""
        self.net, self.traced, self.whole = net, traced, dict(whole)
        self.slots = Slots()
        self.values: dict[fx.Node, Value] = {}
        self.readers: list[layers.Reader] = []
        self.writers: list[layers.Writer] = []
        self.pads: list[layers.Pad] = []
        self.norms: dict[str, str] = {}
        self.refused: dict[str, str] = {}
        self._forbid_shared()
        for node in traced.graph.nodes:
            found = self._value(node)
            if found is not None:
                self.values[node] = found
                self._overwrite(node, found)

    def _forbid_shared(self) -> None:
        """Layers that run twice, or whose weights are read by something else than the layer, stay whole."""
        calls = Counter(str(n.target) for n in self.traced.graph.nodes if n.op == "call_module")
        self.whole |= {name: "it runs more than once" for name, count in calls.items() if count > 1}
        owners = Counter(id(p) for _, p in self.net.named_parameters(remove_duplicate=False))
        for name, layer in self.net.named_modules(remove_duplicate=False):
            if any(owners[id(p)] > 1 for p in layer.parameters(recurse=False)):
                self.whole.setdefault(name, "its weights are shared")
        for node in self.traced.graph.nodes:
            if node.op == "get_attr":
                self.whole.setdefault(str(node.target).rpartition(".")[0], "its weights are used outside of it")

    # ------------------------------------------------------------------ one node

    def _value(self, node: fx.Node) -> Value | None:
        if node.op == "placeholder":
            return self._opaque(node, "the input")
        if node.op == "output":
            self._keep_inputs(node, "the output of the network")
            return None
        if node.op == "get_attr":
            return self._opaque(node, f"{node.target}, a tensor of the network's own")
        if node not in self.traced.shapes:
            return self._number(node)
        known = self._layer(node) if node.op == "call_module" else self._function(node)
        return self._refused(node) if known is None else known

    def _layer(self, node: fx.Node) -> Value | None:
        name, layer = str(node.target), self.net.get_submodule(str(node.target))
        value = self._input(node)
        if value is None or len(node.all_input_nodes) != 1 or name in self.whole or not layers.usable(layer):
            return None
        dims = len(self.traced.shapes[node.all_input_nodes[0]])
        if isinstance(layer, nn.Conv2d) and dims == 4:
            self._note_norm(name, node)
            return self._noted(layers.convolution(name, layer, value, self.slots))
        if isinstance(layer, nn.Linear) and dims == 2:
            return self._noted(layers.linear(name, layer, value, self.slots))
        if isinstance(layer, layers.Norm) and dims == (2 if isinstance(layer, nn.BatchNorm1d) else 4):
            return self._noted(layers.norm(name, layer, value))
        if isinstance(layer, Subsample):
            return self._noted(layers.subsample(name, layer, value, self.slots))
        if isinstance(layer, layers.POOLING) and dims == 4:
            return layers.pooling(layer, value)
        if isinstance(layer, nn.Flatten):
            return self._flat(node, value)
        if isinstance(layer, layers.ELEMENTWISE):
            return _elementwise(value, layer)
        return value if isinstance(layer, layers.SAME) else None

    def _function(self, node: fx.Node) -> Value | None:
        target, value = node.target, self._input(node)
        if value is None:
            return None
        if target in _ELEMENTWISE:
            return _elementwise(value, lambda c: _called(target, c, *node.args[1:], **node.kwargs))
        if target in _POOLING or target in _UNCHANGED:
            return value
        if target is F.avg_pool2d:
            return Value(value.ids, layers.zero_padded(value).constant)  # it may count zeros beyond the border
        if target in _SUMS:
            return self._combined(node, operator.add)
        if target in _DIFFERENCES:
            return self._combined(node, operator.sub)
        if target in _PRODUCTS:
            return self._combined(node, operator.mul)
        if target in (torch.mean, "mean"):
            return (
                value if _spatial(_argument(node, 1, "dim"), len(self.traced.shapes[node.all_input_nodes[0]])) else None
            )
        if target is torch.cat:
            return self._concatenated(node)
        if target in _FLATTENING:
            return self._flat(node, value)
        if target is operator.getitem:
            return value if _keeps_channels(node.args[1]) else None
        if target is F.dropout:
            return value if _argument(node, 2, "training") is False else None
        if target is F.pad:
            return layers.zero_padded(value) if _pads_zeros(node) else None
        return None

    # ------------------------------------------------------------------ kinds of node

    def _combined(self, node: fx.Node, combine: Callable[[Any, Any], Any]) -> Value | None:
        """A sum, difference or product of two values of equal channels, or of a value and a number."""
        if len(node.args) != 2 or node.kwargs:
            return None
        first, second = node.args
        if isinstance(first, (int, float)) or isinstance(second, (int, float)):
            value = self._input(node)
            return (
                None
                if value is None
                else _elementwise(
                    value, lambda c: combine(first, c) if isinstance(first, (int, float)) else combine(c, second)
                )
            )
        one, other = (self.values.get(n) if isinstance(n, fx.Node) else None for n in (first, second))
        if one is None or other is None or len(one.ids) != len(other.ids):
            return None
        if {len(self.traced.shapes[n]) for n in node.all_input_nodes} != {len(self.traced.shapes[node])}:
            return None  # broadcast along new axes
        self.slots.unite(one.ids, other.ids)
        constant = combine(one.constant, other.constant)
        if combine is operator.mul:
            constant[(one.constant == 0) | (other.constant == 0)] = 0.0
        return Value(one.ids, constant)

    def _concatenated(self, node: fx.Node) -> Value | None:
        parts, dim = node.args[0], _argument(node, 1, "dim")
        if dim != 1 or not isinstance(parts, (tuple, list)):
            return None
        values = [self.values.get(part) if isinstance(part, fx.Node) else None for part in parts]
        return None if any(v is None for v in values) else joined(v for v in values if v is not None)

    def _flat(self, node: fx.Node, value: Value) -> Value | None:
        """(n, c, h, w) -> (n, c * h * w), whatever the code for it, if no width is written into that code."""
        before, after = self.traced.shapes[node.all_input_nodes[0]], self.traced.shapes[node]
        if node.target in ("view", "reshape", torch.reshape):
            given = node.args[1] if len(node.args) == 2 else node.args[1:]
            sizes = given if isinstance(given, (tuple, list)) else ()
            if len(sizes) != 2 or not isinstance(sizes[0], fx.Node) or sizes[1] != -1:
                return None
        if len(after) != 2 or after[0] != before[0]:
            return None
        each = after[1] // max(1, len(value.ids))
        return Value(value.ids.repeat_interleave(each), value.constant.repeat_interleave(each))

    def _number(self, node: fx.Node) -> None:
        """Sizes and what is computed from them: whoever reads the width of a value needs all of it."""
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        if source is None or not node.users:
            return
        if node.target == "size" and len(node.args) == 2:
            place = node.args[1]
        elif node.target == "size" or (node.target is getattr and node.args[1] == "shape"):
            return  # the whole shape: which size is read, its users say
        elif node.target is operator.getitem and source not in self.traced.shapes:
            place, source = node.args[1], source.all_input_nodes[0] if source.all_input_nodes else source
        elif any(n in self.traced.shapes for n in node.all_input_nodes) and node.target != "dim":
            self._keep_inputs(node, _label(node, self.net))
            return
        else:
            return
        dims = len(self.traced.shapes.get(source, ()))
        if not isinstance(place, int) or place % max(1, dims) == 1:
            self._keep(source, f"{_label(node, self.net)}, which reads the width")

    def _refused(self, node: fx.Node) -> Value | None:
        """Something that is not known: all that it gets and gives stays."""
        label = _label(node, self.net)
        if node.op == "call_module":
            why = self.whole.get(str(node.target))
            label = f"{label[:-1]}: {why})" if why else label
            self.refused[str(node.target)] = label
        self._keep_inputs(node, label)
        for source in node.all_input_nodes:  # a shape that is handed on whole
            if source not in self.traced.shapes:
                self._keep_inputs(source, label)
        return self._opaque(node, label)

    def _opaque(self, node: fx.Node, why: str) -> Value | None:
        shape = self.traced.shapes[node]
        if len(shape) < 2:
            return None
        ids = self.slots.fresh(shape[1])
        self.slots.keep(ids, why)
        return Value(ids, varying(shape[1]))

    # ------------------------------------------------------------------ bookkeeping

    def _noted(self, found: tuple[Value, list[layers.Part]]) -> Value:
        value, parts = found
        for part in parts:
            into = {layers.Reader: self.readers, layers.Writer: self.writers, layers.Pad: self.pads}[type(part)]
            into.append(part)  # type: ignore[arg-type]
        return value

    def _note_norm(self, name: str, node: fx.Node) -> None:
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module" and str(users[0].target) not in self.whole:
            layer = self.net.get_submodule(str(users[0].target))
            if isinstance(layer, nn.BatchNorm2d) and layers.usable(layer):
                self.norms[name] = str(users[0].target)

    def _overwrite(self, node: fx.Node, value: Value) -> None:
        """What works in place also changes the value that it got."""
        layer = self.net.get_submodule(str(node.target)) if node.op == "call_module" else None
        named = isinstance(node.target, str) and node.op == "call_method" and node.target.endswith("_")
        in_place = getattr(layer, "inplace", False) or node.kwargs.get("inplace") or named
        if (in_place or node.target in (operator.iadd, operator.isub, operator.imul)) and node.all_input_nodes:
            self.values[node.all_input_nodes[0]] = value

    def _input(self, node: fx.Node) -> Value | None:
        return self.values.get(node.all_input_nodes[0]) if node.all_input_nodes else None

    def _keep_inputs(self, node: fx.Node, why: str) -> None:
        for source in node.all_input_nodes:
            self._keep(source, why)

    def _keep(self, node: fx.Node, why: str) -> None:
        if node in self.values:
            self.slots.keep(self.values[node].ids, why)


def _elementwise(value: Value, function: Callable[[Tensor], Tensor]) -> Value:
    with torch.no_grad():
        found = function(value.constant.clone())
    return Value(value.ids, torch.where(value.constant.isnan(), value.constant, found))


def _called(target: Any, constant: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return getattr(constant, target)(*args, **kwargs) if isinstance(target, str) else target(constant, *args, **kwargs)


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _spatial(dims: Any, axes: int) -> bool:
    """Whether these are the two last of four axes."""
    given = tuple(dims) if isinstance(dims, (tuple, list)) else (dims,)
    return axes == 4 and all(isinstance(d, int) for d in given) and {d % 4 for d in given} <= {2, 3}


def _pads_zeros(node: fx.Node) -> bool:
    """Whether F.pad adds zeros to the two last axes alone."""
    widths, mode = _argument(node, 1, "pad"), _argument(node, 2, "mode")
    plain = mode in (None, "constant") and not _argument(node, 3, "value")
    return plain and isinstance(widths, (tuple, list)) and len(widths) <= 4


def _keeps_channels(index: Any) -> bool:
    """Whether x[index] takes all images and channels: slices only, the first two of them whole."""
    whole = isinstance(index, tuple) and len(index) >= 2 and all(isinstance(i, slice) for i in index)
    return whole and index[:2] == (slice(None), slice(None))


def _label(node: fx.Node, net: nn.Module) -> str:
    """`layer1.0.noise (Noise)`, `the function softmax`."""
    if node.op == "call_module":
        return f"{node.target} ({type(net.get_submodule(str(node.target))).__name__})"
    return f"the {'method' if node.op == 'call_method' else 'function'} {getattr(node.target, '__name__', node.target)}"
