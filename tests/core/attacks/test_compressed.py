"""The parent's adversarials in process, and the ensemble for models that were compressed."""

import pytest
import torch
from torch import Tensor, nn

from robustq.core.attacks.attack import Knowledge
from robustq.core.attacks.compressed import Compressed
from robustq.core.attacks.ensemble import Quick
from robustq.core.attacks.pgd import Pgd
from robustq.core.attacks.replay import Parent, Replay
from robustq.core.driver import perturb
from robustq.core.errors import OptionError

EPS = 0.06
ENSEMBLE = Compressed(eps=EPS, steps=10, queries=20)


class Net(nn.Module):
    """A network, which may see its input in few levels."""

    def __init__(self, classes: int = 5, levels: int | None = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.levels, self.calls = levels, 0
        self.net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x if self.levels is None else (x * self.levels).round() / self.levels)


def data(net: nn.Module, n: int = 50) -> tuple[Tensor, Tensor]:
    x = torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return x, net(x).argmax(1)


def test_replay_takes_what_the_parent_falls_to() -> None:
    parent, child = Net().eval(), Net(levels=15).eval()
    x, y = data(child)
    masked = perturb(Pgd(eps=EPS, loss="margin"), lambda x: child(x.detach()), x, y, randomized=False)
    found = perturb(Replay(eps=EPS).informed(Knowledge(Parent(parent, 50))), child, x, y)
    assert found.backwards == 0
    assert found.robust.sum() < masked.robust.sum()
    assert found.norms.max() <= EPS + 1e-6
    same = perturb(Replay(eps=EPS).informed(Knowledge(Parent(parent, 50))), parent, x, y)
    white = perturb(Pgd(eps=EPS, steps=50, loss="margin"), parent, x, y)
    assert same.robust.sum() <= white.robust.sum() + 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_crafting_happens_once_for_all_children_and_batches(norm: str) -> None:
    model, child = Net().eval(), Net(levels=15).eval()
    x, y = data(child)
    parent = Parent(model, 50)
    attack = Replay(eps=EPS, norm=norm, steps=5).informed(Knowledge(parent))
    first = perturb(attack, child, x, y, drop=False)
    calls = model.calls
    assert calls == 2 * 5
    again = perturb(attack, child, x, y, micro_batch=7, drop=False)
    assert model.calls == calls
    assert torch.equal(first.adversarial, again.adversarial)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    mixed = perturb(attack, child, x[order], y[order], index=order)
    assert torch.equal(mixed.fooled, first.fooled[order])
    assert model.calls == calls
    perturb(attack, child, 1 - x, y)  # other images at the same places are crafted anew
    assert model.calls > calls


def test_replay_without_a_parent_is_refused() -> None:
    x, y = data(Net())
    with pytest.raises(OptionError, match="parent is not known"):
        perturb(Replay(eps=EPS), Net().eval(), x, y)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_result_is_the_worst_case_of_the_members(classes: int) -> None:
    parent, child = Net(classes).eval(), Net(classes, levels=7).eval()
    x, y = data(child)
    for ensemble in (ENSEMBLE, Quick(eps=EPS, steps=10)):
        known = ensemble.informed(Knowledge(Parent(parent, 50)))
        whole = perturb(known, child, x, y)
        names = list(whole.survivors)
        assert names[0] == "replay"
        assert len(names) == len(known.members)
        assert list(whole.survivors.values())[-1] == whole.robust.sum()
        for member in known.members[:1]:
            assert (perturb(member, child, x, y).robust & whole.robust).sum() == whole.robust.sum()
        without = perturb(ensemble, child, x, y)
        assert "replay" not in without.survivors
        assert "--parent" in ensemble.remarks()[-1]
        assert not any("--parent" in remark for remark in known.remarks())


def test_rounding_is_passed_from_the_first_step_on() -> None:
    child = Net(levels=7).eval()
    x, y = data(child)
    found = perturb(ENSEMBLE, child, x, y)
    assert found.through_rounding
    assert found.zero_gradient == 0
    plain = perturb(ENSEMBLE, Net().eval(), *data(Net()))
    assert not plain.through_rounding


def test_passes_are_averaged_where_the_model_draws_noise_only() -> None:
    members = ENSEMBLE.informed(Knowledge(randomized=True)).members
    assert [member.eot for member in members] == [20, 20]
    assert [member.eot for member in ENSEMBLE.members] == [1, 1, 1]
