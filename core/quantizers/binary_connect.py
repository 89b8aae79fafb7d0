"""BinaryConnect: Binary-Relax without the relaxed phase."""

from dataclasses import dataclass

from ..option import option
from ..session import Compressor, Session, Weights
from .binary_relax import BinaryRelax, BinaryRelaxSession


@dataclass(frozen=True, kw_only=True)
class BinaryConnect(Compressor):
    """Quantized weights from the first step, the gradient applied to float ones: the baseline of Binary-Relax."""

    SOURCE = "Courbariaux et al. 2015 (arXiv 1511.00363), algorithm 1"
    bits: int = option(
        1, "bits a weight: 1 binary, 2 ternary, b > 2: 2^b - 1 symmetric levels", choices=(1, 2, 3, 4, 8)
    )
    group: str = option("channel", "what shares a scale: channel, layer or a number of weights")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return BinaryRelaxSession(BinaryRelax(bits=self.bits, group=self.group, switch=0.0), tuple(weights))
