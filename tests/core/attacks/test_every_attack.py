"""What holds for every attack: ball and box, seeds, averaging, few classes, nested radii, no gradient where none is."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.attack import Attack
from robustq.core.attacks.norms import NORMS
from robustq.core.driver import AttackResult, perturb
from robustq.core.option import describe

APART = ("transfer", "replay")  # these need files, or a parent
NAMES = [name for name in registry.names("attack") if name not in APART]
ENSEMBLES = ["quick", "compressed", "autoattack", "autoattack-plus", "autoattack-rand"]
CHEAP = {"steps": 4, "queries": 8, "points": 5, "restarts": 2, "rounds": 2, "samples": 4, "targets": 2, "eot": 1}
RADII = {"linf": 0.06, "l2": 0.25, "l1": 0.9}


def make(name: str, **given: Any) -> Attack:
    """The attack, with few steps."""
    known = {info.name: info for info in describe(registry.find(name, "attack"))}
    options = {key: value for key, value in CHEAP.items() if key in known} | given
    return registry.create(name, {key: value for key, value in options.items() if key in known}, "attack")


def norms_of(name: str) -> tuple[str, ...]:
    (norm,) = (info for info in describe(registry.find(name, "attack")) if info.name == "norm")
    return norm.choices


PAIRS = [(name, norm) for name in NAMES for norm in norms_of(name)]


def model(classes: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes)).eval()


def images(n: int = 12, seed: int = 1) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def attacked(attack: Attack, net: nn.Module, x: Tensor, **given: Any) -> AttackResult:
    with torch.no_grad():
        y = net(x).argmax(1)
    return perturb(attack, net, x, y, randomized=False, **given)


@pytest.mark.parametrize(("name", "norm"), PAIRS)
def test_what_fools_lies_in_ball_and_box(name: str, norm: str) -> None:
    net, x, eps = model(), images(), RADII[norm]
    with torch.no_grad():
        y = net(x).argmax(1)
    found = attacked(make(name, eps=eps, norm=norm), net, x)
    if found.minimal_norms is None or found.fooled.any():
        changed = found.adversarial[found.fooled] - x[found.fooled]
        assert (NORMS[norm].size(changed) <= eps + 1e-6).all()
    assert 0 <= found.adversarial.min() <= found.adversarial.max() <= 1
    with torch.no_grad():
        assert torch.equal(net(found.adversarial).argmax(1) != y, found.predictions != y)
    assert (found.predictions[found.fooled] != y[found.fooled]).all()


@settings(max_examples=12, deadline=None)
@given(pair=st.sampled_from(PAIRS), eps=st.sampled_from([0.0, 1e-3, 0.7, 3.0]), seed=st.integers(0, 99))
def test_extreme_radii(pair: tuple[str, str], eps: float, seed: int) -> None:
    name, norm = pair
    eps = min(eps, 1.0) if name == "cw-enresnet" else eps
    x = images(4, seed).round()  # all pixels at the edge of the box
    found = attacked(make(name, eps=eps, norm=norm), model(seed=seed), x)
    assert (found.norms[found.fooled] <= eps + 1e-6).all()
    assert 0 <= found.adversarial.min() <= found.adversarial.max() <= 1
    assert eps > 0 or found.robust.all()


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_images(name: str) -> None:
    attack, net, x = make(name, eps=0.05), model(), images()
    one, again = attacked(attack, net, x, seed=3), attacked(attack, net, x, seed=3)
    assert torch.equal(one.adversarial, again.adversarial)
    assert torch.equal(one.fooled, again.fooled)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("cw", "spsa", "compressed")])
def test_averaging_changes_nothing_for_a_deterministic_network(name: str) -> None:
    plain, mean = (attacked(make(name, eps=0.05, eot=eot), model(), images()) for eot in (1, 3))
    assert torch.equal(plain.fooled, mean.fooled)
    assert torch.allclose(plain.adversarial, mean.adversarial, atol=1e-4)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_few_classes(name: str, classes: int) -> None:
    found = attacked(make(name, eps=0.3), model(classes), images())
    assert found.fooled.any() or name in ("noise", "cw-enresnet", "cw", "spsa")


@pytest.mark.parametrize(("name", "norm"), [(n, norm) for n in ENSEMBLES for norm in norms_of(n)])
def test_an_ensemble_leaves_no_more_than_any_of_its_members(name: str, norm: str) -> None:
    ensemble, net, x = make(name, eps=RADII[norm] / 3, norm=norm), model(), images(30)
    whole = attacked(ensemble, net, x)
    alone = torch.stack([attacked(member, net, x).robust for member in ensemble.members])
    assert torch.equal(whole.robust, alone.all(0))
    assert 0 < whole.robust.sum() < 30


@pytest.mark.parametrize("name", ["fab", "fab-t", "deepfool", "cw"])
def test_minimal_norms_tell_the_accuracy_at_every_radius(name: str) -> None:
    near, far = (attacked(make(name, eps=eps, steps=12), model(), images(30)) for eps in (0.03, 0.2))
    assert near.minimal_norms is not None
    assert far.minimal_norms is not None
    for found, eps in ((near, 0.03), (far, 0.2)):
        assert found.minimal_norms is not None
        assert torch.equal(found.fooled, found.minimal_norms <= eps + 1e-6)
    assert (near.robust | ~far.robust).all()


@pytest.mark.parametrize(("name", "norm"), [("ifgsm", "linf"), ("ifgsm", "l2"), ("ifgsm", "l1"), ("apgd-ce", "linf")])
def test_accuracy_falls_with_the_radius(name: str, norm: str) -> None:
    left = [
        int(attacked(make(name, eps=factor * RADII[norm], norm=norm, steps=15), model(), images(40)).robust.sum())
        for factor in (0.0, 0.25, 0.5, 1.0, 2.0, 6.0)
    ]
    assert left == sorted(left, reverse=True)
    assert left[0] == 40
    assert left[-1] <= 1


@pytest.mark.parametrize("name", [name for name in NAMES if not registry.find(name, "attack").uses_gradient])
def test_score_based_attacks_never_differentiate(name: str) -> None:
    net = model()

    def blind(x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        return net(x)

    with torch.no_grad():
        y = net(images()).argmax(1)
    found = perturb(make(name, eps=0.1), blind, images(), y, randomized=False)
    assert found.backwards == 0
