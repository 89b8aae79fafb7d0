"""Square attack: no gradient, squares by hand, the optimum of a linear model, independence of batches, refusals."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.attack import begin
from robustq.core.attacks.norms import NORMS
from robustq.core.attacks.square import Square
from robustq.core.attacks.windows import grid, mass, moved, pyramid, tiled, window
from robustq.core.driver import craft, perturb
from robustq.core.errors import OptionError

KEY = (0, "test", 0)


class Blind(nn.Module):
    """A linear classifier that refuses to be differentiated."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 32, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        return (x - 0.5).flatten(1) @ self.weight.T


def images(n: int, low: float = 0.4, high: float = 0.6) -> Tensor:
    return low + (high - low) * torch.rand(n, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def test_finds_nearly_the_optimum_of_a_linear_model_without_a_gradient() -> None:
    net, x = Blind(), images(40)
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    slope = (net.weight[0] - net.weight[1]).detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / slope.abs().sum()
    eps = float(distance.median())
    found = perturb(Square(eps=eps, queries=400), net, x, y, randomized=False)
    assert not (found.fooled & (distance > eps + 1e-5)).any()
    assert found.fooled[distance < 0.9 * eps].all()
    assert found.fooled.sum() > 10
    assert (found.backwards, found.zero_gradient) == (0, 0)


@settings(max_examples=20, deadline=None)
@given(norm=st.sampled_from(list(NORMS)), eps=st.floats(0.0, 1.5), seed=st.integers(0, 1000))
def test_points_stay_in_the_ball_and_in_the_box(norm: str, eps: float, seed: int) -> None:
    x = images(4, 0.0, 1.0)
    attack = Square(eps=eps, norm=norm, queries=10)
    with torch.no_grad():
        found = craft(attack, Blind(), x, torch.tensor([0, 1, 0, 1]), (seed,), torch.arange(4))
    assert (NORMS[norm].size(found - x) <= eps + 1e-6).all()
    assert 0 <= found.min() <= found.max() <= 1


def test_windows_by_hand() -> None:
    # Two rings of 3x3: 1 + 1/4 in the middle, 1/4 around it; fourth powers for L1.
    middle, edge = pyramid(3, 3, "l2")[1, 1], pyramid(3, 3, "l2")[0, 0]
    assert float(middle / edge) == pytest.approx(5.0)
    assert float(pyramid(3, 3, "l1")[1, 1] / pyramid(3, 3, "l1")[0, 0]) == pytest.approx(17.0)
    whole = window(5, "l2")
    assert (whole[:2] > 0).all()
    assert (whole[2:] < 0).all()
    assert float(mass(whole, "l2", (0, 1))) == pytest.approx(1.0)
    assert float(mass(window(4, "l1"), "l1", (0, 1))) == pytest.approx(1.0)


def test_the_first_perturbation_is_a_grid_of_windows() -> None:
    side, rows, columns = grid((11, 13))
    assert (side, rows, columns) == (2, [0, 2, 4, 6, 8], [1, 3, 5, 7, 9, 11])
    signs = torch.ones(1, 1, 30)
    signs[0, 0, 7] = -1
    turned = torch.zeros(1, 30, dtype=torch.bool)
    turned[0, 1] = True
    found = tiled(signs, turned, (11, 13), "l2")[0, 0]
    assert torch.equal(found[0:2, 1:3], window(2, "l2"))
    assert torch.equal(found[0:2, 3:5], window(2, "l2").T)
    assert torch.equal(found[2:4, 3:5], -window(2, "l2"))
    assert not found[:, 0].any()


@pytest.mark.parametrize(("norm", "power"), [("l2", 2), ("l1", 1)])
def test_mass_moves_from_one_window_to_another(norm: str, power: int) -> None:
    delta = 0.1 * torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    sides, corners = torch.tensor([3, 5]), torch.tensor([[0, 1, 5, 6], [1, 2, 3, 4]])
    turned, signs = torch.tensor([False, True]), torch.ones(2, 3)
    radius = 1.5 * float(mass(delta, norm, (1, 2, 3)).max())
    found = moved(delta, sides, corners, turned, signs, radius, norm)
    assert torch.allclose(mass(found, norm, (1, 2, 3)).flatten(), torch.full((2,), radius), rtol=1e-5)
    assert not found[0, :, 5:8, 6:9].any()
    for i, (top, left, low, right) in enumerate(corners.tolist()):
        outside = torch.ones(8, 9, dtype=torch.bool)
        outside[top : top + sides[i], left : left + sides[i]] = False
        outside[low : low + sides[i], right : right + sides[i]] = False
        assert torch.equal(found[i][:, outside], delta[i][:, outside])
    # What it brings has the window's shape where nothing was before.
    empty = moved(torch.zeros(2, 1, 8, 9), sides, corners, turned, signs[:, :1], 1.0, norm)
    assert torch.allclose(empty[0, 0, 0:3, 1:4], window(3, norm), atol=1e-6)
    assert torch.allclose(empty[1, 0, 1:6, 2:7], window(5, norm).T, atol=1e-6)


@pytest.mark.parametrize(("norm", "dual", "share"), [("l2", 2.0, 0.6), ("l1", float("inf"), 0.3)])
def test_windows_find_part_of_the_optimum_of_a_linear_model(norm: str, dual: float, share: float) -> None:
    net, x = Blind(), images(40)
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    slope = (net.weight[0] - net.weight[1]).detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / torch.linalg.vector_norm(slope, ord=dual)
    eps = float(distance.median())
    found = perturb(Square(eps=eps, norm=norm, queries=200), net, x, y, randomized=False)
    assert not (found.fooled & (distance > eps + 1e-5)).any()
    assert found.fooled[distance < share * eps].all()
    assert found.fooled.any()


def test_it_starts_with_vertical_stripes_at_full_distance() -> None:
    x = images(6)
    start = begin(Square(eps=0.1), x, torch.zeros(6, dtype=torch.long), KEY, torch.arange(6))["x"] - x
    assert torch.allclose(start.abs(), torch.full_like(x, 0.1), atol=1e-6)
    assert torch.allclose(start, start[:, :, :1].expand_as(start), atol=1e-6)
    assert 0 < (start[:, :, 0] > 0).float().mean() < 1


def test_a_proposal_moves_one_square_and_only_better_points_are_kept() -> None:
    attack, x, y = Square(eps=0.1, share=0.25), images(50), torch.zeros(50, dtype=torch.long)
    state = begin(attack, x, y, KEY, torch.arange(50))
    values = torch.tensor([1.0, -1.0]).repeat(25)
    first = attack.update(state | {"value": values}, torch.zeros(50, 2), torch.zeros(50, 0), KEY)
    assert torch.equal(first["best"], state["x"])
    changed = (first["x"] != first["best"]).any(1)
    assert changed.flatten(1).sum(1).max() == 4  # a square of a quarter of 16 pixels
    assert changed.any(0).all()  # in every place
    later = state | first | {"taken": state["taken"] + 1, "value": torch.zeros(50)}
    second = attack.update(later, torch.zeros(50, 2), torch.zeros(50, 0), KEY)
    assert torch.equal(second["best"][0::2], state["x"][0::2])
    assert torch.equal(second["best"][1::2], first["x"][1::2])
    assert second["best_value"].tolist() == [1.0, 0.0] * 25


def test_squares_shrink_as_published() -> None:
    taken = torch.tensor([0, 10, 11, 51, 201, 501, 1001, 2001, 4001, 6001, 8001])
    expected = [((0.8 * 0.5**k * 28 * 28) ** 0.5) for k in (0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9)]
    assert Square(eps=0.1).sides(taken, torch.Size((1, 28, 28))).tolist() == [round(side) for side in expected]
    assert Square(eps=0.1, share=0.0).sides(taken, torch.Size((3, 5, 9))).tolist() == [1] * 11
    assert Square(eps=0.1, share=1.0).sides(taken[:1], torch.Size((3, 5, 9))).tolist() == [5]
    odd = [25, 25, 19, 13, 9, 7, 5, 3, 3, 3, 3]
    assert Square(eps=0.1, norm="l2").sides(taken, torch.Size((1, 28, 28))).tolist() == odd


@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.02), ("l2", 0.1), ("l1", 0.4)])
def test_batches_and_order_change_nothing(norm: str, eps: float) -> None:
    x, y, attack = images(30), torch.arange(30) % 5, Square(eps=eps, norm=norm, queries=15, restarts=2)
    whole = perturb(attack, Blind(5), x, y, drop=False, micro_batch=30, randomized=False)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(3))
    mixed = perturb(attack, Blind(5), x[order], y[order], index=order, micro_batch=4, randomized=False)
    assert torch.equal(mixed.fooled, whole.fooled[order])
    assert torch.equal(mixed.adversarial, whole.adversarial[order])


def test_queries_are_counted() -> None:
    x, y = images(3), torch.zeros(3, dtype=torch.long)
    found = perturb(Square(eps=0.0, queries=7), lambda x: torch.tensor([[2.0, 0.0]]).repeat(len(x), 1), x, y,
                    randomized=False, predictions=y)  # fmt: skip
    assert found.forwards == 3 * 7


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"queries": 1}, "queries is 1"),
        ({"share": 1.5}, "share is 1.5"),
        ({"norm": "l0"}, "norm is 'l0'[\\s\\S]*linf"),
        ({"step": 0.1}, "no option 'step'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create("square", {"eps": 0.1} | options, "attack")
