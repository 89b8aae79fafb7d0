"""Quantized activations: values, the coarse gradient, files, export."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from robustq.core import inserted, registry
from robustq.core.activation import LEAST, MOST, QuantizedReLU
from robustq.core.architecture import build
from robustq.core.checkpoint import load, save
from robustq.core.errors import OptionError
from robustq.core.exporting import export
from robustq.core.quantizers.quantized_relu import RESOLUTIONS, QuantizedReluSession
from robustq.core.recipe import Recipe
from robustq.core.training import train


def layer(resolution: float, bits: int = 2, coarse: str = "mean") -> QuantizedReLU:
    return QuantizedReLU(resolution, kind="quantized-relu", bits=bits, coarse=coarse)


def test_golden() -> None:
    x = torch.tensor([-1.0, 0.0, 0.1, 0.5, 0.51, 1.2, 1.5, 9.0])
    assert layer(0.5)(x).tolist() == [0, 0, 0.5, 0.5, 1.0, 1.5, 1.5, 1.5]


@settings(max_examples=50, deadline=None)
@given(st.floats(-9, 9, width=32), st.floats(1 / 64, 2, width=32), st.sampled_from([1, 2, 4, 8]))
def test_values_are_the_next_multiple_within_the_range(x: float, r: float, bits: int) -> None:
    found = float(layer(r, bits)(torch.tensor([x])).detach())
    top = (2**bits - 1) * r
    assert 0 <= found <= top * (1 + 1e-6)
    assert found / r == pytest.approx(round(found / r), abs=1e-3)
    if 0 < x <= top * (1 - 1e-5):
        assert -1e-5 <= found - x <= r * (1 + 1e-5)


@pytest.mark.parametrize(
    ("coarse", "slopes"), [("mean", [2, 2, 2]), ("ae", [1, 2, 3]), ("min", [1, 1, 1]), ("pact", [0, 0, 0])]
)
def test_the_coarse_gradient(coarse: str, slopes: list[int]) -> None:
    quantized = layer(0.5, coarse=coarse)
    x = torch.tensor([-1.0, 0.2, 0.7, 1.4, 2.0, 3.0], requires_grad=True)
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0, 1e4, 1e5])
    (quantized(x) * weights).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 10, 100, 1000, 0, 0]
    a, b, c = slopes
    assert quantized.resolution.grad is not None
    assert quantized.resolution.grad.item() == 10 * a + 100 * b + 1000 * c + 3 * 1e4 + 3 * 1e5


def session_on(net: nn.Module, images: torch.Tensor, **options: Any) -> QuantizedReluSession:
    session = registry.create("quantized-relu", options, "quantizer").attach({}, 10)
    assert isinstance(session, QuantizedReluSession)
    session.install(net, images)
    return session


def test_resolutions_begin_where_a_normal_input_is_rounded_best() -> None:
    x = torch.randn(4096, 3, generator=torch.Generator().manual_seed(0)) * 2
    net = nn.Sequential(nn.ReLU(), nn.Linear(3, 2), nn.ReLU())
    session = session_on(net, x, bits=4)
    assert session.layers[0].resolution.item() == pytest.approx(2 * 0.1946, rel=0.02)
    assert [type(m) for m in net] == [QuantizedReLU, nn.Linear, QuantizedReLU]
    positive = torch.linspace(0, 12, 100_001, dtype=torch.float64)
    density = (-positive.square() / 2).exp()
    for bits, best in RESOLUTIONS.items():
        errors = [
            float((density * (positive - (positive / r).round().clamp(max=2**bits - 1) * r).square()).sum())
            for r in (0.93 * best, best, 1.07 * best)
        ]
        assert errors[1] < min(errors[0], errors[2])


def test_the_optimizer_moves_resolutions_slowly_and_within_bounds() -> None:
    session = session_on(nn.Sequential(nn.ReLU()), torch.randn(8, 3))
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.1, weight_decay=0.5)
    session.join(optimizer)
    assert optimizer.param_groups[1]["factor"] == 0.01
    assert optimizer.param_groups[1]["weight_decay"] == 0
    resolution = session.layers[0].resolution
    (1e6 * resolution).sum().backward()
    assert resolution.grad is not None
    assert resolution.grad.item() == 1
    for value, kept in ((-3.0, LEAST), (99.0, MOST), (0.3, 0.3)):
        with torch.no_grad():
            resolution.fill_(value)
        session.after_step({}, 0.5)
        assert resolution.item() == pytest.approx(kept)


def described(quadrants: str) -> Recipe:
    return Recipe.from_dict(
        {
            "model": {"arch": "resnet", "args": {"depth": 8, "width": 4, "channels": 1, "classes": 4}},
            "data": {"name": quadrants, "limit": 120},
            "train": {"epochs": 2, "batch_size": 16, "lr": 0.05, "validation_attack_limit": 8},
            "objective": {"name": "pgd-at"},
            "attack": {"name": "pgd", "eps": 0.1, "steps": 2},
            "compress": [{"name": "quantized-relu", "bits": 2}, {"name": "bcgd", "bits": 1}],
        }
    )


def test_the_file_rounds_as_training_did_and_onnx_with_it(quadrants: str, tmp_path: Path) -> None:
    result = train(described(quadrants))
    path = tmp_path / "low.rq.safetensors"
    save(result.checkpoint, path)
    checkpoint = load(path)
    model = build(checkpoint)
    parts = inserted.parts(model.net)
    assert len(parts) == 7
    assert checkpoint.meta["inserted"][0]["kind"] == "quantized-relu"
    seen: list[torch.Tensor] = []
    part = parts["layer2.0.relu1"]
    assert isinstance(part, QuantizedReLU)
    part.register_forward_hook(lambda *passed: seen.append(passed[2]))
    model(torch.rand(5, 1, 12, 12))
    codes = seen[0].detach() / float(part.resolution.detach())
    assert codes.unique().numel() <= 4
    torch.testing.assert_close(codes, codes.round())
    pytest.importorskip("onnxruntime")
    (entry,) = export(checkpoint, ["onnx"], tmp_path / "low.onnx", classifier=model)
    assert entry["verified"]


def test_training_it_resumes_to_the_same_bytes(quadrants: str, tmp_path: Path) -> None:
    from robustq.core.checkpoint import dumps

    whole = train(described(quadrants))
    state = tmp_path / "state.pt"

    def kill(event: dict[str, Any]) -> None:
        if event["kind"] == "step" and event["step"] == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(described(quadrants), state_path=state, on_event=kill)
    assert dumps(train(described(quadrants), state_path=state).checkpoint) == dumps(whole.checkpoint)


def test_refusals() -> None:
    with pytest.raises(OptionError, match=r"Sequential has no nn\.ReLU module"):
        session_on(nn.Sequential(nn.Linear(2, 2)), torch.rand(1, 2))
    with pytest.raises(OptionError, match="bits is 7"):
        registry.create("quantized-relu", {"bits": 7}, "quantizer")
    net = nn.Sequential(nn.ReLU())
    session_on(net, torch.rand(1, 2), bits=2)
    with pytest.raises(OptionError, match="Give the same options"):
        session_on(net, torch.rand(1, 2), bits=4)
