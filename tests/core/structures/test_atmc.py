"""ATMC: the product at the start, the budget at all times, the updates of copies and duals, resume, refusals."""

import copy
from typing import Any

import pytest
import torch

from robustq.core import factors, registry
from robustq.core.errors import OptionError
from robustq.core.packed import Factored
from robustq.core.session import LAST
from robustq.core.structures.atmc import Atmc, AtmcSession


def weights() -> dict[str, Any]:
    draws = torch.Generator().manual_seed(0)
    return {
        "conv": torch.randn(6, 4, 3, 3, generator=draws).requires_grad_(),
        "fc": torch.randn(8, 5, generator=draws).requires_grad_(),
    }


def attached(method: Atmc, given: dict[str, torch.Tensor]) -> AtmcSession:
    session = method.attach(given, 10)
    assert isinstance(session, AtmcSession)
    return session


def kept(matrices: Any) -> int:
    return sum(int((m != 0).sum()) for m in matrices)


def trained(session: AtmcSession, given: dict[str, Any], steps: int, since: int = 0, total: int = 40) -> None:
    """Gradient descent on the distance to other weights."""
    goal = {name: torch.randn(w.shape, generator=torch.Generator().manual_seed(1)) for name, w in given.items()}
    own = [*given.values(), *session.square.values(), *session.rest.values()]
    for step in range(since + 1, since + steps + 1):
        for p in own:
            p.grad = None
        seen = session.view(given)
        loss = torch.stack([(seen[name] - goal[name]).square().sum() for name in given]).sum()
        (0.5 * loss + session.penalty(given)).backward()
        with torch.no_grad():
            for p in own:
                if p.grad is not None:
                    p -= 0.05 * p.grad
        session.after_step(given, min(step / total, LAST))


def test_at_the_start_the_product_is_the_weight() -> None:
    given = weights()
    before = {name: w.detach().clone() for name, w in given.items()}
    session = attached(Atmc(sparsity=0.0, bits=32, factor=0.0), given)
    for name, seen in session.view(given).items():
        assert torch.equal(seen, before[name].half().float())
    assert session.square["conv"].shape == (6, 6)
    assert session.square["fc"].shape == (5, 5)


def test_projection_golden() -> None:
    w = {"a": torch.tensor([[0.1, -5.0], [3.0, 0.2]]), "b": torch.tensor([[0.3, 0.4, 4.0]])}
    session = attached(Atmc(sparsity=3 / 7, bits=32), w)
    assert session.budget == 4
    assert w["a"].tolist() == [[0, -5], [3, 0]]
    assert w["b"].flatten().tolist() == pytest.approx([0, 0.4, 4])
    with torch.no_grad():
        session.square["a"][0, 1] = 3.5
        session.rest["b"][0, 0] = -2.0
    session.after_step(w, 0.5)  # of 5, 3, 0.4, 4, 3.5 and 2 the four largest stay
    assert w["a"].tolist() == [[0, -5], [3, 0]]
    assert w["b"].tolist() == [[0, 0, 4]]
    assert session.square["a"].tolist() == [[0, 3.5], [0, 0]]
    assert kept(session.rest.values()) == 0


@pytest.mark.parametrize("bits", [1, 2, 4, 32])
def test_budget_and_codebooks_hold_at_all_times(bits: int) -> None:
    given = weights()
    session = attached(Atmc(sparsity=0.75, bits=bits, factor=0.2, quantize=0.5, interval=3), given)
    assert session.budget == 64
    for step in range(40):
        trained(session, given, 1, since=step)
        assert kept([*given.values(), *session.square.values(), *session.rest.values()]) == 64
        stored = session.encode(given)
        parts = [m for p in stored.values() if isinstance(p, Factored) for m in (p.weight, p.square, p.rest)]
        assert len(parts) == 6
        assert kept(parts) == 64
        assert all(len(m[m != 0].unique()) <= 2**bits for m in parts)
        assert session.exact == (bits == 32 or step == 39)
    assert kept([*session.square.values(), *session.rest.values()]) > 0
    assert session.metrics()["factored"] > 0


@pytest.mark.parametrize("bits", [2, 32])
def test_what_is_seen_in_the_end_is_what_is_stored(bits: int) -> None:
    given = weights()
    session = attached(Atmc(sparsity=0.5, bits=bits), given)
    trained(session, given, 40)
    seen = session.view(given)
    for name, packed in session.encode(given).items():
        assert torch.equal(packed.dense(), seen[name])


def test_the_first_stage_has_no_factors() -> None:
    given = weights()
    session = attached(Atmc(sparsity=0.5, factor=0.5), given)
    trained(session, given, 19)
    assert kept([*session.square.values(), *session.rest.values()]) == 0
    trained(session, given, 5, since=19)
    assert kept([*session.square.values(), *session.rest.values()]) > 0


