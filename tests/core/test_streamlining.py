"""A streamlined model: the same values and gradients, less work, and as it was afterwards."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustq.core.architecture import Classifier
from robustq.core.streamlining import streamlined

X = torch.rand(6, 1, 12, 12, generator=torch.Generator().manual_seed(0))


def network(**pooling: Any) -> nn.Sequential:
    torch.manual_seed(0)
    features = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2, **pooling),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
    )  # fmt: skip
    return nn.Sequential(features, nn.Flatten(), nn.Linear(6 * 9, 5))


def block(model: nn.Module) -> nn.Sequential:
    """The convolutional part of a classifier around `network`."""
    found = model.get_submodule("net.0")
    assert isinstance(found, nn.Sequential)
    return found


def answers(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    logits = model(x)
    return logits.detach(), torch.autograd.grad(logits.square().sum(), x)[0]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("pooling", [{}, {"ceil_mode": True}, {"padding": 1, "stride": 2}])
def test_pooling_before_relu_changes_no_bit(pooling: dict[str, Any], ties: bool) -> None:
    layers = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, **pooling))
    x = torch.randn(50, 3, 9, 9, generator=torch.Generator().manual_seed(1))
    x = x.mul(2).round() if ties else x
    seen: list[tuple[int, ...]] = []
    plain, slope = answers(layers, x)
    with streamlined(layers):
        layers[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
        quick, same = answers(layers, x)
    assert torch.equal(quick, plain)
    assert torch.equal(same, slope)
    assert seen == [tuple(plain.shape)]  # the ReLU works on what is left


def test_a_network_gives_the_same_and_is_left_as_it_was() -> None:
    model = Classifier(network())
    weight = block(model)[0].get_parameter("weight")
    before = (list(block(model)), weight.data_ptr(), weight.stride(), list(model.state_dict()), dict(model.__dict__))
    plain = answers(model, X)
    with streamlined(model):
        assert list(block(model)) != before[0]
        quick = answers(model, X)
    for one, other in zip(plain, quick, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
    after = (list(block(model)), weight.data_ptr(), weight.stride(), list(model.state_dict()), dict(model.__dict__))
    assert after == before
    assert all(torch.equal(one, other) for one, other in zip(plain, answers(model, X), strict=True))


def test_an_exception_leaves_it_as_it_was() -> None:
    model = Classifier(network())
    order = list(block(model))
    with pytest.raises(KeyboardInterrupt), streamlined(model):
        raise KeyboardInterrupt
    assert list(block(model)) == order
    assert "forward" not in model.__dict__


@pytest.mark.parametrize(("mean", "std"), [([0.1], [1.0]), ([0.0], [0.5])])
def test_a_normalisation_that_does_something_stays(mean: list[float], std: list[float]) -> None:
    model = Classifier(network(), mean, std)
    plain, _ = answers(model, X)
    with streamlined(model):
        assert torch.allclose(answers(model, X)[0], plain, atol=1e-6)
    assert not torch.allclose(model.net(X), plain, atol=1e-3)


def test_what_somebody_watches_keeps_its_place() -> None:
    layers = nn.Sequential(nn.ReLU(), nn.MaxPool2d(2))
    seen: list[tuple[int, ...]] = []
    layers[0].register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    with streamlined(layers):
        layers(torch.randn(2, 3, 8, 8))
    assert seen == [(2, 3, 8, 8)]


@pytest.mark.parametrize(
    "layers",
    [
        nn.Sequential(nn.Sigmoid(), nn.MaxPool2d(2)),
        nn.Sequential(nn.ReLU(), nn.AvgPool2d(2)),
        nn.Sequential(nn.ReLU(), nn.MaxPool2d(2, return_indices=True)),
    ],
)
def test_other_neighbours_stay(layers: nn.Sequential) -> None:
    order = list(layers)
    with streamlined(layers):
        assert list(layers) == order


def test_a_module_that_occurs_twice_stays() -> None:
    relu = nn.ReLU()
    layers = nn.Sequential(relu, nn.MaxPool2d(2), relu, nn.MaxPool2d(2))
    x = torch.randn(2, 3, 8, 8)
    plain = layers(x)
    with streamlined(layers):
        assert torch.equal(layers(x), plain)
    assert [type(layer) for layer in layers] == [nn.ReLU, nn.MaxPool2d] * 2


def test_functions_are_left_alone() -> None:
    with streamlined(lambda x: x):
        pass
