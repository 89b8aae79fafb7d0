"""Linear and convolution layers that run from packed ternary weights, and `pack_model`, which puts them into a network.

Both hold the codes at two bits (layout in reference.py) and the scale; no dense weight is kept between calls.
Mode "exact", the only one so far, gives the outputs of the dequantized layer up to the rounding of float32 sums.
"""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import ops, reference

# Up to this many output positions (batch x height x width) a convolution runs from the codes by im2col; beyond, it is
# faster to decode the weight in each call and use torch's own convolution. Measured with AVX-512, one thread, im2col
# against decoding: 512 x 512 x 3 x 3 at 1 position 174 : 958 us, at 16 788 : 1383; 64 x 64 x 3 x 3 at 64 165 : 95.
IM2COL_POSITIONS = 16


class Ternary(nn.Module):
    """A weight of any shape as packed codes of a matrix (rows = first axis), with scale and bias.

    packed int32, buffer; scale float32 (1 or rows, groups), buffer; bias (rows,) parameter or None
    `.to(dtype)` and `.half()` convert scale and bias like any weight; the codes stay as they are.
    """

    packed: Tensor
    scale: Tensor
    bias: nn.Parameter | None

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        rows = codes.shape[0] if codes.dim() else 0
        self.weight_shape = tuple(codes.shape)
        self.matrix = (rows, codes.numel() // max(rows, 1))
        packed = reference.pack(codes.reshape(self.matrix))
        reference.check_packed(packed, *self.matrix)  # refuses a weight without entries
        reference.check_scale(scale, *self.matrix)
        if bias is not None and tuple(bias.shape) != (rows,):
            raise ValueError(f"the bias must have shape ({rows},), found {tuple(bias.shape)}")
        self.register_buffer("packed", packed)
        self.register_buffer("scale", scale.detach().to(reference.sum_dtype(scale.dtype), copy=True))
        own = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.register_parameter("bias", own)

    @property
    def weight(self) -> Tensor:
        """The dense weight these codes stand for, decoded anew at each access: float32 (float64 if the scale is)."""
        return ops.ternary_dense(self.packed, self.scale, *self.matrix).view(self.weight_shape)

    def matmul(self, x: Tensor) -> Tensor:
        return ops.ternary_linear(x, self.packed, self.scale, self.bias, *self.matrix)

    def extra_repr(self) -> str:
        shape = " x ".join(map(str, self.weight_shape))
        return f"ternary {shape}, scale {tuple(self.scale.shape)}, bias={self.bias is not None}"

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = state_dict.get(f"{prefix}packed")
        if found is not None and found.shape == self.packed.shape:  # torch reports the rest
            if found.dtype != torch.int32:
                error_msgs.append(f"{prefix}packed must be int32, found {found.dtype}")
            elif wrong := reference.corrupt(found, *self.matrix):
                error_msgs.append(f"{prefix}packed: {wrong} of {math.prod(self.matrix)} codes hold the bit pattern 10")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


class PackedLinear(Ternary):
    """x (*, in) -> (*, out), from codes (out, in) int8 in {-1, 0, 1}, scale (1 or out, groups) and bias (out,)."""

    def forward(self, x: Tensor) -> Tensor:
        return self.matmul(x)


class PackedConv2d(Ternary):
    """nn.Conv2d from codes (out, in / groups, kh, kw) int8 in {-1, 0, 1}; scale groups run along the flattened row.

    `like` gives stride, padding, dilation, groups and padding mode.
    """

    def __init__(self, codes: Tensor, scale: Tensor, bias: Tensor | None, like: nn.Conv2d) -> None:
        super().__init__(codes, scale, bias)
        self.stride, self.dilation, self.groups = like.stride, like.dilation, like.groups
        self.padding, self.padding_mode = like.padding, like.padding_mode
        self.outer_padding = tuple(like._reversed_padding_repeated_twice)  # as F.pad wants it

    def forward(self, x: Tensor) -> Tensor:
        if self.padding_mode != "zeros":
            return self.dense(F.pad(x, self.outer_padding, mode=self.padding_mode), (0, 0))
        size = self.output_size(x)
        if size is not None and 0 < math.prod(size) * (x.shape[0] if x.dim() == 4 else 1) <= IM2COL_POSITIONS:
            return self.im2col(x, size)
        return self.dense(x, self.padding)

    def output_size(self, x: Tensor) -> tuple[int, int] | None:
        """Height and width of the output, or None where im2col does not apply."""
        if self.groups != 1 or isinstance(self.padding, str) or x.dim() not in (3, 4):
            return None
        if x.shape[-3] != self.weight_shape[1]:
            return None  # torch's convolution words that error best
        sizes = zip(x.shape[-2:], self.weight_shape[2:], self.stride, self.padding, self.dilation, strict=True)
        height, width = (max(0, (n + 2 * p - d * (k - 1) - 1) // s + 1) for n, k, s, p, d in sizes)
        return height, width

    def im2col(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        kernel = (self.weight_shape[2], self.weight_shape[3])
        columns = F.unfold(x, kernel, self.dilation, self.padding, self.stride)  # type: ignore[arg-type]
        return self.matmul(columns.transpose(-1, -2)).transpose(-1, -2).unflatten(-1, size)

    def dense(self, x: Tensor, padding: str | tuple[int, ...]) -> Tensor:
        dtype = reference.sum_dtype(x.dtype)
        bias = None if self.bias is None else self.bias.to(dtype)
        y = F.conv2d(x.to(dtype), self.weight.to(dtype), bias, self.stride, padding, self.dilation, self.groups)
        return y.to(x.dtype)


def pack_model(net: nn.Module, packed: Mapping[str, Any], mode: str = "exact") -> nn.Module:
    """A deep copy of `net` whose ternary nn.Linear and nn.Conv2d layers run from packed codes.

    packed  parameter name -> compressed tensor, `robustq.core.packed.Quantized` or alike. Those with codes (int8, the
            weight's shape), scale (1 or rows, groups) and levels 1 replace the layer at '<name>.weight'; all others,
            and layers with hooks or of another class, stay as they are in `net`, which holds the dequantized weights.
    mode    "exact": outputs equal those of `net` up to the rounding of float32 sums

    ValueError where a ternary entry names no parameter of `net` or has another shape.
    """
    if mode != "exact":
        raise ValueError(f"the mode of a packed model is 'exact', found {mode!r}")
    result = copy.deepcopy(net)
    parameters = dict(result.named_parameters(remove_duplicate=False))
    new: dict[int, nn.Module] = {}
    for name, tensor in packed.items():
        if getattr(tensor, "levels", None) != 1:
            continue
        if name not in parameters:
            known = ", ".join(key for key in parameters if key.endswith("weight"))
            raise ValueError(f"the network has no parameter {name!r}; it has {known or 'no weights'}")
        if parameters[name].shape != tensor.codes.shape:
            found, wanted = tuple(tensor.codes.shape), tuple(parameters[name].shape)
            raise ValueError(f"the codes of {name!r} have shape {found}, but the network's weight has {wanted}")
        owner, _, leaf = name.rpartition(".")
        layer = result.get_submodule(owner)
        if leaf == "weight" and replaceable(layer) and fits(tensor):
            new[id(layer)] = packed_layer(layer, tensor)
    for parent in list(result.modules()):
        for key, child in parent._modules.items():
            if id(child) in new:
                parent._modules[key] = new[id(child)]
    return new.get(id(result), result)


def replaceable(layer: nn.Module) -> bool:
    """A plain linear or convolution layer whose forward is all that happens (a hook may rewrite the weight)."""
    hooks = (layer._forward_pre_hooks, layer._forward_hooks, layer._backward_pre_hooks, layer._backward_hooks)
    return type(layer) in (nn.Linear, nn.Conv2d) and not any(hooks)


def fits(tensor: Any) -> bool:
    """One scale a layer or some for each row; groups that run across rows have no packed form."""
    rows, groups = tensor.scale.shape
    return rows == tensor.codes.shape[0] or groups == 1


def packed_layer(layer: nn.Module, tensor: Any) -> nn.Module:
    """The packed twin of a linear or convolution layer, on its device, in its dtype and mode."""
    assert isinstance(layer, nn.Linear | nn.Conv2d)  # `replaceable` has seen to it
    weight = layer.weight
    codes, scale = tensor.codes.to(weight.device), tensor.scale.to(weight.device, reference.sum_dtype(weight.dtype))
    if isinstance(layer, nn.Linear):
        made: nn.Module = PackedLinear(codes, scale, layer.bias)
    else:
        made = PackedConv2d(codes, scale, layer.bias, like=layer)
    return made.train(layer.training)
