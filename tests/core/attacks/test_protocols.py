"""Protocols of papers: their numbers as published, their own radius, and the weak attack as it was coded."""

import pytest
import torch
from torch import nn

from robustq.core import registry
from robustq.core.attacks.attack import Attack
from robustq.core.attacks.cw import Cw
from robustq.core.attacks.protocols import CwEnresnet
from robustq.core.driver import perturb
from robustq.core.errors import OptionError
from robustq.core.recipe import Spec
from robustq.core.threat import resolve_attack


@pytest.mark.parametrize(
    ("name", "eps", "step", "steps", "restarts"),
    [
        ("ifgsm20", 0.031, 1 / 255, 20, 1),
        ("pgd7-dnr", 0.031, 0.01, 7, 1),
        ("pgd20-trades", 0.031, 0.003, 20, 1),
        ("pgd50x10", 8 / 255, 2 / 255, 50, 10),
        ("pgd100", 0.1, 0.01, 100, 1),  # the data set's radius
    ],
)
def test_protocols_as_published(name: str, eps: float, step: float, steps: int, restarts: int) -> None:
    attack = resolve_attack(Spec(name), "fashion-mnist")
    assert attack.radius == pytest.approx(eps)
    assert attack.length == pytest.approx(step)  # type: ignore[attr-defined]
    assert (attack.iterations, attack.repeats) == (steps, restarts)
    assert attack.starts_at_random() == (name != "ifgsm20")  # type: ignore[attr-defined]
    assert resolve_attack(Spec(name, {"eps": 0.02}), "fashion-mnist").radius == 0.02


def test_radius_of_a_data_set_is_one_in_linf() -> None:
    assert resolve_attack(Spec("deepfool"), "fashion-mnist").radius == pytest.approx(0.1)
    with pytest.raises(OptionError, match="in the l2 norm"):
        resolve_attack(Spec("cw"), "fashion-mnist")
    assert resolve_attack(Spec("cw", {"eps": "0.5"}), "fashion-mnist").radius == 0.5


def model() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).eval()
    x = 0.3 + 0.4 * torch.rand(40, 1, 4, 4)
    with torch.no_grad():
        return net, x, net(x).argmax(1)


def test_the_weak_attack_hands_in_a_fraction_of_what_it_finds() -> None:
    net, x, y = model()
    found = perturb(CwEnresnet(), net, x, y)
    moved = (found.adversarial - x).abs().amax(dim=(1, 2, 3))
    # Fifty steps of 6e-4 at most, times 0.031.
    assert 0 < moved.max() <= 0.031 * 50 * 6e-4 + 1e-7
    strong = perturb(Cw(eps=2.0, steps=50, rounds=3, weight=1.0), net, x, y)
    assert found.robust.sum() > 30
    assert strong.robust.sum() < 10


def test_its_perturbation_by_hand() -> None:
    # One pixel, logits (w, 0) and label 0: the slope is 2 (w - x) + 10, so every step goes down by the learning rate.
    def net(x: torch.Tensor) -> torch.Tensor:
        pixel = x[:, 0, 0]
        return torch.cat([pixel, 0 * pixel], 1)

    x, y = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.long)
    found = perturb(CwEnresnet(eps=1.0, lr=0.001), net, x, y, randomized=False)
    assert found.adversarial.item() == pytest.approx(0.5 - 49 * 0.001, abs=1e-4)  # the best of the points evaluated


def test_weakness_is_said() -> None:
    weak: Attack = registry.create("cw-enresnet", {}, "attack")
    assert weak.caveat.startswith("WEAK ATTACK")


@pytest.mark.parametrize(("options", "found"), [({"eps": 2}, "eps is 2"), ({"lr": 1}, "lr is 1")])
def test_wrong_options_are_named(options: dict[str, object], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create("cw-enresnet", options, "attack")
