"""Plain dense files: bit-equal, complete, and readable without robustq."""

import io
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from robustq.core.checkpoint import Checkpoint
from robustq.core.errors import VerificationError
from robustq.core.exporters.dense import compare
from robustq.core.exporters.exporter import Exporter
from robustq.core.exporters.safetensors import Safetensors
from robustq.core.exporters.state_dict import StateDict
from robustq.core.packed import Packed, Quantized

FORMATS: list[tuple[type[Exporter], Any]] = [
    (StateDict, lambda data: torch.load(io.BytesIO(data), weights_only=True)),
    (Safetensors, safetensors.torch.load),
]


def checkpoint() -> Checkpoint:
    codes = torch.tensor([[-1, 0, 1], [1, 1, 0]], dtype=torch.int8)
    weights = {
        "bias": torch.tensor([0.1, 1e6]),
        "small": torch.tensor([[0.1, 3e-9], [2.0, -0.5]]),
        "count": torch.tensor(7),
        "view": torch.arange(1000.0)[:3],
        "empty": torch.zeros(0, 3),
        "turned": torch.arange(6.0).view(2, 3).T,
    }
    packed: dict[str, Packed] = {"weight": Quantized(codes, torch.tensor([[0.5], [0.25]], dtype=torch.float16), 1)}
    return Checkpoint(weights, packed, {"tied": "weight"}, {})


@pytest.mark.parametrize(("exporter", "read"), FORMATS)
def test_every_tensor_comes_back(exporter: type[Exporter], read: Any) -> None:
    made = exporter().render(checkpoint(), None)
    assert made.max_error == 0.0
    found = read(made.data)
    expected = torch.tensor([[-0.5, 0, 0.5], [0.25, 0.25, 0]])
    assert torch.equal(found["weight"], expected)
    assert torch.equal(found["tied"], expected)
    assert found["weight"].dtype == torch.float32
    for name, tensor in checkpoint().weights.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize(("exporter", "read"), FORMATS)
def test_half_keeps_what_float16_cannot_hold(exporter: type[Exporter], read: Any) -> None:
    made = exporter(half=True).render(checkpoint(), None)  # pyright: ignore[reportCallIssue]
    found = read(made.data)
    assert {n: t.dtype for n, t in found.items()} == {
        "bias": torch.float32,  # 1e6 is beyond float16
        "small": torch.float16,
        "count": torch.int64,
        "view": torch.float16,
        "empty": torch.float16,
        "turned": torch.float16,
        "weight": torch.float16,
        "tied": torch.float16,
    }
    assert made.max_error == pytest.approx(abs(float(torch.tensor(0.1).half()) - 0.1), rel=1e-3)


def test_a_part_of_a_large_tensor_is_stored_alone() -> None:
    big = Checkpoint({"view": torch.zeros(100_000)[:3]}, {}, {}, {})
    assert len(StateDict().render(big, None).data) < 5000


def test_safetensors_needs_no_robustq() -> None:
    data = Safetensors().render(checkpoint(), None).data
    assert b"robustq" not in data


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.pop("a"),
        lambda t: t.update(c=torch.zeros(1)),
        lambda t: t.update(a=t["a"].double()),
        lambda t: t.update(a=t["a"].view(1, 2)),
        lambda t: t.update(a=t["a"] + torch.tensor([0.0, 1e-7])),
        lambda t: t.update(a=-t["a"]),  # -0.0 is another bit pattern
    ],
)
def test_any_difference_fails_the_verification(change: Any) -> None:
    written = {"a": torch.tensor([0.0, 0.5]), "b": torch.zeros(2)}
    read: dict[str, Tensor] = {n: t.clone() for n, t in written.items()}
    assert compare(read, written, written) == 0.0
    change(read)
    with pytest.raises(VerificationError):
        compare(read, written, written)
