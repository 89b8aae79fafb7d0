"""Magnitude pruning: the weights, or output channels, that are smallest become exactly zero."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..errors import OptionError
from ..option import option
from ..packed import Packed
from ..session import Compressor, Session, Weights
from . import mask


@dataclass(frozen=True, kw_only=True)
class Magnitude(Compressor):
    """Set the weights (or output channels) of smallest magnitude to zero, exactly as many as asked for."""

    SOURCE = "Han et al. 2015 (arXiv 1506.02626)"
    sparsity: float = option(0.5, "share of the weights (channels) that become zero, between 0 and 1")
    scope: str = option("global", "compare within each layer or across all", choices=("global", "layer"))
    granularity: str = option("weight", "what is dropped", choices=("weight", "channel"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise OptionError(f"Magnitude: sparsity is {self.sparsity!r}, not between 0 and 1.", "Half of all is 0.5.")

    def masks(self, weights: Weights) -> dict[str, Tensor]:
        """What is kept: a bool tensor of each weight's shape."""
        choose = mask.by_channel if self.granularity == "channel" else mask.by_weight
        return choose(weights, self.sparsity, self.scope) if weights else {}

    def project(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks(weights))

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return MaskSession(self.masks(weights))


class MaskSession(Session):
    """Trains with the mask of the first step: what was dropped stays zero."""

    def __init__(self, masks: dict[str, Tensor]) -> None:
        self.masks = masks

    def view(self, weights: Weights) -> dict[str, Tensor]:
        return mask.shown(weights, self.masks)

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks)

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.masks = dict(state["masks"])
