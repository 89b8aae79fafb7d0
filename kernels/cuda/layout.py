"""Packed weights in the order in which the tensor cores take them: the formats that small.cu and gemm.cu describe.

A tile is 16 outputs x 128 columns. Lane 4 g + t of a warp holds the codes of outputs g and g + 8 (h = 0, 1) at columns
32 s + 16 r + 4 t + j, for s = 0 ... 3, r = 0, 1, j = 0 ... 3: 64 codes in 4 words of two bits or 8 words of four.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

OUTPUTS, TILE = 16, 128
# Tiles whose products an int32 holds: 128 columns of at most 128 * 127 each.
MOST_TILES = (2**31 - 1) // (TILE * 128 * 127)


@dataclass(frozen=True)
class Fragments:
    """A weight (outputs, columns) in fragment order.

    words (tiles, 32, 4 or 8) int32 of `bits` 2 or 4; of a bitmap (tiles, 32, 2), its signs (n,) int32, and sign_start
    (tiles,) int64, the number of signs before each tile. Where tiles without a code are left out, tile_start
    (ceil(outputs / 16) + 1,) and tile_index (tiles there,) int32 say which are there.
    scale (outputs, groups) float32; `group` tiles share one. zero, of the same kind, if there are zero points: the
    weight is (code - zero) * scale.
    """

    words: Tensor
    scale: Tensor
    bits: int
    outputs: int
    columns: int
    group: int
    signs: Tensor | None = None
    sign_start: Tensor | None = None
    tile_start: Tensor | None = None
    tile_index: Tensor | None = None
    zero: Tensor | None = None

    @property
    def tiles(self) -> int:
        """Tiles along the columns."""
        return -(-self.columns // TILE)


def fragments(
    codes: Tensor,
    scale: Tensor,
    bits: int,
    *,
    listed: bool = False,
    bitmap: bool = False,
    zero: Tensor | None = None,
) -> Fragments:
    """codes (out, in) int8 in -1 ... 1 (bits 2) or -7 ... 7 (bits 4), scale (groups, out) -> their fragments.

    With zero points, (groups, out), codes may have all values of so many bits, from -2^(bits - 1) on.

    Groups of columns must be whole tiles, unless there is one (`whole_groups`). listed: without the tiles that hold
    no code; bitmap: a bit for each code and a sign for each that is not zero (bits 2).
    """
    out, columns = codes.shape
    lanes = by_lane(codes)
    if zero is not None and (listed or bitmap):
        raise ValueError("sparse weights have no zero points: what is not there is zero")
    most = MOST_TILES if zero is None else MOST_TILES // 2  # the sum of the activations has to fit too
    per_output, group = spread_groups(scale, columns, most)
    points = None if zero is None else spread_groups(zero, columns, most)[0]
    facts = {"scale": per_output, "zero": points, "bits": bits, "outputs": out, "columns": columns, "group": group}
    start = index = None
    if listed:
        present = (lanes != 0).flatten(2).any(-1)
        lanes = lanes[present]
        index = present.nonzero()[:, 1].int()
        start = F.pad(present.sum(1).cumsum(0), (1, 0)).int()
    else:
        lanes = lanes.flatten(0, 1)
    if not bitmap:
        return Fragments(words=field_words(lanes, bits), tile_start=start, tile_index=index, **facts)
    words, signs, sign_start = bitmap_words(lanes)
    return Fragments(words=words, signs=signs, sign_start=sign_start, tile_start=start, tile_index=index, **facts)


def by_lane(codes: Tensor) -> Tensor:
    """codes (out, in) -> (blocks, tiles, lane 32, s 4, r 2, h 2, j 4), padded with zeros."""
    padded = F.pad(codes, (0, -codes.shape[1] % TILE, 0, -codes.shape[0] % OUTPUTS))
    parts = padded.view(padded.shape[0] // OUTPUTS, 2, 8, padded.shape[1] // TILE, 4, 2, 4, 4)  # b h g tile s r t j
    return parts.permute(0, 3, 2, 6, 4, 5, 1, 7).reshape(parts.shape[0], parts.shape[3], 32, 4, 2, 2, 4)


def field_words(lanes: Tensor, bits: int) -> Tensor:
    """(tiles, 32, s, r, h, j) -> (tiles, 32, 2 * bits) int32; the first field in the highest bits of every byte."""
    # A word holds one step of two-bit codes, fields h + 2 r, or half a step of four-bit codes, fields h.
    fields = (lanes.flatten(3, 4) if bits == 2 else lanes.flatten(2, 3)).long() & (2**bits - 1)
    field_shift = 8 - bits * (1 + torch.arange(8 // bits, device=lanes.device))
    byte_shift = 8 * torch.arange(4, device=lanes.device)
    return signed((fields << (field_shift[:, None] + byte_shift)).sum((-1, -2)))


def bitmap_words(lanes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(tiles, 32, s, r, h, j) -> words (tiles, 32, 2), signs (n,) int32, the signs before each tile (tiles,) int64."""
    flat = lanes.flatten(2)  # bit 16 s + 8 r + 4 h + j
    shifts = torch.arange(32, device=lanes.device)
    words = signed(((flat != 0).long().unflatten(-1, (2, 32)) << shifts).sum(-1))
    counts = (flat != 0).flatten(1).sum(1)
    minus = (flat[flat != 0] < 0).long()
    # A lane reads up to three words from its first sign on.
    minus = F.pad(minus, (0, -len(minus) % 32 + 96)).view(-1, 32)
    return words, signed((minus << shifts).sum(-1)), counts.cumsum(0) - counts


def signed(words: Tensor) -> Tensor:
    """int64 of 32 bits -> the same bits as int32."""
    return torch.where(words >= 2**31, words - 2**32, words).int()


def whole_groups(columns: int, groups: int) -> bool:
    """Whether every group of columns is whole tiles, as the kernels need it."""
    return groups == 1 or -(-columns // groups) % TILE == 0


def spread_groups(scale: Tensor, columns: int, most: int = MOST_TILES) -> tuple[Tensor, int]:
    """scale (groups, out) -> (out, groups), and the tiles of a group, `most` at most; more groups where needed."""
    groups = scale.shape[0]
    if not whole_groups(columns, groups):
        raise ValueError(f"{groups} groups of {columns} columns are not whole tiles of {TILE}")
    tiles = -(-columns // TILE)
    group = tiles if groups == 1 else -(-columns // groups) // TILE
    width = group
    while width > most or group % width:
        width -= 1
    used = -(-tiles // group)
    finer = scale[:used].repeat_interleave(group // width, 0)[: -(-tiles // width)]
    return finer.T.float().contiguous(), width
