"""How small a model is: bytes on disk, bits a weight, zeros."""

import math
from typing import Any

from torch import Tensor

from . import targets
from .checkpoint import Checkpoint, dumps
from .packed import Half

EMPTY = 1e-15  # an output channel of smaller l2 norm counts as zero (Li, Wang, Xin 2021)


def measure(checkpoint: Checkpoint) -> dict[str, Any]:
    """The size of a model.

    bytes            of the file it was loaded from, else of the file it would be
    bits_per_weight  of all convolution and linear weights as stored: codes, masks and scales, and the layers kept in
                     floating point; biases, norms and metadata do not count. None if there are no such weights
    sparsity         share of weights that are exactly zero, in the layers that are compressed (in all convolution and
                     linear layers of a model that is not); None if there are none
    channel_sparsity share of output channels (first axis) whose l2 norm is below 1e-15, in the same layers
    kept             names of the layers stored in 16-bit floating point, which do not count for the sparsities
    """
    plain = targets.find(checkpoint.weights, ("none",)).names
    stored = {name: [checkpoint.weights[name]] for name in plain}
    stored |= {name: list(tensor.encode()[1].values()) for name, tensor in checkpoint.packed.items()}
    number = sum(checkpoint.weights[n].numel() for n in plain)
    number += sum(math.prod(tensor.shape) for tensor in checkpoint.packed.values())
    kept = [name for name, tensor in checkpoint.packed.items() if isinstance(tensor, Half)]
    touched = [tensor.dense() for tensor in checkpoint.packed.values() if not isinstance(tensor, Half)]
    layers = touched or [checkpoint.weights[name] for name in plain]
    return {
        "bytes": checkpoint.source.bytes or len(dumps(checkpoint)),
        "bits_per_weight": 8 * sum(map(_bytes, stored.values())) / number if number else None,
        "sparsity": _share(sum(int((w == 0).sum()) for w in layers), sum(w.numel() for w in layers)),
        "channel_sparsity": _share(sum(map(_empty_channels, layers)), sum(w.shape[0] for w in layers)),
        "kept": kept,
    }


def _empty_channels(w: Tensor) -> int:
    return int((w.double().flatten(1).norm(dim=1) < EMPTY).sum())


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _bytes(parts: list[Tensor]) -> int:
    return sum(part.numel() * part.element_size() for part in parts)
