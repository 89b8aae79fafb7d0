"""A packed linear layer made ready for native code: its tensors are looked at once, not once a call.

Native code takes 6 us for one row through a layer of 1024 x 1024. Looking at the tensors, asking for each in another
dtype and order and finding out about autograd took twice that, and a quarter of a millisecond where none of the code
for it was in the cache. A layer keeps one of these for as long as its tensors are the same (`same`); the ops make one
for the call.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import backend, reference, sparse
from .triples import Alone, alone


class Ready:
    """y = act(x W^T + bias) of a layer whose tensors have been checked; float32, on the CPU.

    native   the entry point: (x, rows, *numbers, y, threads)
    numbers  addresses and sizes of the layer, in the order of the entry point
    packed, scale, bias, zero  the tensors, contiguous, at these addresses
    ternary  whether the layer may run from lists of what is not zero
    alone    what takes calls on one row, if that is something else
    """

    __slots__ = (
        *("native", "numbers", "packed", "scale", "bias", "zero"),
        *("out", "columns", "mode", "relu", "ternary", "places", "storages", "alone"),
    )

    def __init__(
        self,
        native: Callable[..., Any],
        numbers: tuple[Any, ...],
        packed: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        zero: Tensor | None,
        size: tuple[int, int],
        mode: str,
        relu: bool,
        ternary: bool,
    ) -> None:
        self.native, self.numbers = native, numbers
        self.packed, self.scale, self.bias, self.zero = packed, scale, bias, zero
        self.out, self.columns = size
        self.mode, self.relu, self.ternary = mode, relu, ternary
        self.places: tuple[int, ...] = ()
        self.storages: list[Any] = []
        self.alone: Alone | None = None

    def keep(self) -> "Ready":
        """For more calls than one: also holds the memory, so that nothing else can come to lie at the addresses."""
        tensors = (self.packed, self.scale, self.bias, self.zero)
        self.storages = [tensor.untyped_storage() for tensor in tensors if tensor is not None]
        self.places = places(*tensors)
        if self.ternary and self.mode == "exact":
            self.alone = alone(self.packed, self.scale, self.bias, self.out, self.columns)
        return self

    def same(self, packed: Tensor, scale: Tensor, bias: Tensor | None, zero: Tensor | None) -> bool:
        """Whether these are still the tensors it was kept for, of the same size, where they were."""
        if packed is not self.packed or scale is not self.scale or bias is not self.bias or zero is not self.zero:
            return False
        return places(packed, scale, bias, zero) == self.places

    def __call__(self, x: Tensor) -> Tensor:
        """x (*, in) float32 -> y (*, out) float32."""
        shape = x.shape
        if not shape or shape[-1] != self.columns:
            reference.check_x(x, self.columns)
        rows, threads = x.numel() // self.columns, torch.get_num_threads()
        y = x.new_empty(rows, self.out)  # numbers are read faster than a tuple
        if len(shape) != 2:
            y = y.view(*shape[:-1], self.out)
        if not rows:
            return y
        x = x.contiguous()
        if self.ternary and (rows >= sparse.LEAST_ROWS or backend.sparse == "always"):
            lists = sparse.lists_for(self.packed, self.out, self.columns, rows, self.mode)
            rest = (self.mode, self.relu, threads)
            if lists is not None and sparse.multiply(lists, x, rows, self.scale, self.bias, y, *rest):
                return y
        if rows == 1 and self.alone is not None:
            self.alone(x, y, threads)
            return y
        self.native(x.data_ptr(), rows, *self.numbers, y.data_ptr(), threads)
        return y


def places(packed: Tensor, scale: Tensor, bias: Tensor | None, zero: Tensor | None) -> tuple[int, ...]:
    """Where tensors lie, and how large they are."""
    found = (packed.data_ptr(), packed.nbytes, scale.data_ptr(), scale.nbytes)
    if bias is not None:
        found = (*found, bias.data_ptr(), bias.nbytes)
    return found if zero is None else (*found, zero.data_ptr(), zero.nbytes)
