"""Magnitude pruning without data and in training."""

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.packed import Sparse
from robustq.core.pruners.magnitude import Magnitude


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


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": "0"}, "not between 0 and 1"),
        ({"sparsity": "1"}, "not between 0 and 1"),
        ({"sparsity": "50%"}, "'50%' is not a number"),
        ({"scope": "net"}, "scope is 'net'"),
        ({"granularity": "row"}, "granularity is 'row'"),
    ],
)
def test_refusals(options, said):
    with pytest.raises(OptionError, match=said):
        registry.create("magnitude", options, "pruner")
