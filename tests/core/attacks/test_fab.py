"""FAB: projections against bisection, exact distances on linear models, the radius, and refusals."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.boundary import shortest
from robustq.core.attacks.fab import Fab, FabT
from robustq.core.attacks.norms import NORMS
from robustq.core.driver import perturb
from robustq.core.errors import OptionError

SHAPE = (2, 3, 3)


def linear(classes: int) -> nn.Sequential:
    """All logits are 0 for the grey image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, classes))
    weight = torch.randn(classes, 18, generator=torch.Generator().manual_seed(0))
    net[1].get_parameter("weight").data.copy_(weight)
    net[1].get_parameter("bias").data.copy_(-0.5 * weight.sum(1))
    return net


def bisection(x: Tensor, slope: Tensor, needed: float, norm: str) -> Tensor:
    """One image: entries move by min(way * speed, room), and `way` is halved until the plane is met."""
    x, slope = x.double().flatten(), slope.double().flatten()
    direction = slope.sign() * (1 if needed > 0 else -1)
    room = torch.where(direction > 0, 1 - x, x)
    if norm == "l1":  # no bisection: the steepest entries move first, one after the other
        moved, left = torch.zeros_like(x), abs(needed)
        for i in slope.abs().argsort(descending=True).tolist():
            moved[i] = min(float(room[i]), left / max(float(slope[i].abs()), 1e-30))
            left = max(0.0, left - float(slope[i].abs() * moved[i]))
        return direction * moved
    speed = slope.abs() if norm == "l2" else torch.ones_like(slope)
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        enough = (slope.abs() * torch.minimum(middle * speed, room)).sum() >= abs(needed)
        low, high = (low, middle) if enough else (middle, high)
    return direction * torch.minimum(high * speed, room)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    norm=st.sampled_from(list(NORMS)),
    needed=st.floats(-8.0, 8.0),
    scale=st.integers(-3, 3),
)
def test_shortest_way_to_the_plane_inside_the_box(seed: int, norm: str, needed: float, scale: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    x = torch.rand(2, *SHAPE, generator=draws).round(decimals=1)
    slope = torch.randn(2, *SHAPE, generator=draws) * (torch.rand(2, *SHAPE, generator=draws) > 0.2)
    factor = 10.0**scale
    found = shortest(x, factor * slope, torch.tensor([factor * needed, 0.0]), norm)
    assert torch.allclose(found[0].flatten().double(), bisection(x[0], slope[0], needed, norm), atol=1e-4)
    assert not found[1].any()
    assert -1e-6 <= (x + found).min() <= (x + found).max() <= 1 + 1e-6


def test_without_a_slope_there_is_no_way() -> None:
    for norm in NORMS:
        assert not shortest(torch.rand(1, *SHAPE), torch.zeros(1, *SHAPE), torch.ones(1), norm).any()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.0), ("l2", 2.0), ("l1", float("inf"))])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("attack", [Fab, FabT])
def test_linear_models_fall_exactly_beyond_their_analytic_margin(
    attack: type[Fab], norm: str, dual: float, classes: int
) -> None:
    net = linear(classes)
    x = 0.4 + 0.2 * torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    weight = net[1].get_parameter("weight").detach()
    width = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=dual, dim=2)
    lead = logits.gather(1, y[:, None]) - logits
    distance = (lead / width.clamp_min(1e-9)).scatter(1, y[:, None], float("inf")).amin(1)
    eps = float(distance.median())
    found = perturb(attack(eps=eps, norm=norm, steps=20), net, x, y)
    # A step overshoots by 5 percent, and comes back by 10 until it is inside.
    assert not (found.fooled & (distance > eps * 1.0001)).any()
    assert found.fooled[distance < 0.94 * eps].all()
    assert found.minimal_norms is not None
    assert torch.allclose(found.minimal_norms, distance, rtol=0.06)


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 2), nn.Tanh(), nn.Flatten(), nn.Linear(16, 4))


@pytest.mark.parametrize("norm", list(NORMS))
def test_batches_and_order_change_nothing(norm: str) -> None:
    net, x = model(), torch.rand(40, *SHAPE, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        y = net(x).argmax(1)
    attack, order = FabT(eps={"linf": 0.08, "l2": 0.3, "l1": 0.5}[norm], norm=norm, steps=12), torch.randperm(40)
    whole = perturb(attack, net, x, y, drop=False, micro_batch=40)
    mixed = perturb(attack, net, x[order], y[order], index=order, micro_batch=7)
    assert torch.equal(mixed.fooled, whole.fooled[order])
    assert 0 < whole.fooled.sum() < 40
    assert whole.norms[whole.fooled].max() <= attack.radius + 1e-6


def test_wrong_options_are_named() -> None:
    with pytest.raises(OptionError, match="targets is 0"):
        registry.create("fab-t", {"targets": 0}, "attack")
