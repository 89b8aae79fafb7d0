"""Where a training run lost its numbers: the first thing that is not finite, in the order it is computed."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def spoiled(tensors: Mapping[str, Tensor | None]) -> list[str]:
    """The names of the tensors with NaN or Inf in them; one look at all of them where there are none."""
    present = {name: t.detach() for name, t in tensors.items() if t is not None}
    # A sum with one of them is one of them, and several times sooner there than the largest magnitude.
    if not present or bool(torch.stack([t.sum() for t in present.values()]).isfinite().all()):
        return []
    return [name for name, t in present.items() if not bool(t.isfinite().all())]


def origin(model: nn.Module, weights: Mapping[str, Tensor], again: Callable[[], object]) -> str:
    """Where the loss of a step that gave NaN or Inf came from, in words.

    weights are those of the step by name; `again` repeats its forward passes through `model`, whose modules are
    watched meanwhile.
    """
    if names := spoiled(weights):
        return f"the weights {_listed(names)} are not finite"
    with _watched(model) as first:
        again()
    return f"it arose in the layer {first[0]}" if first else "the network's outputs are finite, only their loss is not"


@contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Collects the names of modules without parts whose output is not finite, the earliest first."""
    found: list[str] = []

    def watch(name: str) -> Callable[[nn.Module, object, object], None]:
        def look(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name.removeprefix("net.") or "of normalisation")

        return look

    leaves = [(name, m) for name, m in model.named_modules() if not list(m.children())]
    handles = [m.register_forward_hook(watch(name)) for name, m in leaves]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def gradients(names: list[str]) -> str:
    """The backward pass goes from the end to the beginning: it is the last of the names that it reached first."""
    return f"the gradient is not finite, from {names[-1]} on backwards"
