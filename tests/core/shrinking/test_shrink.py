"""The network without its dead channels gives the same logits, and is smaller."""

import contextlib
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustq.core import architecture, inserted, registry
from robustq.core.activation import QuantizedReLU
from robustq.core.checkpoint import Checkpoint, dumps, load
from robustq.core.errors import ArchitectureError, NothingCompressedError
from robustq.core.noise import noise_off
from robustq.core.packed import Circulant, Factored, Half, Packed, Quantized, Sparse, half_float
from robustq.core.shrinking.shrink import TOLERANCE, shrink

NETWORKS = Path(__file__).with_name("networks.py")
BUILT_IN: dict[str, dict[str, Any]] = {
    "resnet": {"depth": 8, "width": 4, "channels": 1},
    "enresnet": {"depth": 8, "width": 4, "members": 2, "channels": 1},
    "vgg": {"width": 2, "channels": 1},
    "lenet": {"size": 12},
}


def checkpoint(name: str, pruned: float = 0.5, seed: int = 0, **args: Any) -> Checkpoint:
    """A network with random weights and statistics, and that share of the channels of every layer zero."""
    arch = name if name in BUILT_IN else f"{NETWORKS}:{name}"
    args = {**BUILT_IN.get(name, {}), **args}
    torch.manual_seed(seed)
    net = architecture.create(arch, args).eval()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for part in (layer.running_mean, layer.weight, layer.bias):
                    part.normal_()  # pyright: ignore[reportOptionalMemberAccess]
            elif isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.weight[torch.rand(len(layer.weight)) < pruned] = 0
    side = 32 if name == "vgg" else 12
    meta = {"arch": {"name": arch, "args": args}, "data": {"name": None, "shape": [1, side, side]}}
    return Checkpoint(dict(net.state_dict()), {}, {}, meta)


def arch_of(of: Checkpoint) -> dict[str, Any]:
    """What has to be said of a class of one's own."""
    recorded = of.meta["arch"]
    return {"arch": recorded["name"], "args": recorded["args"]} if ":" in recorded["name"] else {}


def logits(of: Checkpoint) -> torch.Tensor:
    net = architecture.build(of, **arch_of(of))
    torch.manual_seed(1)
    x = torch.randn(4, *of.meta["data"]["shape"])
    with torch.no_grad():
        return net(x)


def packed(of: Checkpoint, name: str, kind: str) -> Packed:
    w = of.weights[name]
    if kind == "sparse":
        return Sparse(half_float(w[w != 0]), w != 0)
    if kind == "half":
        return Half(half_float(w))
    return Quantized(w.sign().to(torch.int8), torch.ones(len(w), 1), 1)


def stored_as(of: Checkpoint, kind: str, *names: str) -> Checkpoint:
    weights = {name: w for name, w in of.weights.items() if name not in names}
    return replace(of, weights=weights, packed={name: packed(of, name, kind) for name in names})


def check(of: Checkpoint) -> dict[str, Any]:
    """Shrink, write, read: the same logits from fewer numbers. The facts of it."""
    found = shrink(of, **arch_of(of))
    again = load(io.BytesIO(dumps(found.checkpoint)))
    before = logits(of)
    assert float((logits(again) - before).abs().max()) <= TOLERANCE * float(before.abs().max())
    assert found.facts["max_error"] <= TOLERANCE
    assert found.facts["weights"]["after"] < found.facts["weights"]["before"]
    return found.facts


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["Plain", "Joins", "Strange", "resnet", "enresnet", "vgg", "lenet"]),
    st.sampled_from([0.2, 0.5, 0.9]),
    st.integers(0, 1000),
)
def test_the_answers_stay(name: str, pruned: float, seed: int) -> None:
    of = checkpoint(name, pruned, seed, **({"noise": 0.0} if name == "enresnet" and seed % 2 else {}))
    if pruned == 0.5 and name != "Joins":
        check(of)
        return
    with contextlib.suppress(NothingCompressedError):  # none may be dead, all but the last, or not all that is joined
        check(of)


