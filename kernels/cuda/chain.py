"""The convolutions of a program (network.py) by K4: one launch that quantizes and one that multiplies for each layer.

K4 adds the residual, applies ReLU and takes the largest magnitude of each sample while it writes; where the next
convolution reads that result, its activations are quantized without a pass that looks for the largest value. Other
steps are torch's own, as in `network.run`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .. import network
from ..network import Convolve
from .layout import Fragments
from .products import Epilogue, Gpu, Launcher, Window, convolution

# The weight of a step in fragment order: step, codes, factors, channels of its input.
Weights = Callable[[Convolve, Tensor, Tensor, int], Fragments]


class Chain:
    """`network.Convolving` for one run of a program."""

    def __init__(self, weights: Weights, launch: Launcher, gpu: Gpu) -> None:
        self.weights, self.launch, self.gpu = weights, launch, gpu
        self.largest: WeakIdKeyDictionary = WeakIdKeyDictionary()  # of the results that are still held, by sample

    def __call__(
        self, step: Convolve, x: Tensor, residual: Tensor | None, codes: Tensor, factors: Tensor, mode: str
    ) -> Tensor:
        if step.groups > 1:
            return network.convolved(step, x, residual, codes, factors, mode)
        if residual is not None:
            residual = residual.contiguous(memory_format=torch.channels_last)
        _, bias = step.scale_and_bias(factors)
        largest = torch.zeros(len(x), dtype=torch.int32, device=x.device)
        epilogue = Epilogue(bias, residual, bool(step.relu), largest)
        kernel, stride, padding, dilation, _ = step.window
        window = Window(pair(kernel), pair(stride), pair(padding), pair(dilation))
        weight = self.weights(step, codes, factors, x.shape[1])
        y = convolution(x, weight, window, mode, self.launch, epilogue, self.gpu, self.largest.get(x))
        self.largest[y] = largest
        return y


def pair(values: Sequence[int]) -> tuple[int, int]:
    return values[0], values[1]


def run(
    inputs: Sequence[Tensor],
    codes: Tensor,
    factors: Tensor,
    program: str,
    mode: str,
    weights: Weights,
    launch: Launcher,
    gpu: Gpu,
) -> Tensor:
    """`network.run` with the kernels of this folder."""
    return network.run(inputs, codes, factors, program, mode, Chain(weights, launch, gpu))
