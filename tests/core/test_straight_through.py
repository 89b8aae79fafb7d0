"""Straight-through rounding: same values, gradient one, nothing else touched; and attacks on models that round."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustq.core.attacks.apgd import ApgdCe
from robustq.core.attacks.pgd import Pgd
from robustq.core.driver import perturb
from robustq.core.straight_through import StraightThrough, rounds, straight_through

FUNCTIONS: list[Callable[[Tensor], Tensor]] = [
    torch.round, torch.floor, torch.ceil, torch.trunc, torch.fix, torch.sign, torch.sgn,
    Tensor.round, Tensor.floor, Tensor.ceil, Tensor.trunc, Tensor.sign,
    lambda x: torch.round(x, decimals=1), lambda x: torch.round(input=x),
    lambda x: (1 * x).round_(), lambda x: (1 * x).floor_(), lambda x: torch.ceil_(1 * x),
]  # fmt: skip


@pytest.mark.parametrize("function", FUNCTIONS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_values_are_exact_and_gradients_are_one(function: Callable[[Tensor], Tensor], seed: int) -> None:
    x = (100 * torch.randn(20, generator=torch.Generator().manual_seed(seed))).requires_grad_()
    with StraightThrough() as mode:
        value = function(x)
    assert torch.equal(value, function(x))
    assert mode.replaced == 1
    assert torch.equal(torch.autograd.grad(value.sum(), x)[0], torch.ones(20))


def test_outside_everything_is_as_it_was() -> None:
    x = torch.tensor([0.4], requires_grad=True)
    straight_through(torch.round)(x)
    assert torch.autograd.grad(x.round().sum(), x)[0].item() == 0.0


def test_whole_numbers_and_other_functions_are_left_alone() -> None:
    x = torch.tensor([-1.5, 1.5], requires_grad=True)
    with StraightThrough() as mode:
        assert torch.tensor([-3, 4]).sign().tolist() == [-1, 1]
        relu = torch.relu(x)
    assert mode.replaced == 0
    assert torch.autograd.grad(relu.sum(), x)[0].tolist() == [0.0, 1.0]


class Rounded(nn.Module):
    """A linear classifier behind activations of a few bits, with plain rounding."""

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        weight = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
        self.weight = nn.Parameter(weight - weight.mean(1, keepdim=True))

    def forward(self, x: Tensor) -> Tensor:
        seen = (x * self.levels).round() / self.levels if self.levels else x
        return seen.flatten(1) @ self.weight.T


def data() -> tuple[Tensor, Tensor]:
    x = torch.rand(60, 2, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, Rounded(255)(x).argmax(1)


def test_it_is_known_whether_a_model_rounds() -> None:
    x = data()[0][:1]
    assert rounds(Rounded(7), x)
    assert not rounds(Rounded(0), x)


@pytest.mark.parametrize("attack", [Pgd(eps=0.05, steps=10), ApgdCe(eps=0.05, steps=10)])
def test_rounding_hides_no_adversarial(attack: Pgd | ApgdCe) -> None:
    (x, y), fine = data(), Rounded(255)
    plain, found = perturb(attack, Rounded(0), x, y), perturb(attack, fine, x, y)
    assert (plain.through_rounding, found.through_rounding) == (False, True)
    assert found.zero_gradient == found.clean_correct.sum() == 60
    assert 5 < plain.robust.sum() < 55
    assert abs(int(found.robust.sum()) - int(plain.robust.sum())) <= 3  # rounding moves the boundary a little
    with torch.no_grad():
        assert torch.equal(fine(found.adversarial).argmax(1) != y, found.fooled)


def test_a_gradient_that_something_else_hides_is_left_to_the_warning() -> None:
    x, y = data()
    found = perturb(Pgd(eps=0.05, steps=3), lambda z: Rounded(0)((z > 0.5).float()), x, y, predictions=y)
    assert not found.through_rounding
    assert found.zero_gradient == 60
    assert found.backwards <= 3 * 60


def test_progress_never_falls_although_the_attack_starts_over() -> None:
    told: list[tuple[int, int]] = []
    perturb(Pgd(eps=0.05, steps=5), Rounded(7), *data(), progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1][0] == told[-1][1]


class Dead(torch.autograd.Function):
    """Few levels, without a gradient."""

    @staticmethod
    def forward(ctx: object, x: Tensor) -> Tensor:
        return torch.div(torch.bitwise_not(-(x * 15).int() - 1), 15)

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return torch.zeros_like(grads[0])


class Own(Dead):
    """The same with a gradient of its own."""

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        return 3 * grads[0]


QUANTIZED: list[Callable[[Tensor], Tensor]] = [
    Dead.apply,
    lambda x: (x * 127).round().clamp(-128, 127).to(torch.int8).float() / 127,
    lambda x: (x * 127).int() / 127.0,
    lambda x: ((x * 100).round().to(torch.int32) + 3).clamp(0, 255).sub(3).to(torch.float32) / 100,
    lambda x: torch.quantize_per_tensor(x, 0.01, 0, torch.quint8).dequantize(),
    lambda x: torch.fake_quantize_per_tensor_affine(x, 0.01, 0, 0, 255),
    lambda x: torch.fake_quantize_per_channel_affine(x, torch.full((2,), 0.01), torch.zeros(2), 1, 0, 255),
]


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("function", QUANTIZED)
def test_quantizers_of_all_kinds_pass_their_gradient(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.rand(4, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    value = straight_through(lambda z: function(z) @ weight)(x)
    assert torch.equal(value, function(x) @ weight)
    (grad,) = torch.autograd.grad(value.sum(), x)
    assert torch.allclose(grad, weight.sum(1).expand_as(x), rtol=1e-5)


def test_a_function_without_a_gradient_counts_as_rounding() -> None:
    x = torch.rand(1, 2)
    weight = torch.randn(2, 3, generator=torch.Generator().manual_seed(1))
    assert rounds(lambda z: Dead.apply(z) @ weight, x)
    assert not rounds(lambda z: Own.apply(z) @ weight, x)
    grown = straight_through(lambda z: Own.apply(z) @ weight)(x.requires_grad_())
    assert torch.allclose(torch.autograd.grad(grown.sum(), x)[0], 3 * weight.sum(1))
