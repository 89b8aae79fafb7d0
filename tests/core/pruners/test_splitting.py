"""RVSM and RGSM: thresholds, the pull, what is exported."""

import math
from typing import Any

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.pruners.rgsm import Rgsm
from robustq.core.pruners.rvsm import Rvsm
from robustq.core.session import LAST


def test_rvsm_golden() -> None:
    w = torch.tensor([[0.3, -0.1, 0.2, -0.5]], requires_grad=True)
    method = Rvsm(lam=0.01, beta=0.5)  # threshold 0.2, which is not beyond itself
    assert method.keeps(torch.tensor([0.1999, 0.2001, -0.3])).tolist() == [False, True, True]
    session = method.attach({"w": w}, 10)
    penalty = session.penalty({"w": w})
    assert isinstance(penalty, torch.Tensor)
    penalty.backward()
    dropped = torch.tensor([[0.0, -0.1, 0.2, 0.0]]) * ~method.keeps(w)
    torch.testing.assert_close(w.grad, 0.5 * dropped)
    assert penalty.item() == pytest.approx(0.25 * float(dropped.square().sum()))


@pytest.mark.parametrize("value", [-0.9, -0.21, -0.19, 0.05, 0.19, 0.21, 0.9])
def test_the_hard_threshold_is_the_prox_of_the_number_of_weights(value: float) -> None:
    method = Rvsm(lam=0.01, beta=0.5)
    grid = torch.cat([torch.linspace(-1, 1, 2001), torch.zeros(1)])
    cost = 0.01 * (grid.abs() > 1e-6) + 0.25 * (grid - value) ** 2
    best = float(grid[cost.argmin()])
    found = value if bool(method.keeps(torch.tensor(value))) else 0.0
    assert best == pytest.approx(found, abs=1e-3)


@pytest.mark.parametrize("prox", ["l0", "lasso"])
@pytest.mark.parametrize("length", [0.1, 0.25, 0.33, 0.8])
def test_the_group_prox_is_the_minimum(prox: str, length: float) -> None:
    method = Rgsm(lam1=0.05 if prox == "l0" else 0.3, prox=prox)
    w = torch.tensor([[0.6, 0.8]]) * length
    factor = torch.cat([torch.linspace(0, 1.2, 1201), torch.zeros(1)])
    size = factor * length
    charge = (size > 1e-6).float() if prox == "l0" else size
    best = factor[(method.lam1 * charge + 0.5 * (size - length) ** 2).argmin()]
    torch.testing.assert_close(method.near(w), w * best, atol=2e-3, rtol=0)


def test_rgsm_golden() -> None:
    w = torch.tensor([[3.0, 4.0], [0.1, 0.1], [0.0, 0.0]], requires_grad=True)
    hard = Rgsm(lam1=0.5, lam2=0.1, beta=2.0)  # norm above 1
    assert hard.near(w).tolist() == [[3.0, 4.0], [0.0, 0.0], [0.0, 0.0]]
    soft = Rgsm(lam1=1.0, prox="lasso").near(w)
    torch.testing.assert_close(soft, torch.tensor([[2.4, 3.2], [0.0, 0.0], [0.0, 0.0]]))
    penalty = hard.attach({"w": w}, 10).penalty({"w": w})
    assert isinstance(penalty, torch.Tensor)
    assert penalty.item() == pytest.approx(0.1 * (5 + math.sqrt(0.02)) + 0.02)
    penalty.backward()
    first, second = torch.tensor([0.06, 0.08]), torch.full((2,), 0.1 / math.sqrt(2) + 0.2)
    torch.testing.assert_close(w.grad, torch.stack([first, second, torch.zeros(2)]))


@pytest.mark.parametrize("name", ["rvsm", "rgsm"])
def test_the_thresholded_copy_is_exported_and_the_weights_are_seen(name: str) -> None:
    options = {"lam": 0.02} if name == "rvsm" else {"lam1": 8.0}
    method = registry.create(name, options, "pruner")
    given = {"w": torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(0))}
    session = method.attach(given, 10)
    assert torch.equal(session.view(given)["w"], given["w"])
    assert not session.exact
    dense = session.encode(given)["w"].dense()
    kept = dense != 0
    assert torch.equal(dense[kept], given["w"].half().float()[kept])
    assert 0 < int(kept.sum()) < kept.numel()
    if name == "rgsm":
        alive = kept.flatten(1)
        assert torch.equal(alive.any(1), alive.all(1))


@pytest.mark.parametrize(
    ("name", "options"), [("rvsm", {"lam": 0.02}), ("rgsm", {"lam1": 8.0}), ("rgsm", {"lam1": 3.0, "prox": "lasso"})]
)
@pytest.mark.parametrize("switch", [0.5, 1.0])
def test_at_the_switch_the_weights_become_their_copy_for_good(name: str, options: Any, switch: float) -> None:
    method = registry.create(name, {**options, "switch": switch}, "pruner")
    given = {"w": torch.randn(8, 4, 2, 2, generator=torch.Generator().manual_seed(0)).requires_grad_()}
    session = method.attach(given, 10)
    session.after_step(given, 0.49)
    assert not session.exact
    u = session.encode(given)["w"].dense()
    session.after_step(given, 0.5 if switch < 1 else LAST)
    assert session.exact
    assert torch.equal(session.view(given)["w"], u)
    assert torch.equal(session.encode(given)["w"].dense(), u)
    assert session.penalty(given) == 0
    resumed = method.attach(given, 10)
    resumed.load_state_dict(session.state_dict())
    with torch.no_grad():
        given["w"].add_(1.0)
    seen = resumed.view(given)["w"]
    assert torch.equal(seen == 0, u == 0)
    assert torch.equal(seen, resumed.encode(given)["w"].dense())


def test_the_pull_makes_weights_sparse() -> None:
    target = torch.tensor([[1.0, 0.1, -0.05, -0.9, 0.02]])
    given: dict[str, Any] = {"w": target.clone().requires_grad_()}
    session = Rvsm(lam=0.02, beta=1.0).attach(given, 10)
    for _ in range(200):
        for w in given.values():
            w.grad = None
        (0.5 * (given["w"] - target).square().sum() + session.penalty(given)).backward()
        with torch.no_grad():
            given["w"] -= 0.2 * given["w"].grad
    # Where u is zero the optimum is target / (1 + beta), elsewhere the target itself.
    expected = torch.tensor([[1.0, 0.05, -0.025, -0.9, 0.01]])
    torch.testing.assert_close(given["w"].detach(), expected)
    assert session.encode(given)["w"].zeros == 3


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("rvsm", {"beta": "0"}, "Give a number above 0"),
        ("rvsm", {"lam": "-1"}, "lam is -1.0, outside"),
        ("rgsm", {"prox": "l1"}, "prox is 'l1'"),
        ("rgsm", {"lam2": "-1"}, "lam2 is -1.0, outside"),
    ],
)
def test_refusals(name: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create(name, options, "pruner")
