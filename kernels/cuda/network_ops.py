"""`robustq::lowbit_network` on CUDA tensors: chain.py on the GPU, with the weights in fragment order kept."""

from collections.abc import Sequence

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from .. import lowbit, network
from ..network import Convolve
from ..ops import LIBRARY
from . import chain, machine, support
from .layout import Fragments
from .ops import gpu, lowbit_fragments, version

_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()  # codes -> (factors, both versions, {(step, channels): Fragments})


def network_cuda(inputs: Sequence[Tensor], codes: Tensor, factors: Tensor, program: str, mode: str) -> Tensor:
    """`network.run` by K4 and K5, which have no mode "exact"."""
    if mode == "exact" or support.reason() is not None:
        return network.run(inputs, codes, factors, program, mode)
    return chain.run(inputs, codes, factors, program, mode, step_fragments, machine.launch, gpu(codes))


def step_fragments(step: Convolve, codes: Tensor, factors: Tensor, channels: int) -> Fragments:
    """The weight of a step, made at its first run with these codes and factors."""
    now = (version(codes), version(factors))
    found = _kept.get(codes)
    if found is None or found[0] is not factors or found[1] != now:
        found = _kept[codes] = (factors, now, {})
    weights = found[2]
    if (step, channels) not in weights:
        (scale, _), kernel = step.scale_and_bias(factors), step.window[0]
        columns = lowbit.kernel_columns(channels, kernel)
        packed = step.packed(codes, channels)
        weights[step, channels] = lowbit_fragments(packed, scale[None], step.bits, columns, kernel)
    return weights[step, channels]


LIBRARY.impl("lowbit_network", network_cuda, "CUDA")
