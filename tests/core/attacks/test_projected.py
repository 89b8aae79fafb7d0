"""FGSM, IFGSM and PGD: analytic optima, their relations, the ball and the box, targets, and refusals."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.attack import begin, margin
from robustq.core.attacks.fgsm import Fgsm
from robustq.core.attacks.norms import NORMS
from robustq.core.attacks.pgd import Ifgsm, Pgd
from robustq.core.attacks.projected import Projected, target
from robustq.core.driver import craft
from robustq.core.errors import OptionError

SHAPE = (2, 3, 3)
KEY = (0, "test", 0)


def linear(classes: int = 2, seed: int = 0) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, classes))
    weight = torch.randn(classes, 18, generator=torch.Generator().manual_seed(seed))
    net[1].get_parameter("weight").data.copy_(weight)
    return net


def images(n: int, low: float = 0.0, high: float = 1.0, seed: int = 1) -> Tensor:
    return low + (high - low) * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(seed))


def attacked(attack: Projected, net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return craft(attack, net, x, y, KEY, torch.arange(len(x)))


def slope(net: nn.Sequential, y: Tensor) -> Tensor:
    """(n, *SHAPE) the gradient of the two-class margin."""
    weight = net[1].get_parameter("weight").detach()
    return (weight[1 - y] - weight[y]).view(-1, *SHAPE)


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("attack", [Fgsm, Ifgsm, Pgd])
def test_linf_reaches_the_optimum_of_a_linear_model(attack: type[Projected], loss: str) -> None:
    net, x, y = linear(), images(6), torch.tensor([0, 1, 0, 1, 0, 1])
    found = attacked(attack(eps=0.2, loss=loss), net, x, y)
    assert torch.allclose(found, (x + 0.2 * slope(net, y).sign()).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize(
    "attack", [Fgsm(eps=0.3, norm="l2"), Ifgsm(eps=0.3, norm="l2"), Pgd(eps=0.3, norm="l2", steps=200)]
)
def test_l2_reaches_the_optimum_of_a_linear_model(attack: Projected) -> None:
    net, x, y = linear(), images(6, 0.4, 0.6), torch.tensor([0, 1, 0, 1, 0, 1])
    direction = slope(net, y)
    best = x + 0.3 * direction / direction.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert torch.allclose(attacked(attack, net, x, y), best, atol=1e-5)


@pytest.mark.parametrize("norm", list(NORMS))
def test_one_step_of_eps_from_the_image_is_fgsm(norm: str) -> None:
    net, x, y = linear(5), images(6), torch.arange(6) % 5
    one = attacked(Ifgsm(eps=0.1, norm=norm, step=0.1, steps=1), net, x, y)
    assert torch.equal(one, attacked(Fgsm(eps=0.1, norm=norm), net, x, y))


def test_one_step_from_a_random_start_is_random_fgsm() -> None:
    net, x, y = linear(5), images(6), torch.arange(6) % 5
    one = attacked(Pgd(eps=0.1, step=0.125, steps=1), net, x, y)
    assert torch.equal(one, attacked(Fgsm(eps=0.1, step=0.125, random_start=True), net, x, y))
    assert not torch.equal(one, attacked(Fgsm(eps=0.1, step=0.125), net, x, y))


@settings(max_examples=25, deadline=None)
@given(
    norm=st.sampled_from(list(NORMS)),
    name=st.sampled_from(["fgsm", "ifgsm", "pgd"]),
    loss=st.sampled_from(["ce", "margin"]),
    targeted=st.booleans(),
    eps=st.floats(0.0, 2.0),
    seed=st.integers(0, 1000),
)
def test_points_stay_in_the_ball_and_in_the_box(
    norm: str, name: str, loss: str, targeted: bool, eps: float, seed: int
) -> None:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 4))
    x, y = images(5, seed=seed), torch.arange(5) % 4
    attack = registry.create(name, {"norm": norm, "eps": eps, "loss": loss, "targeted": targeted}, "attack")
    found = attacked(attack, net, x, y)
    assert (NORMS[norm].size(found - x) <= eps + 1e-6).all()
    assert found.min() >= 0
    assert found.max() <= 1


@pytest.mark.parametrize("norm", list(NORMS))
def test_radius_zero_changes_nothing(norm: str) -> None:
    x = images(4)
    assert torch.equal(attacked(Pgd(eps=0.0, norm=norm), linear(), x, torch.zeros(4, dtype=torch.long)), x)


def test_default_step_is_a_tenth_of_the_radius_but_crosses_the_ball() -> None:
    assert Pgd(eps=0.1).length == pytest.approx(0.01)
    assert Pgd(eps=0.1, steps=5).length == pytest.approx(0.05)
    assert Pgd(eps=0.1, steps=5, step=0.0).length == 0.0
    assert Fgsm(eps=0.1).length == 0.1


def test_targets_are_other_classes_all_of_them_and_new_each_start() -> None:
    y, index, logits = torch.arange(600) % 3, torch.arange(600), torch.zeros(600, 3)
    aims = [
        target(begin(Pgd(eps=0.1, targeted=True), torch.zeros(600, *SHAPE), y, (0, "pgd", r), index), logits)
        for r in range(2)
    ]
    assert (aims[0] != y).all()
    assert ((aims[0] - y) % 3 == 1).float().mean().item() == pytest.approx(0.5, abs=0.08)
    assert not torch.equal(*aims)


@pytest.mark.parametrize("loss", ["ce", "margin"])
def test_targeted_goes_to_the_target(loss: str) -> None:
    net, x, y = linear(4), images(20, 0.3, 0.7), torch.arange(20) % 4
    attack = Ifgsm(eps=0.3, targeted=True, loss=loss)
    state = begin(attack, x, y, KEY, torch.arange(20))
    found = net(attacked(attack, net, x, y))
    aim = target(state, found)
    before = net(x).log_softmax(1).gather(1, aim[:, None])
    assert (found.log_softmax(1).gather(1, aim[:, None]) > before).all()
    assert (found.argmax(1) == aim).sum() > (net(x).argmax(1) == aim).sum() + 5


def test_margin_by_hand() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, 1.0]])
    assert margin(logits, torch.tensor([0, 2])).tolist() == [-1.0, 4.0]


def test_an_exactly_zero_gradient_moves_at_random_not_at_all_otherwise() -> None:
    x, y = images(3, 0.4, 0.6), torch.zeros(3, dtype=torch.long)
    attack = Ifgsm(eps=0.1)
    state = begin(attack, x, y, KEY, torch.arange(3))
    grad = torch.ones_like(x)
    grad[1] = 0
    moved = attack.update(state, torch.zeros(3, 2), grad, KEY)["x"] - x
    assert torch.allclose(moved[0], torch.full(SHAPE, 0.0125), atol=1e-6)
    assert torch.allclose(moved[1].abs(), torch.full(SHAPE, 0.0125), atol=1e-6)
    assert moved[1].unique().numel() > 1
    later = attack.update(state | {"taken": state["taken"] + 1}, torch.zeros(3, 2), grad, KEY)["x"] - x
    assert not torch.equal(later[1], moved[1])


def test_craft_makes_no_weight_gradient_and_leaves_the_model_alone() -> None:
    net = linear().train()
    found = attacked(Pgd(eps=0.1), net, images(3), torch.zeros(3, dtype=torch.long))
    assert not found.requires_grad
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert net.training


def test_craft_with_a_loss_of_its_own_goes_where_that_grows() -> None:
    net, x, y = linear(), images(4, 0.3, 0.7), torch.zeros(4, dtype=torch.long)
    found = craft(Ifgsm(eps=0.1), net, x, y, KEY, torch.arange(4), loss=lambda logits, _: logits[:, 0] - logits[:, 1])
    assert torch.allclose(found, x - 0.1 * slope(net, y).sign(), atol=1e-6)


def test_craft_depends_on_image_index_not_on_the_batch() -> None:
    net, x, y = linear(3), images(8), torch.arange(8) % 3
    attack = Pgd(eps=0.1, steps=3)
    whole = craft(attack, net, x, y, KEY, torch.arange(8))
    order = torch.tensor([5, 2, 7])
    assert torch.allclose(craft(attack, net, x[order], y[order], KEY, order), whole[order], atol=1e-6)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"eps": -0.1}, "eps is -0.1"),
        ({"eps": "1/0"}, "not a number"),
        ({"norm": "l7"}, "norm is 'l7'"),
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restart": 2}, "no option 'restart'"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create("pgd", {"eps": 0.1} | options, "attack")


def test_without_a_radius_there_is_no_attack() -> None:
    with pytest.raises(OptionError, match=r"no radius[\s\S]*--eps"):
        attacked(Pgd(), linear(), images(1), torch.zeros(1, dtype=torch.long))
