"""Blended coarse gradient descent and BinaryConnect: relatives of Binary-Relax."""

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.quantizers.bcgd import Bcgd
from robustq.core.quantizers.binary_connect import BinaryConnect
from robustq.core.quantizers.binary_relax import BinaryRelax
from robustq.core.quantizers.projection import quantize


def weight() -> torch.Tensor:
    return torch.randn(4, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("blend", [0.0, 1e-5, 0.25, 1.0])
def test_update_rule(bits: int, blend: float) -> None:
    w = weight()
    session = Bcgd(bits=bits, blend=blend).attach({"w": w}, 10)
    before = w.detach().clone()
    u = quantize(before, bits).dense()
    seen = session.view({"w": w})["w"]
    assert torch.equal(seen, u)
    slope = torch.randn(4, 9)
    (seen * slope).sum().backward()
    torch.optim.SGD([w], lr=0.1).step()
    session.after_step({"w": w}, 0.1)
    torch.testing.assert_close(w.detach(), (1 - blend) * before + blend * u - 0.1 * slope)


def test_exact_throughout() -> None:
    w = weight()
    session = Bcgd(bits=2).attach({"w": w}, 10)
    assert session.exact
    assert torch.equal(session.encode({"w": w})["w"].dense(), session.view({"w": w})["w"])
    assert session.state_dict() == {}


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_binary_connect_is_binary_relax_without_its_first_phase(bits: int) -> None:
    given = {"w": weight()}
    session = BinaryConnect(bits=bits).attach(given, 10)
    other = BinaryRelax(bits=bits, switch=0.0).attach(given, 10)
    assert session.exact
    assert torch.equal(session.view(given)["w"], other.view(given)["w"])
    assert torch.equal(session.view(given)["w"], Bcgd(bits=bits).attach(given, 10).view(given)["w"])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bcgd", {"blend": "2"}, "blend is 2.0, outside"),
        ("bcgd", {"group": "row"}, "group is 'row'"),
        ("binary-connect", {"bits": "5"}, "bits is 5"),
    ],
)
def test_refusals(name: str, options: dict[str, str], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        registry.create(name, options, "quantizer")
