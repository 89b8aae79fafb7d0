"""Magnitude pruning without data and in training."""

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.packed import Sparse
from robustq.core.pruners.magnitude import GradualSession, Magnitude


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {"conv": torch.randn(6, 4, 3, 3, generator=generator), "fc": torch.randn(5, 7, generator=generator)}


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.93])
def test_exact_count_and_kept_values(scope, sparsity):
    given = weights()
    found = Magnitude(sparsity=sparsity, scope=scope).project(given)
    zeros = {name: tensor.zeros for name, tensor in found.items()}
    if scope == "global":
        assert sum(zeros.values()) == int(sum(w.numel() for w in given.values()) * sparsity + 0.5)
    else:
        assert zeros == {name: int(w.numel() * sparsity + 0.5) for name, w in given.items()}
    for name, tensor in found.items():
        assert isinstance(tensor, Sparse)
        kept = tensor.mask
        assert torch.equal(tensor.dense()[kept], given[name][kept].half().float())


def test_channel_granularity_empties_whole_channels():
    found = Magnitude(sparsity=0.5, scope="layer", granularity="channel").project(weights())["conv"].dense()
    assert int((found.flatten(1).abs().sum(1) == 0).sum()) == 3
    assert int((found == 0).sum()) == 3 * 36


def test_nothing_to_do_with_no_weights():
    assert Magnitude().project({}) == {}


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_training_sees_what_is_exported_and_masks_the_gradient(granularity):
    latent = {name: w.requires_grad_() for name, w in weights().items()}
    other = torch.ones(3)
    session = Magnitude(sparsity=0.5, granularity=granularity).attach(latent, 10)
    seen = session.view({**latent, "bias": other})
    assert seen["bias"] is other
    packed = session.encode({**latent, "bias": other})
    assert set(packed) == set(latent)
    for name, tensor in packed.items():
        assert torch.equal(tensor.dense(), seen[name].detach())
    torch.stack([seen[name].sum() for name in latent]).sum().backward()
    for name, tensor in packed.items():
        assert isinstance(tensor, Sparse)
        grad = latent[name].grad
        assert grad is not None
        assert torch.equal(grad, tensor.mask.float())


def test_a_resumed_session_keeps_its_masks():
    given = weights()
    session = Magnitude(sparsity=0.5).attach(given, 10)
    moved = {name: w.flip(0) for name, w in given.items()}
    resumed = Magnitude(sparsity=0.5).attach(moved, 10)
    resumed.load_state_dict(session.state_dict())
    for name, seen in resumed.view(moved).items():
        assert torch.equal(seen, session.view(moved)[name])


def test_the_ramp_is_a_cubic():
    method = Magnitude(sparsity=0.8, ramp=0.5)
    assert [method.reached(p) for p in (0.0, 0.25, 0.5, 0.9)] == pytest.approx([0.0, 0.7, 0.8, 0.8])


@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_sparsity_grows_and_what_is_dropped_stays_zero(granularity):
    given = weights()
    final = Magnitude(sparsity=0.8, granularity=granularity)
    session = Magnitude(sparsity=0.8, ramp=0.5, granularity=granularity).attach(given, 20)
    assert isinstance(session, GradualSession)
    assert torch.equal(session.view(given)["fc"], given["fc"].half().float())
    dropped = []
    for step in range(1, 20):
        before = session.masks
        exported = session.encode(given)
        assert {name: p.zeros for name, p in exported.items()} == {
            name: p.zeros for name, p in final.project({n: w * before[n] for n, w in given.items()}).items()
        }
        for w in given.values():
            w += 0.1 * torch.randn(w.shape, generator=torch.Generator().manual_seed(step))
        session.after_step(given, step / 20)
        assert not any((session.masks[name] & ~before[name]).any() for name in given)
        dropped.append(sum(int((~m).sum()) for m in session.masks.values()))
        assert session.exact == (step >= 10)
    assert dropped == sorted(dropped)
    assert dropped[0] < dropped[3] < dropped[9] == dropped[-1]
    seen = session.view(given)
    assert all(torch.equal(p.dense(), seen[name]) for name, p in session.encode(given).items())


def test_a_resumed_ramp_goes_on():
    given = weights()
    method = Magnitude(sparsity=0.8, ramp=0.5)
    session = method.attach(given, 20)
    session.after_step(given, 0.2)
    resumed = method.attach(weights(), 20)
    assert isinstance(session, GradualSession)
    assert isinstance(resumed, GradualSession)
    resumed.load_state_dict(session.state_dict())
    assert resumed.metrics() == session.metrics() == {"sparsity": pytest.approx(0.8 * (1 - 0.6**3))}
    for progress in (0.3, 0.6):
        session.after_step(given, progress)
        resumed.after_step(given, progress)
    assert all(torch.equal(resumed.masks[name], session.masks[name]) for name in given)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": "0"}, "not between 0 and 1"),
        ({"sparsity": "1"}, "not between 0 and 1"),
        ({"sparsity": "50%"}, "'50%' is not a number"),
        ({"ramp": "1"}, "ramp is 1.0, outside"),
        ({"scope": "net"}, "scope is 'net'"),
        ({"granularity": "row"}, "granularity is 'row'"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(OptionError, match=said):
        registry.create("magnitude", options, "pruner")
