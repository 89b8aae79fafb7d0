"""Dynamic network rewiring: the density, dense momentum, the dynamic L2 term, resume."""

import copy
import itertools
from typing import Any

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.packed import Sparse
from robustq.core.pruners.dnr import Dnr, DnrSession
from robustq.core.quantizers.binary_relax import BinaryRelax


def weights() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv": torch.randn(6, 4, 3, 3, generator=generator).requires_grad_(),
        "fc": torch.randn(5, 8, generator=generator).requires_grad_(),
        "last": torch.randn(7, 5, generator=generator).requires_grad_(),
    }


def attached(method: Dnr, given: dict[str, torch.Tensor]) -> DnrSession:
    torch.manual_seed(0)
    session = method.attach(given, 10)
    assert isinstance(session, DnrSession)
    return session


def train(session: DnrSession, given: dict[str, Any], steps: range, total: int = 40):
    """Plain SGD on a quadratic whose optimum is far from the start, one yield a step."""
    for step in steps:
        target = {n: torch.randn(w.shape, generator=torch.Generator().manual_seed(7)) for n, w in given.items()}
        seen = session.view(given)
        loss = torch.stack([(seen[n] - target[n]).square().sum() for n in given]).sum() + session.penalty(given)
        for w in given.values():
            w.grad = None
        loss.backward()
        with torch.no_grad():
            for w in given.values():
                w -= 0.01 * w.grad
        session.after_step(given, (step + 1) / total)
        yield step


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
@pytest.mark.parametrize("start", ["random", "magnitude"])
def test_density_is_exact_at_all_times_and_masked_weights_are_zero(sparsity, start) -> None:
    given = weights()
    total = sum(w.numel() for w in given.values())
    session = attached(Dnr(sparsity=sparsity, rewirings=8, start=start), given)
    expected = total - int(total * sparsity + 0.5)
    before = {name: m.clone() for name, m in session.masks.items()}
    for _ in train(session, given, range(40)):
        assert sum(int(m.sum()) for m in session.masks.values()) == expected
        assert session.metrics()["density"] == pytest.approx(expected / total)
        seen = session.view(given)
        packed = session.encode(given)
        for name, m in session.masks.items():
            assert not seen[name][~m].any()
            assert not given[name][~m].any()
            assert isinstance(packed[name], Sparse)
            assert torch.equal(packed[name].dense(), seen[name])
            assert m.any()
    assert any(not torch.equal(session.masks[name], before[name]) for name in given)
    assert session.done == 8


@pytest.mark.parametrize("sparsity", [0.3, 0.6, 0.8])
def test_whole_channels_are_kept_within_the_density(sparsity) -> None:
    given = weights()
    session = attached(Dnr(sparsity=sparsity, granularity="channel", rewirings=8), given)
    budget = Dnr(sparsity=sparsity).budget(given)
    for _ in train(session, given, range(40)):
        kept = {name: m.flatten(1).all(1) for name, m in session.masks.items()}
        for name, m in session.masks.items():
            assert torch.equal(m.flatten(1).any(1), kept[name])
            assert kept[name].any()
        left = budget - sum(int(m.sum()) for m in session.masks.values())
        assert left >= 0
        assert all(kept[n].all() or session.size[n] > left for n in kept)


def test_the_gradient_and_its_momentum_are_dense() -> None:
    given: dict[str, Any] = {"w": torch.randn(4, 5).requires_grad_()}
    session = attached(Dnr(sparsity=0.75, rewirings=1, momentum=0.5, rho_start=0, rho_end=0), given)
    grads = torch.randn(3, 4, 5)
    for g in grads:
        for w in given.values():
            w.grad = None
        (session.view(given)["w"] * g).sum().backward()
        assert torch.equal(given["w"].grad, g)
        session.after_step(given, 0.1)
    torch.testing.assert_close(session.momentum["w"], 0.25 * grads[0] + 0.5 * grads[1] + grads[2])


