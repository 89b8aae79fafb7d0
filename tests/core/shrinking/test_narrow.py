"""A file's shapes cut a network, and nothing else does."""

from typing import Any

import pytest
import torch
from torch import nn

from robustq.core.errors import ArchitectureError
from robustq.core.models.resnet import ResNet
from robustq.core.shrinking import narrow


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), nn.BatchNorm2d(6), nn.Conv2d(6, 12, 3, groups=6), nn.Flatten(), nn.Linear(12, 4)
    )


SMALL: dict[str, tuple[int, ...]] = {
    "0.weight": (2, 1, 3, 3),
    "0.bias": (2,),
    "1.weight": (2,),
    "1.bias": (2,),
    "1.running_mean": (2,),
    "1.running_var": (2,),
    "2.weight": (4, 1, 3, 3),
    "2.bias": (4,),
    "4.weight": (4, 4),
    "4.bias": (4,),
}


def test_layers_take_the_shapes() -> None:
    cut = net()
    narrow.narrow(cut, SMALL, {})
    assert {n: tuple(t.shape) for n, t in cut.state_dict().items() if "tracked" not in n} == SMALL
    assert cut.eval()(torch.rand(1, 1, 5, 5)).shape == (1, 4)
    assert narrow.record(cut) == {}
    assert narrow.record(net()) is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("0.weight", (7, 1, 3, 3)),
        ("0.weight", (0, 1, 3, 3)),
        ("0.weight", (2, 1, 5, 5)),
        ("0.weight", (2, 1)),
        ("1.running_mean", (7,)),
        ("1.running_mean", (2, 2)),
        ("2.weight", (3, 1, 3, 3)),  # not whole groups
        ("4.weight", (4, 13)),
    ],
)
def test_shapes_of_no_smaller_network_are_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ArchitectureError, match="is not cut from the"):
        narrow.narrow(net(), {**SMALL, name: shape}, {})


@pytest.mark.parametrize("pads", [{"conv1": [0, 0]}, {"nowhere": [0, 0]}, {"layer2.0.shortcut": [99, 0]}])
def test_pads_that_do_not_fit_are_refused(pads: dict[str, Any]) -> None:
    resnet = ResNet(depth=8, width=4).build()
    shapes = {name: tuple(w.shape) for name, w in resnet.state_dict().items()}
    with pytest.raises(ArchitectureError, match="cuts the padding"):
        narrow.narrow(resnet, shapes, {"pads": pads})
