"""Plain safetensors: dense weights without pickle, for any program that reads the format."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import safetensors.torch as st
from torch import nn

from ..option import option
from . import dense
from .exporter import Exporter

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint


@dataclass(frozen=True, kw_only=True)
class Safetensors(Exporter):
    """Dense weights in a safetensors file that needs no robustq to read. Bits are compared."""

    SOURCE = "safetensors"
    suffix: ClassVar[str] = ".safetensors"
    half: bool = option(False, "store floats as float16 (those beyond its range stay float32)")

    def encode(self, checkpoint: "Checkpoint", classifier: nn.Module | None = None) -> tuple[bytes, dict[str, Any]]:
        # The format has no shared tensors: a tied one is written under each of its names, so that every name loads.
        tensors = {n: t.contiguous().clone() for n, t in dense.weights(checkpoint, self.half).items()}
        return st.save(tensors, {"format": "pt"}), {}

    def verify(self, data: bytes, checkpoint: "Checkpoint", classifier: nn.Module | None = None) -> float:
        """The largest |stored - dense weight|: 0 unless `half`."""
        return dense.compare(st.load(data), dense.weights(checkpoint, self.half), checkpoint.dense())
