"""Objectives: limits in which they must agree, gradients, refusals."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustq.core import registry
from robustq.core.architecture import Classifier
from robustq.core.attacks.pgd import Pgd
from robustq.core.errors import OptionError
from robustq.core.session import Session, Weights
from robustq.core.view import View

X = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
INDEX = torch.arange(16)
ATTACK = Pgd(eps=0.1, steps=3, step=0.05)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)))


def loss(model: Classifier, name: str, attack: Pgd | None = ATTACK, **options: float) -> torch.Tensor:
    objective = registry.create(name, options, "objective")
    view = View(model, (), dict(model.net.named_parameters()))
    return objective.loss(view, X, Y, attack, (0, "train"), INDEX)[0]


def test_every_objective_is_tested_here() -> None:
    tested = {"natural", "pgd-at", "trade-off", "trades", "mart", "fast", "free", "mat", "p-sat", "h-sat", "awp"}
    assert set(registry.names("objective")) == tested


@pytest.mark.parametrize("name", ["natural", "pgd-at", "trade-off", "trades", "fast", "free", "mat", "p-sat"])
def test_radius_zero_is_ordinary_training(model: Classifier, name: str) -> None:
    torch.testing.assert_close(loss(model, name, Pgd(eps=0.0, steps=3)), F.cross_entropy(model(X), Y))


def test_trade_off_without_a_term_is_the_other_objective(model: Classifier) -> None:
    torch.testing.assert_close(loss(model, "trade-off", alpha=0, beta=1), loss(model, "pgd-at"))
    torch.testing.assert_close(loss(model, "trade-off", alpha=1, beta=0), loss(model, "natural"))


def test_trade_off_golden(model: Classifier) -> None:
    clean, attacked = loss(model, "natural"), loss(model, "pgd-at")
    plain = loss(model, "trade-off", alpha=1, beta=8, normalise_loss=False)
    torch.testing.assert_close(plain, clean + 8 * attacked)
    torch.testing.assert_close(loss(model, "trade-off", alpha=1, beta=8), plain / 9)


def test_adversarial_loss_is_higher(model: Classifier) -> None:
    assert loss(model, "pgd-at").item() > loss(model, "natural").item()


def test_trade_off_refuses_negative_weights() -> None:
    with pytest.raises(OptionError, match=r"beta is -1\.0, outside"):
        registry.create("trade-off", {"beta": -1}, "objective")


class Doubled(Session):
    """Shows twice the latent weights."""

    def view(self, weights: Weights) -> dict[str, torch.Tensor]:
        return {name: 2 * weight for name, weight in weights.items()}


def test_forward_and_attack_see_the_view_not_the_latent_weights(model: Classifier) -> None:
    latent = dict(model.net.named_parameters())
    view = View(model, [Doubled()], latent)
    doubled = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)))
    doubled.net.load_state_dict({name: 2 * weight for name, weight in latent.items()})
    torch.testing.assert_close(view(X), doubled(X))
    plain = View(doubled, (), dict(doubled.net.named_parameters()))
    torch.testing.assert_close(view.attacked(ATTACK, X, Y, (0,), INDEX), plain.attacked(ATTACK, X, Y, (0,), INDEX))


def test_attack_runs_in_eval_mode_and_leaves_no_weight_gradient() -> None:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3))
    model = Classifier(net).train()
    view = View(model, (), dict(net.named_parameters()))
    before = net.get_buffer("1.running_mean").clone()
    view.attacked(ATTACK, X, Y, (0,), INDEX)
    assert torch.equal(net.get_buffer("1.running_mean"), before)
    assert model.training
    assert all(p.grad is None for p in net.parameters())
