"""`fuse`: the packed convolutions of a network and what stands around them as few calls of `robustq::lowbit_network`.

The network is traced (torch.fx). Batch norm in evaluation mode is folded into the scale and bias of the packed
convolution before it (into the weight, if that is not packed); ReLU, residual sums, max pooling and parameter-free
shortcuts join the chain. What is not understood stays as it is, and a network that cannot be traced, has hooks, or
answers otherwise once it is fused, is returned as it was given.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .modules import PackedConv2d
from .network import Add, Convolve, Pick, Pool, Relu, Step, write
from .network_ops import lowbit_network
from .packed import Packed
from .patterns import added, foldable, is_relu, norm_factors, only_user, pooling, pure, shape, shortcut, watched

NEAR = {"exact": 1e-4, "accurate": 5e-4, "int8": 0.1}  # of the largest output: where another order of sums may lead


class PackedNetwork(nn.Module):
    """Inputs (n, c, h, w) -> y (n, c, h, w) by a program (network.py); in memory as the first input is."""

    codes: Tensor
    factors: Tensor

    def __init__(self, codes: Tensor, factors: Tensor, program: str, mode: str, layers: int) -> None:
        super().__init__()
        self.register_buffer("codes", codes)
        self.register_buffer("factors", factors)
        self.program, self.mode, self.layers = program, mode, layers

    def forward(self, *inputs: Tensor) -> Tensor:
        y = lowbit_network(inputs, self.codes, self.factors, self.program, self.mode)
        first = inputs[0]
        if first.is_contiguous() and not first.is_contiguous(memory_format=torch.channels_last):
            return y.contiguous()  # what follows may rely on it
        return y

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedNetwork":
        super()._apply(fn, recurse)
        self.factors = self.factors.float()  # the kernels take no other
        return self

    def extra_repr(self) -> str:
        return f"{self.layers} convolutions, mode={self.mode}"


def fuse(net: nn.Module, example: Tensor) -> nn.Module:
    """A network that answers as `net` in evaluation mode does, from fewer calls; `net` itself where that cannot be.

    net      from `pack_model`, evaluating (nothing is fused while it is training; in mode "exact", on the CPU only)
    example  (n, c, h, w) that both are compared on: equal up to float32 and, through that, the rounding of activations
    """
    layers = [m for m in net.modules() if isinstance(m, PackedConv2d)]
    layers = [m for m in layers if m.mode != "exact"] or [m for m in layers if not m.words and m.packed.is_cpu]
    if not layers or any(m.training or watched(m) for m in net.modules()):
        return net
    mode = layers[0].mode
    try:
        made = fx.GraphModule(net, Tracer().trace(net))
        with torch.no_grad():
            ShapeProp(made).propagate(example)
    except Exception:  # whatever the network's own code does with what is no tensor
        return net
    if not pure(made):
        return net
    Fusion(made, mode).run()
    with torch.no_grad():
        wanted, found = net(example), made(example)
    if not isinstance(wanted, Tensor) or found.shape != wanted.shape:
        return net
    far = (found - wanted).abs().max() if wanted.numel() else torch.zeros(())
    return made.eval() if bool(far <= NEAR[mode] * wanted.abs().max()) else net


class Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, Packed) or super().is_leaf_module(m, module_qualified_name)


@dataclass
class Link:
    """A step to be: what it reads and makes, by node, and how to write it once slots are known."""

    reads: list[fx.Node]
    made: fx.Node
    absorbed: list[fx.Node]
    step: Callable[[list[int], int], Step]
    codes: Tensor | None = None
    factors: Tensor | None = None


@dataclass
class Fusion:
    """The rewriting of one traced network."""

    made: fx.GraphModule
    mode: str
    links: dict[fx.Node, Link] = field(default_factory=dict)  # by what they make
    taken: set[fx.Node] = field(default_factory=set)
    count: int = 0

    def run(self) -> None:
        self.skip_identities()
        self.fold_dense()
        for node in self.made.graph.nodes:
            if node not in self.taken and (link := self.link(node)):
                self.links[link.made] = link
                self.taken.update(link.absorbed)
        for group in list(self.groups()):
            self.replace(group)
        self.made.delete_all_unused_submodules()
        self.made.recompile()

    def module(self, node: fx.Node) -> nn.Module | None:
        return self.made.get_submodule(str(node.target)) if node.op == "call_module" else None

    def skip_identities(self) -> None:
        """Nodes that do nothing in evaluation mode are taken out."""
        for node in list(self.made.graph.nodes):
            if isinstance(self.module(node), nn.Identity | nn.Dropout | nn.Dropout2d) and len(node.args) == 1:
                node.replace_all_uses_with(node.args[0])
                self.made.graph.erase_node(node)

    def fold_dense(self) -> None:
        """Batch norm into convolutions that are not packed."""
        for node in list(self.made.graph.nodes):
            layer, after = self.module(node), only_user(node)
            norm = self.module(after) if after else None
            if type(layer) is not nn.Conv2d or norm is None or after is None or not foldable(norm):
                continue
            self.rename(node, fuse_conv_bn_eval(layer, norm))  # type: ignore[type-var]
            after.replace_all_uses_with(node)
            self.made.graph.erase_node(after)

    def rename(self, node: fx.Node, module: nn.Module) -> None:
        """The node calls this module from now on."""
        self.count += 1
        node.target = f"fused_{self.count}"
        self.made.add_submodule(node.target, module.eval())

    def link(self, node: fx.Node) -> Link | None:
        module = self.module(node)
        if not node.args or not isinstance(node.args[0], fx.Node) or len(shape(node)) != 4:
            return None
        if isinstance(module, PackedConv2d) and module.mode == self.mode and not module.words and len(node.args) == 1:
            return self.convolution(node, module)
        if is_relu(node, module):
            return Link([node.args[0]], node, [node], lambda slots, target: Relu(slots[0], target))
        if summands := added(node):
            last, relu = self.with_relu(node)
            return Link(summands, last, [node, last], lambda slots, target: Add(slots[0], slots[1], target, relu))
        if isinstance(module, nn.MaxPool2d) and (numbers := pooling(module)):
            return Link([node.args[0]], node, [node], lambda slots, target: Pool(slots[0], target, *numbers))
        if found := shortcut(node):
            source, absorbed, sizes = found
            return Link([source], node, absorbed, lambda slots, target: Pick(slots[0], target, *sizes))
        return None

    def convolution(self, node: fx.Node, layer: PackedConv2d) -> Link:
        scale, bias = layer.scale[0].double(), torch.zeros(layer.matrix[0], dtype=torch.float64)
        if layer.bias is not None:
            bias = layer.bias.detach().double()
        bias, last, absorbed = bias.to(scale.device), node, [node]
        after = only_user(node)
        norm = self.module(after) if after else None
        if after is not None and norm is not None and foldable(norm):
            factor, shift = norm_factors(norm)
            scale, bias, last = scale * factor, bias * factor + shift, after
            absorbed.append(after)
        reads = [source_of(node)]
        after = only_user(last)
        if after is not None and after not in self.taken and (summands := added(after)):
            other = summands[1] if summands[0] is last else summands[0]
            if other is not last:
                reads.append(other)
                last = after
                absorbed.append(after)
        last, relu = self.with_relu(last)
        absorbed.append(last)
        kernel, (above, left) = layer.weight_shape[2:], layer.sides()
        sizes = (*kernel, *layer.stride, above, left, *layer.dilation, layer.groups, relu, 0, 0)

        def step(slots: list[int], target: int) -> Step:
            return Convolve(slots[0], slots[1] if len(slots) > 1 else -1, target, layer.bits, len(scale), *sizes)

        return Link(reads, last, absorbed, step, layer.packed.flatten(), torch.cat([scale, bias]).float())

    def with_relu(self, node: fx.Node) -> tuple[fx.Node, int]:
        """The ReLU that alone reads the node, and 1; else the node, and 0."""
        after = only_user(node)
        if after is not None and is_relu(after, self.module(after)):
            return after, 1
        return node, 0

    def groups(self) -> Iterable[list[Link]]:
        """Links with nothing foreign between them, one value of which is read outside; none without a convolution."""
        run: list[Link] = []
        for node in [*self.made.graph.nodes, None]:
            if node is not None and node in self.links:
                run.append(self.links[node])
            elif node is None or (node not in self.taken and node.op not in ("placeholder", "get_attr")):
                whole = [run] if len(results(run)) == 1 else [[link] for link in run]
                yield from (group for group in whole if any(link.codes is not None for link in group))
                run = []

    def replace(self, group: list[Link]) -> None:
        """One call instead of the nodes of a group."""
        made_inside = {link.made for link in group}
        inputs = list(dict.fromkeys(node for link in group for node in link.reads if node not in made_inside))
        slots, count = assign(group, inputs)
        steps: list[Step] = []
        codes: list[Tensor] = []
        factors: list[Tensor] = []
        for link in group:
            step = link.step([slots[node] for node in link.reads], slots[link.made])
            if isinstance(step, Convolve) and link.codes is not None and link.factors is not None:
                step = step._replace(codes=sum(map(len, codes)), factors=sum(map(len, factors)))
                codes.append(link.codes)
                factors.append(link.factors)
            steps.append(step)
        program = write(len(inputs), count, steps)
        network = PackedNetwork(torch.cat(codes), torch.cat(factors), program, self.mode, len(codes))
        [result] = results(group)
        with self.made.graph.inserting_after(result.made):
            call = self.made.graph.call_module("", tuple(inputs))
        self.rename(call, network)
        result.made.replace_all_uses_with(call)
        for node in reversed([n for n in self.made.graph.nodes if any(n in link.absorbed for link in group)]):
            self.made.graph.erase_node(node)
        for link in self.links.values():  # a later group may read what this one makes
            link.reads = [call if node is result.made else node for node in link.reads]


def source_of(node: fx.Node) -> fx.Node:
    source = node.args[0]
    assert isinstance(source, fx.Node)  # `link` has seen to it
    return source


def results(group: list[Link]) -> list[Link]:
    """The links whose values are read outside of the group."""
    inside = {node for link in group for node in link.absorbed}
    return [link for link in group if any(user not in inside for user in link.made.users)]


def assign(group: list[Link], inputs: list[fx.Node]) -> tuple[dict[fx.Node, int], int]:
    """A slot for each value, used again once the value is read for the last time; the result's is never used again."""
    last = {node: index for index, link in enumerate(group) for node in link.reads}
    slots = {node: index for index, node in enumerate(inputs)}
    count, free = len(inputs), list[int]()
    for index, link in enumerate(group):
        fresh_slot = index == len(group) - 1 or not free
        slots[link.made] = count if fresh_slot else free.pop()
        count += fresh_slot
        free += [slots[n] for n in dict.fromkeys(link.reads) if last[n] == index and slots[n] >= len(inputs)]
    return slots, count
