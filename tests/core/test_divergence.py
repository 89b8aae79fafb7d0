"""Where NaN and Inf come from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core import divergence
from robustq.core.checkpoint import load
from robustq.core.errors import TrainingError
from robustq.core.recipe import Recipe
from robustq.core.training import train

NAN, INF = float("nan"), float("inf")


def test_spoiled_tensors_are_named() -> None:
    whole = {"a": torch.ones(3), "b": torch.tensor([1.0, NAN]), "c": None, "d": torch.tensor([[INF]])}
    assert divergence.spoiled(whole) == ["b", "d"]
    assert divergence.spoiled({"a": torch.full((4,), 3e38), "c": None}) == []
    assert divergence.spoiled({}) == []


class Root(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sqrt()


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (nn.Sequential(nn.Linear(2, 2), Root(), nn.Linear(2, 2), nn.ReLU()), "it arose in the layer 1"),
        (nn.Sequential(nn.Linear(2, 2), nn.ReLU()), "the network's outputs are finite, only their loss is not"),
    ],
)
def test_the_first_layer_is_named(net: nn.Sequential, said: str) -> None:
    x = torch.ones(1, 2)
    with torch.no_grad():
        net[0].get_parameter("weight").fill_(-1.0)
    assert divergence.origin(net, dict(net.named_parameters()), lambda: net(x)) == said
    assert not any(m._forward_hooks for m in net.modules())


def test_spoiled_weights_come_before_layers() -> None:
    net = nn.Linear(2, 2)
    with torch.no_grad():
        net.weight[0, 0] = NAN
    found = divergence.origin(net, dict(net.named_parameters()), lambda: net(torch.ones(1, 2)))
    assert found == "the weights weight are not finite"


def recipe(quadrants: str) -> Recipe:
    return Recipe.from_dict(
        {
            "model": {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 3}},
            "data": {"name": quadrants},
            "train": {"epochs": 3, "batch_size": 50, "lr": 0.05, "validation": 40},
        }
    )


@pytest.mark.parametrize("backward", [False, True], ids=["loss", "gradient"])
def test_training_stops_with_step_layer_and_last_good_checkpoint(
    quadrants: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backward: bool
) -> None:
    """The second convolution gives NaN, forwards or backwards, in the first batch of the second epoch."""
    from robustq.core.models.lenet import LeNetModule

    calm, passes = LeNetModule.forward, iter(range(10**6))

    def wild(self: Any, x: Tensor) -> Tensor:
        if self.training and next(passes) >= 4:
            handle = self.conv2.register_forward_hook(lambda m, i, out: _spoiling(out) if backward else out / 0 * 0)
            try:
                return calm(self, x)
            finally:
                handle.remove()
        return calm(self, x)

    monkeypatch.setattr(LeNetModule, "forward", wild)
    state = tmp_path / "small.rq.safetensors.state"
    where = "the gradient is not finite, from conv2.bias on" if backward else "it arose in the layer (conv2|relu2)"
    with pytest.raises(TrainingError, match=rf"(?s)at step 4 \(epoch 2\).*{where}.*epoch 1, in .*small.last-good"):
        train(recipe(quadrants), state_path=state)
    assert not state.exists()
    good = load(tmp_path / "small.last-good.rq.safetensors")
    assert good.meta["validation"]["epoch"] == 1


def _spoiling(out: Tensor) -> Tensor:
    out.register_hook(lambda grad: grad * NAN)
    return out * 1.0


def test_without_a_finished_epoch_nothing_is_kept(quadrants: str, tmp_path: Path) -> None:
    wild = recipe(quadrants).with_values(["train.lr=1e30"])
    with pytest.raises(TrainingError, match=r"no epoch was finished before\.\nLower the learning rate"):
        train(wild, state_path=tmp_path / "a.state")
    assert list(tmp_path.iterdir()) == []
