"""What `fuse` recognises in a traced network: values nobody else sees, batch norm, ReLU, sums, pooling, shortcuts."""

import operator

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from .packed import Packed


def watched(module: nn.Module) -> bool:
    """Whether a hook would see that the module is called elsewhere or not at all, or changes what it does."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(len(each) for each in hooks)


def pure(made: fx.GraphModule) -> bool:
    """Nothing is changed in place, but for values that nobody else sees."""
    for node in made.graph.nodes:
        name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
        module = made.get_submodule(node.target) if node.op == "call_module" else None
        changes = (
            getattr(module, "inplace", False)
            or bool(node.kwargs.get("inplace"))
            or (node.op != "call_module" and (name.endswith("_") or (name.startswith("i") and name[1:] in INPLACE)))
            or name == "setitem"
            or "out" in node.kwargs
        )
        if changes and not (node.args and fresh(made, node.args[0])):
            return False
    return True


INPLACE = ("add", "sub", "mul", "truediv", "floordiv", "pow", "mod", "and", "or", "xor", "lshift", "rshift", "matmul")
FRESH = (nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.ReLU, Packed)  # an nn.ReLU in place answers for its own input


def fresh(made: fx.GraphModule, node: object) -> bool:
    """A tensor that a layer has just made, for one reader."""
    if not isinstance(node, fx.Node) or len(node.users) != 1:
        return False
    if node.op == "call_module":
        return isinstance(made.get_submodule(str(node.target)), FRESH)
    return node.target in (operator.add, operator.iadd, torch.add, F.relu, torch.relu)


def shape(node: fx.Node) -> tuple[int, ...]:
    """Of the tensor that the node made of the example; () where it made something else."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


def only_user(node: fx.Node) -> fx.Node | None:
    """The one node that reads the value of this one."""
    return next(iter(node.users)) if len(node.users) == 1 else None


def foldable(norm: nn.Module) -> bool:
    return type(norm) is nn.BatchNorm2d and norm.running_mean is not None and norm.running_var is not None


def norm_factors(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """factor, shift (channels,) float64: batch norm in evaluation mode is x * factor + shift."""
    assert isinstance(norm, nn.BatchNorm2d)  # `foldable` has seen to it
    assert norm.running_mean is not None
    assert norm.running_var is not None
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.detach().double()
    shift = -norm.running_mean.double() * factor
    return factor, shift if norm.bias is None else shift + norm.bias.detach().double()


def is_relu(node: fx.Node, module: nn.Module | None) -> bool:
    if type(module) is nn.ReLU:
        return True
    if node.op == "call_function":
        return node.target in (F.relu, torch.relu, torch.relu_)
    return node.op == "call_method" and node.target in ("relu", "relu_")


def added(node: fx.Node) -> list[fx.Node]:
    """Both summands, or nothing."""
    plain = node.op == "call_function" and node.target in (operator.add, operator.iadd, torch.add)
    plain = plain or (node.op == "call_method" and node.target in ("add", "add_"))
    operands = [n for n in node.args if isinstance(n, fx.Node) and shape(n) == shape(node)]
    return operands if plain and not node.kwargs and len(node.args) == len(operands) == 2 else []


def pooling(module: nn.MaxPool2d) -> tuple[int, ...] | None:
    """The numbers of a `Pool`."""
    pairs = [pair if isinstance(pair, tuple) else (pair, pair) for pair in (module.kernel_size, module.stride)]
    pad = module.padding if isinstance(module.padding, tuple) else (module.padding, module.padding)
    if module.return_indices or module.dilation not in (1, (1, 1)):
        return None
    return (*pairs[0], *pairs[1], *pad, int(module.ceil_mode))


def shortcut(node: fx.Node) -> tuple[fx.Node, list[fx.Node], tuple[int, ...]] | None:
    """Where a node is x[:, :, ::s, ::t] with channels of zeros around: x, its nodes, the numbers of a `Pick`."""
    if node.op != "call_function" or node.target is not F.pad or len(node.args) < 2:
        return None
    picked, pads = node.args[0], node.args[1]
    rest = [value for value in (*node.args[2:], *node.kwargs.values()) if value not in ("constant", None, 0, 0.0)]
    if rest or not isinstance(pads, list | tuple) or len(pads) != 6 or any(pads[:4]):
        return None
    if not isinstance(picked, fx.Node) or picked.target is not operator.getitem or only_user(picked) is None:
        return None
    source, places = picked.args
    whole = slice(None, None, None)
    if not isinstance(places, tuple) or len(places) != 4 or places[:2] != (whole, whole):
        return None
    steps = [place.step or 1 for place in places[2:] if isinstance(place, slice) and place.start is place.stop is None]
    numbers = [n for n in (*steps, *pads[4:]) if isinstance(n, int) and n >= 0]
    if len(numbers) != 4 or not isinstance(source, fx.Node):
        return None
    return source, [picked, node], tuple(numbers)
