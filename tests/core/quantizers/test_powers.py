"""The alphabet of powers of two: hand-checked and brute-force projections, training, refusals."""

import itertools

import pytest
import torch

from robustq.core import encodings
from robustq.core.errors import OptionError
from robustq.core.quantizers.binary_relax import BinaryRelax
from robustq.core.quantizers.powers import quantize_powers


def test_golden() -> None:
    found = quantize_powers(torch.tensor([[4.0, -2.0, 1.0, 0.0, 3.9, -2.2]]), 3, "layer")
    assert found.codes.tolist() == [[4, -2, 1, 0, 4, -2]]
    scale = (4 * 4 + 2 * 2 + 1 + 4 * 3.9 + 2 * 2.2) / (16 + 4 + 1 + 16 + 4)
    assert float(found.scale) == pytest.approx(scale, rel=1e-3)
    assert found.levels == 4


@pytest.mark.parametrize("seed", range(6))
def test_close_to_the_best_of_all_codes(seed: int) -> None:
    w = torch.randn(1, 5, generator=torch.Generator().manual_seed(seed))
    alphabet = [0.0, 1, 2, 4]
    errors = []
    for q in itertools.product(alphabet, repeat=5):
        code = torch.tensor(q, dtype=torch.float32)
        if code.any():
            errors.append(float(w.square().sum() - (w.abs() @ code).square().sum() / code.square().sum()))
    found = float((w - quantize_powers(w, 3, "layer").dense()).square().sum())
    assert min(errors) - 1e-4 <= found <= 1.25 * min(errors) + 1e-3


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("group", ["layer", "channel", "7"])
def test_codes_are_powers_and_survive_packing(bits: int, group: str) -> None:
    w = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    session = BinaryRelax(bits=bits, group=group, alphabet="powers", switch=0.0).attach({"w": w}, 10)
    packed = session.encode({"w": w})["w"]
    assert torch.equal(session.view({"w": w})["w"], packed.dense())
    codes = quantize_powers(w, bits, group).codes
    powers = {0, *(2**e for e in range({3: 3, 4: 7}[bits]))}
    assert set(codes.abs().unique().tolist()) <= powers
    header, payload = encodings.pack_codes(codes, max(powers), False)
    assert torch.equal(
        encodings.unpack_codes({**header, "levels": max(powers)}, payload, codes.numel()), codes.flatten()
    )


@pytest.mark.parametrize("bits", [1, 2, 8])
def test_refusals(bits: int) -> None:
    with pytest.raises(OptionError, match=f"for 3 and 4 bits, not {bits}"):
        quantize_powers(torch.ones(2, 2), bits)