@pytest.mark.parametrize("kind", ["sparse", "half", "quantized"])
@pytest.mark.parametrize("padding", [0, 1])
def test_compressed_weights_are_cut_as_they_are_stored(kind: str, padding: int) -> None:
    of = stored_as(checkpoint("Plain", padding=padding), kind, "conv2.weight", "fc1.weight")
    small = shrink(of, **arch_of(of)).checkpoint
    check(of)
    assert set(small.packed) == {"conv2.weight", "fc1.weight"}
    assert small.packed["conv2.weight"].shape[0] < of.packed["conv2.weight"].shape[0]
    columns = small.packed["conv2.weight"].shape[1]
    assert columns < 8 or (kind == "quantized" and padding == 1)  # codes cannot take over what a border needs


def test_everything_that_is_dead_goes() -> None:
    of = checkpoint("Plain", padding=0)
    facts = check(of)
    after = {layer["name"]: layer["after"] for layer in facts["layers"]}
    alive = {n: int(w.flatten(1).any(1).sum()) for n, w in of.weights.items() if w.ndim > 1}
    assert after["conv1.weight"] == [alive["conv1.weight"], 1, 3, 3]
    assert after["conv2.weight"] == [alive["conv2.weight"], alive["conv1.weight"], 3, 3]
    assert after["fc1.weight"] == [alive["fc1.weight"], 9 * alive["conv2.weight"]]
    assert after["fc2.weight"] == [4, alive["fc1.weight"]]


def test_constants_are_folded_by_hand() -> None:
    """conv1 gives 0 everywhere; bn1 makes it 2 in channel 0, so conv2 has 2 * 9 * 0.5 = 9 more in its bias."""
    of = checkpoint("Plain", 0, padding=0)
    w = of.weights
    w["conv1.weight"][0] = 0
    w["conv2.weight"][:, 0] = 0.5
    for part, value in (("running_mean", 0.0), ("running_var", 1.0), ("weight", 1.0), ("bias", 2.0)):
        w[f"bn1.{part}"][0] = value
    small = shrink(of, **arch_of(of)).checkpoint.weights
    assert torch.allclose(small["conv2.bias"], w["conv2.bias"] + 9, atol=1e-5)
    assert torch.equal(small["conv2.weight"], w["conv2.weight"][:, 1:])
    assert torch.equal(small["bn1.running_mean"], w["bn1.running_mean"][1:])


@pytest.mark.parametrize(("kind", "stay"), [("plain", 1), ("half", 2)])
def test_at_a_border_one_constant_channel_stands_for_all(kind: str, stay: int) -> None:
    of = checkpoint("Plain", 0)
    of.weights["conv1.weight"][:5] = 0
    of.weights["bn1.bias"][:5] = 3.0
    of.weights["bn1.running_mean"][:5] = torch.linspace(-0.5, 0.5, 5)
    of = of if kind == "plain" else stored_as(of, kind, "conv2.weight")
    facts = check(of)
    assert facts["layers"][0]["after"] == [3 + stay, 1, 3, 3]
    assert facts["stay"] == [{"channels": stay, "why": facts["stay"][0]["why"]}]
    assert "zero padding" in facts["stay"][0]["why"]
    small = shrink(of, **arch_of(of)).checkpoint
    with pytest.raises(NothingCompressedError, match="zero padding"):  # what was done is not done again
        shrink(small, **arch_of(small))


def test_channels_that_nothing_reads_go() -> None:
    of = checkpoint("Plain", 0)
    of.weights["fc2.weight"][:, 3:] = 0
    facts = check(of)
    assert {layer["name"]: layer["after"] for layer in facts["layers"]} == {
        "fc1.weight": [3, 360],
        "fc2.weight": [4, 3],
    }


