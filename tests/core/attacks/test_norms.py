"""Balls, projections and steepest directions, checked against their definitions."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core.attacks.norms import NORMS, l1_ascent

ORDER = {"linf": float("inf"), "l2": 2.0, "l1": 1.0}
DUAL = {"linf": "l1", "l2": "l2", "l1": "linf"}
names = pytest.mark.parametrize("name", list(NORMS))


def draw(seed: int, n: int = 5) -> torch.Tensor:
    return torch.randn(n, 3, 4, 5, generator=torch.Generator().manual_seed(seed))


@names
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.floats(0.0, 20.0))
def test_projection_is_the_nearest_point_of_the_ball(name: str, seed: int, eps: float) -> None:
    norm, delta = NORMS[name], draw(seed)
    nearest = norm.project(delta, eps)
    assert (norm.size(nearest) <= eps + 1e-6).all()
    inside = norm.size(delta) <= eps
    assert torch.allclose(nearest[inside], delta[inside], rtol=1e-6)
    # No other point of the ball is nearer in the Euclidean sense: <delta - nearest, other - nearest> <= 0.
    other = norm.project(draw(seed + 1), eps)
    assert (((delta - nearest) * (other - nearest)).flatten(1).sum(1) <= 1e-3).all()


@names
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_steepest_has_unit_size_and_the_largest_slope(name: str, seed: int) -> None:
    norm, grad = NORMS[name], draw(seed)
    best = norm.steepest(grad)
    assert torch.allclose(norm.size(best), torch.ones(5), atol=1e-6)
    other = norm.ball(("other", seed), torch.arange(5), (3, 4, 5))
    assert ((grad * best).flatten(1).sum(1) >= (grad * other).flatten(1).sum(1)).all()


@names
def test_size_agrees_with_torch(name: str) -> None:
    delta = draw(3)
    expected = torch.linalg.vector_norm(delta.flatten(1), ord=ORDER[name], dim=1)
    assert torch.allclose(NORMS[name].size(delta), expected)


@names
def test_steepest_of_tiny_and_of_zero_gradients(name: str) -> None:
    grad = torch.zeros(2, 1, 2, 2)
    grad[0, 0, 0, 0] = 1e-30  # its square underflows in float32
    best = NORMS[name].steepest(grad)
    assert best[0, 0, 0, 0] == pytest.approx(1.0)
    assert not best[1].any()


@names
def test_ball_is_uniform_inside_and_keyed_by_image(name: str) -> None:
    index = torch.arange(4000)
    points = NORMS[name].ball(("key", 1), index, (1, 1, 2))
    assert (NORMS[name].size(points) <= 1 + 1e-6).all()
    # Half of the radius holds a quarter of the area.
    assert (NORMS[name].size(points) <= 0.5).float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert points.mean((0, 1, 2)).abs().max() < 0.04
    assert torch.equal(NORMS[name].ball(("key", 1), index[7:9], (1, 1, 2)), points[7:9])
    assert not torch.equal(NORMS[name].ball(("key", 2), index, (1, 1, 2)), points)


@names
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.floats(0.0, 20.0))
def test_confined_points_are_in_ball_and_box_and_keep_what_is(name: str, seed: int, eps: float) -> None:
    norm, delta = NORMS[name], draw(seed)
    clean = torch.rand(5, 3, 4, 5, generator=torch.Generator().manual_seed(seed))
    point = norm.confine(clean, delta, eps)
    assert (norm.size(point - clean) <= eps + 1e-6).all()
    assert 0 <= point.min() <= point.max() <= 1
    again = norm.confine(clean, point - clean, eps)
    assert torch.allclose(again, point, atol=1e-6)


@names
def test_rounding_does_not_leave_the_ball(name: str) -> None:
    # All entries are whole steps of float32, and shrink by the same fraction of one: all are rounded alike.
    norm, clean = NORMS[name], torch.full((1, 3, 64, 64), 0.75)
    delta = (clean + 5e-3) - clean
    for eps in (9.3, 9.30001, 9.30002, 31.7, 0.003):
        assert norm.size(norm.confine(clean, delta, eps) - clean) <= eps + 1e-6


@names
def test_a_radius_for_each_image_is_that_of_each_alone(name: str) -> None:
    norm, delta, eps = NORMS[name], draw(1), torch.tensor([0.1, 0.5, 1.0, 2.0, 9.0])
    clean = torch.rand(5, 3, 4, 5, generator=torch.Generator().manual_seed(1))
    for i in range(5):
        one = slice(i, i + 1)
        assert torch.equal(norm.project(delta, eps)[one], norm.project(delta[one], float(eps[i])))
        assert torch.equal(norm.confine(clean, delta, eps)[one], norm.confine(clean[one], delta[one], float(eps[i])))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), eps=st.floats(0.01, 8.0))
def test_l1_confinement_is_the_nearest_point_of_ball_and_box(seed: int, eps: float) -> None:
    draws = torch.Generator().manual_seed(seed)
    clean, delta = torch.rand(1, 1, 3, 3, generator=draws), torch.randn(1, 1, 3, 3, generator=draws)
    size, room = delta.abs().double(), torch.where(delta > 0, 1 - clean, clean).double()
    low, high = 0.0, 10.0
    for _ in range(80):  # by bisection: entries shrink alike, down to what ball and box admit
        less = (low + high) / 2
        low, high = (less, high) if torch.minimum((size - less).clamp_min(0), room).sum() > eps else (low, less)
    whole = torch.minimum(size, room)
    nearest = whole if whole.sum() <= eps else torch.minimum((size - high).clamp_min(0), room)
    found = NORMS["l1"].confine(clean, delta, eps) - clean
    assert torch.allclose(found.double(), nearest * delta.sign(), atol=2e-6 * max(1.0, eps))


def test_l1_ascent_fills_the_steepest_entries_first() -> None:
    x = torch.tensor([0.9, 0.5, 0.2, 0.5]).view(1, 1, 2, 2)
    grad = torch.tensor([4.0, -3.0, 2.0, 0.0]).view(1, 1, 2, 2)
    assert l1_ascent(x, grad, 0.4).flatten().tolist() == pytest.approx([0.1, -0.3, 0.0, 0.0])
    assert l1_ascent(x, grad, 0.4, 2).flatten().tolist() == pytest.approx([0.1, -0.2, 0.1, 0.0])
    assert l1_ascent(x, grad, 9.0).flatten().tolist() == pytest.approx([0.1, -0.5, 0.8, 0.0])


@names
def test_dual_is_the_steepest_slope(name: str) -> None:
    grad = draw(2)
    slope = (grad * NORMS[name].steepest(grad)).flatten(1).sum(1)
    assert torch.allclose(NORMS[name].dual(grad), slope, rtol=1e-5)
    assert torch.allclose(NORMS[name].dual(grad), NORMS[DUAL[name]].size(grad))
