"""Rounding that cancels: codes next to the nearest ones, chosen so that the errors of a kernel or channel add up to 0.

Inputs of a layer are mostly of one sign (after a ReLU) and alike within a kernel, so it is the sum of the errors that
shifts the output, more than their squares. Follows SQuant (Guo et al. 2022, arXiv 2202.07471): flip the codes that were
closest to rounding the other way, first within each kernel, then within each output channel.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..packed import Quantized


@torch.no_grad()
def balanced(w: Tensor, nearest: Quantized) -> Quantized:
    """w (out, ...) and its projection -> the same scales, codes at most 2 steps away (one for each of the two passes).

    The errors of each kernel, then of each channel, sum to about half a scale at most where enough codes can move.
    Weights that are exactly a code times the scale, such as pruned ones, stay. Binary codes are given back as they are:
    they have no code next to them.
    """
    if nearest.binary:
        return nearest
    scale = replace(nearest, codes=torch.ones_like(nearest.codes)).dense()
    codes = nearest.codes.float()
    for axes in (2, 1) if w.ndim > 2 else (1,):
        rows = (-1, math.prod(w.shape[axes:]))
        codes = _flip(w.float().reshape(rows), codes.reshape(rows), scale.reshape(rows), nearest.levels)
    return replace(nearest, codes=codes.to(torch.int8).reshape(w.shape))


def _flip(w: Tensor, codes: Tensor, scale: Tensor, levels: int) -> Tensor:
    """One pass over rows (rows, n): codes move by 1 towards the row's missing sum, those nearest to moving first."""
    missing = (w - codes * scale).sum(1, keepdim=True)
    direction = missing.sign()
    gain = (w / torch.where(scale > 0, scale, 1.0) - codes) * direction * (scale > 0)
    gain = torch.where((codes + direction).abs() <= levels, gain, 0.0)
    order = gain.argsort(dim=1, descending=True, stable=True)
    moved = scale.gather(1, order)
    # The last code to move is the one that brings the sum nearest to what is missing.
    wanted = moved.cumsum(1) - moved / 2 <= missing.abs()
    chosen = torch.zeros_like(wanted).scatter(1, order, wanted) & (gain > 0)
    return codes + direction * chosen
