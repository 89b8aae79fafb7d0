"""Distillation: the distance, what is heard, refusals."""

import copy

import pytest
import torch
from torch import nn

from robustq.core.architecture import Classifier
from robustq.core.attacks.pgd import Pgd
from robustq.core.errors import OptionError
from robustq.core.objectives.awp import Awp
from robustq.core.objectives.distilled import Distilled, soft
from robustq.core.objectives.natural import Natural
from robustq.core.objectives.objective import Objective
from robustq.core.objectives.pgd_at import PgdAt
from robustq.core.objectives.tradeoff import TradeOff
from robustq.core.recipe import DistillPart, Recipe
from robustq.core.training import train
from robustq.core.view import View

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
INDEX = torch.arange(12)
ATTACK = Pgd(eps=0.1, steps=2, step=0.05)
KEY = (0, "train", 0)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))).eval()


def loss_of(objective: Objective, model: Classifier, parent: nn.Module) -> torch.Tensor:
    view = View(model, (), dict(model.net.named_parameters()), parent=parent)
    return objective.loss(view, X, Y, ATTACK, KEY, INDEX)[0]


def test_soft_golden() -> None:
    target, own = torch.tensor([[1.0, 3.0]]), torch.tensor([[2.0, 0.0]])
    p, q = (target / 4).softmax(1), (own / 4).softmax(1)
    assert soft(target, own, 4.0).item() == pytest.approx(16 * float((p * (p / q).log()).sum()))
    assert soft(own, own, 2.0).item() == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("inner", [PgdAt(), TradeOff(), Natural()])
def test_without_weight_it_is_the_objective_inside(model: Classifier, inner: Objective) -> None:
    found = loss_of(Distilled(inner=inner, given=DistillPart(weight=0.0)), model, copy.deepcopy(model))
    torch.testing.assert_close(found, loss_of(inner, model, model))


@pytest.mark.parametrize("sees", ["clean", "same"])
@pytest.mark.parametrize("inner", [PgdAt(), Awp(inner="pgd-at", gamma=0.0)])
def test_with_full_weight_the_attacked_images_are_compared(model: Classifier, inner: Objective, sees: str) -> None:
    torch.manual_seed(1)
    parent = copy.deepcopy(model)
    for p in parent.parameters():
        p.data.add_(0.1 * torch.randn_like(p))
    view = View(model, (), dict(model.net.named_parameters()))
    x_hat = view.attacked(ATTACK, X, Y, KEY, INDEX)
    expected = soft(parent(X if sees == "clean" else x_hat), model(x_hat), 2.0)
    given = DistillPart(weight=1.0, temperature=2.0, parent_sees=sees)
    torch.testing.assert_close(loss_of(Distilled(inner=inner, given=given), model, parent), expected)


def test_the_mean_over_several_passes_counts(model: Classifier) -> None:
    torch.manual_seed(1)
    parent = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))
    view = View(model, (), dict(model.net.named_parameters()))
    x_hat = view.attacked(ATTACK, X, Y, KEY, INDEX)
    expected = (soft(parent(X), model(X), 1.0) + soft(parent(X), model(x_hat), 1.0)) / 2
    found = loss_of(Distilled(inner=TradeOff(), given=DistillPart(weight=1.0)), model, parent)
    torch.testing.assert_close(found, expected)


def recipe(quadrants: str, epochs: int) -> Recipe:
    return Recipe.from_dict(
        {
            "model": {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 3}},
            "data": {"name": quadrants, "limit": 100},
            "train": {"epochs": epochs, "batch_size": 16, "lr": 0.01},
        }
    )


def test_the_parent_is_what_training_starts_from(quadrants: str) -> None:
    start = train(recipe(quadrants, 2)).checkpoint
    described = recipe(quadrants, 1).with_values(["distill.weight=0.5", "distill.temperature=3"])
    result = train(described, start=start)
    assert 0 <= result.history[0]["distance"] < 0.5
    assert result.checkpoint.meta["recipe"]["distill"]["temperature"] == 3
    with pytest.raises(OptionError, match="distillation needs a parent"):
        train(described)
    with pytest.raises(OptionError, match="outside"):
        recipe(quadrants, 1).with_values(["distill.weight=2"])
