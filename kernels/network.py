"""A chain of packed convolutions, and what stands between them, as one op: the program, and plain torch as its meaning.

A program is text, whole numbers between spaces: how many inputs, how many slots, then the steps, each its place in
`KINDS` and its fields. A slot holds images (n, c, h, w); the first slots are the inputs, which are never written. What
the last step writes is the result. Only an `Add` or a `Relu` may write the slot that it reads as its source.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from . import lowbit, reference
from .lowbit_ops import lowbit_conv2d

Size = tuple[int, int, int]  # channels, height, width


class Convolve(NamedTuple):
    """target = act(conv(source) + bias + residual); residual -1: none.

    codes   where the packed kernel begins in the codes, bytes (lowbit.pack_kernel)
    factors where the scale of each output, then the bias of each output begin in the factors, values
    """

    source: int
    residual: int
    target: int
    bits: int
    out: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    dilation_h: int
    dilation_w: int
    groups: int
    relu: int
    codes: int
    factors: int

    @property
    def window(self) -> tuple[list[int], list[int], list[int], list[int], int]:
        """Kernel, stride, padding, dilation, groups."""
        sizes = [[self[i], self[i + 1]] for i in range(5, 13, 2)]
        return sizes[0], sizes[1], sizes[2], sizes[3], self.groups

    def size(self, size: Size) -> Size:
        kernel, stride, padding, dilation, _ = self.window
        channels = size[0]
        if channels % self.groups or self.out % self.groups:
            raise ValueError(f"groups must divide {channels} and {self.out} channels, found {self.groups}")
        return (self.out, *lowbit.output_size(size[1:], kernel, stride, padding, dilation))

    def packed(self, codes: Tensor, channels: int) -> Tensor:
        columns = lowbit.kernel_columns(channels // self.groups, self.window[0])
        shape = (-(-self.out // lowbit.OUTPUTS), columns // lowbit.STEP, 32 * self.bits)
        count = shape[0] * shape[1] * shape[2]
        return codes[self.codes : self.codes + count].view(shape)

    def scale_and_bias(self, factors: Tensor) -> tuple[Tensor, Tensor]:
        """(out,) each."""
        scale, bias = factors[self.factors : self.factors + 2 * self.out].view(2, self.out)
        return scale, bias


class Add(NamedTuple):
    """target = act(source + other)."""

    source: int
    other: int
    target: int
    relu: int

    def size(self, size: Size) -> Size:
        return size


class Relu(NamedTuple):
    """target = max(source, 0)."""

    source: int
    target: int

    def size(self, size: Size) -> Size:
        return size


class Pool(NamedTuple):
    """Max pooling, as F.max_pool2d."""

    source: int
    target: int
    kernel_h: int
    kernel_w: int
    stride_h: int
    stride_w: int
    pad_h: int
    pad_w: int
    ceil: int

    def size(self, size: Size) -> Size:
        return (size[0], *(self.along(n, *self[2 + i : 7 + i : 2]) for i, n in enumerate(size[1:])))  # type: ignore[return-value]

    def along(self, size: int, kernel: int, stride: int, padding: int) -> int:
        rest = size + 2 * padding - kernel
        count = -(-rest // stride) + 1 if self.ceil else rest // stride + 1
        return count - 1 if self.ceil and (count - 1) * stride >= size + padding else count


class Pick(NamedTuple):
    """Every stride-th pixel, and channels of zeros before and after the others: a shortcut without parameters."""

    source: int
    target: int
    stride_h: int
    stride_w: int
    before: int
    after: int

    def size(self, size: Size) -> Size:
        height, width = (-(-n // stride) for n, stride in zip(size[1:], self[2:4], strict=True))
        return self.before + size[0] + self.after, height, width


Step: TypeAlias = Convolve | Add | Relu | Pool | Pick
KINDS: tuple[type[Step], ...] = (Convolve, Add, Relu, Pool, Pick)


class Program(NamedTuple):
    inputs: int
    slots: int
    steps: tuple[Step, ...]


def write(inputs: int, slots: int, steps: Sequence[Step]) -> str:
    """The text of a program."""
    numbers = [inputs, slots]
    for step in steps:
        numbers += [KINDS.index(type(step)), *step]
    return " ".join(map(str, numbers))


@lru_cache(256)
def read(text: str) -> Program:
    """The program of a text; ValueError where it is none."""
    numbers = [int(word) for word in text.split()]
    if len(numbers) < 2:
        raise ValueError(f"a program begins with its inputs and slots, found {text!r}")
    steps: list[Step] = []
    at = 2
    while at < len(numbers):
        if not 0 <= numbers[at] < len(KINDS):
            raise ValueError(f"there is no step of kind {numbers[at]}")
        kind = KINDS[numbers[at]]
        fields = numbers[at + 1 : at + 1 + len(kind._fields)]
        if len(fields) < len(kind._fields):
            raise ValueError(f"the program ends inside a step of kind {kind.__name__}")
        steps.append(kind(*fields))
        at += 1 + len(fields)
    if not steps:
        raise ValueError("the program has no step")
    return Program(numbers[0], numbers[1], tuple(steps))


def result_size(text: str, sizes: tuple[Size, ...]) -> Size:
    """(channels, height, width) of the result for inputs of these sizes; ValueError where they do not fit."""
    program = read(text)
    if len(sizes) != program.inputs:
        raise ValueError(f"the program has {program.inputs} inputs, found {len(sizes)}")
    slots: dict[int, Size] = dict(enumerate(sizes))
    for step in program.steps:
        if step.source not in slots:
            raise ValueError(f"slot {step.source} is read before it is written")
        if not program.inputs <= step.target < program.slots:
            raise ValueError(f"slot {step.target} cannot be written")
        size = step.size(slots[step.source])
        added = step.other if isinstance(step, Add) else step.residual if isinstance(step, Convolve) else -1
        if added >= 0 and slots.get(added) != size:
            raise ValueError(f"{size} is added to slot {added}, which holds {slots.get(added)}")
        if min(size) < 1:
            raise ValueError(f"a step {type(step).__name__} makes {size} of {slots[step.source]}")
        slots[step.target] = size
    return slots[program.steps[-1].target]


known_size = lru_cache(256)(result_size)  # not for the fake: sizes that are symbols have no hash


def check(inputs: Sequence[Tensor], codes: Tensor, factors: Tensor, mode: str) -> None:
    """TypeError or ValueError unless the tensors are of the right kinds."""
    lowbit.check_mode(mode)
    if codes.dtype != torch.uint8 or codes.dim() != 1:
        raise TypeError(f"the codes must be uint8 of one dimension, found {codes.dtype} of {tuple(codes.shape)}")
    if factors.dtype != torch.float32 or factors.dim() != 1:
        found = f"{factors.dtype} of {tuple(factors.shape)}"
        raise TypeError(f"the factors must be float32 of one dimension, found {found}")
    for x in inputs:
        if not x.dtype.is_floating_point or x.dim() != 4 or len(x) != len(inputs[0]):
            raise ValueError(f"inputs must be floating (n, c, h, w) of one n, found {x.dtype} of {tuple(x.shape)}")


def sizes_of(inputs: Sequence[Tensor]) -> tuple[Size, ...]:
    return tuple((x.shape[1], x.shape[2], x.shape[3]) for x in inputs)


Convolving: TypeAlias = Callable[[Convolve, Tensor, Tensor | None, Tensor, Tensor, str], Tensor]


def convolved(step: Convolve, x: Tensor, residual: Tensor | None, codes: Tensor, factors: Tensor, mode: str) -> Tensor:
    """What a `Convolve` means: act(conv(x) + bias + residual)."""
    early = bool(step.relu) and residual is None
    y = convolve(x, step, codes, factors, mode, early)
    y = y if residual is None else y + residual
    return y.relu() if step.relu and not early else y


def run(
    inputs: Sequence[Tensor], codes: Tensor, factors: Tensor, program: str, mode: str, by: Convolving = convolved
) -> Tensor:
    """What a program means: its steps one by one, in float32; in mode "exact" in float64 if the first input is that."""
    check(inputs, codes, factors, mode)
    result_size(program, sizes_of(inputs))
    dtype = reference.sum_dtype(inputs[0].dtype) if mode == "exact" else torch.float32
    slots = {index: x.to(dtype) for index, x in enumerate(inputs)}
    steps = read(program).steps
    for step in steps:
        x = slots[step.source]
        if isinstance(step, Convolve):
            y = by(step, x, slots.get(step.residual), codes, factors, mode)
        elif isinstance(step, Add):
            y = x + slots[step.other]
            y = y.relu() if step.relu else y
        elif isinstance(step, Pool):
            y = F.max_pool2d(x, step[2:4], step[4:6], step[6:8], ceil_mode=bool(step.ceil))
        elif isinstance(step, Pick):
            picked = x[:, :, :: step.stride_h, :: step.stride_w]
            y = F.pad(picked, (0, 0, 0, 0, step.before, step.after))
        else:
            y = x.relu()
        slots[step.target] = y
    return slots[steps[-1].target].to(inputs[0].dtype).contiguous(memory_format=torch.channels_last)


def convolve(x: Tensor, step: Convolve, codes: Tensor, factors: Tensor, mode: str, relu: bool) -> Tensor:
    """act(conv(x) + bias), by `robustq::lowbit_conv2d`."""
    scale, bias = step.scale_and_bias(factors)
    packed = step.packed(codes, x.shape[1])
    return lowbit_conv2d(x, packed, scale[None], bias, step.bits, *step.window, mode, relu)
