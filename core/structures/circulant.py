"""Block-circulant weights (CirCNN): each block x block tile is given by its first column.

A weight (out, in, ...) is cut, at each position of its kernel, into ceil(out/b) x ceil(in/b) tiles with
C[r, s] = c[(r - s) mod b]. Tiles at the lower and right edge are cropped; what is cropped is no weight.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import packed
from ..errors import OptionError
from ..option import option
from ..packed import Packed, half_float
from ..quantizers.binary_relax import straight_through
from ..session import Compressor, Session, Weights


def expand(vectors: Tensor, full_shape: tuple[int, ...]) -> Tensor:
    """vectors (positions, p, q, b) -> dense weight of full_shape (out, in, ...), the same dtype, differentiable."""
    out, inputs = full_shape[:2]
    flat = vectors.reshape(vectors.shape[0], -1)[:, _places(out, inputs, vectors.shape[-1], vectors.device)]
    return flat.movedim(0, -1).reshape(full_shape)


def project(w: Tensor, block: int) -> tuple[Tensor, float]:
    """w (out, in, ...) -> vectors (positions, p, q, block) float32, retained energy ||P(w)||^2 / ||w||^2 in [0, 1].

    The Euclidean projection: the mean along each wrapped diagonal of each tile, over the entries that exist (those a
    tile at the edge has beyond the matrix do not count, and a diagonal without entries gives 0). Differentiable in w.
    Raises OptionError if block exceeds the smaller of out and in.
    """
    out, inputs = w.shape[:2]
    if not 1 <= block <= min(out, inputs):
        raise OptionError(
            f"a block of {block} does not fit a weight of {out} outputs and {inputs} inputs.",
            f"Give a block of 1 to {min(out, inputs)}.",
        )
    places = _places(out, inputs, block, w.device).flatten()
    p, q = math.ceil(out / block), math.ceil(inputs / block)
    matrices = w.double().reshape(out * inputs, -1).T  # (positions, out * in)
    sums = matrices.new_zeros(matrices.shape[0], p * q * block).index_add(1, places, matrices)
    count = torch.bincount(places, minlength=p * q * block)
    mean = sums / count.clamp(min=1)
    energy, kept = float(matrices.detach().square().sum()), float((mean.detach().square() * count).sum())
    return mean.reshape(-1, p, q, block).float(), min(kept / energy, 1.0) if energy else 1.0


@dataclass(frozen=True, kw_only=True)
class Circulant(Compressor):
    """Block-circulant weights: block times fewer of them; a layer with fewer inputs or outputs is left alone."""

    SOURCE = "Ding et al. 2017 (arXiv 1708.08917), CirCNN"
    block: int = option(4, "side of a circulant block", unit="weights", low=2)

    def project(self, weights: Weights) -> dict[str, Packed]:
        return {
            name: packed.Circulant(half_float(project(w, self.block)[0]), tuple(w.shape))
            for name, w in weights.items()
            if self.fits(w)
        }

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return CirculantSession(self, tuple(name for name, w in weights.items() if self.fits(w)))

    def fits(self, w: Tensor) -> bool:
        """Whether a weight has a block's worth of inputs and outputs."""
        return self.block <= min(w.shape[:2])


class CirculantSession(Session):
    """Trains through the projection: a diagonal's gradient is shared by the entries on it."""

    def __init__(self, options: Circulant, names: tuple[str, ...]) -> None:
        self.options, self.names = options, names

    def view(self, weights: Weights) -> dict[str, Tensor]:
        out = dict(weights)
        for name in self.names:
            vectors, _ = project(weights[name], self.options.block)
            # Rounded as the file rounds them; a cast inside the graph would send the gradient through float16.
            stored = straight_through(vectors, half_float(vectors.detach()).float())
            out[name] = expand(stored, tuple(weights[name].shape))
        return out

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return self.options.project({name: weights[name].detach() for name in self.names})


def _places(out: int, inputs: int, block: int, device: torch.device) -> Tensor:
    """(out, in) int64: where in the flattened (p, q, block) vectors each entry of the matrix lies."""
    r, s = torch.arange(out, device=device)[:, None], torch.arange(inputs, device=device)[None, :]
    tile = r // block * math.ceil(inputs / block) + s // block
    return tile * block + (r - s) % block