def test_a_residual_stream_is_cut_where_all_that_write_to_it_are_dead() -> None:
    of = checkpoint("resnet", 0)
    for name, places in (
        ("conv1", [1]),
        ("layer1.0.conv2", [1]),
        ("layer2.0.conv2", [0, 3]),
        ("layer3.0.conv2", [4, 7]),
    ):
        norm = "bn1" if name == "conv1" else name.replace("conv2", "bn2")
        for place in places:  # channel 1 is 3 after two channels of padding, and 7 after four more
            of.weights[f"{name}.weight"][place] = 0
            of.weights[f"{norm}.running_mean"][place] = 0
            of.weights[f"{norm}.bias"][place] = -1.0
    small = shrink(of).checkpoint
    shapes = {name: list(w.shape) for name, w in small.weights.items()}
    assert shapes["conv1.weight"] == [3, 1, 3, 3]
    assert shapes["layer2.0.conv2.weight"][0] == 6  # channel 0 was padding, and is 4 of the last stage
    assert shapes["linear.weight"] == [10, 14]
    assert small.meta["shrunk"] == {"pads": {"layer2.0.shortcut": [1, 2]}}
    check(of)


def test_joined_channels_go_together() -> None:
    of = checkpoint("Joins", 0)
    for name in ("stem.0", "point"):
        of.weights[f"{name}.weight"][:2] = 0
        of.weights[f"{name}.bias"][:2] = -1
    of.weights["grouped.bias"][:3] = 0
    after = {layer["name"].removesuffix(".weight"): layer["after"] for layer in check(of)["layers"]}
    assert after == {
        "stem.0": [6, 1, 3, 3],
        "deep.0": [12, 1, 3, 3],  # depthwise: two for each channel
        "point": [6, 12, 1, 1],
        "grouped": [9, 2, 3, 3],  # one of four groups
        "gate.1": [9, 9, 1, 1],
        "side": [6, 6, 3, 3],
        "head": [4, 15],
    }


def test_a_layer_keeps_one_channel() -> None:
    of = checkpoint("Plain", 0)
    of.weights["conv2.weight"][:] = 0
    facts = check(of)
    assert [layer["after"][0] for layer in facts["layers"] if layer["name"] == "conv2.weight"] == [1]
    assert {"channels": 1, "why": "a layer needs one channel"} in facts["stay"]


def test_what_is_not_known_is_named_and_keeps_its_channels() -> None:
    facts = check(checkpoint("Strange"))
    assert [layer["name"] for layer in facts["layers"]] == ["conv3.weight", "fc.weight"]
    why = [entry["why"] for entry in facts["stay"]]
    assert "they reach rule (Rule)" in why
    assert "they reach the function softmax" in why


def test_layers_that_run_twice_or_are_read_elsewhere_stay_whole() -> None:
    of = checkpoint("Twice", 0)
    for name in ("conv1", "again", "middle", "read"):
        of.weights[f"{name}.weight"][:2] = 0
    with pytest.raises(NothingCompressedError) as caught:
        shrink(of, **arch_of(of))
    for name, why in (("again", "it runs more than once"), ("read", "its weights are used outside of it")):
        assert f"2, because they reach {name} (Conv2d: {why})" in caught.value.problem
        assert f"2, because they belong to {name} (Conv2d: {why})" in caught.value.problem


def test_weights_that_cannot_be_cut_keep_their_channels() -> None:
    of = checkpoint("Plain", 0)
    of.weights["conv1.weight"][0] = 0
    whole = {
        "block-circulant": Circulant(torch.ones(9, 2, 1, 8), (10, 8, 3, 3)),
        "groups of inputs": Quantized(torch.ones(10, 8, 3, 3).to(torch.int8), torch.ones(10, 3), 1),
    }
    for why, tensor in whole.items():
        rest = {name: w for name, w in of.weights.items() if name != "conv2.weight"}
        with pytest.raises(NothingCompressedError, match=why):
            shrink(replace(of, weights=rest, packed={"conv2.weight": tensor}), **arch_of(of))
    rest = {name: w for name, w in of.weights.items() if name != "bn2.bias"}
    tied = replace(of, weights=rest, aliases={"bn2.bias": "fc1.bias"})
    tied.weights["fc1.weight"][0] = 0
    tied.weights["conv1.weight"][0] = 1
    with pytest.raises(NothingCompressedError, match="tied"):
        shrink(tied, **arch_of(of))


