"""Parametric noise: its deviation, the gradient of its strength, what it leaves alone."""

from typing import Any

import pytest
import torch
from torch import nn

from robustq.core import inserted, registry
from robustq.core.errors import OptionError
from robustq.core.noise import SignalNoise, WeightNoise, noise_off
from robustq.core.structures.pni import NoiseSession

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Flatten(), nn.Linear(720, 5))


def attached(net: nn.Module, **options: Any) -> NoiseSession:
    weights = {name: w for name, w in net.named_parameters() if name.endswith("weight")}
    session = registry.create("pni", options, "structure").attach(weights, 10)
    assert isinstance(session, NoiseSession)
    session.install(net, IMAGE)
    return session


@pytest.mark.parametrize("level", ["layer", "channel", "element"])
def test_weights_get_their_deviation_and_strengths_their_gradient(level: str) -> None:
    net = network()
    session = attached(net, level=level, start=-0.5)
    noise = session.layers[0]
    assert len(noise.strength) == {"layer": 1, "channel": 20, "element": 540}[level]
    w = net.get_parameter("0.weight")
    torch.manual_seed(3)
    seen = noise(w)
    moved = (seen - w).detach()
    assert float(moved.std()) == pytest.approx(0.5 * float(w.detach().std()), rel=0.1)
    slope = torch.randn(w.shape)
    (seen * slope).sum().backward()
    shape = {"layer": (1, 1, 1, 1), "channel": (20, 1, 1, 1), "element": (20, 3, 3, 3)}[level]
    assert noise.strength.grad is not None
    expected = (slope * moved / -0.5).sum_to_size(shape).flatten()
    torch.testing.assert_close(noise.strength.grad, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(w.grad, slope)


@pytest.mark.parametrize(("level", "strengths"), [("layer", [1, 1]), ("channel", [20, 5]), ("element", [720, 5])])
def test_what_layers_give_gets_noise_with_the_deviation_of_each_sample(level: str, strengths: list[int]) -> None:
    session = attached(network(), on="activation", level=level, start=0.5)
    assert [len(layer.strength) for layer in session.layers] == strengths
    x = torch.randn(4, 20, 6, 6) * torch.tensor([1.0, 10.0, 0.1, 0.0]).view(4, 1, 1, 1)
    moved = (session.layers[0](x) - x).detach().flatten(1)
    torch.testing.assert_close(moved.std(1), 0.5 * x.flatten(1).std(1), rtol=0.1, atol=1e-6)


def test_the_deviation_of_the_batch_is_that_of_the_released_code() -> None:
    session = attached(network(), on="input", deviation="batch", start=1.0)
    x = torch.cat([torch.zeros(50, 3, 8, 8), torch.randn(50, 3, 8, 8)])
    moved = (session.layers[0](x) - x).detach()
    assert float(moved[:50].std()) == pytest.approx(float(x.std()), rel=0.05)


@pytest.mark.parametrize("on", ["weight", "input", "activation", "weight,input,activation"])
def test_noise_is_in_the_forward_pass_and_can_be_silenced(on: str) -> None:
    net = network()
    plain = net(IMAGE)
    attached(net, on=on)
    assert not torch.equal(net(IMAGE), net(IMAGE))
    with noise_off(net):
        assert torch.equal(net(IMAGE), plain)
    torch.manual_seed(1)
    first = net(IMAGE)
    torch.manual_seed(1)
    assert torch.equal(net(IMAGE), first)
    assert not torch.equal(first, plain)


def test_noisy_weights_are_those_of_a_pass_only() -> None:
    net = network()
    attached(net)
    before = net.get_parameter("0.weight").detach().clone()
    net(IMAGE).sum().backward()
    assert torch.equal(net.get_parameter("0.weight"), before)
    assert isinstance(net[0], nn.Conv2d)
    swapped = torch.func.functional_call(net, {"0.weight": torch.zeros(20, 3, 3, 3)}, (IMAGE,))
    zero = torch.func.functional_call(network(), {"0.weight": torch.zeros(20, 3, 3, 3)}, (IMAGE,))
    with noise_off(net[3]):
        again = torch.func.functional_call(net, {"0.weight": torch.zeros(20, 3, 3, 3)}, (IMAGE,))
    torch.testing.assert_close(again, zero)
    assert not torch.equal(swapped, zero)


def test_pruned_weights_get_no_noise() -> None:
    w = torch.randn(20, 10, 3, 3)
    w[3:9] = 0
    seen = WeightNoise(20, 0.25, kind="weight-noise", level="channel")(w)
    assert not seen[3:9].any()
    assert (seen[:3] != w[:3]).all()


def test_the_optimizer_trains_strengths_without_decay() -> None:
    net = network()
    session = attached(net)
    strength = session.layers[0].strength
    optimizer = torch.optim.SGD([net.get_parameter("0.weight")], lr=0.1, weight_decay=0.5)
    session.join(optimizer)
    strength.grad = torch.zeros_like(strength)
    optimizer.step()
    assert torch.equal(strength, torch.full((20,), 0.25))
    strength.grad = torch.ones_like(strength)
    optimizer.step()
    torch.testing.assert_close(strength.detach(), torch.full((20,), 0.15))


@pytest.mark.parametrize("level", ["layer", "channel", "element"])
def test_a_fresh_network_gets_its_noise_back_from_the_record(level: str) -> None:
    net = network()
    session = attached(net, on="weight,input,activation", level=level)
    with torch.no_grad():
        for layer in session.layers:
            layer.strength.normal_()
    record = inserted.record(net)
    assert {entry["kind"] for entry in record} == {"weight-noise", "output-noise", "input-noise"}
    other = network()
    inserted.restore(other, record, net.state_dict())
    other.load_state_dict(net.state_dict())
    assert inserted.record(other) == record
    torch.manual_seed(5)
    expected = net(IMAGE)
    torch.manual_seed(5)
    assert torch.equal(other(IMAGE), expected)


def test_training_goes_on_with_the_noise_that_is_there() -> None:
    net = network()
    first = attached(net)
    with torch.no_grad():
        first.layers[0].strength.fill_(0.7)
    second = attached(net)
    assert second.layers[0] is first.layers[0]
    with pytest.raises(OptionError, match="Give the same options"):
        attached(net, level="layer")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"level": "row"}, "level is 'row'"),
        ({"on": "bias"}, "on is bias"),
        ({"on": ""}, "on is empty"),
        ({"deviation": "net"}, "deviation is 'net'"),
    ],
)
def test_refusals(options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create("pni", options, "structure")


def test_a_recurrent_layer_is_refused_by_name() -> None:
    net = nn.ModuleDict({"rnn": nn.GRU(3, 4)})
    session = registry.create("pni", {}, "structure").attach({"rnn.weight_ih_l0": net["rnn"].weight_ih_l0}, 10)
    with pytest.raises(OptionError, match="belongs to a GRU"):
        session.install(net, IMAGE)


def test_a_silent_layer_is_the_identity() -> None:
    layer = SignalNoise(1, 0.5, kind="input-noise", level="layer", over="sample")
    x = torch.rand(2, 3)
    with noise_off(layer):
        assert layer(x) is x
    assert not torch.equal(layer(x), x)
