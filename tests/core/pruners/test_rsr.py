"""Robust sparse regularisation: lasso in both variants, the threshold, resume."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.pruners.rsr import Rsr, RsrSession, softened
from robustq.core.session import LAST


def weights() -> dict[str, torch.Tensor]:
    return {"w": torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).requires_grad_()}


def attached(method: Rsr, given_weights: dict[str, torch.Tensor]) -> RsrSession:
    session = method.attach(given_weights, 10)
    assert isinstance(session, RsrSession)
    return session


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2), st.floats(0, 1))
def test_the_soft_threshold_is_the_prox_of_the_absolute_value(value: float, amount: float) -> None:
    grid = torch.linspace(-2.5, 2.5, 5001)
    best = grid[(amount * grid.abs() + 0.5 * (grid - value) ** 2).argmin()]
    assert float(softened(torch.tensor(value), amount)) == pytest.approx(float(best), abs=1e-3)


def test_subgradient() -> None:
    given_weights = weights()
    penalty = attached(Rsr(lasso=0.01), given_weights).penalty(given_weights)
    assert isinstance(penalty, torch.Tensor)
    assert penalty.item() == pytest.approx(0.01 * float(given_weights["w"].detach().abs().sum()))
    penalty.backward()
    torch.testing.assert_close(given_weights["w"].grad, 0.01 * given_weights["w"].detach().sign())


def test_the_proximal_variant_follows_the_learning_rate_and_gives_zeros() -> None:
    given_weights = weights()
    session = attached(Rsr(lasso=2.0, variant="proximal"), given_weights)
    optimizer = torch.optim.SGD(given_weights.values(), lr=0.1)
    session.join(optimizer)
    assert session.penalty(given_weights) == 0
    before = given_weights["w"].detach().clone()
    optimizer.param_groups[0]["lr"] = 0.05
    session.after_step(given_weights, 0.1)
    assert torch.equal(given_weights["w"].detach(), softened(before, 0.1))
    assert torch.equal(given_weights["w"] == 0, before.abs() <= 0.1)


@pytest.mark.parametrize("progress", [0.3, 0.9])
def test_the_threshold(progress: float) -> None:
    given_weights = weights()
    before = given_weights["w"].detach().clone()
    session = attached(Rsr(threshold=0.5), given_weights)
    session.after_step(given_weights, progress)
    kept = before.abs() >= 0.5
    packed = session.encode(given_weights)["w"]
    assert torch.equal(packed.dense(), before.half().float() * kept)
    assert session.exact == (progress >= 0.9)
    if session.exact:
        seen = session.view(given_weights)["w"]
        assert torch.equal(seen, packed.dense())
        assert session.penalty(given_weights) == 0
        session.after_step(given_weights, 0.95)
        assert torch.equal(session.masks["w"], kept)


def test_a_resumed_session_keeps_masks() -> None:
    given_weights = weights()
    session = attached(Rsr(threshold=0.5, start=0.1), given_weights)
    session.after_step(given_weights, 0.95)
    resumed = attached(Rsr(threshold=0.5), weights())
    resumed.load_state_dict(copy.deepcopy(session.state_dict()))
    assert torch.equal(resumed.masks["w"], session.masks["w"])
    assert resumed.exact


def test_without_a_switch_the_threshold_comes_after_the_last_step() -> None:
    given_weights = weights()
    session = attached(Rsr(threshold=0.5, switch=1.0), given_weights)
    session.after_step(given_weights, 0.999)
    assert not session.exact
    session.after_step(given_weights, LAST)
    assert session.exact
    assert torch.equal(session.view(given_weights)["w"], session.encode(given_weights)["w"].dense())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"lasso": "-1"}, "lasso is -1.0, outside"),
        ({"variant": "l2"}, "variant is 'l2'"),
        ({"level": "net"}, "level is 'net'"),
    ],
)
def test_refusals(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create("rsr", options, "pruner")
