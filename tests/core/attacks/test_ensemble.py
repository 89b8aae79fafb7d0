"""Ensembles: members work on what is left, the result is the worst case of each image, what is left out is said."""

import pytest
import torch
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.ensemble import AutoAttack, Quick
from robustq.core.datasets.dataset import Dataset
from robustq.core.driver import craft, perturb
from robustq.core.errors import OptionError
from robustq.core.evaluation import survey

QUICK = Quick(eps=0.05, steps=6, targets=2)


def model(classes: int = 5) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes)).eval()


def data(net: nn.Module) -> tuple[Tensor, Tensor]:
    x = torch.rand(50, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, net(x).argmax(1)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_result_is_the_worst_case_of_its_members(classes: int) -> None:
    net = model(classes)
    x, y = data(net)
    alone = torch.stack([perturb(member, net, x, y).robust for member in QUICK.members])
    whole = perturb(QUICK, net, x, y)
    assert torch.equal(whole.robust, alone.all(0))
    assert 0 < whole.robust.sum() < 50
    left = [int(alone[: k + 1].all(0).sum()) for k in range(2)]
    assert whole.survivors == dict(zip(["apgd-ce", "apgd-t"], left, strict=True))
    assert whole.norms.max() <= 0.05 + 1e-6


def test_autoattack_is_composed_as_published() -> None:
    ce, targeted, fab, square = AutoAttack(eps=0.1).members
    assert registry.name_of(ce) == "apgd-ce"
    assert (ce.iterations, ce.repeats) == (100, 1)
    assert registry.name_of(targeted) == "apgd-t"
    assert (targeted.iterations, targeted.repeats) == (100, 9)
    assert registry.name_of(fab) == "fab-t"
    assert fab.repeats == 9
    assert registry.name_of(square) == "square"
    assert square.iterations == 4999  # and the last of 5000 queries is the judgement
    assert {member.radius for member in (ce, targeted, fab, square)} == {0.1}


def test_autoattack_finds_what_quick_finds() -> None:
    net = model()
    x, y = data(net)
    full = perturb(AutoAttack(eps=0.05, steps=6, targets=2, queries=8), net, x, y)
    assert torch.equal(full.robust & perturb(QUICK, net, x, y).robust, full.robust)


def test_later_members_attack_only_survivors_and_batches_change_nothing() -> None:
    net = model()
    x, y = data(net)
    whole, parts = perturb(QUICK, net, x, y, micro_batch=50), perturb(QUICK, net, x, y, micro_batch=7)
    assert torch.equal(whole.fooled, parts.fooled)
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=1e-5)
    alone = sum(perturb(member, net, x, y).forwards for member in QUICK.members)
    assert whole.forwards < alone


def test_progress_reaches_the_whole() -> None:
    net, told = model(), list[tuple[int, int]]()
    perturb(QUICK, net, *data(net), progress=lambda done, total: told.append((done, total)))
    assert told == sorted(told)
    assert told[-1] == (told[-1][1], 50 * (6 + 2 * 6))


def test_what_is_left_out_is_said() -> None:
    net = model()
    x, y = data(net)
    images = Dataset("test", "test", (x * 255).byte(), y, 5)
    found = survey(QUICK, net, images)
    assert "FAB" in found.warnings[0]
    assert "--parent" in found.warnings[1]
    assert list(found.survivors.values())[-1] == found.robust.sum()


def test_an_ensemble_is_no_inner_attack() -> None:
    with pytest.raises(OptionError, match="ensemble, which can only judge"):
        craft(QUICK, model(), torch.zeros(1, 1, 6, 6), torch.zeros(1, dtype=torch.long), (0,), torch.arange(1))
