"""Folded batch norm: the same attacks in less work, and nothing folded that is not understood."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from robustq.core import inserted, rng
from robustq.core.architecture import Classifier, create
from robustq.core.attacks.pgd import Pgd
from robustq.core.folding import Folding, find, folded
from robustq.core.view import View

SMALL = {"depth": 8, "width": 3, "channels": 2, "classes": 4}
ATTACK = Pgd(eps=0.1, steps=4, step=0.04)
X = torch.rand(5, 2, 8, 8, generator=torch.Generator().manual_seed(0)).double()
Y = torch.arange(5) % 4


def used(net: nn.Module) -> Classifier:
    """The network as one that was trained for a while, in float64."""
    draw = torch.Generator().manual_seed(1)
    for norm in [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]:
        for name, low in (("running_mean", -0.5), ("running_var", 0.2), ("weight", 0.5), ("bias", -0.5)):
            if getattr(norm, name) is not None:
                getattr(norm, name).data.uniform_(low, low + 1, generator=draw)
    return Classifier(net, [0.4, 0.5], [0.3, 0.2]).double().train()


def built(arch: str, **args: Any) -> Classifier:
    torch.manual_seed(0)
    return used(create(arch, {**SMALL, **args}))


def with_noise(on: str) -> Classifier:
    model = built("resnet")
    spec = {"level": "channel", "over": "sample"}
    if on == "weight":
        inserted.weight_noise(model.net, "layer1.0.conv1.weight", 3, 0.2, {"kind": "weight-noise", "level": "channel"})
    elif on == "input":
        inserted.input_noise(model.net, "conv1", 2, 0.2, {"kind": "input-noise", **spec})
    else:
        inserted.output_noise(model.net, "layer1.0.conv1", 3, 0.2, {"kind": "output-noise", **spec})
    return model.double()


def with_quantized_relu() -> Classifier:
    model = built("resnet")
    spec = {"kind": "quantized-relu", "bits": 4, "coarse": "mean"}
    inserted.quantized_relu(model.net, "layer1.0.relu1", 1, 0.1, spec)
    return model.double()


def with_weight_norm() -> Classifier:
    model = built("resnet")
    parametrizations.weight_norm(model.net.get_submodule("layer1.0.conv1"))
    return model


def pooled() -> Classifier:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(3, 4, 3, bias=False)]
    return used(nn.Sequential(*layers, nn.BatchNorm2d(4, affine=False), nn.Flatten()))


MODELS = {  # with how many folded layers
    "resnet": (built("resnet"), 7),
    "convolution shortcuts": (built("resnet", shortcut="B"), 9),
    "noisy ensemble": (built("enresnet", members=2), 6),
    "max-pooling, no affine": (pooled(), 2),
    "weight noise": (with_noise("weight"), 6),
    "input noise": (with_noise("input"), 6),
    "output noise": (with_noise("output"), 6),
    "quantized ReLU": (with_quantized_relu(), 7),
    "parametrized": (with_weight_norm(), 6),
}


def view(model: Classifier, folding: Folding, weights: Mapping[str, Tensor] | None = None) -> View:
    return View(model, (), dict(model.net.named_parameters()) if weights is None else weights, folding=folding)


def attacked(seen: View) -> Tensor:
    with rng.seeded("draws of layers"):
        return seen.attacked(ATTACK, X, Y, (0, "folding"), torch.arange(5))


def looked(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of a loss at the images."""
    x = X.to(memory_format=torch.channels_last).requires_grad_()
    with rng.seeded("draws of layers"):
        logits = model(x)
    return logits.detach(), torch.autograd.grad(nn.functional.cross_entropy(logits, Y), x)[0]


@pytest.mark.parametrize("name", MODELS)
def test_logits_gradients_and_attacks_are_the_same(name: str) -> None:
    model, expected = MODELS[name]
    folding = find(model, X[:2].float())
    assert len(folding.triples) == expected
    assert model.training
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.allclose(attacked(view(model, folding)), attacked(view(model, Folding())), atol=1e-9)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training
    model.eval().requires_grad_(False)
    for p in (p for p in model.parameters() if p.dim() == 4):
        p.data = p.to(memory_format=torch.channels_last)
    plain = looked(model)
    with folded(model.net, folding):
        quick = looked(model)
    model.train().requires_grad_(True)
    for one, other in zip(quick, plain, strict=True):
        assert torch.allclose(one, other, atol=1e-9)
        assert float(one.abs().max()) > 1e-3


def norms_run(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    ran: list[nn.Module] = []
    forward = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda self, x: (ran.append(self), forward(self, x))[1])
    return ran


def test_the_attack_is_spared_batch_norm_and_training_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("resnet")
    seen = view(model, find(model, X[:2].float()))
    ran = norms_run(monkeypatch)
    attacked(seen)
    assert ran == []
    seen(X)
    assert len(ran) == 7


