"""A plain PyTorch state dict: dense weights, which any program that has the class loads."""

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..option import option
from . import dense
from .exporter import Exporter

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class StateDict(Exporter):
    """Dense weights as torch.save writes a state dict; loads with weights_only=True. Bits are compared."""

    SOURCE = "PyTorch serialization"
    suffix: ClassVar[str] = ".pt"
    half: bool = option(False, "store floats as float16 (those beyond its range stay float32)")

    def encode(self, checkpoint: "Checkpoint", classifier: nn.Module | None = None) -> tuple[bytes, dict[str, Any]]:
        buffer = io.BytesIO()
        torch.save({n: _own(t) for n, t in dense.weights(checkpoint, self.half).items()}, buffer)
        return buffer.getvalue(), {}

    def verify(self, data: bytes, checkpoint: "Checkpoint", classifier: nn.Module | None = None) -> float:
        """The largest |stored - dense weight|: 0 unless `half`."""
        read = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return dense.compare(read, dense.weights(checkpoint, self.half), checkpoint.dense())


def _own(tensor: Tensor) -> Tensor:
    """The tensor, copied if it is a part of a larger storage: torch.save would store all of that."""
    tensor = tensor.contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
