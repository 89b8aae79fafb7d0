import pytest
import torch

from robustq.core.errors import InputFileError
from robustq.core.packed import SCHEMES, Half, Quantized, Sparse, half_float, short_float

CODES = torch.tensor([[1, 0, -1, 1], [0, 1, 1, -1]], dtype=torch.int8)


def decode(scheme, shape, header, **payload):
    return SCHEMES[scheme].decode(shape, header, payload)


def test_scale_per_channel_layer_and_group():
    channel = Quantized(CODES, torch.tensor([[0.5], [2.0]]), 1)
    assert channel.dense().tolist() == [[0.5, 0, -0.5, 0.5], [0, 2, 2, -2]]
    layer = Quantized(CODES, torch.tensor([[3.0]]), 1)
    assert layer.dense().tolist() == [[3, 0, -3, 3], [0, 3, 3, -3]]
    group = Quantized(CODES, torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 1)
    assert group.dense().tolist() == [[1, 0, -2, 2], [0, 3, 4, -4]]


def test_a_last_group_may_be_shorter():
    three = Quantized(torch.ones(1, 5, dtype=torch.int8), torch.tensor([[1.0, 2.0, 3.0]]), 1)
    assert three.dense().tolist() == [[1, 1, 2, 2, 3]]


def test_zeros_count_the_dense_weight():
    assert Quantized(CODES, torch.tensor([[0.0], [1.0]]), 1).zeros == 5
    assert Half(torch.tensor([0.0, 1.0], dtype=torch.float16)).zeros == 1
    assert Sparse(torch.tensor([0.0, 1.0]), torch.tensor([True, True, False])).zeros == 2


@pytest.mark.parametrize(
    "tensor",
    [
        Quantized(CODES, torch.tensor([[0.5], [2.0]], dtype=torch.float16), 1),
        Quantized(CODES.reshape(2, 1, 2, 2), torch.tensor([[0.5, 1], [2, 3]]), 7),
        Quantized(CODES * 2 + 1, torch.tensor([[0.5]]), 3),
        Quantized(torch.tensor([[1, -1]], dtype=torch.int8), torch.tensor([[0.5]]), 1, binary=True),
        Sparse(torch.tensor([1.0, -2.0]), torch.tensor([[True, False], [False, True]])),
        Half(torch.tensor([[1.0, -2.0]], dtype=torch.float16)),
    ],
    ids=lambda tensor: f"{tensor.scheme}-{list(tensor.shape)}",
)
def test_round_trip_is_exact(tensor):
    header, payload = tensor.encode()
    again = SCHEMES[tensor.scheme].decode(tensor.shape, header, payload)
    assert again.shape == tensor.shape
    assert torch.equal(again.dense(), tensor.dense())
    assert again.dense().dtype == torch.float32


HEADER = {"levels": 1, "binary": False, "encoding": "base3"}
BYTES = torch.tensor([194, 2], dtype=torch.uint8)
MASK = torch.tensor([0b101], dtype=torch.uint8)


@pytest.mark.parametrize(
    ("scheme", "shape", "payload", "message"),
    [
        ("quantized", (2, 3), {"codes": BYTES}, "stored as codes, not as codes, scale"),
        ("quantized", (2, 3), {"codes": BYTES, "scale": torch.ones(2)}, "float16 or float32 with 2 axes"),
        ("quantized", (2, 3), {"codes": BYTES, "scale": torch.ones(2, 1).double()}, "scale are float64"),
        ("quantized", (2, 3), {"codes": BYTES, "scale": torch.ones(3, 1)}, r"shape \(3, 1\), not \(1 or 2"),
        ("quantized", (2, 3), {"codes": BYTES, "scale": torch.ones(2, 4)}, r"shape \(2, 4\)"),
        ("quantized", (2, 3), {"codes": BYTES, "scale": torch.ones(2, 0)}, r"shape \(2, 0\)"),
        ("quantized", (2, 3), {"codes": BYTES, "scale": torch.tensor([[1.0], [-2.0]])}, "smallest scale is -2.0"),
        ("sparse", (3,), {"mask": MASK, "values": torch.ones(3)}, "keeps 2 weights, but 3 values"),
        ("sparse", (3,), {"mask": MASK}, "stored as mask"),
        ("sparse", (3,), {"mask": MASK.float(), "values": torch.ones(2)}, "bitmap is torch.float32"),
        ("sparse", (3,), {"mask": MASK, "values": torch.ones(2, dtype=torch.int32)}, "values are int32"),
        ("half", (3,), {"values": torch.ones(2)}, r"values have the shape \(2,\)"),
        ("half", (3,), {}, "stored as nothing"),
        ("circulant", (4, 4), {"vectors": torch.ones(1, 2, 1, 2)}, r"\(1, 2, 1, 2\), which does not fit"),
        ("circulant", (4, 4), {"vectors": torch.ones(1, 2, 2, 0)}, "does not fit"),
        ("circulant", (4,), {"vectors": torch.ones(1, 2, 2, 2)}, "does not fit"),
        ("circulant", (4, 4), {"vectors": torch.ones(4)}, "with 4 axes"),
    ],
)
def test_inconsistent_parts_are_refused(scheme, shape, payload, message):
    with pytest.raises(InputFileError, match=message):
        decode(scheme, shape, HEADER if scheme == "quantized" else {}, **payload)


def test_floats_are_shortened_only_where_they_fit():
    assert short_float(torch.tensor([0.0, 0.5])).dtype == torch.float16
    assert short_float(torch.tensor([1e-6])).dtype == torch.float32  # would lose digits as a subnormal
    assert short_float(torch.tensor([1e5])).dtype == torch.float32
    assert half_float(torch.tensor([1e-6])).dtype == torch.float16
    assert half_float(torch.tensor([1e5])).dtype == torch.float32


def test_a_sparse_weight_takes_the_smaller_mask():
    few = torch.zeros(40, 50, dtype=torch.bool)
    few[::4, ::5] = True
    half = torch.arange(2000).reshape(40, 50) % 2 == 0
    for mask, encoding in ((few, "rice"), (half, "bitmap")):
        tensor = Sparse(torch.arange(1.0, 1 + float(mask.sum())), mask)
        header, payload = tensor.encode()
        assert header == {"encoding": encoding}
        assert payload["mask"].numel() <= 250
        assert torch.equal(Sparse.decode(tensor.shape, header, payload).dense(), tensor.dense())
    with pytest.raises(InputFileError, match="'gaps' is not one of a mask"):
        Sparse.decode((3,), {"encoding": "gaps"}, {"values": torch.ones(2), "mask": MASK})
    with pytest.raises(InputFileError, match="at least 5 bytes, but 1"):
        Sparse.decode((3,), {"encoding": "rice"}, {"values": torch.ones(2), "mask": MASK})
    with pytest.raises(InputFileError, match="row of bytes"):
        Sparse.decode((3,), {"encoding": "rice"}, {"values": torch.ones(2), "mask": torch.zeros(2)})
