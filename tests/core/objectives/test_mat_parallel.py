"""Parallel multi-strength training: each member on its own, then together."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core.architecture import Classifier
from robustq.core.attacks.pgd import Pgd
from robustq.core.errors import OptionError
from robustq.core.objectives.awp import Awp
from robustq.core.objectives.mat import Mat, weakened
from robustq.core.objectives.pgd_at import PgdAt
from robustq.core.recipe import Recipe
from robustq.core.training import train
from robustq.core.view import View

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
INDEX = torch.arange(12)
ATTACK = Pgd(eps=0.1, steps=2, step=0.05)
KEY = (0, "train", 0)


class Ensemble(nn.Module):
    def __init__(self, members: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.members = nn.ModuleList(
            nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))
            for _ in range(members)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([member(x) for member in self.members]).mean(0)


def view_of(model: Classifier, progress: float = 0.1) -> View:
    return View(model, (), dict(model.net.named_parameters()), progress=progress)


def ensemble(members: int) -> Classifier:
    return Classifier(Ensemble(members), [0.4], [0.3]).train()


def test_one_member_at_full_strength_is_pgd_training() -> None:
    first, second = ensemble(1), ensemble(1)
    found, _ = Mat(form="parallel", strengths=(1.0,)).loss(view_of(first), X, Y, ATTACK, KEY, INDEX)
    plain, _ = PgdAt().loss(view_of(second), X, Y, ATTACK, KEY, INDEX)
    torch.testing.assert_close(found, plain)
    assert all(torch.equal(a, b) for a, b in zip(first.buffers(), second.buffers(), strict=True))


def test_each_member_is_trained_at_its_strength_alone() -> None:
    model, strengths = ensemble(3), (0.0, 0.5, 1.0)
    loss, _ = Mat(form="parallel", strengths=strengths).loss(view_of(model), X, Y, ATTACK, KEY, INDEX)
    loss.backward()
    other = ensemble(3)
    for member, strength in zip(other.net.get_submodule("members").children(), strengths, strict=True):
        alone = Classifier(member, [0.4], [0.3]).train()
        view = View(alone, (), dict(member.named_parameters()))
        x_hat = view.attacked(weakened(ATTACK, strength), X, Y, KEY, INDEX) if strength else X
        (nn.functional.cross_entropy(view(x_hat), Y) / 3).backward()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_at_the_end_the_ensemble_is_trained_as_one() -> None:
    options: dict[str, Any] = {"strengths": (0.5, 1.0)}
    found, _ = Mat(form="parallel", joint=0.5, **options).loss(view_of(ensemble(2), 0.5), X, Y, ATTACK, KEY, INDEX)
    mixed, _ = Mat(**options).loss(view_of(ensemble(2), 0.5), X, Y, ATTACK, KEY, INDEX)
    torch.testing.assert_close(found, mixed)


def test_weight_perturbation_around_it_attacks_each_member_once() -> None:
    model = ensemble(2)
    inner = "mat:form=parallel;strengths=0.5"
    with pytest.raises(OptionError, match="1 strengths in parallel need an ensemble"):
        Awp(inner=inner).check(model.net)
    plain = Mat(form="parallel", strengths=(0.5, 1.0))
    expected, _ = plain.loss(view_of(copy.deepcopy(model)), X, Y, ATTACK, KEY, INDEX)
    view = view_of(model)
    trial = view.trial()
    plain.loss(trial, X, Y, ATTACK, KEY, INDEX)
    found, _ = plain.loss(view.shifted({}, trial), X, Y, ATTACK, KEY, INDEX)
    torch.testing.assert_close(found, expected)


def test_a_network_that_is_no_ensemble_is_refused_before_training(quadrants: str) -> None:
    recipe = Recipe.from_dict(
        {
            "model": {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 3}},
            "data": {"name": quadrants, "limit": 60},
            "objective": {"name": "mat", "form": "parallel"},
            "attack": {"name": "pgd", "eps": 0.1},
        }
    )
    with pytest.raises(OptionError, match=r"5 strengths in parallel need an ensemble.*LeNetModule has 1"):
        train(recipe)
