"""Training where --device says: nothing is left behind on the CPU, and the result is the same.

There need not be a GPU: `elsewhere` refuses what one refuses. Under it, training must give what it gives on the CPU.
"""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustq.core import execution, registry
from robustq.core.attacks.pgd import Pgd
from robustq.core.checkpoint import Checkpoint
from robustq.core.errors import OptionError
from robustq.core.recipe import Recipe
from robustq.core.stepping import craft
from robustq.core.training import TrainResult, train

pytestmark = pytest.mark.filterwarnings("ignore:.*from a non-meta parameter:UserWarning")  # it holds numbers here


SMALL = {"depth": 8, "width": 3, "channels": 1, "classes": 4}
LENET = {"arch": "lenet", "args": {"size": 12, "classes": 4, "width": 2}}
RESNET = {"arch": "resnet", "args": SMALL}
NOISY = {"arch": "enresnet", "args": {**SMALL, "members": 2}}


def recipe(quadrants: str, device: str, **sections: Any) -> Recipe:
    settings = {"epochs": 1, "batch_size": 11, "lr": 0.05, "validation": 5, "bn_images": 6}
    content: dict[str, Any] = {
        "model": LENET,
        "data": {"name": quadrants, "limit": 26, "augment": "crop+flip"},
        "train": {**settings, "validation_attack_limit": 2},
        "attack": {"name": "pgd", "eps": 0.1, "steps": 2, "step": 0.05},
        "objective": {"name": "pgd-at"},
        "run": {"device": device},
    }
    return Recipe.from_dict({**content, **sections})


def both(
    elsewhere: Any, quadrants: str, start: Checkpoint | None = None, **sections: Any
) -> tuple[TrainResult, TrainResult]:
    here = train(recipe(quadrants, "cpu", **sections), start=start)
    with elsewhere.Elsewhere():
        return here, train(recipe(quadrants, "meta", **sections), start=start)


def assert_same(here: TrainResult, there: TrainResult) -> None:
    weights = there.checkpoint.dense()
    assert all(type(w) is torch.Tensor for w in weights.values())
    for name, expected in here.checkpoint.dense().items():
        if not name.endswith("num_batches_tracked"):  # torch does not load it where it takes the device for "meta"
            assert torch.equal(weights[name], expected), name
    assert [{**e, "seconds": 0} for e in there.history] == [{**e, "seconds": 0} for e in here.history]
    assert there.warnings == here.warnings


TRAINED = {  # every compressor that trains, alone or with others
    "binary-relax": [{"name": "binary-relax"}],
    "powers": [{"name": "binary-relax", "bits": 4, "alphabet": "powers", "group": "8"}],
    "bcgd": [{"name": "bcgd", "bits": 4}],
    "binary-connect": [{"name": "binary-connect", "bits": 1}],
    "dnr": [{"name": "dnr", "sparsity": 0.5, "rewirings": 4}, {"name": "binary-relax", "bits": 4}],
    "dnr channels": [{"name": "dnr", "sparsity": 0.5, "rewirings": 4, "granularity": "channel", "start": "magnitude"}],
    "hydra": [{"name": "hydra", "sparsity": 0.5, "switch": 0.5}],
    "atmc": [{"name": "atmc", "sparsity": 0.5, "bits": 2, "interval": 1}],
    "admm": [{"name": "admm", "sparsity": 0.5, "updates": 2, "granularity": "column"}],
    "magnitude": [{"name": "magnitude", "ramp": 0.5}],
    "channels": [{"name": "magnitude", "granularity": "channel"}],
    "rsr": [{"name": "rsr", "switch": 0.5, "variant": "proximal"}],
    "rvsm": [{"name": "rvsm", "switch": 0.5}],
    "rgsm": [{"name": "rgsm", "switch": 0.5}],
    "pni": [{"name": "pni", "on": "weight,input,activation", "level": "element"}],
    "circulant": [{"name": "circulant", "block": 2}, {"name": "non-expansive"}],
    "quantized-relu": [{"name": "quantized-relu", "bits": 2}],
}


@pytest.mark.parametrize("name", TRAINED)
def test_compressors_train_there(elsewhere: Any, quadrants: str, name: str) -> None:
    model = RESNET if name in ("dnr channels", "quantized-relu", "rgsm") else LENET
    assert_same(*both(elsewhere, quadrants, compress=TRAINED[name], model=model))


