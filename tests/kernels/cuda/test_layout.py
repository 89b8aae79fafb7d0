"""Fragment order: golden words, the way back, and groups."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustq.kernels.cuda import layout
from robustq.kernels.cuda.layout import OUTPUTS, TILE, fragments


def read_back(weight: layout.Fragments) -> Tensor:
    """The codes of a weight without sparsity, one at a time, from the description in small.cu."""
    blocks = -(-weight.outputs // OUTPUTS)
    codes = torch.zeros(blocks * OUTPUTS, weight.tiles * TILE, dtype=torch.int8)
    words = weight.words.view(blocks, weight.tiles, 32, -1).tolist()
    for block in range(blocks):
        for tile in range(weight.tiles):
            for lane in range(32):
                for place in range(64):
                    s, r, h, j = place // 16, place // 8 % 2, place // 4 % 2, place % 4
                    if weight.bits == 2:
                        raw = words[block][tile][lane][s] >> (8 * j + 6 - 2 * (h + 2 * r)) & 3
                    else:
                        raw = words[block][tile][lane][2 * s + r] >> (8 * j + 4 - 4 * h) & 15
                    code = raw - (1 << weight.bits) if raw >> (weight.bits - 1) else raw
                    codes[16 * block + lane // 4 + 8 * h, 128 * tile + 32 * s + 16 * r + 4 * (lane % 4) + j] = code
    return codes[: weight.outputs, : weight.columns]


@pytest.mark.parametrize(("bits", "highest"), [(2, 1), (4, 7)])
def test_every_code_is_where_the_description_says(bits: int, highest: int) -> None:
    torch.manual_seed(0)
    codes = torch.randint(-highest, highest + 1, (20, 150), dtype=torch.int8)
    assert torch.equal(read_back(fragments(codes, torch.ones(1, 20), bits)), codes)


def test_the_first_code_is_in_the_highest_bits_of_the_first_byte() -> None:
    codes = torch.zeros(16, 128, dtype=torch.int8)
    codes[0, 0], codes[8, 1] = 1, -1
    words = fragments(codes, torch.ones(1, 16), 2).words
    assert words[0, 0, 0] == (0b01 << 6) + (0b11 << (8 + 4))
    assert int((words != 0).sum()) == 1


@given(st.integers(1, 40), st.integers(1, 300), st.integers(0, 100))
def test_a_bitmap_has_one_bit_a_code_and_one_sign_a_code_that_is_not_zero(out: int, columns: int, seed: int) -> None:
    codes = torch.randint(-1, 2, (out, columns), generator=torch.Generator().manual_seed(seed)).to(torch.int8)
    weight = fragments(codes, torch.ones(1, out), 2, bitmap=True)
    assert weight.signs is not None
    bits = sum(bin(word & 0xFFFFFFFF).count("1") for word in weight.words.flatten().tolist())
    minus = sum(bin(word & 0xFFFFFFFF).count("1") for word in weight.signs.tolist())
    assert bits == int((codes != 0).sum())
    assert minus == int((codes < 0).sum())


def test_tiles_without_a_code_are_left_out() -> None:
    codes = torch.zeros(32, 384, dtype=torch.int8)
    codes[3, 200], codes[20, 5], codes[20, 300] = 1, -1, 1
    weight = fragments(codes, torch.ones(1, 32), 2, listed=True)
    assert weight.tile_start is not None
    assert weight.tile_index is not None
    assert weight.tile_start.tolist() == [0, 1, 3]
    assert weight.tile_index.tolist() == [1, 0, 2]
    assert len(weight.words) == 3


def test_groups_are_whole_tiles_and_split_before_an_int32_overflows() -> None:
    scale, group = layout.spread_groups(torch.tensor([[1.0], [2.0]]), 512)
    assert (scale.tolist(), group) == ([[1.0, 2.0]], 2)
    with pytest.raises(ValueError, match="not whole tiles of 128"):
        layout.spread_groups(torch.ones(3, 1), 192)
    scale, group = layout.spread_groups(torch.ones(1, 1), TILE * 4 * layout.MOST_TILES)
    assert group <= layout.MOST_TILES
    assert scale.shape == (1, -(-4 * layout.MOST_TILES // group))
