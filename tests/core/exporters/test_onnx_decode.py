"""The decoding subgraphs alone: what onnxruntime makes of them is the dense weight, bit by bit."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from robustq.core.exporters.onnx_decode import BASE_OPSET, INT2_OPSET, INT4_OPSET, IR, Decoder, opset
from robustq.core.packed import Circulant, Factored, Half, Packed, Quantized, Sparse

Graph = tuple[onnx.ModelProto, str]


def graph_of(packed: Packed, style: str) -> Graph:
    decoder = Decoder("w")
    kind = decoder.add(packed, style)
    node = helper.make_node("Identity", ["w"], ["out"])
    out = helper.make_tensor_value_info("out", onnx.TensorProto.FLOAT, list(packed.shape))
    graph = helper.make_graph([*decoder.nodes, node], "g", [], [out], decoder.initializers)
    version = opset(packed, style)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=IR[version])
    onnx.checker.check_model(model, full_check=True)
    return model, kind


def decoded(packed: Packed, style: str) -> np.ndarray:
    model, _ = graph_of(packed, style)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {})[0])


@st.composite
def quantized(draw: st.DrawFn) -> Quantized:
    shape = draw(st.sampled_from([(1, 1), (3, 7), (4, 10), (10, 33), (2, 3, 3, 3), (5, 2, 1, 1), (3, 4, 5)]))
    levels, binary = draw(st.sampled_from([(1, False), (1, True), (3, False), (7, False), (127, False)]))
    per_row = int(np.prod(shape[1:]))
    rows = draw(st.sampled_from([1, shape[0]]))
    per_row = per_row if rows == shape[0] else int(np.prod(shape))
    width = draw(st.integers(1, per_row))
    groups = -(-per_row // width)
    draws = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    codes = torch.randint(-levels, levels + 1, shape, generator=draws).to(torch.int8)
    codes = torch.where(codes < 0, -1, 1).to(torch.int8) if binary else codes
    scale = torch.rand(rows, groups, generator=draws) + 0.01
    return Quantized(codes, scale.to(draw(st.sampled_from([torch.float16, torch.float32]))), levels, binary)


@settings(max_examples=60, deadline=None)
@given(quantized(), st.sampled_from(["cast", "base3", "dense"]))
def test_quantized_weights_decode_to_the_same_bits(packed: Quantized, style: str) -> None:
    np.testing.assert_array_equal(decoded(packed, style), packed.dense().numpy())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(4, 6), (5, 7), (1, 3), (8, 8, 3, 3), (6, 5, 1, 2)]), st.integers(1, 4), st.integers(0, 1000))
def test_circulant_weights_decode_to_the_same_bits(shape: tuple[int, ...], block: int, seed: int) -> None:
    p, q = -(-shape[0] // block), -(-shape[1] // block)
    positions = int(np.prod(shape[2:], dtype=int))
    vectors = torch.randn(positions, p, q, block, generator=torch.Generator().manual_seed(seed)).half()
    packed = Circulant(vectors, shape)
    np.testing.assert_array_equal(decoded(packed, "cast"), packed.dense().numpy())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(1, 1), (3, 7), (5, 2, 3, 3)]), st.floats(0, 1), st.integers(0, 1000))
def test_sparse_weights_decode_to_the_same_bits(shape: tuple[int, ...], density: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    mask = torch.rand(shape, generator=draws) < density
    packed = Sparse(torch.randn(int(mask.sum()), generator=draws).half(), mask)
    np.testing.assert_array_equal(decoded(packed, "cast"), packed.dense().numpy())


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([(9, 4), (4, 9), (5, 2, 3, 3)]), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 1000))
def test_factored_weights_decode_to_the_same_bits(shape: tuple[int, ...], density: float, seed: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    columns = int(np.prod(shape[1:]))
    sizes = [(shape[0], columns), (min(shape[0], columns),) * 2, (shape[0], columns)]
    weight, square, rest = (
        torch.randn(size, generator=draws).half() * (torch.rand(size, generator=draws) < density) for size in sizes
    )
    packed = Factored(weight, square, rest, shape)
    np.testing.assert_array_equal(decoded(packed, "cast"), packed.dense().numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(2, 3), (16, 16)])
def test_half_weights_decode_to_the_same_bits(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    packed = Half(torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype))
    np.testing.assert_array_equal(decoded(packed, "cast"), packed.dense().numpy())


def codes_of(model: onnx.ModelProto) -> onnx.TensorProto:
    return next(t for t in model.graph.initializer if t.name == "w::codes")


def test_int2_packs_four_codes_a_byte_lowest_first() -> None:
    packed = Quantized(torch.tensor([[-1, 0, 1, 1, 0]], dtype=torch.int8), torch.ones(1, 1), 1)
    model, kind = graph_of(packed, "cast")
    stored = codes_of(model)
    assert (kind, stored.data_type) == ("int2", onnx.TensorProto.INT2)
    assert stored.raw_data == bytes([0b01_01_00_11, 0])


def test_int4_packs_two_codes_a_byte() -> None:
    packed = Quantized(torch.tensor([[-7, 5, -1]], dtype=torch.int8), torch.ones(1, 1), 7)
    stored = codes_of(graph_of(packed, "cast")[0])
    assert stored.raw_data == bytes([0x59, 0x0F])


def test_base3_packs_five_codes_a_byte() -> None:
    packed = Quantized(torch.tensor([[1, 0, -1, 1, 1, -1]], dtype=torch.int8), torch.ones(1, 1), 1)
    model, kind = graph_of(packed, "base3")
    # (1, 0, -1, 1, 1) + 1 = (2, 1, 0, 2, 2): 2 + 3 + 0 + 54 + 162; then (0) and four places of nothing
    assert kind == "base3"
    assert codes_of(model).raw_data == bytes([221, 0])


@pytest.mark.parametrize(
    ("levels", "style", "expected"),
    [
        (1, "cast", INT2_OPSET),
        (1, "base3", BASE_OPSET),
        (1, "dense", BASE_OPSET),
        (3, "cast", INT4_OPSET),
        (7, "base3", INT4_OPSET),
        (127, "cast", BASE_OPSET),
    ],
)
def test_the_lowest_opset_is_taken(levels: int, style: str, expected: int) -> None:
    packed = Quantized(torch.zeros(2, 2, dtype=torch.int8), torch.ones(2, 1), levels)
    assert opset(packed, style) == expected
