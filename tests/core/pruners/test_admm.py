"""ADMM pruning: the updates of z and u, the pull, the hard pruning, resume."""

import copy
from typing import Any

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.pruners.admm import Admm, AdmmSession


def weights() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv": torch.randn(6, 4, 3, 3, generator=generator).requires_grad_(),
        "fc": torch.randn(5, 8, generator=generator).requires_grad_(),
    }


def attached(method: Admm, given: dict[str, torch.Tensor]) -> AdmmSession:
    session = method.attach(given, 10)
    assert isinstance(session, AdmmSession)
    return session


@pytest.mark.parametrize(
    ("granularity", "kept"),
    [
        ("weight", [[0, 1, 0, 1], [0, 0, 1, 1]]),  # 4 of 8
        ("column", [[0, 0, 1, 1], [0, 0, 1, 1]]),  # norms 1.03, 2.00, 3.00, 5.0
        ("channel", [[0, 0, 0, 0], [1, 1, 1, 1]]),
    ],
)
def test_projection_golden(granularity: str, kept: list[list[int]]) -> None:
    w = torch.tensor([[0.25, -2.0, 0.1, 3.0], [1.0, 0.1, 3.0, -4.0]])
    assert Admm(sparsity=0.5, granularity=granularity).mask(w).int().tolist() == kept


def test_a_column_is_an_input_at_a_place_of_the_kernel() -> None:
    w = torch.ones(3, 2, 2, 2)
    w[:, 1, 0, 1] = 5.0
    found = Admm(sparsity=0.9, granularity="column").mask(w)
    assert found.nonzero()[:, 1:].unique(dim=0).tolist() == [[1, 0, 1]]
    assert int(found.sum()) == 3


@pytest.mark.parametrize("granularity", ["weight", "column", "channel"])
def test_updates_follow_the_formulas(granularity: str) -> None:
    method = Admm(sparsity=0.5, granularity=granularity, rho=0.1, growth=1.5)
    given = weights()
    session = attached(method, given)
    for done in range(3):
        with torch.no_grad():
            for w in given.values():
                w += 0.3 * torch.randn(w.shape, generator=torch.Generator().manual_seed(done))
        u = {name: value.clone() for name, value in session.u.items()}
        session.update(given)
        for name, w in given.items():
            shifted = (w + u[name]).detach()
            torch.testing.assert_close(session.z[name], shifted * method.mask(shifted))
            torch.testing.assert_close(session.u[name] - u[name], w.detach() - session.z[name])
        assert session.rho == pytest.approx(0.1 * 1.5 ** (done + 1))
    assert not session.exact
    assert session.metrics()["residual"] > 0


def test_the_pull_is_a_quadratic() -> None:
    given = weights()
    session = attached(Admm(sparsity=0.5, rho=0.2), given)
    session.update(given)
    torch.as_tensor(session.penalty(given)).backward()
    for name, w in given.items():
        torch.testing.assert_close(w.grad, session.rho * (w - session.z[name] + session.u[name]).detach())


def test_it_converges_to_a_sparse_least_squares_solution() -> None:
    target = torch.tensor([[3.0, -0.2, 0.1, -2.0, 0.3, 1.0]])
    given: dict[str, Any] = {"w": torch.zeros(1, 6, requires_grad=True)}
    session = attached(Admm(sparsity=0.5, rho=0.5, growth=1.0, updates=40, switch=0.9), given)
    for step in range(400):
        for w in given.values():
            w.grad = None
        seen = session.view(given)["w"]
        (0.5 * (seen - target).square().sum() + session.penalty(given)).backward()
        with torch.no_grad():
            given["w"] -= 0.1 * given["w"].grad
        session.after_step(given, (step + 1) / 401)
    assert session.exact
    expected = torch.tensor([[3.0, 0, 0, -2.0, 0, 1.0]])
    torch.testing.assert_close(session.view(given)["w"].detach(), expected, atol=0.02, rtol=0)


def test_updates_are_spread_over_the_first_phase_and_pruning_follows() -> None:
    given = weights()
    session = attached(Admm(sparsity=0.75, switch=0.5, updates=4), given)
    seen = []
    for step in range(1, 20):
        session.after_step(given, step / 20)
        seen.append(session.done)
    assert seen[:9] == [0, 0, 1, 1, 2, 2, 2, 3, 3]
    assert seen[-1] == 3
    assert session.penalty(given) == 0
    view = session.view(given)
    for name, packed in session.encode(given).items():
        assert torch.equal(packed.dense(), view[name])
        assert packed.zeros == int(0.75 * given[name].numel())
        assert not given[name][~session.masks[name]].any()


def test_before_pruning_the_projection_is_exported() -> None:
    given = weights()
    session = attached(Admm(sparsity=0.75), given)
    assert torch.equal(session.view(given)["fc"], given["fc"])
    packed = session.encode(given)["fc"]
    assert torch.equal(packed.dense() != 0, Admm(sparsity=0.75).mask(given["fc"]))


def test_a_resumed_session_goes_on() -> None:
    given = weights()
    session = attached(Admm(updates=10), given)
    session.after_step(given, 0.3)
    resumed = attached(Admm(updates=10), {name: w + 1 for name, w in given.items()})
    resumed.load_state_dict(copy.deepcopy(session.state_dict()))
    for progress in (0.35, 0.4, 0.5):
        session.after_step(given, progress)
        resumed.after_step(given, progress)
        assert resumed.metrics() == session.metrics()
    assert all(torch.equal(resumed.masks[name], session.masks[name]) for name in given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": "1"}, "not between 0 and 1"),
        ({"granularity": "row"}, "granularity is 'row'"),
        ({"growth": "0.5"}, "growth is 0.5, outside"),
        ({"updates": "0"}, "updates is 0, outside"),
    ],
)
def test_refusals(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create("admm", options, "pruner")
