"""Quantization without data: each weight goes to its projection on the low-bit set, or just beside it (balance)."""

from dataclasses import dataclass

from torch import Tensor

from ..option import option
from ..packed import Packed, Quantized
from ..session import Compressor, Weights
from .balance import balanced
from .projection import LEVELS, METHODS, RULES, check, quantize


@dataclass(frozen=True, kw_only=True)
class Projection(Compressor):
    """Low-bit weights without data: accurate at 4 bits, often at 3; 1 and 2 bits need training (binary-relax)."""

    SOURCE = "Yin et al. 2018 (arXiv 1801.06313); Guo et al. 2022 (arXiv 2202.07471)"
    bits: int = option(2, "bits a weight: 1 binary, 2 ternary, b > 2: 2^b - 1 symmetric levels", choices=tuple(LEVELS))
    group: str = option("channel", "what shares a scale: channel, layer or a number of weights")
    method: str = option(
        "best",
        "scale above 2 bits: best (exact where cheap, else lloyd from six starts), lloyd, exact; released (4 bits) "
        "repeats the authors' code",
        choices=METHODS,
    )
    ternary: str = option(
        "exact", "rule at 2 bits: exact projection; twn and released repeat older code", choices=RULES
    )

    balance: bool = option(
        True,
        "let rounding errors cancel within kernels and channels (SQuant, arXiv 2202.07471); not for binary, and not "
        "with twn or released, which repeat other code",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.bits, self.group, self.method, self.ternary)

    def project(self, weights: Weights) -> dict[str, Packed]:
        return {name: self._project(w) for name, w in weights.items()}

    def _project(self, w: Tensor) -> Quantized:
        nearest = quantize(w, self.bits, self.group, method=self.method, rule=self.ternary)
        repeats = (self.bits == 2 and self.ternary != "exact") or self.method == "released"
        return balanced(w, nearest) if self.balance and not repeats else nearest