def test_folded_weights_are_those_shown_and_get_no_gradient() -> None:
    model = built("resnet")
    folding = find(model, X[:2].float())
    latent = dict(model.net.named_parameters())
    shown = {name: weight * 1.5 for name, weight in latent.items()}
    found = attacked(view(model, folding, shown))
    assert torch.allclose(found, attacked(view(model, Folding(), shown)), atol=1e-9)
    assert not torch.allclose(found, attacked(view(model, folding)), atol=1e-3)
    assert all(weight.grad is None for weight in latent.values())
    assert not found.requires_grad


def test_a_trial_is_folded_with_its_own_statistics() -> None:
    model = built("resnet")
    seen = view(model, find(model, X[:2].float()))
    trial = seen.trial()
    trial(X)
    again = view(model, Folding()).trial()
    again(X)
    assert torch.allclose(attacked(trial), attacked(again), atol=1e-9)
    assert not torch.allclose(attacked(trial), attacked(seen), atol=1e-3)


def test_members_of_an_ensemble_are_folded_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = built("enresnet", members=2, noise=0)
    seen = view(model, find(model, X[:2].float())).member(1)
    plain = attacked(view(model, Folding()).member(1))
    ran = norms_run(monkeypatch)
    assert torch.allclose(attacked(seen), plain, atol=1e-9)
    assert len(ran) == 4 * ATTACK.iterations  # of its seven: those before each block, and the last


def test_who_watches_sees_what_is_there_without_folding() -> None:
    model = built("resnet")
    folding = find(model, X[:2].float())
    names = ["layer1.0.bn1", "layer1.0.conv1", "layer2.0.relu1", "layer3.0.relu2"]
    seen: list[Tensor] = []

    def look(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append(output)

    for name in names:
        model.net.get_submodule(name).register_forward_hook(look)
    one, plain = attacked(view(model, folding)), seen[:]
    seen.clear()
    other = attacked(view(model, Folding()))
    assert torch.allclose(one, other, atol=1e-9)
    assert len(seen) == len(plain) == len(names) * ATTACK.iterations
    assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(seen, plain, strict=True))


def test_a_forward_pass_of_ones_own_stays() -> None:
    model = built("resnet")
    folding = find(model, X[:2].float())
    norm = model.net.get_submodule("layer1.0.bn1")
    own = norm.__dict__["forward"] = lambda x: 2 * x
    assert len(find(model, X[:2].float()).triples) == len(folding.triples) - 1
    model.eval()
    plain, _ = looked(model)
    with folded(model.net, folding):
        assert torch.allclose(looked(model)[0], plain, atol=1e-9)
    assert norm.__dict__["forward"] is own


def test_an_exception_leaves_the_layers_as_they_were() -> None:
    model = built("resnet")
    with pytest.raises(KeyboardInterrupt), folded(model.net, find(model, X[:2].float())):
        raise KeyboardInterrupt
    assert not any("forward" in module.__dict__ for module in model.modules())


class Kept(nn.BatchNorm2d):
    """One that uses the batch's own statistics also in evaluation."""

    def train(self, mode: bool = True) -> "Kept":
        return super().train(True)


class Odd(nn.Module):
    """Convolution and batch norm in ways that must not be folded."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv, self.norm, self.relu = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU()
        self.hidden = [self.conv]  # not known as a part
        if way == "batch statistics":
            self.norm = nn.BatchNorm2d(2, track_running_stats=False)
        if way == "a class of one's own":
            self.norm = Kept(2)
        if way == "two names":
            self.second = nn.Sequential(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "float32 alone":
            return (self.relu(self.norm(self.conv(x))) @ torch.ones(8, 8)).flatten(1)
        if self.way == "depends on the images" and x.mean() > 100:
            return x.flatten(1)
        y = self.conv(x)
        out = self.relu(self.norm(y))
        if self.way == "read twice":
            out = out + y
        if self.way == "run twice":
            out = self.norm(self.conv(out))
        if self.way == "two names":
            out = self.second(out)
        if self.way == "hidden":
            out = _opaque(self.hidden[0], out)
        return out.flatten(1)


@torch.fx.wrap
def _opaque(conv: nn.Module, x: Tensor) -> Tensor:
    return conv(x)


WAYS = ["read twice", "run twice", "two names", "hidden", "batch statistics", "a class of one's own",
        "depends on the images", "float32 alone"]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not_understood_is_not_folded(way: str) -> None:
    torch.manual_seed(0)
    net = Odd(way)
    model = Classifier(net).train() if way in WAYS[4:5] else used(net).float()
    assert find(model, X[:2].float()) == Folding()


def test_batch_norm_that_is_put_into_training_mode_is_not_folded() -> None:
    model = built("resnet")
    folding = find(model, X[:2].float())
    norm = model.net.get_submodule("layer1.0.bn1")
    model.eval()
    norm.train()
    with folded(model.net, folding):
        assert "forward" not in norm.__dict__
        quick, _ = looked(model)
    model.eval()
    norm.train()
    assert torch.allclose(quick, looked(model)[0], atol=1e-9)


def test_a_plain_way_is_folded() -> None:
    """What the ways above differ from."""
    torch.manual_seed(0)
    folding = find(used(Odd("")).float(), X[:2].float())
    assert folding.triples == (("conv", "norm", "relu"),)