def test_gradients_are_those_of_the_product() -> None:
    given = weights()
    session = attached(Atmc(sparsity=0.5, factor=0.0), given)
    trained(session, given, 3)
    slope = {name: torch.randn(w.shape, generator=torch.Generator().manual_seed(2)) for name, w in given.items()}
    own = [*given.values(), *session.square.values(), *session.rest.values()]
    found = torch.autograd.grad(torch.stack([(session.view(given)[n] * slope[n]).sum() for n in given]).sum(), own)
    with torch.enable_grad():
        halves = {n: [m.detach().half().float().requires_grad_() for m in session._of(given, n)] for n in given}
        plain = torch.stack([(factors.product(*halves[n]) * slope[n].flatten(1)).sum() for n in given]).sum()
    flat = [m for part in range(3) for m in (halves[n][part] for n in given)]
    for a, b in zip(found, torch.autograd.grad(plain, flat), strict=True):
        torch.testing.assert_close(a.flatten(), b.flatten())


def test_updates_follow_the_formulas() -> None:
    given = weights()
    session = attached(Atmc(sparsity=0.75, bits=1, rho=0.2), given)
    for _ in range(3):
        now = [m.detach().clone() for m in session._all(given)]
        before = session.u or [torch.zeros_like(m) for m in now]
        session.update(given)
        for w, old, z, u in zip(now, before, session.z, session.u, strict=True):
            torch.testing.assert_close(u - old, w - z)
            assert len(z[z != 0].unique()) <= 2
        assert kept(session.z) == session.budget
    torch.as_tensor(session.penalty(given)).backward()
    for i, w in enumerate(given.values()):
        pull = 0.2 * (w.flatten(1) - session.z[3 * i] + session.u[3 * i])
        torch.testing.assert_close(w.grad.flatten(1), pull.detach())
    assert session.metrics()["dual"] > 0


def test_the_pull_closes_the_gap() -> None:
    given: dict[str, Any] = {"w": torch.tensor([[3.0, 2.6, 0.1], [-1.0, 0.2, -1.2], [0.0, 0.1, 0.3]])}
    given["w"].requires_grad_()
    session = attached(Atmc(sparsity=5 / 9, bits=1, factor=0.0, quantize=0.1, rho=1.0, interval=1), given)
    goal = given["w"].detach().clone()
    for step in range(1, 400):
        given["w"].grad = None
        (0.5 * (session.view(given)["w"] - goal).square().sum() + session.penalty(given)).backward()
        with torch.no_grad():
            given["w"].sub_(given["w"].grad, alpha=0.1)
        session.after_step(given, step / 400)
    expected = torch.tensor([[2.8, 2.8, 0], [-1.1, 0, -1.1], [0, 0, 0]])
    torch.testing.assert_close(given["w"].detach(), expected, atol=0.02, rtol=0)
    torch.testing.assert_close(session.z[0], expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("at", [5, 18, 30])
def test_a_resumed_session_goes_on(at: int) -> None:
    method = Atmc(sparsity=0.6, bits=2, factor=0.25, quantize=0.5, interval=4)
    given = weights()
    session = attached(method, given)
    trained(session, given, at)
    again = {name: w.detach().clone().requires_grad_() for name, w in given.items()}
    resumed = attached(method, {name: w + 1 for name, w in weights().items()})
    resumed.load_state_dict(copy.deepcopy(session.state_dict()))
    trained(session, given, 40 - at, since=at)
    trained(resumed, again, 40 - at, since=at)
    assert resumed.exact
    for name, packed in session.encode(given).items():
        assert torch.equal(packed.dense(), resumed.encode(again)[name].dense())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": "1"}, "not from 0 to below 1"),
        ({"sparsity": "-0.1"}, "not from 0 to below 1"),
        ({"bits": "9"}, "bits is 9"),
        ({"bits": "0"}, "bits is 0"),
        ({"interval": "0"}, "interval is 0, outside"),
        ({"rho": "-1"}, "rho is -1.0, outside"),
    ],
)
def test_refusals(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create("atmc", options, "structure")


def test_a_density_that_leaves_a_layer_nothing_is_refused() -> None:
    small = {"large": torch.ones(4, 4), "small": torch.full((2, 3), 0.1)}
    with pytest.raises(OptionError, match=r"of 22 weights 4 are kept at sparsity=0\.8, and none of them in small"):
        Atmc(sparsity=0.8).attach(small, 10)


def test_nothing_to_compress_is_refused() -> None:
    with pytest.raises(OptionError, match="no weight to compress"):
        Atmc().attach({}, 10)
