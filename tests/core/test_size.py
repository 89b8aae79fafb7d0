"""Sizes: what counts, by hand."""

import pytest
import torch

from robustq.core import checkpoint as checkpoints
from robustq.core.checkpoint import Checkpoint
from robustq.core.packed import Half, Quantized, Sparse
from robustq.core.size import measure


def test_float_model():
    w = torch.ones(4, 5)
    w[0] = 0
    w[1, 0] = 0
    found = measure(Checkpoint({"a.weight": w, "a.bias": torch.zeros(4)}, {}, {}, {}))
    assert found["bits_per_weight"] == 32
    assert found["sparsity"] == pytest.approx(6 / 20)
    assert found["channel_sparsity"] == pytest.approx(1 / 4)
    assert found["kept"] == []


def test_compressed_model_counts_scales_and_kept_layers_but_sparsity_only_what_was_touched():
    codes = torch.tensor([[1, 0, -1, 7], [0, 0, 0, 0]], dtype=torch.int8)
    packed = {
        "body.weight": Quantized(codes, torch.ones(2, 1, dtype=torch.float16), 7),
        "head.weight": Half(torch.zeros(3, 2, dtype=torch.float16)),
    }
    found = measure(Checkpoint({"head.bias": torch.ones(3)}, packed, {}, {}))
    codes_bytes = sum(
        v.numel() * v.element_size() for n, v in packed["body.weight"].encode()[1].items() if n != "scale"
    )
    assert found["bits_per_weight"] == pytest.approx(8 * (codes_bytes + 2 * 2 + 6 * 2) / 14)
    assert found["sparsity"] == pytest.approx(5 / 8)
    assert found["channel_sparsity"] == pytest.approx(1 / 2)
    assert found["kept"] == ["head.weight"]


def test_a_vanished_scale_makes_zeros():
    codes = torch.ones(2, 4, dtype=torch.int8)
    found = measure(Checkpoint({}, {"w": Quantized(codes, torch.tensor([[0.0], [1.0]]).half(), 1)}, {}, {}))
    assert (found["sparsity"], found["channel_sparsity"]) == (0.5, 0.5)


def test_bytes_are_those_of_the_file(tmp_path):
    mask = torch.tensor([[True, False], [True, True]])
    made = Checkpoint(
        {"b": torch.ones(2)},
        {"w": Sparse(torch.ones(3).half(), mask)},
        {},
        {"data": {"name": "digits", "shape": [1, 8, 8]}},
    )
    size = checkpoints.save(made, tmp_path / "m.safetensors")
    assert measure(made)["bytes"] == size == (tmp_path / "m.safetensors").stat().st_size
    assert measure(checkpoints.load(tmp_path / "m.safetensors"))["bytes"] == size


def test_no_weights_at_all():
    found = measure(Checkpoint({"bias": torch.ones(2)}, {}, {}, {}))
    assert (found["bits_per_weight"], found["sparsity"], found["channel_sparsity"]) == (None, None, None)
