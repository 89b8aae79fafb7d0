"""Mixed precision: bf16 in the passes of training, float32 in all that stays."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core.architecture import Classifier, create
from robustq.core.attacks.pgd import Pgd
from robustq.core.checkpoint import dumps
from robustq.core.folding import Folding, find
from robustq.core.recipe import Recipe
from robustq.core.training import train
from robustq.core.view import View

SMALL = {"depth": 8, "width": 4, "channels": 1, "classes": 4}
X = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(create("resnet", SMALL)).train()


def view(model: Classifier, precision: str = "bf16", folding: Folding | None = None) -> View:
    weights = dict(model.net.named_parameters())
    return View(model, (), weights, precision=precision, folding=folding or Folding())


def recipe(quadrants: str, **sections: Any) -> Recipe:
    content: dict[str, Any] = {
        "model": {"arch": "resnet", "args": SMALL},
        "data": {"name": quadrants, "limit": 80},
        "train": {"epochs": 2, "batch_size": 16, "lr": 0.05, "validation_attack_limit": 4, "precision": "bf16"},
        "attack": {"name": "pgd", "eps": 0.1, "steps": 2, "step": 0.05},
        "objective": {"name": "pgd-at"},
        "compress": [{"name": "binary-relax"}],
    }
    return Recipe.from_dict({**content, **sections})


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, torch.dtype]]:
    """Of each convolution that ran whether it was in training mode, and the type of what it gave."""
    seen: list[tuple[bool, torch.dtype]] = []
    original = nn.Conv2d._conv_forward

    def noted(self: nn.Conv2d, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        found = original(self, x, weight, bias)
        seen.append((self.training, found.dtype))
        return found

    monkeypatch.setattr(nn.Conv2d, "_conv_forward", noted)
    return seen


def test_passes_are_bf16_and_what_leaves_them_is_not(computed: list[tuple[bool, torch.dtype]]) -> None:
    net = model()
    logits = view(net)(X)
    logits.square().sum().backward()
    logits = logits.detach()
    assert {dtype for _, dtype in computed} == {torch.bfloat16}
    assert logits.dtype == torch.float32
    assert {p.dtype for p in net.parameters()} == {p.grad.dtype for p in net.parameters() if p.grad is not None}
    exact = view(model(), "float32")(X).detach()
    assert not torch.equal(logits, exact)
    assert float((logits - exact).abs().max()) < 0.05 * float(exact.abs().max())


@pytest.mark.parametrize("folds", [False, True])
def test_attacks_are_bf16_too(computed: list[tuple[bool, torch.dtype]], folds: bool) -> None:
    net = model()
    folding = find(net, X[:2]) if folds else Folding()
    assert bool(folding.triples) == folds
    computed.clear()
    attack = Pgd(eps=0.1, steps=2, step=0.05)
    found = view(net, folding=folding).attacked(attack, X, torch.arange(6) % 4, (0,), torch.arange(6))
    assert computed == [(False, torch.bfloat16)] * 14
    assert found.dtype == torch.float32
    assert float((found - X).abs().max()) <= 0.1 + 1e-6


def test_second_derivatives_are_exact(computed: list[tuple[bool, torch.dtype]]) -> None:
    net = model()
    assert torch.equal(view(net).at({}, X), view(net, "float32").at({}, X))
    assert {dtype for _, dtype in computed} == {torch.float32}


def test_validation_and_export_are_float32(quadrants: str, computed: list[tuple[bool, torch.dtype]]) -> None:
    seen = train(recipe(quadrants, data={"name": quadrants, "limit": 40}))
    assert {(True, torch.bfloat16), (False, torch.bfloat16)} <= set(computed)
    assert {w.dtype for w in seen.checkpoint.dense().values()} == {torch.float32, torch.int64}
    last = len(computed) - 1 - [d for _, d in reversed(computed)].index(torch.bfloat16)
    assert len(computed[last + 1 :]) > 0  # batch norm re-estimated and images classified after the last step
    assert {d for _, d in computed[last + 1 :]} == {torch.float32}


def test_a_killed_run_resumes_to_the_same_bytes(quadrants: str, tmp_path: Path) -> None:
    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 5:
            raise KeyboardInterrupt

    whole = train(recipe(quadrants))
    with pytest.raises(KeyboardInterrupt):
        train(recipe(quadrants), state_path=tmp_path / "state", on_event=kill)
    assert dumps(train(recipe(quadrants), state_path=tmp_path / "state").checkpoint) == dumps(whole.checkpoint)


@pytest.mark.parametrize(
    "sections",
    [
        {"model": {"arch": "enresnet", "args": SMALL}, "objective": {"name": "trades"}},
        {"compress": [{"name": "quantized-relu"}, {"name": "pni", "on": "weight,input,activation"}]},
        {"compress": [{"name": "hydra"}], "objective": {"name": "awp"}},
        {"compress": [], "objective": {"name": "h-sat", "images": 4, "iterations": 2}},
    ],
    ids=["enresnet", "inserted layers", "awp", "h-sat"],
)
def test_all_kinds_train(quadrants: str, sections: dict[str, Any]) -> None:
    history = train(recipe(quadrants, **sections)).history
    assert all(entry["loss"] < 20 for entry in history)


def test_recipes_without_it_are_as_they_were(quadrants: str) -> None:
    assert recipe(quadrants).to_dict()["train"]["precision"] == "bf16"
    plain = recipe(quadrants).replace("train", precision="float32")
    assert "precision" not in plain.to_dict()["train"]
    assert Recipe.from_dict(plain.to_dict()) == plain
