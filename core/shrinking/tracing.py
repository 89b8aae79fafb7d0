"""A network as a graph of its layers, with the shape of every value."""

from typing import Any

import torch
from torch import Tensor, fx, nn

from ..activation import QuantizedReLU
from ..errors import ArchitectureError
from ..inserted import NoisyWeights
from ..models.resnet import Subsample


class Traced:
    """The graph of a network in evaluation mode, and the shape each node gave for some images.

    graph   nodes in the order in which they run
    shapes  node -> shape of its value, where that is a tensor
    """

    def __init__(self, net: nn.Module, images: Tensor) -> None:
        """images (n, c, h, w), normalised. Raises ArchitectureError where the network cannot be followed."""
        tracer = _Tracer()
        try:
            self.graph = tracer.trace(net)
            interpreter = _Shapes(fx.GraphModule(tracer.root, self.graph))
            with torch.no_grad():
                interpreter.run(images)
        except ArchitectureError:
            raise
        except Exception as error:  # a class of the user's own may fail in any way
            reason = next(iter(str(error).splitlines()), "")
            raise ArchitectureError(
                f"the network's forward pass cannot be followed: {type(error).__name__}: {reason}",
                "Channels can be removed from networks whose forward pass takes the same way for every image.",
            ) from None
        self.shapes = interpreter.shapes


class _Tracer(fx.Tracer):
    """Follows the network into its own classes; one that cannot be followed is a single node."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, (Subsample, QuantizedReLU, NoisyWeights)) or super().is_leaf_module(
            m, module_qualified_name
        )

    def call_module(self, m: nn.Module, forward: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        begun, stack = len(self.graph.nodes), self.module_stack.copy()
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            for node in reversed(list(self.graph.nodes)[begun:]):
                self.graph.erase_node(node)
            self.module_stack = stack
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


class _Shapes(fx.Interpreter):
    """Runs the graph and notes the shapes."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self.shapes: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.shapes[n] = tuple(value.shape)
        return value
