"""What the state-dict and safetensors exporters share: the plain dense weights, and their comparison."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import VerificationError
from ..packed import half_float

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


def weights(checkpoint: "Checkpoint", half: bool) -> dict[str, Tensor]:
    """Every tensor under its own name, compressed ones as float32; with `half`, floats that fit as float16."""
    dense = checkpoint.dense()
    if not half:
        return dense
    return {name: half_float(t) if t.dtype in (torch.float32, torch.float64) else t for name, t in dense.items()}


def compare(read: Mapping[str, Tensor], written: Mapping[str, Tensor], dense: Mapping[str, Tensor]) -> float:
    """The largest |stored - dense weight|, 0 unless half; VerificationError unless `read` is bit-equal to `written`."""
    if read.keys() != written.keys():
        names = sorted(read.keys() ^ written.keys())
        raise VerificationError(
            f"{len(names)} tensor(s) differ in name between memory and file: {', '.join(names[:5])}."
        )
    for name, tensor in written.items():
        found = read[name]
        if found.dtype != tensor.dtype or found.shape != tensor.shape or not _same_bits(found, tensor):
            raise VerificationError(
                f"{name} reads back as {found.dtype} {list(found.shape)}, not the {tensor.dtype}"
                f" {list(tensor.shape)} that was written, or with other values.",
                "This is a fault of robustq or of the library that writes the format: please report it.",
            )
    floats = [name for name, t in dense.items() if t.is_floating_point() and t.numel()]
    return max((float((read[name].double() - dense[name].double()).abs().max()) for name in floats), default=0.0)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(-1).view(torch.uint8), b.contiguous().view(-1).view(torch.uint8))
