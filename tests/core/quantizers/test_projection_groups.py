"""`quantize`: scales shared by a layer, a channel or a group of weights, as the packed tensor lays them out."""

import pytest
import torch

from robustq.core.errors import OptionError
from robustq.core.quantizers import projection
from robustq.core.quantizers.projection import quantize


def weight(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("group", ["layer", "channel", "1", "4", "10", 1000])
def test_groups_are_projected_one_by_one(bits, group):
    w = weight(5, 3, 3, 3)
    found = quantize(w, bits, group)
    flat = w.reshape(1 if group == "layer" else 5, -1)
    groups = found.scale.shape[1]
    width = -(-flat.shape[1] // groups)
    dense, expected = found.dense().reshape(flat.shape), []
    for row in flat:
        for part in row.split(width):
            single = quantize(part.reshape(1, -1), bits, "layer")
            expected.append(single.codes.float() * single.scale.float())
    assert found.scale.shape[0] == flat.shape[0]
    assert torch.allclose(dense, torch.cat(expected, 1).reshape(flat.shape), rtol=1e-3)  # 16-bit scales
    if str(group).isdigit():
        assert width <= int(group)


def test_padding_does_not_enter_the_mean():
    w = torch.tensor([[1.0, 1.0, 1.0, 1.0, 3.0, -3.0, 3.0]])  # groups of 4: the second has 3 weights
    for bits in (1, 2):
        assert quantize(w, bits, "4").scale.tolist() == [[1.0, 3.0]]
    assert quantize(w, 2, "4", rule="twn").scale.tolist() == [[1.0, 3.0]]
    assert quantize(w, 2, "4", rule="released").scale.tolist() == [[1.0, 3.0]]


def test_scale_of_tiny_weights_does_not_vanish():
    found = quantize(weight(4, 9) * 1e-9, 2)
    assert found.scale.dtype == torch.float32
    assert (found.scale > 0).all()


def test_start_is_taken_in_the_layout_of_a_result():
    w = weight(6, 4, 3, 3)
    for group in ("layer", "channel", "7"):
        first = quantize(w, 4, group, "lloyd")
        again = quantize(w, 4, group, start=first.scale)
        assert again.scale.shape == first.scale.shape
        assert (w - again.dense()).norm() <= (w - first.dense()).norm() * 1.001


def test_no_gradient_and_no_change_of_the_input():
    w = weight(3, 8).requires_grad_()
    before = w.detach().clone()
    assert not quantize(w, 4).dense().requires_grad
    assert torch.equal(before, w)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bits": 5}, "bits is 5"),
        ({"bits": 2, "group": "0"}, "group is '0'"),
        ({"bits": 2, "group": "chanel"}, "group is 'chanel'"),
        ({"bits": 4, "method": "newton"}, "method is 'newton'"),
        ({"bits": 8, "method": "released"}, "for 4 bits, not 8"),
        ({"bits": 2, "rule": "old"}, "ternary rule is 'old'"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(OptionError, match=said):
        quantize(weight(2, 4), **options)


def test_released_methods_are_reachable():
    w = weight(3, 50)
    codes, _ = projection.released4(w)
    assert torch.equal(quantize(w, 4, method="released").codes, codes)
    codes, _ = projection.twn(w)
    assert torch.equal(quantize(w, 2, rule="twn").codes, codes)
