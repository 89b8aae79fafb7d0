"""Linear and convolution layers that run from packed weights, and `pack_model`, which puts them into a network.

Both hold the codes at two or four bits and the scale (packed.py); no dense weight is kept between calls.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import backend, lowbit, lowbit_ops, ops, reference
from .direct import calm, ordinary, tracked
from .packed import Packed
from .patterns import watched
from .ready import Ready


class PackedLinear(Packed):
    """x (*, in) -> (*, out), from codes (out, in), scale and zero points (1 or out, groups), bias (out,): packed.py."""

    ready: Ready | None = None  # from the last call that went past the dispatcher

    def forward(self, x: Tensor) -> Tensor:
        if calm(x) and x.dtype is torch.float32 and (ready := self.prepared(x)) is not None:
            return ready(x)
        if self.words:
            return ops.ternary_linear(x, self.packed, self.scale, self.bias, *self.matrix)
        layer = (self.packed, self.scale, self.bias, self.bits, self.matrix[1])
        return lowbit_ops.lowbit_linear(x, *layer, self.mode, zero=self.zero)

    def prepared(self, x: Tensor) -> Ready | None:
        """The layer for native code, looked at anew if a tensor is another or elsewhere; None: ask the dispatcher."""
        buffers: dict[str, Any] = self._buffers
        bias = self._parameters["bias"]  # `self.bias` would take a microsecond
        packed, scale, zero = buffers["packed"], buffers["scale"], buffers["zero"]
        if backend.native is None or tracked(x, scale, bias):
            return None
        ready = self.ready  # another thread may set it
        if ready is None or not ready.same(packed, scale, bias, zero):
            self.ready = ready = self.prepare(packed, scale, bias, zero)
        return ready

    def prepare(self, packed: Any, scale: Any, bias: Tensor | None, zero: Tensor | None) -> Ready | None:
        if not ordinary(packed, scale, bias, zero) or scale.dtype is torch.float64:
            return None
        if self.words:
            reference.check_layer(packed, scale, bias, *self.matrix)
            return ops.ready(packed, scale, bias, *self.matrix).keep()
        layer = (packed, scale, bias, self.bits, self.matrix[1], self.mode)
        lowbit.check_layer(*layer, zero)
        return lowbit_ops.ready(*layer, relu=False, zero=zero).keep()

    def _apply(self, fn: Any, recurse: bool = True) -> "PackedLinear":
        super()._apply(fn, recurse)
        self.ready = None  # it would keep memory that the tensors have left
        return self

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"ready": None}


class PackedConv2d(Packed):
    """nn.Conv2d from codes (out, in / groups, kh, kw) int8; scale groups run along the flattened row.

    `like` gives stride, padding, dilation, groups and padding mode. One group of scales and zeros as padding, alike on
    both sides (`convolves`), are what `lowbit_conv2d` takes; there the output is channels last in memory if the input
    is. Ternary codes in mode "exact" may do without: they are then kept as words, also those of a float64 scale, and
    the weight is decoded in each call for torch's convolution.
    """

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        like: nn.Conv2d,
        mode: str = "exact",
        bits: int = 2,
    ) -> None:
        even = convolves(like, scale)
        if not even and (mode, bits) != ("exact", 2):
            raise ValueError(
                f"{bits}-bit codes in mode {mode!r} convolve with one group of scales and zeros as padding, alike on "
                f"both sides, found {tuple(scale.shape)} and padding {like.padding!r} of {like.padding_mode}"
            )
        super().__init__(codes, scale, bias, mode, bits, words=not even or scale.dtype == torch.float64)
        self.stride, self.dilation, self.groups = like.stride, like.dilation, like.groups
        self.padding, self.padding_mode = like.padding, like.padding_mode
        self.outer_padding = tuple(like._reversed_padding_repeated_twice)  # as F.pad wants it

    def encode(self, codes: Tensor) -> Tensor:
        return super().encode(codes) if self.words else lowbit.pack_kernel(codes, self.bits)

    def columns(self) -> int:
        return lowbit.kernel_columns(self.weight_shape[1], list(self.weight_shape[2:]))

    def decode(self) -> Tensor:
        flat = lowbit_ops.lowbit_dense(self.packed, self.scale, self.bits, self.columns())
        return lowbit.kernel_view(flat, self.weight_shape[1], list(self.weight_shape[2:]))

    def sides(self) -> list[int]:
        """Padding above and below, left and right, where `convolves`."""
        left, _, above, _ = self.outer_padding
        return [above, left]

    def forward(self, x: Tensor) -> Tensor:
        if self.words:
            return self.decoded(x)
        window = (list(self.weight_shape[2:]), list(self.stride), self.sides(), list(self.dilation), self.groups)
        batch = x if x.dim() == 4 else x[None]
        if batch.dim() != 4 or batch.shape[1] != self.weight_shape[1] * self.groups:
            wanted = f"(n, {self.weight_shape[1] * self.groups}, height, width)"
            raise ValueError(f"x must have the shape {wanted}, found {tuple(x.shape)}")
        y = lowbit_ops.lowbit_conv2d(batch, self.packed, self.scale, self.bias, self.bits, *window, self.mode)
        if batch.is_contiguous() and not batch.is_contiguous(memory_format=torch.channels_last):
            y = y.contiguous()  # as nn.Conv2d would: what follows may rely on it
        return y if x.dim() == 4 else y[0]

    def decoded(self, x: Tensor) -> Tensor:
        """By torch's convolution."""
        padding = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self.outer_padding, mode=self.padding_mode), (0, 0)
        dtype = reference.sum_dtype(x.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        y = F.conv2d(x.to(dtype), self.weight.to(dtype), bias, self.stride, padding, self.dilation, self.groups)
        return y.to(x.dtype)


def pack_model(net: nn.Module, packed: Mapping[str, Any], mode: str = "exact") -> nn.Module:
    """A deep copy of `net` whose low-bit nn.Linear and nn.Conv2d layers run from packed codes.

    packed  parameter name -> compressed tensor, `robustq.core.packed.Quantized` or alike. Those with codes (int8, the
            weight's shape), scale (1 or rows, groups) and levels 1 (two bits) to 7 (four) replace the layer at
            '<name>.weight'; all others, and layers with hooks or of another class, stay as they are in `net`, which
            holds the dequantized weights.
    mode    "exact": outputs equal those of `net` up to the rounding of float32 sums (in float64: of the scale of 4-bit
            codes to float32). "accurate" and "int8" round the activations (packed.py). Of the convolutions that are
            not covered (`convolves`), ternary ones are in mode "exact" and 4-bit ones stay as they are in any mode.

    ValueError where an entry names no parameter of `net` or has another shape.
    """
    lowbit.check_mode(mode)
    result = copy.deepcopy(net)
    parameters = dict(result.named_parameters(remove_duplicate=False))
    new: dict[int, nn.Module] = {}
    for name, tensor in packed.items():
        levels = getattr(tensor, "levels", None)
        if levels is None or levels > lowbit.HIGHEST[4]:
            continue
        if name not in parameters:
            known = ", ".join(key for key in parameters if key.endswith("weight"))
            raise ValueError(f"the network has no parameter {name!r}; it has {known or 'no weights'}")
        if parameters[name].shape != tensor.codes.shape:
            found, wanted = tuple(tensor.codes.shape), tuple(parameters[name].shape)
            raise ValueError(f"the codes of {name!r} have shape {found}, but the network's weight has {wanted}")
        owner, _, leaf = name.rpartition(".")
        layer = result.get_submodule(owner)
        if leaf != "weight" or not replaceable(layer) or not fits(tensor):
            continue
        if (made := packed_layer(layer, tensor, mode)) is not None:
            new[id(layer)] = made
    for parent in list(result.modules()):
        for key, child in parent._modules.items():
            if id(child) in new:
                parent._modules[key] = new[id(child)]
    return new.get(id(result), result)


def replaceable(layer: nn.Module) -> bool:
    """A plain linear or convolution layer whose forward is all that happens (a hook may rewrite the weight)."""
    return type(layer) in (nn.Linear, nn.Conv2d) and not watched(layer)


def fits(tensor: Any) -> bool:
    """One scale a layer or some for each row; groups that run across rows have no packed form."""
    rows, groups = tensor.scale.shape
    return rows == tensor.codes.shape[0] or groups == 1


def convolves(layer: nn.Conv2d, scale: Tensor) -> bool:
    """Whether `lowbit_conv2d` covers this convolution."""
    left, right, above, below = layer._reversed_padding_repeated_twice
    even = layer.padding_mode == "zeros" and left == right and above == below
    return even and scale.dim() == 2 and scale.shape[1] == 1


def packed_layer(layer: nn.Module, tensor: Any, mode: str) -> nn.Module | None:
    """The packed twin of a linear or convolution layer, on its device, in its dtype; None where there is none."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)  # `replaceable` has seen to it
    weight = layer.weight
    codes, scale = tensor.codes.to(weight.device), tensor.scale.to(weight.device, reference.sum_dtype(weight.dtype))
    bits = 2 if tensor.levels == 1 else 4
    if isinstance(layer, nn.Linear):
        made: nn.Module = PackedLinear(codes, scale, layer.bias, mode, bits)
    else:
        if not convolves(layer, scale):
            if bits != 2:
                return None
            mode = "exact"
        made = PackedConv2d(codes, scale, layer.bias, like=layer, mode=mode, bits=bits)
    return made.train(layer.training)
