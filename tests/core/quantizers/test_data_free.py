"""The projection method, and rounding whose errors cancel."""

from dataclasses import replace

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.packed import Quantized
from robustq.core.quantizers.balance import balanced
from robustq.core.quantizers.data_free import Projection
from robustq.core.quantizers.projection import quantize


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_without_balance_it_is_the_projection():
    w = weight(6, 5, 3, 3)
    found = Projection(bits=4, balance=False).project({"w": w})["w"]
    assert isinstance(found, Quantized)
    assert torch.equal(found.codes, quantize(w, 4).codes)
    for method in (Projection(ternary="twn"), Projection(bits=4, method="released"), Projection(bits=1)):
        plain = replace(method, balance=False).project({"w": w})["w"]
        assert torch.equal(method.project({"w": w})["w"].dense(), plain.dense())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("group", ["channel", "layer", "16"])
def test_balance_cancels_channel_sums(bits, group):
    w = weight(8, 6, 3, 3) + 0.05
    nearest = quantize(w, bits, group)
    found = balanced(w, nearest)
    assert torch.equal(found.scale, nearest.scale)
    assert int((found.codes - nearest.codes).abs().max()) <= 2
    assert int(found.codes.abs().max()) <= nearest.levels
    before = (w - nearest.dense()).flatten(1).sum(1).abs()
    after = (w - found.dense()).flatten(1).sum(1).abs()
    assert (after <= float(nearest.scale.max()) / 2 + 1e-4).all()
    assert after.sum() < before.sum()
    worse = (w - found.dense()).norm() / (w - nearest.dense()).norm()
    assert 1 <= worse < 1.5


def test_balance_golden():
    # Four entries lie 0.4 above their code: the sum is 1.6 steps short, so two of them rise.
    w = torch.tensor([[1.4, 2.4, 0.4, 1.4, -7.0]])
    nearest = Quantized(torch.tensor([[1, 2, 0, 1, -7]], dtype=torch.int8), torch.ones(1, 1), 7)
    moved = balanced(w, nearest).codes - nearest.codes
    assert moved.sum() == 2
    assert moved[0, 4] == 0
    assert moved.max() == 1


def test_balance_moves_nothing_that_is_in_place_however_much_is_missing():
    nearest = Quantized(torch.tensor([[1, 1, 0, 0, 0]], dtype=torch.int8), torch.ones(1, 1), 1)
    found = balanced(torch.tensor([[5.0, 5.0, 0.0, -0.2, 0.3]]), nearest)
    assert found.codes.tolist() == [[1, 1, 0, 0, 1]]  # clipped, clipped, pruned, wrong side, the one that can move


def test_balance_leaves_exact_weights_and_zeros_alone():
    w = weight(4, 4, 3, 3)
    w[w.abs() < 0.7] = 0
    found = balanced(w, quantize(w, 4))
    assert (found.codes[w == 0] == 0).all()
    again = balanced(found.dense(), found)
    assert torch.equal(again.codes, found.codes)
    zero = balanced(torch.zeros(2, 3), quantize(torch.zeros(2, 3), 2))
    assert zero.dense().tolist() == [[0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": "5"}, "bits is 5"),
        ({"group": "rows"}, "group is 'rows'"),
        ({"ternary": "best"}, "ternary is 'best'"),
        ({"bits": "8", "method": "released"}, "for 4 bits"),
        ({"colour": "red"}, "no option 'colour'"),
    ],
)
def test_refusals_name_the_method(options, said):
    with pytest.raises(OptionError, match=said) as caught:
        registry.create("projection", options, "quantizer")
    assert "projection" in str(caught.value)
