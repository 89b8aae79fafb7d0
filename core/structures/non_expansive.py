"""The regulariser of defensive quantization: layers that do not amplify what an attack or rounding adds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..option import option
from ..session import Compressor, Session, Weights


@dataclass(frozen=True, kw_only=True)
class NonExpansive(Compressor):
    """Add (beta / 2) sum ||W W^T - I||^2 over layers, W (out, rest), or W^T W - I where out is larger.

    The smaller Gram matrix is the one that can be the identity. A term of the loss only: it compresses nothing itself
    and is combined with a quantizer.
    """

    SOURCE = "Lin et al. 2019 (arXiv 1904.08444), defensive quantization"
    beta: float = option(1e-4, "weight of the term", low=0)

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return NonExpansiveSession(self, tuple(weights))


class NonExpansiveSession(Session):
    """No state."""

    def __init__(self, options: NonExpansive, names: tuple[str, ...]) -> None:
        self.options, self.names = options, names

    def penalty(self, weights: Weights) -> Tensor | float:
        if not self.names:
            return 0.0
        return 0.5 * self.options.beta * torch.stack([excess(weights[name]) for name in self.names]).sum()


def excess(weight: Tensor) -> Tensor:
    """weight (out, ...) -> ||G - I||_F^2 of the smaller Gram matrix G; 0 exactly for orthonormal rows (columns)."""
    matrix = weight.flatten(1)
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return (gram - torch.eye(len(gram), device=gram.device)).square().sum()
