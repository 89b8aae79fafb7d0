"""Every attack on a model that is not on the CPU: nothing is left behind, and the result is the same."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from robustq.core import evaluation, registry
from robustq.core.architecture import Classifier, create
from robustq.core.datasets.dataset import Dataset

SHORT = {"steps": 4, "queries": 20, "samples": 8, "points": 8, "restarts": 1, "rounds": 2}
ATTACKS = [name for name in registry.names("attack") if name not in ("replay", "transfer")]  # they want other models
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> Classifier:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 4)]
    return Classifier(nn.Sequential(*layers)).eval()


def images(model: Classifier) -> Dataset:
    with torch.no_grad():
        return Dataset("x", "test", IMAGES, model(IMAGES).argmax(1), 4, divisor=1.0)


def judged(name: str, model: Classifier, data: Dataset, **options: Any) -> evaluation.Survey:
    known = registry.find(name, "attack")().options()
    short = {key: value for key, value in SHORT.items() if key in known}
    return evaluation.survey(registry.create(name, {**short, **options}, "attack"), model, data)


@pytest.mark.parametrize(
    ("name", "norm"), [(name, "linf") for name in ATTACKS] + [(name, "l2") for name in ("autoattack", "cw")]
)
def test_attacks_run_there(elsewhere: Any, name: str, norm: str) -> None:
    model = network()
    data = images(model)
    options = {"eps": 0.2 if norm == "linf" else 1.2, "norm": norm}
    here = judged(name, model, data, **options)
    with elsewhere.Elsewhere():
        there = judged(name, copy.deepcopy(model).to("meta"), data, **options)
    assert torch.equal(there.robust, here.robust)
    assert torch.equal(there.first_step, here.first_step)
    assert (there.forwards, there.backwards) == (here.forwards, here.backwards)


def test_models_with_noise_are_judged_there(elsewhere: Any) -> None:
    torch.manual_seed(0)
    model = Classifier(create("enresnet", {"depth": 8, "width": 2, "channels": 1, "classes": 4, "noise": 0.5})).eval()
    data = Dataset("x", "test", IMAGES, torch.arange(6) % 4, 4, divisor=1.0)
    here = judged("pgd", model, data, eps=0.2, eot=2)
    with elsewhere.Elsewhere():
        there = judged("pgd", copy.deepcopy(model).to("meta"), data, eps=0.2, eot=2)
    assert torch.equal(there.robust, here.robust)
    assert there.warnings == here.warnings