def test_refusals() -> None:
    of = checkpoint("Plain", 0)
    with pytest.raises(NothingCompressedError, match=r"in no layer.*\n.*granularity=channel"):
        shrink(of, **arch_of(of))
    of = checkpoint("Untraceable")
    with pytest.raises(ArchitectureError, match="cannot be followed: TraceError"):
        shrink(of, **arch_of(of))
    of = checkpoint("lenet")
    del of.meta["data"]
    with pytest.raises(ArchitectureError, match=r"\[1, 28, 28\].*\n.*shrink:input="):
        shrink(of)
    assert shrink(of, shape=(1, 12, 12)).facts["weights"]["after"] < 20_000


def with_inserted(of: Checkpoint, method: str, **options: Any) -> Checkpoint:
    """The network with the layers that a method puts into it."""
    net = architecture.build(of).net
    weights = {name: w for name, w in net.named_parameters() if w.ndim > 1}
    images = torch.rand(8, *of.meta["data"]["shape"], generator=torch.Generator().manual_seed(0))
    registry.create(method, options, *registry.COMPRESSORS).attach(weights, 10).install(net, images)
    return Checkpoint(dict(net.state_dict()), {}, {}, {**of.meta, "inserted": inserted.record(net)})


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("name", ["resnet", "lenet"])
def test_quantized_activations_are_followed(name: str, bits: int) -> None:
    of = with_inserted(checkpoint(name), "quantized-relu", bits=bits)
    facts = check(of)
    assert not any("QuantizedReLU" in entry["why"] for entry in facts["stay"])
    small = architecture.build(load(io.BytesIO(dumps(shrink(of).checkpoint))))
    assert sum(isinstance(part, QuantizedReLU) for part in small.modules()) == len(of.meta["inserted"][0]["at"])


def test_noise_on_images_keeps_its_layer_alone() -> None:
    of = with_inserted(checkpoint("resnet"), "pni", on="input", level="channel")
    found = shrink(of)
    assert any("conv1 (Conv2d: it draws noise)" in entry["why"] for entry in found.facts["stay"])
    large, small = architecture.build(of), architecture.build(load(io.BytesIO(dumps(found.checkpoint))))
    x = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), noise_off(large), noise_off(small):
        torch.testing.assert_close(small(x), large(x), atol=1e-5, rtol=1e-5)
    assert found.facts["weights"]["after"] < found.facts["weights"]["before"]


@pytest.mark.parametrize("on", ["weight", "activation"])
@pytest.mark.parametrize("level", ["layer", "channel", "element"])
def test_layers_with_noise_are_refused_by_name(on: str, level: str) -> None:
    of = with_inserted(checkpoint("lenet"), "pni", on=on, level=level)
    with pytest.raises(NothingCompressedError, match=r"they belong to conv2 \(Conv2d: it draws noise\)"):
        shrink(of)


def test_factors_are_refused_by_name() -> None:
    of = checkpoint("lenet", pruned=0.9)
    weights, packed = dict(of.weights), {}
    for name in [n for n, w in of.weights.items() if w.ndim > 1]:
        w = weights.pop(name)
        side = min(len(w), w[0].numel())
        packed[name] = Factored(w.flatten(1), torch.zeros(side, side), torch.zeros_like(w.flatten(1)), tuple(w.shape))
    with pytest.raises(NothingCompressedError, match=r"conv2 \(Conv2d: its weight is a product of factors\)"):
        shrink(replace(of, weights=weights, packed=packed))
