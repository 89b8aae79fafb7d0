"""Removal of dead channels from a finished model, as a step of a recipe."""

from dataclasses import dataclass

from ..errors import OptionError
from ..option import option
from ..packed import Packed
from ..session import Compressor, Session, Weights


@dataclass(frozen=True, kw_only=True)
class Shrink(Compressor):
    """Cut zero channels out of the network: smaller layers, the same answers, a faster model.

    It works on the finished model, whatever its place among the methods. Channels are removed that are constant for
    every image, or that nothing reads; what they contributed is folded into biases and batch norms. Where a convolution
    with zero padding reads constants other than zero, one or two such channels stay for all of them, since no bias
    does the same at the border (with quantized weights all of them stay). Layers that robustq does not know, and those
    that draw noise (pni, rsr), keep their channels, and the report names them. The small model is compared with the
    large one before it is written.
    """

    SOURCE = "exact: no weights are changed but by constants"
    input: tuple[int, ...] = option((), "channels, height and width of an image; found by trial where not given")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.input and (len(self.input) != 3 or min(self.input) < 1):
            raise OptionError(f"Shrink: input is {list(self.input)}.", "Write channels,height,width: input=3,32,32.")

    def project(self, weights: Weights) -> dict[str, Packed]:
        """Nothing: tensors alone do not tell which channels belong together (see `shrinking`)."""
        return {}

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return Session()
