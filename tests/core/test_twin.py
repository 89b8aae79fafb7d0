"""Packed twins: how they answer, which mode is chosen, what a report says of them."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustq.core.architecture import Classifier, build
from robustq.core.checkpoint import Checkpoint, load
from robustq.core.compression import compress
from robustq.core.datasets import load as load_data
from robustq.core.errors import OptionError
from robustq.core.packed import Quantized
from robustq.core.recipe import Spec
from robustq.core.scrutiny import Scrutiny
from robustq.core.twin import ChannelsLast, facts, twin


def compressed(lenet: Path, bits: int) -> tuple[Checkpoint, Classifier]:
    checkpoint = compress(load(lenet), [Spec("projection", {"bits": bits})]).checkpoint
    return checkpoint, build(checkpoint).eval()


@pytest.mark.parametrize("bits", [2, 4])
def test_the_default_is_exact(lenet: Path, bits: int) -> None:
    checkpoint, model = compressed(lenet, bits)
    x = torch.rand(8, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    found = twin(checkpoint, model, x)
    assert found is not None
    assert found.mode == "exact"
    assert found.layers == 3  # the first and the last stay in half precision
    assert float((found.model(x) - model(x)).detach().abs().max()) < 1e-5 * float(model(x).detach().abs().max())
    eight, model = compressed(lenet, 8)
    assert twin(eight, model, x) is None


@pytest.mark.parametrize("mode", ["accurate", "int8"])
def test_facts(lenet: Path, quadrants: str, mode: str) -> None:
    checkpoint, model = compressed(lenet, 2)
    data = load_data(quadrants, "test", limit=8)
    x = data.batch(torch.arange(8))[0]
    found = twin(checkpoint, model, x, mode)
    assert found is not None
    entry = facts(checkpoint, model, found, data, alone=True)
    assert entry["mode"] == mode
    assert 0 < entry["max_error"] < {"accurate": 1e-3, "int8": 0.1}[mode]
    assert set(entry["latency"]) == {"dense", mode}
    for n, how in entry["fastest"].items():
        assert entry["latency"][how][n] == min(times[n] for times in entry["latency"].values())
    answers = found.model(x).argmax(1)
    assert entry["clean"]["value"] == float((answers == data.labels).float().mean())
    assert entry["agreement"]["value"] == float((answers == model(x).argmax(1)).float().mean())


class Viewing(nn.Module):
    """Its `view` refuses what lies channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).view(len(x), -1)


def test_channels_last_only_where_the_network_can() -> None:
    torch.manual_seed(0)
    x = torch.rand(2, 3, 6, 6)
    for net, name in ((Viewing(), "conv.weight"), (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), "0.weight")):
        codes = torch.randint(-1, 2, (8, 3, 3, 3)).to(torch.int8)
        packed = Quantized(codes, torch.ones(1, 1), 1)
        net.load_state_dict({name: packed.dense()}, strict=False)
        found = twin(Checkpoint({}, {name: packed}, {}, {}), Classifier(net), x, "accurate")
        assert found is not None
        assert isinstance(found.model, ChannelsLast) == isinstance(net, nn.Sequential)
        assert torch.allclose(found.model(x), Classifier(net)(x), atol=1e-3)


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(OptionError, match="--mode is 'fast'"):
        Scrutiny(mode="fast")