def test_every_compressor_that_trains_is_tested() -> None:
    tested = {method["name"] for methods in TRAINED.values() for method in methods}
    names = registry.names(*registry.COMPRESSORS)
    assert {name for name in names if registry.find(name, *registry.COMPRESSORS).trains()} - tested == set()


@pytest.mark.parametrize("name", registry.names("objective"))
def test_objectives_train_there(elsewhere: Any, quadrants: str, name: str) -> None:
    small = {"images": 2, "iterations": 1} if name == "h-sat" else {}
    assert_same(
        *both(
            elsewhere,
            quadrants,
            objective={"name": name, **small},
            model=NOISY if name == "pgd-at" else RESNET,
        )
    )


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_other_norms_train_there(elsewhere: Any, quadrants: str, norm: str) -> None:
    assert_same(*both(elsewhere, quadrants, attack={"name": "pgd", "eps": 0.5, "steps": 2, "norm": norm}))


def test_averages_and_parents_are_there(elsewhere: Any, quadrants: str) -> None:
    start = train(recipe(quadrants, "cpu", model=RESNET)).checkpoint
    sections = {"average": {"kind": "ema", "decay": 0.5}, "distill": {"weight": 0.5}, "compress": [{"name": "dnr"}]}
    assert_same(*both(elsewhere, quadrants, start, model=RESNET, **sections))


def test_a_stopped_run_goes_on_there(elsewhere: Any, quadrants: str, tmp_path: Path) -> None:
    described = recipe(
        quadrants,
        "meta",
        model=RESNET,
        objective={"name": "free", "batch_replays": 2},
        compress=[{"name": "dnr", "sparsity": 0.5}, {"name": "admm", "sparsity": 0.6}],
        average={"kind": "swa", "start": 0.0},
    )
    state = tmp_path / "state"

    def stop(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 3:
            raise KeyboardInterrupt

    with elsewhere.Elsewhere():
        whole = train(described)
        with pytest.raises(KeyboardInterrupt):
            train(described, state_path=state, on_event=stop)
        assert_same(whole, train(described, state_path=state))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_gradient_that_is_not_finite_moves_nothing(elsewhere: Any, device: str) -> None:
    def torn(x: torch.Tensor) -> torch.Tensor:  # infinitely steep at the first pixel, smooth at the others
        return torch.stack([x[:, 0].sub(x[:, 0].detach()).sqrt(), *x[:, 1:].unbind(1)], 1)

    attack = Pgd(eps=0.2, steps=1, step=0.1)
    x, y, index = torch.full((2, 3), 0.5), torch.tensor([0, 1]), torch.arange(2)
    with elsewhere.Elsewhere():
        there = [value.to(device) for value in (x, y, index)]
        found = craft(attack, torn, there[0], there[1], (0,), there[2], start=there[0]).cpu()
    assert torch.equal(found[:, 0], x[:, 0])
    assert torch.allclose((found - x)[:, 1:].abs(), torch.tensor(0.1))


def test_convolutions_repeat_themselves_while_training() -> None:
    before = torch.backends.cudnn.deterministic
    with execution.repeatable():
        assert torch.backends.cudnn.deterministic
    assert torch.backends.cudnn.deterministic == before


def test_a_tensor_left_behind_is_noticed(elsewhere: Any) -> None:
    with elsewhere.Elsewhere():
        there = torch.ones(3).to("meta")
        assert float((there * 2).sum() + torch.tensor(1.0)) == 7  # tensors without axes go along
        assert there[torch.tensor([0, 2])].tolist() == [1, 1]
        for mixed in (lambda: there + torch.ones(3), lambda: torch.ones(3)[there.long()], there.numpy):
            with pytest.raises((RuntimeError, TypeError)):
                mixed()


def test_what_a_device_cannot_compute_in_is_refused_before_training(quadrants: str) -> None:
    with pytest.raises(OptionError, match=r"bf16, which meta cannot be used in: .*\nLeave it at float32"):
        train(recipe(quadrants, "meta", train={"precision": "bf16"}))


def test_a_batch_that_does_not_fit_is_an_error_of_the_user(quadrants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_given: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("robustq.core.training._Run._step", full)
    with pytest.raises(OptionError, match=r"batches of 11 images does not fit .*\nGive --batch-size 5"):
        train(recipe(quadrants, "cpu"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_gpu_that_is_not_there_is_refused_before_training(quadrants: str) -> None:
    with pytest.raises(OptionError, match=r"--device cuda cannot be used: .*\nUse --device cpu"):
        train(recipe(quadrants, "cuda"))
