"""Products of sparse factors: the golden product, exact sums, bytes there and back, damaged bytes."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core import factors
from robustq.core.errors import InputFileError
from robustq.core.packed import SCHEMES, Factored

SHAPES = [(3, 5), (5, 3), (4, 4), (1, 6), (6, 2, 3, 3), (2, 6, 3, 3)]


def factored(shape: tuple[int, ...], density: float = 0.4, values: int = 1000, seed: int = 0) -> Factored:
    draws = torch.Generator().manual_seed(seed)

    def sparse(*size: int) -> torch.Tensor:
        numbers = torch.randint(1, values + 1, size, generator=draws) / values
        return (numbers * (torch.rand(size, generator=draws) < density)).half()

    columns, side = torch.Size(shape[1:]).numel(), factors.side(shape)
    return Factored(sparse(shape[0], columns), sparse(side, side), sparse(shape[0], columns), shape)


def test_golden_from_the_left_and_from_the_right() -> None:
    a, c = torch.tensor([[1.0, 2, 3], [4, 5, 6]]), torch.tensor([[0.0, 0, 10], [0, 0, 0]])
    s = torch.tensor([[0.0, 1], [2, 0]])  # row 0 gets row 1, row 1 gets twice row 0
    assert factors.product(a, s, c).tolist() == [[5, 7, 19], [6, 9, 12]]
    assert factors.product(a.T, s.T, c.T).T.tolist() == [[5, 7, 19], [6, 9, 12]]
    assert factors.product(a.T, s, c.T).T.tolist() != [[5, 7, 19], [6, 9, 12]]


@pytest.mark.parametrize("shape", SHAPES)
def test_without_square_and_rest_it_is_the_weight(shape: tuple[int, ...]) -> None:
    weight = torch.randn(shape[0], torch.Size(shape[1:]).numel(), generator=torch.Generator().manual_seed(0))
    none = torch.zeros(factors.side(shape), factors.side(shape))
    assert torch.equal(factors.exact(weight, none, torch.zeros_like(weight)), weight)
    assert torch.equal(factors.product(weight, none, torch.zeros_like(weight)), weight)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(2, 40))
def test_the_order_of_summands_makes_no_difference(seed: int, side: int) -> None:
    draws = torch.Generator().manual_seed(seed)
    square, weight = (torch.randn(side, n, generator=draws).mul(0.1).half() for n in (side, side + 3))
    rest, order = torch.zeros_like(weight), torch.randperm(side, generator=draws)
    plain = factors.exact(weight, square, rest)
    terms = square[:, order, None].double() * weight[order].double()  # (row of S, summand, column)
    one_by_one = torch.cat([weight[:, None].double(), terms], dim=1).cumsum(1)[:, -1]
    assert torch.equal(plain, one_by_one.float())


@settings(max_examples=50, deadline=None)
@given(st.sampled_from(SHAPES), st.floats(0, 1), st.sampled_from([1, 2, 5, 300]), st.integers(0, 1000))
def test_round_trip_is_exact(shape: tuple[int, ...], density: float, values: int, seed: int) -> None:
    tensor = factored(shape, density, values, seed)
    again = SCHEMES["factored"].decode(shape, *tensor.encode())
    for part in ("weight", "square", "rest"):
        assert torch.equal(getattr(again, part), getattr(tensor, part))
        assert getattr(again, part).dtype == torch.float16
    assert torch.equal(again.dense(), tensor.dense())
    assert tensor.dense().shape == shape


def test_codes_take_the_bits_that_they_need() -> None:
    for values, bits in ((1, 1), (2, 1), (3, 2), (4, 2), (16, 4), (17, 5), (1000, 16)):
        tensor = factored((64, 128), density=0.5, values=values)
        header, payload = tensor.encode()
        counts = [int((m != 0).sum()) for m in (tensor.weight, tensor.square, tensor.rest)]
        assert tensor.bits == bits
        if values < 1000:
            assert header["distinct"] == [values] * 3
            assert payload["codes"].numel() == sum(-(-count * bits // 8) for count in counts)
            assert payload["values"].numel() == 3 * values
        assert payload["masks"].numel() == sum(header["bytes"])


def test_a_codebook_is_written_only_where_it_saves_bytes() -> None:
    # Three equal numbers: 6 bytes as they are, 2 and a byte of codes in a codebook; one number: 2 bytes against 3.
    for count, distinct in ((3, 1), (1, 0)):
        weight = torch.zeros(4, 4).half()
        weight[0, :count] = 0.5
        header, payload = Factored(weight, torch.zeros(4, 4).half(), torch.zeros(4, 4).half(), (4, 4)).encode()
        assert header["distinct"] == [distinct, 0, 0]
        assert payload["values"].numel() == 1


def test_large_values_stay_float32() -> None:
    weight = torch.tensor([[1e6, 0.0], [0.0, 2.0]])
    tensor = Factored(weight, torch.zeros(2, 2).half(), torch.zeros(2, 2).half(), (2, 2))
    again = SCHEMES["factored"].decode((2, 2), *tensor.encode())
    assert torch.equal(again.dense(), weight)


def broken(header: dict[str, Any], payload: dict[str, torch.Tensor], what: str) -> None:
    if what == "short list":
        header["bytes"] = header["bytes"][:2]
    elif what == "no list":
        header["encodings"] = "rice"
    elif what == "wide codes":
        payload["codes"][0] = 255
    elif what == "padding":
        payload["codes"][-1] |= 128
    elif what == "zero":
        payload["values"][0] = 0
    elif what == "more values":
        payload["values"] = torch.cat([payload["values"], torch.ones(1).half()])
    elif what == "bytes of codes":
        payload["codes"] = payload["codes"].float()
    elif what == "large book":
        header["distinct"][0] = 257
    elif what == "boolean":
        header["bytes"][0] = True
    elif what == "missing":
        del payload["codes"]
    elif what == "long mask":
        header["bytes"][0] = 10**6


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("short list", "not lists of 3"),
        ("no list", "not lists of 3"),
        ("wide codes", "the codebook has 3 values"),
        ("padding", "unused places of the last byte"),
        ("zero", "values that are kept are 0"),
        ("more values", "1 more of the values are stored"),
        ("bytes of codes", "codes are torch.float32"),
        ("large book", "a codebook of 257 values"),
        ("boolean", "True of the masks are declared"),
        ("missing", "stored as masks, values"),
        ("long mask", "1000000 of the masks are declared"),
    ],
)
def test_damage_is_refused(what: str, said: str) -> None:
    # ten values of three kinds: 20 bits, so that half of the last byte is unused
    weight = torch.tensor([[1.0, 2, 3], [1, 2, 3], [1, 2, 3], [0, 1, 0], [0, 0, 0]]).half()
    tensor = Factored(weight, torch.zeros(3, 3).half(), torch.zeros(5, 3).half(), (5, 3))
    header, payload = copy.deepcopy(tensor.encode())
    assert header["distinct"] == [3, 0, 0]
    assert torch.equal(SCHEMES["factored"].decode((5, 3), header, payload).dense(), tensor.dense())
    broken(header, payload, what)
    with pytest.raises(InputFileError, match=said):
        SCHEMES["factored"].decode((5, 3), header, payload)


def test_a_vector_is_refused() -> None:
    with pytest.raises(InputFileError, match="is no matrix"):
        SCHEMES["factored"].decode((5,), *factored((4, 4)).encode())