def test_rewiring_golden() -> None:
    given = {"w": torch.tensor([[0.5, -0.1, 0.3, -0.9, 0.0, 0.0, 0.0, 0.0]], requires_grad=True)}
    session = attached(Dnr(sparsity=0.5, rewirings=2, rate=1.0, start="magnitude"), given)
    session.active = {"w": torch.arange(8) < 4}
    session.masks = {"w": torch.arange(8).view(1, 8) < 4}
    session.momentum = {"w": torch.tensor([[1.0, 9.0, 9.0, 1.0, 0.2, -0.6, 0.4, 0.1]])}
    assert session.rate == pytest.approx(0.5)
    session.rewire(given)
    # The two weakest go with their momentum, so that the two largest of the others grow.
    assert session.active["w"].nonzero().flatten().tolist() == [0, 3, 5, 6]
    assert given["w"][0].tolist() == [0.5, 0, 0, pytest.approx(-0.9), 0, 0, 0, 0]
    assert session.momentum["w"][0, 1:3].tolist() == [0, 0]


def test_drawn_connections_keep_the_size_of_signals() -> None:
    before, given = weights(), weights()
    session = attached(Dnr(sparsity=0.75), given)
    for name, seen in session.view(given).items():
        kept = session.masks[name]
        expected = before[name].detach() * kept / kept.float().mean().sqrt()
        assert torch.equal(seen.detach(), expected.half().float())
    untouched = weights()
    attached(Dnr(sparsity=0.75, start="magnitude"), untouched)
    assert all(torch.equal(w, before[name]) for name, w in untouched.items())


def test_a_channel_grows_along_its_momentum_at_the_length_of_the_weakest() -> None:
    given: dict[str, Any] = {"w": torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)}
    method = Dnr(sparsity=0.5, granularity="channel", rewirings=2, rate=1.0, start="magnitude")
    session = attached(method, given)
    optimizer = torch.optim.SGD(given.values(), lr=0.1, momentum=0.9)
    session.join(optimizer)
    optimizer.state[given["w"]]["momentum_buffer"] = torch.ones(4, 2)
    session.momentum = {"w": torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.1, 0.0], [0.0, 8.0]])}
    session.rewire(given)
    # The second channel goes, and the fourth comes, as long as the one that was kept.
    assert given["w"].tolist() == [[3.0, 4.0], [0.0, 0.0], [0.0, 0.0], [0.0, -5.0]]
    assert optimizer.state[given["w"]]["momentum_buffer"].tolist() == [[1, 1], [1, 1], [1, 1], [0, 0]]


def test_a_channel_without_momentum_grows_in_a_random_direction() -> None:
    """Behind a masked channel, a batch norm of bias 0 and a ReLU give no gradient: zero weights would stay zero."""
    given = {"w": torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0], [0.0, 0.0]], requires_grad=True)}
    method = Dnr(sparsity=0.5, granularity="channel", rewirings=2, rate=1.0, start="magnitude")
    session = attached(method, given)
    session.rewire(given)
    assert session.masks["w"].sum() == 4
    assert torch.equal(given["w"].any(1), session.masks["w"].any(1))
    lengths = given["w"].detach().norm(dim=1)
    torch.testing.assert_close(lengths[lengths > 0], torch.tensor([5.0, 5.0]))


def test_rate_zero_leaves_the_mask() -> None:
    given = weights()
    session = attached(Dnr(sparsity=0.5, rate=0.0), given)
    before = {name: m.clone() for name, m in session.masks.items()}
    session.rewire(given)
    assert all(torch.equal(m, before[name]) for name, m in session.masks.items())
    assert torch.as_tensor(session.penalty(given)).item() == 0


