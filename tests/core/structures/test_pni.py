"""Parametric noise: its deviation, the gradient of its strength, what it leaves alone."""

import copy

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.structures.pni import NoiseSession, Pni


def weight() -> torch.Tensor:
    return torch.randn(20, 10, 3, 3, generator=torch.Generator().manual_seed(0)).mul_(0.3).requires_grad_()


def attached(w: torch.Tensor, **options: object) -> NoiseSession:
    session = registry.create("pni", options, "structure").attach({"w": w}, 10)
    assert isinstance(session, NoiseSession)
    return session


@pytest.mark.parametrize("level", ["layer", "channel", "element"])
def test_deviation_and_gradient(level: str) -> None:
    w = weight()
    session = attached(w, level=level, start=-0.5)
    shape = {"layer": (1, 1, 1, 1), "channel": (20, 1, 1, 1), "element": (20, 10, 3, 3)}[level]
    strength = session.strengths["w"]
    assert strength.shape == shape
    seen = session.jitter({"w": w}, (0, 3))["w"]
    moved = (seen - w).detach()
    assert float(moved.std()) == pytest.approx(0.5 * float(w.detach().std()), rel=0.05)
    eta = moved / -0.5
    slope = torch.randn(w.shape)
    (seen * slope).sum().backward()
    torch.testing.assert_close(strength.grad, (slope * eta).sum_to_size(shape), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(w.grad, slope)


def test_strength_zero_is_no_noise_and_draws_follow_the_key() -> None:
    w = weight()
    assert torch.equal(attached(w, start=0.0).jitter({"w": w}, (1,))["w"], w)
    session = attached(w)
    same, other = session.jitter({"w": w}, (1,))["w"], session.jitter({"w": w}, (2,))["w"]
    assert torch.equal(same, session.jitter({"w": w}, (1,))["w"])
    assert not torch.equal(same, other)


def test_pruned_weights_get_no_noise() -> None:
    w = weight().detach()
    w[3:9] = 0
    seen = attached(w).jitter({"w": w, "bias": torch.ones(2)}, (1,))
    assert not seen["w"][3:9].any()
    assert torch.equal(seen["bias"], torch.ones(2))


def test_the_optimizer_trains_strengths_without_decay() -> None:
    w = weight()
    session = attached(w)
    optimizer = torch.optim.SGD([w], lr=0.1, weight_decay=0.5)
    session.join(optimizer)
    session.strengths["w"].grad = torch.zeros_like(session.strengths["w"])
    optimizer.step()
    assert torch.equal(session.strengths["w"], torch.full((20, 1, 1, 1), 0.25))
    session.strengths["w"].grad = torch.ones_like(session.strengths["w"])
    optimizer.step()
    torch.testing.assert_close(session.strengths["w"].detach(), torch.full((20, 1, 1, 1), 0.15))


def test_a_resumed_session_keeps_its_strengths_in_the_optimizer() -> None:
    w = weight()
    session, resumed = attached(w, start=0.1), attached(w)
    held = resumed.strengths["w"]
    resumed.load_state_dict(copy.deepcopy(session.state_dict()))
    assert resumed.strengths["w"] is held
    assert resumed.metrics() == session.metrics() == {"noise": pytest.approx(0.1)}
    assert session.encode({"w": w}) == {}


def test_refusals() -> None:
    with pytest.raises(OptionError, match="level is 'kernel'"):
        registry.create("pni", {"level": "kernel"}, "structure")
    with pytest.raises(OptionError, match="'much' is not a number"):
        registry.create("pni", {"start": "much"}, "structure")
    assert Pni.trains()
