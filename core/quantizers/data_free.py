"""Quantization without data: each weight is replaced by its projection on the low-bit set."""

from dataclasses import dataclass

from ..option import option
from ..packed import Packed
from ..session import Compressor, Weights
from .projection import LEVELS, METHODS, RULES, check, quantize


@dataclass(frozen=True, kw_only=True)
class Projection(Compressor):
    """The nearest low-bit weights; accurate at 4 bits, and the starting point of training at 1 and 2."""

    SOURCE = "Yin et al. 2018 (arXiv 1801.06313), section 2"
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.bits, self.group, self.method, self.ternary)

    def project(self, weights: Weights) -> dict[str, Packed]:
        return {
            name: quantize(w, self.bits, self.group, method=self.method, rule=self.ternary)
            for name, w in weights.items()
        }