def test_growth_goes_where_momentum_is() -> None:
    given = {"a": torch.randn(10, 10).requires_grad_(), "b": torch.randn(10, 10).requires_grad_()}
    session = attached(Dnr(sparsity=0.8), given)
    session.momentum = {"a": torch.full((10, 10), 9.0), "b": torch.full((10, 10), 1.0)}
    session.rewire(given)
    # 20 active in each; 10 of each are pruned at a rate just under 0.5; the 20 are shared 9 to 1.
    assert {name: int(m.sum()) for name, m in session.masks.items()} == {"a": 28, "b": 12}


def test_the_l2_term_pulls_what_would_be_pruned() -> None:
    given = {"w": torch.tensor([[0.5, -0.1, 0.3, -0.9, 0.7, 0.2]], requires_grad=True)}
    session = attached(Dnr(sparsity=0.34, rewirings=2, rate=1.0, rho_start=0.1, rho_end=0.4, start="magnitude"), given)
    assert session.active["w"].tolist() == [True, False, True, True, True, False]
    penalty = session.penalty(given)
    # Half of the four go at the next rewiring: 0.3 and 0.5. z is the projection on 2-sparse vectors.
    shown = torch.tensor([0.5, 0.0, 0.3, -0.9, 0.7, 0.0])
    best = min(
        float((shown - shown * torch.zeros(6).index_fill(0, torch.tensor(support), 1.0)).square().sum())
        for support in itertools.combinations(range(6), 2)
    )
    assert isinstance(penalty, torch.Tensor)
    assert penalty.item() == pytest.approx(0.5 * 0.1 * best)
    penalty.backward()
    assert given["w"].grad is not None
    torch.testing.assert_close(given["w"].grad, 0.1 * torch.tensor([[0.5, 0, 0.3, 0, 0, 0]]))
    session.rewire(given)
    assert session.rho == pytest.approx(0.2)


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_a_resumed_session_goes_on_as_if_nothing_had_happened(granularity) -> None:
    method = Dnr(sparsity=0.6, rewirings=10, granularity=granularity)
    whole = weights()
    session = attached(method, whole)
    list(train(session, whole, range(15)))
    given = copy.deepcopy(whole)
    resumed = method.attach(weights(), 10)
    resumed.load_state_dict(copy.deepcopy(session.state_dict()))
    assert isinstance(resumed, DnrSession)
    list(train(session, whole, range(15, 40)))
    list(train(resumed, given, range(15, 40)))
    assert all(torch.equal(whole[name], given[name]) for name in whole)
    assert all(torch.equal(session.masks[name], resumed.masks[name]) for name in whole)


def test_ternary_weights_behind_it_keep_its_zeros() -> None:
    given = weights()
    first, second = attached(Dnr(sparsity=0.9), given), BinaryRelax(switch=0.0).attach(given, 10)
    seen = second.view(first.view(given))
    exported = {name: p.dense() for name, p in first.encode(given).items()}
    for name, packed in second.encode(exported).items():
        assert torch.equal(packed.dense(), seen[name])
        assert not seen[name][~first.masks[name]].any()
    torch.stack([s.sum() for s in seen.values()]).sum().backward()
    assert all(torch.equal(w.grad, torch.ones_like(w)) for w in given.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": "1"}, "not between 0 and 1"),
        ({"granularity": "column"}, "granularity is 'column'"),
        ({"start": "zero"}, "start is 'zero'"),
        ({"rewirings": "0"}, "rewirings is 0, outside"),
        ({"rate": "1.2"}, "rate is 1.2, outside"),
    ],
)
def test_refusals(options, said) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create("dnr", options, "pruner")


def test_an_unreachable_density_is_refused_before_training() -> None:
    with pytest.raises(OptionError, match=r"leaves 3 of 291 weights; one channel for each .* takes 49.\nGive at most"):
        Dnr(sparsity=0.99, granularity="channel").attach(weights(), 10)
    remedy = 0.831
    Dnr(sparsity=remedy, granularity="channel").attach(weights(), 10)
