"""`robustq::lowbit_linear` and `robustq::lowbit_conv2d` on CUDA tensors.

The codes are brought into fragment order at the first call with a tensor and kept as long as it lives. What has no
kernel (groups of columns that are not whole tiles, groups of channels, float64, GPUs before Ampere, no NVRTC) is left
to the reference.
"""

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary

from .. import lowbit
from ..ops import LIBRARY
from . import machine, support
from .layout import Fragments, fragments, whole_groups
from .products import Epilogue, Gpu, Window, convolution, linear

_kept: WeakIdKeyDictionary = WeakIdKeyDictionary()  # packed -> (scale, zero points, versions, Fragments)


def runs(x: Tensor, in_features: int, groups: int) -> bool:
    """Whether there is a kernel for x and the groups of a weight."""
    return x.dtype != torch.float64 and whole_groups(in_features, groups) and support.reason() is None


def linear_cuda(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    in_features: int,
    mode: str,
    relu: bool,
    zero: Tensor | None = None,
) -> Tensor:
    """`lowbit.linear` by K1 or K2; mode "exact" has no kernel."""
    lowbit.check_linear(x, packed, scale, bias, bits, in_features, mode, zero)
    if mode == "exact" or not runs(x, in_features, scale.shape[0]):
        return lowbit.linear(x, packed, scale, bias, bits, in_features, mode, relu, zero)
    weight = _kept_fragments(packed, scale, bits, in_features, None, zero)
    y = linear(x.reshape(-1, in_features), weight, mode, machine.launch, _epilogue(bias, relu), gpu(x))
    return y.view(*x.shape[:-1], weight.outputs)


def conv2d_cuda(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    mode: str,
    relu: bool,
) -> Tensor:
    """`lowbit.conv2d` by K4; mode "exact" has no kernel."""
    lowbit.check_conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode)
    if mode == "exact" or groups > 1 or not runs(x, 1, 1):
        return lowbit.conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode, relu)
    weight = _kept_fragments(packed, scale, bits, lowbit.kernel_columns(x.shape[1], kernel), kernel)
    pairs = [(pair[0], pair[1]) for pair in (kernel, stride, padding, dilation)]
    return convolution(x, weight, Window(*pairs), mode, machine.launch, _epilogue(bias, relu), gpu(x))


def _kept_fragments(
    packed: Tensor, scale: Tensor, bits: int, columns: int, kernel: list[int] | None, zero: Tensor | None = None
) -> Fragments:
    now = (version(packed), version(scale), -1 if zero is None else version(zero))
    found = _kept.get(packed)
    if found is not None and found[0] is scale and found[1] is zero and found[2] == now:
        return found[3]
    made = _kept[packed] = (scale, zero, now, lowbit_fragments(packed, scale, bits, columns, kernel, zero))
    return made[3]


def lowbit_fragments(
    packed: Tensor, scale: Tensor, bits: int, columns: int, kernel: list[int] | None, zero: Tensor | None = None
) -> Fragments:
    """A packed matrix, or a packed kernel of this height and width, in fragment order."""
    codes = lowbit.decode(packed, bits, scale.shape[1], columns, scale.shape[0])
    if kernel is not None:  # a piece of 16 bytes has one tap: channels are padded to 16
        by_tap = codes.view(len(codes), kernel[0] * kernel[1], -1)
        codes = F.pad(by_tap, (0, -by_tap.shape[-1] % 16)).flatten(1)
    if zero is None:
        return fragments(codes, scale, bits)
    lowbit.check_zero_values(zero, bits)
    middle = 2 ** (bits - 1)  # all values of so many bits, as numbers with a sign
    return fragments(codes + (lowbit.ZERO[bits] - middle), scale, bits, zero=zero.float() - middle)


def version(tensor: Tensor) -> int:
    """How often it was written to; tensors of inference mode are not, once they are made."""
    return 0 if tensor.is_inference() else tensor._version


def _epilogue(bias: Tensor | None, relu: bool) -> Epilogue:
    return Epilogue(bias=None if bias is None else bias.float().contiguous(), relu=relu)


def gpu(x: Tensor) -> Gpu:
    """What of the GPU that holds x decides which kernel runs."""
    facts = torch.cuda.get_device_properties(x.device)
    hopper = (facts.major, facts.minor) == (9, 0)
    return Gpu(hopper, hopper and support.gemm == "specialised", facts.multi_processor_count)


LIBRARY.impl("lowbit_linear", linear_cuda, "CUDA")
LIBRARY.impl("lowbit_conv2d", conv2d_cuda, "CUDA")
