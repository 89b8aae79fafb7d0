"""HYDRA: exact counts, the start at magnitude pruning, which gradients flow in which phase, resume."""

import copy
import math
from typing import Any

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.pruners.hydra import Hydra, HydraSession, scaled


def weights() -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    return {
        "conv": torch.randn(6, 4, 3, 3, generator=generator).requires_grad_(),
        "fc": torch.randn(5, 7, generator=generator).requires_grad_(),
    }


def attached(method: Hydra, given: dict[str, torch.Tensor]) -> HydraSession:
    session = method.attach(given, 10)
    assert isinstance(session, HydraSession)
    return session


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.9, 0.99])
def test_each_layer_keeps_its_share_and_starts_at_magnitude_pruning(sparsity: float) -> None:
    given = weights()
    session = attached(Hydra(sparsity=sparsity), given)
    for name, kept in session.masks.items():
        w = given[name].detach().abs()
        assert int(kept.sum()) == math.ceil(round((1 - sparsity) * w.numel(), 9))
        assert w[kept].min() > w[~kept].max()


def test_first_scores_golden() -> None:
    w = torch.tensor([[2.0, -4.0], [1.0, 0.0]])
    torch.testing.assert_close(scaled(w), math.sqrt(3) * torch.tensor([[0.5, -1.0], [0.25, 0.0]]))
    assert not scaled(torch.zeros(2, 3)).any()


def test_learning_moves_scores_and_not_weights() -> None:
    given = weights()
    session = attached(Hydra(sparsity=0.5), given)
    optimizer = torch.optim.SGD(given.values(), lr=0.1, momentum=0.9, weight_decay=0.1)
    session.join(optimizer)
    slope = {name: torch.randn(w.shape) for name, w in given.items()}
    seen = session.view(given)
    torch.stack([(seen[n] * slope[n]).sum() for n in given]).sum().backward()
    for name, score in session.scores.items():
        expected = slope[name] * given[name].detach().half().float() * score.detach().sign()
        torch.testing.assert_close(score.grad, expected)
    before = {name: w.detach().clone() for name, w in given.items()}
    first = {name: m.clone() for name, m in session.masks.items()}
    optimizer.step()
    assert all(torch.equal(w, before[name]) for name, w in given.items())
    assert any(not torch.equal(m, first[name]) for name, m in session.masks.items())


def test_training_on_moves_kept_weights_and_no_scores() -> None:
    given = weights()
    session = attached(Hydra(sparsity=0.5, switch=0.2), given)
    session.after_step(given, 0.2)
    assert not session.learning
    seen = session.view(given)
    torch.stack([w.sum() for w in seen.values()]).sum().backward()
    for name, kept in session.masks.items():
        assert torch.equal(given[name].grad, kept.float())
        assert session.scores[name].grad is None


@pytest.mark.parametrize("progress", [0.0, 0.5])
def test_what_is_seen_is_what_is_exported(progress: float) -> None:
    given = weights()
    session = attached(Hydra(), given)
    session.after_step(given, progress)
    seen = session.view({**given, "bias": torch.ones(3)})
    assert torch.equal(seen["bias"], torch.ones(3))
    assert session.exact
    for name, packed in session.encode(given).items():
        assert torch.equal(packed.dense(), seen[name])


def test_a_resumed_session_keeps_its_scores_in_the_optimizer() -> None:
    given = weights()
    session = attached(Hydra(), given)
    with torch.no_grad():
        session.scores["fc"].neg_().add_(1)
    session.after_step(given, 0.1)
    resumed = attached(Hydra(), given)
    held = resumed.scores["fc"]
    resumed.load_state_dict(copy.deepcopy(session.state_dict()))
    assert resumed.scores["fc"] is held
    assert torch.equal(held, session.scores["fc"])
    assert resumed.progress == 0.1


@pytest.mark.parametrize(
    ("options", "said"), [({"sparsity": "0"}, "not between 0 and 1"), ({"switch": "2"}, "switch is 2.0, outside")]
)
def test_refusals(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create("hydra", options, "pruner")
